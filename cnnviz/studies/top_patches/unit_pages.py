"""The pictures of units, written: pages of many, and a strip of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cnnviz.errors import counted
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.render.patches import FRAMES, SHEET, UnitRow, sheet, unit_picture
from cnnviz.schema.images import Figure

FIRST = "sheet.png"
MOST_STRIPS = 200
"""Units of which the gallery has the strip; the files of all are written."""
_PNG = ImageFormat("png")
Row = Callable[[int], UnitRow]


def write_pages(store: Store, count: int, columns: int, row: Row, where: str) -> list[Figure]:
    """Pages of at most :data:`SHEET` units: ``sheet.png``, ``sheet-2.png`` ...

    Args:
        store: Where they go.
        count: Units.
        columns: Patches of each.
        row: Unit i of these.
        where: The layer, for captions.
    """
    figures: list[Figure] = []
    of = counted(count, "unit")
    for begin in range(0, count, SHEET):
        some = min(SHEET, count - begin)
        file = f"sheet-{begin // SHEET + 1}.png" if begin else FIRST
        page = sheet(some, columns, lambda place, begin=begin: row(begin + place))  # type: ignore[misc]
        store.write(file, encode(page, _PNG))
        part = of if some == count else f"{begin + 1} to {begin + some} of {of}"
        figures.append({"file": file, "caption": f"{where}: {part}. {FRAMES}"})
    return figures


def write_strips(store: Store, files: Sequence[str], row: Row, side: int, workers: int) -> list[Figure]:
    """The strip of each unit, encoded in threads; those for the gallery are returned.

    Args:
        store: Where they go.
        files: Of unit i.
        row: Unit i.
        side: Of its tiles in pixels.
        workers: Threads.
    """
    figures: list[Figure] = []
    with ThreadPoolExecutor(workers, "encode") as pool:
        waiting: deque[Future[None]] = deque()
        for place, file in enumerate(files):
            found = row(place)
            waiting.append(pool.submit(_write_strip, store, file, found, side))
            if len(waiting) > 2 * workers:
                waiting.popleft().result()
            if len(figures) < MOST_STRIPS:
                figures.append({"file": file, "caption": f"{found.layer}, {found.unit}: {found.facts}"})
        for written in waiting:
            written.result()
    return figures


def _write_strip(store: Store, file: str, row: UnitRow, side: int) -> None:
    store.write(file, encode(unit_picture(row, side), _PNG))
