"""Which part of every map each group of windows can change.

Windows are grouped so that those of a group change parts of nearly the same size at every node; each part then gets
the group's largest size and is moved to lie inside the map. What is recomputed is never less than what changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import fx

from cnnviz.methods.perturbation.incremental.ops import Interval, Op

# From this share of the map on, the whole map is recomputed: no context to fetch, no growth to follow.
_WHOLE = 0.85
_CLASSES = 3
# In multiplications: a pass over memory for one value, and the call of one operation.
_PASS = 16.0
_CALL = 4e6
Shapes = Mapping[fx.Node, tuple[int, ...]]


@dataclass(frozen=True)
class Region:
    """For every window of a group the part of a map that is recomputed.

    Attributes:
        rows, cols: First row of each window row, first column of each window column.
        height, width: Size of the part, the same for all.
        whole: Whether it is the whole map.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    height: int
    width: int
    whole: bool = False

    def everywhere(self, size: tuple[int, ...]) -> Region:
        """All of a map of (height, width), for the same windows."""
        return Region((0,) * len(self.rows), (0,) * len(self.cols), size[0], size[1], True)


@dataclass(frozen=True, eq=False)
class Group:
    """Windows that run together: rows x cols of the grid (indices), and their region at every node.

    What is worked out for a group (how its parts are put together) is remembered in ``memory``: all images share it.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    regions: Mapping[fx.Node, Region]
    memory: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """Groups that cover a grid of windows, and how much less work they are.

    Attributes:
        groups: The groups.
        share: Estimated time as a share of the time of running the whole network for every window.
    """

    groups: list[Group]
    share: float


def make_plan(
    order: Sequence[fx.Node],
    ops: Mapping[fx.Node, Op],
    shapes: Shapes,
    starts: tuple[Sequence[int], Sequence[int]],
    window: tuple[int, int],
    batch: int,
) -> Plan:
    """Plan a grid of windows.

    Args:
        order: The image's node, then all nodes that depend on it, in order.
        ops: What each node but the first does.
        shapes: Shape of each node's value for one image.
        starts: First pixels of the windows along rows and columns.
        window: Height and width of a window.
        batch: Most windows in a group.
    """
    axes = [[_intervals(order, ops, shapes, axis, (s, s + window[axis])) for s in starts[axis]] for axis in (0, 1)]
    maps = [n for n in order[1:] if len(shapes.get(n, ())) == 4]
    full = sum(_work(ops[n], shapes[n]) * shapes[n][2] * shapes[n][3] for n in maps) * len(starts[0]) * len(starts[1])
    plans = []
    for classes in range(1, _CLASSES + 1):
        rows, cols = (_classes(maps, ops, shapes, axes[axis], axis, classes) for axis in (0, 1))
        groups: list[Group] = []
        for some_rows, some_cols in itertools.product(rows, cols):
            for part in _chunks(some_rows, some_cols, batch):
                found = ([axes[0][r] for r in part[0]], [axes[1][c] for c in part[1]])
                groups.append(Group(part[0], part[1], _regions(order, ops, shapes, found)))
        work = sum(_group_work(maps, ops, shapes, group) for group in groups)
        plans.append(Plan(groups, work / max(full, 1.0)))
    return min(plans, key=lambda plan: plan.share)


def _work(op: Op, shape: tuple[int, ...]) -> float:
    # What is not counted in multiplications is a pass or two over memory.
    return op.work or _PASS * shape[1]


def _group_work(maps: Sequence[fx.Node], ops: Mapping[fx.Node, Op], shapes: Shapes, group: Group) -> float:
    count = len(group.rows) * len(group.cols)
    total = _CALL * len(maps)
    for node in maps:
        region = group.regions[node]
        fetched = 0.0
        if not region.whole:  # contexts are fetched and pasted
            fetched = _PASS * sum(shapes[n][1] for n in ops[node].inputs)
        total += count * region.height * region.width * (_work(ops[node], shapes[node]) + fetched)
    return total


def _intervals(
    order: Sequence[fx.Node], ops: Mapping[fx.Node, Op], shapes: Shapes, axis: int, window: Interval
) -> dict[fx.Node, Interval]:
    """What a window changes along one axis, at every node with a map."""
    found = {order[0]: window}
    for node in order[1:]:
        shape = shapes.get(node, ())
        if len(shape) == 4:
            found[node] = _next(ops[node], node, found, shape[2 + axis], axis)
    return found


def _next(op: Op, node: fx.Node, found: Mapping[fx.Node, Interval], length: int, axis: int) -> Interval:
    if op.kind in {"other", "mean"} or not all(n in found for n in op.inputs):
        return 0, length
    intervals = [found[n] for n in op.inputs]
    if op.axes is not None:
        intervals[0] = op.axes[axis].changed(intervals[0], length)
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _classes(
    maps: Sequence[fx.Node],
    ops: Mapping[fx.Node, Op],
    shapes: Shapes,
    found: Sequence[Mapping[fx.Node, Interval]],
    axis: int,
    classes: int,
) -> list[tuple[int, ...]]:
    """Partition the positions of an axis into classes of similar sizes, at the least total of largest sizes."""
    cost = [_work(ops[n], shapes[n]) * shapes[n][3 - axis] for n in maps]
    sizes = [[c * (f[n][1] - f[n][0]) for c, n in zip(cost, maps, strict=True)] for f in found]
    ranked = sorted(range(len(found)), key=lambda i: (sum(sizes[i]), i))

    @cache
    def total(first: int, last: int) -> float:
        largest = [max(column) for column in zip(*(sizes[i] for i in ranked[first:last]), strict=True)]
        return (last - first) * float(sum(largest))

    count = len(ranked)
    inner = min(classes, count) - 1
    cuts = min(
        itertools.combinations(range(1, count), inner),
        key=lambda c: sum(total(a, b) for a, b in itertools.pairwise((0, *c, count))),
    )
    return [tuple(sorted(ranked[a:b])) for a, b in itertools.pairwise((0, *cuts, count))]


def _chunks(rows: tuple[int, ...], cols: tuple[int, ...], batch: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Blocks of at most ``batch`` windows, as even as they come."""
    across = _split(cols, batch)
    return [(r, c) for c in across for r in _split(rows, max(1, batch // len(c)))]


def _split(items: tuple[int, ...], most: int) -> list[tuple[int, ...]]:
    count = -(-len(items) // most)
    edges = [len(items) * i // count for i in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(edges)]


def _regions(
    order: Sequence[fx.Node],
    ops: Mapping[fx.Node, Op],
    shapes: Shapes,
    windows: tuple[Sequence[Mapping[fx.Node, Interval]], Sequence[Mapping[fx.Node, Interval]]],
) -> dict[fx.Node, Region]:
    """The regions of a group; a whole map stays whole in what follows."""
    whole: set[fx.Node] = set()
    regions: dict[fx.Node, Region] = {}
    for node in order:
        shape = shapes.get(node, ())
        if len(shape) != 4:
            continue
        height, width = shape[2:]
        (tops, tall), (lefts, wide) = (_fit([w[node] for w in windows[a]], shape[2 + a]) for a in (0, 1))
        inherits = node is not order[0] and any(n in whole for n in ops[node].inputs)
        if inherits or tall * wide >= _WHOLE * height * width:
            whole.add(node)
            tops, lefts, tall, wide = (0,) * len(tops), (0,) * len(lefts), height, width
        regions[node] = Region(tops, lefts, tall, wide, node in whole)
    return regions


def _fit(intervals: Sequence[Interval], length: int) -> tuple[tuple[int, ...], int]:
    """The largest size, and every start moved so that it stays inside."""
    size = max(high - low for low, high in intervals)
    return tuple(min(low, length - size) for low, _ in intervals), size
