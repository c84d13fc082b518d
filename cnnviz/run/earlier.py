"""What an output folder holds before a run begins there, and what of it the run may continue."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from cnnviz.errors import CnnvizError, nearest
from cnnviz.io.names import Names
from cnnviz.io.reports import without_images
from cnnviz.io.run_folders import runs_beside
from cnnviz.io.store import LOCK, Store
from cnnviz.io.temporaries import is_temporary
from cnnviz.records import SCHEMA, RunHeader, files_of, parse_line
from cnnviz.report.gallery import FOLDER
from cnnviz.run.option_differences import differences
from cnnviz.settings import AUTO_PRECISION, FREE_OPTIONS, RunSettings
from cnnviz.strict_json import from_json, to_json

if TYPE_CHECKING:
    from cnnviz.schema.images import AnyImage
    from cnnviz.schema.report import AnyReport

RECORDS, REPORT, INDEX = "records.jsonl", "report.json", "index.html"
LINES = "synthesized.jsonl"
"""The images that ``synthesize`` makes from noise, which are no inputs."""
KILLED = "killed-worker"
"""The kind of error of an image that is not tried again: it ended the process that explained it, twice."""
DIGESTS = {
    "weights_sha256": "the weights of the network",
    "source_sha256": "the source code of the network",
    "labels_sha256": "the class names",
}
_NAMES_FILES = re.compile(rb'"files": ?\{ ?"|"(?:file|thumbnail)":')
_ELSE = "Use --overwrite to begin again, or -o for another folder."


@dataclass(frozen=True)
class FinishedRecord:
    """A finished record of the run that is continued.

    Attributes:
        offset: Where its line begins in ``records.jsonl``.
        record: What the line says.
    """

    offset: int
    record: AnyImage

    @property
    def input(self) -> Mapping[str, Any]:
        """Size, time of change and digest of the image as it was; empty where they are not known."""
        found = self.record.get("input")
        return found if isinstance(found, dict) else {}


class EarlierRun:
    """The folder as it is found.

    Attributes:
        report: Its ``report.json`` without images, but for the empty list of a run that has none; None when that is not
            one of ours.
        entries: Names at its top, without what is ours in passing.
        is_nothing: Whether there is nothing to lose: an empty folder, or a run that was killed before its first image.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries = [name for name in store.entries() if name != LOCK and not is_temporary(name)]
        self.report = _report(store) if REPORT in self.entries and store.exists(REPORT) else None
        self.is_nothing = self._is_nothing()
        self.unreadable = 0
        self._names = Names()
        self._offsets: dict[int, list[int]] = {}
        self.lines = 0

    def _is_nothing(self) -> bool:
        if not self.entries:
            return True
        if not set(self.entries) <= {REPORT, RECORDS} or (REPORT in self.entries and self.report is None):
            return False
        begun = self.report is None or (self.report.get("images") == [] and not self.report.get("files"))
        records = self.store.open(RECORDS) if begun else None
        with records or contextlib.nullcontext() as stream:
            return begun and (stream is None or not stream.read(1))

    @property
    def merged(self) -> Mapping[str, Any]:
        """Of a folder that was joined of shares and is concluded now: where these were computed; else empty."""
        return {} if self.report is None else cast("Mapping[str, Any]", self.report).get("merged", {})

    def check_plain(self, resumes: bool) -> None:
        """Raises a CnnvizError unless there is nothing to lose."""
        if self.is_nothing:
            return
        root = self.store.root
        if self.report is None:
            raise CnnvizError(f"The output folder {root} is not empty.", "Name another folder with -o.")
        more = "--resume to continue it, " if resumes else ""
        raise CnnvizError(
            f"The output folder {root} is not empty: it holds a run of cnnviz {self.report.get('command')}.",
            f"Use {more}--overwrite to replace it, or -o for another folder.",
        )

    def check_overwrite(self) -> None:
        """Raises a CnnvizError when files of a run would take the place of somebody else's."""
        if self.report is not None or self.is_nothing:
            return
        for name in (REPORT, RECORDS, INDEX, FOLDER):
            if name in self.entries:
                raise CnnvizError(
                    f"--overwrite: {self.store.root} is not the output folder of a run, and its {name} would be lost.",
                    "Name another folder with -o.",
                )

    def tell_nothing(self, note: Callable[[str], None]) -> None:
        """Tells where there is no run to go on with, of which a folder beside it may be the one that was meant."""
        if not self.is_nothing:
            return
        root = self.store.root
        near = nearest(
            os.path.basename(root.rstrip("/")), runs_beside(root), before=f"-o {os.path.dirname(root) or '.'}/"
        )
        more = near or "-o names the folder of another run."
        note(f"--resume: there is no run to go on with in {root}: one begins there. {more}")

    def check_options(self, command: str, options: Mapping[str, Any]) -> None:
        """Raises a CnnvizError unless this is a run of the same command with the same options, or nothing at all."""
        if self.is_nothing:
            return
        root = self.store.root
        if self.report is None:
            raise CnnvizError(
                f"--resume: {root} is not empty, and is not the output folder of a run.",
                "Name the folder of the run to continue with -o, or an empty one.",
            )
        before = self.report.get("options")
        old = {"command": self.report.get("command"), **(before if isinstance(before, dict) else {})}
        new = {"command": command, **from_json(to_json(options))}
        if others := differences(old, new, FREE_OPTIONS, ("then", "now")):
            raise CnnvizError(
                f"--resume: the run in {root} was begun otherwise: {others}.",
                "Use the same options, --overwrite, or -o for another folder.",
            )

    def check_digests(self, header: RunHeader) -> None:
        """Raises a CnnvizError when what an option names is not what it was."""
        if self.report is None or self.is_nothing:
            return
        root = self.store.root
        model = self.report.get("model")
        old: Mapping[str, object] = model if isinstance(model, dict) else {}
        for key, said in DIGESTS.items():
            if key in old and old[key] != header.model.get(key):
                raise CnnvizError(f"--resume: {said} changed since the run in {root} began.", _ELSE)
        files = self.report.get("option_files_sha256")
        new = header.extra.get("option_files_sha256", {})
        for path, digest in (files if isinstance(files, dict) else {}).items():
            if path in new and new[path] != digest:
                raise CnnvizError(f"--resume: {path} changed since the run in {root} began.", _ELSE)
        limits = header.extra.get("scale_limits")
        if limits is not None and self.report.get("scale_limits") not in (None, from_json(to_json(limits))):
            raise CnnvizError(
                f"--resume: with these inputs --scale run makes a scale that the pictures in {root} do not have.", _ELSE
            )

    def in_its_precision(self, settings: RunSettings) -> RunSettings:
        """The settings of a run that continues this one: what ``--precision auto`` chose for it stands."""
        begun = precision_in(self.report) if settings.output.resume and not self.is_nothing else ""
        if settings.runtime.precision != AUTO_PRECISION or not begun:
            return settings
        return replace(settings, runtime=replace(settings.runtime, precision=begun))

    def with_its_choice(self, header: RunHeader, settings: RunSettings) -> RunHeader:
        """The header of a run with these settings that continues this one in its precision, as it began."""
        known = cast("Mapping[str, Any]", self.report or {}).get("precision_choice")
        if settings.runtime.precision != AUTO_PRECISION or known is None or "precision_choice" in header.extra:
            return header
        options = {**header.options, "precision": AUTO_PRECISION}
        return replace(header, options=options, extra={**header.extra, "precision_choice": known})

    def differing_environment(self, header: RunHeader) -> str:
        """``torch 2.5 then, 2.6 now``, of what may change the last digits of results; empty where nothing differs, or
        the earlier report does not say."""
        known = None if self.report is None else self.report.get("environment")
        if not isinstance(known, dict):
            return ""
        old: Mapping[str, object] = known
        new: Mapping[str, object] = header.environment
        names = ("torch", "torchvision", "timm", "device", "precision", "preparation", "compiled_kernels")
        differing = [name for name in names if name in old and old[name] != new.get(name)]
        return "; ".join(
            f"{name.replace('_', ' ')} {_in_words(old[name])} then, {_in_words(new.get(name))} now"
            for name in differing
        )

    # Its records.

    def index(self) -> None:
        """Read all records once. What stays in memory is about 200 bytes for each."""
        last: dict[int, tuple[int, int, bool]] = {}
        for offset, line in self._raw_lines():
            self.lines += 1
            record = parse_line(line)
            if record is None:
                self.unreadable += 1
                continue
            name = record.get("name", record["path"])
            error = record.get("error")
            # A later line of one name tells of the same input again.
            given_up = isinstance(error, dict) and error.get("type") == KILLED
            last[hash(name)] = (hash(record["path"]), offset, error is not None and not given_up)
            self._names.reserve(name)
        for path, offset, failed in last.values():
            self._offsets.setdefault(path, []).append(~offset if failed else offset)

    def _raw_lines(self) -> Iterator[tuple[int, bytes]]:
        offset = 0
        stream = self.store.open(RECORDS)
        if stream is not None:
            with stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        yield offset, line
                    offset += len(line)

    def claim(self, path: str, name: str, read: Callable[[int], str]) -> tuple[str, FinishedRecord | None]:
        """The output name of an input, and its record if it was finished.

        The name is the one that the input has in the folder already; of a new input the one that is proposed, or the
        nearest free one.

        Args:
            path: Of the input.
            name: That an empty folder would give it.
            read: The line of ``records.jsonl`` at an offset.
        """
        offsets = self._offsets.get(hash(path))
        if offsets:
            offset = offsets.pop(0)
            record = parse_line(read(offset if offset >= 0 else ~offset).encode())
            if record is not None and record["path"] == path:
                return record.get("name", name), None if offset < 0 else FinishedRecord(offset, record)
        return self._names.unique(name), None

    def rest(self, read: Callable[[int], str], returned: Iterable[int]) -> Iterator[FinishedRecord]:
        """The finished records of inputs that were not claimed, or whose claims were returned, in their order."""
        free = [offset for offsets in self._offsets.values() for offset in offsets if offset >= 0]
        for offset in sorted([*free, *returned]):
            record = parse_line(read(offset).encode())
            if record is not None:
                yield FinishedRecord(offset, record)

    def clear(self, remove: Callable[[str], None]) -> None:
        """Remove every file that the folder's records and report list."""
        for file in (RECORDS, LINES):
            stream = self.store.open(file) if file in self.entries else None
            with stream or contextlib.nullcontext(()) as lines:
                for line in lines:
                    # A thousand maps of which nothing was written need not be looked at one by one.
                    for name in files_of(_json(line)) if _NAMES_FILES.search(line) else ():
                        remove(name)
        if self.report is not None:
            remove(LINES)
        names = [] if self.report is None else self.report.get("files", [])
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str):
                remove(name)


def precision_in(report: Any) -> str:
    """The precision of a run by its report, without what of it was computed in float32; empty where it has none."""
    known = (report or {}).get("environment")
    return str(known.get("precision", "")).partition(" ")[0] if isinstance(known, dict) else ""


def _json(data: bytes | None) -> Any:
    try:
        return from_json(data or b"")
    except (ValueError, RecursionError):
        return None


def _report(store: Store) -> AnyReport | None:
    stream = store.open(REPORT)
    if stream is None:
        return None
    with stream:
        report = _json(without_images(stream))
    if not isinstance(report, dict) or not str(report.get("schema", "")).startswith(SCHEMA.split("/")[0]):
        return None
    return cast("AnyReport", report)


def _in_words(value: object) -> str:
    """A value of the environment; of several, or none, a list."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
