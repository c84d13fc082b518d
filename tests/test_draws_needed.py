"""How many draws would make the maps of two seeds alike: told, and true of maps that are drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz.metrics.contract import Row
from cnnviz.metrics.repeatability import draws_needed, summarize
from cnnviz.registry.lookup import find_metric
from cnnviz.report import cautions
from tests.support.pictures import photograph
from tests.support.runs import ran


@pytest.mark.parametrize(
    ("count", "alike", "needed"),
    [
        (4000, 0.5, 16000),  # noise as large as what is common; a quarter of it gives 0.8
        (4000, 0.7, 6900),  # 4 x 3 / 7 = 1.714
        (1000, 2 / 3, 2000),
        (1000, 0.799, 1100),
        (10, 0.79, 11),
        (4000, 0.07, None),
        (4000, 0.0, None),
    ],
)
def test_the_variance_of_chance_goes_as_one_over_the_draws(count: int, alike: float, needed: int | None) -> None:
    assert draws_needed(count, alike) == needed


def test_designs_are_doubled() -> None:
    assert [draws_needed(32, alike, doubled=True) for alike in (0.79, 0.6, 0.5, 0.3)] == [64, 128, 128, 512]


def test_so_many_draws_are_enough() -> None:
    """Maps of a common part and noise of variance 1 / N, of two seeds each."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=40000)

    def alike(count: int) -> float:
        one, other = (common + rng.normal(size=common.size) * (2000 / count) ** 0.5 for _ in range(2))
        return float(np.corrcoef(one, other)[0, 1])

    needed = draws_needed(1000, alike(1000))
    assert needed is not None
    assert 0.78 < alike(needed) < 0.83


def test_they_are_counted_of_the_draws_that_a_map_took() -> None:
    """50 samples of superpixels were asked for; of the least alike map whole orders were 70."""
    spec = find_metric("repeatability")
    asked = spec.request({"draws": "samples", "count": 50}).params
    rows = [
        Row({"reliability": alike, "samples": taken}, str(taken), None)
        for alike, taken in ((0.9, 64), (0.5, 70), (None, 68))
    ]
    figures = summarize(rows, spec, asked).figures
    assert figures == {
        "maps": 3, "below_enough": 1, "unknown": 1, "enough": 0.8, "least": 0.5,
        "draws": {"option": "samples", "count": 50, "needed": 70 * 4},
    }  # fmt: skip


def test_what_is_told_of_them() -> None:
    figures = {"maps": 3, "below_enough": 2, "unknown": 1, "enough": 0.8, "least": 0.5}
    draws = {"option": "masks", "count": 4000, "needed": 16000}
    below, unknown = cautions.repeatability({**figures, "draws": draws})
    assert below.endswith("(the least by 0.50); about 16000 --masks would do, in the place of 4000")
    assert unknown.endswith("that of another seed would be; more --masks than 4000 would tell")
    below, _ = cautions.repeatability({**figures, "draws": {**draws, "needed": None}})
    assert below.endswith("(the least by 0.50); far more --masks than 4000 would do")


@pytest.mark.parametrize(
    ("method", "option", "few", "hint"),
    [
        ("rise", "masks", 40, "--coverage observed has less of this noise than --coverage expected"),
        ("sobol", "designs", 4, "fewer --cells have less of this noise"),
        ("hsic", "masks", 40, "fewer --cells have less of this noise"),
        ("shapley", "samples", 60, ""),
        ("kernelshap", "samples", 60, "--variant shapley has about half of this error by as many"),
        ("lime", "samples", 60, "fewer --segments have less of this noise"),
    ],
)
def test_every_method_that_draws_says_of_what_more_are_needed(
    tmp_path: Path, method: str, option: str, few: int, hint: str
) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    report, _, said = ran(method, [tmp_path / "a.png"], tmp_path / "out", params={option: few})
    figures = report["summary"]["repeatability"]
    assert (figures["draws"]["option"], figures["draws"]["count"]) == (option, few)
    told = [note for note in said.notes if "another seed" in note]
    assert told == [f"{text}; {hint}" if hint else text for text in cautions.repeatability(figures)]


def test_what_is_in_use_already_is_not_proposed(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    params = {"masks": 8, "coverage": "observed"}
    _, _, said = ran("rise", [tmp_path / "a.png"], tmp_path / "out", params=params)
    assert any("another seed" in note for note in said.notes)
    assert not any("--coverage" in note for note in said.notes)
