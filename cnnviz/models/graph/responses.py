"""How the values of tensors change when bands of the image do: what tells a map from other tensors of four axes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.models.graph.randomness import seed_generators
from cnnviz.models.graph.trace import Graph

# Bands of rows, and of columns. Two cannot tell a map from one that is rolled around.
_BANDS = 3
# How far the change moves along the axis as the changed band moves over the image: 1 for a small receptive field, less
# for a large one or where every cell depends on the whole image too, -1 where the axis is mirrored.
_LEAST_SLOPE = 0.01
# How steadily it moves, and how much further than along the other axis.
_LEAST_CORRELATION = 0.8
_LEAST_RATIO = 2.0
# Below this everywhere, a tensor answers to the whole image.
_DIFFUSE = 0.1

Put = Callable[[Hashable, Tensor], None]


class Responses:
    """How the values of tensors change when bands of the image do.

    Args:
        image: [1, C, H, W].
        run: Runs the network on such an image and puts every tensor [N, C, h, w] that is in question, by any key.
    """

    def __init__(self, image: Tensor, run: Callable[[Tensor, Put], None]) -> None:
        self._plain: dict[Hashable, Tensor] = {}
        # For each tensor the summed changes along axes 2 and 3: a row for each band of rows, then of columns.
        self._changes: dict[Hashable, list[tuple[Tensor, Tensor]]] = {}
        with torch.no_grad(), torch.random.fork_rng():
            for number, changed in enumerate(_with_bands(image)):
                seed_generators(0, image.device)  # what draws random numbers draws the same ones each time
                run(changed, self._note if number else self._plain.__setitem__)

    def _note(self, key: Hashable, value: Tensor) -> None:
        plain = self._plain.get(key)
        if plain is None or plain.shape != value.shape:
            return
        change = torch.nan_to_num(_real(value) - _real(plain))
        # What the whole image adds to every place alike (squeeze-and-excitation, attention) says nothing of places.
        change = (change - change.mean((2, 3), keepdim=True)).abs()
        self._changes.setdefault(key, []).append((change.sum((0, 1, 3)), change.sum((0, 1, 2))))

    def objection(self, key: Hashable) -> str:
        """Why a tensor is not a map of the image, in words; empty where it is one."""
        plain, changes = self._plain.get(key), self._changes.get(key, [])
        if plain is None or len(changes) != 2 * _BANDS:
            return "it is not computed for every image alike"
        if plain.shape[0] != 1:
            return "its first axis counts parts of the image"
        for axis, what in enumerate(("rows", "columns")):
            if plain.shape[2 + axis] == 1 or not any(change[axis].any() for change in changes):
                continue  # a single cell has no order, nor has what does not depend on the image here
            seen = torch.stack([change[axis].sum() for change in changes[axis * _BANDS : (axis + 1) * _BANDS]])
            if bool(seen.any()) and not bool(seen.all()):
                return f"a part of the image's {what} does not reach it, because a part of a map was cut off or added"
            along, across = self._movements(key, axis)
            if not _follows(along, across):
                mirrored = _follows((-along[0], -along[1]), across)
                turned = any(_follows((sign * across[0], sign * across[1]), along) for sign in (1, -1))
                if plain.shape[2 + axis] == 2 and not (mirrored or turned):
                    continue  # the receptive fields of two cells may cover the image: nothing speaks against a map
                does = "runs against" if mirrored else "does not follow"
                instead = f" (its axis {3 - axis} does)" if turned else ""
                return f"its axis {axis + 2} {does} the image's {what}{instead}"
        return ""

    def is_diffuse(self, key: Hashable) -> bool:
        """Whether every cell answers to the whole image, much more than to any place of it."""
        return all(abs(slope) < _DIFFUSE for axis in (0, 1) for slope, _ in self._movements(key, axis))

    def _movements(self, key: Hashable, axis: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """How changes of the image's rows (0) or columns (1) move along that axis of a tensor, and along the other."""
        changes = self._changes[key][axis * _BANDS : (axis + 1) * _BANDS]
        along, across = (torch.stack([change[which] for change in changes]) for which in (axis, 1 - axis))
        return _movement(along), _movement(across)


def _real(value: Tensor) -> Tensor:
    return value.abs() if value.is_complex() else value.float()


def _follows(along: tuple[float, float], across: tuple[float, float]) -> bool:
    """Whether a movement is that of a map, given the one along the other axis."""
    (slope, correlation), (other, _) = along, across
    return correlation >= _LEAST_CORRELATION and slope >= max(_LEAST_SLOPE, _LEAST_RATIO * abs(other))


def _with_bands(image: Tensor) -> Iterator[Tensor]:
    """The image; with each band of rows replaced by noise; with each band of columns."""
    yield image
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image)
    for axis in (2, 3):
        size = image.shape[axis]
        for band in range(_BANDS):
            where = torch.arange(size * band // _BANDS, size * (band + 1) // _BANDS, device=image.device)
            yield image.index_copy(axis, where, noise.index_select(axis, where))


def _movement(bands: Tensor) -> tuple[float, float]:
    """How the band that a cell answers to most moves with the cell: slope (1 for a map), and correlation.

    Args:
        bands: [bands, cells], the change of each cell when each band changes.
    """
    count, cells = bands.shape
    if cells == 1:
        return 0.0, 0.0
    bands = bands.cpu().double()
    share = bands / bands.sum(0).clamp_min(1e-30)
    centre = (share * torch.arange(count, device=bands.device)[:, None]).sum(0)
    place = count * (torch.arange(cells, device=bands.device) + 0.5) / cells - 0.5
    centre, place = centre - centre.mean(), place - place.mean()
    product = (centre * place).sum()
    spread = (centre.square().sum() * place.square().sum()).sqrt().clamp_min(1e-30)
    return float(product / place.square().sum()), float(product / spread)


class MapReader(fx.Interpreter):
    """Runs the graph and hands on the tensors in question."""

    def __init__(self, graph: Graph, wanted: Collection[fx.Node], put: Put) -> None:
        super().__init__(graph.module, garbage_collect_values=True)
        self._wanted, self._put = wanted, put

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor) and value.dim() == 4:
            self._put(n, value)
        return value
