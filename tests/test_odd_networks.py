"""Networks that break what a tool takes for granted, through the command line: a sentence, or a right result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.cli.app import main
from tests.support import odd_networks

SIZE = ["--input-size", "32", "--resize", "32", "--mean", "0.5", "--std", "0.25"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def run(command: str, inputs: Path, network: str, out: Path, *words: str) -> int:
    return main([command, str(inputs), "-m", f"tests.support.odd_networks:{network}", *SIZE, "-o", str(out), *words])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("network", "message", "hint"),
    [
        ("two_inputs", "takes 2 inputs (x, mask)", "fills in mask"),
        ("exits", "the network's code raised SystemExit: 0", "mend its code"),
        ("exits_itself", "raised SystemExit: 0", ""),
        ("no_classes", "scores of shape [1, 0] for 1 image", "--logits-key KEY"),
        ("no_rows", "scores of shape [0, 4] for 1 image", "--logits-key KEY"),
        ("detached", "No gradient passes", "occlusion or rise"),
    ],
)
def test_a_sentence(
    network: str, message: str, hint: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--layer", "conv") if network == "detached" else ()
    assert run("gradcam", photographs, network, tmp_path / "o", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert hint in error
    assert "internal error" not in error
    assert not (tmp_path / "o" / "report.json").exists()


def test_a_network_without_a_gradient_is_explained_by_occlusion(photographs: Path, tmp_path: Path) -> None:
    assert run("occlusion", photographs, "detached", tmp_path / "o", "--window", "16", "--stride", "16") == 0
    assert report(tmp_path / "o")["model"]["checks"]["gradient_reaches_layer"] is None


@pytest.mark.parametrize("command", ["gradcam", "occlusion"])
def test_images_that_change_each_other_go_one_by_one(
    command: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, photographs, "over_the_batch", tmp_path / "o", "--save", "raw", "-c", "1") == 0
    assert "lets the images of a batch change each other" in capsys.readouterr().err
    found = report(tmp_path / "o")
    assert found["model"]["checks"]["batch_independent"] is False
    network = odd_networks.over_the_batch().eval()
    for record in found["images"]:
        pixels = torch.from_numpy(np.array(Image.open(record["path"]))).permute(2, 0, 1)[None].float()
        logits = network((pixels / 255 - 0.5) / 0.25).detach()[0]
        for said in record["predictions"]:
            assert said["logit"] == pytest.approx(float(logits[said["class_index"]]), abs=1e-4)


def test_a_study_of_it_too(photographs: Path, tmp_path: Path) -> None:
    assert run("activations", photographs, "over_the_batch", tmp_path / "all", "--raw") == 0
    assert run("activations", photographs / "b.png", "over_the_batch", tmp_path / "one", "--raw") == 0
    one = report(tmp_path / "one")["images"][0]
    other = next(row for row in report(tmp_path / "all")["images"] if row["path"].endswith("b.png"))
    a, b = (np.load(tmp_path / name / row["files"]["raw"]) for name, row in (("one", one), ("all", other)))
    assert a.files == b.files
    for name in a.files:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6)


def test_a_random_network_repeats_itself_at_one_seed(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps: dict[str, list[Any]] = {}
    for name, words in (("a", ("-b", "1")), ("b", ("-b", "3")), ("c", ("--seed", "1"))):
        assert run("gradcam", photographs, "is_random", tmp_path / name, "--save", "raw", "-c", "1", *words) == 0
        rows = [row["explanations"][0] for row in report(tmp_path / name)["images"]]
        maps[name] = [np.load(tmp_path / name / row["files"]["raw"])["raw"] for row in rows]
    assert "is random: the same image twice gives different scores" in capsys.readouterr().err
    assert all(np.array_equal(a, b) for a, b in zip(maps["a"], maps["b"], strict=True))
    assert not all(np.array_equal(a, c) for a, c in zip(maps["a"], maps["c"], strict=True))
    assert report(tmp_path / "a")["model"]["checks"]["deterministic"] is False


def test_a_check_that_is_silenced(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("skip-check: [batch_independent]\n")
    for words in (("--skip-check", "batch-independent"), ("--config", str(config))):
        assert run("gradcam", photographs, "over_the_batch", tmp_path / "o", "--overwrite", *words) == 0
        assert "change each other" not in capsys.readouterr().err
        checks = report(tmp_path / "o")["model"]["checks"]
        assert checks["batch_independent"] is None
        assert "batch_independent" in checks["not_run"]
