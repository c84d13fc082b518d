"""``cnnviz report``: finished runs as one gallery that stands alone: a folder, or a single file.

The pictures come along (on one disk as second names of the same files), photographs as small copies without what
cameras write beside the pixels. Records pass one by one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.errors import CnnvizError, counted, of_all, shown
from cnnviz.io.names import safe_component
from cnnviz.io.photographs import small_copy
from cnnviz.io.run_folders import RunFolderReader
from cnnviz.io.store import Store
from cnnviz.report import compare_words
from cnnviz.report.gallery import FOLDER, GENERATOR, Gallery, document
from cnnviz.report.headline import headline
from cnnviz.report.markup import Address, link
from cnnviz.run.gallery import INDEX, RUNS, GalleryRun, remove_gallery, write_gallery
from cnnviz.run.single_file import write_single_file

PICTURES = f"{FOLDER}/pictures.jsonl"
"""The names of the pictures that came along: what ``--overwrite`` may remove."""
_SIDE = 1024
# The policy of a single file, which stands before the generator, has a digest of 53 bytes for each 500 images.
_HEAD = 1 << 16


@dataclass(frozen=True)
class ReportSettings:
    """What ``cnnviz report`` was asked for.

    Attributes:
        folders: Output folders of runs.
        out: The folder to write.
        overwrite: Whether a gallery that is there is replaced.
        single_file: Whether everything stands in one file.
        side: Of a single file: the longer side of its pictures, at most, in pixels.
    """

    folders: tuple[str, ...]
    out: str
    overwrite: bool = False
    single_file: bool = False
    side: int = 640


@dataclass
class Joined:
    """What came of it.

    Attributes:
        images: Rows of the gallery.
        without_photo: How many photographs were not found.
        missing: Pictures that records list and that are not there.
        page: The page.
        pictures: Names of the pictures that came along.
        list_: Keeps such a name.
    """

    images: int = 0
    without_photo: int = 0
    missing: int = 0
    page: str = ""
    pictures: list[str] = field(default_factory=list)
    list_: Callable[[str], object] = lambda name: None

    def add(self, name: str) -> None:
        """A picture that comes along."""
        self.list_(name)
        self.pictures.append(name)


def join_runs(settings: ReportSettings, advance: Callable[[], None] = lambda: None) -> Joined:
    """Write the gallery.

    Args:
        settings: What was asked for.
        advance: Called after each image.

    Raises:
        CnnvizError: A folder is not of a run, or the output folder holds something else.
    """
    readers = [RunFolderReader(folder) for folder in settings.folders]
    for folder in settings.folders:
        if os.path.realpath(folder) == os.path.realpath(settings.out):
            raise CnnvizError(f"-o {settings.out} is also a DIR: its own page would be lost.", "Name another folder.")
    store = Store(settings.out, again="--overwrite")
    _make_room(store, settings)
    names = _names(settings.folders)
    joined = Joined(page=f"{settings.out.rstrip('/')}/{INDEX}")
    with contextlib.nullcontext() if settings.single_file else _begun(store, joined):
        runs = [
            _run_of(_Taken(reader, store, settings, f"runs/{name}", joined, advance), name if len(names) > 1 else "")
            for reader, name in zip(readers, names, strict=True)
        ]
        title = runs[0].head.title if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}"
        write = write_single_file if settings.single_file else write_gallery
        write(store, title, runs)
    return joined


@contextlib.contextmanager
def _begun(store: Store, joined: Joined) -> Iterator[None]:
    """Within it pictures come along: the folder is known for ours, and each of them is listed before it is there,
    whatever ends the process.
    """
    store.write(INDEX, f"{document('not finished')}<p>This gallery was not finished.</p>\n</body>\n</html>\n".encode())
    log = store.open_lines(PICTURES)
    joined.list_ = lambda name: log.append(json.dumps(name))
    try:
        yield
    finally:
        log.close()


def _make_room(store: Store, settings: ReportSettings) -> None:
    """Raises a CnnvizError unless the folder is empty, or ours and to be replaced."""
    if store.is_empty():
        return
    ours = store.exists(RUNS) or GENERATOR.encode() in (_begin_of(store) or b"")
    if set(store.entries()) - {INDEX, FOLDER, "runs"} or not ours:
        raise CnnvizError(f"The output folder {store.root} holds something else.", "Name another folder with -o.")
    if not settings.overwrite:
        raise CnnvizError(
            f"The output folder {store.root} is not empty: it holds a gallery.",
            "Use --overwrite to replace it, or -o for another folder.",
        )
    store.gather(PICTURES)
    for line in (store.read(PICTURES) or b"").splitlines():
        name = None
        with contextlib.suppress(ValueError):  # of the last line a part, where the process was killed
            name = json.loads(line)
        if isinstance(name, str) and name.startswith("runs/"):
            store.remove(name)
    store.remove(PICTURES)
    remove_gallery(store)


def _begin_of(store: Store) -> bytes | None:
    stream = store.open(INDEX)
    if stream is None:
        return None
    with stream:
        return stream.read(_HEAD)


def _names(folders: Sequence[str]) -> list[str]:
    """A name for each run: its folder's, with a number where several are called so."""
    found: list[str] = []
    for folder in folders:
        name = safe_component(os.path.basename(os.path.abspath(folder))) or "run"
        number, unique = 2, name
        while unique.casefold() in {each.casefold() for each in found}:
            unique, number = f"{name}-{number}", number + 1
        found.append(unique)
    return found


