"""How alike two maps are: correlation of ranks and of values, and structural similarity.

* Spearman's rank correlation: Pearson's correlation of the ranks, equal values sharing the mean of their ranks.
* SSIM (Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004):

      mean over x of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

  with means, variances and covariance under a Gaussian of 1.5 pixels on 11 x 11 pixels, c1 = (0.01 L)^2,
  c2 = (0.03 L)^2, where the window fits inside. Each map is divided by its largest absolute value first; L is 1 for
  maps without negative values, otherwise 2.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SIGMA, _SIDE = 1.5, 11


def spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Rank correlation of two arrays of one shape, -1 to 1; None where one of them is constant."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip(x @ y / spread, -1, 1)) if spread > 0 else None


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.ravel()]
    return means


def pearson(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Correlation of the values of two arrays of one shape, -1 to 1; None where one of them is constant."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    if x.min() == x.max() or y.min() == y.max():
        return None
    x, y = x / np.abs(x).max(), y / np.abs(y).max()  # gradients are so small that their squares vanish
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Structural similarity of two maps [H, W], -1 to 1; None where one of them is zero everywhere.

    Maps smaller than the window are seen through one of their own size.
    """
    tops = [float(np.abs(m).max()) for m in (a, b)]
    if min(tops) == 0:
        return None
    x, y = (m.astype(np.float64) / top for m, top in zip((a, b), tops, strict=True))
    span = 1.0 if min(x.min(), y.min()) >= 0 else 2.0
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    side = min(_SIDE, *(s if s % 2 else s - 1 for s in a.shape))
    margin = side // 2

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = cv2.GaussianBlur(values, (side, side), _SIGMA)
        return blurred[margin : values.shape[0] - margin, margin : values.shape[1] - margin].astype(np.float64)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    local = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(local.mean())
