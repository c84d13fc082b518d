"""The threads and queues of one pass over the inputs.

Decoders, the model's lanes and encoders are threads of their own; the main thread hands images on and takes results
in input order as they are finished. Every queue is bounded, so memory does not grow with the number of inputs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from cnnviz.engine import runtime as rt
from cnnviz.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_FAILED, CnnvizError, ImageError
from cnnviz.io.decode import IMAGE_SUFFIXES, decode
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, read_bytes
from cnnviz.ledger import Ledger
from cnnviz.models.preprocess import Preprocess, prepare
from cnnviz.records import Record
from cnnviz.settings import RunSettings
from cnnviz.subject import Loaded

# Decoded images that wait for the model or the encoders, in bytes: large photographs shorten the queues.
_WAITING_BYTES = 384 << 20


class Reporter(Protocol):
    """Where the run's progress is told; the command line's console."""

    def start(self, total: int | None) -> None: ...

    def advance(self, record: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


class Worker(Protocol):
    """What runs the model: maps, or a study."""

    @property
    def lanes(self) -> rt.Lanes: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def preprocess(self) -> Preprocess: ...

    def explain(self, items: Sequence[Loaded]) -> Sequence[Any]:
        """One result an image, or the record of its failure; called in several threads at once."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to: its summary, where the report is, the exit code; ``picture`` for ``-o -``.

    ``sentences`` tell a person what was found.
    """

    summary: Mapping[str, Any]
    report: str | None
    exit_code: int
    picture: bytes | None = None
    sentences: tuple[str, ...] = ()


@dataclass
class Counts:
    """What became of the inputs; of the maps, how many are flat."""

    inputs: int = 0
    explained: int = 0
    failed: int = 0
    passed_over: int = 0
    resumed: int = 0
    maps: int = 0
    flat: int = 0

    def summary(self, seconds: float, interrupted: bool) -> dict[str, Any]:
        """What the report says of the whole run."""
        fresh = self.inputs - self.resumed
        summary: dict[str, Any] = {
            "inputs": self.explained + self.failed if interrupted else self.inputs,
            "explained": self.explained,
            "failed": self.failed,
            "passed_over": self.passed_over,
            "seconds": round(seconds, 3),
            "images_per_second": round(fresh / seconds, 2) if seconds > 0 else None,
        }
        if interrupted:
            summary["interrupted"] = True
        return summary

    def exit_code(self, interrupted: bool) -> int:
        return EXIT_INTERRUPTED if interrupted else EXIT_SOME_FAILED if self.failed else EXIT_DONE

    def no_images(self, settings: RunSettings) -> CnnvizError:
        """What to say when nothing was explained because nothing was found."""
        over = f" ({self.passed_over} files are no images)" if self.passed_over else ""
        where = ", ".join(settings.inputs)
        return CnnvizError(f"No images in {where}{over}.", "Name image files, or a folder of them.")


def count_inputs(settings: RunSettings) -> int | None:
    """Number of files to look at; None when they come from standard input.

    Raises:
        CnnvizError: There are none, which is better known before a network is loaded.
    """
    if "-" in settings.inputs:
        return None
    found = sum(1 for _ in find_images(settings.inputs))
    if not found:
        raise Counts().no_images(settings)
    return found if settings.limit is None else min(found, settings.limit)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded image, or why there is none; ``passed_over`` for files of a folder that are no images."""

    ref: ImageRef
    loaded: Loaded | None
    failure: Record | None = None
    passed_over: bool = False


