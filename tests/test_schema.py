"""The JSON Schema of report.json: current, and what every command's report follows."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import cnnviz
from cnnviz.cli.app import main
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec
from tests.support.report_schema import problems

ROOT = Path(__file__).parent.parent
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "schema.py"))
TINY = ["-m", "tests.support.tiny_model:make", "--input-size", "64", "-j", "1", "-q"]
STUDIES: dict[str, list[str]] = {
    "activations": [],
    "adversarial": ["--steps", "2", "--curve", "0,1,8", "--explain", "gradcam"],
    "classmap": [],
    "concepts": ["--of", "0", "--images", "all", "--components", "2", "--designs", "4"],
    "dream": ["--steps", "2", "--octaves", "2"],
    "embed": ["--perplexity", "2"],
    "factors": ["--components", "2"],
    "invert": ["--steps", "2", "--starts", "2"],
    "synthesize": ["--steps", "2"],
    "tcav": ["-c", "0", "--concept", "sample_images", "--random", "docs/images/studies", "--partitions", "2"],
    "top-patches": ["--units", "0,3"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with an image each, named as classes of the tiny model, and a file that is broken."""
    root = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    for name in ("class 0", "class 1"):
        (root / name).mkdir()
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(root / name / "a.png")
    (root / "class 0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def flags(spec: MethodSpec) -> Iterator[str]:
    """As few passes as will do."""
    for name, value in spec.dry_run_params.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield from (f"--{name.replace('_', '-')}", text)


def test_the_schema_is_current() -> None:
    assert SCRIPT["FILE"].read_text(encoding="utf-8") == SCRIPT["schema_text"](), "run: python docs/schema.py"


def test_it_is_a_schema() -> None:
    schema = SCRIPT["report_schema"]()
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "urn:cnnviz.report:1"


@pytest.mark.parametrize(
    "spec",
    [spec for spec in lookup.BUILT_IN if "boxes" not in spec.needs],
    ids=lambda spec: spec.name,
)
def test_maps(spec: MethodSpec, folder: Path, tmp_path: Path) -> None:
    variants = lookup.commands()[spec.command]
    words = ["--variant", spec.name] if len(variants) > 1 else []
    if "attention" in spec.needs:
        pytest.importorskip("timm")
    network = [TINY[0], "tests.support.transformers:make", *TINY[2:]] if "attention" in spec.needs else TINY
    assert main([spec.command, str(folder), *words, *flags(spec), *network, "-o", str(tmp_path / "o")]) == 3
    report = report_of(tmp_path / "o")
    assert report["summary"]["explained"] == 2
    assert problems(report) == []


@pytest.mark.parametrize("spec", lookup.STUDIES, ids=lambda spec: spec.name)
def test_studies(spec: MethodSpec, folder: Path, tmp_path: Path) -> None:
    words = [*TINY[:4], "-q"] if spec.name == "filters" else [str(folder), *STUDIES[spec.name], *TINY]
    assert main([spec.command, *words, "-o", str(tmp_path / "o")]) == (0 if spec.name == "filters" else 3)
    report = report_of(tmp_path / "o")
    assert report["summary"]["study"] == spec.name
    assert problems(report) == []


def test_images_from_noise(tmp_path: Path) -> None:
    assert main(["synthesize", "-c", "1", "--images", "2", "--steps", "2", *TINY, "-o", str(tmp_path / "o")]) == 0
    report = report_of(tmp_path / "o")
    assert len(report["synthesized"]) == 2
    assert problems(report) == []


def change(report: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a report with another value at a path such as ``images/0/view``; None takes the key away."""
    changed: dict[str, Any] = json.loads(json.dumps(report))
    at: Any = changed
    *steps, last = (int(step) if step.isdecimal() else step for step in path.split("/"))
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return changed


WRONG: dict[str, Any] = {
    "schema": "cnnviz.report/2",
    "undocumented": 1,
    "summary/undocumented": 1,
    "summary/accuracy": 1.5,
    "summary/explained": "2",
    "summary/class_specific": None,
    "model/weights_sha256": "0123",
    "model/checks/undocumented": True,
    "environment/gpu": "none",
    "images/0/view": "centre",
    "images/0/undocumented": 1,
    "images/0/input/sha256": None,
    "images/0/predictions/0/probability": "0.5",
    "images/0/explanations/0/target/class_index": -1,
    "images/0/explanations/0/target/extra": 1,
    "images/0/explanations/0/scores/peak": [1, 2, 3],
    "images/0/explanations/0/scores/box_xywh": None,
    "images/0/explanations/0/scores/undocumented": 1.0,
    "images/0/explanations/0/undocumented": 1,
    "images/1/error/message": None,
    "images/1/view": "crop",
}


@pytest.fixture(scope="module")
def maps(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report of maps: an image, a broken one, an image."""
    out = tmp_path_factory.mktemp("maps") / "o"
    assert main(["gradcam", str(folder), "-t", "class:1", "-t", "diff:0,1", *TINY, "-o", str(out)]) == 3
    return report_of(out)


@pytest.mark.parametrize("path", WRONG)
def test_what_is_wrong_is_found(path: str, maps: dict[str, Any]) -> None:
    assert problems(maps) == []
    assert len(problems(change(maps, path, WRONG[path]))) == 1


def test_other_packages_may_add_figures_and_facts_but_not_to_records(maps: dict[str, Any]) -> None:
    theirs = change(maps, "summary/method", "theirs")
    for path in ("images/0/explanations/0/scores/undocumented", "images/0/explanations/0/undocumented"):
        assert problems(change(theirs, path, 1)) == []
    assert len(problems(change(theirs, "images/0/undocumented", 1))) == 1


def test_targets_of_other_kinds(maps: dict[str, Any]) -> None:
    place = "images/0/explanations/0/target"
    assert problems(change(maps, place, {"kind": "word", "label": "word 3", "number": 3})) == []
    assert len(problems(change(maps, place, {"kind": "word"}))) == 1
    assert len(problems(change(maps, place, {"kind": "diff", "label": "a rather than b"}))) > 1


def test_python_and_the_command_line_give_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == cnnviz.report_schema() == SCRIPT["report_schema"]()


def test_no_two_parts_have_one_name() -> None:
    """Names of types are names of definitions: the second of a name would be described as the first."""
    folder = Path(__file__).parent.parent / "cnnviz" / "schema"
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    names = Counter(name for text in texts for name in re.findall(r"^class (\w+)", text, re.MULTILINE))
    assert [name for name, count in names.items() if count > 1] == []
