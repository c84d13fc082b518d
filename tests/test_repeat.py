"""A run that was made before is written again without its network: the same bytes, and only where nothing differs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli.app import main
from cnnviz.io.cache import ContentCache
from cnnviz.models.loading import zoo
from cnnviz.models.loading.load import load
from cnnviz.run import circumstances
from cnnviz.run.kept_records import packed, unpacked
from cnnviz.run.repeat import _KEYS, _is_of_run
from cnnviz.settings import ModelSpec
from tests.support import tiny_model
from tests.support.processes import modules_after
from tests.support.report_schema import problems

SIDE, COUNT = 48, 6
NETWORK = f"{{name: timm/test_efficientnet, weights: none, input_size: {SIDE}, resize: {SIDE}, num_classes: 2}}"
POLICY = """\
version: 1
model: {model}
images: data
labels: folder
groups: groups.csv
truth: truth.json
only: all
min_images: 2
checks:
  - {{kind: accuracy, min: 0.01, scope: group}}
  - {{kind: avoid, region: background, max_energy: 0.5}}
  - {{kind: counterfactual, replace: background, with: shuffle, max_flips: 0.9}}
"""
TIMES = ("seconds", "images_per_second", "cache")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of two classes with boxes, a policy, and a cache; the modules of these tests are nobody's network."""
    rng = np.random.default_rng(0)
    images, boxes, groups = [], [], ["path,group"]
    for number in range(COUNT):
        label = ("a", "b")[number % 2]
        name = f"{label}/{number:02d}.png"
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(tmp_path / "data" / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 24, 24]})
        groups.append(f"{number:02d}.png,{number % 3}")
    (tmp_path / "data" / "a" / "notes.txt").write_text("no image")
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "groups.csv").write_text("\n".join(groups))
    (tmp_path / "labels.txt").write_text("a\nb")
    (tmp_path / "policy.yaml").write_text(POLICY.format(model=NETWORK.replace("}", ", labels: labels.txt}")))
    monkeypatch.setenv("CNNVIZ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(pipeline, "own_code", list)
    return tmp_path


def _run(work: Path, *more: str, command: str = "audit", code: int | None = None) -> dict[str, Any]:
    words = [str(work / "policy.yaml")] if command == "audit" else [str(work / "data"), "-m", "timm/test_efficientnet"]
    if command != "audit":
        words += f"--weights none --input-size {SIDE} --num-classes 2 --labels {work / 'labels.txt'}".split()
    done = main([command, *words, "-o", str(work / "out"), "--overwrite", *more])
    assert done in ((0, 1) if code is None else (code,))
    report: dict[str, Any] = json.loads((work / "out" / "report.json").read_text("utf-8"))
    assert problems(report) == []
    return report


def _taken(report: dict[str, Any]) -> bool:
    found: bool = report["summary"]["cache"]["run"]
    return found


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {**report, "summary": {key: value for key, value in report["summary"].items() if key not in TIMES}}


def _files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in (".cnnviz-lock", "report.json")}


def _page(data: bytes) -> str:
    return re.sub(r"<dt>(time|images per second)</dt><dd>[^<]*</dd>", r"\1", data.decode())


def _said(text: str) -> list[str]:
    """Lines without times, and without what says where things came from."""
    lines = [line for line in text.splitlines() if not line.startswith(("from the cache", "time: "))]
    return [re.sub(r" in [\d.]+ s.*; open", "; open", line) for line in lines]


