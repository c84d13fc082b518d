"""The rows that the gallery's scripts get: what they say, and that nothing in them ends the script."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cnnviz.report.gallery import card
from cnnviz.report.rows import CHUNK, Checks, checks_of, chunks, row_of, script_of
from tests.support.names import HOSTILE
from tests.test_html import record_named


def read_back(script: bytes) -> Any:
    """The value that a script hands over, by JavaScript's rules for a quoted string."""
    found = re.fullmatch(r"x\('((?:[^'\\\n]|\\.)*)'\);\n", script.decode("ascii"))
    assert found is not None
    text = re.sub(r"\\(?:u([0-9a-f]{4})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else m[2], found[1])
    return json.loads(text)


@pytest.mark.parametrize("name", [*HOSTILE, "__proto__", "it's", "back\\slash\\u003c", "</script><!--", "\u2028"])
def test_a_script_hands_over_what_it_was_given_and_ends_nowhere_else(name: str) -> None:
    value = {name: [name, {"a": name}], "n": 1.5}
    script = script_of("x(", value)
    assert read_back(script) == json.loads(json.dumps(value))
    assert not set(script.decode("ascii")) & set("<>")


def test_a_row_says_what_its_card_says() -> None:
    record = record_named("tabby cat", outcome="wrong", true_classes=[{"class_index": 3, "label": "lynx"}])
    row = row_of(record, Checks(), "../cat.jpg")
    page = card(record)
    [explained] = row["maps"]
    for said in (row["path"], row["said"], *row["facts"], explained["target"], explained["sure"], explained["method"]):
        assert said in page
    for name, text, _ in explained["scores"]:
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page
    assert row["predictions"] == [["tabby cat", 0.8731], ["class 7", 4e-05]]
    assert (row["photo"], row["truth"], row["outcome"]) == ("../cat.jpg", ["lynx"], "wrong")
    assert dict(explained["files"])["overlay"] == explained["picture"] == "images/tabby%20cat.overlay.png"
    assert "error" not in row


def test_what_is_marked_is_said_in_the_words_of_the_marks() -> None:
    """Of the classes that a mark may mean, the likeliest is not what anybody marked."""
    known = {"truth": {"labels": ["sheep", "person"]}, "true_classes": [{"class_index": 348, "label": "ram"}]}
    marked = row_of(record_named("a", label=None, outcome="wrong", **known), Checks(), None)
    assert marked["said"] == "truth: sheep, person, predicted: a"
    assert not any("marked" in fact for fact in marked["facts"])
    right = row_of(record_named("a", label=None, outcome="correct", **known), Checks(), None)
    assert right["said"] == "marked sheep, person: right"
    labelled = row_of(record_named("a", label="ram", outcome="correct", **known), Checks(), None)
    assert labelled["said"] == "labelled ram: right"
    assert "marked sheep, person" in labelled["facts"]


def _detected(number: int) -> dict[str, Any]:
    """A box whose score is beside its probability, and a map of the box of that number by its logit."""
    box = {"label": "dog", "class_index": 1, "probability": 0.818, "score": 0.889, "number": 2}
    target = {**box, "kind": "box", "number": number, "score": 1.5}
    explained = {"method": "gradcam", "target": target, "files": {}}
    return record_named("a", predictions=[{**box, "box_xywh": [1, 2, 3, 4]}], explanations=[explained])


@pytest.mark.parametrize(
    ("number", "said"),
    [(2, "score 88.9 %, explained value 1.5"), (7, "probability 81.8 %, explained value 1.5")],
)
def test_a_box_has_the_score_that_its_pictures_have(number: int, said: str) -> None:
    record = _detected(number)
    row = row_of(record, Checks(), None)
    assert row["predictions"] == [["dog", 0.818, "box 2, score 0.889"]]
    assert (row["maps"][0]["target"], row["maps"][0]["sure"]) == (f"dog, box {number}", said)
    assert f"<strong>dog, box {number}</strong> {said}" in card(record)


@pytest.mark.parametrize(
    ("region", "said"),
    [("pred", "dog where it is found"), ("all", "dog everywhere"), ("truth", "dog in its true region"),
     ("segment:3", "dog in segment 3"), ("point:1,2", "dog at 1,2"), ("mask:a.png", "dog in mask a.png")],
)  # fmt: skip
def test_a_segmentation_names_the_region(region: str, said: str) -> None:
    target = {"kind": "region", "label": "dog", "region": region, "probability": 0.75}
    record = record_named("a", explanations=[{"method": "gradcam", "target": target}])
    assert row_of(record, Checks(), None)["maps"][0]["target"] == said
    assert f"<strong>{said}</strong> mean probability 75.0 %" in card(record)


def test_figures_are_in_words() -> None:
    scores = {"region_energy": {"energies": [0.125], "peak_inside": False}, "box_xywh": [1, 2, 3, 4], "flat": False}
    record = record_named("a", explanations=[{"method": "cam", "target": {"label": "x"}, "scores": scores}])
    assert row_of(record, Checks(), None)["maps"][0]["scores"] == [
        ["energy in the regions", "0.125", 0.125], ["peak inside the object", "no", 0.0],
        ["box x, y, width, height", "1, 2, 3, 4", None], ["flat", "no", 0.0],
    ]  # fmt: skip


def test_regions_are_named() -> None:
    energies = {"regions": ["truth", "background", "0,0.9,1,1"], "energies": [0.5, 0.25, None], "peak_inside": True}
    record = record_named("a", explanations=[{"method": "cam", "target": {}, "scores": {"region_energy": energies}}])
    assert row_of(record, Checks(), None)["maps"][0]["scores"] == [
        ["energy in the object", "0.5", 0.5], ["energy in the background", "0.25", 0.25],
        ["peak inside the object", "yes", 1.0],
    ]  # fmt: skip
    assert "<dt>energy in the background</dt><dd>0.25</dd>" in card(record)


def test_a_curve_is_taken_and_a_broken_one_is_not() -> None:
    scores = {"insertion": {"area": 0.5, "curve": [0.0, 1.0]}, "deletion": {"area": None, "curve": [0.0, None]}}
    record = record_named("a", explanations=[{"method": "cam", "target": {"label": "x"}, "scores": scores}])
    [explained] = row_of(record, Checks(), None)["maps"]
    assert explained["curves"] == [["insertion", [0.0, 1.0]]]
    assert explained["scores"] == [["insertion area", "0.5", 0.5]]


def _check(name: str, verdict: str, paths: list[str], **more: Any) -> dict[str, Any]:
    worst = [{"path": path, "value": 0.125 * (1 + place)} for place, path in enumerate(paths)]
    row = {"name": name, "statement": "peak_inside", "method": None, "verdict": verdict, "level": "error",
           "at_least": True, "allowed": 0.5, "violations": worst, "beyond": 30}  # fmt: skip
    return {**row, **more}


def test_checks_stand_at_the_images_that_violate_them() -> None:
    rows = [
        _check("sky", "violated", ["b", "a"], method="cam"),
        _check("hand", "violated", ["a"], level="warning"),
        _check("rim", "not decided", ["a"]),
    ]
    checks = checks_of({"audit": {"checks": rows}})
    assert [(each["name"], each["verdict"], each["shown"], each["beyond"]) for each in checks.told] == [
        ("sky: peak inside (cam)", "violated", 2, 30), ("hand: peak inside", "warning", 1, 30),
        ("rim: peak inside", "not decided", 0, 0),
    ]  # fmt: skip
    assert row_of(record_named("a"), checks, None)["checks"] == [
        [0, 1, "peak inside 0.25, allowed at least 0.5"], [1, 0, "peak inside 0.125, allowed at least 0.5"],
    ]  # fmt: skip
    assert "checks" not in row_of(record_named("c"), checks, None)
    every = [{"path": path, "value": value} for path, value in (("b", 0.1), ("a", 0.2), ("c", 0.3))]
    checks = checks_of({"audit": {"checks": [_check("sky", "violated", ["b"], beyond=3, beyond_images=every)]}})
    assert checks.told[0]["shown"] == 3
    assert row_of(record_named("c"), checks, None)["checks"] == [[0, 2, "peak inside 0.3, allowed at least 0.5"]]
    assert checks_of({"study": "evaluate"}) == Checks()


def test_rows_come_in_chunks() -> None:
    made = list(chunks(({"name": str(n)} for n in range(CHUNK + 3)), 4))
    assert len(made) == 2
    assert all(part.startswith(b"cnnviz.data.rows(4, '[{") for part in made)
    assert made[1].count(b'"name"') == 3
    assert list(chunks([], 0)) == []
