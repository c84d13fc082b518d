"""Putting a part of a map together: the patch where it belongs, and around it what the clean pass has.

Windows of a group lie at regular distances, so that what surrounds many of them is one strided view of the clean map.
Only the border is fetched; the middle is the patch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cnnviz.methods.perturbation.incremental.plan import Region

Pads = tuple[tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0))
# Every how many windows may lie alike: windows at half and a quarter of a map's stride.
_PHASES = (1, 2, 4)


@dataclass(frozen=True)
class Run:
    """Windows along one axis that lie alike: ``windows`` of the group, whose parts start at ``start``, ``start + step``
    ... of the map; the patch lies at ``low`` to ``high`` of the part, and is there what it has from ``first`` on."""

    windows: range
    start: int
    step: int
    low: int = 0
    high: int = 0
    first: int = 0


@dataclass(frozen=True)
class _Place:
    size: tuple[int, ...]
    to: tuple[tuple[int, ...], int]
    source: tuple[tuple[int, ...], int]

    def run(self, target: Tensor, source: Tensor, change: Callable[..., Any]) -> None:
        """Change what lies in a tensor (in memory order) by what lies in another."""
        into = target.as_strided(self.size, self.to[0], target.storage_offset() + self.to[1])
        change(
            into,
            source
            if source is target
            else source.as_strided(self.size, self.source[0], source.storage_offset() + self.source[1]),
        )


class Assembly:
    """How to put together the parts of a map that a group of windows needs.

    Args:
        size: Height and width of the map.
        channels: Of the map.
        part: What is needed; it may reach into the padding.
        patch: What the group has of it; None for nothing, then all comes from the map.
        pads: Rows before and after the map, columns before and after it, that are stored with it.
        place: (channels of the result, first channel in it), where several maps are laid side by side.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        part: Region,
        patch: Region | None,
        pads: Pads = NO_PADS,
        place: tuple[int, int] | None = None,
    ) -> None:
        total, self.channel = place or (channels, 0)
        self.shape = (len(part.rows), len(part.cols), part.height, part.width, total)
        self._strides = _strides(self.shape)
        self._map = (pads[1][0] + size[1] + pads[1][1], channels)
        self._patch = None if patch is None else _strides((*self.shape[:2], patch.height, patch.width, channels))
        inner = (None, None) if patch is None else ((patch.rows, patch.height), (patch.cols, patch.width))
        down = _runs(part.rows, part.height, inner[0], pads[0][0])
        across = _runs(part.cols, part.width, inner[1], pads[1][0])
        pairs = list(itertools.product(down, across))
        self.around = [copy for pair in pairs for copy in self._border(*pair)]
        self.inside = [] if patch is None else [self._inside(*pair) for pair in pairs if _both(*pair)]

    def fetched(self, rows: Tensor, patch: Tensor | None) -> Tensor:
        """The parts [rows, cols, h, w, C], from the padded clean map [H, W, C] and the patch [B, C, h, w]."""
        parts = rows.new_empty(self.shape)
        self.into(parts, rows, patch)
        return parts

    def into(self, parts: Tensor, rows: Tensor | None, patch: Tensor | None) -> None:
        """Fill parts; without a clean map, with zeros around the patch."""
        if rows is None:
            self.by_map(parts, parts, _cleared)
        else:
            self.by_map(parts, rows, Tensor.copy_)
        if patch is not None:
            self.by_patch(parts, patch, Tensor.copy_)

    def by_map(self, parts: Tensor, rows: Tensor, change: Callable[..., Any]) -> None:
        """``change(part, map)`` wherever the map is seen."""
        for copy in self.around:
            copy.run(parts, rows, change)

    def by_patch(self, parts: Tensor, patch: Tensor, change: Callable[..., Any]) -> None:
        """``change(part, patch)`` where the patch lies."""
        packed = in_memory(patch)
        for copy in self.inside:
            copy.run(parts, packed, change)

    def _border(self, down: Run, across: Run) -> Iterator[_Place]:
        height, width = self.shape[2:4]
        whole = (0, width)
        if not _both(down, across):
            yield self._around(down, across, (0, height), whole)
            return
        middle = (down.low, down.high)
        for rows, cols in (
            ((0, down.low), whole),
            ((down.high, height), whole),
            (middle, (0, across.low)),
            (middle, (across.high, width)),
        ):
            if rows[0] < rows[1] and cols[0] < cols[1]:
                yield self._around(down, across, rows, cols)

    def _around(self, down: Run, across: Run, rows: tuple[int, int], cols: tuple[int, int]) -> _Place:
        width, channels = self._map
        row = width * channels
        source = (down.step * row, across.step * channels, row, channels, 1)
        first = (down.start + rows[0]) * row + (across.start + cols[0]) * channels
        return self._copy((down, across), (rows, cols), channels, (source, first))

    def _inside(self, down: Run, across: Run) -> _Place:
        assert self._patch is not None
        each = self._patch
        strides = (down.windows.step * each[0], across.windows.step * each[1], *each[2:])
        first = down.windows.start * each[0] + across.windows.start * each[1] + down.first * each[2]
        area = ((down.low, down.high), (across.low, across.high))
        return self._copy((down, across), area, self._map[1], (strides, first + across.first * each[3]))

    def _copy(
        self,
        runs: tuple[Run, Run],
        area: tuple[tuple[int, int], tuple[int, int]],
        channels: int,
        source: tuple[tuple[int, ...], int],
    ) -> _Place:
        (down, across), (rows, cols), each = runs, area, self._strides
        size = (len(down.windows), len(across.windows), rows[1] - rows[0], cols[1] - cols[0], channels)
        strides = (down.windows.step * each[0], across.windows.step * each[1], *each[2:])
        first = down.windows.start * each[0] + across.windows.start * each[1] + self.channel
        return _Place(size, (strides, first + rows[0] * each[2] + cols[0] * each[3]), source)


