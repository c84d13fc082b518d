"""Shares as tasks of Ray: what is asked for, and that killed workers change nothing. Runs where Ray is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.on_ray import explain_share
from tests.support import tiny_model
from tests.support.pictures import photograph
from tests.support.runs import settings
from tests.test_shards import contents

MODEL = ["--input-size", "32", "--resize", "32", "-b", "1", "--device", "cpu"]
# While it is armed, a white image kills the process that explains it; a red and a blue one do so once.
FACTORY = """
import os, signal
from pathlib import Path
from types import SimpleNamespace
from tests.support import tiny_model

HERE = Path(__file__).parent

def look(module, args):
    low, high = args[0].amin((0, 2, 3)), args[0].amax((0, 2, 3))
    red, blue = low[0] > 1 and high[2] < -1, low[2] > 1 and high[0] < -1
    once = HERE / ("red" if red else "blue" if blue else "neither")
    if once.exists() or (low.min() > 2 and (HERE / "armed").exists()):
        once.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)

def make():
    network = tiny_model.make()
    network[0].register_forward_pre_hook(look)
    return network
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--executor", "dask"], "expected ray or ray:N"),
        (["--executor", "ray:0"], "expected ray or ray:N"),
        (["--executor", "ray", "--shard", "1/2"], "exclude each other"),
        (["--executor", "ray", "--limit", "3"], "--executor and --limit 3"),
    ],
)
def test_what_cannot_be_shared(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photograph(0, (40, 40))).save(tmp_path / "a.png")
    assert main(["gradcam", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_ray_its_installation_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    Image.fromarray(photograph(0, (40, 40))).save(tmp_path / "a.png")
    words = ["gradcam", str(tmp_path / "a.png"), "-m", f"{tiny_model.__file__}:make", *MODEL]
    assert main([*words, "-o", str(tmp_path / "out"), "--executor", "ray"]) == 2
    assert "pip install 'cnnviz[ray]'" in capsys.readouterr().err


def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    """Two workers die once each, of images that are well; then one image kills whoever explains it."""
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(6):
        Image.fromarray(photograph(index, (56, 48))).save(photos / f"{index}.png")
    for name, colour in {"red": (255, 0, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}.items():
        Image.fromarray(np.full((48, 56, 3), colour, np.uint8)).save(photos / f"{name}.png")
    (tmp_path / "net.py").write_text(FACTORY)
    words = ["gradcam", str(photos), "-m", f"{tmp_path / 'net.py'}:make", *MODEL, "--save", "overlay,raw", "--no-cache"]
    whole, parts, poisoned = tmp_path / "whole", tmp_path / "parts", tmp_path / "poisoned"

    def explain(out: Path, *more: str) -> tuple[int, str]:
        ran = subprocess.run(
            [sys.executable, "-m", "cnnviz", *words, "-o", str(out), *more], capture_output=True, text=True, check=False
        )
        return ran.returncode, ran.stderr

    assert explain(whole, "-q")[0] == 0
    for name in ("red", "blue"):
        (tmp_path / name).touch()
    code, said = explain(parts, "--executor", "ray:2")
    assert code == 0, said
    assert not (tmp_path / "red").exists()
    assert not (tmp_path / "blue").exists()
    assert contents(parts) == contents(whole)

    (tmp_path / "armed").touch()
    code, said = explain(poisoned, "--executor", "ray:2")
    assert code == 3, said
    records = {Path(each["path"]).stem: each for each in json.loads((poisoned / "report.json").read_text())["images"]}
    assert len(records) == 9
    assert records.pop("white")["error"]["type"] == "killed-worker"
    expected = json.loads((whole / "report.json").read_text())["images"]
    assert list(records.values()) == [each for each in expected if not each["path"].endswith("white.png")]


def test_a_share_stands_where_its_paths_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a cluster that runs already are started in another folder."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(photograph(0, (70, 60))).save(tmp_path / "photos" / "0.png")
    monkeypatch.chdir("/")
    assert explain_share(settings("photos", "out"), str(tmp_path)) is None
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["images"]) == 1
    told = explain_share(settings("photos", "out"), str(tmp_path / "nowhere"))
    assert told is not None
    assert (f"{tmp_path / 'nowhere'} is not there" in told[0], told[2]) == (True, 2)
    whole = settings(tmp_path / "photos", tmp_path / "other")
    assert explain_share(whole, str(tmp_path / "nowhere")) is None


def test_an_image_that_fails_ends_a_share_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(b"no image")
    assert explain_share(settings("photos", "a"), str(tmp_path)) is None
    told = explain_share(settings("photos", "b", output={"fail_fast": True}), str(tmp_path))
    assert told is not None
    assert (told[0].startswith("photos/0.png  not-an-image: "), told[2]) == (True, 3)


def test_a_cluster_that_cannot_be_reached_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379\nand more")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=bool, init=init, shutdown=None))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    Image.fromarray(photograph(0, (40, 40))).save(tmp_path / "a.png")
    words = ["gradcam", str(tmp_path / "a.png"), "-m", f"{tiny_model.__file__}:make", *MODEL]
    assert main([*words, "-o", str(tmp_path / "out"), "--executor", "ray"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the cluster RAY_ADDRESS=10.0.0.1:6379 cannot be reached: Failed to connect" in said
