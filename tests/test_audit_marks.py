"""Policies without labels: what ``truth`` marks says where objects are, and not what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cnnviz.cli.app import main
from tests import test_audit
from tests.support.marked_squares import marked_squares


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of a red square in a blue sky; the square is marked as the sun, on two as a cloud."""
    base = tmp_path_factory.mktemp("marks")
    marked = marked_squares(base, [f"{number}.png" for number in range(6)], {i: 1 + (i < 4) for i in range(6)})
    names = [{"id": 1, "name": "cloud"}, {"id": 2, "name": "sun"}]
    (base / "truth.json").write_text(json.dumps({**marked, "categories": names}))
    return base


def _report(base: Path, out: Path, labels: str, *more: str) -> dict[str, Any]:
    model = f"{test_audit.__file__}:weather, labels: labels.txt, input_size: 64, resize: 64, mean: '0', std: '1'"
    checks = "  - {kind: inside, min_energy: 0.0}\n  - {kind: counterfactual, with: mean, max_flips: 1.0}\n"
    path = base / "policy.yaml"
    head = (
        f"version: 1\nmodel: {{name: {model}}}\nimages: data\n{labels}\nonly: all\ntruth: truth.json\nmin_images: 2\n"
    )
    path.write_text(f"{head}checks:\n{checks}")
    assert main(["audit", str(path), "-o", str(out), "-q", *more]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return report


@pytest.mark.parametrize("labels", ["labels: none", ""])
def test_without_labels_nothing_is_right_or_wrong(photos: Path, tmp_path: Path, labels: str) -> None:
    report = _report(photos, tmp_path, labels)
    assert "confusion" not in report
    assert not {"outcomes", "labelled", "accuracy"} & set(report["summary"])
    for number, record in enumerate(report["images"]):
        assert "outcome" not in record
        assert [row["label"] for row in record["true_classes"]] == ["sun" if number < 4 else "cloud"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "truth: cloud, predicted: sun" not in page
    assert "marked sun: right" not in page
    assert "marked cloud" in page
    # Where the objects are is known as before: of the predicted class, and of what is marked.
    assert [row["n"] for row in report["summary"]["audit"]["checks"]] == [4, 6]


def test_with_labels_it_is(photos: Path, tmp_path: Path) -> None:
    report = _report(photos, tmp_path, "labels: folder")
    assert report["summary"]["outcomes"] == {"correct": 6, "wrong": 0}
    assert [record["outcome"] for record in report["images"]] == ["correct"] * 6


def test_records_of_the_cache_judge_as_the_policy_does(photos: Path, tmp_path: Path) -> None:
    """The class that stands on the command line is the same in both runs; one policy has labels."""
    more = ("-c", "pred", "--cache", str(tmp_path / "cache"))
    judged = _report(photos, tmp_path / "a", "labels: folder", *more)
    assert judged["summary"]["outcomes"] == {"correct": 4, "wrong": 2}
    plain = _report(photos, tmp_path / "b", "labels: none", *more)
    assert "outcomes" not in plain["summary"]
    assert all("outcome" not in record for record in plain["images"])


@pytest.mark.parametrize("truth", ["truth: truth.json\n", ""])
def test_labels_of_the_table_that_names_the_images_judge_only_where_the_policy_asks(
    photos: Path, tmp_path: Path, truth: str
) -> None:
    """The table calls half of the six a cloud; the network takes all for a sun."""
    table = photos / "named.csv"
    rows = [f"data/sun/{number}.png,{'cloud' if number % 2 else 'sun'}" for number in range(6)]
    table.write_text("\n".join(["path,label", *rows]))
    model = f"{test_audit.__file__}:weather, labels: labels.txt, input_size: 64, resize: 64, mean: '0', std: '1'"
    reports = {}
    for labels in ("labels: named.csv", "labels: none"):
        path = photos / "table.yaml"
        head = f"version: 1\nmodel: {{name: {model}}}\nimages: named.csv\n{labels}\ntarget: pred\nonly: all\n{truth}"
        path.write_text(f"{head}min_images: 2\nchecks: [{{kind: avoid, region: [0, 0, 1, 0.1], max_energy: 1.0}}]\n")
        out = tmp_path / labels[-4:]
        more = ("-c", "pred", "-o", str(out), "-q", "--cache", str(tmp_path / "cache"))
        assert main(["audit", str(path), *more]) == 0
        reports[labels] = json.loads((out / "report.json").read_text("utf-8"))
    assert reports["labels: named.csv"]["summary"]["outcomes"] == {"correct": 3, "wrong": 3}
    assert reports["labels: named.csv"]["summary"]["accuracy"] == 0.5
    plain = reports["labels: none"]
    assert "confusion" not in plain
    assert not {"outcomes", "labelled", "accuracy"} & set(plain["summary"])
    assert all("outcome" not in record for record in plain["images"])
    assert [row["n"] for row in plain["summary"]["audit"]["checks"]] == [6]
    page = (tmp_path / "none" / "index.html").read_text("utf-8")
    assert "predicted: sun" not in page
    assert "labelled sun: right" not in page
