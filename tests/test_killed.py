"""Runs that are killed at any point and continued write what an uninterrupted run writes, byte for byte."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny_model
from tests.support.killing import KILLED, Runs, contents, write_photographs
from tests.support.training import write_classes

MODEL = f"{tiny_model.__file__}:make"
KILLS, BEGINNING = 5, 12
COMMANDS = {
    "gradcam": ["gradcam", "--save", "overlay,heatmap,raw", "-c", "top:2"],
    "adversarial": ["adversarial", "--attack", "fgsm", "--epsilon", "8/255", "--curve", "0,4"],
    "classmap": ["classmap", "--save", "overlay,raw", "-c", "all"],
    "activations": ["activations", "--raw", "--channel", "1,3"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("log") / "log.txt")
    yield made
    made.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photos"))


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_and_continued_equals_uninterrupted(command: str, runs: Runs, photos: Path, tmp_path: Path) -> None:
    argv = [*COMMANDS[command], str(photos), "-m", MODEL, "--input-size", "32", "--resize", "32", "-b", "1", "-j", "2"]
    code, changes = runs(argv, tmp_path / "whole")
    said = runs.log.read_text()
    assert code == 3, said  # 5.png
    assert changes > 20
    whole, out = contents(tmp_path / "whole"), tmp_path / "parts"
    points, killed, left = random.Random(command), 0, changes
    while killed < KILLS:
        kill = points.randint(1, left)
        code, _ = runs([*argv, "--resume"], out, kill)
        assert code in {-KILLED, 3}, runs.log.read_text()
        killed += code == -KILLED
        # Less and less is left to do, after what every run does at its beginning.
        left = max(left - max(kill - BEGINNING, 0), 2 * BEGINNING)
        if code == 3 and killed < KILLS:  # it came to its end before: from the beginning again
            assert contents(out) == whole
            shutil.rmtree(out)
            left = changes
    code, _ = runs([*argv, "--resume"], out)
    assert code == 3, runs.log.read_text()
    parts = contents(out)
    assert parts.keys() == whole.keys()
    for name in whole:
        assert parts[name] == whole[name], name


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
def test_shares_that_were_killed_are_joined_to_the_whole(runs: Runs, photos: Path, tmp_path: Path) -> None:
    """Each share is killed, and so is what joins them."""
    argv = [
        *COMMANDS["gradcam"],
        str(photos),
        "-m",
        MODEL,
        "--input-size",
        "32",
        "--resize",
        "32",
        "-b",
        "1",
        "-j",
        "1",
    ]
    assert runs(argv, tmp_path / "whole")[0] == 3, runs.log.read_text()
    out, points, killed = tmp_path / "parts", random.Random(1), 0
    for share in ("1/2", "2/2"):
        words = [*argv, "--shard", share, "--resume"]
        for kill in (points.randint(BEGINNING, 2 * BEGINNING), None):
            code, _ = runs(words, out, kill)
            assert code in {-KILLED, 0, 3}, runs.log.read_text()
            killed += code == -KILLED
    assert killed == 2
    merge = ["merge", *map(str, sorted(out.iterdir())), "--overwrite"]
    for kill in (20, None):
        code, _ = runs(merge, tmp_path / "merged", kill)
        assert code == (3 if kill is None else -KILLED), runs.log.read_text()
    whole, merged = contents(tmp_path / "whole"), contents(tmp_path / "merged")
    assert merged.keys() == whole.keys()
    for name in whole:
        assert merged[name] == whole[name], name


def _figures(out: Path) -> dict[str, Any]:
    """What a training found, without its times, and the bytes of its other files."""
    found = contents(out)
    found["metrics.jsonl"] = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
    training = found["report.json"]["summary"]["training"]
    for epoch in (*found["metrics.jsonl"], training["best"]):
        epoch.pop("seconds")
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["tensors"] == {}  # it is over
    return {**found, "state.pt": state["data"]}


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
def test_a_training_that_is_killed_and_continued(runs: Runs, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in", 3)
    options = ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--cut", "stage2", "--units", "8", "--epochs", "4"]
    argv = ["train", str(folder), *options, "--input-size", "32", "-b", "4", "-j", "1", "-d", "cpu"]
    code, _ = runs(argv, tmp_path / "whole")
    assert code == 0, runs.log.read_text()
    whole, out, points = _figures(tmp_path / "whole"), tmp_path / "parts", random.Random(0)
    killed = 0
    for kill in (points.randint(1, BEGINNING), *(points.randint(BEGINNING, 2 * BEGINNING) for _ in range(KILLS))):
        code, _ = runs([*argv, "--resume"], out, kill)
        assert code in {-KILLED, 0}, runs.log.read_text()
        killed += code == -KILLED
    assert killed > KILLS // 2
    code, _ = runs([*argv, "--resume"], out)
    assert code == 0, runs.log.read_text()
    parts = _figures(out)
    assert parts.keys() == whole.keys()
    for name in whole:
        assert parts[name] == whole[name], name
