"""The faithfulness metrics in a run: their keys, their sentences, targets that are no classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typing_extensions

from cnnviz.metrics.contract import Row
from cnnviz.metrics.faithfulness_summary import summarize
from cnnviz.registry import lookup
from cnnviz.registry.faithfulness_metrics import FAITHFULNESS
from cnnviz.schema.faithfulness import FaithfulnessScores
from tests.support.runs import ran

QUICK = (
    "insertion:steps=4", "deletion:steps=4,baselines=no", "road:percentages=30+60", "average_drop", "increase",
    "sensitivity_n:subsets=4,patch=16", "infidelity:draws=4", "max_sensitivity:draws=2", "sparseness",
    "occlusion_agreement:stride=32",
)  # fmt: skip


def keys(kind: Any) -> set[str]:
    return set(typing_extensions.get_type_hints(kind))


def test_the_figures_are_those_of_the_schema() -> None:
    own = typing_extensions.get_type_hints(FaithfulnessScores)
    assert list(own) == [spec.name for spec in FAITHFULNESS]
    for spec in FAITHFULNESS:
        assert keys(own[spec.name]) == {figure.name for figure in spec.figures}


def test_a_run_has_the_figures_of_all_of_them(sample_images: Path, tmp_path: Path) -> None:
    """Of a class, and of a unit, which has no probability: its activation is followed."""
    report, _, told = ran(
        "gradcam", [sample_images], tmp_path / "o", metrics=QUICK, targets=("pred", "unit:3:2"), limit=2
    )
    assert len(report["images"]) == 2
    for image in report["images"]:
        of_class, of_unit = (each["scores"] for each in image["explanations"])
        assert of_class["insertion"]["unit"] == of_class["road"]["unit"] == "probability"
        assert of_unit["deletion"]["unit"] == of_unit["road"]["unit"] == "activation"
        assert len(of_class["insertion"]["curve"]) == 5
        assert of_class["insertion"]["curve"][-1] == pytest.approx(of_class["deletion"]["curve"][0], abs=2e-6)
        [first, *_] = image["predictions"]
        assert of_class["deletion"]["curve"][0] == pytest.approx(first["probability"], abs=1e-4)
        assert "blurred" not in of_class["deletion"]
        for spec in FAITHFULNESS:
            expected = {figure.name for figure in spec.figures}
            if spec.name == "deletion":
                expected -= {"blurred", "over_blurred"}
            assert set(of_class[spec.name]) == set(of_unit[spec.name]) == expected
    assert list(report["summary"]["metrics"]) == [spec.name for spec in FAITHFULNESS]
    assert report["summary"]["metrics"]["insertion"]["area"]["n"] == 4
    assert any(note.startswith("Insertion (hidden: the blurred image): area ") for note in told.notes)


@pytest.mark.parametrize(
    ("over", "verdict"),
    [
        ([0.1, 0.2, 0.3, 0.15], None),
        ([-0.2, 0.3, 0.1, -0.1], "Deletion: not better than its own blur: +0.025 on average, at least -0.1"),
        ([-0.25], "Deletion: not better than its own blur: -0.25 on average, at least -0.25"),
        ([None], None),
    ],
)
def test_it_is_told_where_maps_are_not_better_than_their_own_blur(
    over: list[float | None], verdict: str | None
) -> None:
    spec = lookup.find_metric("deletion")
    rows = [Row({"area": 0.3, "blurred": 0.2, "over_blurred": each}, str(i), None) for i, each in enumerate(over)]
    found = summarize(rows, spec, spec.request({"replace": "mean"}).params)
    assert found.notes[0].startswith("Deletion (hidden: the image's mean colour): area 0.3")
    said = [note for note in found.notes if "own blur" in note]
    assert len(said) == (verdict is not None)
    assert not said or (verdict is not None and said[0].startswith(verdict[:-4]))


def test_runs_without_maps_say_nothing() -> None:
    spec = lookup.find_metric("insertion")
    assert summarize([], spec, spec.request().params).figures is None
