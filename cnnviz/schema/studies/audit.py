"""What a report of ``audit`` has of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.shapes import By, Count, Interval
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network


class BeyondAllowed(TypedDict):
    """An image that is beyond what a check allows."""

    path: str
    """The input as it was found."""
    value: float
    """What was measured of it."""


class Confirmation(TypedDict):
    """What becomes of predictions when the region that a map should avoid is replaced, on the worst images."""

    flips: Count
    """How many predictions flip, and do not in the control."""
    of: Count
    """Of how many."""
    fill: str
    """What takes its place."""


class AuditCheck(TypedDict):
    """One statement of a check, decided."""

    name: str
    """Name of the check, unique in the policy."""
    kind: str
    """What is checked: ``inside``, ``avoid``, ``stable`` and so on."""
    method: str | None
    """Whose maps were judged; null of checks that look at none."""
    level: Literal["error", "warning"]
    """Whether a violation fails the audit."""
    scope: Literal["all", "class", "group"]
    """What is judged together; the worst decides."""
    line: Count
    """Line of the check in the policy."""
    verdict: Literal["passed", "violated", "not decided"]
    """What it came to."""
    passed: bool | None
    """True or false; null where it is not decided."""
    reason: str
    """Why it is not decided; empty otherwise."""
    statement: str
    """What was measured."""
    at_least: bool
    """Whether what is allowed is the least; else it is the most."""
    allowed: float
    """The bound."""
    measured: float | None
    """The mean, or the rate, in the group that decides; null where nothing was measured."""
    ci95: Interval | None
    """Its 95 % interval, of that group alone."""
    n: Count
    """How many images it is of."""
    p: float | None
    """How likely data like these or worse are where the statement holds; null where nothing was tested."""
    group: str | None
    """The class or group that decides; null for all images together."""
    groups: Count
    """How many groups were judged."""
    violations: list[BeyondAllowed]
    """The images of that group which are beyond what is allowed, the worst first, 20 at most."""
    beyond: Count
    """How many there are."""
    trusted: bool
    """Whether the method passed, on this network, what it must to be believed."""
    confirmed: Confirmation | None
    """Of a violated ``avoid``: what the predictions say; null otherwise."""


class AuditFigures(TypedDict):
    """What an audit came to."""

    passed: bool
    """Whether no check of level error is violated (with ``--strict``: and none is undecided)."""
    policy: str
    """The policy's file."""
    false_alarm: float
    """Share of policies that hold, in which any statement is called violated."""
    undecided: Count
    """How many statements of level error are not decided."""
    passes: Count
    """Forward passes of changed photographs."""
    checks: list[AuditCheck]
    """One for each statement and method."""


class AuditSummary(Counted, Network):
    """Of ``audit``."""

    study: Literal["audit"]
    """Name of the command."""
    methods: list[str]
    """Names of the methods."""
    class_guesses: NotRequired[list[str]]
    """Class names that were matched by something other than the whole label."""
    audit: AuditFigures
    """What the checks came to."""
    seconds_per_map: dict[str, float]
    """By method how long a map takes beside the forward passes that methods share, in seconds of the clock."""


class AuditReport(StudyHeader, WithConfusion):
    """The report of ``audit``."""

    summary: AuditSummary
    """What the run came to."""
    images: list[Annotated[Image | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
