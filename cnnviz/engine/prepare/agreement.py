"""Whether a head that was joined has the gradients of the same head operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.prepare.split import Split, crossing, quietly, to_head

# Largest difference, in norm. A rectifier whose input is zero but for rounding may let another share of the gradient
# through: in float32 0.02 in ResNet-50 with random weights, of which as much is from the plain modules' own rounding.
_TOLERANCE = 0.05


def gradients_agree(split: Split, pixels: Tensor) -> bool:
    """Compare the gradients of a weighted sum of the scores on a probe; trivially true where nothing was joined.

    That the scores agree says nothing of the way back, which is computed by other operations.

    Args:
        split: A private cut.
        pixels: [N, C, H, W] on its device.
    """
    if split.head is split.readable:
        return True
    found, wanted = (_gradients(part, split, pixels) for part in (split.head, split.readable))
    return len(found) == len(wanted) and all(_near(a, b) for a, b in zip(found, wanted, strict=True))


def _gradients(part: Callable[..., tuple[Tensor, ...]], split: Split, pixels: Tensor) -> Sequence[Tensor | None]:
    values: list[Any] = [to_head(v, split, i < split.crossing) for i, v in enumerate(crossing(split, pixels))]
    leaves = [v for v in values if isinstance(v, Tensor) and v.requires_grad]
    with torch.enable_grad():
        scores = quietly(part)(*values)[0]
    if not leaves or not scores.requires_grad:
        return []
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores)
    return torch.autograd.grad(scores, leaves, weights, allow_unused=True)


def _near(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if not bool(torch.isfinite(b).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)))
    return bool((a - b).norm() <= _TOLERANCE * b.norm())
