"""Verdicts of an audit: tests against scipy, Holm by brute force, false alarms by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cnnviz.audit.predictions import _pseudo_values, ece
from cnnviz.audit.verdict import Observation, Statement, _holm, decide
from cnnviz.metrics.tests import binomial_p, t_p


@pytest.mark.parametrize(
    ("hits", "count", "rate"), [(3, 10, 0.5), (0, 7, 0.2), (7, 7, 0.2), (40, 50, 0.9), (1, 3, 0.0)]
)
def test_the_binomial_test_is_scipys(hits: int, count: int, rate: float) -> None:
    for below, other in ((True, "less"), (False, "greater")):
        expected = stats.binomtest(hits, count, rate, alternative=other).pvalue
        assert binomial_p(hits, count, rate, below=below) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_mean_of_symmetric_values_is_tested_as_by_student() -> None:
    values = np.array([0.4, -0.3, 0.1, -0.2, -0.5, 0.5, -0.4, 0.3, 0.2, -0.1]) - 0.3
    expected = stats.ttest_1samp(values, 0, alternative="less").pvalue
    assert t_p(values) == pytest.approx(expected, rel=1e-6)
    assert t_p(np.array([0.1, 0.2])) is None
    assert t_p(np.full(8, 0.0)) == 1.0


def test_skewed_values_are_tested_by_halls_form_where_it_is_larger() -> None:
    values = np.random.default_rng(0).exponential(1, 12) - 1.6
    plain, g = values.mean() / values.std(ddof=1), ((values - values.mean()) ** 3).mean() / values.std(ddof=1) ** 3
    # A cube in closed form, whose derivative cannot be negative.
    corrected = ((1 + g * plain / 3) ** 3 - 1) / g + g / (6 * 12)
    expected = max(stats.t.cdf(each * np.sqrt(12), 11) for each in (plain, corrected))
    assert t_p(values) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [0.005, 0.02, 0.05])
def test_what_lies_far_beyond_is_violated_however_skewed(scale: float) -> None:
    """Shares near 0 with a tail upwards, where one half is asked for."""
    rng = np.random.default_rng(0)
    found = [t_p(rng.exponential(scale, 24) - 0.5) for _ in range(50)]
    assert max(each or 0.0 for each in found) < 1e-4


def test_values_that_are_all_alike_may_be_of_a_mean_that_holds() -> None:
    """Twenty maps without energy in the object, where one in twenty has all of it there: no alarm."""
    [alike] = decide([_statement(np.zeros(20), allowed=0.05)], 0.01, 10)
    assert (alike.verdict, alike.worst and alike.worst.p) == ("not decided", pytest.approx(0.95**20))
    [beyond] = decide([_statement(np.zeros(20))], 0.01, 10)
    assert (beyond.verdict, beyond.worst and beyond.worst.p) == ("violated", pytest.approx(0.5**20))
    most = Statement("x", "mean", False, 0.2, [Observation(f"{i}", 0.5) for i in range(8)])
    below = replace(most, low=-1.0)
    [one], [two] = decide([most], 0.01, 5), decide([below], 0.01, 5)
    assert one.worst is not None
    assert two.worst is not None
    assert (one.worst.p, two.worst.p) == (pytest.approx(0.4**8), pytest.approx(0.8**8))


def test_holm_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ps = list(rng.random(6) ** 4)
        adjusted, running = [0.0] * 6, 0.0
        for rank, place in enumerate(sorted(range(6), key=lambda i: ps[i])):
            running = max(running, ps[place] * (6 - rank))
            adjusted[place] = running
        assert _holm(ps, 0.05) == [value <= 0.05 for value in adjusted]


def _statement(values: np.ndarray, group: str = "", *, kind: str = "mean", allowed: float = 0.5) -> Statement:
    seen = [Observation(f"{i}", float(v), group) for i, v in enumerate(values)]
    return Statement("x", kind, True, allowed, seen)  # type: ignore[arg-type]


def test_the_three_verdicts() -> None:
    rng = np.random.default_rng(0)
    [good] = decide([_statement(0.6 + 0.1 * rng.random(30))], 0.01, 10)
    [bad] = decide([_statement(0.3 + 0.1 * rng.random(30))], 0.01, 10)
    [close] = decide([_statement(0.45 + 0.2 * rng.random(8) - 0.06)], 0.01, 10)
    [few] = decide([_statement(0.6 + 0.1 * rng.random(4))], 0.01, 10)
    [none] = decide([Statement("x", "mean", True, 0.5)], 0.01, 10)
    verdicts = [each.verdict for each in (good, bad, close, few, none)]
    assert verdicts == ["passed", "violated", "not decided", "not decided", "not decided"]
    assert "at least 10 decide" in few.reason
    assert "no more than chance" in close.reason
    assert bad.violations[0][1] == min(value for _, value in bad.violations)
    assert len(bad.violations) == 30


def test_the_worst_group_decides() -> None:
    rng = np.random.default_rng(1)
    seen = [Observation(f"{g}{i}", float(v), g) for g, low in (("a", 0.7), ("b", 0.1), ("c", 0.8))
            for i, v in enumerate(low + 0.1 * rng.random(20))]  # fmt: skip
    [result] = decide([Statement("x", "mean", True, 0.5, seen)], 0.01, 10)
    assert result.verdict == "violated"
    assert result.worst is not None
    assert (result.worst.group, result.worst.n, len(result.groups)) == ("b", 20, 3)


def test_maps_of_one_image_count_as_one() -> None:
    seen = [Observation(f"{i // 10}", 0.0 if i < 30 else 1.0) for i in range(60)]
    [result] = decide([Statement("x", "rate", True, 0.9, seen)], 0.01, 3)
    assert result.worst is not None
    assert (result.worst.n, result.worst.measured) == (6, 0.5)
    assert result.worst.p == pytest.approx(binomial_p(3, 6, 0.9, below=True))


def test_false_alarms_of_a_policy_that_holds() -> None:
    """Eight checks of 12 classes each, at the very edge of what is allowed: means of skewed shares, and rates."""
    rng = np.random.default_rng(0)
    alarms, runs = 0, 60
    for _ in range(runs):
        statements = []
        for number in range(8):
            seen = []
            for group in range(12):
                if number % 2:
                    values = (rng.random(15) < 0.7).astype(float)
                else:
                    values = rng.beta(0.7, 0.3, 15)  # mean 0.7, most of it near 1
                seen += [Observation(f"{group}-{i}", float(v), str(group)) for i, v in enumerate(values)]
            kind = "rate" if number % 2 else "mean"
            statements.append(Statement("x", kind, True, 0.7, seen))  # type: ignore[arg-type]
        alarms += any(result.verdict == "violated" for result in decide(statements, 0.05, 10))
    # At 5 %: of 60 policies 3 are expected at most; 9 or more would have a probability of a third of a per cent.
    assert alarms < 9


def test_calibration_error_by_hand() -> None:
    sure, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1.0, 0.0, 1.0, 1.0])
    assert ece(sure, right, 10) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


def test_pseudo_values_of_the_calibration_error_are_those_of_leaving_one_out() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(40)
    right = (rng.random(40) < 0.6).astype(float)
    whole = ece(sure, right, 5)
    for image, value in enumerate(_pseudo_values(sure, right, 5)):
        rest = np.arange(40) != image
        assert value == pytest.approx(40 * whole - 39 * ece(sure[rest], right[rest], 5))
