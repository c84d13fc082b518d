"""Policies of an audit: what they say, what cannot be used, and the formats that results are written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

from cnnviz.audit.policy import load_policy
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.registry.lookup import all_checks
from cnnviz.report.checks_table import checks_table
from cnnviz.report.github import workflow_lines
from cnnviz.report.junit import junit
from cnnviz.report.summary_markdown import summary_markdown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 2\nimages: a\nchecks: []", "line 1: version: 2: expected 1"),
        ("version: 1\nchecks:\n  - {kind: sane}", "no images"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: insde}", "line 4: there is no check of kind 'insde'"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: sane, max_similarty: 1}", "max_similarty"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: inside, min_energy: 0.5}", "needs to know where objects are"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: accuracy}", "needs labels"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: sane, scope: group}", "judged by group"),
        ("version: 1\nimages: a\nlabels: folder\nonly: rong\nchecks:\n  - {kind: sane}", "only: 'rong'"),
        ("version: 1\nimages: a\nchecks:\n  - {kind: sane, max_similarity: 7}", "max_similarity"),
        ("[1, 2]", "expected keys with values"),
        ("version: 1\nimge: a", "no key 'imge'"),
    ],
)
def test_a_policy_that_cannot_be_used_is_said(tmp_path: Path, text: str, message: str, capsys: Any) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(CnnvizError) as refused:
        load_policy(str(path))
    assert message in refused.value.message
    assert main(["audit", str(path), "-o", str(tmp_path / "out")]) == 2


_BASE = "version: 1\nimages: a\nlabels: folder\ntruth: t.json\n"
_SANE = "checks: [{kind: sane}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{_BASE}model: [a]\n{_SANE}", "model: expected options"),
        (f"{_BASE}model: {{5: a}}\n{_SANE}", "model: expected options"),
        (f"{_BASE}options: whole\n{_SANE}", "options: expected options"),
        (f"version: true\nimages: a\n{_SANE}", "version: True: expected 1"),
        (f"version: 1\nimages: a\nlabels: no\n{_SANE}", "labels: expected a text, got False"),
        (f"{_BASE}groups: {{a: b}}\n{_SANE}", "groups: expected a text"),
        (f"{_BASE}target: [a]\n{_SANE}", "target: expected a text"),
        (_BASE + "checks: [{kind: avoid, region: foo}]", "region: 'foo': expected background or truth"),
        (_BASE + "checks: [{kind: avoid, region: [0, 0, 100, 20]}]", "fractions of width and height"),
        (_BASE + "checks: [{kind: avoid, region: [1, 1, 0, 0]}]", "fractions of width and height"),
        (_BASE + "checks: [{kind: avoid, region: [0, 0, .nan, 1]}]", "fractions of width and height"),
        (_BASE + "checks: [{kind: avoid, region: '0,0,1,1;0,0,1,1'}]", "fractions of width and height"),
        (_BASE + "checks: [{kind: counterfactual, replace: truth}]", "replace: 'truth': expected background, or"),
        ("version: 1\nimages: a\nchecks: [{kind: avoid, region: truth}]", "needs to know what is truth"),
        (_BASE + "checks: [{kind: stable, under: [flop]}]", "under: 'flop' is none of shift"),
        (_BASE + "checks: [{kind: stable, under: []}]", "under: '' is none of shift"),
        (_BASE + "checks: [{kind: counterfactual, max_flips: null}]", "it allows anything"),
        (_BASE + "checks: [{kind: inside}]", "it allows anything"),
        (_BASE + "checks: [{kind: accuracy, min: null}]", "expected a number"),
    ],
)
def test_odd_values_of_a_policy_are_said_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(CnnvizError) as refused:
        load_policy(str(path))
    assert message in refused.value.message


_CHECK = f"{_BASE}checks:\n  - name: own\n"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("images: a", ": no version.", "Write version: 1"),
        ("version: 'None'\nimages: a", ", line 1: version: 'None': expected 1.", "Write version: 1"),
        (
            _CHECK + "    kind: accuracy\n    min: high",
            ", line 8, accuracy: min: 'high': expected a number, 0 to 1.",
            "For example min: 0.9",
        ),
        (
            _CHECK + "    kind: accuracy\n    min: 80",
            "line 8, accuracy: min: 80 is out of range: 0 to 1.",
            "for 80 % write min: 0.8",
        ),
        (_CHECK + "    kind: accuracy\n    min: .inf", "line 8, accuracy: min: inf: expected", "For example min: 0.9"),
        (
            _CHECK + "    kind: inside\n    min_energy: half",
            "line 8, inside: min_energy: 'half': expected a number, 0 to 1.",
            "For example min_energy: 0.5",
        ),
        (
            _CHECK + "    kind: drift\n    baseline: 5",
            "line 8, drift: baseline: 5: expected a word.",
            "For example baseline: baseline",
        ),
        (_CHECK + "    kind: evidence\n    of: 5", "line 8, evidence: of: 5: expected a word.", "in quotes: of: '5'"),
        (
            _CHECK + "    kind: stable\n    under: 5",
            "line 8, stable: under: 5",
            "For example under: [shift, flip, brightness, jpeg]",
        ),
        (
            _CHECK + "    kind: sane\n    level: 3",
            "line 8, sane: level: 3 is none of error, warning.",
            "Write level: error",
        ),
        (_CHECK + "    kind: sane\n    levle: error", "line 8, sane: there is no key 'levle'.", "Did you mean level?"),
        (_CHECK + "    level: error", "line 6: a check without a kind.", "Write kind: one of inside, avoid"),
        (
            _BASE + "checks: sane",
            "line 5: checks: expected a list of checks, got 'sane'.",
            "For example - {kind: inside",
        ),
        (
            _BASE + "checks: [sane]",
            "line 5: expected a check, which is a mapping, got 'sane'.",
            "For example - {kind: inside",
        ),
        (
            _BASE + f"false_alarm: 5\n{_SANE}",
            "line 5: false_alarm: 5: expected a number from 0 to 1.",
            "For example false_alarm: 0.01",
        ),
        (
            _BASE + f"min_images: 2.5\n{_SANE}",
            "line 5: min_images: 2.5: expected a whole number of 1 or more.",
            "For example min_images: 10",
        ),
        (
            f"version: 1\nimages: 5\n{_SANE}",
            "line 2: images: expected a text, or a list of texts, got 5.",
            "For example images: data/val",
        ),
        (_BASE + f"method: gradcm\n{_SANE}", "line 5: method: unknown method 'gradcm'.", "Did you mean gradcam"),
        (_BASE + "checks:\n  - {kind: accuracy\n  - x: [", "not valid YAML: expected ',' or '}'", "indent with spaces"),
        ("version: 1\n\timages: a", "that cannot start any token in line 2", "indent with spaces"),
        ("5: a", "expected keys that are words, got 5.", "in quotes"),
        ("", "expected keys with values, got nothing.", "--init writes one"),
    ],
)
def test_a_wrong_value_is_said_with_its_line_and_what_to_write(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(CnnvizError) as refused:
        load_policy(str(path))
    assert refused.value.message.startswith(f"policy {path}")
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("name", "data", "message", "hint"),
    [
        (
            "a.jpg",
            b"\xff\xd8\xff\xe0\x00\x10JFIF",
            ": expected a YAML file, which is a text; this is none.",
            "images come after it",
        ),
        (
            "a.yaml",
            b"\x89PNG\r\n\x1a\n\x00",
            ": expected a YAML file, which is a text; this is none.",
            "images come after it",
        ),
        ("net.py", b'"""A network."""\nimport torch\n', ": not valid YAML: ", "images come after it"),
        ("p.yaml", b"version: 1\nimages: caf\xe9\n", ", line 2: not in UTF-8.", "Save the file as UTF-8."),
    ],
)
def test_a_file_that_is_no_policy_is_said(tmp_path: Path, name: str, data: bytes, message: str, hint: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CnnvizError) as refused:
        load_policy(str(path))
    assert refused.value.message.startswith(f"policy {path}{message}")
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("model: {name: resnet18, inputsize: 3}", "line 2: unknown option 'inputsize'.", "Did you mean input_size"),
        ("options:\n  veiw: whole", "line 3: unknown option 'veiw'.", "Did you mean view?"),
        ("model: {name: resnet18, input_size: big}", "line 2: input_size: big: ", "For example input_size: 224"),
        ("options: {batch_size: [1, 2]}", "line 2: batch_size: 1,2: expected a number", "For example batch_size: 16"),
        ("options: {batch_size: 1, batch-size: 2}", "line 2: 'batch-size' is given twice.", "Keep one"),
        ("labels: foldr", "line 2: labels: ", "Did you mean folder?"),
        ("truth_classes: cocoo", "line 2: truth_classes: ", "Did you mean coco?"),
        ("model: {nmae: resnet18}", "line 2: unknown option 'nmae'.", "Did you mean name?"),
        (
            "model: {arch: resnet18}",
            "line 2: unknown option 'arch'.",
            "The options are: name, activation, channel_order,",
        ),
        ("options: {frobnicate: 1}", "line 2: unknown option 'frobnicate'.", "The options are: activation, alpha,"),
        ("model: {accept: fine}", "line 2: accept is no option of a policy.", "audit POLICY.yaml --accept REASON"),
        ("options:\n  until: 5", "line 3: until is no option of a policy.", "--accept REASON --until DAY"),
        ("truth_classes: coco", "line 2: truth_classes: they say what the labels of truth mean,", "Give truth: boxes"),
        ("options: {inputs: a}", "line 2: inputs is no option of a policy.", "Write images: data/val"),
    ],
)
def test_options_of_a_policy_are_said_by_its_keys(
    tmp_path: Path, text: str, message: str, hint: str, capsys: Any
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\n{text}\nimages: {tmp_path}\n{_SANE}")
    assert main(["audit", str(path), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"policy {path}, {message}" in said
    assert hint in said


def test_what_cannot_stand_in_a_policy_is_not_proposed(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "p.yaml"
    listed = []
    for within in ("model", "options"):
        path.write_text(f"version: 1\n{within}: {{nothing_like_it: 1}}\nimages: {tmp_path}\n{_SANE}")
        assert main(["audit", str(path), "-o", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err.partition("The options are: ")[2]
        listed.append(said.strip().rstrip(".").split(", "))
    outside = {"accept", "until", "init", "policy", "config", "inputs", "class", "target", "truth", "method"}
    assert not outside & {*listed[0], *listed[1]}
    assert {"name", "checkpoint", "labels", "input_size", "mean", "view"} <= set(listed[0])
    assert len(listed[0]) < 25
    assert not {"out", "layer", "batch_size", "strict"} & set(listed[0])
    assert {"out", "layer", "batch_size", "strict"} <= set(listed[1])


def test_what_yaml_makes_of_words_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    checks = "[{kind: evidence, of: car, on: road}, {kind: drift, min_similarity: null, max_changed_predictions: 0.1}]"
    path.write_text(
        f"{_BASE}target: null\nmethod: null\nmodel: {{model: net.onnx}}\n"
        f"options: {{exclude: bad.txt}}\nchecks: {checks}"
    )
    policy = load_policy(str(path))
    evidence, drift = (check.params for check in policy.checks)
    assert (evidence.of, evidence.on) == ("car", "road")  # type: ignore[attr-defined]
    assert drift.min_similarity is None  # type: ignore[attr-defined]
    assert policy.options == {"exclude": str(tmp_path / "bad.txt")}
    assert (policy.target, policy.methods, policy.model) == (
        "label",
        ("gradcam",),
        {"model": str(tmp_path / "net.onnx")},
    )


def test_a_policy_to_begin_with(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "start.yaml"
    assert main(["audit", "--init", str(path)]) == 0
    assert [check.spec.name for check in load_policy(str(path)).checks] == ["accuracy", "sane", "stable", "avoid"]
    assert main(["audit", "--init", str(path)]) == 2
    assert "exists" in capsys.readouterr().err


def test_texts_cannot_break_out_of_their_formats() -> None:
    row = {
        "name": "a\nb::c%|<x>\x00", "kind": "avoid", "method": None, "level": "error", "line": 3, "verdict": "violated",
        "statement": "energy", "measured": 0.5, "allowed": 0.1, "at_least": False, "n": 4, "p": 0.1, "group": None,
        "reason": "", "violations": [{"path": "x,y:z\n.png", "value": 0.5}], "confirmed": None, "ci95": None,
    }  # fmt: skip
    [line] = workflow_lines("p,o:l.yaml", [row])
    assert "\n" not in line
    assert line.startswith("::error file=p%2Co%3Al.yaml,line=3")
    root = ElementTree.fromstring(junit("p.yaml", [row]))
    assert root.find(".//failure") is not None


def test_an_image_that_failed_is_an_error_everywhere() -> None:
    failed = [{"path": "broken.png", "error": "not an image"}]
    root = ElementTree.fromstring(junit("p.yaml", [], failed))
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    case = root.find(".//testcase[error]")
    assert case is not None
    assert case.get("name") == "image broken.png"
    audit = {"passed": True, "policy": "p", "undecided": 0, "checks": [], "failed": failed, "false_alarm": 0.05}
    for text in (summary_markdown(audit).decode(), checks_table({"audit": audit})):
        assert "passed, 1 image failed" in text
        assert "broken.png: not an image" in text


def test_the_schema_of_policies(capsys: Any, tmp_path: Path) -> None:
    assert main(["schema", "policy"]) == 0
    schema = json.loads(capsys.readouterr().out)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    path = tmp_path / "p.yaml"
    assert main(["audit", "--init", str(path)]) == 0
    policy = yaml.safe_load(path.read_text("utf-8"))
    validator.validate(policy)
    kinds = {each["properties"]["kind"]["const"] for each in schema["properties"]["checks"]["items"]["oneOf"]}
    assert kinds == {spec.name for spec in all_checks()}
    for broken in ({"kind": "insde"}, {"kind": "sane", "max_similarty": 0.5}, {"kind": "sane", "max_similarity": 7}):
        assert list(validator.iter_errors({**policy, "checks": [broken]}))
    assert main(["schema", "polcy"]) == 2
