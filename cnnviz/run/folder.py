"""The run's own files: ``records.jsonl`` while it goes on, ``report.json`` and ``index.html`` at its end.

Records are on disk as soon as an input is finished; what stays in memory is 8 bytes an input, and about 200 for each
that an earlier run left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from numpy.typing import NDArray

from cnnviz.engine.stopping import unbroken
from cnnviz.errors import CnnvizError
from cnnviz.io.line_log import LineLog
from cnnviz.io.locks import FolderLock
from cnnviz.io.photographs import beside
from cnnviz.io.sources import ImageRef, is_url
from cnnviz.io.store import Store
from cnnviz.records import RunHeader, files_of
from cnnviz.report import compare_words
from cnnviz.report.gallery import FOLDER, Gallery
from cnnviz.report.headline import headline
from cnnviz.report.markup import link
from cnnviz.run.command_line import command_line
from cnnviz.run.earlier import INDEX, RECORDS, REPORT, EarlierRun, FinishedRecord
from cnnviz.run.gallery import GalleryRun, remove_gallery, write_gallery, write_style
from cnnviz.run.share import FILE as SHARD
from cnnviz.run.share import share_of, states_in
from cnnviz.schema.images import AnyImage, Figure
from cnnviz.settings import RunSettings
from cnnviz.strict_json import from_json, to_json

__all__ = ["REPORT", "Extras", "FinishedRecord", "RunFolder"]


@dataclass(frozen=True)
class Extras:
    """What a study adds to the run's own files.

    Attributes:
        report: Further keys of ``report.json``.
        figures: ``{"file", "caption"}`` of pictures that stand before the images in ``index.html``.
        index: Chunks of a page that stands in the place of the gallery; None for the gallery.
        files: Names of all files that it wrote; None where its records list them all.
    """

    report: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    index: Iterable[bytes] | None = None
    files: Sequence[str] | None = ()


class RunFolder:
    """Keeps the records of one run, and the folder from others until the block ends.

    Args:
        store: The output folder.
        settings: What was asked for.
        note: Told what became of an earlier run.
        resumes: Whether the command has ``--resume``.

    Raises:
        CnnvizError: Another run writes the folder, or what it holds may be neither continued nor replaced.
    """

    def __init__(
        self, store: Store, settings: RunSettings, note: Callable[[str], None], *, resumes: bool = True
    ) -> None:
        self.store = store
        self.settings = settings
        self.note = note
        self._share = share_of(settings)
        self._header: RunHeader | None = None
        self._log: LineLog | None = None
        self._order = array("q")
        self._sums = array("L")  # checksums of these lines; 0 where an earlier run wrote one
        self._claimed: set[int] = set()
        self._lines = 0
        self._continues = False
        self._check_apart()
        self._lock = FolderLock(store, settings.command)
        try:
            store.gather(RECORDS)
            self._earlier = EarlierRun(store)
            output = settings.output
            if output.overwrite:
                self._earlier.check_overwrite()
            elif output.resume:
                self._earlier.check_options(settings.command, settings.options())
                self._earlier.tell_nothing(note)
            else:
                self._earlier.check_plain(resumes)
        except BaseException:
            self._lock.release()
            raise
        self.computed = self._earlier.in_its_precision(settings)  # which --precision auto chose when it began
        if not self._lock.by_system:
            note(f"{store.root} cannot be locked: start no second run there while this one goes on")

    def _check_apart(self) -> None:
        out = os.path.realpath(self.store.root or ".")
        for text in self.settings.inputs if self.store.is_local else ():
            if os.path.isdir(text) and os.path.realpath(text) == out:
                raise CnnvizError(
                    f"INPUT {text!r} is also the output folder: its own pictures would be explained.",
                    "Name another folder with -o.",
                )

    def begin(self, header: RunHeader, writes: Sequence[str] = ()) -> None:
        """The network is there, and the run will start: write what is known of it.

        Args:
            header: What is known before the first image; written at once, so that an interrupted run can be
                recognised.
            writes: Names that the run will write at its end.

        Raises:
            CnnvizError: The run to continue had another network, or a folder stands where a file will be written.
        """
        output, earlier = self.settings.output, self._earlier
        if output.resume:
            earlier.check_digests(header)
        for name in (RECORDS, REPORT, INDEX, SHARD, "images/any", f"{FOLDER}/any", *writes):
            self.store.check_name(name)
        if earlier.merged:
            options = {**header.options, "resume": False}
            header = dataclasses.replace(header, environment=earlier.merged["environment"], options=options)
        self._header = header = earlier.with_its_choice(header, self.settings)
        self.store.sweep()
        self.store.remove(SHARD)
        self._continues = output.resume and not earlier.is_nothing
        if self._continues:
            self._take_up(header)
        else:
            if output.overwrite:
                earlier.clear(self._remove)
            self.store.remove(RECORDS)
            remove_gallery(self.store)
            self._write_report(header)
        self._log = self.store.open_lines(RECORDS)

    def _take_up(self, header: RunHeader) -> None:
        earlier = self._earlier
        earlier.index()
        self._lines = earlier.lines
        if earlier.unreadable:
            count = earlier.unreadable
            self.note(f"{count} line{'s' * (count > 1)} of {RECORDS} cannot be read: those inputs are done again")
        differing = "" if earlier.merged else earlier.differing_environment(header)
        if differing:
            self.note(f"this run differs from the one that it continues ({differing}): last digits may differ")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError, CnnvizError):  # what ended the block is said
                self._log.close()
        self._lock.release()
        if self._header is None:
            self.store.withdraw()

    def states(self) -> list[dict[str, NDArray[Any]]]:
        """Of a folder that was joined of shares: what a study gathered of each."""
        return states_in(self.store, self._earlier.merged.get("states", ()))

    def takes(self, ref: ImageRef) -> bool:
        """Whether an input is in the run's share of them."""
        return self._share is None or self._share.has(ref)

    def claim(self, ref: ImageRef) -> tuple[ImageRef, FinishedRecord | None]:
        """An input under the name that its files have in this folder, and its record if it was finished before."""
        if not self._continues:
            return ref, None
        name, earlier = self._earlier.claim(ref.uri, ref.name, self._open_log.read)
        if earlier is not None:
            self._claimed.add(earlier.offset)
        return dataclasses.replace(ref, name=name), earlier

    def keep(self, earlier: FinishedRecord) -> None:
        """An input that was finished before has its place here."""
        self._claimed.discard(earlier.offset)
        self._order.append(earlier.offset)
        self._sums.append(0)

    def forget(self, earlier: FinishedRecord) -> None:
        """An input is not what it was: what was made of it goes."""
        self._claimed.discard(earlier.offset)
        self.discard(earlier.record)

    def discard(self, record: Mapping[str, Any]) -> None:
        """Remove the files that a record lists."""
        for name in files_of(record):
            self._remove(name)

    def _remove(self, name: str) -> None:
        # A name that leads out of the folder, or a folder in the place of a file: not ours.
        with contextlib.suppress(CnnvizError):
            self.store.remove(name)

    def check(self) -> None:
        """Raises a CnnvizError when another run has taken the folder."""
        self._lock.check()

    def append(self, record: AnyImage) -> None:
        """Write a finished record. Records arrive in input order."""
        self._lock.check()
        line = to_json(record)
        self._order.append(self._open_log.append(line))
        self._sums.append(zlib.crc32(line.encode() + b"\n"))
        self._lines += 1

    @property
    def _open_log(self) -> LineLog:
        assert self._log is not None, "begin() comes first"
        return self._log

    def records(self) -> Iterator[AnyImage]:
        """The records so far, in input order."""
        return (record for _, record in self._ordered())

    @unbroken("the report is being written")
    def close(self, summary: Mapping[str, Any], title: str, extras: Extras | None = None) -> dict[str, Any]:
        """Write ``report.json`` and ``index.html`` from the records in input order. Returns the summary.

        Raises:
            CnnvizError: The folder is gone, taken over, or what is in it is not what was written.
        """
        self._lock.check()
        header = self._header
        assert header is not None, "begin() comes first"
        summary = {**summary, **self._rest(complete=not {"interrupted", "stopped"} & summary.keys())}
        if self._earlier.merged:  # what failed in a share was tried again, and that is all
            summary = {key: each for key, each in summary.items() if key not in ("resumed", "timed")}
        summary.update(self._times(summary))
        self._open_log.close()
        self._put_in_order()
        more = {} if extras is None else dict(extras.report)
        if extras is not None and extras.files is not None:
            more["files"] = self._files(extras.files, extras.report)
        if extras is not None and extras.figures and extras.index is None:
            more["figures"] = list(extras.figures)
        header = dataclasses.replace(header, summary=summary, extra={**header.extra, **more})
        self._write_report(header)
        self._write_page(header, title, extras or Extras())
        if self._share is not None and not {"interrupted", "stopped"} & summary.keys():
            self.store.write(SHARD, to_json(self._share.to_dict(), indent=1).encode())
        return summary

    def _times(self, summary: Mapping[str, Any]) -> dict[str, float]:
        """Where an earlier run or shares did everything their times stand: those of looking it through tell nothing."""
        report = self._earlier.report
        before = None if report is None else report.get("summary")
        resumed = summary.get("resumed")
        done = sum(summary.get(name, 0) for name in ("explained", "failed", "skipped"))
        if not isinstance(before, dict) or not (self._earlier.merged or (resumed and resumed == done)):
            return {}
        return {name: before[name] for name in ("seconds", "images_per_second", "timed") if before.get(name)}

    def _files(self, own: Iterable[str], report: Mapping[str, Any]) -> list[str]:
        """All files, those that an earlier run wrote among them."""
        of_records = (name for record in self.records() for name in files_of(record))
        return sorted({*own, *files_of(dict(report)), *of_records})

    def _rest(self, complete: bool) -> dict[str, int]:
        """Records of inputs that were not named this time stay; of those that are no longer there they go."""
        kept = gone = 0
        for earlier in list(self._earlier.rest(self._open_log.read, self._claimed)):
            path = str(earlier.record["path"])
            if complete and not is_url(path) and not os.path.lexists(path):
                self.forget(earlier)
                gone += 1
            else:
                self.keep(earlier)
                kept += 1
        if gone == 1:
            self.note("1 input of the earlier run no longer exists: its results were removed")
        elif gone:
            self.note(f"{gone} inputs of the earlier run no longer exist: their results were removed")
        if kept == 1 and complete:
            self.note("1 result of an input that was not named this time stays in the report")
        elif kept and complete:
            self.note(f"{kept} results of inputs that were not named this time stay in the report")
        return {name: count for name, count in (("kept", kept), ("gone", gone)) if count}

    def _put_in_order(self) -> None:
        """Lines of results that were replaced are left out, and those of failed inputs that were mended move up."""
        if len(self._order) == self._lines and all(a < b for a, b in zip(self._order, self._order[1:], strict=False)):
            return
        order, sums, offset = array("q"), array("L"), 0
        with self.store.stream(RECORDS) as fresh:
            for line, _ in self._ordered():
                fresh.write(line)
                order.append(offset)
                sums.append(zlib.crc32(line))
                offset += len(line)
        self._order, self._sums, self._lines = order, sums, len(order)

    def _write_page(self, header: RunHeader, title: str, extras: Extras) -> None:
        if extras.index is not None:
            write_style(self.store)
            with self.store.stream(INDEX) as page:
                for chunk in extras.index:
                    page.write(chunk)
            return
        run = GalleryRun(
            head=Gallery(
                title,
                command_line(self.settings, out=True),
                compare_words.networks(header.model, header.summary),
                headline(header.summary),
            ),
            command=command_line(self.settings, most=None),
            records=self.records(),
            summary=header.summary,
            figures=extras.figures,
            confusion=extras.report.get("confusion"),
            only=self.settings.target.only,
            photo=self._photograph,
        )
        write_gallery(self.store, title, [run])

    def _photograph(self, record: Mapping[str, Any]) -> str | None:
        """The photograph where it lies: it is not copied."""
        path = beside(str(record.get("path")), self.store.root or ".")
        return None if path is None else link(path)

    def abandon(self) -> None:
        """Remove the run's files again: nothing was explained. What an earlier run left stays."""
        self._open_log.close()
        if self._continues:
            return
        for name in (RECORDS, REPORT):
            self.store.remove(name)
        remove_gallery(self.store)
        self._header = None

    def _write_report(self, header: RunHeader) -> None:
        typed = command_line(self.settings, most=None)
        head = to_json({**header.to_dict(), "command_line": typed}, indent=2)
        with self.store.stream(REPORT) as report:
            report.write(head[: head.rindex("\n}")].encode() + b',\n  "images": [')
            separator = b"\n"
            for line in self._checked():
                report.write(separator + b"    " + line.rstrip(b"\n"))
                separator = b",\n"
            report.write(b"\n  ]\n}\n" if separator != b"\n" else b"]\n}\n")

    def _ordered(self) -> Iterator[tuple[bytes, AnyImage]]:
        """Lines and what they say, in input order."""
        return ((line, self._parsed(line)) for line, _ in self._raw())

    def _checked(self) -> Iterator[bytes]:
        """The lines: a report never gets one that is no JSON. Those that this run wrote need not be read again."""
        for line, known in self._raw():
            if zlib.crc32(line) != known:
                self._parsed(line)
            yield line

    def _raw(self) -> Iterator[tuple[bytes, int]]:
        """Lines and their checksums, in input order."""
        if not self._order:
            return
        if self._log is not None and self._log.holds_all:
            for place, known in zip(self._order, self._sums, strict=True):
                yield f"{self._log.read(place)}\n".encode(), known
            return
        stream = self.store.open(RECORDS)
        if stream is None:
            self.store.check_there()
            raise self._changed()
        with stream:
            for offset, known in zip(self._order, self._sums, strict=True):
                stream.seek(offset)
                yield stream.readline(), known

    def _parsed(self, line: bytes) -> AnyImage:
        try:
            record = from_json(line)
        except (ValueError, RecursionError):
            raise self._changed() from None
        if not line.endswith(b"\n") or not isinstance(record, dict):
            raise self._changed()
        return cast("AnyImage", record)

    def _changed(self) -> CnnvizError:
        return CnnvizError(
            f"{RECORDS} in {self.store.root!r} was changed by another program while the run was writing it",
            "Run the command again in a folder of its own.",
        )
