"""What a run came to: ``summary`` of a report. Studies add their figures, see :mod:`cnnviz.schema.studies`."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.shapes import Count, Interval, Share, open_to


class Begun(TypedDict):
    """The summary of a run that has not ended, or was killed."""

    inputs: Count
    """Nothing is counted yet: 0."""
    explained: Count
    """Nothing is counted yet: 0."""
    failed: Count
    """Nothing is counted yet: 0."""
    finished: Literal[False]
    """That the run has not ended; the summary of one that has has no such key."""


class OutsideView(TypedDict):
    """What of the images the network was not shown."""

    images: Count
    """How many images were not shown to the network as a whole."""
    mean_share: Share
    """Mean share of them that was left out, 0 to 1."""


class Time(TypedDict):
    """How long a run took."""

    seconds: float
    """Seconds of the run without its start: of the last part of one that was continued, of ``timed`` images; where
    ``--resume`` found everything done, of the run that did it."""
    interrupted: NotRequired[Literal[True]]
    """There after Ctrl-C."""


class Network(TypedDict):
    """What was explained or studied, and what people should know of what was found."""

    model: str
    """Name of the network."""
    remarks: NotRequired[list[str]]
    """What people were told of all images together, a sentence each: what figures warn of, how many maps are flat and
    why, what was not found. There where there is any."""


class Outcomes(TypedDict):
    """How often the network is right, of the images whose classes are known."""

    correct: Count
    """How many images it gets right."""
    wrong: Count
    """How many it gets wrong."""


class FromCache(TypedDict):
    """What of a run was in its cache."""

    images: Count
    """How many images have a record that an earlier run found."""
    of_images: Count
    """Of how many: those, and the images that were explained."""
    answers: Count
    """How many questions of an audit were answered before."""
    of_answers: Count
    """How many were looked up."""
    run: bool
    """Whether the whole run was in the cache, so that no network was loaded: ``seconds`` is then the time that it took
    to write it again, other times are those of the run that did the work."""


class Inputs(TypedDict):
    """What became of the inputs."""

    inputs: Count
    """How many images were asked for."""
    explained: Count
    """How many were explained, or looked at by a study."""
    failed: Count
    """How many have an ``error``."""
    passed_over: Count
    """How many files of folders are not images."""
    images_per_second: float | None
    """Images a second of those that the run did itself; where ``--resume`` found everything done, of the run that did
    it; null where there were none."""
    excluded: NotRequired[Count]
    """Of ``--exclude``: how many images it left out; they are not among the ``inputs``, and have no record."""
    cache: NotRequired[FromCache]
    """Of commands that make maps, where they have a cache: what was in it."""
    resumed: NotRequired[Count]
    """How many inputs ``--resume`` found done."""
    timed: NotRequired[Count]
    """Of a run that was continued: how many images ``seconds`` and ``images_per_second`` are of, those of its last
    part; of shares that were joined the sum of these."""
    failures: NotRequired[dict[str, Count]]
    """How many inputs failed, by kind of error."""
    labelled: NotRequired[Count]
    """How many inputs have a known label."""
    accuracy: NotRequired[Share]
    """The share of these whose label is the first prediction, 0 to 1."""
    outcomes: NotRequired[Outcomes]
    """Of commands that make maps: how often the network is right, where classes of images are known."""
    skipped: NotRequired[Count]
    """Of ``--only``: how many images were looked at and left out."""
    without_truth: NotRequired[Count]
    """Of ``--truth``: how many of those explained the annotations do not have."""
    unmatched: NotRequired[dict[str, Count]]
    """In how many images a target matches nothing although another does, by the target as it was asked for."""
    outside_view: NotRequired[OutsideView]
    """What of the images the network was not shown."""
    run_folders_passed_over: NotRequired[list[str]]
    """Output folders of other runs that lie among the inputs."""
    stopped: NotRequired[str]
    """Why the run ended early, but for Ctrl-C."""
    unmeasured: NotRequired[str]
    """Of studies, ``evaluate`` and ``localize``, where nothing was measured: why, and what to type next."""
    kept: NotRequired[Count]
    """How many results of inputs that were not named this time stay, behind the others."""
    gone: NotRequired[Count]
    """How many inputs of the run that is continued no longer exist: their results were removed."""


class Counted(Inputs, Time):
    """What every summary of a run over inputs has."""


class Mean(TypedDict):
    """A mean over maps."""

    value: float | None
    """The mean; null where there is nothing to take it of."""
    ci95: Interval | None
    """Its 95 % interval; null where there is none."""
    n: Count
    """How many maps it is taken of."""


class Ranked(Mean):
    """A mean over the maps of a method, or of what stands beside the methods, in a comparison."""

    better_than: NotRequired[list[str]]
    """Which other methods and baselines it is better than by more than chance explains: a paired t test, image by
    image, gives p < 0.05, and at least six images differ; of ``localize``, and where a figure is none of single maps,
    the two intervals are apart and there are at least six images."""


class NoBetter(TypedDict):
    """By which figure a method is no better than maps that know nothing of the network."""

    figure: str
    """The figure, as the table calls it."""
    method: str
    """Name of the method."""
    than: list[str]
    """Which of these maps have as good a figure, or a better one."""
    certain: list[str]
    """Those of them that are better by more than chance explains."""


class BesideBaselines(TypedDict):
    """How methods stand to what knows nothing of the network."""

    images: Count
    """On how many images methods are compared."""
    enough: Count
    """The number of images from which on a difference can be more than chance explains."""
    no_better: list[NoBetter]
    """Where methods are no better. Not asked of figures by which such maps win by what they are, such as sparseness."""


class SanityMeans(TypedDict):
    """Means over all maps of a step of ``--sanity``."""

    down_to: str
    """The lowest layer that is random; all layers above it are random too."""
    layers: Count
    """How many layers with weights are random."""
    spearman: Mean
    """Rank correlation of the values with those of the trained network's map, -1 to 1."""
    spearman_abs: NotRequired[Mean]
    """Rank correlation of the magnitudes, of maps that have a sign."""
    ssim: Mean
    """Structural similarity, at most 1, of the magnitudes where maps have a sign."""


