"""A run that was made before, written again without its network: PyTorch is not imported.

When a run of maps has ended, what its report is made of beside the records is kept in its cache, under the digest of
all that can be known before a network is loaded (:func:`cnnviz.run.circumstances.circumstances`), with the digests of
its images and of the files that the network was read from. Where all of them are as they were and the cache has every
record, the run's folder is written from them by the same code, byte for byte but for times. Whatever differs, or is
missing, is for the run itself to find out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from typing import Any

import cnnviz
from cnnviz.errors import EXIT_DONE, EXIT_POLICY_VIOLATED, CnnvizError, ImageError
from cnnviz.io.cache import ContentCache, cache_limit
from cnnviz.io.digests import file_sha256, fingerprint
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, open_file
from cnnviz.io.store import LOCK, Store
from cnnviz.records import RunHeader, parse_line
from cnnviz.registry.specs import CommandSpec
from cnnviz.report.gallery import FOLDER
from cnnviz.run.circumstances import circumstances, unknown
from cnnviz.run.counting import Counts, RunResult, rate
from cnnviz.run.earlier import INDEX, RECORDS, REPORT
from cnnviz.run.folder import Extras, RunFolder
from cnnviz.run.kept_records import packed, record_of, restored, unpacked
from cnnviz.run.reporters import Reporter
from cnnviz.schema.images import InputFile
from cnnviz.settings import RunSettings

# Beyond it the start of a network is a small part of a repeat.
_MOST_IMAGES = 20_000
# Bytes of records that are held from when they are looked up until they are written.
_HELD_BYTES = 256 << 20
_OWN = frozenset((REPORT, RECORDS, INDEX, LOCK))


@dataclass(frozen=True, eq=False)
class _Known:
    """An unchanged image: its file, and its cached record; it has neither if the file is not an image.

    Attributes:
        key: Of the record.
        content: The same, or None where it is to be read again.
        row: The record itself, of an image that ``--only`` left out.
    """

    ref: ImageRef
    source: InputFile
    key: str | None = None
    content: bytes | None = None
    row: Mapping[str, Any] | None = None


class Repeat:
    """What the cache has of a whole run, and what becomes of it.

    Args:
        settings: What was asked for.
        spec: The entry that runs.
    """

    def __init__(self, settings: RunSettings, spec: CommandSpec) -> None:
        self._settings, self._spec = settings, spec
        self._began, self._turn, self._held = time.time_ns(), threading.Lock(), 0
        self._environment = dict(os.environ)
        folder = settings.output.cache
        self._cache = None if folder is None else ContentCache(folder, cache_limit())
        self._key = None if folder is None else self._circumstances()

    def _circumstances(self) -> str | None:
        return circumstances(self._settings, self._spec, self._environment)

    # Taking -----------------------------------------------------------------------------------------------------------

    def recalled(self, reporter: Reporter) -> RunResult | None:
        """The run, written from the cache; None where that does not have all of it.

        Raises:
            CnnvizError: As a run: its folder cannot be had, or became unusable.
        """
        if self._cache is None or self._key is None or (content := self._cache.get(self._key)) is None:
            return None
        began, found = time.perf_counter(), unpacked(content)
        if found is None or not _is_of_run(*found):
            return None
        head, files = found
        if any(file_sha256(path) != digest for path, digest in head["read"]):
            return None
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2), "repeat") as pool:
            images = self._images(head["images"], head["run_folders"], pool)
            return None if images is None else self._written(head, files, images, (reporter, began, pool))

    def _images(self, known: Sequence[Any], passed: Sequence[str], pool: ThreadPoolExecutor) -> list[_Known] | None:
        """The images, where all are as they were and the cache has them."""
        told: list[str] = []
        refs = list(self._refs(told))
        if told != passed or [list(astuple(ref)) for ref in refs] != [each["ref"] for each in known]:
            return None
        found: list[_Known] = []
        for each in pool.map(self._looked_up, refs, known):
            if each is None:
                return None
            found.append(each)
        return found

    def _refs(self, told: list[str]) -> Iterator[ImageRef]:
        options = SourceOptions(told=told.append, left_out=Counts().leave_out(self._settings))
        return find_images(self._settings.inputs, options)

    def _looked_up(self, ref: ImageRef, known: Mapping[str, Any]) -> _Known | None:
        """Runs in threads: digests and reading leave others their turn."""
        assert self._cache is not None
        try:
            with open_file(ref) as stream:
                source = fingerprint(ref, stream)
        except ImageError:
            return None
        if source["sha256"] != known["sha256"]:
            return None
        key, row = known["key"], known["row"]
        if key is None:
            return _Known(ref, source, row=row)
        content = self._cache.get(key)
        if content is None or record_of(content) is None:
            return None
        with self._turn:
            holds = self._held + len(content) <= _HELD_BYTES
            self._held += len(content) if holds else 0
        return _Known(ref, source, key, content if holds else None)

    def _written(
        self,
        head: Mapping[str, Any],
        files: Mapping[str, bytes],
        images: Sequence[_Known],
        how: tuple[Reporter, float, ThreadPoolExecutor],
    ) -> RunResult:
        settings, (reporter, began, pool), store = self._settings, how, Store(self._settings.output.out)
        header = RunHeader(
            cnnviz=cnnviz.__version__,
            command=settings.command,
            options=settings.options(),
            summary={"inputs": 0, "explained": 0, "failed": 0, "finished": False},
            **head["header"],
        )
        with RunFolder(store, settings, reporter.note) as folder:
            for text in head["notes"]:
                reporter.note(text)
            folder.begin(header, head["writes"])
            reporter.start(len(images))
            for row in pool.map(lambda each: self._restored(each, store), images):
                if row is not None:
                    folder.append(row)
                    reporter.advance(row)
            for name, data in files.items():
                store.write(name, data)
            reporter.finish()
            extras = Extras(head["report"], head["figures"], files=head["files_of_run"])
            summary = _summary(head["summary"], time.perf_counter() - began)
            summary = folder.close(summary, f"cnnviz {settings.command}", extras)
        assert self._cache is not None
        report = os.path.join(settings.output.out, REPORT)
        said = (*head["sentences"], f"from the cache {self._cache.folder}: the whole run, without its network")
        return RunResult(summary, report, head["exit_code"], sentences=said, annotations=tuple(head["annotations"]))

    def _restored(self, each: _Known, store: Store) -> Any:
        """Write an image's files and return its record as a row; None if the file is not an image."""
        if each.key is None:
            return each.row and {**each.row, "path": each.ref.uri, "input": each.source}
        assert self._cache is not None
        content = each.content or self._cache.get(each.key)
        found = None if content is None else record_of(content)
        if found is None:
            raise CnnvizError(
                f"{self._cache.folder} was emptied while a run was taken from it.", "Run it again with --overwrite."
            )
        object.__setattr__(each, "content", None)
        return restored(each.ref.uri, *found, store).to_dict(each.ref.name, each.source)

    # Keeping ----------------------------------------------------------------------------------------------------------

    def keep(self, result: RunResult) -> RunResult:
        """Keep a run that has just ended, where all that it depends on is known, and is as it was when it began.

        Returns the result; one that took all of its images from the cache tells why the network was loaded all the
        same, where the next one will do so too.
        """
        self._keep(result)
        found = result.summary.get("cache")
        if not found or not found["of_images"] or found["images"] < found["of_images"]:
            return result
        why = unknown(self._settings) or result.once
        if why is None:
            return result
        return replace(result, sentences=(*result.sentences, f"the network was loaded all the same: {why}"))

    def _keep(self, result: RunResult) -> None:
        if self._cache is None or self._key is None or (again := result.again) is None:
            return
        images, told = [], list[str]()
        store = Store(self._settings.output.out)
        records = _records(store)
        read = [[path, file_sha256(path)] for path in again["read"]]
        if records is None or not all(digest and self._is_old(path) for path, digest in read):
            return
        for ref in self._refs(told):
            record = records.pop(ref.name, None)
            left_out = record is not None and bool(record.get("skipped"))
            known = {
                "ref": list(astuple(ref)),
                "sha256": file_sha256(ref.uri) if record is None else (record.get("input") or {}).get("sha256"),
                "key": None if record is None or left_out else again["keys"].get(ref.name),
                "row": record if left_out else None,
            }
            is_whole = record is None or left_out or known["key"] is not None
            if known["sha256"] is None or not is_whole:
                return
            images.append(known)
        files = [(name, data) for name in again["written"] if (data := store.read(name)) is not None]
        if records or len(files) < len(again["written"]) or self._circumstances() != self._key:
            return
        head = {name: value for name, value in again.items() if name not in ("keys", "written", "files", "index")}
        more = {"images": images, "read": read, "run_folders": told, "files_of_run": again["files"]}
        self._cache.put(self._key, packed({**head, **more, "annotations": list(result.annotations)}, files))

    def _is_old(self, path: str) -> bool:
        """Whether a file is one that was there before the run began."""
        try:
            return os.stat(path).st_mtime_ns < self._began
        except OSError:
            return False


