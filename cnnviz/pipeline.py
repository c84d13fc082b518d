"""The one loop: find, decode, run, draw, write.

Decoders, the model's lanes and encoders are threads of their own; the main thread hands images on and writes records
in input order as they are finished. Every queue is bounded, so memory does not grow with the number of inputs.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from cnnviz.drawing import Drawn, Explained, draw
from cnnviz.engine import runtime as rt
from cnnviz.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_FAILED, CnnvizError, ImageError
from cnnviz.explainer import Explainer, Loaded, Row
from cnnviz.io.decode import IMAGE_SUFFIXES, decode
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, read_bytes
from cnnviz.io.writer import ImageFormat, Store
from cnnviz.ledger import REPORT, Ledger
from cnnviz.models.preprocess import prepare
from cnnviz.records import Record
from cnnviz.render.overlay import Style
from cnnviz.settings import RunSettings

# Decoded images that wait for the model or the encoders, in bytes: large photographs shorten the queues.
_WAITING_BYTES = 384 << 20


class Reporter(Protocol):
    """Where the run's progress is told; the command line's console."""

    def start(self, total: int | None) -> None: ...

    def advance(self, record: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class RunResult:
    """What a run came to: its summary, where the report is, the exit code; ``picture`` for ``-o -``."""

    summary: Mapping[str, Any]
    report: str | None
    exit_code: int
    picture: bytes | None = None


@dataclass
class _Counts:
    inputs: int = 0
    explained: int = 0
    failed: int = 0
    passed_over: int = 0
    resumed: int = 0


def run(settings: RunSettings, reporter: Reporter, stdin: BinaryIO | None = None) -> RunResult:
    """Explain every input and write the run's files.

    Args:
        settings: What was asked for.
        reporter: Told about progress.
        stdin: What ``-`` reads.

    Raises:
        CnnvizError: Nothing could be run (exit code 2), or the output folder became unusable.
    """
    total = _count(settings)
    explainer = Explainer(settings, total, reporter.note)
    if settings.output.out == "-":
        return _picture(settings, explainer, stdin)
    limits = settings.draw.limits
    if settings.draw.scale == "run":
        limits = _run_limits(settings, explainer, stdin)
    store = Store(settings.output.out)
    ledger = Ledger(store, explainer.header(), settings.output)
    reporter.start(total)
    loop = _Loop(settings, explainer, _drawn(settings, explainer, store, limits), reporter)
    began = time.perf_counter()
    interrupted = loop.run(ledger, stdin)
    seconds = time.perf_counter() - began
    reporter.finish()
    counts = loop.counts
    if not counts.inputs and not interrupted:
        ledger.abandon()
        over = f" ({counts.passed_over} files are no images)" if counts.passed_over else ""
        raise CnnvizError(f"No images in {', '.join(settings.inputs)}{over}.", "Name image files, or a folder of them.")
    summary = _summary(counts, seconds, explainer, interrupted)
    ledger.close(summary, f"cnnviz {settings.command}")
    code = EXIT_INTERRUPTED if interrupted else EXIT_SOME_FAILED if counts.failed else EXIT_DONE
    return RunResult(summary, os.path.join(settings.output.out, REPORT), code)


def _count(settings: RunSettings) -> int | None:
    """Number of files to look at; None when they come from standard input."""
    if "-" in settings.inputs:
        return None
    found = sum(1 for _ in find_images(settings.inputs))
    return found if settings.limit is None else min(found, settings.limit)


def _summary(counts: _Counts, seconds: float, explainer: Explainer, interrupted: bool) -> dict[str, Any]:
    fresh = counts.inputs - counts.resumed
    summary: dict[str, Any] = {
        "inputs": counts.explained + counts.failed if interrupted else counts.inputs,
        "explained": counts.explained,
        "failed": counts.failed,
        "passed_over": counts.passed_over,
        "seconds": round(seconds, 3),
        "images_per_second": round(fresh / seconds, 2) if seconds > 0 else None,
        **explainer.facts(),
    }
    if interrupted:
        summary["interrupted"] = True
    return summary


def _drawn(settings: RunSettings, explainer: Explainer, store: Store, limits: tuple[float, float] | None) -> Drawn:
    draws = settings.draw
    return Drawn(
        store=store,
        save=frozenset(draws.save),
        style=Style(draws.colormap, draws.alpha, limits),
        picture=ImageFormat(draws.image_format, draws.png_level),
        method=explainer.spec.name,
        signed=explainer.spec.signed,
        layer=explainer.layer_name,
    )


def _run_limits(settings: RunSettings, explainer: Explainer, stdin: BinaryIO | None) -> tuple[float, float]:
    """Limits of ``--scale run``: a first pass over all inputs that computes maps and draws none."""
    if "-" in settings.inputs:
        raise CnnvizError("--scale run reads the inputs twice; standard input can be read once.", "Use a list file.")
    low, high = 0.0, 0.0

    def widen(done: Explained) -> Record:
        nonlocal low, high
        for item in done.maps:
            low, high = min(low, float(item.values.min())), max(high, float(item.values.max()))
        return Record(done.ref.uri, None, None, None)

    loop = _Loop(settings, explainer, widen, None)
    loop.run(None, stdin)
    if explainer.spec.signed:
        high = max(high, -low)
        low = -high
    return (low, high) if high > 0 else (0.0, 1.0)


def _picture(settings: RunSettings, explainer: Explainer, stdin: BinaryIO | None) -> RunResult:
    """``-o -``: one input and one map, as the bytes of a picture."""
    if len(settings.draw.save) != 1:
        raise CnnvizError("-o - writes one picture.", "Say which with --save overlay, heatmap, raw, panel or gradient.")
    store = Store(f"memory://cnnviz-{os.getpid()}")
    record: dict[str, Any] = {}

    class Only:
        def advance(self, row: Mapping[str, Any]) -> None:
            if record:
                raise CnnvizError("-o - takes one input.", "Give one image, or -o FOLDER.")
            record.update(row)

        def start(self, total: int | None) -> None: ...

        def note(self, text: str) -> None: ...

        def finish(self) -> None: ...

    loop = _Loop(settings, explainer, _drawn(settings, explainer, store, settings.draw.limits), Only())
    loop.run(None, stdin)
    if not record:
        raise CnnvizError(f"No images in {', '.join(settings.inputs)}.", "Name one image file.")
    if record["error"]:
        raise CnnvizError(f"{record['path']}: {record['error']['message']}", "Give an image that can be read.")
    kind = settings.draw.save[0]
    names = {row["files"][kind] for row in record["explanations"] if kind in row["files"]}
    if len(names) != 1:
        raise CnnvizError(f"-o - writes one picture; {len(names)} were asked for.", "Ask for one class with --class.")
    summary = _summary(loop.counts, 0.0, explainer, False)
    return RunResult(summary, None, EXIT_DONE, store.read(names.pop()))


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded image, or why there is none; ``passed_over`` for files of a folder that are no images."""

    ref: ImageRef
    loaded: Loaded | None
    failure: Record | None = None
    passed_over: bool = False


