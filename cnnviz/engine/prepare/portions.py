"""A trunk over some images of a batch at a time.

The maps of a batch are larger than what an allocator keeps: glibc takes every tensor above 32 MiB from the system and
gives it back, and each of its pages comes as zeros that fault one by one, which on a batch of 16 takes up to a third of
the time of a small network. In portions the maps are smaller, and stay nearer to the processor. Weights are read once
for each portion: networks that have many of them beside their maps gain nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

# Bytes that the largest tensor should have, and may have where that is less than so many images.
_BYTES, _MOST, _LEAST = 20 << 20, 24 << 20, 4
# Bytes of weights to those of the maps of a portion, at most.
_WEIGHTS = 1 / 8


def widest(trunk: fx.GraphModule, weights: int, dtype: torch.dtype) -> float:
    """Bytes of a trunk's largest tensor for each number of its image; 0 where a batch is not divided.

    Args:
        trunk: Its nodes know their shapes for one image (``meta["shape"]``).
        weights: How many it has.
        dtype: What it computes in.
    """
    nodes = list(trunk.graph.nodes)
    shapes = {node: node.meta.get("shape") for node in nodes}
    image = next(shapes[node] for node in nodes if node.op == "placeholder")
    leaving = [shapes.get(node) for node in nodes[-1].args[0]]
    if image is None or any(shape is None or shape[:1] != (1,) for shape in leaving):
        return 0.0  # values that have no row for each image
    sizes = [math.prod(shape) for shape in shapes.values() if shape is not None]
    if sum(math.prod(shape) for shape in leaving if shape is not None) >= max(sizes):
        return 0.0  # putting it together would cost what is gained
    if weights > _WEIGHTS * sum(sizes) * _images(max(sizes) * dtype.itemsize):
        return 0.0
    return float(max(sizes) * dtype.itemsize / math.prod(image))


def in_portions(trunk: Callable[[Tensor], tuple[Any, ...]], batch: Tensor, size: float) -> tuple[Any, ...]:
    """What ``trunk`` returns for a batch [N, C, H, W].

    Args:
        trunk: Returns values with one row for each image.
        batch: The images.
        size: What :func:`widest` found.
    """
    count = _parts(batch, size)
    if count == 1:
        return trunk(batch)
    found = []
    for images in batch.tensor_split(count):
        values = trunk(images)
        if any(not isinstance(value, Tensor) or value.shape[:1] != images.shape[:1] for value in values):
            return trunk(batch)
        found.append(values)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _parts(batch: Tensor, size: float) -> int:
    """In how many portions a batch is taken: each leaves an image to each thread, or else it is taken whole."""
    if not size or not len(batch):
        return 1
    each = size * batch[0].numel()
    images = _images(each)
    return 1 if images * each > _MOST or images < torch.get_num_threads() else -(-len(batch) // images)


def _images(each: float) -> int:
    """How many images a portion has, by the bytes that the largest tensor takes for one."""
    return max(_LEAST, int(_BYTES / each))
