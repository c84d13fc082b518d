"""What options name is in the key of the cache by its content: pictures, masks, runs, code of the user, packages."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli.app import main
from cnnviz.io import digests
from cnnviz.io.cache import ContentCache
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.maps.remembered import Remembered, run_key
from cnnviz.records import Record
from cnnviz.registry import lookup
from cnnviz.run.circumstances import circumstances
from cnnviz.settings import OutputSettings, RunSettings, TargetSettings, files_named
from cnnviz.tasks.functions import parse_function
from tests.support import tiny_model
from tests.test_remembered import HEADER, SETTINGS


def _key(*specs: str, what: str = "targets") -> str:
    settings = replace(SETTINGS, target=replace(SETTINGS.target, **{what: specs}))  # type: ignore[arg-type]
    return run_key(settings, HEADER, [], None)


@pytest.fixture
def imported() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("cnnviz_target_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("similar:{a}", "targets"),
        ("class:3@mask:{a}#2", "targets"),
        ("diff:class:3@mask:{b},class:4@mask:{a}", "targets"),
        ("diff:class:3@mask:{a},class:4@mask:{b}", "targets"),
        ("diff:similar:{b},similar:{a}", "targets"),
        ("diff:similar:{a},similar:{b}", "targets"),
        ("run:{run}", "classes"),
        ("run:{run}/report.json", "classes"),
    ],
)
def test_files_within_a_target_count_by_content(tmp_path: Path, spec: str, what: str) -> None:
    def key(folder: str, content: str, names: tuple[str, str] = ("a.png", "b.png")) -> str:
        a, b = (tmp_path / folder / name for name in names)
        run = tmp_path / folder / "run"
        run.mkdir(parents=True, exist_ok=True)
        a.write_text(content)
        b.write_text("of b")
        (run / "report.json").write_text("{}")
        (run / "records.jsonl").write_text(content)
        return _key(spec.format(a=a, b=b, run=run), what=what)

    first = key("here", "of a")
    assert key("here", "of another") != first
    assert key("a-folder-elsewhere", "of a") == first  # paths are no part of it
    if "run" not in spec:
        assert key("here", "of a", ("long-name-of-a.png", "b.png")) == first


def test_which_side_a_file_stands_on_counts(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "long-b.png"
    a.write_text("of a")
    b.write_text("of b")
    assert _key(f"diff:similar:{a},similar:{b}") != _key(f"diff:similar:{b},similar:{a}")


@pytest.mark.usefixtures("imported")
def test_functions_in_files_of_one_name_both_count(tmp_path: Path) -> None:
    files = [tmp_path / folder / "score.py" for folder in ("pa", "pb")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(f"def f(output): return output[:, {number}]\n")
    specs = [f"{file}:f" for file in files]
    found = [parse_function(spec, "--target") for spec in specs]
    assert all(found)
    own = {getattr(module, "__file__", None) for name, module in sys.modules.items() if "score" in name}
    assert {str(file) for file in files} <= own
    for file in files:
        before, known = digests.running_code([]), _key(*specs)
        file.write_text(file.read_text() + "# changed\n")
        assert digests.running_code([]) != before
        assert _key(*specs) != known


def test_an_installed_package_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    assert yaml.__name__ in sys.modules
    specs = {"target": "yaml.nodes:Node", "diff": "diff:yaml.nodes:Node,yaml.nodes:ScalarNode"}
    model = replace(SETTINGS, model=replace(SETTINGS.model, model="yaml:load"))

    def keys() -> list[str]:
        return [*map(_key, specs.values()), run_key(model, HEADER, [], None)]

    before, version = keys(), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name.lower() == "pyyaml" else version(name))
    assert not set(before) & set(keys())
    assert digests.running_code(["yaml"])["versions"]["yaml"] == [yaml.__version__, "PyYAML 0.0"]


def test_a_run_that_is_continued_knows_the_run_that_says_the_classes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "records.jsonl").write_text("{}\n")

    def files(out: str) -> dict[str, Any]:
        target = TargetSettings(classes=(f"run:{tmp_path / 'a'}",))
        settings = RunSettings("gradcam", ("in",), target=target, output=OutputSettings(str(tmp_path / out)))
        return settings.option_files(digests.file_sha256)

    assert list(files("out")) == [str(tmp_path / "a" / "records.jsonl")]
    assert not files("b")  # a comparison of a/ and b/, both of which are continued with other images


def _remembered(tmp_path: Path, content: bytes) -> Remembered:
    """A run whose cache has this under whatever key."""
    cache = ContentCache(str(tmp_path / "cache"))
    cache.get = lambda key: content  # type: ignore[method-assign]
    return Remembered(cache, "run", Store(str(tmp_path / "out")), None, lambda ref: None)


ROW = Record("a.png", 8, 8, "a").to_dict("a", None)
REF = ImageRef("a.png", "a", 0)
SOURCE: Any = {"bytes": 1, "mtime_ns": 2, "sha256": "s"}


def _entry(name: str, length: int = 3, row: Any = ROW) -> bytes:
    row = {**row, "explanations": [{"files": {"raw": name}}]}
    return json.dumps({"row": row, "files": [[name, length]]}).encode() + b"\nabc"


WITHOUT = {key: value for key, value in ROW.items() if key != "predictions"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no JSON\n", b"[]\n", b"{}\n", b"[" * 100_000, b'{"row": 1, "files": []}\n',
        b'{"row": {}, "files": []}\n',
        json.dumps({"row": ROW, "files": [["images/a.npz", 0]]}).encode() + b"\n",
        json.dumps({"row": ROW, "files": 3}).encode() + b"\n",
        _entry("images/a.npz", 4), _entry("images/a.npz", -1), _entry("images/a.npz", row=WITHOUT),
        _entry("index.html"), _entry("report.json"), _entry("gallery/app.js"), _entry("images"), _entry("images/"),
        _entry("images/../report.json"), _entry("images/..\\..\\x"), _entry("/images/a.npz"), _entry("../images/a"),
    ],
)  # fmt: skip
def test_an_entry_that_is_none_counts_as_none(tmp_path: Path, content: bytes) -> None:
    found = _remembered(tmp_path, content)
    assert found.recall(REF, SOURCE) is None
    assert (found.images.hits, found.images.misses) == (0, 0)  # it is counted when it was explained
    whole = _remembered(tmp_path, _entry("images/sub/a.npz"))
    recalled = whole.recall(REF, SOURCE)
    assert recalled is not None
    assert recalled().to_dict("a", None)["width"] == 8
    assert (tmp_path / "out" / "images" / "sub" / "a.npz").read_bytes() == b"abc"


def test_an_answer_that_is_none_is_asked_again(tmp_path: Path) -> None:
    found = _remembered(tmp_path, b"{")
    found.recall(REF, SOURCE)
    assert found.answered({}, ["a"], lambda: 7) == 7
    assert (found.answers.hits, found.answers.misses) == (0, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such modes")
def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    ContentCache(str(tmp_path / "new")).put("ab1", b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    before = shared.stat().st_mode
    ContentCache(str(shared)).put("ab1", b"x")
    assert shared.stat().st_mode == before


@pytest.mark.parametrize("command", ["gradcam", "localize"])
def test_labels_of_other_images_count(tmp_path: Path, command: str) -> None:
    data, truth = tmp_path / "data", tmp_path / "truth.json"
    data.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(data / "a.png")
    (tmp_path / "labels.txt").write_text("\n".join("abcde"))
    images = [{"id": number, "file_name": f"{name}.png", "width": 64, "height": 64} for number, name in enumerate("ax")]
    names = [{"id": number, "name": name} for number, name in enumerate("abc")]
    boxes = [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [8, 8, 24, 24]}]

    def run(*more: str) -> dict[str, Any]:
        out = tmp_path / "out"
        words = [command, str(data), "-m", f"{tiny_model.__file__}:make", "--input-size", "64", "--truth", str(truth)]
        words += ["--labels", str(tmp_path / "labels.txt"), "-o", str(out), "-q", "--overwrite", *more]
        assert main(words) == 0
        report: dict[str, Any] = json.loads((out / "report.json").read_text())
        return report

    def write(count: int) -> None:
        truth.write_text(json.dumps({"images": images, "annotations": boxes, "categories": names[:count]}))

    hits, records = [], []
    for count in (1, 1, 2, 3):
        write(count)
        found = run("--cache", str(tmp_path / "cache"), "--class", "b")
        hits.append(found["summary"]["cache"]["images"])
        records.append(found["images"])
        assert found["images"] == run("--no-cache", "--class", "b")["images"]
    assert hits == [0, 1, 0, 0]
    if command == "localize":
        assert records[0] != records[2]  # of b something is known, once that there is such a label


def test_files_within_names_with_options(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    assert files_named(f"some_metric:share=0.5,file={tmp_path}/a.json") == [f"{tmp_path}/a.json"]
    assert files_named("gradcam:smooth=3,share=a.json") == []


def test_folders_that_are_called_as_words_of_an_option_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Least of all that of a run's results, which differs when the run has ended."""
    monkeypatch.chdir(tmp_path)
    settings = RunSettings("gradcam", ("photos",), target=TargetSettings(truth="masks"))
    keys = []
    for folder in ("gradcam", "image", "pred", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("a")
        keys.append(circumstances(settings, lookup.find_method("gradcam"), {}))
    assert keys[0] is not None
    assert keys[1:3] == [keys[0]] * 2
    assert keys[3] != keys[0], "which --truth names"
