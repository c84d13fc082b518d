"""The methods of a run: given the sessions that they need, tried on a probe, and left out where others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar

from cnnviz.engine import runtime as rt
from cnnviz.engine.compiled_parts import compiled_parts
from cnnviz.engine.cut import Cut, cut_for
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError, ImageError, of_target
from cnnviz.io.walk import said
from cnnviz.maps.comparison import Comparison
from cnnviz.maps.prepared_method import PreparedMethod, probing
from cnnviz.metrics.chosen import requested
from cnnviz.models.background import sources_of
from cnnviz.records import RunHeader
from cnnviz.registry.metrics import MetricRequest
from cnnviz.registry.specs import MethodSpec, Options
from cnnviz.run.background import read_background
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.header import Environment
from cnnviz.settings import TargetSettings

Item = TypeVar("Item")
Made = TypeVar("Made")
Chosen = list[tuple[MethodSpec, Options]]
Refuse = Callable[[MethodSpec, CnnvizError], None]


def passed_over(comparison: Comparison[Any] | None, note: Callable[[str], None]) -> Refuse:
    """What is done with a method that cannot do what is asked: the run ends, unless a comparison goes on without it."""

    def refuse(spec: MethodSpec, error: CnnvizError) -> None:
        if comparison is None or not comparison.goes_on_without(spec, error):
            raise error
        note(f"{spec.name} is left out: {error.message}")

    return refuse


def each_that_can(
    items: Iterable[Item], spec_of: Callable[[Item], MethodSpec], make: Callable[[Item], Made], refuse: Refuse
) -> list[tuple[Item, Made]]:
    """What is made for each, without those that are refused, or fail.

    Raises:
        CnnvizError: None can: what the first was refused for.
        Exception: One fails, and the others are not to go on without it.
    """
    found: list[tuple[Item, Made]] = []
    first: Exception | None = None
    for item in items:
        try:
            found.append((item, make(item)))
        except CnnvizError as error:
            refuse(spec_of(item), error)
            first = first or error
        except Exception as error:  # of a method of another package, or of ours
            failure = CnnvizError(f"it fails ({type(error).__name__}: {said(error)})", "Leave it out.")
            try:
                refuse(spec_of(item), failure)
            except CnnvizError:
                raise error from None
            first = first or error
    if first is not None and not found:
        raise first
    return found


def cuts_of(
    chosen: Chosen, target: TargetSettings, comparison: Comparison[Any] | None, refuse: Refuse
) -> tuple[Chosen, list[Cut], list[tuple[MetricRequest, ...]]]:
    """The methods that can be asked so at all, where each needs the network to be cut, and what is measured of each."""

    def make(item: tuple[MethodSpec, Options]) -> tuple[Cut, tuple[MetricRequest, ...]]:
        spec, params = item
        own = () if comparison is None else comparison.metrics(spec.name)
        stated: dict[str, str | Mapping[str, Any]]
        stated = {"conservation": spec.gap, "repeatability": _repeatability(spec, params), "fit": spec.fit}
        return cut_for(spec, params, target.layers), requested(target, stated, own)

    found = each_that_can(chosen, lambda item: item[0], make, refuse)
    return [item for item, _ in found], [cut for _, (cut, _) in found], [metrics for _, (_, metrics) in found]


def _repeatability(spec: MethodSpec, params: Options) -> Mapping[str, Any]:
    """What is told where the maps of another seed would be others, as options of the metric of that name; empty of
    methods that state nothing of it."""
    if not (spec.draws or spec.chance):
        return {}
    values = params.to_dict()
    already = any(values[name] == value for name, value in spec.chance_unless.items())
    drawn = {"draws": spec.draws, "count": values[spec.draws], "doubled": spec.draws_doubled} if spec.draws else {}
    return {"reason": None if already else spec.chance or None, **drawn}


def opened(
    prepares: Callable[[Cut, MethodSpec], PreparedModel], chosen: Chosen, cuts: Sequence[Cut]
) -> tuple[PreparedModel, Cut]:
    """The network, prepared for the first method; where several are asked and that fails, for those that follow.

    Returns:
        It, and where its own session is cut.

    Raises:
        CnnvizError: It cannot be had, whatever the method.
    """
    try:
        return prepares(cuts[0], chosen[0][0]), cuts[0]
    except CnnvizError:
        if len(chosen) == 1:
            raise
        anywhere = Cut.before_classifier()
        try:
            return prepares(anywhere, chosen[1][0]), anywhere
        except CnnvizError:
            pass  # What is wrong is not the method.
        raise


def prepare_methods(
    prepared: PreparedModel, opened_at: Cut, chosen: Chosen, cuts: Sequence[Cut], refuse: Refuse
) -> list[PreparedMethod]:
    """The methods on the sessions that they need; equal ones are opened once.

    Args:
        prepared: The network, whose own session is cut at ``opened_at``.
        opened_at: As :func:`opened` says.
        chosen: The methods, with their options.
        cuts: Where each needs the network to be cut.
        refuse: Told of those that cannot.
    """
    sessions: dict[tuple[Cut, Readout], Session] = {(opened_at, Readout.scores()): prepared.session}
    # Several methods may be compared with the same photographs.
    background = cache(partial(read_background, preprocess=prepared.preprocess, note=prepared.note))

    def make(item: tuple[tuple[MethodSpec, Options], Cut]) -> PreparedMethod:
        (spec, params), cut = item
        if (cut, Readout.scores()) not in sessions:
            sessions[cut, Readout.scores()] = prepared.open(cut)
        others: dict[Readout, Session] = {}
        for other in prepared.target_selector.elsewhere:
            readout = other.readout
            try:
                others[readout] = sessions.get((cut, readout)) or prepared.open_elsewhere(cut, readout)
            except CnnvizError as error:
                raise of_target(error, str(getattr(other, "spec", other.slug))) from error
            sessions[cut, readout] = others[readout]
        params = params.with_classes(prepared.classes.resolve)
        params = params.with_pictures(background)
        augment = prepared.settings.target.augment
        return PreparedMethod(spec, params, cut, sessions[cut, Readout.scores()], others, augment)

    made = each_that_can(zip(chosen, cuts, strict=True), lambda item: item[0][0], make, refuse)
    return [method for _, method in made]


def of_methods(header: RunHeader, methods: Sequence[PreparedMethod]) -> RunHeader:
    """The header, with digests of the photographs that methods compare images with among those of files, and what of
    all methods compiled kernels computed when these were tried.
    """
    files = {**header.extra["option_files_sha256"], **sources_of(method.params.to_dict() for method in methods)}
    sessions = [each for method in methods for each in (method.session, *method.other_sessions.values())]
    environment: Environment = {**header.environment, "compiled_kernels": compiled_parts(sessions)}
    return replace(header, environment=environment, extra={**header.extra, "option_files_sha256": files})


def rehearsed(prepared: PreparedModel, methods: Sequence[PreparedMethod], refuse: Refuse) -> list[PreparedMethod]:
    """Run the methods on a probe, so that a request they cannot meet fails before the run; those that can."""
    probe = prepared.probe(1)
    told: dict[str, None] = {}
    runs: dict[Session, ForwardPass] = {}

    def attempt(method: PreparedMethod) -> None:
        if method.session not in runs:
            runs[method.session] = prepared.forward(method.session, probe)
        run = runs[method.session]
        requests = prepared.target_selector.rehearsal(run.chosen)
        try:
            notes = [*probing(method, requests, run), *filter(None, [method.spec.caveat_with(method.params)])]
        except ImageError as error:  # the probe belongs to no input, so there is no record to put this in
            raise CnnvizError(error.message, error.hint) from error
        told.update(dict.fromkeys(notes))

    with rt.scope():
        kept = [method for method, _ in each_that_can(methods, lambda method: method.spec, attempt, refuse)]
    for text in told:
        prepared.note(text)
    return kept
