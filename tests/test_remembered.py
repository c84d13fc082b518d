"""What earlier runs found is taken from the cache: the same bytes, and only where nothing differs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.truth import TrueObject
from cnnviz.io import digests
from cnnviz.io.annotations import Annotation, Annotations
from cnnviz.io.cache import ContentCache
from cnnviz.io.coco_masks import Segmentation
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.maps import remembered as module
from cnnviz.maps.remembered import Remembered, run_key
from cnnviz.records import Record, RunHeader
from cnnviz.registry import lookup
from cnnviz.settings import DrawSettings, ModelSpec, RunSettings, RuntimeSettings, TargetSettings
from tests.support.report_schema import problems

SIDE, COUNT = 64, 12
NETWORK = """\
import torch
from torch import nn
from helper_of_the_network import FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        return FACTOR * self.fc(torch.relu(self.conv(x)).mean((2, 3)))

def make():
    torch.manual_seed(0)
    return Net()
"""
CHECKS = """\
checks:
  - {kind: accuracy, min: 0.3}
  - {kind: avoid, region: background, max_energy: 0.1}
  - {kind: counterfactual, replace: background, with: shuffle, max_flips: 0.9, max_drop: 0.9}
  - {kind: stable, under: [flip, jpeg], min_similarity: -1}
  - {kind: sane, max_similarity: 1}
  - {kind: shortcuts}
"""
TIMES = ("seconds", "images_per_second", "seconds_per_map", "cache")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A network that imports a module of its user, images of two classes with boxes, and a policy."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(COUNT):
        label = ("a", "b")[number % 2]
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        rgb = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(tmp_path / "data" / label / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"{label}/{number:02d}.png", "width": SIDE, "height": SIDE})
        boxes.append({"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [8, 8, 24, 24]})
    names = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    (tmp_path / "labels.txt").write_text("a\nb")
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "helper_of_the_network.py").write_text("FACTOR = 8.0\n")
    policy = f"""version: 1
