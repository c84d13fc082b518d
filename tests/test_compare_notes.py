"""What is told while ``cnnviz compare`` makes its two runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnviz.cli.app import main
from tests.support.pictures import photographs_in
from tests.support.runs import tiny_options


def test_what_was_noted_of_a_is_not_told_again_of_b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photographs_in(tmp_path / "photos", 2)
    words = ["compare", str(photos), *tiny_options(), "--method-b", "guided", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    told = capsys.readouterr().err.splitlines()
    notes = [line for line in told if line.startswith("cnnviz: note: ")]
    assert len(notes) == len(set(notes)) == 3  # of means, of the crop, and of guided backpropagation
    assert sum("centre crop" in note for note in notes) == 1
    assert "cnnviz: 2 of 2 notes hold for B too" in told
    making = [line for line in told if line.startswith("cnnviz: making ")]
    network = "tests.support.tiny_model:make"
    assert making == [f"cnnviz: making A, gradcam of {network}", f"cnnviz: making B, guided of {network}"]
    assert sum(line.startswith("A: gradcam of ") for line in told) == 1