class Loop:
    """The threads and queues of one pass over the inputs.

    Args:
        settings: What was asked for.
        worker: The model and what is done with it.
        draw: Makes the record of a result, in the encoder threads.
        reporter: Told about each record; None for silence.
        fold: Takes each result whose record is no failure, in input order, in the main thread.
    """

    def __init__(
        self,
        settings: RunSettings,
        worker: Worker,
        draw: Callable[[Any], Record],
        reporter: Reporter | None,
        fold: Callable[[Any], None] | None = None,
    ) -> None:
        self.settings = settings
        self.worker = worker
        self.reporter = reporter
        self.counts = Counts()
        self._draw = draw
        self._fold = fold
        self._workers = settings.runtime.workers or max(2, os.cpu_count() or 2)
        self._running: deque[tuple[list[_Waiting], Future[Sequence[Any]] | None]] = deque()
        self._finished: deque[tuple[Future[Record] | Record, Any]] = deque()
        self._stop = False

    def run(self, ledger: Ledger | None, stdin: BinaryIO | None) -> bool:
        """Go through all inputs. Returns whether Ctrl-C ended it."""
        lanes = self.worker.lanes
        with (
            rt.threads(lanes.threads),
            ThreadPoolExecutor(self._workers, "decode", rt.use_threads, (1,)) as readers,
            ThreadPoolExecutor(lanes.count, "model", rt.use_threads, (lanes.threads,)) as models,
            ThreadPoolExecutor(self._workers, "encode", rt.use_threads, (1,)) as writers,
        ):
            try:
                waiting = self._decoded(self._refs(ledger, stdin), readers)
                for batch in self._batches(waiting):
                    self._explain(batch, models)
                    self._hand_over(writers, keep=lanes.count)
                    self._drain(ledger, keep=2 * self.worker.batch_size)
                    if self._stop:
                        break
                self._hand_over(writers, keep=0)
                self._drain(ledger, keep=0)
            except KeyboardInterrupt:
                readers.shutdown(wait=False, cancel_futures=True)
                models.shutdown(wait=False, cancel_futures=True)
                self._drain(ledger, keep=0)
                return True
            except BaseException:
                for pool in (readers, models, writers):
                    pool.shutdown(wait=False, cancel_futures=True)
                raise
        return False

    def _refs(self, ledger: Ledger | None, stdin: BinaryIO | None) -> Iterator[ImageRef]:
        refs = find_images(self.settings.inputs, SourceOptions(nul=self.settings.nul), stdin)
        for ref in refs:
            if self._stop or (self.settings.limit is not None and self.counts.inputs >= self.settings.limit):
                return
            if ledger is not None and ledger.take(ref.uri):
                self.counts.inputs += 1
                self.counts.explained += 1
                self.counts.resumed += 1
                continue
            yield ref

    def _decoded(self, refs: Iterator[ImageRef], readers: ThreadPoolExecutor) -> Iterator[_Waiting]:
        """Decoded images in input order, a bounded number ahead of the model."""
        ahead: deque[Future[_Waiting]] = deque()
        size = 1
        for ref in refs:
            ahead.append(readers.submit(_decode, ref, self.worker))
            room = max(2, min((1 + self.worker.lanes.count) * self.worker.batch_size, _WAITING_BYTES // size))
            while len(ahead) > room:
                done = ahead.popleft().result()
                size = max(1, done.loaded.rgb.nbytes if done.loaded else size)
                yield done
        while ahead:
            yield ahead.popleft().result()

    def _batches(self, waiting: Iterator[_Waiting]) -> Iterator[list[_Waiting]]:
        """Batches in input order; failures travel in them, so that records keep their order."""
        batch: list[_Waiting] = []
        ready, size = 0, 0
        for item in waiting:
            if item.passed_over:
                self.counts.passed_over += 1
                continue
            if self.settings.limit is not None and self.counts.inputs >= self.settings.limit:
                break
            self.counts.inputs += 1
            batch.append(item)
            ready += item.loaded is not None
            size += item.loaded.rgb.nbytes if item.loaded else 0
            if (
                ready >= self.worker.batch_size
                or len(batch) > 4 * self.worker.batch_size
                or size > _WAITING_BYTES
            ):
                yield batch
                batch, ready, size = [], 0, 0
        if batch:
            yield batch

    def _explain(self, batch: list[_Waiting], models: ThreadPoolExecutor) -> None:
        loaded = [item.loaded for item in batch if item.loaded is not None]
        self._running.append((batch, models.submit(self.worker.explain, loaded) if loaded else None))

    def _hand_over(self, writers: ThreadPoolExecutor, keep: int) -> None:
        """Give the oldest batches to the encoders until at most ``keep`` are with the model."""
        while len(self._running) > keep:
            batch, future = self._running.popleft()
            results = iter(future.result() if future is not None else [])
            for item in batch:
                result = next(results) if item.loaded is not None else item.failure
                if isinstance(result, Record):
                    self._finished.append((result, None))
                elif result is not None:
                    kept = result if self._fold is not None else None
                    self._finished.append((writers.submit(self._safely, result), kept))

    def _safely(self, done: Any) -> Record:
        try:
            return self._draw(done)
        except ImageError as error:
            return _failed(done.ref, error.kind, error.message, done)
        except CnnvizError:
            raise
        except Exception as error:
            # One picture that cannot be drawn must not cost the others of a long run.
            return _failed(done.ref, "internal", f"{type(error).__name__}: {error}", done)

    def _drain(self, ledger: Ledger | None, keep: int) -> None:
        """Write finished records in order until at most ``keep`` are outstanding; then those that are ready."""
        while self._finished:
            first, kept = self._finished[0]
            if isinstance(first, Future):
                if len(self._finished) <= keep and not first.done():
                    return
                record = first.result()
            else:
                record = first
            self._finished.popleft()
            if self._fold is not None and kept is not None and record.error is None:
                self._fold(kept)
            self._count_and_write(record, ledger)

    def _count_and_write(self, record: Record, ledger: Ledger | None) -> None:
        if record.error is None:
            self.counts.explained += 1
        else:
            self.counts.failed += 1
            self._stop = self._stop or self.settings.output.fail_fast
        self.counts.maps += len(record.explanations)
        self.counts.flat += sum(bool(each.scores.get("flat")) for each in record.explanations)
        row = record.to_dict()
        if ledger is not None:
            ledger.append(row)
        if self.reporter is not None:
            self.reporter.advance(row)


def _decode(ref: ImageRef, worker: Worker) -> _Waiting:
    """Runs in a decoder thread."""
    try:
        image = decode(read_bytes(ref))
        pixels, geometry = prepare(image.rgb, worker.preprocess)
        return _Waiting(ref, Loaded(ref, image.rgb, pixels, geometry))
    except ImageError as error:
        named = os.path.splitext(ref.uri)[1].lower() in IMAGE_SUFFIXES
        no_image = error.kind in {"not-an-image", "empty"} and not ref.explicit and not named
        return _Waiting(ref, None, _failed(ref, error.kind, error.message), passed_over=no_image)
    except Exception as error:
        return _Waiting(ref, None, _failed(ref, "unreadable", f"{type(error).__name__}: {error}"))


def _failed(ref: ImageRef, kind: str, message: str, done: Any = None) -> Record:
    height, width = done.rgb.shape[:2] if done is not None else (None, None)
    return Record(ref.uri, width, height, ref.label, error={"type": kind, "message": message})
