"""What a report of ``audit`` has of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.shapes import By, Count, Interval, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network


class BeyondAllowed(TypedDict):
    """An image that is beyond what a check allows."""

    path: str
    """The input as it was found."""
    value: float
    """What was measured of it."""
    note: NotRequired[str]
    """What that is, where it is a prediction: which class becomes, or is taken for, which other."""


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
    """Why it is not decided, or why nothing was to be measured; empty otherwise."""
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
    beyond_images: list[BeyondAllowed]
    """All of them, the worst first; none where the check is not violated."""
    trusted: bool
    """Whether the method passed, on this network, what it must to be believed."""
    confirmed: Confirmation | None
    """Of a violated ``avoid``: what the predictions say; null otherwise."""


class ClusterFlips(TypedDict):
    """What becomes of predictions where the region that a cluster of maps looks at is painted out."""

    of: Count
    """How many photographs it was painted out of."""
    region: Share
    """Share of their predictions that flip."""
    random: Share
    """The same without random regions as large."""
    p: Share
    """How likely as many flips are, were the region no other than the random ones (paired)."""


class MapCluster(TypedDict):
    """Maps of one class that are alike."""

    number: Count
    """From 1, the largest first."""
    maps: Count
    """How many maps it has."""
    members: list[str]
    """Its inputs as they were found, 20 at most."""
    suspected: bool
    """Whether what it looks at was painted out."""
    region: list[Share] | None
    """What it looks at: x0, y0, x1, y1 around the hot part of its mean map, as shares of what the network sees."""
    on_object: Share | None
    """Mean share of that part on the object; null where nothing says where objects are."""
    flips: ClusterFlips | None
    """What becomes of predictions without it; null where nobody asked."""


class ClassClusters(TypedDict):
    """Clusters of the maps of a class, of a check ``shortcuts``."""

    check: str
    """Name of the check."""
    method: str
    """Whose maps they are."""
    label: str
    """The class."""
    maps: Count
    """How many maps were divided."""
    eigenvalues: list[float]
    """The smallest of the Laplacian of their graph, rising, 32 at most."""
    gap: float
    """Eigenvalue of the last cluster, as a share of the next; of one cluster the smallest such share."""
    clusters: list[MapCluster]
    """The largest first."""
    file: str | None
    """Picture of the clusters; null where there is one, and nothing to suspect."""


class FailedFile(TypedDict):
    """An image that failed."""

    path: str
    """Its file."""
    error: str
    """Why."""


class AuditFigures(TypedDict):
    """What an audit came to."""

    passed: bool
    """Whether all checks of level error passed: what is not decided has not, though without ``--strict`` it fails
    nothing.
    """
    verdict: Literal["passed", "violated", "not decided"]
    """What the checks of level error came to together; not decided, too, where not all images were seen."""
    strict: bool
    """Whether what is not decided fails: the exit code is 1 where a check is violated, and with this where one is
    undecided.
    """
    policy: str
    """The policy's file."""
    false_alarm: float
    """Share of policies that hold, in which any statement is called violated."""
    undecided: Count
    """How many statements of level error are not decided."""
    passes: Count
    """Forward passes of changed photographs."""
    seconds: dict[str, float]
    """What took how long: ``maps``, metrics by name and checks by name, in seconds of the threads that ran them."""
    checks: list[AuditCheck]
    """One for each statement and method."""
    remarks: list[str]
    """What was left out of which check and why, and what else people were told."""
    failed: list[FailedFile]
    """Images of which nothing is known, because they could not be explained."""
    clusters: list[ClassClusters]
    """Of checks ``shortcuts``: the clusters of the maps of each class."""


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
