"""Attacks in float64 with loops over images, classes and pixels' central differences; nothing of the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Logits = Callable[[Array], Array]  # one image [C, H, W] to [K]


def slope(score: Callable[[Array], float], image: Array, step: float = 1e-6) -> Array:
    """d score / d image by central differences."""
    found = np.zeros_like(image)
    for place in np.ndindex(*image.shape):
        up, down = image.copy(), image.copy()
        up[place] += step
        down[place] -= step
        found[place] = (score(up) - score(down)) / (2 * step)
    return found


def cross_entropy(logits: Array, label: int) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()) - logits[label])


def pgd(
    network: Logits, clean: Array, label: int, start: Array, how: tuple[float, float, int], targeted: bool
) -> Array:
    """Madry et al. 2018 on cross-entropy, up to the first fooled iterate; ``how``: epsilon, step size, steps."""
    epsilon, step_size, steps = how
    image = np.clip(clean + epsilon * start, 0, 1)
    sign = -1.0 if targeted else 1.0
    for step in range(steps + 1):
        fooled = (int(network(image).argmax()) == label) == targeted
        if step == steps or (fooled and step > 0):
            break
        climb = slope(lambda x: cross_entropy(network(x), label), image)
        image = image + sign * step_size * np.sign(climb)
        image = np.clip(np.clip(image, clean - epsilon, clean + epsilon), 0, 1)
    return image


def deepfool(network: Logits, clean: Array, overshoot: float, steps: int) -> Array:
    """Algorithm 2 of Moosavi-Dezfooli et al. 2016 over all classes, linearised at the overshot image, without a box."""
    label = int(network(clean).argmax())
    total = np.zeros_like(clean)
    for _ in range(steps):
        image = clean + (1 + overshoot) * total
        said = network(image)
        if int(said.argmax()) != label:
            break
        best: tuple[float, Array] | None = None
        for other in range(len(said)):
            if other == label:
                continue
            w = slope(lambda x, k=other: float(network(x)[k] - network(x)[label]), image)  # type: ignore[misc]
            f = float(said[other] - said[label])
            ratio = abs(f) / np.sqrt((w**2).sum())
            if best is None or ratio < best[0]:
                best = ratio, abs(f) / (w**2).sum() * w
        assert best is not None
        total = total + best[1]
    return clean + (1 + overshoot) * total
