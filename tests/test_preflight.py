"""What is said before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnviz.cli.app import main

SAMPLE = str(Path(__file__).parent.parent / "sample_images" / "cat.jpg")


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["gradcam", "nowhere/"], "INPUT 'nowhere/' does not exist", ""),
        (["gradcam", SAMPLE, "-c", "1000"], "--class 1000: the network has 1000 classes, 0 to 999.", "label"),
        (
            ["gradcam", SAMPLE, "--num-classes", "7", "-m", "resnet18", "-c", "7"],
            "--class 7: the network has 7 classes, 0 to 6.",
            "label",
        ),
        (["gradcam", SAMPLE, "--checkpoint", "no.pth"], "--checkpoint no.pth: there is no such file.", "Check"),
        (["gradcam", SAMPLE, "--labels", "no.txt"], "--labels no.txt: there is no such file.", "Check"),
        (["dream", SAMPLE, "--guide", "no/file.jpg"], "--guide no/file.jpg: there is no such file. The folder no", ""),
        (["top-patches", SAMPLE, "--boxes", "no.json"], "--boxes no.json: there is no such file.", "Check"),
    ],
)
def test_what_needs_no_network(capsys: pytest.CaptureFixture[str], args: list[str], message: str, hint: str) -> None:
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cnnviz: {message}")
    assert hint in error


def test_it_is_said_without_torch() -> None:
    code = (
        "import sys; from cnnviz.cli.app import main; "
        f"code = main(['gradcam', {SAMPLE!r}, '-c', '1000']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2, done.stderr
