"""Why an audit decides nothing, or less than it seems to: the reasons that it gives, and what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnnviz.cli.app import main
from tests import test_audit_told
from tests.test_audit_told import _policy, _rows

photos = test_audit_told.photos


def test_folders_of_a_network_without_class_names_are_told_what_names_them(
    tmp_path: Path, photos: Path, capsys: Any
) -> None:
    path = _policy(photos, "truth.json")
    path.write_text(path.read_text().replace(" labels: labels.txt,", ""))
    assert main(["audit", str(path), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "Nothing names the network's classes: give --labels FILE, or call folders by" in capsys.readouterr().err


def test_where_only_leaves_no_prediction_it_is_the_reason(tmp_path: Path, photos: Path) -> None:
    """All predictions are right, and of a network with its head the wrong way round none is."""
    path = _policy(photos, "truth.json", "only: wrong")
    rows = _rows(path, tmp_path / "wrong")
    why = "no prediction of its images is {}, and only: {} judges no others; only: all judges them"
    assert {row["reason"] for row in rows} == {why.format("wrong", "wrong")}
    path.write_text(path.read_text().replace("only: wrong", "").replace(":weather", ":inverted"))
    rows = _rows(path, tmp_path / "inverted")
    assert {row["reason"] for row in rows} == {why.format("right", "correct")}


def test_evidence_is_of_networks_that_say_classes_at_positions(tmp_path: Path, photos: Path) -> None:
    path = _policy(photos, "truth.json")
    path.write_text(path.read_text() + "  - {kind: evidence, on: background}\n")
    last = _rows(path, tmp_path / "out")[-1]
    assert last["verdict"] == "not decided"
    assert last["reason"].startswith("the network says no class at its positions: evidence is of segmentation networks")


@pytest.mark.parametrize(("fill", "told"), [("shuffle", True), ("mean", False)])
def test_what_is_exchanged_within_a_class_is_told(
    fill: str, told: bool, tmp_path: Path, photos: Path, capsys: Any
) -> None:
    """A mark that all images have is put back by the exchange: no prediction flips."""
    path = _policy(photos, "truth.json")
    path.write_text(path.read_text().replace("with: shuffle", f"with: {fill}"))
    _rows(path, tmp_path / "out")
    said = capsys.readouterr().err
    assert ("counterfactual: all 12 images are predicted as sun: what is put in comes from" in said) is told


@pytest.mark.parametrize("save", ["none", "overlay", "[none]", None])
def test_a_baseline_has_maps_whatever_is_saved(save: str | None, tmp_path: Path, photos: Path) -> None:
    """With ``save: none`` it had none, and maps of the same network had nothing to be compared with."""
    path = _policy(photos, "truth.json", "" if save is None else f"options: {{save: {save}}}")
    checks = f"checks:\n  - {{kind: drift, baseline: {tmp_path / 'base'}}}\n"
    path.write_text(path.read_text().partition("checks:")[0] + checks)
    _rows(path, tmp_path / "first", "--accept", "first")
    [row] = _rows(path, tmp_path / "again")
    assert (row["verdict"], row["n"], row["measured"]) == ("passed", 12, 1.0)
    # On the command line too.
    [row] = _rows(path, tmp_path / "told", "--save", "none")
    assert (row["verdict"], row["measured"]) == ("passed", 1.0)
