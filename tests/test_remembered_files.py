"""What options name is in the key of the cache by its content: pictures, masks, runs, code of the user, packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cnnviz.io import digests
from cnnviz.maps.remembered import run_key
from cnnviz.settings import OutputSettings, RunSettings, TargetSettings
from cnnviz.tasks.functions import parse_function
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
