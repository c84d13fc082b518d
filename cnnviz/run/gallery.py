"""Writes the gallery of one or several runs into a folder: ``index.html`` and what it is made of in ``gallery/``.

Records pass once, one by one: the first stand as cards in the page itself, all of them become rows of its scripts.
What stays in memory is a chunk of rows and the first cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.io import page_files
from cnnviz.io.store import Store
from cnnviz.report import gallery as html
from cnnviz.report import record_words as words
from cnnviz.report import rows
from cnnviz.report.checks_table import checks_table
from cnnviz.report.confusion_table import confusion_table
from cnnviz.report.figures_table import figures_table
from cnnviz.report.gallery import FOLDER, STYLE, Gallery
from cnnviz.report.markup import printable

INDEX = "index.html"
CARDS = 100
"""Of a page that stand there without its scripts, which put their own in their place."""
LIBRARIES, CURVES, SCRIPT, RUNS = (f"{FOLDER}/{name}.js" for name in ("libraries", "curves", "gallery", "runs"))


@dataclass(frozen=True)
class GalleryRun:
    """A run as its gallery shows it.

    Attributes:
        head: Title, command, model and figures.
        records: Its records in order, files relative to the page.
        command: The whole command, to be copied.
        summary: Of its report.
        name: Told from the other runs of the page; empty of one alone.
        figures: Pictures of the whole run.
        confusion: Of its report.
        only: ``--only``.
        photo: The address of the photograph of a record, where the page can show it.
    """

    head: Gallery
    records: Iterable[Mapping[str, Any]]
    command: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    figures: Sequence[Mapping[str, Any]] = ()
    confusion: Any = None
    only: str | None = None
    photo: Callable[[Mapping[str, Any]], str | None] = lambda record: None


def write_gallery(store: Store, title: str, runs: Sequence[GalleryRun]) -> None:
    """The whole gallery. ``index.html`` is written last.

    Args:
        store: The folder.
        title: Of the page.
        runs: What it shows.
    """
    write_style(store)
    cards, chunks, curves, before = list[str](), list[str](), False, 0
    for place, run in enumerate(runs):
        seen = SeenRecords(run, place, cards)
        for data in rows.chunks(seen.rows(), place):
            name = chunk_name(len(chunks))
            store.write(name, data)
            chunks.append(name)
        curves, before = curves or seen.curves, before + seen.count
    store.write(RUNS, runs_script(title, runs))
    store.write(LIBRARIES, page_files.libraries())
    store.write(SCRIPT, page_files.script(page_files.GALLERY))
    if curves:
        store.write(CURVES, page_files.libraries(page_files.CURVES))
    else:
        store.remove(CURVES)
    _remove_chunks(store, len(chunks))
    scripts = [LIBRARIES, *([CURVES] if curves else []), SCRIPT, RUNS, *chunks]
    with store.stream(INDEX) as page:
        for part in _page(title, runs, cards, before):
            page.write(part.encode("utf-8", "replace"))
        page.write(html.end(scripts).encode())


def write_style(store: Store) -> None:
    """The style of whatever page the folder has."""
    store.write(STYLE, page_files.style())


def remove_gallery(store: Store) -> None:
    """Remove what :func:`write_gallery` wrote, of an earlier run."""
    for name in (INDEX, STYLE, LIBRARIES, CURVES, SCRIPT, RUNS):
        store.remove(name)
    _remove_chunks(store, 0)


def chunk_name(number: int) -> str:
    """The file of a chunk of rows."""
    return f"{FOLDER}/rows-{number:04d}.js"


def _remove_chunks(store: Store, first: int) -> None:
    while store.exists(chunk_name(first)):
        store.remove(chunk_name(first))
        first += 1


class SeenRecords:
    """The records of a run on their way to rows: what the page needs to know of them is kept.

    Args:
        run: The run.
        place: Its number on the page.
        cards: Gets the first ``most`` as cards.
        most: How many.
    """

    def __init__(self, run: GalleryRun, place: int, cards: list[str], most: int = CARDS) -> None:
        self.run, self.place, self.cards, self.most = run, place, cards, most
        self.curves, self.count = False, 0
        self._checks = rows.checks_of(run.summary)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, one by one."""
        for record in self.run.records:
            if record.get("skipped"):
                continue
            record = words.abridged(record)
            if self.count < self.most:
                self.cards.append(html.card(record, self.place))
            row = rows.row_of(record, self._checks, self.run.photo(record))
            self.curves = self.curves or any("curves" in each for each in row.get("maps", ()))
            self.count += 1
            yield row


def runs_script(title: str, runs: Sequence[GalleryRun]) -> bytes:
    """What the page's scripts know of the runs before their rows."""
    told = [
        {
            "name": printable(run.name),
            "command": printable(run.command),
            "checks": list(rows.checks_of(run.summary).told),
        }
        for run in runs
    ]
    return rows.script_of("cnnviz.data.runs(", {"title": printable(title), "runs": told})


def _page(title: str, runs: Sequence[GalleryRun], cards: Iterable[str], count: int) -> Iterator[str]:
    yield html.document(title)
    yield f'<div class="runs{" several" if len(runs) > 1 else ""}">\n'
    for place, run in enumerate(runs):
        yield run_section(run, place)
    yield '</div>\n<main id="gallery">\n'
    yield from cards
    if count > CARDS:
        yield f'<p class="more">The first {CARDS} of each run; all {count} are shown where scripts run.</p>\n'


def run_section(run: GalleryRun, place: int) -> str:
    """What stands above the cards of a run: its command, its tables, its figures."""
    tables = figures_table(run.summary) + checks_table(run.summary)
    if run.confusion is not None:
        tables += confusion_table(run.confusion, run.only, place)
    tables += "".join(html.picture(figure) for figure in run.figures)
    body = f'<div class="tables">\n{tables}</div>\n' if tables else ""
    return f'<section class="run" data-run="{place}">\n{html.run_head(run.head)}{body}</section>\n'
