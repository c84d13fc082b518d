"""The logits of every occluded copy of an image.

    clean, occluded = occluded_logits(session, pixels, windows, fill)

The plain path runs the whole network on batches of occluded copies. The incremental path reruns, at every node of the
traced network, only the part that a window can change (Nakandala et al., "Incremental and Approximate Inference for
Faster Occlusion-based Deep CNN Explanations", SIGMOD 2019, without its approximations): the same numbers but for
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.compiled_parts import CONVOLUTIONS, OCCLUSION, note_compiled
from cnnviz.engine.memory import in_chunks
from cnnviz.engine.prepare.split import any_by_tiles, cut
from cnnviz.engine.session import Session, concatenated
from cnnviz.methods.perturbation.incremental.differences import Differences
from cnnviz.methods.perturbation.incremental.kernels import kernels
from cnnviz.methods.perturbation.incremental.plan import make_plan
from cnnviz.methods.perturbation.incremental.runner import Runner
from cnnviz.models.graph.operations import operation_of
from cnnviz.models.graph.outputs import two_dim
from cnnviz.models.graph.structures import map_tensors

_PLAIN_BATCH = 8
# Share of the plain path's estimated time from which on the plain path is taken.
_WORTHWHILE = 0.8
# Sizes of images for which a session keeps how windows run.
_SIZES = 8


@dataclass(frozen=True)
class Windows:
    """A grid of equal windows: one for every pair of a row and a column.

    Attributes:
        rows: First pixel row of each window, ascending.
        cols: First pixel column of each window, ascending.
        size: Height and width of a window.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    def corner(self, position: int) -> tuple[int, int]:
        """First row and column of window ``position`` in reading order."""
        row, col = divmod(position, len(self.cols))
        return self.rows[row], self.cols[col]


def occluded_logits(
    session: Session, pixels: Tensor, windows: Windows, fill: Tensor, incremental: str = "auto"
) -> tuple[Any, Any]:
    """The network's answer to every image with every window replaced by ``fill``.

    Args:
        session: The prepared network.
        pixels: [N, C, H, W], normalised.
        windows: Where to occlude; P = rows x cols.
        fill: [N, C, H, W], normalised: what stands in the windows.

    Returns:
        The network's output for the images [N, ...] and for their occluded copies [N, P, ...], computed the same way.
        Of a window that changes nothing it is that for the image: what rounding would make of it means nothing.
    """
    pixels, fill = pixels.to(session.device), fill.to(session.device)
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    runner = _runner(session, size) if _worthwhile(session, incremental) and not session.readout.whole else None
    found = []
    # Image by image: what an image gets does not depend on its batch.
    for image, hidden in zip(pixels.split(1), fill.split(1), strict=True):
        pair = None if runner is None else _incremental(session, runner, image, windows, hidden, incremental == "on")
        clean, occluded = pair or _plain(session, image, windows, hidden)
        idle = _idle(image, windows, hidden)
        found.append((clean, map_tensors(partial(_put, idle), occluded, clean) if bool(idle.any()) else occluded))
    clean, occluded = zip(*found, strict=True)
    return concatenated(clean), map_tensors(lambda *each: torch.stack(each), *occluded)


def _worthwhile(session: Session, incremental: str) -> bool:
    """On a CPU. A GPU runs the whole network faster than it fetches contexts."""
    asked = incremental == "on" or (incremental == "auto" and session.device.type == "cpu")
    # What a window changes reaches everything where the statistics of the whole map are taken.
    return asked and not session.one_by_one


def _runner(session: Session, size: tuple[int, int]) -> Runner | None:
    """The runner of a session's network for images of one size; None where it could not be traced.

    It keeps the shapes of all maps, which images of several sizes in several threads must not share.
    """
    split = session.split
    if split is None or not isinstance(split.trunk, fx.GraphModule):
        return None
    trunk, dtype = split.trunk, split.trunk_dtype
    results = next(n for n in trunk.graph.nodes if n.op == "output").args[0]
    if len(results) != 1:
        return None

    def make() -> Runner:
        if dtype == torch.float32:
            exact = trunk if _normalises(trunk) and session.device.type == "cpu" and kernels(dtype) else None
        else:
            exact = _exact_trunk(session, trunk)
        return Runner(trunk, dtype) if exact is None else Differences(exact, trunk, dtype)

    sizes: dict[tuple[int, int], None] = session.remember("sizes of increments", dict)
    if size not in sizes:
        for oldest in list(sizes)[: 1 - _SIZES]:
            sizes.pop(oldest, None)
            session.forget(f"incremental {oldest}")
        sizes[size] = None
    return session.remember(f"incremental {size}", make)


def _normalises(trunk: fx.GraphModule) -> bool:
    """Whether normalisations stand alone, as before the convolutions of a DenseNet: compiled kernels then need one pass
    over memory where operations on values need several."""
    return any(operation_of(trunk, node).name == "batch_norm" for node in trunk.graph.nodes)