def _records(store: Store) -> dict[str, Any] | None:
    """The records of a folder by name; None where they are too many, or not all of them can be read."""
    stream, found = store.open(RECORDS), dict[str, Any]()
    if stream is None:
        return None
    with stream:
        for line in stream:
            record = parse_line(line)
            if record is None or len(found) == _MOST_IMAGES:
                return None
            found[str(record["name"])] = record
    return found


_KEYS = frozenset(
    "annotations exit_code figures files_of_run header images notes read report run_folders sentences summary "
    "writes".split()
)


def _is_of_run(head: Mapping[str, Any], files: Mapping[str, bytes]) -> bool:
    """Whether an entry is one that :meth:`Repeat.keep` writes, and has no file that the run itself makes."""
    own = any(name in _OWN or name.startswith((f"{FOLDER}/", "images/")) for name in files)
    return head.keys() >= _KEYS and head["exit_code"] in (EXIT_DONE, EXIT_POLICY_VIOLATED) and not own


def _summary(before: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """That of the run, with the time that it took now and what was in the cache: everything."""
    known = before["cache"]
    cache = {**known, "images": known["of_images"], "answers": known["of_answers"], "run": True}
    fast = rate(known["of_images"], seconds)
    of_all = {key: value for key, value in before.items() if key != "timed"}
    return {**of_all, "seconds": round(seconds, 3), "images_per_second": fast, "cache": cache}
