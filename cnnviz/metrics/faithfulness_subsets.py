"""Does the sum of a map over a region say what the score loses when the region is hidden?

* Sensitivity-n (Ancona et al., "Towards Better Understanding of Gradient-based Attribution Methods for Deep Neural
  Networks", ICLR 2018, section 4): Pearson's correlation, over random subsets S of n features, of

      s(S) = sum of the map over S        d(S) = f(x) - f(x with S hidden)

  Features are square patches, n a share of them; the figure is the mean over the shares.
* Infidelity (Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, definition 2.1, with the
  perturbation that hides a square): the mean of (a s - d)^2 over random squares, with the scale a that makes it least,
  as in the reference implementation, because most maps have another unit than the score. It is not below zero: a map
  that is turned over is not as good as the map.
* Agreement with occlusion: Spearman's rank correlation of the map and the occlusion map (Zeiler & Fergus, ECCV 2014),
  each pixel the mean of d over the windows that cover it.

f is the logit of what the map explains.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.metrics.contract import ExplainedNetwork, Scores
from cnnviz.metrics.faithfulness import OfEachMap, OneMap, listed, replacement
from cnnviz.metrics.similarity import spearman
from cnnviz.registry.faithfulness_metrics import InfidelityOptions, OcclusionAgreementOptions, SensitivityNOptions

Values = NDArray[np.float64]
_Params = SensitivityNOptions | InfidelityOptions | OcclusionAgreementOptions

# A spread below this share of the values is rounding.
_NO_SPREAD = 1e-6


class SensitivityN(OfEachMap):
    """The correlation of each map; None where the sums, or the losses, are all the same."""

    figures = ("correlation", "by_share", "shares")

    def __init__(self, network: ExplainedNetwork, params: SensitivityNOptions) -> None:
        self._params = params
        self._shares = listed(params.shares, "shares", 0, 1)

    def of_map(self, map_: OneMap) -> Scores:
        params, (height, width) = self._params, map_.values.shape
        down, across = (np.arange(side) // params.patch for side in (height, width))
        patch = down[:, None] * (int(across[-1]) + 1) + across
        count = int(patch[-1, -1]) + 1
        generator = map_.generator(params.seed)
        hidden = torch.cat([self._drawn(share, count, generator) for share in self._shares])
        at_pixels = torch.from_numpy(patch)

        def make(part: range) -> Tensor:
            return hidden[part.start : part.stop, at_pixels]

        lost = _losses(map_, params, len(hidden), make)
        of_patch: Values = np.bincount(patch.ravel(), map_.values.ravel()).astype(np.float64)
        sums: Values = hidden.double().numpy() @ of_patch
        parts = [slice(at, at + params.subsets) for at in range(0, len(hidden), params.subsets)]
        found = [_pearson(sums[part], lost[part]) for part in parts]
        known = [value for value in found if value is not None]
        return {"correlation": float(np.mean(known)) if known else None, "by_share": found, "shares": self._shares}

    def _drawn(self, share: float, count: int, generator: torch.Generator) -> Tensor:
        """[subsets, count] bool: so many of them in each row."""
        ranks = torch.rand((self._params.subsets, count), generator=generator).argsort(dim=1).argsort(dim=1)
        return ranks < min(max(1, round(share * count)), max(1, count - 1))


class Infidelity(OfEachMap):
    """The infidelity of each map, with the best scale, and as it is."""

    figures = ("infidelity", "relative", "unscaled", "scale")

    def __init__(self, network: ExplainedNetwork, params: InfidelityOptions) -> None:
        self._params = params

    def of_map(self, map_: OneMap) -> Scores:
        """``relative`` is None where no square matters at all."""
        params, size = self._params, map_.values.shape
        sides = [min(params.window, side) for side in size]
        generator = map_.generator(params.seed)
        top, left = (
            torch.randint(size[axis] - sides[axis] + 1, (params.draws,), generator=generator) for axis in (0, 1)
        )
        down, across = _span(top, sides[0], size[0]), _span(left, sides[1], size[1])

        def make(part: range) -> Tensor:
            return down[part.start : part.stop, :, None] & across[part.start : part.stop, None, :]

        lost = _losses(map_, params, params.draws, make)
        sums = _sums(map_, down, across)
        power = float(sums @ sums)
        scale = max(0.0, float(sums @ lost) / power) if power > 0 else 0.0
        nothing = float(np.mean(lost**2))
        least = float(np.mean((scale * sums - lost) ** 2))
        return {
            "infidelity": least,
            "relative": least / nothing if nothing > 0 else None,
            "unscaled": float(np.mean((sums - lost) ** 2)),
            "scale": scale,
        }


class OcclusionAgreement(OfEachMap):
    """The rank correlation of each map; None where it, or the occlusion map, is the same everywhere."""

    figures = ("spearman",)

    def __init__(self, network: ExplainedNetwork, params: OcclusionAgreementOptions) -> None:
        self._params = params

    def of_map(self, map_: OneMap) -> Scores:
        params, size = self._params, map_.values.shape
        spans = [_span(_starts(side, params.window, params.stride), min(params.window, side), side) for side in size]
        down, across = spans
        rows, columns = len(down), len(across)

        def make(part: range) -> Tensor:
            at = torch.arange(part.start, part.stop)
            return down[at // columns, :, None] & across[at % columns, None, :]

        lost = _losses(map_, params, rows * columns, make).reshape(rows, columns)
        covers = [span.double().numpy() for span in spans]
        windows = covers[0].sum(0)[:, None] * covers[1].sum(0)
        seen = windows > 0
        if _is_even(lost) or _is_even(map_.values):
            return {"spearman": None}
        occlusion = (covers[0].T @ lost @ covers[1])[seen] / windows[seen]
        # Sums over windows differ in their last bits where they are equal.
        return {"spearman": spearman(occlusion.astype(np.float32), map_.values[seen])}


def _losses(map_: OneMap, params: _Params, count: int, hidden: Callable[[range], Tensor]) -> Values:
    """[count]: what the score loses when the pixels that are True in ``hidden`` [B, H, W] are replaced.

    What is hidden depends on the image and the options alone, so all methods share the passes.
    """
    pixels, unit = map_.pixels, map_.unit("logit")

    def make(part: range) -> Tensor:
        return torch.where(hidden(part).to(pixels.device)[:, None], replacement(pixels, params.replace), pixels)

    def measured() -> Values:
        whole = map_.scores(1, lambda part: pixels[None], unit)
        return whole - map_.scores(count, make, unit)

    return map_.of_any_map((type(params), params), measured)


def _sums(map_: OneMap, down: Tensor, across: Tensor) -> Values:
    """[M]: the map's sum over rectangles, whose rows are True in [M, H] and columns in [M, W]."""
    rows = down.double().numpy() @ map_.values.astype(np.float64)
    sums: Values = (rows * across.double().numpy()).sum(1)
    return sums


def _span(starts: Tensor, length: int, side: int) -> Tensor:
    """[M, side] bool: the ``length`` places from each start on."""
    places = torch.arange(side)
    return (places >= starts[:, None]) & (places < starts[:, None] + length)


def _starts(side: int, window: int, stride: int) -> Tensor:
    """Where windows start: every ``stride``, and one that ends at the border."""
    last = max(0, side - window)
    return torch.tensor([*range(0, last, stride), last])


def _pearson(a: Values, b: Values) -> float | None:
    if _is_even(a) or _is_even(b):
        return None
    x, y = a - a.mean(), b - b.mean()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def _is_even(values: NDArray[np.floating]) -> bool:
    return float(np.ptp(values)) <= _NO_SPREAD * float(np.abs(values).max())
