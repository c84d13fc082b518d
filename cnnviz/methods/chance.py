"""What is said of the error of values that are drawn by chance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def certainty(values: NDArray[np.float64], square: float) -> dict[str, float]:
    """``standard_error`` and ``reliability``: the correlation to expect of the values of two seeds.

        reliability = max(0, 1 - square / variance of the values)

    Args:
        values: Of the parts of an image.
        square: Their squared standard error, mean over the parts; NaN where it is not known.

    Returns:
        NaN for both where the error is not known; a reliability of 1 where nothing varies and nothing errs.
    """
    spread = float(np.var(values))
    alike = max(0.0, 1 - square / spread) if spread > 0 else 1.0 - (square > 0)
    return {"standard_error": math.sqrt(square), "reliability": math.nan if math.isnan(square) else alike}