def _cleared(into: Tensor, _: Tensor) -> None:
    into.zero_()


def in_memory(patch: Tensor) -> Tensor:
    """[B, C, h, w] as [B, h, w, C], dense."""
    return patch.permute(0, 2, 3, 1).contiguous()


def padded(value: Tensor, pads: Pads, outside: float) -> Tensor:
    """A map [1, C, H, W] as rows [H, W, C] with a border of ``outside``."""
    (top, bottom), (left, right) = pads
    rows = value[0].permute(1, 2, 0)
    if not any((top, bottom, left, right)):
        return rows.contiguous()
    height, width, channels = rows.shape
    found = rows.new_full((top + height + bottom, left + width + right, channels), outside)
    found[top : top + height, left : left + width] = rows
    return found


def _both(down: Run, across: Run) -> bool:
    """Whether any of the patch lies in the part."""
    return down.low < down.high and across.low < across.high


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    found = [1]
    for length in reversed(shape[1:]):
        found.append(found[-1] * length)
    return tuple(reversed(found))


def _runs(outer: Sequence[int], room: int, inner: tuple[Sequence[int], int] | None, before: int) -> list[Run]:
    """The fewest runs of windows that lie alike: equal distances on the map, the patch at the same place."""
    starts, size = inner if inner is not None else (outer, 0)
    found = []
    for phases in _PHASES:
        runs = []
        for phase in range(min(phases, len(outer))):
            places = range(phase, len(outer), phases)
            while places:
                count = _alike(places, outer, starts)
                offset = starts[places[0]] - outer[places[0]]
                low, high = max(offset, 0), min(offset + size, room)
                step = outer[places[1]] - outer[places[0]] if count > 1 else 0
                runs.append(Run(places[:count], outer[places[0]] + before, step, low, max(low, high), low - offset))
                places = places[count:]
        found.append(runs)
    return min(found, key=len)


def _alike(places: range, outer: Sequence[int], inner: Sequence[int]) -> int:
    """How many of the windows, from the first on, lie at equal distances with the patch at the same place."""
    count = 1
    while count < len(places):
        here, last = places[count], places[count - 1]
        regular = count == 1 or outer[here] - outer[last] == outer[places[1]] - outer[places[0]]
        if not regular or inner[here] - outer[here] != inner[places[0]] - outer[places[0]]:
            break
        count += 1
    return count
