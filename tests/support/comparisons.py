"""How near two tensors must be, relative to what is expected."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Close(Protocol):
    """A comparison with a tolerance of its own, which a call may change."""

    def __call__(self, found: Any, expected: Any, tolerance: float = ...) -> None: ...


def closeness(tolerance: float, least: float = 0.0) -> Close:
    """A comparison in float64, relative to the largest expected value.

    Args:
        tolerance: Largest difference, unless a call names another.
        least: The largest expected value must be above this: zeros beside zeros prove nothing.
    """
    usual = tolerance

    def close(found: Any, expected: Any, tolerance: float = usual) -> None:
        a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, dtype=np.float64) for v in (found, expected))
        largest = float(np.abs(b).max())
        assert largest > least
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)

    return close
