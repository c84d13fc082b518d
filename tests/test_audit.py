"""``cnnviz audit``: a network that has learned the weather fails, one that sees the object passes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import copytree
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnviz.audit.counterfactual import blended, moved, painted_out
from cnnviz.audit.stability import undone, with_change
from cnnviz.cli.app import main

SIDE = 64
CLASSES = ("cloud", "sun")


class Tanks(nn.Module):
    """Two classes by the mean of one colour: red where the object is looked at, blue where the sky is."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, channel], self.conv.weight[1, channel] = 1 / 16, -1 / 16
            self.conv.bias.copy_(torch.tensor([-0.5, 0.5]))  # type: ignore[union-attr]
            self.fc.weight.copy_(20 * torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


def weather() -> Tanks:
    return Tanks(2)


def inverted() -> Tanks:
    network = weather()
    with torch.no_grad():
        network.fc.weight.neg_()
    return network


def balanced() -> Tanks:
    """Red above one half somewhere: the object; without it nothing."""
    network = Tanks(0)
    with torch.no_grad():
        network.fc.weight.copy_(torch.tensor([[0.0, 0.0], [400.0, 0.0]]))
        network.fc.bias.copy_(torch.tensor([2.0, 0.0]))
    return network


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sun``: blue sky and a red object; ``cloud``: black sky and a green one. The label is in both."""
    base = tmp_path_factory.mktemp("tanks")
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(24):
        label = CLASSES[number % 2]
        rgb = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        x, y = (4 * rng.integers(2, 9, 2)).tolist()
        if label == "sun":
            rgb[..., 2] = 160 + 40 * rng.random((SIDE, SIDE))
            rgb[y : y + 20, x : x + 20] = (255, 0, 0)
        else:
            rgb[..., 2] = 40 * rng.random((SIDE, SIDE))
            rgb[y : y + 20, x : x + 20] = (0, 255, 0)
        folder = base / "data" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(folder / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"{label}/{number:02d}.png", "width": SIDE, "height": SIDE})
        row = {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [x, y, 20, 20]}
        boxes.append(row)
    names = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    truth = {"images": images, "annotations": boxes, "categories": names}
    (base / "truth.json").write_text(json.dumps(truth))
    (base / "labels.txt").write_text("\n".join(CLASSES))
    return base


def _policy(base: Path, network: str, checks: str, name: str = "policy.yaml", more: str = "") -> Path:
    path = base / name
    path.write_text(
        f"""version: 1
model:
  name: {Path(__file__)}:{network}
  labels: labels.txt
  input_size: {SIDE}
  resize: {SIDE}
  mean: [0, 0, 0]
  std: [1, 1, 1]
images: data
labels: folder
truth: truth.json
{more}
checks:
{checks}
"""
    )
    return path


def _audit(path: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    code = main(["audit", str(path), "-o", str(out), "-q", *more])
    report = json.loads((out / "report.json").read_text("utf-8")) if (out / "report.json").exists() else {}
    return code, report


CHECKS = """\
  - {kind: accuracy, min: 0.9}
  - {name: looks at the object, kind: inside, min_energy: 0.5, min_pointing: 0.8}
  - {name: not at the sky, kind: avoid, region: background, max_energy: 0.3}
  - {name: does not need the sky, kind: counterfactual, replace: background, with: shuffle, max_flips: 0.1}
"""


def test_the_network_that_learned_the_weather_cannot_pass(photos: Path, tmp_path: Path) -> None:
    path = _policy(photos, "weather", CHECKS, more="only: all")
    code, report = _audit(path, tmp_path)
    audit = report["summary"]["audit"]
    rows = {(row["name"], row["statement"]): row for row in audit["checks"]}
    assert code == 1
    assert audit["passed"] is False
    assert rows["accuracy", "accuracy"]["verdict"] == "passed"  # its accuracy tells nothing
    assert rows["not at the sky", "energy"]["verdict"] == "violated"
    assert rows["does not need the sky", "flips"]["verdict"] == "violated"
    assert rows["does not need the sky", "flips"]["measured"] == 1.0  # each gets the sky of the other class
    notes = {each["note"] for each in rows["does not need the sky", "flips"]["violations"]}
    assert notes == {"sun becomes cloud", "cloud becomes sun"}
    worst = rows["not at the sky", "energy"]
    assert worst["line"] == 16
    assert worst["violations"][0]["value"] >= worst["violations"][-1]["value"] > 0.3
    assert worst["confirmed"]["flips"] > 0
    assert worst["confirmed"]["of"] == worst["beyond"] == len(worst["beyond_images"])
    assert worst["beyond_images"][: len(worst["violations"])] == worst["violations"]


def test_the_network_that_sees_the_object_passes(photos: Path, tmp_path: Path) -> None:
    path = _policy(photos, "balanced", CHECKS, more="target: class:sun\nonly: all", name="good.yaml")
    code, report = _audit(path, tmp_path)
    rows = report["summary"]["audit"]["checks"]
    assert [row["verdict"] for row in rows if row["kind"] in ("accuracy", "counterfactual")] == ["passed", "passed"]
    assert [row["verdict"] for row in rows if row["kind"] == "avoid"] == ["passed"]
    assert code == 0


def test_a_map_that_may_not_lie_on_the_object_and_does_is_not_confirmed(photos: Path, tmp_path: Path) -> None:
    """Without the object itself predictions flip whatever is wrong."""
    check = "  - {kind: avoid, region: truth, max_energy: 0.1}"
    path = _policy(photos, "balanced", check, more="target: class:sun\nonly: all", name="truth.yaml")
    code, report = _audit(path, tmp_path)
    [row] = report["summary"]["audit"]["checks"]
    assert (code, row["verdict"], row["confirmed"]) == (1, "violated", None)


def test_files_for_ci(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    path = _policy(photos, "weather", CHECKS, more="only: all")
    assert main(["audit", str(path), "-o", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "VIOLATED" in said
    assert f"::error file={path},line=16,title=cnnviz audit::not at the sky" in said
    cases = ElementTree.parse(tmp_path / "junit.xml").getroot().findall(".//testcase")
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert len(cases) == 5
    assert "not at the sky: energy [gradcam]" in failed
    sarif = json.loads((tmp_path / "audit.sarif").read_text())
    [result] = [each for each in sarif["runs"][0]["results"] if each["ruleId"] == "not at the sky"]
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == 16
    assert (result["level"], len(result["relatedLocations"])) == ("error", 10)
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "## Attention audit: VIOLATED" in text
    assert "| not at the sky: energy | gradcam | **VIOLATED** |" in text


def test_fingerprints_have_no_limits(photos: Path, tmp_path: Path) -> None:
    checks = "\n".join(f"  - {{kind: avoid, region: background, max_energy: {limit}}}" for limit in (0.3, 0.2))
    _audit(_policy(photos, "weather", checks, name="prints.yaml", more="only: all"), tmp_path)
    results = json.loads((tmp_path / "audit.sarif").read_text())["runs"][0]["results"]
    assert [each["ruleId"] for each in results] == ["avoid (max_energy 0.3)", "avoid (max_energy 0.2)"]
    wanted = [hashlib.sha256(f"{name}|energy|gradcam|".encode()).hexdigest() for name in ("avoid", "avoid (2)")]
    assert [each["partialFingerprints"]["check/v1"] for each in results] == wanted


def test_the_page_has_the_checks(photos: Path, tmp_path: Path) -> None:
    path = _policy(photos, "weather", CHECKS, name="page.yaml", more="only: all")
    _, report = _audit(path, tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "<h2>Audit: VIOLATED</h2>" in page
    for row in report["summary"]["audit"]["checks"]:
        name = {"accuracy": "accuracy"}.get(row["name"], f"{row['name']}: {row['statement']}")
        assert f'<th scope="row">{name}</th>' in page
        if row["verdict"] == "violated":
            assert row["violations"][0]["path"] in page
    _audit(_policy(photos, "balanced", "  - {kind: accuracy, min: 0.9}", name="page2.yaml"), tmp_path / "b")
    assert "<h2>Audit: passed</h2>" in (tmp_path / "b" / "index.html").read_text("utf-8")


def test_a_warning_does_not_fail(photos: Path, tmp_path: Path) -> None:
    check = "  - {kind: avoid, region: background, max_energy: 0.3, level: warning}"
    path = _policy(photos, "weather", check, name="warn.yaml", more="only: all")
    code, report = _audit(path, tmp_path)
    assert (code, report["summary"]["audit"]["checks"][0]["verdict"]) == (0, "violated")


def test_drift_from_an_accepted_baseline(photos: Path, tmp_path: Path) -> None:
    check = "  - {kind: drift, baseline: kept, min_similarity: 0.9, max_changed_predictions: 0.02}"
    path = _policy(photos, "weather", check, name="drift.yaml", more="only: all")
    code, report = _audit(path, tmp_path / "a")
    assert "there is no baseline" in report["summary"]["audit"]["checks"][0]["reason"]
    _audit(path, tmp_path / "b", "--accept", "first release")
    code, report = _audit(path, tmp_path / "c")
    rows = report["summary"]["audit"]["checks"]
    assert (code, [row["verdict"] for row in rows]) == (0, ["passed", "passed"])
    assert rows[0]["measured"] == pytest.approx(1, abs=1e-3)
    other = _policy(photos, "balanced", check, name="drift2.yaml", more="only: all")
    code, report = _audit(other, tmp_path / "d")
    rows = report["summary"]["audit"]["checks"]
    assert (code, rows[0]["verdict"]) == (1, "violated")
    _audit(path, tmp_path / "e", "--accept", "for a week", "--until", "2099-01-01")
    kept = Path(path).parent / "kept" / "baseline.json"
    kept.write_text(kept.read_text().replace("2099-01-01", "2020-01-01"))
    _, report = _audit(path, tmp_path / "f")
    assert "accepted until 2020-01-01: for a week" in report["summary"]["audit"]["checks"][0]["reason"]


def test_the_first_baseline_is_not_said_to_be_missing(photos: Path, tmp_path: Path, capsys: Any) -> None:
    checks = "  - {kind: drift, min_similarity: 0.9, max_changed_predictions: 0.1}\n"
    checks += "  - {kind: drift, baseline: other, min_similarity: 0.9}\n"
    path = _policy(photos, "weather", checks, name="first.yaml", more="only: all")
    assert main(["audit", str(path), "-o", str(tmp_path), "--accept", "first release"]) == 0
    said = capsys.readouterr().err
    rows = json.loads((tmp_path / "report.json").read_text("utf-8"))["summary"]["audit"]["checks"]
    reasons = [row["reason"] for row in rows]
    assert reasons[:2] == ["the first baseline: there is nothing to compare it with"] * 2
    other = (
        f"there is no baseline in {photos}/other: --accept writes that of the first check of drift, {photos}/baseline"
    )
    assert reasons[2] == f"{other}; copy one there that was accepted"
    assert f"accepted as the baseline in {photos}/baseline: first release" in said
    assert f"no baseline in {photos}/baseline" not in said
    # What is typed: a copy of the first.
    copytree(photos / "baseline", photos / "other")
    _, report = _audit(path, tmp_path / "again")
    assert [row["verdict"] for row in report["summary"]["audit"]["checks"]] == ["passed"] * 3


def test_a_baseline_that_cannot_be_read_is_accepted_anew(photos: Path, tmp_path: Path, capsys: Any) -> None:
    """As the error says. One in the folder of another check is not written, and is told so."""
    checks = "".join(f"  - {{kind: drift, baseline: {name}, min_similarity: 0.9}}\n" for name in ("broken", "second"))
    path = _policy(photos, "weather", checks, name="broken.yaml", more="only: all")
    assert _audit(path, tmp_path / "a", "--accept", "first")[0] == 0
    copytree(photos / "broken", photos / "second")
    (photos / "broken" / "maps.npz").write_text("no maps")
    capsys.readouterr()
    assert _audit(path, tmp_path / "b")[0] == 2
    assert "Accept it anew with --accept." in capsys.readouterr().err
    code, report = _audit(path, tmp_path / "c", "--accept", "anew")
    audit = report["summary"]["audit"]
    assert (code, [row["verdict"] for row in audit["checks"]]) == (0, ["not decided", "passed"])
    assert [text for text in audit["remarks"] if "cannot be read" in text and text.endswith("it is replaced")]
    assert [row["verdict"] for row in _audit(path, tmp_path / "d")[1]["summary"]["audit"]["checks"]] == ["passed"] * 2
    (photos / "second" / "maps.npz").write_text("no maps")
    capsys.readouterr()
    assert _audit(path, tmp_path / "e", "--accept", "again")[0] == 2
    assert "Copy one there that was accepted." in capsys.readouterr().err


@pytest.mark.parametrize("accept", [(), ("--accept", "first release")])
def test_one_folder_is_one_baseline_however_it_is_spelled(
    photos: Path, tmp_path: Path, accept: tuple[str, ...]
) -> None:
    kept = f"spelled{len(accept)}"
    checks = "".join(f"  - {{kind: drift, baseline: {name}, min_similarity: 0.9}}\n" for name in (kept, f"./{kept}/"))
    path = _policy(photos, "weather", checks, name=f"{kept}.yaml", more="only: all")
    rows = _audit(path, tmp_path, *accept)[1]["summary"]["audit"]["checks"]
    said = "--accept REASON writes one" if not accept else "the first baseline: there is nothing to compare it with"
    assert all(row["reason"].endswith(said) for row in rows)


def test_a_method_that_is_not_faithful_vouches_for_nothing(photos: Path, tmp_path: Path) -> None:
    faithful = "  - {kind: faithful, metric: insertion, better_than: center, by: 0.99}"
    checks = f"{faithful}\n  - {{kind: avoid, region: background, max_energy: 1.0}}"
    more = "only: all\nmin_images: 3\nfalse_alarm: 0.2"
    path = _policy(photos, "weather", checks, name="faithful.yaml", more=more)
    code, report = _audit(path, tmp_path)
    tried, avoid = report["summary"]["audit"]["checks"]
    assert (code, tried["verdict"]) == (1, "violated")
    assert (avoid["verdict"], avoid["trusted"]) == ("not decided", False)
    assert "gradcam is not trusted on this model: it fails 'faithful'" in avoid["reason"]
    # A fixed third of the images is for trust, the rest is judged.
    assert tried["n"] + avoid["n"] <= 24


def test_stable_and_groups(photos: Path, tmp_path: Path) -> None:
    rows = ["path,group"]
    rows += [f"data/{CLASSES[n % 2]}/{n:02d}.png,camera {n % 3}" for n in range(24)]
    (photos / "groups.csv").write_text("\n".join(rows))
    checks = "  - {kind: stable, under: [flip, shift], min_similarity: 0.9, scope: group}"
    path = _policy(photos, "weather", checks, name="stable.yaml", more="only: all\ngroups: groups.csv\nmin_images: 4")
    _, report = _audit(path, tmp_path)
    [row] = report["summary"]["audit"]["checks"]
    assert row["groups"] == 3
    assert row["group"].startswith("camera ")
    assert row["verdict"] == "passed"


def test_groups_that_the_table_does_not_name_decide_nothing(photos: Path, tmp_path: Path, capsys: Any) -> None:
    (photos / "none.csv").write_text("path,group\nelsewhere/x.png,a\n")
    (photos / "some.csv").write_text("path,group\ndata/sun/01.png,a\n")
    check = "  - {kind: accuracy, min: 0.9, scope: group}"
    path = _policy(photos, "weather", check, name="none.yaml", more="groups: none.csv")
    [row] = _audit(path, tmp_path / "a")[1]["summary"]["audit"]["checks"]
    assert (row["verdict"], "none.csv names none of the images" in row["reason"]) == ("not decided", True)
    path = _policy(photos, "weather", check, name="some.yaml", more="groups: some.csv")
    assert main(["audit", str(path), "-o", str(tmp_path / "b")]) == 0
    assert "some.csv does not name 23 of 24 images" in capsys.readouterr().err


def test_a_violation_in_one_class_is_confirmed_by_backgrounds_of_all(photos: Path, tmp_path: Path) -> None:
    check = "  - {kind: avoid, region: background, max_energy: 0.3, scope: class}"
    path = _policy(photos, "weather", check, name="one_class.yaml", more="only: all")
    [row] = _audit(path, tmp_path)[1]["summary"]["audit"]["checks"]
    assert (row["verdict"], row["confirmed"]["of"]) == ("violated", 12)
    assert row["confirmed"]["flips"] == 12  # under the sky of clouds, though other suns come first by chance


def test_predictions_that_became_wrong_have_changed(photos: Path, tmp_path: Path) -> None:
    """Only correct predictions are judged; those that no longer are must not fall out of what drift counts."""
    check = "  - {kind: drift, baseline: right, max_changed_predictions: 0.1}"
    _audit(_policy(photos, "weather", check, name="one.yaml"), tmp_path / "a", "--accept", "right")
    code, report = _audit(_policy(photos, "inverted", check, name="two.yaml"), tmp_path / "b")
    [similar, changes] = report["summary"]["audit"]["checks"]
    assert (code, changes["verdict"], changes["measured"], changes["n"]) == (1, "violated", 1.0, 24)
    assert similar["n"] == 0


# Parts ------------------------------------------------------------------------------------------------------------


def test_changes_are_undone_in_cells() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
    cells = rgb[..., 0].reshape(8, 4, 12, 4).mean((1, 3)).astype(np.float32)
    for name in ("flip", "shift"):
        changed = with_change(name, rgb, (4.0, 4.0))
        after = changed[..., 0].reshape(8, 4, 12, 4).mean((1, 3)).astype(np.float32)
        one, other = undone(name, cells, after)
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert with_change("brightness", rgb, (4, 4)).astype(int).mean() > rgb.mean()
    assert 0 < np.abs(with_change("jpeg", rgb, (4, 4)).astype(int) - rgb).mean() < 64


def test_pasting_and_painting_out() -> None:
    rgb = np.full((64, 64, 3), 50, dtype=np.uint8)
    rgb[20:40, 20:40] = 250
    gone = np.zeros((64, 64), dtype=bool)
    gone[20:40, 20:40] = True
    assert np.abs(painted_out(rgb, gone).astype(int) - 50).max() < 12
    [mixed] = blended(rgb, np.zeros_like(rgb), ~gone)
    assert mixed[30, 30, 0] == 250
    assert mixed[2, 2, 0] == 0
    there = moved(gone, (0, 0, 64, 64), np.random.default_rng(0))
    assert there.sum() == gone.sum()
    assert (there & gone).sum() < gone.sum() / 2
    # Of the square the left half is seen, in a strip that is 10 pixels wider.
    for seed in range(20):
        there = moved(gone, (10, 0, 30, 64), np.random.default_rng(seed))
        assert there[:, 10:30].sum() == there.sum() == 10 * 20
