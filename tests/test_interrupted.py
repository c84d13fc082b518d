"""Runs that Ctrl-C ends: what of them is finished is written, and continued they write what one run writes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.io.store import Store
from tests.support import tiny_model
from tests.support.killing import Runs, contents, write_photographs
from tests.support.pictures import photograph

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")

# The network presses Ctrl-C when it is shown a white image, once, and goes on for half a second.
NETS = """
import os, pathlib, signal, time
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x):
        if (x.flatten(1).amin(1) > 2).any() and not os.path.exists("pressed"):
            pathlib.Path("pressed").touch()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return self.head(self.features(x).mean((2, 3)))

def make():
    torch.manual_seed(2)
    return Net()

def make_stopped():
    raise KeyboardInterrupt
"""
COUNT, WHITE = 6, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "photos").mkdir()
    for index in range(COUNT):
        image = np.full((48, 48, 3), 255, np.uint8) if index == WHITE else photograph(index, (48, 48))
        Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def run(folder: Path, out: str, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [command, "photos", "-m", "nets.py:make", "--input-size", "32", "-o", out, "--tracing", "off", *options]
    return ran(folder, *words)


def ran(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # one batch after the other
    return subprocess.run(
        [sys.executable, "-m", "cnnviz", *words],
        cwd=folder, capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip


def interrupted(folder: Path, command: str, *options: str) -> tuple[list[str], str]:
    """The images that were finished, and what was said; that the run continued is what it would have been."""
    ended = run(folder, "parts", command, *options)
    assert (folder / "pressed").exists(), ended.stderr
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    report = json.loads((folder / "parts" / "report.json").read_text())
    assert report["summary"]["interrupted"] is True
    lines = [json.loads(line) for line in (folder / "parts" / "records.jsonl").read_text().splitlines()]
    assert [each["path"] for each in lines] == [each["path"] for each in report["images"]]
    for each in lines:
        for explanation in each["explanations"]:
            assert all((folder / "parts" / name).is_file() for name in explanation["files"].values())
    assert run(folder, "parts", command, *options, "--resume").returncode == 0
    assert run(folder, "whole", command, *options).returncode == 0
    parts, whole = contents(folder / "parts"), contents(folder / "whole")
    assert parts.keys() == whole.keys()
    for name in whole:
        assert parts[name] == whole[name], name
    return [os.path.basename(each["path"]) for each in lines], ended.stderr


def test_a_batch_whose_pass_is_done_is_written(folder: Path) -> None:
    """The white image is in the second batch of two, which the model finishes."""
    finished, said = interrupted(folder, "gradcam", "-b", "2")
    assert finished == ["0.png", "1.png", "2.png", "3.png"]
    assert "explained 4 of 6 images" in said
    assert "cnnviz: interrupted; continue with --resume" in said


@pytest.mark.parametrize(
    "words",
    [
        ["occlusion", "--window", "8", "--stride", "8"],
        ["rise", "--masks", "40"],
        ["localize", "--method", "rise:masks=40"],
    ],
)
def test_of_methods_that_go_image_by_image_each_is_written(words: list[str], folder: Path) -> None:
    """Though all six are one batch."""
    finished, _ = interrupted(folder, *words)
    assert finished == ["0.png", "1.png", "2.png"]


def test_before_the_first_image_there_is_nothing_to_compare(folder: Path) -> None:
    """And the figures that are missing are not laid to the metrics."""
    for index in range(WHITE):
        (folder / "photos" / f"{index}.png").unlink()
    finished, said = interrupted(folder, "evaluate", "--preset", "small", "--method", "gradcam,saliency")
    assert finished == []
    assert "interrupted before the first image was finished: there is nothing to compare" in said.splitlines()
    assert "the metrics have no figure" not in said
    assert "went through 0 of 3 images" in said


def test_the_pass_for_the_scale_of_a_run_is_no_run(folder: Path) -> None:
    ended = run(folder, "out", "gradcam", "--scale", "run", "-b", "2")
    assert ended.returncode == 130
    assert "interrupted" in ended.stderr
    assert not (folder / "out" / "records.jsonl").exists()
    assert (folder / "pressed").exists()


POLICY = """version: 1
model: {name: "nets.py:make", input_size: 32}
images: photos
labels: labels.csv
min_images: 2
checks:
  - {kind: accuracy, min: 0.0}
  - {kind: avoid, region: [0, 0, 1, 0.5], max_energy: 0.9999}
  - {kind: avoid, region: [0, 0.9, 1, 1], max_energy: 0.00001}
  - {kind: stable}
  - {kind: counterfactual, replace: [0, 0, 0.5, 0.5], with: blur}
  - {kind: shortcuts, level: error}
  - {kind: sane}
  - {kind: drift, baseline: baseline/}
  - {kind: calibration, level: warning}
