"""Opening a network for explaining: traced or by hooks, cut, prepared, compiled, and checked against itself."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import DEFAULT_LAYER, Cut, before_classifier, several_levels
from cnnviz.engine.head_rerun import HeadRun
from cnnviz.engine.hooks import at_position, below_units, recording, seen_layer, substituting, unit_layer, watched
from cnnviz.engine.prepare.agreement import gradients_agree
from cnnviz.engine.prepare.compile import compile_trunk
from cnnviz.engine.prepare.rows import even_rows
from cnnviz.engine.prepare.split import Split, computes, crossing, cut, quietly, to_head, usable_preparations
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, PreparedNetwork, Session, check_rows
from cnnviz.engine.shared_outputs import with_shared_marked
from cnnviz.errors import CnnvizError, first_line, foreign_code
from cnnviz.models.borrowing import borrowed
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.graph.levels import marked_levels
from cnnviz.models.graph.outputs import OutputChoice, choose_output, select_output, selector
from cnnviz.models.graph.trace import Graph, of_boxes, trace
from cnnviz.models.graph.units import ending_at_units, ending_at_vector
from cnnviz.models.loading.inputs import cannot_run
from cnnviz.models.loading.listed_boxes import lists_boxes, with_rows
from cnnviz.registry.tasks import TaskRequest


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
        tracing: ``auto``, or ``off`` to work by hooks without looking for a trace.
        why_untraced: Why tracing is off, for people.
        readout: What of the network targets read.
        task: What the network is said to be for: whether its output has candidates for boxes.
        repeatable: Whether an image gets the same bits from linear layers whatever else is in its batch. Batches of
            less than eight images then take the time of eight in these layers.
    """

    cut: Cut = field(default_factory=Cut.at_layers)
    logits_key: str | None = None
    compile: bool = False
    batch_size: int = 16
    private: bool = True
    classes: tuple[int, ...] = ()
    tracing: str = "auto"
    why_untraced: str = "tracing is off"
    readout: Readout = field(default_factory=Readout.scores)
    task: TaskRequest = field(default_factory=TaskRequest)
    repeatable: bool = True


class PrecisionError(CnnvizError):
    """The network's scores in this precision are not those in float32."""


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
    with rt.scope(), borrowed(module):
        yield prepare(module, name, probe, runtime, options)


def prepare(
    module: nn.Module, name: str, probe: tuple[int, ...], runtime: rt.Runtime, options: SessionOptions
) -> Session:
    """Like :func:`open_session` for a module that stays in evaluation mode with frozen parameters by itself."""
    with rt.scope():
        where = next((p.device for p in module.parameters()), torch.device("cpu"))
        image = probe_image(probe).to(where)
        module, choice, _ = runnable(module, name, image, options)
        options = replace(options, logits_key=choice.key)
        form = options.task.boxes(choice.shape, options.classes)
        if form is not None:
            options = replace(options, cut=replace(options.cut, boxes=True))
        graph = trace(module, image, selector(choice.key)) if options.tracing == "auto" else None
        if graph is not None and form is not None:
            graph = of_boxes(graph, selector(choice.key))
        if graph is not None and options.task.spec is not None and options.task.spec.vectors:
            graph = replace(graph, vector=True)
        if graph is None and options.readout.before_classifier:
            raise CnnvizError(
                f"{name} cannot be traced, so that nobody knows which vector feeds its classifier.",
                "Where its output is a vector, say --task embed; or name a unit: unit:LAYER:K.",
            )
        if graph is None:
            network = _by_hooks(module, name, image, runtime, options)
        else:
            network = _by_graph(read_at(graph, options.readout, name), name, image, runtime, options)
        there = image.to(network.device)
        if (why := options.readout.why) is not None:
            choice = OutputChoice(None, tuple(network.passed(there).chosen.shape), why)
        if options.readout.whole:
            network = with_shared_marked(network, there)
        session = Session(network, choice, probe, options.readout)
        session.boxes, session.levels = form, form is not None and options.cut.layers == (DEFAULT_LAYER,)
        return session


def read_at(graph: Graph, readout: Readout, name: str) -> Graph:
    """The trace with what is read of it: units of a layer in the place of the logits, or everything beside them."""
    if readout.layer is not None:
        return ending_at_units(graph, readout.layer, readout.at, name)
    if readout.before_classifier:
        return ending_at_vector(graph, before_classifier(graph), name)
    return replace(graph, end=graph.returned) if readout.whole else graph


