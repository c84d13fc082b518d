"""THE register: every method as data.

The command line, the pipeline, the report, the README's table, ``cnnviz.list_methods()`` and the contract tests read
it. A new method is its function, its entry here and its oracle; third parties add entries through the entry-point group
``cnnviz.methods``, metrics through ``cnnviz.metrics``, tasks through
``cnnviz.tasks``. Nothing here imports torch: ``--help`` must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from cnnviz.errors import CnnvizError, nearest
from cnnviz.registry.attention import ATTENTION
from cnnviz.registry.cam import ACTIVATION_MAPS
from cnnviz.registry.checks import CHECKS, CheckSpec
from cnnviz.registry.comparisons import COMPARISONS, PAIRS
from cnnviz.registry.gradients import INPUT_GRADIENTS
from cnnviz.registry.metrics import METRICS, MetricRequest, MetricSpec
from cnnviz.registry.other_names import OTHER_NAMES, OtherName, folded
from cnnviz.registry.perturbation import PERTURBATION
from cnnviz.registry.relevance import RELEVANCE
from cnnviz.registry.spec_words import check_words
from cnnviz.registry.specs import (
    CommandSpec,
    ComparisonSpec,
    EntrySpec,
    MethodSpec,
    Options,
    Param,
    StudySpec,
)
from cnnviz.registry.studies import STUDIES
from cnnviz.registry.tasks import AUTO, TASKS, TaskRequest, TaskSpec
from cnnviz.registry.training import TRAINING
from cnnviz.settings import listed

ENTRY_POINT_GROUP = "cnnviz.methods"
TASK_GROUP = "cnnviz.tasks"
CHECK_GROUP = "cnnviz.checks"
METRIC_GROUP = "cnnviz.metrics"

BUILT_IN: tuple[MethodSpec, ...] = (*ACTIVATION_MAPS, *INPUT_GRADIENTS, *RELEVANCE, *ATTENTION, *PERTURBATION)


_Spec = TypeVar("_Spec", bound=EntrySpec)


def _installed(group: str, taken: Callable[[str], bool], *kinds: type[Any]) -> Iterator[tuple[str, Any]]:
    """What packages register in a group, each with the beginning of what is said where it is refused.

    Raises:
        CnnvizError: One is of none of these kinds (the message names the first), or its name is taken.
    """
    for point in entry_points(group=group):
        found = point.load()
        spec: Any = found() if callable(found) else found
        refused = f"Entry point {point.name!r} of {group} cannot be used"
        if not isinstance(spec, kinds):
            raise CnnvizError(f"{refused}: it is no {kinds[0].__name__}.")
        if taken(spec.name):
            raise CnnvizError(f"{refused}: name {spec.name!r} is taken.")
        yield refused, spec


@lru_cache(maxsize=1)
def all_entries() -> tuple[CommandSpec, ...]:
    """Built-in methods and studies, then those of installed packages, by name.

    Raises:
        CnnvizError: A package registers something else than a :class:`MethodSpec`, a name that is taken, or an entry
            with a word in a field that does not take it.
    """
    found: dict[str, CommandSpec] = {spec.name: spec for spec in (*BUILT_IN, *COMPARISONS, *PAIRS, *STUDIES, *TRAINING)}
    for refused, spec in _installed(ENTRY_POINT_GROUP, found.__contains__, MethodSpec, StudySpec, ComparisonSpec):
        try:
            check_words(spec)
        except CnnvizError as error:
            raise CnnvizError(f"{refused}: {error.message}", error.hint) from None
        found[spec.name] = spec
    return tuple(found.values())


def all_methods() -> tuple[MethodSpec, ...]:
    """The entries that map an image."""
    return tuple(spec for spec in all_entries() if isinstance(spec, MethodSpec))


def method_names() -> frozenset[str]:
    """Names of all methods."""
    return frozenset(spec.name for spec in all_methods())


def default_variant(specs: tuple[CommandSpec, ...]) -> CommandSpec:
    """The method that a command runs without ``--variant``: the one called as the command, or the first."""
    return next((spec for spec in specs if spec.name == spec.command), specs[0])


def find_entry(name: str) -> CommandSpec:
    """The entry of a method or a study.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    return _find(name, all_entries(), "method or study")


