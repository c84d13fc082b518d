"""One method of a run: prepared, tried on a probe, and run on passes over batches."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target
from cnnviz.maps.tiling import ComputedMap
from cnnviz.methods.explain import explain_batch, explain_many
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.levels import levels_of, on_level
from cnnviz.metrics.chosen import ModelMetrics
from cnnviz.metrics.contract import ExplainedBatch
from cnnviz.metrics.faithfulness_baselines import with_baseline
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.structures import map_tensors
from cnnviz.models.preprocess import in_order
from cnnviz.registry.params import Options
from cnnviz.registry.specs import MethodSpec
from cnnviz.tasks.base import Request

BLURRED = "blurred"
"""The baseline that is made of each method's own map."""
# With more requests than these of an image its maps are made together, so many at a time.
_FEW, _AT_ONCE = 16, 128
Done = Callable[[], None]
"""Called when the maps of a pass, or what a metric says of them, are done."""
_NAMES = {"centre_gaussian": "center"}
"""Baselines that are called otherwise in reports."""


@dataclass(eq=False)
class PreparedMethod:
    """A method with its options, and the sessions that are cut where it needs them.

    Attributes:
        spec: The method.
        params: Its options.
        cut: Where it needs the network to be cut.
        session: Reads the class scores.
        other_sessions: Read what else is asked for: units, vectors, all that the network returns.
        augment: Changes of the image over which maps are averaged.
        metrics: Those that run the network again; None before the first image.
        seconds: How long its maps took, without forward passes that it shares, and without metrics.
        count: How many they are.
    """

    spec: MethodSpec
    params: Options
    cut: Cut
    session: Session
    other_sessions: Mapping[Readout, Session]
    augment: tuple[str, ...] = ()
    metrics: ModelMetrics | None = None
    seconds: float = 0.0
    count: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def dry_run(self, run: ForwardPass, target: Target) -> Heatmap:
        """The method with as few passes as will do to try it."""
        return explain_batch(self.spec, run, target, self.spec.dry_run(self.params), self.augment)

    def pass_for(self, request: Request, run: ForwardPass, level: int | None = None) -> ForwardPass:
        """The pass that a request reads: ``run``, or one of the same images that is read elsewhere.

        Args:
            request: What is explained.
            run: The pass over the batch.
            level: Of a detector's pyramid: at which of its maps.
        """
        session = self.other_sessions.get(request.readout) if self.other_sessions else None
        own = run if session is None else run.remember(request.readout, lambda: session.forward(run.pixels))
        return own if level is None else on_level(own, level)

    def layer_of(self, request: Request) -> LayerRef | None:
        """The layer at which a request is explained."""
        session = self.other_sessions.get(request.readout, self.session) if self.other_sessions else self.session
        return session.layers[0] if session.layers else None

    @property
    def steps(self) -> int:
        """How often :meth:`maps` tells that something is done: the maps, and what each metric says of them."""
        return 1 + len(self.metrics or ())

    def maps(
        self, run: ForwardPass, asked: Sequence[Sequence[Request]], done: Done = lambda: None
    ) -> list[list[ComputedMap]]:
        """The maps of a pass over a batch, with the scores of the metrics that run the network again."""
        made, batch = self.explained(run, asked)
        return scored(made, batch, self.metrics, done)

    def explained(
        self, run: ForwardPass, asked: Sequence[Sequence[Request]]
    ) -> tuple[list[list[ComputedMap]], ExplainedBatch]:
        """The maps, and the batch with them as metrics get it; made once for each pass."""

        def drawn(other: ForwardPass) -> list[list[NDArray[np.float32]]]:
            return [[made.drawn for made in own] for own in self._made(other, asked)]

        def subject(image: int, place: int) -> tuple[ForwardPass, Target]:
            request = asked[image][place]
            alone = [request if each == image else None for each in range(len(asked))]
            return self.pass_for(request, run, self._levels(run, alone)[image]), request.target([request])

        def make() -> tuple[list[list[ComputedMap]], ExplainedBatch]:
            began = time.perf_counter()
            maps = self._made(run, asked)
            with self._turn:
                self.seconds += time.perf_counter() - began
                self.count += sum(map(len, maps))
            return maps, ExplainedBatch(run, [[made.drawn for made in own] for own in maps], drawn, subject)

        return run.remember((self.spec.name, "maps"), make)

    def unmeasured(self, run: ForwardPass, asked: Sequence[Sequence[Request]]) -> list[list[NDArray[np.float32]]]:
        """The maps as they are drawn, made once for each pass: no metric sees them, and no clock."""

        def make() -> list[list[NDArray[np.float32]]]:
            return [[made.drawn for made in own] for own in self._made(run, asked)]

        return run.remember((self.spec.name, "unmeasured"), make)

    def _made(self, run: ForwardPass, asked: Sequence[Sequence[Request]]) -> list[list[ComputedMap]]:
        """For each image, for each of its requests: what is drawn, what is stored, what the method states.

        One forward pass is shared; place k of all images' lists is one backward pass for each kind of request there.
        """
        found: list[list[ComputedMap]] = [[] for _ in asked]
        if self._at_once(run, asked, found):
            return found
        for place in range(max(len(own) for own in asked)):
            there = [own[place] if place < len(own) else None for own in asked]
            levels = self._levels(run, there)
            kinds = [None if each is None else (each.key, level) for each, level in zip(there, levels, strict=True)]
            for kind in dict.fromkeys(each for each in kinds if each is not None):
                alike = [request if own == kind else None for request, own in zip(there, kinds, strict=True)]
                self._add_maps(run, alike, kind[1], found)
        return found

    def _at_once(
        self, run: ForwardPass, asked: Sequence[Sequence[Request]], found: Sequence[list[ComputedMap]]
    ) -> bool:
        """Adds the maps of many requests, of which every image that has any has as many and alike; whether they could
        be made so."""
        kinds = {tuple(each.key for each in own) for own in asked if own}
        alike = len(kinds) == 1 and len(set(next(iter(kinds)))) == 1
        some_own = next((own for own in asked if own), ())
        if not (self.spec.many and alike and len(some_own) > _FEW) or self.augment or run.session.has_levels:
            return False
        # Images without requests, such as those that failed, repeat somebody's, and their maps are dropped.
        requests = list(zip(*(own or some_own for own in asked), strict=True))
        made: list[list[ComputedMap]] = [[] for _ in asked]
        for first in range(0, len(requests), _AT_ONCE):
            some = requests[first : first + _AT_ONCE]
            targets = [own[0].target(own) for own in some]
            own_run = self.pass_for(some[0][0], run)
            heatmap = explain_many(self.spec, own_run, targets, self.params)
            if heatmap is None:
                return False
            values = heatmap.values.detach().float().cpu()
            for image, maps in enumerate(made):
                read = map_tensors(lambda t, i=image: t[i : i + 1], own_run.output)
                for own, of_target, raw in zip(some, values[:, image], values.numpy()[:, image], strict=True):
                    facts = {**heatmap.facts, **own[image].facts(self.spec, of_target, read)}
                    maps.append(ComputedMap(raw, raw, facts, {}, {}))
        for maps, wanted, own_maps in zip(found, asked, made, strict=True):
            maps.extend(own_maps if wanted else ())
        return True

    def _levels(self, run: ForwardPass, there: Sequence[Request | None]) -> list[int | None]:
        """Of a detector's pyramid the level that made what each image is asked for; None for others."""
        found: list[int | None] = [None] * len(there)
        if not run.session.has_levels or not self.cut.layers:
            return found
        for key in dict.fromkeys(each.key for each in there if each is not None):
            alike = [each if each is not None and each.key == key else None for each in there]
            some = next(request for request in alike if request is not None)
            if not (own_run := self.pass_for(some, run)).session.has_levels:
                continue
            levels = levels_of(own_run, some.target([some if each is None else each for each in alike]))
            found = [old if own is None else new for old, new, own in zip(found, levels, alike, strict=True)]
        return found

    def _add_maps(
        self,
        run: ForwardPass,
        there: Sequence[Request | None],
        level: int | None,
        found: Sequence[list[ComputedMap]],
    ) -> None:
        """Maps of one request of each image that has one; the others repeat somebody's, and their result is dropped."""
        some = next(request for request in there if request is not None)
        own_run = self.pass_for(some, run, level)
        requests = [some if request is None else request for request in there]
        # One target for all methods of the pass, which share what they compute of it; beside it the requests whose
        # numbers name it, lest others get them.
        key = ("target", *map(id, requests))
        target, _ = own_run.remember(key, lambda: (some.target(requests), requests))
        heatmap = explain_batch(self.spec, own_run, target, self.params, self.augment)
        on_host = self._on_host(heatmap)
        raw = on_host.values.numpy()
        drawn = raw if on_host.maps is None else on_host.maps.numpy()
        for image, request in enumerate(there):
            if request is not None:
                own = {name: array.numpy()[image] for name, array in on_host.arrays.items()}
                scores = {k: v[image].tolist() if isinstance(v, Tensor) else v for k, v in on_host.scores.items()}
                read = map_tensors(lambda t, i=image: t[i : i + 1], own_run.output)
                facts = {**heatmap.facts, **request.facts(self.spec, heatmap.values[image].detach(), read)}
                layer = None
                if level is not None:
                    facts["levels"] = [each.name for each in run.session.layers]
                    layer = run.session.layers[level].name
                found[image].append(ComputedMap(drawn[image], raw[image], facts, scores, own, layer))

    def _on_host(self, heatmap: Heatmap) -> Heatmap:
        """The same in float32 on the host, a gradient in the order of pictures: a graphics card is waited for once."""
        maps = [] if heatmap.maps is None else [heatmap.maps.float()]
        arrays = [self._in_rgb(array) if name == "gradient" else array for name, array in heatmap.arrays.items()]
        figures = [value for value in heatmap.scores.values() if isinstance(value, Tensor)]
        every = [self._in_rgb(heatmap.values.float()), *maps, *arrays, *figures]
        found = iter(rt.fetched([each.detach() for each in every]))
        return replace(
            heatmap,
            values=next(found),
            maps=next(found) if maps else None,
            arrays={name: next(found) for name in heatmap.arrays},
            scores={k: next(found) if isinstance(v, Tensor) else v for k, v in heatmap.scores.items()},
        )

    def _in_rgb(self, values: Tensor) -> Tensor:
        """A gradient at the network's input [N, C, H, W] in the order of pictures; other values as they are."""
        spec = self.session.preprocess
        return values if values.dim() < 4 or spec is None else in_order(values, spec)


