"""What a study tells at its end: the figures of its report in a few lines, also where no terminal is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.models.graph.layers import LayerRef
from cnnviz.studies.activations.channels import ChannelTally, channel_figures
from cnnviz.studies.activations.study import _told
from tests.support.runs import tiny_options

MODEL = tiny_options()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def told(args: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    assert main([*args, *MODEL, "-o", str(out)]) == 0
    return capsys.readouterr().err, json.loads((out / "report.json").read_text())


def test_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = told(["filters"], tmp_path / "o", capsys)
    [row] = report["layers"]
    dead = len(row["dead"]) or "none"
    assert f"{row['layer']}: {len(row['filters'])} filters, {dead} dead\n" in text


def test_activations(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = told(["activations", str(photographs)], tmp_path / "o", capsys)
    [row] = report["layers"]
    still = [unit["unit"] for unit in row["units"] if unit["min"] == unit["max"]]
    assert (row["dead"], row["silent"]) == (None, still)
    few = ", too few to call any of them dead" if still else ""
    assert f"{row['layer']}: {len(still) or 'none'} of {row['channels']} channels silent over 3 images{few}\n" in text


def test_what_few_images_do_not_move_is_not_called_dead() -> None:
    ref, tally = LayerRef("conv", 2, (1, 1), (1.0, 1.0), False), ChannelTally(2)
    for number in range(20):
        tally.add(channel_figures(np.array([[[0.0]], [[1.0 + number]]], np.float32)), "a")
        if number == 0:
            assert _told(ref, tally).startswith("conv: 2 of 2 channels silent over 1 image, too few")
    assert _told(ref, tally) == "conv: 1 of 2 channels dead over 20 images"


def test_adversarial(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = told(["adversarial", str(photographs)], tmp_path / "o", capsys)
    found = report["summary"]["adversarial"]
    assert f"PGD fooled the network with {found['fooled']} of 3 written pictures (8 bits, read again)\n" in text
    [asked] = [row for row in found["prediction_unchanged"] if row["epsilon"] == 4 / 255]
    where = "at epsilon 4/255, attacked at the network's input, not rounded to 8 bits"
    assert f"share of unchanged predictions {where}: {100 * asked['value']:.1f} % of 3 images" in text


def test_embed(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = told(["embed", str(photographs)], tmp_path / "o", capsys)
    assert f"images: 3, dimensions: {report['summary']['embedding']['dimensions']}" in text


def test_top_patches(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, report = told(["top-patches", str(photographs), "--units", "all"], tmp_path / "o", capsys)
    facts = report["summary"]
    assert f"{facts['layer']}: {facts['units']} of {facts['units_of_layer']} units, {facts['patches']} patches" in text


def test_quiet_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = told(["filters", "-q"], tmp_path / "o", capsys)
    assert text == ""