def _run_of(taken: _Taken, name: str) -> GalleryRun:
    report = taken.reader.report
    summary = report.get("summary") or {}
    model = report.get("model") or {}
    command = str(report.get("command_line") or f"cnnviz {report.get('command', '')}")
    pairs = headline(summary)
    if summary.get("finished") is False:
        pairs.append(("state", "not finished"))
    title = f"cnnviz {report.get('command', '')}"
    options = report.get("options") or {}
    return GalleryRun(
        head=Gallery(
            f"{name}: {title}" if name else title,
            command if len(command) < 1000 else f"{command[:1000]} …",
            compare_words.networks(model, summary),
            pairs,
        ),
        records=taken.records(),
        command=command,
        summary=summary,
        name=name,
        figures=[each for figure in report.get("figures", ()) if (each := taken.figure(figure)) is not None],
        confusion=report.get("confusion"),
        only=options.get("only"),
        photo=taken.photo,
    )


class _Taken:
    """The records of a run with the files that come along: under names of the gallery, or as ``data:`` addresses."""

    def __init__(
        self,
        reader: RunFolderReader,
        store: Store,
        settings: ReportSettings,
        below: str,
        joined: Joined,
        advance: Callable[[], None],
    ) -> None:
        self.reader, self.store, self.settings = reader, store, settings
        self.below, self.joined, self.advance = below, joined, advance

    def records(self) -> Iterator[Mapping[str, Any]]:
        for record in self.reader.records():
            if record.get("skipped"):
                continue
            self.joined.images += 1
            yield self._with_files(record)
            self.advance()

    def _with_files(self, record: Mapping[str, Any]) -> dict[str, Any]:
        explanations = []
        for each in record.get("explanations") or ():
            files = each.get("files") or {}
            taken = {kind: address for kind, name in files.items() if (address := self._take(str(name), kind))}
            explanations.append({**each, "files": taken})
        figures = [found for each in record.get("figures") or () if (found := self.figure(each)) is not None]
        return {**record, "explanations": explanations, "figures": figures}

    def figure(self, figure: Mapping[str, Any]) -> dict[str, Any] | None:
        address = self._take(str(figure.get("file", "")), "figure")
        return None if address is None else {**figure, "file": address}

    def _take(self, name: str, kind: str) -> str | None:
        path = self.reader.file(name)
        if path is None:
            self.joined.missing += 1
            return None
        if self.settings.single_file:
            return None if kind == "raw" else data_address(path, self.settings.side)
        place = f"{self.below}/{'/'.join(part for part in name.split('/') if part not in ('', '.', '..'))}"
        if place not in self.joined.pictures[-1:]:
            self.joined.add(place)
            self.store.adopt(place, path)
        return place

    def photo(self, record: Mapping[str, Any]) -> str | None:
        """A small copy of the photograph: as a file, or as a ``data:`` address."""
        path = self.reader.input(str(record.get("path", "")))
        address: str | None = None
        if self.settings.single_file:
            address = data_address(path, self.settings.side)
        elif (data := small_copy(path, _SIDE)) is not None:
            name = f"{self.below}/photographs/{record.get('name', self.joined.images)}.jpg"
            self.joined.add(name)
            self.store.write(name, data)
            address = link(name)
        self.joined.without_photo += address is None
        return address


def data_address(path: str, side: int) -> Address | None:
    """A picture as a ``data:`` address, at most ``side`` pixels long; None where there is none."""
    data = small_copy(path, side)
    return None if data is None else Address(f"data:image/jpeg;base64,{base64.b64encode(data).decode()}")


def told(joined: Joined, settings: ReportSettings) -> list[str]:
    """What is worth saying of it."""
    found = []
    if joined.without_photo:
        of = of_all(joined.without_photo, joined.images, "photograph", "was", "were")
        found.append(f"{of} not found: overlays stand alone")
    if joined.missing:
        are = "is" if joined.missing == 1 else "are"
        found.append(
            f"{counted(joined.missing, 'picture')} that the runs list {are} not in {shown(settings.folders[0])}"
        )
    return found
