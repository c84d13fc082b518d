"""Intervals: against scipy, published values and closed forms, and by how often they cover a truth that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cnnviz.metrics.intervals import bias_corrected, bootstrap, bootstrap_mean, clopper_pearson, wilson

RATES = [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (1, 263), (81, 263), (499, 500), (25_000, 50_000), (7, 1_000_000)]


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("hits", "count"), RATES)
def test_intervals_of_rates_are_those_of_scipy(hits: int, count: int, level: float) -> None:
    test = stats.binomtest(hits, count)
    for mine, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        expected = test.proportion_ci(confidence_level=level, method=method)
        assert mine(hits, count, level) == pytest.approx((expected.low, expected.high), rel=1e-7, abs=1e-12), method


def test_published_values() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998, table I."""
    published = {
        (81, 263): ((0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148): ((0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20): ((0.0, 0.1611), (0.0, 0.1684)),
        (1, 29): ((0.0061, 0.1718), (0.0009, 0.1776)),
    }
    for (hits, count), (of_wilson, exact) in published.items():
        assert wilson(hits, count) == pytest.approx(of_wilson, abs=5.1e-5)
        assert clopper_pearson(hits, count) == pytest.approx(exact, abs=5.1e-5)


def test_of_no_hits_the_exact_interval_has_a_closed_form() -> None:
    assert clopper_pearson(0, 37) == pytest.approx((0.0, 1 - 0.025 ** (1 / 37)), rel=1e-12)
    assert clopper_pearson(37, 37) == pytest.approx((0.025 ** (1 / 37), 1.0), rel=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(-1, 3), (4, 3), (0, 0)])
def test_what_is_no_rate_is_refused(hits: int, count: int) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="not a rate"):
            interval(hits, count)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.37, 0.5, 0.9])
def test_intervals_of_rates_cover_the_truth_as_often_as_they_say(rate: float) -> None:
    """Exactly, by the binomial distribution of 60 trials: no simulation needed."""
    hits = np.arange(61)
    chance = stats.binom.pmf(hits, 60, rate)
    covered = {
        name: sum(p for k, p in zip(hits.tolist(), chance, strict=True) if low(k)[0] <= rate <= low(k)[1])
        for name, low in (("exact", lambda k: clopper_pearson(k, 60)), ("wilson", lambda k: wilson(k, 60)))
    }
    assert covered["exact"] >= 0.95
    assert 0.91 < covered["wilson"] < 0.99


def test_the_bootstrap_of_three_values_is_that_of_all_27_draws() -> None:
    """Of few values every draw can be listed; the interval comes close to the quantiles of that list."""
    values = [1.0, 2.0, 6.0]
    every = sorted((a + b + c) / 3 for a in values for b in values for c in values)
    found = bootstrap_mean(values, draws=50_000, level=0.8)
    assert found == pytest.approx((every[2], every[-3]), abs=1e-9)


def test_the_bootstrap_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=80)
    found = bootstrap_mean(values, draws=20_000, seed=1)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.015)


def test_the_bootstrap_follows_its_seed_and_not_the_size_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    one = bootstrap_mean(values, draws=500, seed=7)
    assert one != bootstrap_mean(values, draws=500, seed=8)
    monkeypatch.setattr("cnnviz.metrics.intervals._DRAWN_AT_ONCE", 64)
    assert bootstrap_mean(values, draws=500, seed=7) == pytest.approx(one, rel=1e-12)


def test_groups_are_drawn_as_a_whole() -> None:
    """Every row ten times over is no more knowledge: the interval is that of the rows once, and not a third of it."""
    values = np.random.default_rng(2).normal(size=40)
    repeated, groups = np.repeat(values, 10), np.repeat(np.arange(40), 10).tolist()
    once = bootstrap_mean(values, seed=5)
    assert bootstrap_mean(repeated, groups, seed=5) == pytest.approx(once, rel=1e-12)
    apart = bootstrap_mean(repeated, seed=5)
    assert once is not None
    assert apart is not None
    assert apart[1] - apart[0] < 0.5 * (once[1] - once[0])


def test_a_group_counts_with_all_its_rows() -> None:
    """Two groups of unlike size: by hand, the draws are a mean of (0, 0), (0, 3 x 1) or (3 x 1, 3 x 1)."""
    found = bootstrap_mean([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"], draws=4000, level=0.2)
    assert found == pytest.approx((0.75, 0.75))


def test_one_group_tells_nothing_of_a_spread() -> None:
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]) is None
    assert bootstrap_mean([1.0]) is None
    assert bootstrap_mean([]) is None


@pytest.mark.parametrize("grouped", [False, True])
def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says(grouped: bool) -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(400):
        if grouped:  # values of a group share most of what they are
            values = (generator.normal(size=(30, 1)) + 0.3 * generator.normal(size=(30, 4))).ravel()
            groups = np.repeat(np.arange(30), 4).tolist()
        else:
            values, groups = generator.normal(size=60), None
        found = bootstrap_mean(values, groups, draws=400, seed=trial)
        assert found is not None
        covered += found[0] <= 0.0 <= found[1]
    # The percentile interval of some 30 values is known to cover a little less.
    assert 0.90 < covered / 400 < 0.975


def test_what_is_chosen_by_the_data_is_chosen_in_every_draw() -> None:
    """The best of five thresholds of chance hits: choosing once would centre the interval on one of them."""
    hits = np.random.default_rng(4).random((100, 5)) < 0.5

    def best(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = (weights @ hits / weights.sum(1, keepdims=True)).max(axis=1)
        return found

    found = bootstrap(best, 100, draws=1000)
    assert found is not None
    fixed = bootstrap_mean(hits[:, int(hits.mean(0).argmax())].astype(float), draws=1000)
    assert fixed is not None
    assert found[0] > fixed[0]
    assert math.isclose(found[1], fixed[1], abs_tol=0.05)


def test_what_a_choice_adds_is_taken_off() -> None:
    """The best of three rates of one half each is above it: that it is so because of the choice, the draws tell."""
    generator, covered, without = np.random.default_rng(9), 0, 0
    for trial in range(100):
        hits = (generator.random((200, 3)) < 0.5).astype(np.float64)

        def best(weights: np.ndarray, hits: np.ndarray = hits) -> np.ndarray:
            found: np.ndarray = (weights @ hits / weights.sum(1, keepdims=True)).max(axis=1)
            return found

        for method, seen in ((bias_corrected, True), (bootstrap, False)):
            found = method(best, 200, draws=200, seed=trial)
            assert found is not None
            covered += seen and found[0] <= 0.5 <= found[1]
            without += not seen and found[0] <= 0.5 <= found[1]
    assert covered > without + 5
    values = generator.normal(size=50)

    def mean(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = weights @ values / weights.sum(axis=1)
        return found

    # Of a mean, of which as many draws are below as above, it takes nothing off.
    assert bias_corrected(mean, 50) == pytest.approx(bootstrap(mean, 50), abs=0.03)
    assert bias_corrected(mean, 1) is None
