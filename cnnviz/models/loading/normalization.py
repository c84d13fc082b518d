"""Mean and deviation of the pixels that a network was trained on: read, and checked for the usual mix-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cnnviz.errors import CnnvizError


def per_channel(name: str, values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """One finite value for each channel, from one value or from one for each channel; three are averaged for grey.

    Args:
        name: ``mean`` or ``std``, for messages.
        values: As given.
        channels: Of the network's input.

    Raises:
        CnnvizError: if the count does not fit, or a value is no finite number.
    """
    given = (values,) if isinstance(values, (int, float)) else values
    hint = f"give --{name} {','.join(['0.5'] * channels)}"
    try:
        found = tuple(float(value) for value in given) if not isinstance(given, str) else ()
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise CnnvizError(f"--{name} needs 1 or {channels} finite numbers, got {values!r:.80}", hint)
    if len(found) == 1:
        return found * channels
    if len(found) == 3 and channels == 1:
        return (sum(found) / 3,)
    if len(found) != channels:
        raise CnnvizError(f"--{name} needs 1 or {channels} values, got {len(found)}: {found[:8]}", hint)
    return found


def check(mean: Sequence[float], std: Sequence[float], scale: float) -> None:
    """Refuse values that cannot be those of pixels, one for each channel.

    Args:
        mean: Means of pixels between 0 and ``255 * scale``.
        std: Their deviations. Up to ``255 * scale``: 1 leaves the scale alone, 1/255 stretches it to 0–255.
        scale: Factor from 0–255 to the range that both are given in.

    Raises:
        CnnvizError: if they are of pixels in 0–255 or in -1–1 instead; the hint has them converted.
    """
    largest = 255 * scale * (1 + 1e-9)
    if any(value <= 0 for value in std):
        raise CnnvizError(
            f"--std {_listed(std)}: a deviation must be above 0", "give --std 1 to leave the scale as it is"
        )
    if max(mean) > largest or max(std) > largest:
        # A deviation of exactly 1 beside means of 0–255, as Caffe's networks have it, is of 0–255 as well.
        means = [value / 255 for value in mean] if max(mean) > largest else mean
        stds = [value / 255 for value in std] if max(std) >= 1 else std
        converted = f"--mean {_listed(means)} --std {_listed(stds)}"
        name, values = ("mean", mean) if max(mean) > largest else ("std", std)
        raise CnnvizError(
            f"--{name} {_listed(values)} is of pixels from 0 to 255; cnnviz expects it of pixels from 0 to 1",
            f"divide by 255: {converted}",
        )
    if min(mean) < 0:
        halved = f"--mean {_listed([(value + 1) / 2 for value in mean])} --std {_listed([v / 2 for v in std])}"
        raise CnnvizError(
            f"--mean {_listed(mean)} is negative, which the mean of pixels from 0 to 1 cannot be",
            f"if it is of pixels from -1 to 1, give {halved}",
        )


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
