"""Where the image's places are in each tensor of a network with attention: rows and columns, or tokens of a grid.

A transformer cuts the image into a grid of patches, writes them one after another, puts tokens of its own before them
(class, distillation, registers) and mixes them all. Shapes alone do not tell the grid: 384 tokens may be 16 x 24 or
12 x 32, and 197 may be 14 x 14 and one more. So it is followed from the convolution that makes the patches, operation
by operation (:mod:`cnnviz.models.graph.place_rules`). What mixes places by attention gives each query its own result;
where a part of the network cannot be followed, the sum with what it was made from says where its places are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

MOST_PREFIX_TOKENS = 16
"""More tokens than this beside the patches are no class, distillation or register tokens."""

ROW, COL, OTHER = "row", "col", ""


@dataclass(frozen=True)
class Places:
    """The dimensions of a tensor that are the image's places.

    Attributes:
        grid: Rows and columns (h, w) of the image's places.
        rows, cols: Their dimensions; one and the same where the places are tokens, row by row.
        before, after: Tokens in that dimension that are no places: class tokens, registers.
        followed: Whether every operation up to here is known; else a module was taken to keep its places.
    """

    grid: tuple[int, int]
    rows: int
    cols: int
    before: int = 0
    after: int = 0
    followed: bool = True

    @property
    def merged(self) -> bool:
        """Whether the places are tokens in one dimension."""
        return self.rows == self.cols

    @property
    def layout(self) -> str:
        """``NCHW``, ``NHWC``, ``tokens``, or ``other``."""
        if self.merged:
            return "tokens"
        return {(2, 3): "NCHW", (1, 2): "NHWC"}.get((self.rows, self.cols), "other")

    @property
    def bare(self) -> bool:
        """Whether no other tokens stand beside them."""
        return not (self.before or self.after)

    @property
    def cells(self) -> int:
        """How many places there are."""
        return math.prod(self.grid)


def of_places(value: Tensor, places: Places) -> Tensor:
    """The part of a tensor that belongs to the image's places, in whichever layout."""
    return value.narrow(places.rows, places.before, places.cells) if places.merged else value