"""


@pytest.fixture
def policy(folder: Path) -> Path:
    """A check of each kind for :func:`folder`; two images are enough."""
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{index}.png,0\n" for index in range(COUNT)))
    (folder / "policy.yaml").write_text(POLICY)
    return folder


def audit(folder: Path, out: str, *options: str) -> tuple[int, dict[str, Any], str]:
    words = [sys.executable, "-m", "cnnviz", "audit", "policy.yaml", "-o", out, "--tracing", "off", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GITHUB_ACTIONS": "true"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    return done.returncode, json.loads((folder / out / "report.json").read_text()), done.stderr


@pytest.mark.parametrize("options", [(), ("--strict",)])
def test_an_audit_that_is_ended_has_decided_nothing(options: tuple[str, ...], policy: Path) -> None:
    """In no file: a part of the images, in order of their folders, may be of the first classes alone."""
    more = ("-b", "2", "--no-cache", "--accept", "so it was", *options)
    code, report, said = audit(policy, "parts", *more)
    found, count = report["summary"]["audit"], report["summary"]["explained"]
    why = f"Ctrl-C ended the run after {count} images: nothing is decided"
    assert (code, 2 <= count < COUNT) == (130, True), said
    assert said.splitlines().count(why) == 1
    assert (found["passed"], found["verdict"], found["strict"]) == (False, "not decided", bool(options))
    rows = found["checks"]
    assert {(row["verdict"], row["passed"], row["reason"]) for row in rows} == {("not decided", None, why)}
    assert {row["kind"] for row in rows} >= {"accuracy", "avoid", "stable", "counterfactual", "shortcuts", "drift"}
    assert found["undecided"] == sum(row["level"] == "error" for row in rows)
    assert (found["passes"], found["remarks"]) == (0, [why, f"not accepted: {why}"])
    assert not (policy / "baseline").exists()
    files = {each.name: each.read_text("utf-8") for each in (policy / "parts").iterdir() if each.is_file()}
    assert json.loads(files["audit.sarif"])["runs"][0]["invocations"][0]["executionSuccessful"] is False
    assert files["junit.xml"].count("<failure" if options else "<skipped") >= found["undecided"]
    outcome = "NOT DECIDED (--strict)" if options else "not decided"
    assert f"## Attention audit: {outcome}" in files["summary.md"]
    assert f"<h2>Audit: {outcome}</h2>" in files["index.html"]
    assert "| passed |" not in files["summary.md"]
    code, again, said = audit(policy, "parts", *more, "--resume")
    shutil.rmtree(policy / "baseline")
    _, whole, _ = audit(policy, "whole", *more)
    for each in (again, whole):
        each["summary"]["audit"].pop("seconds")
    found = again["summary"]["audit"]
    assert found == whole["summary"]["audit"]
    assert (code, found["passed"], found["verdict"]) == (int(bool(options)), False, "not decided"), said
    assert found["checks"][0]["passed"] is True


def test_an_audit_that_ends_at_the_first_failure_has_decided_nothing(policy: Path) -> None:
    (policy / "pressed").touch()
    (policy / "photos" / "4.png").write_bytes(b"none")
    code, report, _ = audit(policy, "out", "-b", "1", "--no-cache", "--fail-fast")
    found = report["summary"]["audit"]
    assert (code, found["passed"], found["verdict"]) == (3, False, "not decided")
    assert {row["reason"] for row in found["checks"]} == {
        "--fail-fast ended the run at the first input that failed: nothing is decided"
    }


MODEL = f"{tiny_model.__file__}:make"
COMMANDS = {
    "gradcam": ["gradcam", "--save", "overlay,heatmap,raw", "-c", "top:2"],
    "occlusion": ["occlusion", "--window", "8", "--stride", "8"],
    "evaluate": ["evaluate", "--preset", "small", "--method", "gradcam,saliency"],
    "localize": ["localize", "--method", "gradcam,layercam"],
    "activations": ["activations", "--raw", "--channel", "1,3"],
}
TIMES = 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("log") / "log.txt")
    yield made
    made.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_anywhere_and_continued_equals_uninterrupted(
    command: str, runs: Runs, photos: Path, tmp_path: Path
) -> None:
    """Nothing of Python's is told, wherever the signal comes: among images, in the report, at the very end."""
    argv = [*COMMANDS[command], str(photos), "-m", MODEL, "--input-size", "32", "--resize", "32", "-b", "2", "-j", "2"]
    code, changes = runs(argv, tmp_path / "whole")
    assert code == 3, runs.log.read_text()  # 5.png
    whole = contents(tmp_path / "whole")
    points = random.Random(command)
    for turn, at in enumerate([*(points.randint(1, changes) for _ in range(TIMES)), changes - 1, changes]):
        out = tmp_path / str(turn)
        code = runs.interrupted(argv, out, at)
        said = runs.log.read_text()
        assert code in {130, 3}, (at, said)
        assert "Traceback" not in said, (at, said)
        assert "Exception ignored" not in said, (at, said)
        code, _ = runs([*argv, "--resume"], out)
        assert code == 3, (at, runs.log.read_text())
        parts: dict[str, Any] = contents(out)
        assert parts.keys() == whole.keys(), at
        for name in whole:
            assert parts[name] == whole[name], (at, name)


