"""What an audit says to people: what was left out and why, where a policy is wrong, what --strict means elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cnnviz.audit.policy import load_policy
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.metrics.region_energy import score
from cnnviz.records import BoxScore, ClassScore
from cnnviz.registry.localization_metrics import RegionEnergyOptions
from cnnviz.report.github import workflow_lines
from cnnviz.report.junit import junit
from cnnviz.report.sarif import sarif
from cnnviz.report.summary_markdown import summary_markdown
from cnnviz.tasks.region_words import parse_region
from tests import test_audit, test_detection_runs
from tests.support import segment_network
from tests.support.marked_squares import marked_squares


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of the sun in a blue sky, of which eight have it marked, as something else."""
    base = tmp_path_factory.mktemp("told")
    marked = marked_squares(base, [f"{number:02d}.png" for number in range(12)], dict.fromkeys(range(8), 1))
    for file, name in (("other.json", "cloud"), ("truth.json", "sun")):
        (base / file).write_text(json.dumps({**marked, "categories": [{"id": 1, "name": name}]}))
    return base


def _policy(base: Path, truth: str, more: str = "") -> Path:
    path = base / "policy.yaml"
    model = (
        f"{{name: {test_audit.__file__}:weather, labels: labels.txt, input_size: 64, resize: 64, mean: '0', std: '1'}}"
    )
    checks = """\
  - {kind: inside, min_energy: 0.0}
  - {kind: avoid, region: background, max_energy: 1.0}
  - {kind: counterfactual, replace: background, with: shuffle, max_flips: 1.0}
"""
    head = f"version: 1\nmodel: {model}\nimages: data\nlabels: folder\ntruth: {truth}\nmin_images: 5\n{more}\n"
    path.write_text(f"{head}checks:\n{checks}")
    return path