@dataclass(frozen=True)
class Atom:
    """``size`` steps of ``stride`` along the image's rows or columns; or numbers that are no places."""

    axis: str
    stride: int
    size: int

    def cut(self, inner: int) -> tuple[Atom, Atom]:
        """As two: steps of ``inner`` times the stride, and the steps between these."""
        return Atom(self.axis, self.stride * inner, self.size // inner), Atom(self.axis, self.stride, inner)


@dataclass(frozen=True)
class Dim:
    """One dimension of a tensor: what it counts, outermost first, and tokens before and after these."""

    atoms: tuple[Atom, ...]
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        return math.prod(atom.size for atom in self.atoms) + self.before + self.after

    @property
    def blank(self) -> bool:
        """Whether no place is counted here."""
        return not any(atom.axis for atom in self.atoms)

    def is_all(self, axis: str) -> bool:
        """Whether nothing but rows (or columns) is counted."""
        return bool(self.atoms) and all(atom.axis == axis for atom in self.atoms)


def other(size: int) -> Dim:
    """A dimension without places."""
    return Dim((Atom(OTHER, 1, size),))


@dataclass(frozen=True)
class Labels:
    """What each dimension of a tensor counts.

    Attributes:
        dims: One for each dimension.
        real: Rows and columns before any padding, in steps of stride 1; None where nothing was padded.
        followed: As in :class:`Places`.
    """

    dims: tuple[Dim, ...]
    real: tuple[int, int] | None = None
    followed: bool = True

    @classmethod
    def of_map(cls, shape: Sequence[int], rows: int, cols: int) -> Labels:
        """Rows and columns at these dimensions, and no places in the others."""
        names = {rows: ROW, cols: COL}
        return cls(tuple(Dim((Atom(names.get(dim, OTHER), 1, size),)) for dim, size in enumerate(shape)))

    @property
    def known(self) -> bool:
        """Whether any place is counted anywhere."""
        return not all(dim.blank for dim in self.dims)

    def fitted(self, shape: Sequence[int]) -> Labels | None:
        """With the sizes of this shape where no places are; None where places do not fit it."""
        if len(shape) != len(self.dims):
            return None
        dims = tuple(other(size) if dim.blank else _tidy(dim) for dim, size in zip(self.dims, shape, strict=True))
        same = all(dim.size == size for dim, size in zip(dims, shape, strict=True))
        return replace(self, dims=dims) if same and any(not dim.blank for dim in dims) else None

    def with_dim(self, place: int, dim: Dim) -> Labels:
        return replace(self, dims=(*self.dims[:place], dim, *self.dims[place + 1 :]))

    def picked(self, order: Sequence[int]) -> Labels:
        """The dimensions in another order; those that are missing are gone."""
        return replace(self, dims=tuple(self.dims[place] for place in order))

    def places(self) -> Places | None:
        """Where the image's places are; None where they lie in pieces."""
        found = [(place, runs) for place, dim in enumerate(self.dims) if (runs := _runs(dim))]
        axes = [atom.axis for _, runs in found for atom in runs]
        if sorted(axes) != [COL, ROW] or (len(found) == 1 and axes != [ROW, COL]):
            return None
        at = {atom.axis: (place, atom) for place, runs in found for atom in runs}
        (rows, row), (cols, col) = at[ROW], at[COL]
        rest = [atom for place, dim in enumerate(self.dims) if place not in (rows, cols) for atom in dim.atoms]
        if any(atom.axis and atom.stride >= at[atom.axis][1].stride for atom in rest):
            return None  # what is finer than the places has become channels; what is coarser has not
        real = self.real or (row.size * row.stride, col.size * col.stride)
        if (-(-real[0] // row.stride), -(-real[1] // col.stride)) != (row.size, col.size):
            return None
        dim = self.dims[rows]
        return Places((row.size, col.size), rows, cols, dim.before, dim.after, self.followed)


def _tidy(dim: Dim) -> Dim:
    return replace(dim, atoms=tuple(_merged(dim.atoms)))


def _merged(atoms: Sequence[Atom]) -> list[Atom]:
    """Neighbouring atoms of one axis as one, where they count on."""
    found: list[Atom] = []
    for atom in atoms:
        last = found[-1] if found else None
        if last is not None and last.axis == atom.axis and last.stride == atom.stride * atom.size:
            found[-1] = Atom(atom.axis, atom.stride, last.size * atom.size)
        else:
            found.append(atom)
    return found


def _runs(dim: Dim) -> list[Atom]:
    """Rows, columns or both that a dimension counts, if it counts nothing else but a few tokens of the network."""
    merged = _merged(dim.atoms)
    tokens = dim.before + dim.after
    plain = all(atom.axis for atom in merged) and len({atom.axis for atom in merged}) == len(merged)
    return merged if plain and (not tokens or (len(merged) == 2 and tokens <= MOST_PREFIX_TOKENS)) else []


def regrouped(labels: Labels, shape: Sequence[int]) -> Labels | None:
    """The same numbers in the same order in dimensions of other sizes; None where places are cut in the middle."""
    items: list[Dim] = []
    for dim in labels.dims:
        items += [dim] if dim.before or dim.after else [Dim((atom,)) for atom in dim.atoms if atom.size > 1]
    dims: list[Dim] = []
    for size in shape:
        taken, missing = list[Atom](), size
        whole = next(iter(items), None)
        if whole is not None and (whole.before or whole.after) and size > 1:
            if whole.size != size:
                return None
            dims.append(items.pop(0))
            continue
        while missing > 1:
            if not items or items[0].before or items[0].after:
                return None
            (atom,) = items.pop(0).atoms
            if missing % atom.size == 0:
                taken.append(atom)
                missing //= atom.size
            elif atom.size % missing == 0:
                outer, inner = atom.cut(atom.size // missing)
                taken.append(outer)
                items.insert(0, Dim((inner,)))
                missing = 1
            else:
                return None
        dims.append(Dim(tuple(taken)) if taken else other(1))
    return None if any(item.size > 1 for item in items) else replace(labels, dims=tuple(dims))
