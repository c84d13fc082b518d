"""A picture that a target names is its user's: a run neither removes it, nor keeps it, nor looks for it in a share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli import app
from cnnviz.records import files_of
from tests.support import tiny_model

MODEL = ["-m", f"{tiny_model.__file__}:make", "--input-size", "64", "--resize", "64"]
TARGETS = ["-t", "similar:own.png", "-t", "diff:similar:own.png,similar:more.png"]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder, from which the command is called."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "in" / f"{number}.png")
    found = tmp_path / "out"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


def _pictures(folder: Path) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    for name in ("own.png", "more.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / name)
    return {name: (folder / name).read_bytes() for name in ("own.png", "more.png")}


def _run(folder: str, *words: str) -> dict[str, Any]:
    assert app.main(["gradcam", "../in", *MODEL, "-o", folder, "-q", *TARGETS, *words]) == 0
    report: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    return report


def test_a_run_that_replaces_or_continues_another_leaves_them(out: Path) -> None:
    own = _pictures(out)
    assert app.main(["gradcam", "../in", *MODEL, "-o", "../first", "-q", *TARGETS]) == 0
    for file in (out.parent / "first").rglob("*"):
        if file.is_file():
            there = out / file.relative_to(out.parent / "first")
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(file.read_bytes())
    _run(".", "--overwrite")
    assert {name: (out / name).read_bytes() for name in own} == own
    Image.new("RGB", (64, 64), "red").save("../in/0.png")
    _run(".", "--resume")  # what was made of the changed image goes
    assert {name: (out / name).read_bytes() for name in own} == own


def test_shares_are_joined_without_them(out: Path) -> None:
    _pictures(out)
    whole = _run("../whole")
    for number in (1, 2):
        words = ["gradcam", "../in", *MODEL, "-o", f"../share{number}", "-q", *TARGETS, "--shard", f"{number}/2"]
        assert app.main(words) == 0
    assert app.main(["merge", "../share1", "../share2", "-o", "../merged", "-q"]) == 0
    merged = json.loads(Path("../merged/report.json").read_text())
    assert [row["explanations"] for row in merged["images"]] == [row["explanations"] for row in whole["images"]]
    assert not list(Path("../merged").rglob("own*"))


def test_the_cache_brings_back_what_the_run_wrote(out: Path) -> None:
    _pictures(out)
    first = _run("../first", "--cache", "../cache")
    again = _run("../again", "--cache", "../cache")
    assert (first["summary"]["cache"]["images"], again["summary"]["cache"]["images"]) == (0, 4)
    assert first["images"] == again["images"]
    for name in files_of(first["images"]):
        assert Path("../again", name).read_bytes() == Path("../first", name).read_bytes()


def test_files_that_a_record_lists() -> None:
    similar = {"kind": "similar", "file": "own.png"}
    record = {
        "explanations": [
            {"target": similar, "files": {"overlay": "images/a.png"}, "figures": [{"file": "images/f.png"}]},
            {"target": {"kind": "diff", "first": similar, "second": similar}, "files": {"raw": "images/a.npz"}},
        ],
        "thumbnail": "t.jpg",
    }
    assert sorted(files_of(record)) == ["images/a.npz", "images/a.png", "images/f.png", "t.jpg"]