def _same(work: Path, *more: str, command: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The report of a repeat that was taken from the cache and wrote what the run itself wrote."""
    first = _run(work, *more, command=command)
    told = capfd.readouterr()
    shutil.rmtree(work / "first", ignore_errors=True)
    shutil.copytree(work / "out", work / "first")
    again = _run(work, *more, command=command)
    retold = capfd.readouterr()
    assert (_taken(first), _taken(again)) == (False, True)
    assert _without_times(first) == _without_times(again)
    before, after = _files(work / "first"), _files(work / "out")
    pages = [_page(files.pop("index.html")) for files in (before, after)]
    assert before == after
    assert pages[0] == pages[1]
    assert _said(told.err) == _said(retold.err)
    assert "the whole run, without its network" in retold.err
    found = again["summary"]["cache"]
    assert (found["images"], found["answers"]) == (found["of_images"], found["of_answers"])
    return again


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("audit", ()),
        ("localize", ("--truth", "{work}/truth.json", "--method", "gradcam,layercam", "--save", "boxes,raw")),
        ("evaluate", ("--method", "gradcam", "--metric", "deletion:steps=2")),
        ("gradcam", ("--class", "folder", "--only", "correct", "--save", "overlay,panel")),
    ],
)
def test_a_repeat_writes_the_same_bytes(
    work: Path, command: str, more: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    report = _same(work, *(word.format(work=work) for word in more), command=command, capfd=capfd)
    assert report["summary"]["passed_over"] == 1
    if command == "audit":
        assert {path.name for path in (work / "out").iterdir()} >= {"junit.xml", "audit.sarif", "summary.md"}
    if command == "gradcam":
        assert 0 < report["summary"]["skipped"] < COUNT


def test_no_network_is_loaded_and_torch_is_not_imported(work: Path) -> None:
    words = ["audit", str(work / "policy.yaml"), "-o", str(work / "out"), "-q", "--overwrite"]
    runs = []
    for _ in range(2):
        code, modules = modules_after(*words)
        assert code == 0
        runs.append({"torch", "timm", "torchvision", "safetensors"} & set(modules))
    assert "torch" in runs[0]
    assert runs[1] == set()
    assert _taken(json.loads((work / "out" / "report.json").read_text()))


def _image(work: Path) -> None:
    path = work / "data" / "b" / "03.png"
    rgb = np.asarray(Image.open(path)).copy()
    rgb[0, 0, 0] ^= 1
    Image.fromarray(rgb).save(path)


def _edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(work: Path) -> None:
        before = (work / name).read_text()
        assert old in before
        (work / name).write_text(before.replace(old, new, 1))

    return edit


CHANGES: dict[str, Callable[[Path], None]] = {
    "a byte of an image": _image,
    "another image": lambda work: shutil.copy(work / "data" / "a" / "00.png", work / "data" / "b" / "99.png") and None,
    "an image less": lambda work: (work / "data" / "a" / "04.png").unlink(),
    "the name of an image": lambda work: (
        (work / "data" / "a" / "04.png").rename(work / "data" / "a" / "97.png") and None
    ),
    "a file that is no image": _edited("data/a/notes.txt", "no", "No"),
    "the policy": _edited("policy.yaml", "max_flips: 0.9", "max_flips: 0.8"),
    "the truth": _edited("truth.json", "[8, 8, 24, 24]", "[8, 8, 24, 25]"),
    "the groups": _edited("groups.csv", "03.png,0", "03.png,1"),
    "the labels": _edited("labels.txt", "a\nb", "b\na"),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_what_differs_is_run(work: Path, what: str) -> None:
    _run(work)
    CHANGES[what](work)
    found = _run(work)
    assert not _taken(found)
    shutil.copytree(work / "out", work / "kept")
    alone = _run(work, "--no-cache")
    assert "cache" not in alone["summary"]
    assert found["images"] == alone["images"]
    assert found["summary"]["audit"]["checks"] == alone["summary"]["audit"]["checks"]
    assert _taken(_run(work))


@pytest.mark.parametrize("what", ["code", "packages", "machine", "variable", "folder", "option"])
def test_so_is_what_runs_elsewhere_or_otherwise(work: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(work)
    more: list[str] = []
    if what == "code":
        whole = circumstances.folder_sha256
        own = str(Path(circumstances.__file__).parents[1])
        monkeypatch.setattr(circumstances, "folder_sha256", lambda path, most: path == own or whole(path, most))
    elif what == "packages":
        monkeypatch.setattr(circumstances, "installed_packages", lambda: ["0 torch-0.0.dist-info"])
    elif what == "machine":
        monkeypatch.setattr(circumstances, "_machine", lambda: ["another"])
    elif what == "variable":
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    elif what == "folder":
        monkeypatch.chdir(work)
    else:
        more = ["--seed", "3"]
    assert not _taken(_run(work, *more))
    assert _taken(_run(work, *more))


def test_the_time_of_an_image_may_be_another(work: Path) -> None:
    _run(work)
    path = work / "data" / "a" / "00.png"
    os.utime(path, (1000, 1000))
    report = _run(work)
    assert _taken(report)
    assert report["images"][0]["path"] == str(path)
    assert report["images"][0]["input"]["mtime_ns"] == 1000 * 10**9


def test_a_weights_file_counts_by_its_bytes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = work / "weights.bin"
    file.write_bytes(b"weights")
    os.utime(file, (1000, 1000))
    whole = zoo.find

    def find(name: str, weights: str, channels: int) -> Any:
        recipe = whole(name, weights, channels)
        object.__setattr__(recipe, "weights", "own")
        object.__setattr__(recipe, "pretrained", lambda: recipe.build(2, frozenset()))
        object.__setattr__(recipe, "labels", ())
        object.__setattr__(recipe, "files", lambda: (file,))
        return recipe

    monkeypatch.setattr(zoo, "find", find)
    assert [_taken(_run(work)) for _ in range(2)] == [False, True]
    file.write_bytes(b"Weights")
    os.utime(file, (1000, 1000))
    # The network here has the same random weights, so that only this file says that it is another.
    assert [_taken(_run(work)) for _ in range(2)] == [False, True]
    file.write_bytes(b"weights")
    assert not _taken(_run(work))


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("of", [b"run_folders", b"images/a/00.png"])
def test_what_is_damaged_or_gone_is_computed(work: Path, damage: str, of: bytes) -> None:
    first = _run(work)
    path = next(path for path in (work / "cache").rglob("*") if path.is_file() and of in path.read_bytes())
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    again = _run(work)
    assert not _taken(again)
    assert first["images"] == again["images"]
    assert _taken(_run(work))


def test_files_that_change_while_it_runs_are_not_kept(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, whole = work / "truth.json", pipeline.run

    def slow(*given: Any) -> Any:
        result = whole(*given)
        truth.write_text(truth.read_text() + " ")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", slow)
        _run(work)
    assert not _taken(_run(work))
    assert _taken(_run(work))


def test_it_is_told_why_a_network_is_loaded_for_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _run(work, "--limit", "9", command="gradcam")
    assert "all the same" not in capfd.readouterr().err
    assert _run(work, "--limit", "2", command="gradcam")["summary"]["cache"]["of_images"] == 2
    assert "the network was loaded all the same: --limit may leave images out" in capfd.readouterr().err
    monkeypatch.setattr(pipeline, "own_code", lambda: ["a/mine.py", "b.py"])
    _run(work, command="gradcam")
    said = "the network was loaded all the same: a/mine.py and 1 more are code of no installed package"
    assert said in capfd.readouterr().err
    monkeypatch.setattr(pipeline, "own_code", list)
    assert not _taken(_run(work, command="gradcam"))
    assert _taken(_run(work, command="gradcam"))
    assert "all the same" not in capfd.readouterr().err


def test_what_cannot_be_known_is_run(work: Path) -> None:
    (work / "labels.txt").write_text("\n".join("abcde"))
    factory = POLICY.format(model=f"{{name: '{tiny_model.__file__}:make', input_size: 64, labels: labels.txt}}")
    (work / "policy.yaml").write_text(factory)
    assert [_taken(_run(work)) for _ in range(2)] == [False, False]


def test_runs_with_failures_and_those_that_accept_are_not_kept(work: Path) -> None:
    for _ in range(2):
        assert not _taken(_run(work, "--accept", "first"))
    broken = work / "data" / "a" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for _ in range(2):
        report = _run(work, code=3)
        assert report["summary"]["failed"] == 1
        assert not _taken(report)


def test_resume_and_no_cache_are_respected(work: Path) -> None:
    _run(work)
    entries = len([path for path in (work / "cache").rglob("*") if path.is_file()])
    shutil.rmtree(work / "cache")
    for _ in range(2):
        assert "cache" not in _run(work, "--no-cache")["summary"]
    assert not (work / "cache").exists()
    _run(work)
    assert len([path for path in (work / "cache").rglob("*") if path.is_file()]) == entries


def test_a_baseline_and_its_day_count(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "policy.yaml").write_text((work / "policy.yaml").read_text() + "  - {kind: drift}\n")
    assert [_taken(_run(work)) for _ in range(2)] == [False, True]
    _run(work, "--accept", "first", "--until", "2999-01-01")
    assert [_taken(_run(work)) for _ in range(2)] == [False, True]
    facts = next((work / "baseline").glob("*.json"))
    facts.write_text(facts.read_text().replace("2999-01-01", "2000-01-01"))
    later = _run(work)
    assert not _taken(later)
    [drift] = [each for each in later["summary"]["audit"]["checks"] if each["kind"] == "drift"]
    assert "until 2000-01-01" in drift["reason"]


def test_of_a_repository_the_present_revision_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "models--a--b" / "snapshots" / "1234" / "model.safetensors"
    monkeypatch.setattr(zoo, "hub_cached", lambda repository, name: str(file))
    assert zoo._timm_files({"hf_hub_id": "a/b"}) is None
    present = tmp_path / "models--a--b" / "refs" / "main"
    present.parent.mkdir(parents=True)
    present.write_text("1234")
    assert zoo._timm_files({"hf_hub_id": "a/b"}) == (str(file), present)
    monkeypatch.setattr(zoo, "hub_cached", lambda repository, name: None)
    assert zoo._timm_files({"hf_hub_id": "a/b"}) is None
    assert zoo._timm_files({"url": "https://x/w.pth"}) == (zoo.hub_file("https://x/w.pth"),)


def test_networks_say_what_they_were_read_from(tmp_path: Path) -> None:
    bundled = load(ModelSpec()).files
    assert bundled is not None
    assert [Path(path).suffix for path in bundled] == [".pth"]
    assert load(ModelSpec("squeezenet1_1", weights="none")).files == ()
    state = tmp_path / "own.pt"
    torch.save(load(ModelSpec("squeezenet1_1", weights="none")).module.state_dict(), state)
    assert load(ModelSpec("squeezenet1_1", checkpoint=str(state))).files == (str(state),)
    assert load(ModelSpec(f"{tiny_model.__file__}:make")).files is None


HEAD = {**dict.fromkeys(_KEYS), "exit_code": 0}


@pytest.mark.parametrize(
    "name", ["report.json", "records.jsonl", "index.html", "gallery/gallery.js", "images/a.png", ".cnnviz-lock"]
)
def test_an_entry_with_files_of_the_run_itself_is_none(name: str) -> None:
    assert _is_of_run(HEAD, {"junit.xml": b""})
    assert not _is_of_run(HEAD, {"junit.xml": b"", name: b""})
    assert not _is_of_run({key: value for key, value in HEAD.items() if key != "notes"}, {})
    assert not _is_of_run({**HEAD, "exit_code": 2}, {})


def test_entries_are_taken_apart_as_they_were_packed() -> None:
    files = [("a", b"\n\n"), ("b/c", b""), ("d", bytes(range(256)))]
    found = unpacked(packed({"x": [1, None]}, files))
    assert found is not None
    assert (found[0]["x"], found[1]) == ([1, None], dict(files))
    assert unpacked(packed({}, files)[:-1]) is None


def test_an_entry_that_is_none_is_run(work: Path) -> None:
    _run(work)
    cache = ContentCache(str(work / "cache"))
    [path] = [path for path in (work / "cache").rglob("*") if path.is_file() and b"run_folders" in path.read_bytes()]
    cache.put(path.name, b"{}\n")
    assert not _taken(_run(work))
    assert _taken(_run(work))
