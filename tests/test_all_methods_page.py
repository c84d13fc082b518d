"""The page of the large table is what its results say."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.all_methods import PAGE, page, subset

RESULTS = PAGE.parent / "results" / "all_methods.json"


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))


def test_a_subset_is_fixed_and_of_photographs_alone(tmp_path: Path) -> None:
    for name in [*(f"{number:02}.jpg" for number in range(20)), "list.csv"]:
        (tmp_path / name).touch()
    some = subset(str(tmp_path), 5)
    assert some == subset(str(tmp_path), 5) == sorted(some)
    assert len(set(some)) == 5
    assert len(subset(str(tmp_path), None)) == len(subset(str(tmp_path), 99)) == 20


def test_figures_without_a_value_are_a_dash() -> None:
    row = {"network": "n", "command": "localize", "method": "cam", "options": "", "images": 3}
    figures = {"pxap": {"value": 0.25, "ci95": [0.1, 0.5]}, "max_box_acc": {"value": None, "ci95": None}}
    text = page({"machine": {"date": "d", "torch": "t"}, "rows": [{**row, "figures": figures}, {**row, "figures": {}}]})
    assert "| cam | 3 | 0.25 (0.1 to 0.5) |" in text
    assert "| cam | 3 | - |" in text
    assert "MaxBoxAcc ↑" not in text
