"""The photographs that come with the source: known licences, and the bundled network names what they show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cnnviz.cli.app import main

# File name to the label that must appear and the last place at which it may.
EXPECTED = {
    "camera_on_tripod.jpg": ("tripod", 1),
    "cat.jpg": ("tiger cat", 1),
    "espresso.jpg": ("espresso", 1),
    "military_uniform.jpg": ("military uniform", 3),
    "rocket.jpg": ("missile", 1),
    "space_shuttle_model.jpg": ("space shuttle", 1),
}
LARGEST = 3_000_000


@pytest.fixture(scope="module")
def predictions(sample_images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The five best labels of each photograph, by file name, as the command of the README writes them."""
    out = tmp_path_factory.mktemp("samples")
    assert main(["gradcam", str(sample_images), "-o", str(out), "--save", "none"]) == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    return {
        Path(record["path"]).name: [prediction["label"] for prediction in record["predictions"]]
        for record in report["images"]
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_bundled_network_names_what_is_there(name: str, predictions: dict[str, list[str]]) -> None:
    label, last = EXPECTED[name]
    assert label in predictions[name][:last], predictions[name]


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"SOURCES.md"}


def test_every_sample_has_an_expected_label(sample_images: Path) -> None:
    assert _files(sample_images) == set(EXPECTED)


def test_samples_are_small(sample_images: Path) -> None:
    assert sum((sample_images / name).stat().st_size for name in _files(sample_images)) < LARGEST


def test_sources_name_every_file_its_label_and_a_free_licence(sample_images: Path) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", (sample_images / "SOURCES.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(EXPECTED)
    for name, rest in rows:
        _, expected, taken_from, author, licence, changed = (cell.strip() for cell in rest.split("|"))
        assert expected == EXPECTED[name][0]
        assert re.search(r"CC0|public.domain", licence, re.IGNORECASE), name
        assert taken_from
        assert author
        assert changed
