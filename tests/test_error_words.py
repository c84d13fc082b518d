"""Words that messages share: how many of how many, and which names are near."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnviz.cli.app import main
from cnnviz.errors import counted, nearest_file, of_all, out_of
from cnnviz.models.graph.layer_names import unknown_layer


@pytest.mark.parametrize(
    ("count", "every", "said"),
    [(0, 1, "0 of 1 map are"), (1, 1, "1 of 1 map is"), (1, 2, "1 of 2 maps is"), (2, 2, "2 of 2 maps are")],
)
def test_the_noun_follows_all_and_the_verb_the_part(count: int, every: int, said: str) -> None:
    assert of_all(count, every, "map") == said
    assert out_of(count, every, "map") == said.rsplit(" ", 1)[0]
    assert counted(every, "map") == said.split(" of ")[1].rsplit(" ", 1)[0]


@pytest.mark.parametrize(
    ("typed", "there", "hint"),
    [
        ("nofile.jpg", ["rocket.jpg", "cat.jpg"], ""),  # the end alone is alike
        ("net.safetensors", ["bird.safetensors"], ""),
        ("roket.jpg", ["rocket.jpg", "cat.jpg"], "Did you mean rocket.jpg?"),
        ("Cat.jpeg", ["rocket.jpg", "cat.jpg"], "Did you mean cat.jpg?"),
        ("rocketjpg", ["rocket.jpg"], "Did you mean rocket.jpg?"),
        ("sampel_images", ["sample_images"], "Did you mean sample_images?"),
        ("x.jpg", [], ""),
    ],
)
def test_names_of_files_are_near_without_their_ends(typed: str, there: list[str], hint: str) -> None:
    assert nearest_file(typed, there) == hint


def test_a_file_that_shares_its_end_alone_is_not_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rocket.jpg").touch()
    assert main(["gradcam", str(tmp_path / "nofile.jpg")]) == 2
    assert "rocket" not in capsys.readouterr().err
    assert main(["gradcam", str(tmp_path / "roket.jpg")]) == 2
    assert f"Did you mean {tmp_path}/rocket.jpg?" in capsys.readouterr().err


def test_of_layers_that_are_not_near_the_last_six_are_told() -> None:
    known = [f"blocks.{number}" for number in range(49)]
    error = unknown_layer("nosuch", known, "convolutions")
    assert (error.message, error.hint) == (
        "The network has no layer 'nosuch'.",
        "The last convolutions are blocks.43, blocks.44, blocks.45, blocks.46, blocks.47, blocks.48.",
    )
