"""Standard output belongs to the result, whoever prints; streams may be closed, full, or left by their reader."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.cli.console import Console
from tests.support import tiny_model

NOISY = """
import atexit, ctypes, os, sys
import torch
from torch import nn
print("at import")

class Noisy(nn.Sequential):
    def forward(self, x):
        print("in forward")
        sys.stdout.write("written\\n")
        os.write(1, b"to the descriptor\\n")
        ctypes.CDLL(None).puts(b"from C")
        os.system("echo from a program")
        return super().forward(x)

def make():
    print("in the factory")
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    return Noisy(*layers).eval()
"""


@pytest.fixture
def noisy(tmp_path: Path) -> list[str]:
    (tmp_path / "noisy.py").write_text(NOISY)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return ["gradcam", str(tmp_path / "x.png"), "-m", f"{tmp_path / 'noisy.py'}:make", "--input-size", "32"]


def shell(args: list[str], redirections: str = "") -> subprocess.CompletedProcess[bytes]:
    line = f'exec "$@" {redirections}'
    command = ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "cnnviz", *args]
    return subprocess.run(command, capture_output=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shell, /dev/full, libc by its name")
PRINTED = (b"at import", b"in the factory", b"in forward", b"written", b"to the descriptor", b"from C", b"from a prog")


def test_json_is_all_that_stands_on_standard_output(noisy: list[str], tmp_path: Path) -> None:
    done = shell([*noisy, "--json", "-o", str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["explained"] == 1
    assert done.stdout.count(b"\n") == 1
    assert all(text in done.stderr for text in PRINTED)


def test_a_picture_is_all_that_stands_on_standard_output(noisy: list[str]) -> None:
    done = shell([*noisy, "-o", "-"], "2>&-")
    assert done.returncode == 0
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.size == (50, 40)
    assert done.stdout.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize(
    ("args", "redirections", "code", "error"),
    [
        (["methods"], "2>&-", 0, b""),
        (["methods"], "<&- 2>&-", 0, b""),
        (["methods"], ">&-", 2, b"cnnviz: The result goes to standard output, which is closed.\nLeave out"),
        (["gradcam", "sample_images/cat.jpg", "--json"], ">&-", 2, b"cnnviz: The summary of --json goes to standard o"),
        (["gradcam", "sample_images/cat.jpg", "-o", "-"], ">&-", 2, b"cnnviz: The picture of -o - goes to standard ou"),
        (["methods"], ">/dev/full", 2, b"cnnviz: The result cannot be written to standard output: No space left"),
        (["gradcam", "nowhere"], "2>/dev/full", 2, b""),
        (["gradcam", "nowhere"], ">&- 2>&-", 2, b""),
    ],
)
def test_closed_and_full_streams(args: list[str], redirections: str, code: int, error: bytes) -> None:
    done = shell(args, redirections)
    assert done.returncode == code
    assert done.stderr.startswith(error)
    assert b"Traceback" not in done.stderr
    assert b"internal error" not in done.stderr
    assert done.stderr if error else not done.stderr


def test_a_reader_that_goes_away_is_told_by_the_code_alone() -> None:
    line = 'exec 3>&1; { "$@"; echo $? >&3; } | true'
    command = ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "cnnviz", "methods"]
    done = subprocess.run(command, capture_output=True, timeout=100)
    assert done.stdout.strip() in (b"0", b"141")  # 0: all was written before the reader left
    assert done.stderr == b""


class Result:
    summary = {"inputs": 9, "explained": 2, "failed": 7}  # noqa: RUF012
    report = None
    exit_code = 3
    picture = None
    sentences = ()


@pytest.mark.parametrize("quiet", [False, True])
def test_json_tells_the_reasons_of_failures(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.json, console.quiet = True, quiet
    console.start(9)
    for index in range(9):
        error = {"type": "truncated", "message": "the PNG data ends too early"} if index > 1 else None
        console.advance({"path": f"{index}.png", "error": error})
    assert console.outcome(Result()) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {**Result.summary, "report": None}
    told = [f"cnnviz: note: {i}.png  truncated: the PNG data ends too early" for i in range(2, 7)]
    more = "cnnviz: note: 2 more failed; the report has the reason of each"
    assert err.splitlines() == [*told, more]


def test_the_summary_counts_reasons_and_right_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    for index in range(3):
        Image.fromarray(np.roll(pixels, index)).save(tmp_path / f"{index}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:3000])
    (tmp_path / "empty.png").write_bytes(b"")
    names = ["a", "b", "c", "d", "e"]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    tiny = f"{tiny_model.__file__}:make"
    base = ["-m", tiny, "--input-size", "64", "--labels", str(tmp_path / "labels.txt"), "--json"]
    assert main(["gradcam", str(tmp_path / "0.png"), *base, "-o", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    first = json.loads((tmp_path / "first" / "report.json").read_text())["images"][0]["predictions"][0]["label"]
    other = next(name for name in names if name != first)
    rows = [f"0.png,{first}", f"1.png,{other}", "2.png,", f"cut.png,{first}", f"empty.png,{first}", "gone.png,a"]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    assert main(["gradcam", str(tmp_path / "list.csv"), *base, "-o", str(tmp_path / "out")]) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["failures"] == {"empty": 1, "missing": 1, "truncated": 1}
    assert "tiny_model" in summary["model"]
    images = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    right = sum(row["predictions"][0]["label"] == row["label"] for row in images[:2])
    assert (summary["labelled"], summary["accuracy"]) == (2, right / 2)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["summary"]["accuracy"] == right / 2
