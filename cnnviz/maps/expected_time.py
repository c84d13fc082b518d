"""How long a run of several methods or metrics will take, and what of it most: told when its first images are done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from cnnviz.maps.prepared_method import PreparedMethod

# Seconds from which on it is worth a word.
_LONG = 90.0
_HALF = 0.5

Spent = Mapping[tuple[str, str], float]
"""Seconds by what was done, a metric or ``maps``, and of which method or baseline."""


class ExpectedTime:
    """Told of batches; tells once how long the run takes.

    Args:
        makers: What makes maps, with their metrics, and knows how long these took.
        total: Gives how many images there are to explain; None where that is not known, or some were explained before.
        lanes: How many batches run at once.
        tell: Told, where the run takes more than a minute or so.
    """

    def __init__(
        self, makers: Sequence[PreparedMethod], total: Callable[[], int | None], lanes: int, tell: Callable[[str], None]
    ) -> None:
        self._makers, self._total, self._lanes, self._tell = makers, total, lanes, tell
        self._turn, self._told = threading.Lock(), False

    def explained(self, images: int, seconds: float) -> None:
        """So many images are explained, which took so long."""
        with self._turn:
            told, self._told = self._told, True
        if not told and (text := expectation(self._spent(), seconds / images, self._total(), self._lanes)):
            self._tell(text)

    def _spent(self) -> dict[tuple[str, str], float]:
        found = {("maps", maker.spec.name): maker.seconds for maker in self._makers}
        for maker in self._makers:
            for name, seconds in (maker.metrics.seconds if maker.metrics is not None else {}).items():
                found[name, maker.spec.name] = seconds
        return found


def expectation(spent: Spent, an_image: float, total: int | None, lanes: int) -> str:
    """How long the run takes and what of it most; empty of one that is short, or has no other image.

    Args:
        spent: On the first images.
        an_image: Seconds from the beginning of an image to its end.
        total: How many images there are; None where that is not known.
        lanes: How many are explained at once.
    """
    if total is None:
        seconds, of = an_image / lanes, "an image"
    else:
        seconds, of = an_image * total / min(lanes, total), f"for {total} images"
    if seconds < _LONG or total == 1:
        return ""
    text = f"this takes about {in_words(seconds)} {of}"
    by_kind: dict[str, float] = {}
    for (kind, maker), each in spent.items():
        name = f"the maps of {maker}" if kind == "maps" else kind
        by_kind[name] = by_kind.get(name, 0.0) + each
    every = sum(by_kind.values())
    if len([each for each in by_kind.values() if each]) < 2:
        return text
    most = max(by_kind, key=lambda name: by_kind[name])
    own = {maker: each for (kind, maker), each in spent.items() if kind == most}
    chief = [maker for maker, each in own.items() if each > _HALF * by_kind[most]] if len(own) > 1 else []
    mostly = f" (mostly of {chief[0]})" if chief else ""
    share = by_kind[most] / every
    rest = in_words(seconds * (1 - share))
    much = "nearly all" if round(100 * share) == 100 else f"{round(100 * share)} %"
    return f"{text}, {much} of it for {most}{mostly}; without that about {rest}"


def in_words(seconds: float) -> str:
    """A time that is known but roughly.

    >>> in_words(94), in_words(594), in_words(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{max(10, round(seconds / 10) * 10)} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 1800) / 2:g} h"