def test_one_picture_that_ctrl_c_ended_is_no_picture_and_no_error(folder: Path) -> None:
    for index in set(range(COUNT)) - {WHITE}:
        (folder / "photos" / f"{index}.png").unlink()
    ended = run(folder, "-", "occlusion", "--window", "8", "--stride", "8", "--save", "heatmap")
    assert (folder / "pressed").exists()
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.splitlines()[-1] == "cnnviz: interrupted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("layers", ""),
        ("targets photos/0.png", ""),
        ("gradcam photos/0.png -o - --save overlay", ""),
        ("gradcam photos -o out", " before anything was written"),
        ("top-patches photos -o out", " before anything was written"),
    ],
)
def test_nothing_is_proposed_that_is_not_there(
    words: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing was written nothing can be continued or replaced."""
    monkeypatch.chdir(folder)
    assert main([*words.split(), "-m", "nets.py:make_stopped"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"cnnviz: interrupted{said}"


def test_what_cannot_be_continued_begins_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gallery that was ended as it copied pictures is known for one, and --overwrite leaves nothing of it."""
    monkeypatch.chdir(folder)
    (folder / "pressed").touch()
    for name in ("first", "second"):
        assert run(folder, name, "gradcam").returncode == 0
    written: list[str] = []

    def pressing(store: Store, name: str, *rest: Any) -> Any:
        written.extend([name] * name.startswith("runs/"))
        if len(written) == 7 and name == written[-1]:
            raise KeyboardInterrupt
        return write(store, name, *rest)

    write = Store.write
    monkeypatch.setattr(Store, "write", pressing)
    assert main(["report", "first", "second", "-o", "both"]) == 130
    assert capsys.readouterr().err == "cnnviz: interrupted; this command begins again, with --overwrite\n"
    assert "This gallery was not finished." in (folder / "both" / "index.html").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "second")
    assert main(["report", "first", "-o", "both"]) == 2
    assert "not empty: it holds a gallery" in capsys.readouterr().err
    assert main(["report", "first", "-o", "both", "--overwrite"]) == 0
    assert main(["report", "first", "-o", "fresh"]) == 0
    both, fresh = ({path.relative_to(out) for path in out.rglob("*.*")} for out in (folder / "both", folder / "fresh"))
    assert both == fresh


@pytest.mark.parametrize("at", [2, 5])
def test_a_gallery_that_was_killed_leaves_nothing_behind(
    at: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of its pictures is a figure of the run, the fifth one of an image."""
    monkeypatch.chdir(folder)
    (folder / "pressed").touch()
    assert run(folder, "first", "top-patches", "--layer", "features.1", "--units", "0,1").returncode == 0
    assert run(folder, "second", "gradcam").returncode == 0
    adopted: list[str] = []

    def killed(store: Store, name: str, path: str) -> None:
        adopted.append(name)
        if len(adopted) == at:
            raise SystemExit(9)
        adopt(store, name, path)

    adopt = Store.adopt
    with monkeypatch.context() as patched:
        patched.setattr(Store, "adopt", killed)
        with pytest.raises(SystemExit):
            main(["report", "first", "second", "-o", "out"])
    with (folder / "out" / "gallery" / "pictures.jsonl").open("a") as half:
        half.write('"runs/fir')
    assert main(["report", "second", "-o", "out", "--overwrite"]) == 0, capsys.readouterr().err
    assert main(["report", "second", "-o", "fresh"]) == 0
    out, fresh = ({path.relative_to(top) for path in top.rglob("*.*")} for top in (folder / "out", folder / "fresh"))
    assert out == fresh


ENDING = """
import atexit, os, signal, sys, time
from cnnviz.cli.app import main
sys.argv = ["cnnviz", "methods"]

def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(2)

atexit.register(press)
sys.exit(main())
"""


def test_at_its_very_end_python_tells_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGINT
    assert "gradcam" in ended.stdout
    assert ended.stderr == ""