def _exact_trunk(session: Session, trunk: fx.GraphModule) -> fx.GraphModule | None:
    """The session's trunk in float32, prepared as it is; None where that has other nodes."""

    def make() -> fx.GraphModule | None:
        assert session.graph is not None
        assert session.split is not None
        exact = cut(session.graph, session.nodes, rt.Runtime(session.device, "fp32"), session.split.preparation).trunk
        return exact if isinstance(exact, fx.GraphModule) and _steps(exact) == _steps(trunk) else None

    return session.remember("exact trunk", make)


def _steps(trunk: fx.GraphModule) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in trunk.graph.nodes]


def _incremental(
    session: Session, runner: Runner, image: Tensor, windows: Windows, fill: Tensor, always: bool
) -> tuple[Tensor, Tensor] | None:
    """Logits by increments; None where the plain path is to be taken instead.

    That is where increments would save nothing (unless ``always``), where memory does not suffice, and where they do
    not give what the network gives: the first image of each size is checked at three windows.
    """
    key = f"incremental {tuple(image.shape)} {windows}"
    if runner.trusted.get(key) is False:
        return None
    pair = None
    try:
        pair = _by_groups(session, runner, image, windows, fill, always)
        if pair is not None and key not in runner.trusted:
            runner.trusted[key] = _agrees(session, pair[1], image, windows, fill)
    except Exception as error:
        if rt.is_out_of_memory(error):
            rt.release_memory(session.device)
            return None
        # An operation that does not take what it is given here, such as a shape fixed for one image.
        runner.trusted[key] = False
    if pair is None or not runner.trusted.get(key, True):
        return None
    if isinstance(runner, Differences) and runner.compiled(session.device):
        note_compiled(session, OCCLUSION)
    if any_by_tiles(runner.trunk):  # of differences a trunk of their own
        note_compiled(session, CONVOLUTIONS)
    return pair


def _agrees(session: Session, occluded: Tensor, image: Tensor, windows: Windows, fill: Tensor) -> bool:
    last = len(windows) - 1
    for position in {0, last // 2, last}:
        expected = session.output_of(_occluded(image, windows, fill, range(position, position + 1)))[0]
        allowed = session.runtime.tolerance * expected.abs().max().clamp_min(1e-6)
        if not bool((occluded[position] - expected).abs().max() <= allowed):
            return False
    return True


def _by_groups(
    session: Session, runner: Runner, image: Tensor, windows: Windows, fill: Tensor, always: bool
) -> tuple[Tensor, Tensor] | None:
    split = session.split
    assert split is not None
    with torch.no_grad():
        source, hidden = runner.inputs(image, fill)
        clean = runner.clean(source)
        size = (int(image.shape[2]), int(image.shape[3]))
        plan = session.remember(
            f"incremental {size} {windows}",
            lambda: make_plan(
                runner.order, runner.ops, runner.shapes, (windows.rows, windows.cols), windows.size, runner.batch
            ),
        )
        if plan.share > _WORTHWHILE and not always:
            return None
        features = []
        places: list[int] = []
        for group in plan.groups:
            places += [r * len(windows.cols) + c for r in group.rows for c in group.cols]
            features.append(runner.run(clean, group, hidden))
        final = runner.finish(clean, features)
        logits = two_dim(split.head(final.to(split.head_dtype))[0])
    occluded = torch.empty_like(logits[1:])
    occluded[torch.tensor(places)] = logits[1:]
    return logits[:1], occluded


def _plain(session: Session, image: Tensor, windows: Windows, fill: Tensor) -> tuple[Any, Any]:
    clean = session.output_of(image)
    # On a CPU few copies at a time, so that a map is still in the cache when the next layer reads it.
    size = _PLAIN_BATCH if session.device.type == "cpu" else 2 * rt.default_batch_size(session.device)

    def ran(positions: range) -> Any:
        return session.output_of(_occluded(image, windows, fill, positions))

    return clean, concatenated(list(in_chunks(ran, len(windows), size, session.device)))


def _idle(image: Tensor, windows: Windows, fill: Tensor) -> Tensor:
    """[P]: which windows hide what is the same."""
    changed = F.pad((image != fill).any(1)[0].long(), (1, 0, 1, 0)).cumsum(0).cumsum(1)
    top, left = (torch.tensor(starts, device=image.device) for starts in (windows.rows, windows.cols))
    down, across = changed[top + windows.size[0]] - changed[top], left + windows.size[1]
    return (down[:, across] == down[:, left]).flatten()


def _put(places: Tensor, rows: Tensor, row: Tensor) -> Tensor:
    """The one row in some places; what has no row for each image is left as it is."""
    if len(rows) != len(places) or row.shape != (1, *rows.shape[1:]):
        return rows
    return torch.where(places.to(rows.device).view(-1, *[1] * (rows.dim() - 1)), row, rows)


def _occluded(image: Tensor, windows: Windows, fill: Tensor, positions: range) -> Tensor:
    """Copies [P, C, H, W] of one image, each with one window replaced."""
    copies = image.expand(len(positions), -1, -1, -1).clone(memory_format=torch.channels_last)
    height, width = windows.size
    for copy, position in zip(copies, positions, strict=True):
        top, left = windows.corner(position)
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        copy[part] = fill[0][part]
    return copies
