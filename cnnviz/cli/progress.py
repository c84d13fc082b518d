"""How much of a run is done: images, and the work on images that are not finished."""

from __future__ import annotations

import threading


class Done:
    """What is done of a run; safe in threads, in which parts are told.

    Args:
        total: The number of images, if known.

    Attributes:
        count: Finished images.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total, self.count = total, 0
        self._ahead, self._turn = 0.0, threading.Lock()

    def advance(self, count: int = 1) -> None:
        """So many more images are finished; the work on them no longer counts beside them."""
        with self._turn:
            self.count += count
            self._ahead = max(0.0, self._ahead - count)

    def part(self, images: float) -> None:
        """So many images' worth of work is done, of images that are not finished."""
        with self._turn:
            self._ahead += images

    @property
    def work(self) -> float:
        """All that is done, in images."""
        with self._turn:
            done = self.count + self._ahead
        return done if self.total is None else min(done, self.total)

    @property
    def images(self) -> str:
        """``3/16``."""
        return f"{self.count}/{'?' if self.total is None else self.total}"

    @property
    def share(self) -> str:
        """``23 %`` of the work, where more of it is done than finished images tell; else empty."""
        work = self.work
        if not self.total or work <= self.count:
            return ""
        if (whole := round(100 * work / self.total)) == 0:
            return "< 1 %"
        return "> 99 %" if whole == 100 and work < self.total else f"{whole} %"
