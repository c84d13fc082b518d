"""What a comparison is: a command that makes maps by several methods and says which of them are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.metrics import standing
from cnnviz.registry import lookup
from cnnviz.registry.metrics import MetricRequest
from cnnviz.registry.params import Options
from cnnviz.registry.specs import CommandSpec, ComparisonSpec, MethodSpec
from cnnviz.schema.images import Figure
from cnnviz.settings import TargetSettings

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook

_Options = TypeVar("_Options", bound=Options)


@dataclass(frozen=True)
class Conclusion:
    """What a comparison came to.

    Attributes:
        summary: Figures that join the run's summary.
        figures: ``{"file", "caption"}`` of pictures that stand before the images in ``index.html``.
        sentences: What it found in a few lines, for the person who ran it.
        spent: Where the time of this very run went, likewise.
        report: Further keys of ``report.json``.
        violated: Whether what it was asked to hold does not.
        unmeasured: Why nothing could be measured although it was asked to, and what to type next; empty otherwise.
        annotations: Lines that a CI system reads.
        remarks: What people should know of the results, told already or among ``sentences``: for the page.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    sentences: Sequence[str] = ()
    spent: Sequence[str] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    violated: bool = False
    unmeasured: str = ""
    annotations: Sequence[str] = ()
    remarks: Sequence[str] = ()


class Comparison(Generic[_Options]):
    """Base of the comparisons.

    Args:
        params: The comparison's own options, checked. ``method`` names the methods.
        target: What is explained, and what ``--metric`` names.

    Attributes:
        look: Photographs of the run and the network once more, when :meth:`conclude` is called.
        unfinished: Then also why not all images were seen; empty where they were.
    """

    look: SecondLook | None = None
    unfinished: str = ""

    @property
    def looks_again(self) -> bool:
        """Whether :meth:`conclude` looks at photographs as the network sees them, so that they are worth keeping."""
        return False

    @property
    def judges(self) -> bool:
        """Whether what is known of an image, its label or marks, says that the network is right or wrong."""
        return True

    def __init__(self, params: _Options, target: TargetSettings) -> None:
        self.params, self.target = params, target

    def methods(self) -> list[tuple[MethodSpec, Options]]:
        """The methods that are compared, with their options.

        Raises:
            CnnvizError: An unknown method or option, or a method that is named twice.
        """
        return list(lookup.methods_in(cast("tuple[str, ...]", getattr(self.params, "method", ()))).values())

    def goes_on_without(self, spec: MethodSpec, error: CnnvizError) -> bool:
        """Whether the others are explained all the same when one method cannot do what is asked, for this reason."""
        return False

    def left_out(self) -> Mapping[str, tuple[str, str]]:
        """Title of each method that it went on without, and why, by name."""
        return {}

    def metrics(self, method: str) -> tuple[MetricRequest, ...]:
        """What is measured of each map of a method beside what ``--metric`` names."""
        return ()

    def baselines(self) -> tuple[str, ...]:
        """What is measured as if it were a method: of :data:`cnnviz.metrics.faithfulness_baselines.NAMES`."""
        return ()

    def writes(self) -> Sequence[str]:
        """Names, known before the first image, of what :meth:`conclude` may write: its figures say what it wrote."""
        return ()

    def says_itself(self) -> Sequence[str]:
        """Titles of metrics whose remarks it tells in words of its own."""
        return ()

    def remarks_on(self, model: Mapping[str, Any]) -> Sequence[str]:
        """What people should know of this network, before the first image: ``model`` as the report has it."""
        return ()

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        """What all images together say.

        Args:
            figures: For each method what its metrics say of the run.
            records: The records of the run.
            store: The output folder, for plots.
        """
        return Conclusion()


def comparison_of(spec: CommandSpec, params: Options, target: TargetSettings) -> Comparison[Any] | None:
    """The comparison behind an entry; None for a method."""
    if not isinstance(spec, ComparisonSpec):
        return None
    return cast("Comparison[Any]", spec.load()(params, target))


def of_several(remarks: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """What metrics remark on each of several methods: each sentence once, with what it is said of.

    Args:
        remarks: By method, the title of a metric (or nothing) and a sentence.
    """
    methods: dict[tuple[str, str], list[str]] = {}
    for method, own in remarks.items():
        for remark in own:
            methods.setdefault(remark, []).append(method)
    subjects: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (title, sentence), names in methods.items():
        subjects.setdefault((sentence, tuple(names)), []).append(title)
    found = []
    for (sentence, some), titles in subjects.items():
        said = () if len(some) == len(remarks) else some
        found.append(": ".join(filter(None, [", ".join(said), ", ".join(titles), sentence])))
    return found


def beside_baselines(
    table: Mapping[str, Mapping[str, Any]], methods: Sequence[str], columns: Mapping[str, tuple[str, str]], images: int
) -> dict[str, Any]:
    """Where methods are no better than what stands beside them, as the summary has it.

    Args:
        table: By row, by column, a figure, which says than which rows it is better by more than chance explains.
        methods: Which rows are methods.
        columns: Those that say something of what knows nothing of the network: what they are called, and which values
            are better.
        images: On how many images the rows are compared.
    """
    found = []
    for column, (name, better) in columns.items():
        found += [{"figure": name, **each} for each in standing.no_better(table, methods, column, better)]
    return {"images": images, "enough": standing.FEWEST, "no_better": found}
