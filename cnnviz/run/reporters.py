"""Where a run tells how it goes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from cnnviz.schema.images import AnyImage


class Reporter(Protocol):
    """Where the run's progress is told; the command line's console.

    What it is to ``say`` is how the work goes; a ``note`` is what people should know of the results.
    """

    def start(self, total: int | None) -> None: ...

    def advance(self, record: AnyImage) -> None: ...

    def work(self, count: int, text: str) -> None: ...

    def part(self, images: float) -> None: ...

    def say(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """A reporter that tells nothing."""

    def start(self, total: int | None) -> None: ...

    def advance(self, record: AnyImage) -> None: ...

    def work(self, count: int, text: str) -> None: ...

    def part(self, images: float) -> None: ...

    def say(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


class Told:
    """A reporter that remembers what was noted.

    Args:
        reporter: Told everything but notes that were told before.
        before: Notes that were told before, of another run.

    Attributes:
        notes: In order, those that were told before among them.
    """

    def __init__(self, reporter: Reporter, before: Collection[str] = ()) -> None:
        self._reporter, self._before, self.notes = reporter, before, list[str]()

    def start(self, total: int | None) -> None:
        self._reporter.start(total)

    def advance(self, record: AnyImage) -> None:
        self._reporter.advance(record)

    def work(self, count: int, text: str) -> None:
        self._reporter.work(count, text)

    def part(self, images: float) -> None:
        self._reporter.part(images)

    def say(self, text: str) -> None:
        self._reporter.say(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
        if text not in self._before:
            self._reporter.note(text)

    def finish(self) -> None:
        self._reporter.finish()