class _Loop:
    """The threads and queues of one pass over the inputs.

    Args:
        settings: What was asked for.
        explainer: The model and the method.
        drawn: How to draw, or a function that takes each explained image instead.
        reporter: Told about each record; None for silence.
    """

    def __init__(
        self,
        settings: RunSettings,
        explainer: Explainer,
        drawn: Drawn | Callable[[Explained], Record],
        reporter: Reporter | None,
    ) -> None:
        self.settings = settings
        self.explainer = explainer
        self.reporter = reporter
        self.counts = _Counts()
        self._draw = drawn if callable(drawn) else lambda done: draw(done, drawn)
        self._workers = settings.runtime.workers or max(2, os.cpu_count() or 2)
        self._running: deque[tuple[list[_Waiting], Future[list[Row]] | None]] = deque()
        self._finished: deque[Future[Record] | Record] = deque()
        self._stop = False

    def run(self, ledger: Ledger | None, stdin: BinaryIO | None) -> bool:
        """Go through all inputs. Returns whether Ctrl-C ended it."""
        lanes = self.explainer.lanes
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
                    self._drain(ledger, keep=2 * self.explainer.batch_size)
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
            ahead.append(readers.submit(_decode, ref, self.explainer))
            room = max(2, min((1 + self.explainer.lanes.count) * self.explainer.batch_size, _WAITING_BYTES // size))
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
                ready >= self.explainer.batch_size
                or len(batch) > 4 * self.explainer.batch_size
                or size > _WAITING_BYTES
            ):
                yield batch
                batch, ready, size = [], 0, 0
        if batch:
            yield batch

    def _explain(self, batch: list[_Waiting], models: ThreadPoolExecutor) -> None:
        loaded = [item.loaded for item in batch if item.loaded is not None]
        self._running.append((batch, models.submit(self.explainer.explain, loaded) if loaded else None))

    def _hand_over(self, writers: ThreadPoolExecutor, keep: int) -> None:
        """Give the oldest batches to the encoders until at most ``keep`` are with the model."""
        while len(self._running) > keep:
            batch, future = self._running.popleft()
            results = iter(future.result() if future is not None else [])
            for item in batch:
                result = next(results) if item.loaded is not None else item.failure
                if isinstance(result, Explained):
                    self._finished.append(writers.submit(self._safely, result))
                elif result is not None:
                    self._finished.append(result)

    def _safely(self, done: Explained) -> Record:
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
            first = self._finished[0]
            if isinstance(first, Future):
                if len(self._finished) <= keep and not first.done():
                    return
                record = first.result()
            else:
                record = first
            self._finished.popleft()
            self._count_and_write(record, ledger)

    def _count_and_write(self, record: Record, ledger: Ledger | None) -> None:
        if record.error is None:
            self.counts.explained += 1
        else:
            self.counts.failed += 1
            self._stop = self._stop or self.settings.output.fail_fast
        row = record.to_dict()
        if ledger is not None:
            ledger.append(row)
        if self.reporter is not None:
            self.reporter.advance(row)


def _decode(ref: ImageRef, explainer: Explainer) -> _Waiting:
    """Runs in a decoder thread."""
    try:
        image = decode(read_bytes(ref))
        pixels, geometry = prepare(image.rgb, explainer.preprocess)
        return _Waiting(ref, Loaded(ref, image.rgb, pixels, geometry))
    except ImageError as error:
        named = os.path.splitext(ref.uri)[1].lower() in IMAGE_SUFFIXES
        no_image = error.kind in {"not-an-image", "empty"} and not ref.explicit and not named
        return _Waiting(ref, None, _failed(ref, error.kind, error.message), passed_over=no_image)
    except Exception as error:
        return _Waiting(ref, None, _failed(ref, "unreadable", f"{type(error).__name__}: {error}"))


def _failed(ref: ImageRef, kind: str, message: str, done: Explained | None = None) -> Record:
    height, width = done.rgb.shape[:2] if done is not None else (None, None)
    return Record(ref.uri, width, height, ref.label, error={"type": kind, "message": message})
