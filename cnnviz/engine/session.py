"""A network prepared for explaining: opened once, run on many batches.

    with open_session(module, ...) as session:
        run = session.forward(pixels)          # one forward pass
        grads = run.gradients(score(run.logits))   # one backward pass, from the head only

A session works by graph where the network traces, otherwise by hooks. Both give the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.biases import places_of
from cnnviz.engine.compiled import compile_trunk
from cnnviz.engine.rerun import HeadRun, Rerun
from cnnviz.engine.split import Split, cut, to_head, usable_preparations
from cnnviz.engine.tape import passing, recording, seen_layer, substituting, watching
from cnnviz.errors import CnnvizError
from cnnviz.models.graph import Graph, trace
from cnnviz.models.layers import LayerRef, reference, resolve
from cnnviz.models.outputs import selector
from cnnviz.models.preprocess import Preprocess
from cnnviz.specs import MethodSpec

T = TypeVar("T")
INPUT_LAYER = "input"
OUTPUT_LAYER = "output"
# Where the network is cut: at the image, and wherever a constant is added on the way.
BIASES = "biases"
# Where the network is cut for methods that do not look at a layer, by the space of their maps.
FIXED_LAYERS: dict[str, tuple[str, ...]] = {"input": (INPUT_LAYER,), "grid": (OUTPUT_LAYER,)}
DEFAULT_LAYER = ""


def layers_for(spec: MethodSpec, params: Mapping[str, Any], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The ``layers`` of the session that a method needs: what was asked for, the input, or the input and a layer.

    Raises:
        CnnvizError: More layers than the method makes a map of.
    """
    if len(asked) > 1 and not spec.several_layers:
        raise CnnvizError(
            f"{spec.name} explains one layer; {len(asked)} were named: {', '.join(asked)}.",
            "Name one with --layer, or fuse them with --variant layercam.",
        )
    if "biases" in spec.needs:
        return (BIASES,)
    if spec.space == "input" and spec.wants_layer(params):
        return (INPUT_LAYER, *(asked[:1] or (DEFAULT_LAYER,)))
    return FIXED_LAYERS.get(spec.space, asked)


@dataclass(frozen=True)
class SessionOptions:
    """What to prepare.

    Attributes:
        layers: Layer names; empty for the default layer; ``("input",)`` differentiates down to the image (alone, or
            before layers: ``("input", "")`` is the image and the default layer), ``("output",)`` needs no gradient,
            ``("biases",)`` is the image and every place that :mod:`cnnviz.engine.biases` finds.
        output: Dotted path to the class scores in the network's return value.
        compile: Compile the trunk.
        batch_size: Batch to compile for.
        private: Prepare a private copy (folded, packed); otherwise run the given modules as they are.
    """

    layers: tuple[str, ...] = ()
    output: str | None = None
    compile: bool = False
    batch_size: int = 16
    private: bool = True


