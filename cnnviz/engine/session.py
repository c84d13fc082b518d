"""A network prepared for explaining: opened once, run on many batches.

    with open_session(module, ...) as session:
        run = session.forward(pixels)          # one forward pass
        grads = run.gradients(score(run.logits))   # one backward pass, from the head only

A session works by graph where the network traces, otherwise by hooks. Both give the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.head_rerun import Rerun
from cnnviz.engine.hooks import passing
from cnnviz.engine.prepare.split import Split
from cnnviz.engine.seeding import same_noise
from cnnviz.errors import CnnvizError, foreign_code
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.outputs import OutputChoice
from cnnviz.models.graph.trace import Graph
from cnnviz.models.preprocess import Preprocess

T = TypeVar("T")


class ForwardPass:
    """One forward pass over a batch, ready for backward passes from the head.

    Attributes:
        pixels: The batch [N, C, H, W], normalised, on the device.
        activations: For each target layer its activation [N, C, h, w]; requires gradients. With the input among
            the layers, the pixels as a leaf stand in its place.
        logits: [N, K] float32, connected to the activations.
        session: The session that ran it.
    """

    session: Session

    def __init__(self, pixels: Tensor, activations: tuple[Tensor, ...], logits: Tensor, rerun: Rerun) -> None:
        self.pixels = pixels
        self.activations = activations
        self.logits = logits
        self._rerun = rerun
        self._parts: tuple[ForwardPass, ...] = ()
        self._memory: dict[Any, Any] = {}

    @classmethod
    def joined(cls, parts: Sequence[ForwardPass]) -> ForwardPass:
        """One pass of a batch whose images went through the network one by one."""
        activations = tuple(torch.cat(same) for same in zip(*(part.activations for part in parts), strict=True))
        pixels, logits = (torch.cat([getattr(part, name) for part in parts]) for name in ("pixels", "logits"))

        def rerun(changed: Tensor, images: Tensor) -> Tensor:
            alone = images.new_zeros(1)
            rows = zip(changed.split(1), images.tolist(), strict=True)
            return torch.cat([two_dim(parts[image]._rerun(row, alone)) for row, image in rows])

        whole = cls(pixels, activations, logits, rerun)
        whole._parts = tuple(parts)
        return whole

    def _leaves(self, place: int) -> tuple[Tensor, ...]:
        """What to differentiate the score by at a target layer: its activation, or that of each image by itself."""
        if not self._parts:
            return (self.activations[place],)
        return tuple(part.activations[place] for part in self._parts)

    def remember(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: what several targets of this batch share."""
        if key not in self._memory:
            self._memory[key] = make()
        value: T = self._memory[key]
        return value

    def gradients(self, scores: Tensor, places: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """d(sum of scores)/dA for each target layer (or for those at ``places``), float32.

        Every score depends on its own image only, so the sum's gradient holds each image's own.

        Args:
            scores: [N], one score an image, computed from ``logits``.
            places: Indices into ``activations``; None for all.
        """
        if not scores.requires_grad and self.logits.requires_grad:
            raise CnnvizError("The score does not depend on the network's output.", "Compute it from the given output.")
        wanted = [self._leaves(place) for place in (range(len(self.activations)) if places is None else places)]
        flat = [leaf for leaves in wanted for leaf in leaves]
        found: Sequence[Tensor | None] = [None] * len(flat)
        if scores.requires_grad:
            found = torch.autograd.grad(scores.sum(), flat, retain_graph=True, allow_unused=True)
        if any(gradient is None for gradient in found):
            raise no_gradient(self.session.layers, None)  # disconnected is not zero
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

    def rerun(self, activations: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits [M, K], float32, without gradients, of other activations [M, C, h, w] of the (first) target layer.

        Only the head runs (with hooks the network, whose layer returns them). ``images`` [M]: the image of the batch
        that each stands for, which what bypasses the layer is taken from; None for each image once, in order.
        """
        order = torch.arange(len(self.pixels), device=self.pixels.device) if images is None else images
        with torch.no_grad():
            if not self.session.one_by_one:
                return two_dim(self._rerun(activations, order))
            rows = zip(activations.split(1), order.split(1), strict=True)
            return torch.cat([two_dim(self.session.guarded(self._rerun, *row)) for row in rows])


class Session:
    """A prepared network. Open one with :func:`open_session`."""

    def __init__(
        self, name: str, run: Callable[[Tensor], ForwardPass], layers: tuple[LayerRef, ...], device: torch.device
    ) -> None:
        self.name = name
        self._run = run
        self.layers = layers
        self.device = device
        self.graph: Graph | None = None
        self.untraced = "cannot be traced"  # why there is no graph, for sentences about the network
        self.runtime = rt.Runtime(device, "fp32")
        self.preprocess: Preprocess | None = None
        self.final_activation: str | None = None
        self.preparation = "hooks"
        self.split: Split | None = None
        self.nodes: tuple[fx.Node, ...] = ()
        self.compiled = False
        self.notes: list[str] = []
        # Found by the examination: images that would change each other go through one by one, and a network that
        # draws random numbers draws the same ones at every pass.
        self.output: OutputChoice | None = None
        self.input_shape: tuple[int, ...] = ()
        # The same cut of the network's own modules; None where the session runs them anyway.
        self.unprepared: Callable[[Tensor], ForwardPass] | None = None
        self.one_by_one = False
        self.noise_seed: int | None = None
        self._memory: dict[str, Any] = {}

    def remember(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: facts about the network that hold for every batch."""
        if key not in self._memory:
            self._memory[key] = make()
        value: T = self._memory[key]
        return value

    def forget(self) -> None:
        """The network changed: nothing that was remembered holds."""
        self._memory.clear()

    def forward(self, pixels: Tensor) -> ForwardPass:
        """Run the network once on a normalised batch [N, C, H, W].

        Raises:
            CnnvizError: The batch has another number of channels or dimensions than the network takes.
        """
        if pixels.dim() != 4:
            raise CnnvizError(f"A batch has shape [N, C, H, W]; got {list(pixels.shape)}.", "Add the batch axis first.")
        with rt.scope():
            return self._pass(rt.own(pixels).to(self.device, torch.float32))

    def logits(self, pixels: Tensor) -> Tensor:
        """[N, K] of a normalised batch on the session's device, without gradients."""
        with torch.no_grad():
            return self._pass(pixels).logits.detach()

    def unprepared_logits(self, pixels: Tensor) -> Tensor:
        """Like :meth:`logits`, by the network's own modules: a packed weight is ordered anew for each input size."""
        if self.unprepared is None:
            return self.logits(pixels)
        with torch.no_grad():
            run = self.guarded(self.unprepared, pixels)
        check_rows(tuple(run.logits.shape), len(pixels), self.name)
        return run.logits

    def _pass(self, pixels: Tensor) -> ForwardPass:
        if self.one_by_one and len(pixels) > 1:
            run = ForwardPass.joined([self._pass(image) for image in pixels.split(1)])
        else:
            run = self.guarded(self._run, pixels)
            check_rows(tuple(run.logits.shape), len(pixels), self.name)
        run.session = self
        return run

    def guarded(self, run: Callable[..., T], *values: Any) -> T:
        """Call the network's code: nothing that it raises ends the program, and its random numbers are this run's."""
        noise = contextlib.nullcontext() if self.noise_seed is None else same_noise(self.noise_seed)
        with foreign_code(), noise:
            return run(*values)

    def behave_like(self, other: Session) -> None:
        """Take over what the examination of the same network found."""
        self.one_by_one, self.noise_seed = other.one_by_one, other.noise_seed


def no_gradient(layers: Sequence[LayerRef], blocking: str | None) -> CnnvizError:
    """What to say when the score cannot be differentiated by what is explained."""
    to = f"layer {layers[0].name}" if layers else "the image"
    through = f"through layer {blocking}" if blocking else "from the class scores"
    return CnnvizError(
        f"No gradient passes {through} to {to}, so there is nothing to explain it by.",
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


def two_dim(logits: Tensor) -> Tensor:
    """[N, K] float32, also for networks that return [N] or [N, K, 1, 1]."""
    flat = logits.float()
    if flat.dim() == 1:
        return flat.unsqueeze(1)
    if flat.dim() > 2 and all(size == 1 for size in flat.shape[2:]):
        return flat.flatten(1)
    if flat.dim() != 2:
        raise CnnvizError(
            f"The explained output has shape {list(flat.shape)}; a classifier's is [N, K].",
            "Choose the class scores with --logits-key KEY.",
        )
    return flat
