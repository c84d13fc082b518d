"""What an entry of a metric says: its type, the figures that it gives, and how a request of it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from cnnviz.registry.params import Options
from cnnviz.registry.specs import EntrySpec

Measures = Literal["map", "map and truth", "model", "mosaics", "figures"]
WithoutTruth = Literal["unscored", "scored"]
TruthNeeded = Literal["nothing", "boxes", "masks", "label"]
Direction = Literal["higher", "lower", "neither"]
SummedUp = Literal["mean", "rate", "no"]

BY_KIND = "cnnviz.metrics.summaries:by_kind"


@dataclass(frozen=True)
class Figure:
    """One figure that a metric gives of a map.

    Attributes:
        name: Its key.
        meaning: In a line, as docs/report.md prints it.
        summed_up: How the summary of a run has it: ``mean`` with a bootstrap interval; ``rate`` of a figure that is 0
            or 1, with Wilson's interval; ``no``: it has none.
    """

    name: str
    meaning: str
    summed_up: SummedUp = "no"


@dataclass(frozen=True, kw_only=True)
class MetricSpec(EntrySpec):
    """A metric of maps.

    Its options are written ``--metric NAME:OPTION=VALUE,...``.

    Attributes:
        entry: ``module:function`` or ``module:Class``, imported on first use. By ``measures``:

            * ``map``, ``map and truth``: a function ``score(placed, image, truth, params) -> {figure: value}`` of one
              map, a :class:`~cnnviz.geometry.placement.PlacedMap` on an
              :class:`~cnnviz.metrics.contract.ExplainedImage` (``truth`` is None where there is none). It runs in
              several threads at once.
            * ``model``: a class (:class:`~cnnviz.metrics.contract.ModelMetric`), made once a run, that scores the
              maps of a batch by running the network again.
            * ``mosaics``: a function ``score(values, cell) -> float`` of a map of four images, which a run makes at its
              end of images that the network gets right (:mod:`cnnviz.maps.mosaics`).
            * ``figures``: empty. It sums up figures that the method itself states of its maps.

            A value is a number, None where it is undefined, or a list.
        measures: What it looks at.
        truth: What must be known of an image for it. Images of which that is not known are counted.
        without_truth: Whether a map whose image lacks that truth is scored all the same, with ``truth`` None.
        direction: Which values are better.
        baselines_lose: Whether a map that knows nothing of the network is bad by it, so that a method which is no
            better has shown nothing. Not so where such a map wins by what it is: random numbers do not change when the
            image does.
        unit: Of its figures; empty for plain numbers.
        baselines: Maps of :data:`cnnviz.metrics.baseline_maps.BASELINES` that are scored beside each map, by name.
        figures: What it gives of a map.
        summarizer: ``module:function`` of ``(rows, spec, params) -> RunSummary``; empty where a run has no summary.
        key: Key of a record's ``scores`` under which its figures stand, None for its name; empty where they stand
            among the others.
        summary_key: Key of the report's ``summary``; empty for its name within ``summary.metrics``.
        aliases: Other names, in small letters, under which ``--metric`` takes it; reports have its name.
    """

    kind: ClassVar[str] = "Metric"

    measures: Measures
    truth: TruthNeeded = "nothing"
    without_truth: WithoutTruth = "unscored"
    direction: Direction = "neither"
    baselines_lose: bool = True
    unit: str = ""
    baselines: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    summarizer: str = BY_KIND
    key: str | None = None
    summary_key: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def score_key(self) -> str:
        """Key of its figures among a record's ``scores``; empty where they stand there themselves."""
        return self.name if self.key is None else self.key

    def score_keys(self) -> frozenset[str]:
        """Every key of a record's ``scores`` that it may write."""
        return frozenset({self.score_key} if self.score_key else (figure.name for figure in self.figures))

    def load_summarizer(self) -> Callable[..., Any] | None:
        """Import the function that sums up a run; None where there is none."""
        return replace(self, entry=self.summarizer).load() if self.summarizer else None

    def request(self, given: Mapping[str, Any] | None = None) -> MetricRequest:
        """This metric with these options, checked, and defaults for the others.

        Raises:
            CnnvizError: As :meth:`resolve_params`.
        """
        return MetricRequest(self, self.resolve_params(given or {}))

    def read(self, text: str) -> MetricRequest:
        """This metric with ``option=value,option=value`` as a command line has them.

        Raises:
            CnnvizError: It is written otherwise, or as :meth:`resolve_params`.
        """
        return MetricRequest(self, self.read_params(text, f"--metric {self.name}:{text}"))


@dataclass(frozen=True)
class MetricRequest:
    """A metric that is to be measured, with its options."""

    spec: MetricSpec
    params: Options