def _rows(path: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    main(["audit", str(path), "-o", str(out), *more])
    rows: list[dict[str, Any]] = json.loads((out / "report.json").read_text("utf-8"))["summary"]["audit"]["checks"]
    return rows


def test_images_of_which_nothing_is_marked_are_counted(photos: Path, tmp_path: Path, capsys: Any) -> None:
    rows = _rows(_policy(photos, "truth.json"), tmp_path / "out")
    said = capsys.readouterr().err
    assert [(row["verdict"], row["n"]) for row in rows] == [("passed", 8)] * 3
    left = "have nothing marked as their class: "
    assert said.count(f"inside, avoid: 4 of 12 images {left}") == said.count(f"4 of 12 images {left}") == 1
    assert "counterfactual: 4 of 12 images have nothing, or less than 5 % of what the network saw, marked" in said
    assert said.count("truth_labels: any takes all that is marked") == 2
    rows = _rows(_policy(photos, "other.json"), tmp_path / "none")
    assert [row["verdict"] for row in rows] == ["not decided"] * 3
    assert all("truth_labels: any takes all that is marked" in row["reason"] for row in rows)
    assert rows[0]["reason"].startswith("all 12 images have nothing marked as their class")
    assert "or replace a rectangle" in rows[2]["reason"]
    rows = _rows(_policy(photos, "other.json", "truth_labels: any"), tmp_path / "any")
    assert [(row["verdict"], row["n"]) for row in rows] == [("passed", 8)] * 3


def test_time_is_told_by_check(photos: Path, tmp_path: Path) -> None:
    _rows(_policy(photos, "truth.json"), tmp_path / "out")
    seconds = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["summary"]["audit"]["seconds"]
    assert set(seconds) == {"maps", "inside", "avoid", "counterfactual"}
    assert seconds["counterfactual"] > 0


def test_long_metrics_are_told_by_the_checks_that_asked_for_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = Path(_policy(photos, "truth.json"))
    path.write_text(path.read_text() + "  - {kind: sane}\n")
    spent = {"maps": 3.0, "randomization": 17.2, "region_energy": 2.0}
    monkeypatch.setattr("cnnviz.maps.second_look.SecondLook.seconds", lambda self: spent)
    _rows(path, tmp_path / "out")
    told = "time: sane (randomization) 17 s, maps 3 s, inside, avoid (region_energy) 2 s"
    assert f"{told}; in seconds of threads, several of which run at once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images: data", "images: dats", "line 3: images: {0}/dats does not exist."),
        ("truth: truth.json", "truth: truht.json", "line 5: truth: {0}/truht.json does not exist."),
        ("labels: folder", "labels: labels.csv", "line 4: labels: {0}/labels.csv does not exist."),
        ("labels: labels.txt", "labels: labls.txt", "line 2: labels: {0}/labls.txt does not exist."),
        ("min_images: 5", "groups: nowhere/g.csv", "line 6: groups: {0}/nowhere/g.csv does not exist."),
    ],
)
def test_what_is_not_there_is_said_with_the_line(
    photos: Path, tmp_path: Path, old: str, new: str, message: str, capsys: Any
) -> None:
    path = _policy(photos, "truth.json")
    path.write_text(path.read_text().replace(old, new))
    assert main(["audit", str(path), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"policy {path}, {message.format(photos)}" in said
    assert ("nowhere does not exist either" if "nowhere" in new else "Did you mean") in said
    if old.startswith("images"):  # what stands on the command line takes its place
        assert main(["audit", str(path), str(photos / "data"), "-o", str(tmp_path / "out"), "-q"]) == 0


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("class:moon", "'class:moon': no class is called 'moon' among the network's 2", "they are cloud, sun"),
        ("class:clod", "'class:clod': no class is called 'clod' among the network's 2", "Did you mean cloud?"),
        ("lable", "'lable': no class is called 'lable' among the network's 2", "Did you mean label?"),
        ("clas:sun", "'clas:sun': there is no kind of target 'clas'.", "Did you mean class?"),
        ("class:7", "'class:7': class 7 does not exist; the network has 2 classes", "give an index from 0 to 1"),
        ("top:x", "'top:x': expected top:K with K of 1 or more.", "For example target: top:5"),
        (
            "'sun, moon'",
            "'sun, moon': no class is called that; read as a list: no class is called 'moon'",
            "cloud, sun",
        ),
        ("'diff:sun,moon'", "'diff:sun,moon': no class is called 'moon'", "they are cloud, sun"),
        ("unit:nowhere:1", "'unit:nowhere:1': The network has no layer 'nowhere'.", "conv"),
    ],
)
def test_a_wrong_target_is_said_with_its_line(
    photos: Path, tmp_path: Path, target: str, message: str, hint: str, capsys: Any
) -> None:
    path = _policy(photos, "truth.json", f"target: {target}")
    assert main(["audit", str(path), "-o", str(tmp_path / "out"), "-q"]) == 2
    said = capsys.readouterr().err
    assert f"cnnviz: policy {path}, line 7: target: {message}" in said
    assert hint in said
    # Of the command line's own the place in the file is none.
    assert main(["audit", str(path), "-t", "class:moon", "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "cnnviz: --target 'class:moon': no class is called 'moon'" in capsys.readouterr().err


def test_a_folder_that_is_no_class_is_said_with_the_line_of_labels(tmp_path: Path, photos: Path, capsys: Any) -> None:
    (tmp_path / "moon").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "moon" / "a.png")
    path = _policy(photos, "truth.json")
    assert main(["audit", str(path), str(tmp_path), "-o", str(tmp_path / "out"), "-q"]) == 2
    said = capsys.readouterr().err
    assert f"policy {path}, line 4: labels: folder: no folder of an input is called like a class" in said
    assert "or give labels: FILE.csv with path,label" in said


def test_a_background_that_nobody_knows_can_be_a_rectangle(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for kind, key in (("counterfactual", "replace"), ("avoid", "region")):
        path.write_text(f"version: 1\nimages: a\nchecks:\n  - {{kind: {kind}}}")
        with pytest.raises(CnnvizError) as refused:
            load_policy(str(path))
        assert f"a rectangle: {key}: [0, 0.9, 1, 1]" in refused.value.hint


def test_the_starter_says_what_zero_means(tmp_path: Path) -> None:
    assert main(["audit", "--init", str(tmp_path / "p.yaml"), "-q"]) == 0
    first = (tmp_path / "p.yaml").read_text().split("version:")[0]
    assert "0: no check of level error is violated (what is NOT DECIDED, too, unless --strict)" in first


ROW = {
    "name": "a", "kind": "avoid", "statement": "energy", "method": "", "verdict": "not decided", "level": "error",
    "measured": None, "at_least": True, "allowed": 0.9, "group": None, "line": 3, "violations": [], "reason": "few",
    "n": 0, "p": None, "ci95": None, "confirmed": None,
}  # fmt: skip


def test_statements_of_one_check_are_told_apart_wherever_they_are_listed() -> None:
    """Two statements, of two methods, of which one is violated and one is not decided."""
    seen = {**ROW, "measured": 0.25, "group": "cats", "violations": [{"path": "x.png", "value": 0.1}]}
    rows = [
        {**seen, "statement": statement, "method": method, "verdict": verdict}
        for statement in ("energy", "pointing")
        for method in ("cam", "gradcam")
        for verdict in ("violated", "not decided")
    ]
    wanted = [f"a: {row['statement']} [{row['method']}]: " for row in rows]
    results = json.loads(sarif("p.yaml", rows))["runs"][0]["results"]
    audit = {"passed": False, "policy": "p", "undecided": 4, "checks": rows, "false_alarm": 0.05}
    lines = summary_markdown(audit).decode().splitlines()
    noted = workflow_lines("p.yaml", rows)
    for row, name in zip(rows, wanted, strict=True):
        # What was measured stands in the name, and once.
        said = name + ("not decided: few (0.25 in cats" if row["verdict"] != "violated" else "0.25 in cats")
        assert sum(each["message"]["text"].startswith(said) for each in results) == 1
        assert sum(f"::{said}" in each for each in noted) == 1
        head = f"### {name.removesuffix(': ')}" if row["verdict"] == "violated" else said
        assert sum(each.startswith(head) for each in lines) == 1
    assert all("0.25 in cats, allowed at least 0.9" in each["message"]["text"] for each in results)


def test_what_warns_is_no_violation_in_the_summary() -> None:
    rows = [{**ROW, "level": level, "verdict": "violated", "measured": 0.2} for level in ("error", "warning")]
    audit = {"passed": False, "policy": "p", "undecided": 0, "checks": rows, "false_alarm": 0.05}
    table = [line for line in summary_markdown(audit).decode().splitlines() if line.startswith("| a: energy |")]
    assert [line.split(" | ")[2] for line in table] == ["**VIOLATED**", "warning"]


def test_what_was_left_out_stands_in_junit() -> None:
    told = ["a: the network saw nothing of the region", "b: the maps of 2 of 9 images are flat\x00"]
    suite = ElementTree.fromstring(junit("p.yaml", [ROW], remarks=told))[0]
    assert suite[-1].tag == "system-out"
    assert (suite[-1].text or "").splitlines() == [told[0], told[1].replace("\x00", "?")]
    assert ElementTree.fromstring(junit("p.yaml", [ROW]))[0][-1].tag == "testcase"


def test_checks_that_are_called_alike_are_named_by_what_they_differ_in(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    checks = """
  - {kind: avoid, max_energy: 0.2}
  - {kind: avoid, region: [0, 0.9, 1, 1]}
  - {kind: stable, under: [shift, flip]}
  - {kind: stable, under: [jpeg]}
  - {kind: sane}
  - {name: object, kind: inside, min_energy: 0.5}
  - {name: object, kind: inside, min_energy: 0.7, level: warning}
  - {name: object, kind: accuracy}
  - {kind: calibration, max_error: 0.1}
  - {kind: calibration, max_error: 0.2}
"""
    path.write_text(f"version: 1\nimages: a\nlabels: folder\ntruth: t.json\nchecks:{checks}")
    assert [check.name for check in load_policy(str(path)).checks] == [
        "avoid (region background)", "avoid (region 0,0.9,1,1)", "stable (under shift flip)", "stable (under jpeg)",
        "sane", "object (inside) (level error)", "object (inside) (level warning)", "object (accuracy)",
        "calibration (max_error 0.1)", "calibration (max_error 0.2)",
    ]  # fmt: skip


def test_what_is_not_decided_fails_everywhere_with_strict() -> None:
    rows = [ROW, {**ROW, "name": "b", "level": "warning"}]
    for strict, failures, level, annotation in ((False, 0, "note", "::notice"), (True, 1, "error", "::error")):
        root = ElementTree.fromstring(junit("p.yaml", rows, strict=strict))
        assert root.get("failures") == str(failures)
        assert root.get("skipped") == str(2 - failures)
        first, second = root.findall(".//testcase")
        assert (first.find("failure") is not None, first.find("skipped") is not None) == (strict, not strict)
        assert second.find("skipped") is not None
        if strict:
            assert first.find("failure").get("message") == "not decided: few"  # type: ignore[union-attr]
        results = json.loads(sarif("p.yaml", rows, strict=strict))["runs"][0]["results"]
        assert [each["level"] for each in results] == [level, "note"]
        lines = workflow_lines("p.yaml", rows, strict=strict)
        assert [line.split(" ")[0] for line in lines] == [annotation, "::notice"]


# Other networks -----------------------------------------------------------------------------------------------------


def test_a_segmentation_has_no_right_predictions_to_choose_from(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "data" / "red"
    folder.mkdir(parents=True)
    for number in range(12):
        rgb = np.zeros((segment_network.SIDE, segment_network.SIDE, 3), dtype=np.uint8)
        rgb[8 + number : 32 + number, 8:32, 0] = 255
        Image.fromarray(rgb).save(folder / f"{number:02d}.png")
    (tmp_path / "labels.txt").write_text("\n".join(segment_network.CLASSES))
    side = segment_network.SIDE
    model = f"name: {segment_network.__file__}:make, labels: labels.txt, input_size: {side}, resize: {side}"
    text = (
        f"version: 1\nmodel: {{{model}, mean: '0', std: '1'}}\nimages: data\nlabels: folder\nonly: correct\nchecks:\n"
    )
    (tmp_path / "p.yaml").write_text(
        f"{text}  - {{kind: evidence, of: red, on: red, max_share: 1}}\n  - {{kind: accuracy, min: 0.1}}\n"
    )
    rows = _rows(tmp_path / "p.yaml", tmp_path / "out", "--layer", "encoder")
    assert (rows[0]["verdict"], rows[0]["n"]) == ("passed", 12)
    assert "no class for the whole image" in rows[1]["reason"]
    assert (
        "only: correct is of networks with one class for an image; all 12 images are judged" in capsys.readouterr().err
    )


def test_a_label_with_an_at_is_a_label() -> None:
    assert parse_region("back@all").name == "back"
    found = parse_region("back@all", ("front", "back@all"))
    assert (found.name, found.region.kind) == ("back@all", "pred")
    assert parse_region("back@all@truth", ("back@all",)).name == "back@all"
    assert parse_region("back@all@truth", ("back@all",)).region.kind == "truth"


def test_such_a_label_is_explained(tmp_path: Path) -> None:
    side = segment_network.SIDE
    rgb = np.zeros((side, side, 3), dtype=np.uint8)
    rgb[8:40, 8:40, 0] = 255
    Image.fromarray(rgb).save(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text("background\nred@all\ngreen\nblue")
    line = ["gradcam", str(tmp_path / "a.png"), "-m", f"{segment_network.__file__}:make", "--input-size", str(side)]
    line += ["--labels", str(tmp_path / "labels.txt"), "--mean", "0", "--std", "1", "--layer", "encoder", "-q"]
    assert main([*line, "-c", "red@all", "-t", "class:red@all@all", "-o", str(tmp_path / "out")]) == 0
    [record] = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    found = [(row["target"]["label"], row["target"]["region"]) for row in record["explanations"]]
    assert found == [("red@all", "pred"), ("red@all", "all")]


def _of_box(box: tuple[float, ...]) -> ExplainedImage:
    target = BoxScore("box:1", "cat", 1.0, 0, 0.9, 1.0, box, 1, 0, "score", None)
    rgb = np.zeros((10, 20, 3), dtype=np.uint8)
    return ExplainedImage("a", "a", rgb, (0, 0, 20, 10), target, (), None, "gradcam", ("cat",))


def test_the_map_of_a_box_is_measured_in_its_own_true_box() -> None:
    values = np.zeros((10, 20), dtype=np.float32)
    values[2, 2], values[5, 15] = 3, 1
    placed = PlacedMap(values, (0, 0, 20, 10), True)
    truth = Truth(
        (20, 10),
        (TrueObject("cat", Box(0, 0, 6, 6)), TrueObject("cat", Box(12, 2, 6, 6)), TrueObject("dog", Box(0, 0, 6, 5))),
    )
    own = RegionEnergyOptions(objects="box", tolerance=0.5)  # type: ignore[call-arg]
    first, second = (score(placed, _of_box(box), truth, own) for box in ((0, 0, 6, 5), (12, 2, 6, 5)))
    assert first == {"regions": ["truth", "background"], "energies": [0.75, 0.25], "seen": [1, 1], "peak_inside": True}
    assert second == {
        "regions": ["truth", "background"],
        "energies": [0.25, 0.75],
        "seen": [1, 1],
        "peak_inside": False,
    }
    # A box that finds nothing, and a class that has no box.
    nothing = {"regions": ["truth", "background"], "energies": [None, None], "seen": [None, None], "peak_inside": None}
    assert score(placed, _of_box((6, 0, 6, 6)), truth, own) == nothing
    of_class = ClassScore(0, "cat", 1.0, 1.0)
    image = ExplainedImage(
        "a", "a", np.zeros((10, 20, 3), dtype=np.uint8), (0, 0, 20, 10), of_class, (), None, "g", ("cat",)
    )
    assert score(placed, image, truth, own) == nothing


def test_boxes_of_a_detector_are_audited(tmp_path: Path) -> None:
    """The red box of the network lies at 8, 16 to 24, 40 in all pictures: marked there, and elsewhere."""
    images, boxes = [], []
    (tmp_path / "data").mkdir()
    for number in range(12):
        rgb = np.zeros((64, 64, 3), dtype=np.uint8)
        rgb[16:40, 8:24, 0] = 255
        rgb[50:60, number : number + 4, 0] = 60
        Image.fromarray(rgb).save(tmp_path / "data" / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"{number:02d}.png", "width": 64, "height": 64})
        place = [8, 16, 16, 24] if number < 11 else [40, 40, 10, 10]
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": place})
    truth = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue")
    model = f"name: '{test_detection_runs.__file__}:known', labels: labels.txt, input_size: 64, mean: '0', std: '1'"
    (tmp_path / "p.yaml").write_text(
        f"version: 1\nmodel: {{{model}}}\nimages: data\ntruth: truth.json\ntruth_labels: box\n"
        "options: {layer: conv}\nchecks:\n  - {kind: inside, min_energy: 0.5}\n"
    )
    [row] = _rows(tmp_path / "p.yaml", tmp_path / "out")
    assert (row["verdict"], row["n"]) == ("passed", 11)