class LeftOut(TypedDict):
    """How much of the score maps leave out, of methods whose values should add up to it."""

    maps: Count
    """How many maps have a ``gap_share``."""
    above_tolerance: Count
    """How many leave out more than ``tolerance``."""
    tolerance: Share
    """The share of the score up to which a gap is not worth mentioning."""
    largest: float
    """The largest share that one leaves out."""


class Repeatability(TypedDict):
    """How alike the maps of another seed would be, of methods that draw by chance."""

    maps: Count
    """How many maps have a ``reliability``."""
    below_enough: Count
    """How many have less than ``enough``."""
    unknown: Count
    """Of how many too few samples tell it."""
    enough: Share
    """The correlation from which on a map is not worth mentioning."""
    least: float | None
    """The least of all maps of which it is known."""
    draws: NotRequired[Draws]
    """How many draws they were made of, and how many would do."""


class Draws(TypedDict):
    """How many draws maps were made of."""

    option: str
    """What says it: ``masks``, ``samples`` or ``designs``."""
    count: Count
    """How many they were."""
    needed: Count | None
    """About how many make all maps as alike as is ``enough``: the variance of chance goes as 1 over their number. Null
    where all are, where it is not known, and where it is more than fifty times as many."""


class Fit(TypedDict):
    """How well linear models of the score fit, of methods whose values are their coefficients."""

    maps: Count
    """How many maps have a ``fit``."""
    below_enough: Count
    """How many have less than ``enough``."""
    enough: float
    """The share of the variance below which a constant would explain the scores better."""
    least: float
    """The least of all maps."""


@open_to("figures of the metric, each with ``value``, ``ci95`` and ``n``")
class MetricSummary(TypedDict, total=False):
    """What a metric says of all maps of a run: its figures, by bootstrap over images, of rates by Wilson."""

    maps: Count
    """How many maps were scored."""
    without_truth: Count
    """How many maps were not, for want of the truth that the metric needs."""
    baselines: dict[str, dict[str, Any]]
    """The same figures of maps that know nothing of the network, by the baseline's name."""


class MethodSummary(TypedDict):
    """What the summary says of the method."""

    method: str
    """Name of the method."""
    class_specific: bool
    """Whether the map depends on the class."""
    caveat: NotRequired[str]
    """What to keep in mind with this method."""
    class_guesses: NotRequired[list[str]]
    """Class names that were matched by something other than the whole label."""


class Conclusions(TypedDict, total=False):
    """What all maps of a run say together."""

    sanity: list[SanityMeans]
    """Of ``--sanity``: how alike maps are to those of the network with random weights, one row a step."""
    left_out: LeftOut
    """How much of the score maps leave out, of methods whose values should add up to it."""
    repeatability: Repeatability
    """How alike the maps of another seed would be, of methods that draw by chance."""
    fit: Fit
    """How well linear models of the score fit, of methods whose values are their coefficients."""
    metrics: dict[str, MetricSummary]
    """Of ``--metric NAME``: the figures over all maps, by the metric's name."""


class MapSummary(Counted, Network, MethodSummary, Conclusions):
    """The summary of a run that makes maps."""