model: {{name: net.py:make, labels: labels.txt, input_size: {SIDE}, resize: {SIDE}, mean: '0,0,0', std: '1,1,1'}}
images: data
labels: folder
truth: truth.json
only: all
"""
    (tmp_path / "policy.yaml").write_text(policy + CHECKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CNNVIZ_CACHE_DIR", str(tmp_path / "cache"))
    yield tmp_path
    for name in [name for name, loaded in sys.modules.items() if str(tmp_path) in str(getattr(loaded, "__file__", ""))]:
        del sys.modules[name]


def _audit(work: Path, out: str = "out", *more: str) -> dict[str, Any]:
    for name in [name for name, loaded in sys.modules.items() if str(work) in str(getattr(loaded, "__file__", ""))]:
        del sys.modules[name]  # as in a process of its own
    main(["audit", str(work / "policy.yaml"), "-o", str(work / out), "-q", "--overwrite", *more])
    report: dict[str, Any] = json.loads((work / out / "report.json").read_text("utf-8"))
    assert problems(report) == []
    return report


def _hits(report: dict[str, Any]) -> tuple[int, int]:
    found = report["summary"]["cache"]
    assert (found["of_images"], found["of_answers"] >= 2) == (COUNT, True)
    return found["images"], found["of_answers"] - found["answers"]


def _without_times(report: dict[str, Any]) -> dict[str, Any]:
    summary = {key: value for key, value in report["summary"].items() if key not in TIMES}
    return {**report, "summary": {**summary, "audit": _audit_of(report)}}


def _audit_of(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report["summary"]["audit"].items() if key != "seconds"}


def test_a_repeat_writes_the_same_bytes(work: Path) -> None:
    first = _audit(work)
    shutil.copytree(work / "out", work / "first")
    again = _audit(work)
    assert _hits(first)[0] == 0
    assert _hits(again) == (COUNT, 0)
    assert _without_times(first) == _without_times(again)
    assert first["summary"]["audit"]["passes"] > 0
    files = {path.relative_to(work / "first") for path in (work / "first").rglob("*") if path.is_file()}
    assert files == {path.relative_to(work / "out") for path in (work / "out").rglob("*") if path.is_file()}
    assert {path.suffix for path in files} >= {".png", ".npz", ".xml", ".sarif", ".jsonl", ".html"}
    for name in sorted(map(str, files)):
        if name not in ("report.json", "index.html", ".cnnviz-lock"):
            assert (work / "out" / name).read_bytes() == (work / "first" / name).read_bytes(), name
    alone = _audit(work, "out", "--no-cache")
    assert "cache" not in alone["summary"]
    assert _audit_of(alone) == _audit_of(first)


def test_it_moves_to_another_place(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    _audit(work)
    there = tmp_path_factory.mktemp("elsewhere") / "work"
    shutil.copytree(work, there)
    shutil.rmtree(there / "out")
    report = _audit(there, "out", "--cache", str(there / "cache"))
    assert _hits(report) == (COUNT, 0)
    assert {Path(record["path"]).parents[2] for record in report["images"]} == {there}


def test_another_limit_of_a_check_needs_nothing_new(work: Path) -> None:
    _audit(work)
    policy = work / "policy.yaml"
    policy.write_text(policy.read_text().replace("max_energy: 0.1", "max_energy: 0.9").replace("min: 0.3", "min: 0.9"))
    assert _hits(_audit(work)) == (COUNT, 0)


@pytest.mark.parametrize("what", ["image", "name", "box", "helper", "network", "layer", "label names", "package"])
def test_what_differs_is_computed(work: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _audit(work)
    more: list[str] = []
    if what == "image":
        Image.fromarray(np.zeros((SIDE, SIDE, 3), dtype=np.uint8)).save(work / "data" / "a" / "00.png")
    elif what == "name":
        (work / "data" / "a" / "00.png").rename(work / "data" / "a" / "98.png")
        (work / "truth.json").write_text((work / "truth.json").read_text().replace("a/00.png", "a/98.png"))
    elif what == "box":
        (work / "truth.json").write_text(
            (work / "truth.json").read_text().replace("[8, 8, 24, 24]", "[8, 8, 25, 24]", 1)
        )
    elif what == "helper":
        (work / "helper_of_the_network.py").write_text("FACTOR = 9.0\n")
    elif what == "network":
        (work / "net.py").write_text(NETWORK.replace("manual_seed(0)", "manual_seed(1)"))
    elif what == "layer":
        more = ["--layer", "conv"]
    elif what == "label names":
        (work / "labels.txt").write_text("b\na")
    else:
        monkeypatch.setattr(module, "package_sha256", lambda: "another")
    found = _audit(work, "out", *more)
    hits, unanswered = _hits(found)
    assert hits == (COUNT - 1 if what in ("image", "name", "box") else 0)
    assert unanswered > 0
    fresh = _audit(work, "fresh", "--no-cache", *more)
    assert _records(found) == _records(fresh)
    if what in ("image", "network", "label names"):
        assert _records(found) != _records(before)


def _records(report: dict[str, Any]) -> Any:
    """Without the time of change of a file."""
    return [{**each, "input": each["input"]["sha256"]} for each in report["images"]]


def test_a_damaged_entry_is_computed_again(work: Path) -> None:
    first = _audit(work)
    entries = [path for path in (work / "cache").rglob("*") if path.is_file()]
    for path in entries[::2]:
        path.write_bytes(path.read_bytes()[:-1])
    again = _audit(work)
    assert _without_times(first) == _without_times(again)
    assert 0 < _hits(again)[0] + again["summary"]["cache"]["answers"] < len(entries)
    assert _hits(_audit(work)) == (COUNT, 0)


def test_images_that_fail_are_tried_again(work: Path) -> None:
    (work / "data" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    first, again = _audit(work), _audit(work)
    assert again["summary"]["failed"] == first["summary"]["failed"] == 1
    assert again["summary"]["cache"]["images"] == COUNT


def test_maps_of_one_method_use_it_where_it_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["gradcam", str(work / "data"), "-m", f"{work / 'net.py'}:make", "--input-size", str(SIDE), "-q"]
    words += ["--overwrite", "-o", str(work / "maps")]
    for expected in (0, COUNT):
        main(words)
        report = json.loads((work / "maps" / "report.json").read_text())
        assert report["summary"]["cache"]["images"] == expected
    monkeypatch.delenv("CNNVIZ_CACHE_DIR")
    main(words)  # a single method has none of itself
    assert "cache" not in json.loads((work / "maps" / "report.json").read_text())["summary"]


# The key ------------------------------------------------------------------------------------------------------------

HEADER = RunHeader(
    cnnviz="0", command="audit", options={},
    model={  # type: ignore[arg-type]
        "name": "m", "weights_sha256": "w", "source_sha256": "s", "labels_sha256": "l", "parameters": 1,
        "num_classes": 2, "task": "classify", "input_size": [3, 8, 8], "layers": ["x"], "preprocess": {"mean": [0]},
        "weights": None,
    },
    environment={  # type: ignore[arg-type]
        "python": "3", "torch": "2", "torchvision": "0", "timm": "1", "device": "cpu", "precision": "fp32",
        "preparation": "packed",
    },
    summary={},
)  # fmt: skip
SETTINGS = RunSettings(command="audit", inputs=("data",))


def _key(settings: RunSettings = SETTINGS, header: RunHeader = HEADER, method: str = "gradcam", **options: Any) -> str:
    spec = lookup.find_method(method)
    return run_key(settings, header, [(spec, {**spec.resolve_params({}).to_dict(), **options})], None)


OTHER: dict[type, Any] = {str: "other", bool: True, int: 7, float: 0.25, tuple: ("other",), type(None): "other"}
KNOWN = {
    "view": "whole", "channel_order": "bgr", "only": "wrong", "activation": "sigmoid", "score": "probability",
    "input_size": (9, 9), "mean": (0.5,), "std": (0.5,), "resize": 9, "num_classes": 9, "scale": "run", "alpha": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, each.name)
        for part, kind in (("model", ModelSpec), ("target", TargetSettings), ("draw", DrawSettings))
        for each in fields(kind)
        if each.name not in module._NOT_OPTIONS
    ],
)
def test_every_option_that_changes_a_number_or_a_pixel_is_in_the_key(part: str, name: str) -> None:
    own = getattr(SETTINGS, part)
    value = getattr(own, name)
    other = KNOWN.get(name, not value if isinstance(value, bool) else OTHER[type(value)])
    assert other != value
    assert _key(replace(SETTINGS, **{part: replace(own, **{name: other})})) != _key()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"precision": "bf16"}, {"tracing": "off"}, {"skip_check": ("output",)}]
)
def test_so_is_how_it_runs(changed: dict[str, Any]) -> None:
    assert _key(replace(SETTINGS, runtime=RuntimeSettings(**changed))) != _key()


def test_so_are_network_versions_device_methods_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {_key()}
    for name in set(HEADER.model) - {"name"}:
        keys.add(_key(header=replace(HEADER, model={**HEADER.model, name: "changed"})))  # type: ignore[arg-type]
    for name in HEADER.environment:
        keys.add(_key(header=replace(HEADER, environment={**HEADER.environment, name: "changed"})))  # type: ignore[arg-type]
    keys.add(_key(method="layercam"))
    keys.add(_key(further=1))
    assert len(keys) == 1 + len(HEADER.model) - 1 + len(HEADER.environment) + 2
    for name in ("package_sha256", "device_name"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: "another")
            keys.add(_key())
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "0.0")
        keys.add(_key())
    assert len(keys) == 1 + len(HEADER.model) - 1 + len(HEADER.environment) + 5
    # What cannot change a result is not.
    free = replace(SETTINGS, inputs=("elsewhere",), runtime=RuntimeSettings(batch_size=3, workers=1))
    assert _key(free) == _key()
    assert _key(header=replace(HEADER, model={**HEADER.model, "name": "/home/me/net.py:make"})) == _key()  # type: ignore[arg-type]


def test_a_method_of_another_package_is_known_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cnnviz_plugin_for_the_cache.py"
    file.write_text("A = 1\n")
    loaded = ModuleType("cnnviz_plugin_for_the_cache")
    loaded.__file__ = str(file)
    monkeypatch.setitem(sys.modules, loaded.__name__, loaded)
    monkeypatch.setattr(digests, "_is_own", lambda path: False)  # as if it were installed
    before = digests.running_code([loaded.__name__])
    assert digests.running_code([]) != before
    file.write_text("A = 2\n")
    assert digests.running_code([loaded.__name__]) != before
    loaded.__version__ = "2"  # type: ignore[attr-defined]
    assert digests.running_code([loaded.__name__]) != before


def test_code_of_this_package_is_not_its_users(tmp_path: Path) -> None:
    assert not digests._is_own(digests.__file__)
    assert not digests._is_own(np.__file__)
    assert not digests._is_own(json.__file__)
    assert digests._is_own(str(tmp_path / "mine.py"))


def test_files_that_options_name_count_by_content(tmp_path: Path) -> None:
    def key(path: Path, text: str, spec: str = "{}") -> str:
        path.write_text(text)
        target = replace(SETTINGS.target, classes=("folder", spec.format(path)))
        return _key(replace(SETTINGS, target=target))

    assert key(tmp_path / "a.csv", "x") == key(tmp_path / "b.csv", "x")
    assert key(tmp_path / "a.csv", "x") != key(tmp_path / "a.csv", "y")
    mask = "class:a@mask:{}"
    assert key(tmp_path / "a.png", "x", mask) == key(tmp_path / "b.png", "x", mask)
    assert key(tmp_path / "a.png", "x", mask) != key(tmp_path / "a.png", "y", mask)
    assert key(tmp_path / "a.png", "x", mask) != key(tmp_path / "a.png", "x", "class:b@mask:{}")


def test_what_is_known_of_an_image_counts(tmp_path: Path) -> None:
    known: dict[str, Any] = {"truth": "one", "label": "a"}
    cache = ContentCache(str(tmp_path / "c"))
    annotations: Any = SimpleNamespace(digest=lambda ref: known["truth"])

    def remembered(key: str = "run") -> Remembered:
        return Remembered(cache, key, Store(str(tmp_path / "out")), annotations, lambda ref: known["label"])

    source: Any = {"bytes": 1, "mtime_ns": 2, "sha256": "s"}
    ref = ImageRef("data/a.png", "a", 0)
    first = remembered()
    assert first.recall(ref, source) is None
    first.keep(ref, Record("data/a.png", 8, 8, "a"))
    later: Any = {**source, "mtime_ns": 3}
    again = remembered().recall(replace(ref, uri="elsewhere/a.png", index=5), later)
    assert again is not None
    row = again().to_dict("a", later)
    assert (row["path"], row["input"], row["label"]) == ("elsewhere/a.png", later, "a")
    for truth, label in ((None, "a"), ("other", "a"), ("one", "b")):
        known.update(truth=truth, label=label)
        assert remembered().recall(ref, source) is None
    known.update(truth="one", label="a")
    assert remembered("another run").recall(ref, source) is None
    assert remembered().recall(ref, {**source, "sha256": "t"}) is None
    for other in (replace(ref, name="b"), replace(ref, label="given")):
        assert remembered().recall(other, source) is None
    assert remembered().recall(ref, source) is not None


def test_annotations_are_known_by_all_that_they_say(tmp_path: Path) -> None:
    square = Segmentation((np.array([[0, 0], [4, 0], [4, 4]], dtype=np.float32),))
    mask = tmp_path / "m.png"
    mask.write_bytes(b"one")
    one = TrueObject("a", Box(1, 2, 3, 4))
    entry = Annotation("a.png", (one,), ("a",), (8, 8), {"a": str(mask)}, (square,))
    moved = Segmentation((square.polygons[0] + 1,))
    others = [
        replace(entry, objects=(replace(one, box=Box(1, 2, 3, 5)),)),
        replace(entry, objects=(replace(one, difficult=True),)),
        replace(entry, objects=(replace(one, label="b"),)),
        replace(entry, labels=("b",)),
        replace(entry, size=(8, 9)),
        replace(entry, masks={"b": str(mask)}),
        replace(entry, regions=(moved,)),
        replace(entry, regions=(Segmentation((), "0aX", (8, 8)),)),
        replace(entry, regions=(Segmentation((), "0aY", (8, 8)),)),
        replace(entry, regions=(Segmentation((), np.array([0, 64]), (8, 8)),)),
        replace(entry, regions=(None,)),
    ]
    ref = ImageRef("in/a.png", "a", 0)
    found = [Annotations([each], ["a"], "t").digest(ref) for each in (entry, *others)]
    assert len(set(found)) == len(found)
    assert Annotations([replace(entry)], ["a"], "t").digest(replace(ref, uri="x/a.png")) == found[0]
    assert Annotations([], ["a"], "t").digest(ref) is None
    mask.write_bytes(b"two")
    assert Annotations([entry], ["a"], "t").digest(ref) not in found


def test_failures_are_not_kept(tmp_path: Path) -> None:
    found = Remembered(ContentCache(str(tmp_path / "c")), "k", Store(str(tmp_path / "o")), None, lambda ref: None)
    ref, source = ImageRef("a.png", "a", 0), {"bytes": 1, "mtime_ns": 2, "sha256": "s"}
    found.recall(ref, source)  # type: ignore[arg-type]
    found.keep(ref, Record("a.png", None, None, None, error={"type": "memory", "message": "none left"}))
    assert found.recall(ref, source) is None  # type: ignore[arg-type]