def find_method(name: str) -> MethodSpec:
    """The entry of a method.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    return _find(name, all_methods(), "method")


def list_methods() -> list[dict[str, Any]]:
    """Every method: name, one-line description, family, paper, command and options."""
    return [
        {
            "name": spec.name,
            "summary": spec.summary,
            "family": spec.family,
            "paper": spec.paper,
            "command": spec.command,
            "signed": spec.signed,
            "class_specific": spec.class_specific,
            "options": {p.name: {"default": p.default, "help": p.help, "choices": p.choices} for p in spec.params},
        }
        for spec in all_methods()
    ]


@lru_cache(maxsize=1)
def all_metrics() -> tuple[MetricSpec, ...]:
    """Built-in metrics, then those of installed packages.

    Raises:
        CnnvizError: A package registers something else than a :class:`MetricSpec`, or a name or key that is taken.
    """
    found = {spec.name: spec for spec in METRICS}
    taken = {key: spec.name for spec in METRICS for key in spec.score_keys()}
    for refused, spec in _installed(METRIC_GROUP, found.__contains__, MetricSpec):
        if owner := next((taken[key] for key in spec.score_keys() if key in taken), ""):
            raise CnnvizError(f"{refused}: {owner} already writes scores of that name.")
        try:
            check_words(spec)
        except CnnvizError as error:
            raise CnnvizError(f"{refused}: {error.message}", error.hint) from None
        found[spec.name] = spec
        taken |= dict.fromkeys(spec.score_keys(), spec.name)
    return tuple(found.values())


def find_metric(name: str) -> MetricSpec:
    """The entry of a metric, by its name or another that it has, in large or small letters.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    specs = all_metrics()
    own = {each: spec.name for spec in specs for each in (*spec.aliases, spec.name.casefold())}
    named = any(spec.name == name for spec in specs)  # a package's metric may be called as another is also called
    return _find(name if named else own.get(name.casefold(), name), specs, "metric")


def read_metric(text: str) -> MetricRequest:
    """The metric that ``--metric NAME`` or ``--metric NAME:OPTION=VALUE,...`` asks for.

    Raises:
        CnnvizError: Unknown name or option, or a bad value.
    """
    name, _, options = text.partition(":")
    spec = find_metric(name.strip().replace("-", "_"))
    return spec.read(options)


def list_metrics() -> list[dict[str, Any]]:
    """Every metric: name, one-line description, paper, what it needs and measures, figures and options."""
    return [
        {
            "name": spec.name,
            "aliases": spec.aliases,
            "summary": spec.summary,
            "paper": spec.paper,
            "measures": spec.measures,
            "truth": spec.truth,
            "direction": spec.direction,
            "unit": spec.unit,
            "baselines": spec.baselines,
            "figures": {figure.name: figure.meaning for figure in spec.figures},
            "options": {p.name: {"default": p.default, "help": p.help, "choices": p.choices} for p in spec.params},
        }
        for spec in all_metrics()
    ]


@lru_cache(maxsize=1)
def all_tasks() -> tuple[TaskSpec, ...]:
    """Built-in tasks, then those of installed packages.

    Raises:
        CnnvizError: A package registers something else than a :class:`TaskSpec`, or a name that is taken.
    """
    found = {spec.name: spec for spec in TASKS}
    for _, spec in _installed(TASK_GROUP, lambda name: name in found or name == AUTO, TaskSpec):
        found[spec.name] = spec
    return tuple(found.values())


@lru_cache(maxsize=1)
def all_checks() -> tuple[CheckSpec, ...]:
    """Built-in checks of an audit, then those of installed packages.

    Raises:
        CnnvizError: A package registers something else than a :class:`CheckSpec`, or a name that is taken.
    """
    found = {spec.name: spec for spec in CHECKS}
    for _, spec in _installed(CHECK_GROUP, found.__contains__, CheckSpec):
        found[spec.name] = spec
    return tuple(found.values())


def read_task(text: str) -> TaskRequest:
    """What ``--task NAME`` or ``--task NAME:OPTION=VALUE,...`` asks for.

    Raises:
        CnnvizError: Unknown name or option, or a bad value.
    """
    name, _, rest = text.partition(":")
    tasks = {spec.name: spec for spec in all_tasks()}
    if name.strip() == AUTO and not rest:
        return TaskRequest()
    if name.strip() not in tasks:
        hint = nearest(name, tasks) or f"Use one of {', '.join([AUTO, *tasks])}."
        raise CnnvizError(f"--task {name}: there is no such task.", hint)
    spec = tasks[name.strip()]
    entry = EntrySpec(
        name=spec.name, entry=spec.entry, title=spec.name, summary=spec.summary, paper="", options=spec.options
    )
    return TaskRequest(spec, entry.read_params(rest, f"--task {text}"))


