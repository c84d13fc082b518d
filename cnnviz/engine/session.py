"""A network prepared for explaining: opened once, run on many batches.

    with open_session(module, ...) as session:
        run = session.forward(pixels)          # one forward pass
        grads = run.gradients(score(run.logits))   # one backward pass, from the head only

A session works by graph where the network traces, otherwise by hooks. Both give the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.head_rerun import HeadRun, Rerun
from cnnviz.engine.hooks import passing, recording, seen_layer, substituting, watched
from cnnviz.engine.prepare.compile import compile_trunk
from cnnviz.engine.prepare.split import Split, cut, quietly, to_head, usable_preparations
from cnnviz.engine.seeding import same_noise
from cnnviz.errors import CnnvizError, foreign_code
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.outputs import OutputChoice, choose_output, select_output, selector
from cnnviz.models.graph.trace import Graph, trace
from cnnviz.models.loading.inputs import cannot_run, first_line
from cnnviz.models.preprocess import Preprocess

T = TypeVar("T")


@dataclass(frozen=True)
class SessionOptions:
    """What to prepare.

    Attributes:
        cut: Where the network is cut.
        logits_key: Dotted path to the class scores in the network's return value.
        compile: Compile the trunk.
        batch_size: Batch to compile for.
        private: Prepare a private copy (folded, packed); otherwise run the given modules as they are.
        classes: Numbers of classes that the scores may have, which decides between several outputs.
    """

    cut: Cut = field(default_factory=Cut.at_layers)
    logits_key: str | None = None
    compile: bool = False
    batch_size: int = 16
    private: bool = True
    classes: tuple[int, ...] = ()


class PrecisionError(CnnvizError):
    """The network's scores in this precision are not those in float32."""


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
        """What the score is differentiated by at one of the target layers: its activation, or one an image."""
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


@contextlib.contextmanager
def open_session(
    module: nn.Module, name: str, probe: tuple[int, ...], runtime: rt.Runtime, options: SessionOptions
) -> Iterator[Session]:
    """Prepare ``module`` and hold it in evaluation mode with frozen parameters while the body runs.

    Args:
        module: The network; left as found afterwards.
        name: What to call it in messages.
        probe: Shape (C, H, W) of an input that the network takes.
        runtime: Device and precision.
        options: Layers, output, compilation.

    Raises:
        CnnvizError: Unknown layer, a transformer, a network that does not run on such an input.
    """
    with rt.scope(), rt.borrowed(module):
        yield prepare(module, name, probe, runtime, options)


def prepare(
    module: nn.Module, name: str, probe: tuple[int, ...], runtime: rt.Runtime, options: SessionOptions
) -> Session:
    """Like :func:`open_session` for a module that stays in evaluation mode with frozen parameters by itself."""
    with rt.scope():
        where = next((p.device for p in module.parameters()), torch.device("cpu"))
        image = probe_image(probe).to(where)
        choice = check_runs(module, name, image, options)
        options = replace(options, logits_key=choice.key)
        graph = trace(module, image, selector(choice.key))
        if graph is None:
            session = _by_hooks(module, name, image, runtime, options)
        else:
            session = _by_graph(graph, name, image, runtime, options)
        session.output, session.input_shape = choice, probe
        return session