class Pass:
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
        self._memory: dict[Any, Any] = {}

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
        if not scores.requires_grad:
            raise CnnvizError("The score does not depend on the network's output.", "Compute it from the given output.")
        wanted = self.activations if places is None else tuple(self.activations[place] for place in places)
        found = torch.autograd.grad(scores.sum(), wanted, retain_graph=True, materialize_grads=True)
        return tuple(gradient.float() for gradient in found)

    def passing_gradients(self, scores: Tensor, look: Callable[[int, Tensor], None]) -> None:
        """Like :meth:`gradients`, each shown to ``look`` with its place as the pass comes by; none is kept.

        For sessions whose first activation is the image. What is shown must not be written to.
        """
        with passing(self.activations, look):
            torch.autograd.grad(scores.sum(), self.activations[:1], retain_graph=True)

    def rerun(self, activations: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits [M, K], float32, without gradients, of other activations [M, C, h, w] of the (first) target layer.

        Only the head runs (with hooks the network, whose layer returns them). ``images`` [M]: the image of the batch
        that each stands for, which what bypasses the layer is taken from; None for each image once, in order.
        """
        order = torch.arange(len(self.pixels), device=self.pixels.device) if images is None else images
        with torch.no_grad():
            return two_dim(self._rerun(activations, order))


class Session:
    """A prepared network. Open one with :func:`open_session`."""

    def __init__(
        self, name: str, run: Callable[[Tensor], Pass], layers: tuple[LayerRef, ...], device: torch.device
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

    def forward(self, pixels: Tensor) -> Pass:
        """Run the network once on a normalised batch [N, C, H, W].

        Raises:
            CnnvizError: The batch has another number of channels or dimensions than the network takes.
        """
        if pixels.dim() != 4:
            raise CnnvizError(f"A batch has shape [N, C, H, W]; got {list(pixels.shape)}.", "Add the batch axis first.")
        with rt.scope():
            run = self._run(rt.own(pixels).to(self.device, torch.float32))
        run.session = self
        return run

    def logits(self, pixels: Tensor) -> Tensor:
        """[N, K] of a normalised batch on the session's device, without gradients."""
        with torch.no_grad():
            return self._run(pixels).logits.detach()


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
        select = selector(options.output)
        check_runs(module, name, image, select)
        graph = trace(module, image, select)
        if graph is None:
            return _by_hooks(module, name, image, runtime, options)
        return _by_graph(graph, name, image, runtime, options)


def probe_image(shape: tuple[int, ...]) -> Tensor:
    """A fixed random image [1, C, H, W] to find out by running what a network does."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, *shape), generator=generator)


def check_runs(module: nn.Module, name: str, image: Tensor, select: Callable[[Any], Any]) -> None:
    """Run the network once.

    Raises:
        CnnvizError: It does not take this input, or no class scores are in what it returns.
    """
    try:
        with torch.no_grad():
            value = module(image)
    except Exception as error:
        if rt.is_out_of_memory(error):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CnnvizError(
            f"{name} cannot run on an input of shape {list(image.shape)}: {first}",
            "Set --input-size to what the network takes, such as --input-size 3,224,224.",
        ) from error
    select(value)


def _by_graph(graph: Graph, name: str, image: Tensor, runtime: rt.Runtime, options: SessionOptions) -> Session:
    layers: tuple[LayerRef, ...] = ()
    if options.layers == (OUTPUT_LAYER,):
        nodes = [_before_classifier(graph)]
    elif options.layers == (BIASES,):
        nodes = [graph.input, *places_of(graph)]
    else:
        layers = tuple(resolve(graph, layer or None, name) for layer in _named(options))
        nodes = [graph.input] if INPUT_LAYER in options.layers else []
        nodes += [layer.node for layer in layers if layer.node is not None]
    reference_split = cut(graph, nodes, runtime, "shared")
    if options.private:
        split = _fastest_that_agrees(graph, nodes, image, runtime, reference_split)
    else:
        split = reference_split
    session = Session(name, _graph_runner(split), layers, runtime.device if options.private else image.device)
    session.graph, session.final_activation, session.preparation = graph, graph.final_activation, split.preparation
    session.runtime, session.nodes, session.split = runtime, tuple(nodes), split
    if options.compile and options.private:
        _compile(session, graph, split, image, runtime, options)
    return session


def _named(options: SessionOptions) -> tuple[str, ...]:
    """The layers beside the input, :data:`DEFAULT_LAYER` when nothing is asked for."""
    fixed = {INPUT_LAYER, OUTPUT_LAYER, BIASES}
    return tuple(layer for layer in options.layers or (DEFAULT_LAYER,) if layer not in fixed)


def _before_classifier(graph: Graph) -> fx.Node:
    """The tensor that feeds a last linear layer, which stays in float32; otherwise the logits themselves."""
    last = graph.submodule(graph.logits)
    sources = graph.inputs_of(graph.logits)
    return sources[0] if type(last) is nn.Linear and sources[:1] == graph.chain()[-2:-1] else graph.logits


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
    raise CnnvizError(
        f"In {runtime.precision} on {runtime.device} this network gives other values than in float32.",
        "Use --precision fp32.",
    )


def agrees(got: Pass, expected: Pass, tolerance: float) -> bool:
    """Whether two passes have the same logits and activations, relative to their largest value."""
    pairs = zip((got.logits, *got.activations), (expected.logits, *expected.activations), strict=True)
    return all(_close(a.detach().float().cpu(), b.detach().float().cpu(), tolerance) for a, b in pairs)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if not bool(torch.isfinite(b).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)))
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))


def _graph_runner(split: Split) -> Callable[[Tensor], Pass]:
    def cross(pixels: Tensor) -> tuple[Any, ...]:
        source = pixels.to(split.trunk_dtype)
        if split.preparation not in {"plain", "shared"}:
            source = source.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return split.trunk(source)

    def run(pixels: Tensor) -> Pass:
        values = tuple(to_head(value, split, i < split.crossing) for i, value in enumerate(cross(pixels)))
        logits, *inner = split.head(*values)
        every = (*values, *inner)
        return Pass(
            pixels, tuple(every[i] for i in split.order), two_dim(logits), HeadRun(split, cross, pixels, values)
        )

    return run


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
            "Choose the class scores with --output KEY.",
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
    select = selector(options.output)
    if options.private and image.device != runtime.device:
        module = copy.deepcopy(module).to(runtime.device)
        image = image.to(runtime.device)
    with torch.no_grad(), watching(module) as seen:
        module(image)
    layers = tuple(seen_layer(seen, layer or None, name, image) for layer in _named(options))
    wanted = [(layer.name.partition(":")[0], layer.call) for layer in layers]

    def run(pixels: Tensor) -> Pass:
        leaves: tuple[Tensor, ...] = ()
        source = pixels
        if INPUT_LAYER in options.layers:
            leaves = (pixels.detach().requires_grad_(),)
            source = leaves[0].clone()  # the network may work in place, which a leaf forbids
        with recording(module, wanted) as tape:
            logits = select(module(source))

        def rerun(activations: Tensor, images: Tensor) -> Any:
            with substituting(module, wanted[0], activations):
                return select(module(pixels[images]))

        return Pass(pixels, (*leaves, *tape.activations()), two_dim(logits), rerun)

    session = Session(name, run, layers, image.device)
    session.notes.append("the network cannot be traced: hooks are used, without folding or compilation")
    if runtime.precision != "fp32":
        session.notes.append(f"{runtime.precision} needs a traced network: float32 is used")
    return session


__all__ = [
    "DEFAULT_LAYER",
    "FIXED_LAYERS",
    "INPUT_LAYER",
    "OUTPUT_LAYER",
    "Pass",
    "Session",
    "SessionOptions",
    "agrees",
    "layers_for",
    "open_session",
    "prepare",
    "reference",
]
