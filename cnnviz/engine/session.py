"""A network prepared for explaining: opened once, run on many batches.

    with open_session(module, ...) as session:
        run = session.forward(pixels)          # one forward pass
        grads = run.gradients(score(run.logits))   # one backward pass, from the head only

A session works by graph where the network traces, otherwise by hooks. Both give the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.head_rerun import Rerun
from cnnviz.engine.hooks import passing
from cnnviz.engine.prepare.split import Split
from cnnviz.engine.readout import Readout
from cnnviz.engine.seeding import same_noise
from cnnviz.engine.stopping import go_on
from cnnviz.errors import CnnvizError, foreign_code
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.outputs import OutputChoice, as_rows, two_dim
from cnnviz.models.graph.structures import map_tensors
from cnnviz.models.graph.trace import Graph
from cnnviz.models.preprocess import Preprocess
from cnnviz.registry.box_forms import BoxForm

T = TypeVar("T")


class ForwardPass:
    """One forward pass over a batch, ready for backward passes from the head.

    Attributes:
        pixels: The batch [N, C, H, W], normalised, on the device.
        activations: For each target layer its activation [N, C, h, w]; requires gradients. With the input among
            the layers, the pixels as a leaf stand in its place.
        chosen: The tensor of class scores as the network returns it (or the units of a layer [N, C], which
            :class:`~cnnviz.engine.readout.Readout` puts in its place), connected to the activations.
        session: The session that ran it.
    """

    session: Session

    def __init__(
        self, pixels: Tensor, activations: tuple[Tensor, ...], chosen: Tensor, rerun: Rerun, returned: Any = None
    ) -> None:
        self.pixels = pixels
        self.activations = activations
        self.chosen = as_rows(chosen)
        self._rerun = rerun
        self._returned = returned
        self._parts: tuple[ForwardPass, ...] = ()
        self._memory: dict[Any, Any] = {}

    @classmethod
    def joined(cls, parts: Sequence[ForwardPass]) -> ForwardPass:
        """One pass of a batch whose images went through the network one by one."""
        activations = tuple(torch.cat(same) for same in zip(*(part.activations for part in parts), strict=True))
        pixels, chosen = (torch.cat([getattr(part, name) for part in parts]) for name in ("pixels", "chosen"))

        def rerun(changed: Tensor, images: Tensor) -> Any:
            alone = images.new_zeros(1)
            rows = zip(changed.split(1), images.tolist(), strict=True)
            return concatenated([parts[image]._rerun(row, alone) for row, image in rows])

        returned = None if parts[0]._returned is None else concatenated([part._returned for part in parts])
        whole = cls(pixels, activations, chosen, rerun, returned)
        whole._parts = tuple(parts)
        return whole

    def at_level(self, place: int) -> ForwardPass:
        """This pass with the activations of one of its layers alone."""

        def rerun(changed: Tensor, images: Tensor) -> Any:
            raise CnnvizError(
                "Activations of a level of a pyramid cannot be changed alone: others are computed from them.",
                "Name the layer with --layer.",
            )

        found = ForwardPass(self.pixels, (self.activations[place],), self.chosen, rerun, self._returned)
        found._parts = tuple(part.at_level(place) for part in self._parts)
        return found

    def level_gradients(self, scores: Tensor) -> list[Tensor]:
        """Whether the gradient of each image's score [N] is anything at each layer: bool [N], layer by layer."""
        leaves = [leaf for place in range(len(self.activations)) for leaf in self._leaves(place)]
        found = torch.autograd.grad(scores.sum(), leaves, retain_graph=True, allow_unused=True)
        each = [
            torch.zeros(len(leaf), dtype=torch.bool) if gradient is None else (gradient != 0).flatten(1).any(1).cpu()
            for leaf, gradient in zip(leaves, found, strict=True)
        ]
        parts = len(self._parts) or 1
        return [torch.cat(each[start : start + parts]) for start in range(0, len(each), parts)]

    @property
    def logits(self) -> Tensor:
        """The class scores [N, K], float32.

        Raises:
            CnnvizError: The output that is explained has another shape than that of class scores.
        """
        return two_dim(self.chosen)

    @property
    def output(self) -> Any:
        """What targets read: the class scores, the units of a layer, or all that the network returns."""
        return self.chosen if self._returned is None else self._returned

    def _leaves(self, place: int) -> tuple[Tensor, ...]:
        """What to differentiate the score by at a target layer: its activation, or that of each image by itself."""
        if not self._parts:
            return (self.activations[place],)
        return tuple(part.activations[place] for part in self._parts)

    def again(self) -> ForwardPass:
        """The same pass for another request: what the first one remembered is not known to it."""
        found = copy.copy(self)
        found._memory = {}
        return found

    def remember(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: what several targets of this batch share."""
        if key not in self._memory:
            self._memory.setdefault(key, make())  # of threads at once all get what came first
        value: T = self._memory[key]
        return value

    def forget(self) -> None:
        """Let go of what was remembered: it may hold this pass, and Python finds such cycles late."""
        kept, self._memory = self._memory, {}
        for value in kept.values():
            if isinstance(value, ForwardPass):
                value.forget()

    def gradients(self, scores: Tensor, places: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """d(sum of scores)/dA for each target layer (or for those at ``places``), float32.

        Every score depends on its own image only, so the sum's gradient holds each image's own.

        Args:
            scores: [N], one score an image, computed from ``output``.
            places: Indices into ``activations``; None for all.
        """
        if not scores.requires_grad and self.chosen.requires_grad:
            raise CnnvizError("The score does not depend on the network's output.", "Compute it from the given output.")
        wanted = [self._leaves(place) for place in (range(len(self.activations)) if places is None else places)]
        flat = [leaf for leaves in wanted for leaf in leaves]
        found: Sequence[Tensor | None] = [None] * len(flat)
        if scores.requires_grad:
            found = torch.autograd.grad(scores.sum(), flat, retain_graph=True, allow_unused=True)
        if any(gradient is None for gradient in found):
            raise no_gradient(self.session)  # disconnected is not zero
        each = iter(found)
        return tuple(torch.cat([cast(Tensor, next(each)).float() for _ in leaves]) for leaves in wanted)

    def passing_gradients(self, scores: Tensor, look: Callable[[int, Tensor], None]) -> None:
        """Like :meth:`gradients`, each shown to ``look`` with its place as the pass comes by; none is kept.

        For sessions whose first activation is the image. What is shown must not be written to.
        """
        if self._parts:
            for place, gradient in enumerate(self.gradients(scores)):
                look(place, gradient)
            return
        with passing(self.activations, look):
            torch.autograd.grad(scores.sum(), self.activations[:1], retain_graph=True)

    def rerun(self, activations: Tensor, images: Tensor | None = None) -> Any:
        """The output without gradients of other activations [M, C, h, w] of the (first) target layer.

        Only the head runs (with hooks the network, whose layer returns them). ``images`` [M]: the image of the batch
        that each stands for, which what bypasses the layer is taken from; None for each image once, in order.
        """
        order = torch.arange(len(self.pixels), device=self.pixels.device) if images is None else images
        with torch.no_grad():
            if not self.session.one_by_one:
                found = self._rerun(activations, order)
            else:
                rows = zip(activations.split(1), order.split(1), strict=True)
                found = concatenated([self.session.guarded(self._rerun, *row) for row in rows])
        return as_rows(found) if self._returned is None else found


@dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A network that is cut and ready to run.

    Attributes:
        name: What to call it in messages.
        run: One pass over a batch on its device.
        layers: What is explained.
        device, runtime: Where it runs, and in which precision.
        preparation: ``compiled``, ``packed``, ``folded``, ``plain``, ``shared`` (the given modules) or ``hooks``.
        graph: Its trace; None without one.
        untraced: Why there is none, for sentences about the network.
        nodes, split: Where the trace is cut, and its two parts.
        unprepared: The same cut of the network's own modules; None where they are what runs anyway.
        notes: What the user should know.
        marked: Marks what of an output has no rows for images, where all that the network returns is read.
    """

    name: str
    run: Callable[[Tensor], ForwardPass]
    layers: tuple[LayerRef, ...]
    device: torch.device
    runtime: rt.Runtime
    preparation: str = "hooks"
    graph: Graph | None = None
    untraced: str = "cannot be traced"
    nodes: tuple[fx.Node, ...] = ()
    split: Split | None = None
    unprepared: Callable[[Tensor], ForwardPass] | None = None
    notes: tuple[str, ...] = ()
    marked: Callable[[Any], Any] = lambda output: output

    def passed(self, pixels: Tensor) -> ForwardPass:
        """One pass without gradients.

        Raises:
            CnnvizError: Its scores have no row for each image.
        """
        with torch.no_grad(), foreign_code():
            found = self.run(pixels)
        check_rows(tuple(found.chosen.shape), len(pixels), self.name)
        return found


class Session:
    """A prepared network. Open one with :func:`open_session`.

    Args:
        network: The network, ready to run.
        output: Which of its outputs is explained.
        input_shape: (C, H, W) of an input that it takes.
        readout: What of it targets read.

    Attributes:
        boxes: How its output has candidates for boxes; None where it has none.
        levels: Whether its layers are the default ones of a detector.
    """

    def __init__(
        self, network: PreparedNetwork, output: OutputChoice, input_shape: tuple[int, ...], readout: Readout
    ) -> None:
        self.name, self.layers = network.name, network.layers
        self.device, self.runtime = network.device, network.runtime
        self.graph, self.nodes, self.split = network.graph, network.nodes, network.split
        self.untraced, self.preparation = network.untraced, network.preparation
        self.output, self.input_shape, self.readout = output, input_shape, readout
        self.unprepared, self.marked = network.unprepared, network.marked
        self.notes = list(network.notes)
        self.preprocess: Preprocess | None = None
        self.boxes: BoxForm | None = None
        self.levels, self._level = False, cast("int | None", None)
        self.one_by_one = False
        self.noise_seed: int | None = None
        self._run = network.run
        self._memory: dict[str, Any] = {}

    @property
    def final_activation(self) -> str | None:
        """``"softmax"``, ``"sigmoid"`` or None: what the network applies to its logits, where that is known."""
        return None if self.graph is None else self.graph.final_activation

    @property
    def compiled(self) -> bool:
        return self.preparation == "compiled"

    def of_pictures(self, preprocess: Preprocess) -> Session:
        """This session, which knows how pictures become its batches."""
        self.preprocess = preprocess
        return self

    def behave(self, *, one_by_one: bool, noise_seed: int | None) -> None:
        """Take over what an examination found.

        Args:
            one_by_one: Images that would change each other go through one by one.
            noise_seed: A network that draws random numbers draws those of this seed at every pass; None for others.
        """
        self.one_by_one, self.noise_seed = one_by_one, noise_seed

    @property
    def has_levels(self) -> bool:
        """Whether its layers are levels of a detector's pyramid, each of which feeds the head by itself."""
        return self.levels and self._level is None and len(self.layers) > 1

    def at_level(self, place: int) -> Session:
        """This session with one of its layers alone."""

        def make() -> Session:
            found = copy.copy(self)
            found.layers, found._level, found._memory = (self.layers[place],), place, {}
            return found

        return self.remember(f"level {place}", make)

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: facts about the network that hold for every batch."""
        found = self._memory.get(key, self)  # another thread may forget it
        value: T = self._memory.setdefault(key, make()) if found is self else found  # of threads all get the first
        return value

    def forget(self, start: str = "") -> None:
        """Nothing holds that was remembered under keys that start so: the network changed, or memory is short."""
        for key in [key for key in list(self._memory) if key.startswith(start)]:
            self._memory.pop(key, None)

    def forward(self, pixels: Tensor) -> ForwardPass:
        """Run the network once on a normalised batch [N, C, H, W].

        Raises:
            CnnvizError: The batch has another number of channels or dimensions than the network takes.
        """
        if pixels.dim() != 4:
            raise CnnvizError(f"A batch has shape [N, C, H, W]; got {list(pixels.shape)}.", "Add the batch axis first.")
        with rt.scope():
            return self._pass(rt.own(pixels).to(self.device, torch.float32))

    def output_of(self, pixels: Tensor) -> Any:
        """What targets read of a normalised batch on the session's device, without gradients."""
        with torch.no_grad():
            return map_tensors(Tensor.detach, self._pass(pixels).output)

    def chosen(self, pixels: Tensor) -> Tensor:
        """The explained output of a normalised batch on the session's device, without gradients."""
        with torch.no_grad():
            return cast(Tensor, self._pass(pixels).chosen.detach())

    def logits(self, pixels: Tensor) -> Tensor:
        """[N, K] of a normalised batch on the session's device, without gradients."""
        with torch.no_grad():
            return self._pass(pixels).logits.detach()

    def unprepared_chosen(self, pixels: Tensor) -> Tensor:
        """Like :meth:`chosen`, by the network's own modules: a packed weight is ordered anew for each input size."""
        if self.unprepared is None:
            return self.chosen(pixels)
        with torch.no_grad():
            found: Tensor = self.guarded(self.unprepared, pixels).chosen
        check_rows(tuple(found.shape), len(pixels), self.name)
        return found

    def _pass(self, pixels: Tensor) -> ForwardPass:
        go_on()
        if self.one_by_one and len(pixels) > 1:
            run = ForwardPass.joined([self._pass(image) for image in pixels.split(1)])
        else:
            run = self.guarded(self._run, pixels)
            check_rows(tuple(run.chosen.shape), len(pixels), self.name)
            run = run if self._level is None else run.at_level(self._level)
        run.session = self
        return run

    def guarded(self, run: Callable[..., T], *values: Any) -> T:
        """Call the network's code: nothing that it raises ends the program, and its random numbers are this run's."""
        noise = contextlib.nullcontext() if self.noise_seed is None else same_noise(self.noise_seed, self.device)
        with foreign_code(), noise:
            return run(*values)

    def behave_like(self, other: Session) -> None:
        """Take over what the examination of the same network found."""
        self.behave(one_by_one=other.one_by_one, noise_seed=other.noise_seed)


def no_gradient(session: Session) -> CnnvizError:
    """What to say when the score cannot be differentiated by what is explained."""
    to = f"layer {session.layers[0].name}" if session.layers else "the image"
    units = session.readout.layer
    other = "the vector of an image" if session.readout.before_classifier else "the class scores"
    scores = other if units is None else f"the units of layer {units}"
    return CnnvizError(
        f"No gradient passes from {scores} to {to}, without which this cannot be computed.",
        "Use occlusion or rise, which need no gradient.",
    )


def check_rows(shape: tuple[int, ...], images: int, name: str) -> None:
    """Raises a CnnvizError unless scores of this shape hold one row for each image, and something in it."""
    if shape[:1] == (images,) and 0 not in shape:
        return
    raise CnnvizError(
        f"{name} returned scores of shape {list(shape)} for {images} image{'s' * (images != 1)}; "
        "expected one row of class scores for each image.",
        "Choose another output with --logits-key KEY, or correct the network's forward.",
    )


def concatenated(parts: Sequence[Any]) -> Any:
    """One output of several batches after another."""
    return map_tensors(lambda *tensors: torch.cat(tensors), *parts)
