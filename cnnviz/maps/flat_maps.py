"""Maps that tell nothing: whether all are finite, and why one tells no place from another, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnnviz.metrics.derived import is_even

if TYPE_CHECKING:
    from cnnviz.maps.write_image import TargetMap

_THINGS = {
    "unit": "unit", "neuron": "unit", "similar": "similarity", "embedding": "component", "function": "score",
    "token": "word", "caption": "text", "answer": "answer",
}  # fmt: skip


def all_finite(maps: Sequence[NDArray[np.float32]], at_once: int = 128) -> bool:
    """Whether no map has a NaN or an infinity; so many small ones together are looked at in the time of one or two."""
    parts = (maps[first : first + at_once] for first in range(0, len(maps), at_once))
    return all(bool(np.isfinite(np.concatenate([each.ravel() for each in part])).all()) for part in parts)


def flat_reason(item: TargetMap) -> str:
    """Why a map is flat, and where that helps what to change."""
    values = item.values
    if values.size == 1 and item.layer is not None:
        return (
            f"layer {item.layer} has a single cell at this input size, which tells no place from another: "
            "use a larger --input-size or an earlier --layer"
        )
    if item.scores.get("positions") == [1, 1]:
        return (
            "one window covers all that the network sees, so that there is one drop for all places: "
            "use a smaller --window"
        )
    if not values.any():
        thing = _THINGS.get(getattr(item.target, "kind", "class"), "class")
        found = f"speaks {'against' if item.facts.get('counterfactual') else 'for'} the {thing}"
        if not item.method.class_specific:
            found = "stands out (the method does not look at the class)"
        where = "no part of the image" if item.layer is None else "no position of this layer"
        return f"the map is zero everywhere: {where} {found}"
    if is_even(values):
        return "the map is the same everywhere: it tells no place from another"
    return "the map is zero on the part of the image that the network saw"