def find_task(asked: TaskRequest, shape: tuple[int, ...], boxes: bool = False) -> TaskSpec:
    """The task of a network whose output for one image has this shape.

    Args:
        asked: What was asked for; where nothing was, the first task that fits is taken.
        shape: Of the explained output.
        boxes: Whether it has candidates for boxes.

    Raises:
        CnnvizError: The network has no such output.
    """
    sizes = ", ".join(["N", *map(str, shape[1:])])
    if asked.spec is None:
        return next((spec for spec in all_tasks() if (spec.boxes if boxes else spec.fits(shape))), TASKS[0])
    spec = asked.spec
    if not spec.fits(shape):
        fitting = [each.name for each in all_tasks() if each.fits(shape)]
        raise CnnvizError(
            f"--task {spec.name}: the explained output has shape [{sizes}], that of another task.",
            f"Use --task {' or '.join(fitting) or AUTO}, or choose another output with --logits-key.",
        )
    if spec.boxes and not boxes:
        raise CnnvizError(
            f"--task {spec.name}: the explained output has shape [{sizes}], which cannot be of the form that was asked "
            "for.",
            "Use --task detect, or --logits-key for another output.",
        )
    return spec


def methods_in(texts: Iterable[str]) -> dict[str, tuple[MethodSpec, Options]]:
    """The methods that ``NAME`` or ``NAME:OPTION=VALUE,...`` name, with their options, by name.

    Raises:
        CnnvizError: An unknown method or option, or a method that is named twice.
    """
    chosen: dict[str, tuple[MethodSpec, Options]] = {}
    for text in listed(texts):
        name, _, given = text.partition(":")
        spec = find_method(name.strip())
        if spec.name in chosen:
            raise CnnvizError(f"--method names {spec.name} twice.", "Name each method once.")
        chosen[spec.name] = (spec, spec.read_params(given, f"--method {text}"))
    return chosen


def pictures_named(spec: CommandSpec, params: Options) -> list[str]:
    """What the options of an entry, or of the methods that it compares, name photographs by.

    Raises:
        CnnvizError: As :func:`methods_in`.
    """
    compared = methods_in(getattr(params, "method", ())) if isinstance(spec, ComparisonSpec) else {}
    every = [(spec, params), *compared.values()]
    named = [(own, param) for entry, own in every for param in entry.params if param.demands == "pictures"]
    return [str(value) for own, param in named if (value := getattr(own, param.attribute)) is not None]


def _find(name: str, specs: tuple[_Spec, ...], what: str) -> _Spec:
    by_name = {spec.name: spec for spec in specs}
    if name in by_name:
        return by_name[name]
    of_command = [spec.name for spec in specs if getattr(spec, "command", None) == name]
    if of_command:
        said = f"{name!r} is a command with {len(of_command)} methods, and none of them."
        raise CnnvizError(said, f"Name one or several: {', '.join(of_command)}.")
    hint = nearest(name, by_name) or f"Available: {', '.join(by_name)}."
    if what != "metric" and (other := called_here(name)) is not None and other.entry in by_name:
        options = [f"{option}={value}" for option, value in other.options.items()]
        hint = f"Here that is {other.entry}{' with ' if options else ''}{','.join(options)}."
    raise CnnvizError(f"Unknown {what} {name!r}.", hint)


def called_here(name: str) -> OtherName | None:
    """What a name of the field, or a name of the register in another spelling, is called here; None of any other."""
    own = {folded(spec.name): OtherName(spec.name) for spec in all_entries()}
    return own.get(folded(name)) or OTHER_NAMES.get(folded(name))


def commands() -> dict[str, tuple[CommandSpec, ...]]:
    """Subcommands and the methods or the study that they run, in the order of the register."""
    grouped: dict[str, tuple[CommandSpec, ...]] = {}
    for spec in all_entries():
        grouped[spec.command] = (*grouped.get(spec.command, ()), spec)
    return grouped


__all__ = [
    "BUILT_IN",
    "COMPARISONS",
    "ENTRY_POINT_GROUP",
    "METRICS",
    "PAIRS",
    "STUDIES",
    "TRAINING",
    "CommandSpec",
    "MethodSpec",
    "MetricSpec",
    "Param",
    "StudySpec",
    "TaskRequest",
    "TaskSpec",
    "all_checks",
    "all_entries",
    "all_methods",
    "all_metrics",
    "all_tasks",
    "commands",
    "find_entry",
    "find_method",
    "find_metric",
    "find_task",
    "list_methods",
    "list_metrics",
    "method_names",
    "read_metric",
    "read_task",
]  # fmt: skip