class PreparedBaseline(PreparedMethod):
    """What stands in the place of a method: a map that knows nothing of the network, or a method's own map, blurred.

    Args:
        base: The method whose passes it uses, and whose maps are blurred.
        kind: One of :data:`cnnviz.metrics.faithfulness_baselines.NAMES`.
        seed: Of what is random.
    """

    def __init__(self, base: PreparedMethod, kind: str, seed: int) -> None:
        name = f"{base.spec.name}:{BLURRED}" if kind == BLURRED else _NAMES.get(kind, kind)
        title = f"{base.spec.title}, blurred" if kind == BLURRED else f"Baseline: {name}"
        spec = replace(base.spec, name=name, title=title, colour=False, class_specific=kind == BLURRED)
        super().__init__(spec, base.params, base.cut, base.session, base.other_sessions)
        self.base, self.kind, self.seed = base, kind, seed

    def layer_of(self, request: Request) -> LayerRef | None:
        return super().layer_of(request) if self.kind == BLURRED else None

    def maps(
        self, run: ForwardPass, asked: Sequence[Sequence[Request]], done: Done = lambda: None
    ) -> list[list[ComputedMap]]:
        batch = with_baseline(self.kind, self.base.explained(run, asked)[1], self.seed)
        made = [[ComputedMap(values, values, {}, {}, {}) for values in own] for own in batch.maps]
        return scored(made, batch, self.metrics, done)

    def unmeasured(self, run: ForwardPass, asked: Sequence[Sequence[Request]]) -> list[list[NDArray[np.float32]]]:
        maps = self.base.unmeasured(run, asked)
        batch = ExplainedBatch(run, maps, lambda other: self.base.unmeasured(other, asked), _nothing)
        return [list(own) for own in with_baseline(self.kind, batch, self.seed).maps]


