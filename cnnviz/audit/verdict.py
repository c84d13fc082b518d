"""What a check comes to: passed, violated, or not decided, by evidence and not by the estimate alone.

A statement says that a mean, or a rate, is at least (at most) what is allowed. It is *violated* where data like these,
or worse, would be rare if it held: a one-sided test whose p is at most what Holm's procedure leaves it of the policy's
false-alarm rate, over all statements of the policy and all their groups (Holm, "A Simple Sequentially Rejective
Multiple Test Procedure", Scandinavian Journal of Statistics 1979). So a policy of which every statement holds raises an
alarm in no more than that share of cases, however many classes it looks at. It *passed* where the estimate is within
what is allowed, on enough images. All else is *not decided*: beyond what is allowed by less than chance explains, or on
too few images.

Rates are tested exactly (binomial). Means are tested by the larger of Student's t test and its skewness-corrected form
(Hall, "On the Removal of Skewness by Transformation", JRSS B 1992), on the means of images, which are independent where
their maps are not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cnnviz.errors import counted
from cnnviz.metrics.intervals import Interval, bootstrap_mean, clopper_pearson
from cnnviz.metrics.tests import binomial_p, t_p

Kind = Literal["mean", "rate"]
Verdict = Literal["passed", "violated", "not decided"]
PASSED, VIOLATED, UNDECIDED = "passed", "violated", "not decided"


@dataclass(frozen=True)
class Observation:
    """What a statement sees of one image: a value, or 0 or 1.

    Attributes:
        image: Its path.
        value: What was measured.
        group: What it is judged with.
        note: What that is, in words, where the value alone does not say: from which class to which.
    """

    image: str
    value: float
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """That a mean or a rate keeps to what is allowed.

    Attributes:
        name: What is measured, as a key.
        kind: Of what the observations are.
        at_least: Whether what is allowed is the least; else it is the most.
        allowed: The bound.
        observations: One or more of each image.
        why_not: Why nothing can be decided whatever the observations say; empty where it can.
        low: The least value that an observation of a mean can have; the largest is 1.
        also: By group the p of a further test: what is violated must be rare by both.
        settled: Why nothing can be violated, where that is so; it passed, whatever was seen.
    """

    name: str
    kind: Kind
    at_least: bool
    allowed: float
    observations: Sequence[Observation] = ()
    why_not: str = ""
    low: float = 0.0
    also: Mapping[str, float] = field(default_factory=dict)
    settled: str = ""


@dataclass(frozen=True)
class GroupResult:
    """A statement in one group of images.

    ``p`` is that of the one-sided test; None where nothing was tested.
    """

    group: str
    measured: float | None
    ci95: Interval | None
    n: int
    p: float | None
    holds: bool
    images: Sequence[tuple[str, float]] = field(default=(), repr=False)


@dataclass(frozen=True)
class Result:
    """What became of a statement.

    Attributes:
        statement: The statement.
        verdict: Over all its groups: violated in one is violated.
        worst: The group that decides: that with the smallest p, or the furthest from what is allowed.
        groups: All of them.
        reason: Why it is not decided; empty otherwise.
    """

    statement: Statement
    verdict: Verdict
    worst: GroupResult | None
    groups: Sequence[GroupResult]
    reason: str = ""

    @property
    def violations(self) -> list[tuple[str, float]]:
        """The images of the group that decides which are beyond what is allowed, the worst first."""
        if self.worst is None:
            return []
        sign = 1 if self.statement.at_least else -1
        beyond = [(image, value) for image, value in self.worst.images if sign * (self.statement.allowed - value) > 0]
        return sorted(beyond, key=lambda each: (sign * each[1], each[0]))


def decide(statements: Sequence[Statement], false_alarm: float, least: int) -> list[Result]:
    """Verdicts of all statements of a policy.

    Args:
        statements: All of them: each group of each takes its part of the false-alarm rate.
        false_alarm: The share of policies that hold, in which any is called violated.
        least: Images that a group must have to pass.
    """
    groups = [_groups(each) for each in statements]
    tested = [(i, j, g.p) for i, own in enumerate(groups) for j, g in enumerate(own) if g.p is not None]
    rejected = _holm([p for _, _, p in tested], false_alarm)
    alarms = {(i, j) for (i, j, _), bad in zip(tested, rejected, strict=True) if bad}
    return [
        _result(each, own, [(i, j) in alarms for j in range(len(own))], least)
        for i, (each, own) in enumerate(zip(statements, groups, strict=True))
    ]


def _holm(ps: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected, with at most ``level`` chance of any wrong rejection."""
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    rejected = [False] * len(ps)
    for rank, place in enumerate(order):
        if ps[place] > level / (len(ps) - rank):
            break
        rejected[place] = True
    return rejected


def _groups(statement: Statement) -> list[GroupResult]:
    named: dict[Hashable, list[Observation]] = {}
    for each in statement.observations if not statement.why_not and not statement.settled else ():
        named.setdefault(each.group, []).append(each)
    return [_group(statement, str(name), own) for name, own in sorted(named.items(), key=lambda item: str(item[0]))]


def _group(statement: Statement, name: str, own: Sequence[Observation]) -> GroupResult:
    of_image: dict[str, list[float]] = {}
    for each in own:
        of_image.setdefault(each.image, []).append(each.value)
    images = [(image, float(np.mean(values))) for image, values in of_image.items()]
    means = np.array([value for _, value in images])
    measured, count = float(means.mean()), len(means)
    holds = measured >= statement.allowed if statement.at_least else measured <= statement.allowed
    sign = 1.0 if statement.at_least else -1.0
    if statement.kind == "rate":
        # Of an image with several maps that differ the side that speaks for the statement.
        hits = math.ceil(means.sum() - 1e-9) if statement.at_least else math.floor(means.sum() + 1e-9)
        p: float | None = binomial_p(hits, count, statement.allowed, below=statement.at_least)
        interval: Interval | None = clopper_pearson(hits, count)
    else:
        most = 1 - statement.allowed if statement.at_least else statement.allowed - statement.low
        p = t_p(sign * (means - statement.allowed), most)
        if p is not None:
            p = max(p, statement.also.get(name, 0.0))
        interval = bootstrap_mean(means)
    return GroupResult(name, measured, interval, count, p, holds, images)


def _result(statement: Statement, groups: Sequence[GroupResult], alarms: Sequence[bool], least: int) -> Result:
    if statement.why_not:
        return Result(statement, "not decided", None, (), statement.why_not)
    if statement.settled:
        seen = len({each.image for each in statement.observations})
        return Result(statement, "passed", GroupResult("", None, None, seen, None, True), (), statement.settled)
    if not groups:
        return Result(statement, "not decided", None, (), "nothing was measured")
    sign = 1 if statement.at_least else -1

    def badness(place: int) -> tuple[bool, float]:
        return not alarms[place], sign * ((groups[place].measured or 0.0) - statement.allowed)

    worst = groups[min(range(len(groups)), key=badness)]
    if any(alarms):
        return Result(statement, "violated", worst, groups)
    few = [group for group in groups if group.n < least]
    outside = [group for group in groups if not group.holds]
    if outside:
        where = f" in {outside[0].group}" if outside[0].group else ""
        return Result(
            statement, "not decided", worst, groups, f"beyond what is allowed{where}, but by no more than chance may do"
        )
    if few:
        where = f" in {few[0].group}" if few[0].group else ""
        why = f"{counted(few[0].n, 'image')}{where}; at least {least} decide"
        return Result(statement, "not decided", worst, groups, why)
    return Result(statement, "passed", worst, groups)
