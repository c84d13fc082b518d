"""Where the units of a tensor look, axis by axis: the arithmetic behind receptive fields.

Along one axis unit i of a map sees the pixels from low + i jump to high + i jump. Behind a kernel of extent
e = d (k - 1) + 1 with stride s and p cells of padding before the map,

    low' = low - p jump,    high' = high + (e - 1 - p) jump,    jump' = s jump

(Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks"). Units near the border see
less: cells of padding see nothing, and a stride may leave the last cells unread. Positions are monotone, so a running
bound on either side says exactly what is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

# How far, in units, kernels with padding move the units of a map from where the cells of a grid lie.
_SLACK = Fraction(1)


@dataclass(frozen=True)
class Axis:
    """Rows or columns of a tensor.

    Attributes:
        dim: Which dimension of the tensor they are.
        length: How many there are.
        low, high: First and last pixel that unit 0 sees, padding counted on.
        jump: Pixels from one unit to the next.
        first, last: Outermost pixels that reach any unit.
    """

    dim: int
    length: int
    low: Fraction
    high: Fraction
    jump: Fraction
    first: Fraction
    last: Fraction

    def slide(self, extent: int, stride: int, before: int, length: int) -> Axis:
        """Behind a kernel of ``extent`` cells; ``length`` units of it are kept."""
        low = self.low - before * self.jump
        high = self.high + (extent - 1 - before) * self.jump
        return self._bounded(low, high, stride * self.jump, length)

    def spread(self, phases: Sequence[tuple[int, int]], length: int) -> Axis:
        """Behind an enlargement by ``len(phases)``: output o sees the cells from phases[o][0] to phases[o][1].

        Outputs between two cells see the same ones; the interval holds for all of them.
        """
        jump = self.jump / len(phases)
        low = min(self.low + first * self.jump - o * jump for o, (first, _) in enumerate(phases))
        high = max(self.high + last * self.jump - o * jump for o, (_, last) in enumerate(phases))
        return self._bounded(low, high, jump, length)

    def _bounded(self, low: Fraction, high: Fraction, jump: Fraction, length: int) -> Axis:
        first, last = max(self.first, low), min(self.last, high + (length - 1) * jump)
        return Axis(self.dim, length, low, high, jump, first, last)

    def at(self, dim: int) -> Axis:
        return replace(self, dim=dim)

    def out_of_place(self, image: int) -> bool:
        """Whether the units do not lie over an image of so many pixels as the cells of a grid over all of it do.

        Kernels and their padding move units by less than a unit and a half, or, without padding, keep them half a field
        of view from both edges. What goes beyond that was cut off, or added, along the way: the first and the last unit
        are then not at the same distance from the edges, or all of them lie too far in or out.
        """
        first = (self.low + self.high) / 2
        last = first + (self.length - 1) * self.jump
        beyond = (self.length * self.jump - image) / 2
        field = (self.high - self.low) / 2
        slack = _SLACK * self.jump
        return abs(first + last - (image - 1)) > 2 * slack or beyond > slack or -beyond > field + slack


def image_axis(dim: int, length: int) -> Axis:
    zero = Fraction(0)
    return Axis(dim, length, zero, zero, Fraction(1), zero, Fraction(length - 1))


def even_axis(dim: int, length: int, image: int) -> Axis:
    """Units that share out an image of so many pixels, where no more is known of them than their order."""
    jump = Fraction(image, length)
    middle = (jump - 1) / 2
    return Axis(dim, length, middle, middle, jump, Fraction(0), Fraction(image - 1))


def cell_axis(dim: int, length: int, image: int) -> Axis:
    """Units that share out an image of so many pixels and see their own share of it: patches."""
    jump = Fraction(image, length)
    return Axis(dim, length, Fraction(0), jump - 1, jump, Fraction(0), Fraction(image - 1))


@dataclass(frozen=True)
class State:
    """What is known about a tensor's units.

    Attributes:
        rows, cols: The axes; None where position was lost (flattened, pooled away, mixed by attention).
        context: Whether statistics of the whole map enter: squeeze-and-excitation, attention, global pooling.
        lost: Which operation lost an axis.
        unknown: Why nothing can be said; empty otherwise.
        parts: Of a tuple of the tensor's parts the dimension that was cut, and how long each is there.
    """

    rows: Axis | None
    cols: Axis | None
    context: bool = False
    lost: str = ""
    unknown: str = ""
    parts: tuple[int, tuple[int, ...]] | None = None

    @property
    def axes(self) -> tuple[Axis | None, Axis | None]:
        return self.rows, self.cols

    @property
    def axes_known(self) -> bool:
        """Whether rows and columns are axes of the tensor, wherever they lie among the others."""
        return not self.unknown and self.rows is not None and self.cols is not None

    @property
    def placed(self) -> bool:
        """Whether any position is left."""
        return self.rows is not None or self.cols is not None


def unknown(reason: str) -> State:
    return State(None, None, True, "", reason)


def everywhere(by: str) -> State:
    """A tensor without positions, any number of which may depend on any pixel."""
    return State(None, None, True, by)


def with_axes(state: State, axes: Sequence[Axis | None], by: str, context: bool = False) -> State:
    """The state with new axes; where one is missing now, ``by`` lost it."""
    gone = any(new is None and old is not None for new, old in zip(axes, state.axes, strict=True))
    lost = by if gone else state.lost
    return State(axes[0], axes[1], state.context or context, lost, state.unknown)


def union(parts: Sequence[State], shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> State:
    """Tensors that are added, multiplied or concatenated, with broadcasting.

    Args:
        parts: Their states.
        shape: Shape of the result.
        shapes: Their shapes.
    """
    reason = next((part.unknown for part in parts if part.unknown), "")
    if reason:
        return unknown(reason)
    joined: list[Axis | None] = []
    context = any(part.context for part in parts)
    for which in (0, 1):
        found: list[Axis] = []
        for part, own in zip(parts, shapes, strict=True):
            axis = part.axes[which]
            if axis is None:
                context = True
                continue
            dim = axis.dim + len(shape) - len(own)
            if axis.length == 1 and shape[dim] > 1:  # one value for the whole axis
                context = True
                continue
            found.append(axis.at(dim))
        if len({(axis.dim, axis.jump) for axis in found}) > 1:
            strides = " and ".join(sorted({str(axis.jump) for axis in found}))
            return unknown(f"its branches differ in stride or layout ({strides} pixels a unit)")
        joined.append(_hull(found) if found else None)
    lost = next((part.lost for part in parts if part.lost), "")
    return State(joined[0], joined[1], context, lost)


def _hull(axes: Sequence[Axis]) -> Axis:
    return replace(
        axes[0],
        low=min(axis.low for axis in axes),
        high=max(axis.high for axis in axes),
        first=min(axis.first for axis in axes),
        last=max(axis.last for axis in axes),
    )


def reshaped(axis: Axis | None, shape: tuple[int, ...], to: tuple[int, ...]) -> Axis | None:
    """The axis after ``view``: the dimension of the same size with as many numbers before it; None when merged."""
    if axis is None:
        return None
    before = math.prod(shape[: axis.dim])
    candidates = [d for d, size in enumerate(to) if size == axis.length and math.prod(to[:d]) == before]
    if not candidates:
        return None
    # Among dimensions of size 1 the one as far from the end as it was.
    return axis.at(min(candidates, key=lambda d: abs((len(to) - d) - (len(shape) - axis.dim))))
