"""The run's own files: ``records.jsonl`` while it goes on, ``report.json`` and ``index.html`` at its end.

Records are on disk as soon as an input is finished; what stays in memory is 16 bytes an input.
"""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.errors import CnnvizError
from cnnviz.io.lines import LineLog
from cnnviz.io.locks import FolderLock
from cnnviz.io.writer import Store
from cnnviz.records import RunHeader, parse_line, to_json
from cnnviz.report import html
from cnnviz.settings import FREE_OPTIONS, OutputSettings

RECORDS, REPORT, INDEX = "records.jsonl", "report.json", "index.html"


@dataclass(frozen=True)
class Extras:
    """What a study adds to the run's own files.

    Attributes:
        report: Further keys of ``report.json``.
        figures: ``{"file", "caption"}`` of pictures that stand before the images in ``index.html``.
        index: Chunks of a page that stands in the place of the gallery; None for the gallery.
        files: Names of all files that it wrote.
    """

    report: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Mapping[str, str]] = ()
    index: Iterable[bytes] | None = None
    files: Sequence[str] = ()


class Ledger:
    """Keeps the records of one run, and the folder from others until the block ends.

    Args:
        store: The output folder.
        header: What is known before the first image; written at once, so that an interrupted run can be recognised.
        output: ``--resume`` and ``--overwrite``.

    Raises:
        CnnvizError: The folder holds another run.
    """

    def __init__(self, store: Store, header: RunHeader, output: OutputSettings) -> None:
        self.store = store
        self.header = header
        self._done: dict[str, list[int]] = {}
        self._order = array("q")
        self._log: LineLog | None = None
        self._lock = FolderLock(store, header.command)
        try:
            self._begin(output)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, output: OutputSettings) -> None:
        store = self.store
        if not output.overwrite and not output.resume and not store.is_empty():
            raise CnnvizError(
                f"The output folder {store.root} is not empty.",
                "Use --resume to continue that run, --overwrite to replace it, or -o for another folder.",
            )
        if output.overwrite:
            self._clear()
        elif output.resume:
            self._take_up()
        store.sweep()
        if not store.exists(REPORT):
            self._write_report(self.header)
        self._log = store.open_lines(RECORDS)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.close()
        self._lock.release()

    def _clear(self) -> None:
        for record in self._lines():
            for row in record.get("explanations", ()):
                for name in row.get("files", {}).values():
                    self.store.remove(name)
        for name in self._noted():
            self.store.remove(name)
        for name in (RECORDS, REPORT, INDEX):
            self.store.remove(name)

    def _noted(self) -> list[str]:
        """The files that a study's report lists."""
        try:
            report = json.loads(self.store.read(REPORT) or b"{}")
        except ValueError:
            return []
        names = report.get("files", []) if isinstance(report, dict) else []
        return [name for name in names if isinstance(name, str)]

    def _take_up(self) -> None:
        """Keep the finished records of an earlier run; failed inputs are tried again."""
        before = self.store.read(REPORT)
        if before is None and self.store.read(RECORDS) is None:
            return
        self._check_same_run(before)
        offset = 0
        with self.store.stream(RECORDS) as fresh:
            for line in self._raw_lines():
                record = parse_line(line)
                if record is None or record.get("error"):
                    continue
                fresh.write(line.rstrip(b"\n") + b"\n")
                self._done.setdefault(record["path"], []).append(offset)
                offset += len(line.rstrip(b"\n")) + 1

    def _check_same_run(self, before: bytes | None) -> None:
        try:
            report = json.loads(before or b"")
        except ValueError:
            raise CnnvizError(
                f"{self.store.root} has records but no readable {REPORT}.",
                "Use --overwrite, or -o for another folder.",
            ) from None
        old = {"command": report.get("command"), **report.get("options", {})}
        new = {"command": self.header.command, **json.loads(to_json(self.header.options))}
        for name in new:
            if name not in FREE_OPTIONS and old.get(name) != new[name]:
                raise CnnvizError(
                    f"--resume: the run in {self.store.root} had {name}={old.get(name)!r}, this one has {new[name]!r}.",
                    "Use the same options, --overwrite, or -o for another folder.",
                )

    def take(self, path: str) -> bool:
        """Whether this input was finished by the run that is resumed; its record then keeps its place."""
        offsets = self._done.get(path)
        if not offsets:
            return False
        self._order.append(offsets.pop(0))
        return True

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a finished record. Records arrive in input order."""
        assert self._log is not None
        self._lock.check()
        self._order.append(self._log.append(to_json(record)))

    def records(self) -> Iterator[dict[str, Any]]:
        """The records so far, in input order."""
        return (json.loads(line) for line in self._ordered())

    def close(self, summary: Mapping[str, Any], title: str, extras: Extras | None = None) -> None:
        """Write ``report.json`` and ``index.html`` from the records in input order."""
        assert self._log is not None
        self._lock.check()
        self._log.close()
        more = {} if extras is None else {**extras.report, "files": list(extras.files)}
        self.header = dataclasses.replace(self.header, summary=summary, extra=more)
        self._write_report(self.header)
        if extras is not None and extras.index is not None:
            with self.store.stream(INDEX) as page:
                for chunk in extras.index:
                    page.write(chunk)
            return
        gallery = html.Gallery(
            title=title,
            command=f"cnnviz {self.header.command}",
            model=f"{self.header.model.get('name')} ({self.header.model.get('weights')})",
            summary=[(str(k), str(v)) for k, v in summary.items() if isinstance(v, (int, float, str))],
        )
        with self.store.stream(INDEX) as page:
            page.write(html.begin(gallery).encode("utf-8", "replace"))
            for figure in () if extras is None else extras.figures:
                page.write(html.picture(figure).encode("utf-8", "replace"))
            for line in self._ordered():
                page.write(html.card(json.loads(line)).encode("utf-8", "replace"))
            page.write(html.end().encode())

    def abandon(self) -> None:
        """Remove the run's files again: nothing was explained."""
        if self._log is not None:
            self._log.close()
        for name in (RECORDS, REPORT, INDEX):
            self.store.remove(name)

    def _write_report(self, header: RunHeader) -> None:
        head = to_json(header.to_dict(), indent=2)
        with self.store.stream(REPORT) as report:
            report.write(head[: head.rindex("\n}")].encode() + b',\n  "images": [')
            separator = b"\n"
            for line in self._ordered():
                report.write(separator + b"    " + line.rstrip(b"\n"))
                separator = b",\n"
            report.write(b"\n  ]\n}\n" if separator != b"\n" else b"]\n}\n")

    def _ordered(self) -> Iterator[bytes]:
        if not self._order:
            return
        stream = self.store.open(RECORDS)
        if stream is None:
            return
        with stream:
            for offset in self._order:
                stream.seek(offset)
                yield stream.readline()

    def _raw_lines(self) -> Iterator[bytes]:
        stream = self.store.open(RECORDS)
        if stream is not None:
            with stream:
                yield from stream

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._raw_lines():
            record = parse_line(line)
            if record is not None:
                yield record