def probe_image(shape: tuple[int, ...]) -> Tensor:
    """A fixed random image [1, C, H, W] to find out by running what a network does."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, *shape), generator=generator)


def check_runs(module: nn.Module, name: str, image: Tensor, options: SessionOptions) -> OutputChoice:
    """Run the network once, and find the class scores in what it returns.

    Raises:
        CnnvizError: It does not take this input, or no class scores are in what it returns.
    """
    return runnable(module, name, image, options)[1]


def runnable(
    module: nn.Module, name: str, image: Tensor, options: SessionOptions
) -> tuple[nn.Module, OutputChoice, Any]:
    """The network, with an output of one shape where it lists boxes; which output is explained; all that it returns.

    Raises:
        CnnvizError: As :func:`check_runs`.
    """
    value = _returned(module, name, image)
    if lists_boxes(value):
        module = with_rows(module, image)
        value = _returned(module, name, image)
    leaf = image.detach().clone().requires_grad_()
    choice = choose_output(value, options.logits_key, options.classes, lambda: module(leaf * 1))
    check_rows(tuple(select_output(value, choice.key).shape), len(image), name)
    return module, choice, value


def _returned(module: nn.Module, name: str, image: Tensor) -> Any:
    try:
        with torch.no_grad(), foreign_code():
            return module(image)
    except Exception as error:
        if rt.is_out_of_memory(error):
            raise
        otherwise = CnnvizError(
            f"{name} cannot run on an input of shape {list(image.shape)}: {first_line(error)}",
            "Set --input-size to what the network takes, such as --input-size 3,224,224.",
        )
        raise cannot_run(module, name, error, otherwise) from error


def _by_graph(graph: Graph, name: str, image: Tensor, runtime: rt.Runtime, options: SessionOptions) -> PreparedNetwork:
    layers, nodes = options.cut.of(graph, name)
    reference_split = split = cut(graph, nodes, runtime, "shared")
    if options.private:
        split = _fastest_that_agrees(graph, nodes, image, runtime, reference_split, options)
    own = split is reference_split or image.device != runtime.device
    network = PreparedNetwork(
        name,
        _graph_runner(split),
        layers,
        runtime.device if options.private else image.device,
        runtime,
        split.preparation,
        graph,
        nodes=tuple(nodes),
        split=split,
        unprepared=None if own else _graph_runner(reference_split),
        notes=tuple(options.cut.notes(graph, layers)),
    )
    return _compiled(network, graph, image, options) if options.compile and options.private else network


def _fastest_that_agrees(
    graph: Graph,
    nodes: Sequence[Any],
    image: Tensor,
    runtime: rt.Runtime,
    reference_split: Split,
    options: SessionOptions,
) -> Split:
    # Without gradients: weights made under inference mode may be read, not kept for a backward pass.
    with torch.no_grad():
        expected = _graph_runner(reference_split)(image)
    for preparation in usable_preparations(runtime):
        try:
            split = _private_cut(graph, nodes, runtime, preparation, options)
            with torch.no_grad():
                got = _graph_runner(split)(image.to(runtime.device))
            same = agrees(got, expected, runtime.tolerance) and gradients_agree(split, image.to(runtime.device))
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
            continue
        if same:
            return split
    if runtime.precision == "fp32" and image.device == runtime.device:
        return reference_split  # modules that cannot be copied (weights computed by hooks) run as they are
    raise PrecisionError(
        f"In {runtime.precision} on {runtime.device} this network gives other values than in float32.",
        "Use --precision fp32.",
    )


def _private_cut(
    graph: Graph, nodes: Sequence[Any], runtime: rt.Runtime, preparation: str, options: SessionOptions
) -> Split:
    split = cut(graph, nodes, runtime, preparation)
    if options.repeatable:
        for part in (split.trunk, split.head):
            even_rows(part)
    return split


def agrees(got: ForwardPass, expected: ForwardPass, tolerance: float) -> bool:
    """Whether two passes have the same logits and activations, relative to their largest value."""
    pairs = zip((got.chosen, *got.activations), (expected.chosen, *expected.activations), strict=True)
    return all(_close(a.detach().float().cpu(), b.detach().float().cpu(), tolerance) for a, b in pairs)


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if not bool(torch.isfinite(b).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)))
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))


def _graph_runner(split: Split) -> Callable[[Tensor], ForwardPass]:
    cross = partial(crossing, split)
    scope = rt.recurrent_scope(split.head)

    def run(pixels: Tensor) -> ForwardPass:
        values = tuple(to_head(value, split, i < split.crossing) for i, value in enumerate(cross(pixels)))
        with scope():
            results = quietly(split.head)(*values)
        # Values inside of the head stand between the logits and what the network returns.
        every = (*values, *results[1:])
        return ForwardPass(
            pixels,
            tuple(every[i] for i in split.order),
            results[0],
            HeadRun(split, cross, pixels, values),
            split.read(results) if split.everything else None,
        )

    return run


def _compiled(network: PreparedNetwork, graph: Graph, image: Tensor, options: SessionOptions) -> PreparedNetwork:
    """With a compiled trunk when that works and gives the same values; it says so when it does not."""
    runtime, packed = network.runtime, network.split
    if packed is not None and not computes(packed.trunk):
        return replace(network, notes=(*network.notes, "not compiled: all of the network is differentiated"))
    plain = _private_cut(graph, network.nodes, runtime, "folded", options)
    trunk, reason = compile_trunk(plain.trunk, image, runtime, options.batch_size)
    if trunk is None:
        return replace(network, notes=(*network.notes, f"not compiled: {reason}"))
    above = packed if packed is not None and packed.preparation == "packed" else plain  # whose head is the faster one
    run = _graph_runner(replace(above, trunk=trunk, widest=0.0))
    if not agrees(run(image.to(runtime.device)), network.run(image.to(runtime.device)), runtime.tolerance):
        return replace(network, notes=(*network.notes, "not compiled: the compiled network gave other values"))
    return replace(network, run=run, preparation="compiled")


def _layers(module: nn.Module, options: SessionOptions, name: str) -> Sequence[str]:
    """The layers of a cut; of a detector the marked ones stand in the place of the default."""
    if not options.cut.boxes or options.readout.layer is not None or DEFAULT_LAYER not in options.cut.layers:
        return options.cut.layers
    levels = marked_levels(module)
    if not levels:
        raise CnnvizError(
            f"{name} cannot be traced, so that nobody knows which layer feeds the head of this detector.",
            "Name it with --layer: the last map before the predictions of classes and boxes.",
        )
    if len(levels) > 1 and options.cut.image:
        raise several_levels(name, levels)
    return levels


def hooked_layers(
    module: nn.Module, name: str, image: Tensor, options: SessionOptions
) -> tuple[tuple[LayerRef, ...], list[tuple[str, int]]]:
    """The layers that hooks explain, and the one whose units they read, found by a pass over an image."""
    readout, units = options.readout, list[tuple[str, int]]()
    if not options.cut.layers and readout.layer is None:
        return (), units
    calls = watched(module, image)
    if readout.layer is not None:
        units.append(unit_layer(calls, readout.layer, readout.at, name, image))
    if not options.cut.layers:
        return (), units
    below = below_units(calls, units[0]) if units else calls
    asked = [(layer or None, calls if layer else below) for layer in _layers(module, options, name)]
    return tuple(seen_layer(among, layer, name, image) for layer, among in asked), units


def _by_hooks(
    module: nn.Module, name: str, image: Tensor, runtime: rt.Runtime, options: SessionOptions
) -> PreparedNetwork:
    """Explain by hooks on the module itself, in float32 where it lives."""
    select = selector(options.logits_key)
    if options.private and image.device != runtime.device:
        module = copy.deepcopy(module).to(runtime.device)
        image = image.to(runtime.device)
    layers, units = hooked_layers(module, name, image, options)
    readout = options.readout
    wanted = [(layer.name.partition(":")[0], layer.call) for layer in layers]
    scope = rt.recurrent_scope(module)

    def run(pixels: Tensor) -> ForwardPass:
        pixels = pixels.contiguous()  # as the network's own code expects, which nobody could read
        leaves: tuple[Tensor, ...] = ()
        source = pixels
        if options.cut.image:
            leaves = (pixels.detach().requires_grad_(),)
            source = leaves[0].clone()  # the network may work in place, which a leaf forbids
        with scope(), recording(module, [*wanted, *units]) as tape:
            value = module(source)
        caught = tape.activations()
        logits = at_position(caught[-1], readout.at) if units else select(value)

        def rerun(activations: Tensor, images: Tensor) -> Any:
            with substituting(module, wanted[0], activations), recording(module, units) as again:
                value = module(pixels[images])
            if units:
                return at_position(again.activations()[0], readout.at)
            return value if readout.whole else select(value)

        explained = caught[: len(wanted)]
        return ForwardPass(pixels, (*leaves, *explained), logits, rerun, value if readout.whole else None)

    untraced = "cannot be traced" if options.tracing == "auto" else f"is not traced ({options.why_untraced})"
    notes = [f"the network {untraced}: hooks are used, without folding or compilation"]
    if runtime.precision != "fp32":
        notes.append(f"{runtime.precision} needs a traced network: float32 is used")
    exact = rt.Runtime(image.device, "fp32")
    return PreparedNetwork(name, run, layers, image.device, exact, untraced=untraced, notes=tuple(notes))
