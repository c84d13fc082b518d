"""Which compiled kernels a run used stands in its report, and what differs in them is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.engine.prepare import winograd
from cnnviz.methods.perturbation.incremental import differences
from cnnviz.methods.perturbation.incremental.kernels import kernels

TILES = winograd.library() is not None and winograd.pays(torch.empty(1, 64, 32, 32), (1, 1))
KERNELS = kernels(torch.bfloat16) is not None
OCCLUSION = [
    "occlusion",
    "--window",
    "8",
    "--stride",
    "8",
    "--precision",
    "bf16",
    "--skip-check",
    "precision_agreement",
]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcdef":
        rgb = np.random.default_rng(ord(name)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(folder / f"{name}.png")
    return folder


def run(command: list[str], photographs: Path, out: Path, *words: str, model: str = "make_wide") -> dict[str, Any]:
    names = ["-m", f"tests.support.tiny_model:{model}", "--input-size", "64"]
    names += [] if command == ["activations"] else ["--save", "none", "-c", "1"]
    assert main([*command, str(photographs), *names, "-o", str(out), *words]) == 0
    [path] = [*out.glob("report.json")] or sorted(out.glob("*/report.json"))[-1:]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def used(report: dict[str, Any]) -> list[str]:
    found: list[str] = report["environment"]["compiled_kernels"]
    return found


@pytest.mark.skipif(not TILES, reason="convolutions are not compiled here")
def test_compiled_convolutions_stand_in_the_report(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Below the layer, and where the image is explained.
    for command in ("gradcam", "saliency"):
        assert used(run([command], photographs, tmp_path / command)) == ["convolutions"]
    assert used(run(["activations"], photographs, tmp_path / "study")) == ["convolutions"]
    assert used(run(["gradcam"], photographs, tmp_path / "narrow", model="make")) == []
    assert used(run(["gradcam"], photographs, tmp_path / "hooks", "--tracing", "off")) == []
    both = run(["evaluate", "--preset", "small", "--no-cache"], photographs, tmp_path / "both")
    assert used(both) == ["convolutions"]
    monkeypatch.setattr(winograd, "library", lambda: None)
    assert used(run(["gradcam"], photographs, tmp_path / "without")) == []


@pytest.mark.skipif(not KERNELS, reason="kernels are not compiled here")
def test_compiled_kernels_of_occlusion_stand_in_the_report(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clean pass beside the differences is in float32, all else in bf16.
    clean = ["convolutions"] * TILES
    assert used(run(OCCLUSION, photographs, tmp_path / "with")) == [*clean, "occlusion"]
    assert used(run(OCCLUSION, photographs, tmp_path / "whole", "--incremental", "off")) == []
    monkeypatch.setattr(differences, "kernels", lambda dtype: None)
    assert used(run(OCCLUSION, photographs, tmp_path / "without")) == clean


@pytest.mark.skipif(not TILES, reason="convolutions are not compiled here")
def test_what_differs_is_told_and_taken(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares of a machine with a compiler and of one without are joined; so a run is continued."""
    shares = tmp_path / "shares"
    assert used(run(["gradcam"], photographs, shares, "--shard", "1/2")) == ["convolutions"]
    run(["gradcam"], photographs, tmp_path / "whole", "--limit", "1")
    monkeypatch.setattr(winograd, "library", lambda: None)
    assert used(run(["gradcam"], photographs, shares, "--shard", "2/2")) == []
    capsys.readouterr()
    assert main(["merge", str(shares), "-o", str(tmp_path / "m")]) == 0
    assert "last digits may differ from those of one run" in capsys.readouterr().err
    assert used(json.loads((tmp_path / "m" / "report.json").read_text())) == ["convolutions"]
    run(["gradcam"], photographs, tmp_path / "whole", "--resume")
    assert "compiled kernels convolutions then, none now" in capsys.readouterr().err