def _nothing(image: int, place: int) -> tuple[ForwardPass, Target]:
    raise AssertionError("a baseline asks for no score")


def scored(
    made: list[list[ComputedMap]], batch: ExplainedBatch, metrics: ModelMetrics | None, done: Done
) -> list[list[ComputedMap]]:
    """The maps, with what the metrics that run the network again say of them."""
    done()
    if metrics:
        for own, of_image in zip(made, metrics.score(batch, done), strict=True):
            for each, scores in zip(own, of_image, strict=True):
                each.scores.update(scores)
    return made


@contextlib.contextmanager
def forgotten(runs: Mapping[Session, ForwardPass]) -> Iterator[None]:
    """At the end passes let go of the maps that were made from them, which hold the passes again."""
    try:
        yield
    finally:
        for run in runs.values():
            run.forget()


def probing(method: PreparedMethod, requests: Sequence[Sequence[Request]], run: ForwardPass) -> list[str]:
    """Try a method on a pass over one probe, so that what it cannot do fails before the run.

    Args:
        method: The method.
        requests: What will be asked for, as if one class and then another were predicted.
        run: A pass of its session.

    Returns:
        What it has to tell, each once.
    """
    made: list[Heatmap] = []
    for some in requests:
        for request in some:
            level = 0 if method.pass_for(request, run).session.has_levels else None
            made.append(method.dry_run(method.pass_for(request, run, level), request.target([request])))
    return list(dict.fromkeys(note for heatmap in made for note in heatmap.notes))
