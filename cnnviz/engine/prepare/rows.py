"""Linear layers that give an image the same bits whatever else is in its batch.

A matrix product takes other kernels, which add in another order, for other numbers of rows: on a CPU for one to three,
and on several threads for all that are no multiples of four. With zeros in the place of missing rows the kernel is the
same. Runs over folders want that: what a continued run makes again must equal what it finds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, fx, nn

_ROWS = 8
"""The number of rows is made a multiple of this."""


class EvenRows(nn.Linear):
    """A linear layer whose vectors [N, C] are made a multiple of :data:`_ROWS`, forward and backward."""

    def forward(self, x: Tensor) -> Tensor:
        missing = -len(x) % _ROWS if x.dim() == 2 else 0
        if not missing:
            return super().forward(x)
        return super().forward(F.pad(x, (0, 0, 0, missing)))[: len(x)]


def even_rows(part: Callable[..., object]) -> None:
    """Make the plain linear layers of a private copy independent of the batch; weights and names stay."""
    assert isinstance(part, fx.GraphModule)
    for layer in part.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = EvenRows