def probe_image(shape: tuple[int, ...]) -> Tensor:
    """A fixed random image [1, C, H, W] to find out by running what a network does."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, *shape), generator=generator)


def check_runs(module: nn.Module, name: str, image: Tensor, options: SessionOptions) -> OutputChoice:
    """Run the network once, and find the class scores in what it returns.

    Raises:
        CnnvizError: It does not take this input, or no class scores are in what it returns.
    """
    try:
        with torch.no_grad(), foreign_code():
            value = module(image)
    except Exception as error:
        if rt.is_out_of_memory(error):
            raise
        otherwise = CnnvizError(
            f"{name} cannot run on an input of shape {list(image.shape)}: {first_line(error)}",
            "Set --input-size to what the network takes, such as --input-size 3,224,224.",
        )
        raise cannot_run(module, name, error, otherwise) from error
    leaf = image.detach().clone().requires_grad_()
    choice = choose_output(value, options.logits_key, options.classes, lambda: module(leaf * 1))
    check_rows(tuple(select_output(value, choice.key).shape), len(image), name)
    return choice


def _by_graph(graph: Graph, name: str, image: Tensor, runtime: rt.Runtime, options: SessionOptions) -> Session:
    layers, nodes = options.cut.of(graph, name)
    reference_split = cut(graph, nodes, runtime, "shared")
    if options.private:
        split = _fastest_that_agrees(graph, nodes, image, runtime, reference_split)
    else:
        split = reference_split
    session = Session(name, _graph_runner(split), layers, runtime.device if options.private else image.device)
    session.graph, session.final_activation, session.preparation = graph, graph.final_activation, split.preparation
    session.runtime, session.nodes, session.split = runtime, tuple(nodes), split
    session.notes.extend(options.cut.notes(graph, layers))
    if options.compile and options.private:
        _compile(session, graph, split, image, runtime, options)
    return session


def _fastest_that_agrees(
    graph: Graph, nodes: Sequence[Any], image: Tensor, runtime: rt.Runtime, reference_split: Split
) -> Split:
    # Without gradients: weights made under inference mode may be read, not kept for a backward pass.
    with torch.no_grad():
        expected = _graph_runner(reference_split)(image)
    for preparation in usable_preparations(runtime):
        try:
            split = cut(graph, nodes, runtime, preparation)
            with torch.no_grad():
                got = _graph_runner(split)(image.to(runtime.device))
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
            continue
        if agrees(got, expected, runtime.tolerance):
            return split
    if runtime.precision == "fp32" and image.device == runtime.device:
        return reference_split  # modules that cannot be copied (weights computed by hooks) run as they are
    raise PrecisionError(
        f"In {runtime.precision} on {runtime.device} this network gives other values than in float32.",
        "Use --precision fp32.",
    )


def agrees(got: ForwardPass, expected: ForwardPass, tolerance: float) -> bool:
    """Whether two passes have the same logits and activations, relative to their largest value."""
    pairs = zip((got.logits, *got.activations), (expected.logits, *expected.activations), strict=True)
    return all(_close(a.detach().float().cpu(), b.detach().float().cpu(), tolerance) for a, b in pairs)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if not bool(torch.isfinite(b).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)))
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))


def _graph_runner(split: Split) -> Callable[[Tensor], ForwardPass]:
    def cross(pixels: Tensor) -> tuple[Any, ...]:
        source = pixels.to(split.trunk_dtype)
        if split.preparation not in {"plain", "shared"}:
            source = source.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return quietly(split.trunk)(source)

    def run(pixels: Tensor) -> ForwardPass:
        values = tuple(to_head(value, split, i < split.crossing) for i, value in enumerate(cross(pixels)))
        logits, *inner = quietly(split.head)(*values)
        every = (*values, *inner)
        return ForwardPass(
            pixels, tuple(every[i] for i in split.order), two_dim(logits), HeadRun(split, cross, pixels, values)
        )

    return run


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


def _compile(
    session: Session, graph: Graph, split: Split, image: Tensor, runtime: rt.Runtime, options: SessionOptions
) -> None:
    """Swap the trunk for a compiled one when that works and gives the same values; say so when it does not."""
    plain = cut(graph, session.nodes, runtime, "folded")
    trunk, reason = compile_trunk(plain.trunk, image, runtime, options.batch_size)
    if trunk is None:
        session.notes.append(f"not compiled: {reason}")
        return
    compiled = Split(trunk, plain.head, plain.order, plain.crossing, "folded", plain.trunk_dtype, plain.head_dtype)
    got, expected = _graph_runner(compiled)(image.to(runtime.device)), _graph_runner(split)(image.to(runtime.device))
    if not agrees(got, expected, runtime.tolerance):
        session.notes.append("not compiled: the compiled network gave other values")
        return
    session._run, session.preparation, session.compiled = _graph_runner(compiled), "compiled", True


def _by_hooks(module: nn.Module, name: str, image: Tensor, runtime: rt.Runtime, options: SessionOptions) -> Session:
    """Explain by hooks on the module itself, in float32 where it lives."""
    select = selector(options.logits_key)
    if options.private and image.device != runtime.device:
        module = copy.deepcopy(module).to(runtime.device)
        image = image.to(runtime.device)
    layers: tuple[LayerRef, ...] = ()
    if options.cut.layers:
        calls = watched(module, image)
        layers = tuple(seen_layer(calls, layer or None, name, image) for layer in options.cut.layers)
    wanted = [(layer.name.partition(":")[0], layer.call) for layer in layers]

    def run(pixels: Tensor) -> ForwardPass:
        pixels = pixels.contiguous()  # as the network's own code expects, which nobody could read
        leaves: tuple[Tensor, ...] = ()
        source = pixels
        if options.cut.image:
            leaves = (pixels.detach().requires_grad_(),)
            source = leaves[0].clone()  # the network may work in place, which a leaf forbids
        with recording(module, wanted) as tape:
            logits = select(module(source))

        def rerun(activations: Tensor, images: Tensor) -> Any:
            with substituting(module, wanted[0], activations):
                return select(module(pixels[images]))

        return ForwardPass(pixels, (*leaves, *tape.activations()), two_dim(logits), rerun)

    session = Session(name, run, layers, image.device)
    session.notes.append("the network cannot be traced: hooks are used, without folding or compilation")
    if runtime.precision != "fp32":
        session.notes.append(f"{runtime.precision} needs a traced network: float32 is used")
    return session
