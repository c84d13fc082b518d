"""The head of a cut network, run again from other activations than those of the pass.

What bypasses the target layer crosses the cut as constants. A changed activation belongs to one image of the batch, and
as many changed activations as one likes may belong to it: so a constant that has one entry an image is picked by image,
a number that counts images is counted anew, and all else stays. Which is which is seen by running the trunk on one
image and on two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.prepare.split import Split
from cnnviz.errors import CnnvizError

# Sizes of images for which the split remembers which constants these are.
_SIZES = 64

# (activations [M, C, h, w], the image of the batch that each stands for [M]) -> what the network returns.
Rerun = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True, eq=False)
class HeadRun:
    """Runs the head from replaced activations of the first target layer.

    Attributes:
        split: The cut network.
        cross: pixels [N, C, H, W] -> what the trunk hands to the head.
        pixels: The batch of the pass.
        values: What crossed the cut for it, in the head's types.
    """

    split: Split
    cross: Callable[[Tensor], tuple[Any, ...]]
    pixels: Tensor
    values: tuple[Any, ...]

    def __call__(self, activations: Tensor, images: Tensor) -> Any:
        """What the head returns for ``activations`` [M, C, h, w]; values beside them are those of ``images`` [M]."""
        place = self.split.order[0]
        if place >= self.split.crossing:
            raise CnnvizError(
                "Only the lowest of several layers can be changed and run again.", "Name one layer with --layer."
            )
        changed = activations.to(self.split.head_dtype)
        if len(self.values) == 1:
            return self.split.read(self.split.head(changed))
        kinds = self._kinds()
        values = [_picked(v, kinds[i], images) for i, v in enumerate(self.values) if i != place]
        values.insert(place, changed)
        return self.split.read(self.split.head(*values))

    def _kinds(self) -> Sequence[tuple[Any, Any]]:
        """For each crossing value what it is for one image and for two; tensors by shape only."""
        size = tuple(self.pixels.shape[2:])
        known = self.split.kinds.get(size)
        if known is None:
            first = self.pixels[:1]
            one, two = self.cross(first), self.cross(torch.cat([first, first]))
            known = [(_shapes(a), _shapes(b)) for a, b in zip(one, two, strict=True)]
            if len(self.split.kinds) >= _SIZES:
                self.split.kinds = {}
            self.split.kinds[size] = known
        return known


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return [_shapes(v) for v in value] if isinstance(value, (tuple, list)) else value


def _picked(value: Any, kind: tuple[Any, Any], images: Tensor) -> Any:
    """A value that crossed for the batch, as it would cross for ``images``."""
    one, two = kind
    if isinstance(value, Tensor):
        if one.dim() == 0 or one.shape[0] == two.shape[0]:
            return value
        rows = one.shape[0]  # 1, but for batches that were folded together with another axis
        return value.unflatten(0, (-1, rows))[images].flatten(0, 1)
    if isinstance(value, (tuple, list)):
        parts = [_picked(v, pair, images) for v, pair in zip(value, zip(one, two, strict=True), strict=True)]
        return torch.Size(parts) if isinstance(value, torch.Size) else type(value)(parts)
    return one * len(images) if isinstance(value, int) and one != two else value
