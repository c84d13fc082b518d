"""The threads and queues of one pass over the inputs.

Decoders, the model's lanes and encoders are threads of their own; the main thread hands images on and takes results
in input order as they are finished. Every queue is bounded, so memory does not grow with the number of inputs.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from cnnviz.engine import runtime as rt
from cnnviz.engine.stopping import Unwanted
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.annotations import Annotations
from cnnviz.io.budget import Budget, Ticket
from cnnviz.io.decode import open_image
from cnnviz.io.digests import fingerprint, is_unchanged
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, is_passed_over, open_file
from cnnviz.records import Record
from cnnviz.run.counting import Counts, Reporter
from cnnviz.run.folder import FinishedRecord, RunFolder
from cnnviz.run.images import DecodedImage, arrived, failed, shown
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage, InputFile

# Bytes of images that are being decoded, or are decoded and wait: for the model, the encoders, or while they are drawn.
_DECODED_BYTES = 384 << 20
# Bytes that drawing takes beside them, and for each pixel unless the result says how many.
_DRAWING_BYTES = 448 << 20
_DRAWING_PIXEL = 16
# Images of which batches of one shape are made.
_GATHERED = 32
# Folders of earlier runs that are told one by one; the summary lists all.
_TOLD = 3

Recall = Callable[[ImageRef, InputFile], Callable[[], Record] | None]


@dataclass(frozen=True)
class Fold:
    """How a study gathers what it sees in all images, in input order, in the main thread.

    Attributes:
        fold: Takes each result whose record is no failure.
        recall: Takes each record that an earlier run finished.
        sees_again: Whether images that an earlier run finished go through the model again, and to ``fold``: what the
            study gathers is not in its records.
    """

    fold: Callable[[Any], None]
    recall: Callable[[AnyImage], None] = lambda record: None
    sees_again: bool = False


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A decoded image, or why there is none; ``passed_over`` for files of a folder that are no images.

    Attributes:
        finished: Its record of the run that is continued.
        replaced: The same, where the image is another one now.
        source: ``input`` of its record.
        recalled: Brings back what an earlier run kept of it in the cache.
    """

    ref: ImageRef
    memory: Ticket
    loaded: DecodedImage | None
    failure: Record | None = None
    passed_over: bool = False
    finished: FinishedRecord | None = None
    replaced: FinishedRecord | None = None
    source: InputFile | None = None
    recalled: Callable[[], Record] | None = None


@dataclass(frozen=True, eq=False)
class _Result:
    """What is written next: a record, or one that is being drawn; None for one that an earlier run wrote.

    ``seen`` is what a study folds.
    """

    item: _Waiting
    record: Future[Record] | Record | None
    seen: Any = None


class Loop:
    """The threads and queues of one pass over the inputs.

    Args:
        prepared: The network of the run, which says of what inputs, how many batches run at once, and how large.
        explain: Makes one result an image of a batch, or the record of its failure, in several threads at once.
        draw: Makes the record of a result, in the encoder threads.
        reporter: Told about each record; None for silence.
        gathering: What a study gathers of all images.
        annotations: What is known of the images; None where nobody asked.
        recall: What brings back the record of an image from the cache, by its file; None where there is
            no cache, and gives None where nothing is kept of the image.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        explain: Callable[[Sequence[DecodedImage]], Sequence[Any]],
        draw: Callable[[Any], Record],
        reporter: Reporter | None = None,
        gathering: Fold | None = None,
        annotations: Annotations | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.settings, self.reporter = prepared.settings, reporter
        self.counts = Counts()
        self._prepared, self._explain, self._draw = prepared, explain, draw
        self._annotations, self._recall_kept = annotations, recall
        self._gathering = gathering
        self._workers = self.settings.runtime.workers or max(2, os.cpu_count() or 2)
        self._running: deque[tuple[list[_Waiting], Future[Sequence[Any]] | None]] = deque()
        self._finished: deque[_Result] = deque()
        self._stop, self._unwanted = False, Unwanted()
        self._decoding, self._drawing = Budget(_DECODED_BYTES), Budget(_DRAWING_BYTES)

    def run(self, run_folder: RunFolder | None, stdin: BinaryIO | None) -> bool:
        """Go through all inputs. Returns whether Ctrl-C ended it."""
        lanes = self._prepared.lanes
        with (
            contextlib.nullcontext() if run_folder is None else run_folder.store.sending(),
            rt.threads(lanes.threads),
            ThreadPoolExecutor(self._workers, "decode", rt.use_threads, (1,)) as readers,
            ThreadPoolExecutor(lanes.count, "model", self._unwanted.heeded(rt.use_threads), (lanes.threads,)) as models,
            ThreadPoolExecutor(self._workers, "encode", rt.use_threads, (1,)) as writers,
            self._decoding,  # the innermost: no decoder waits for room when the threads are joined
        ):
            try:
                waiting = self._decoded(self._refs(run_folder, stdin), readers)
                for batch in self._batches(waiting, run_folder):
                    if batch:
                        self._start(batch, models)
                    self._hand_over(writers, keep=lanes.count if batch else 0)
                    self._drain(run_folder, keep=2 * self._gathered if batch else 0)
                    if self._stop:
                        break
                self._hand_over(writers, keep=0)
                self._drain(run_folder, keep=0)
            except KeyboardInterrupt:
                self._unwanted.set()
                if self.reporter is not None:
                    self.reporter.note("stopping: finished images are written; Ctrl-C again ends it at once")
                readers.shutdown(wait=False, cancel_futures=True)
                models.shutdown(wait=False, cancel_futures=True)
                self._drain(run_folder, keep=0)
                return True
            except BaseException:
                for pool in (readers, models, writers):
                    pool.shutdown(wait=False, cancel_futures=True)
                raise
        return False

    def _refs(
        self, run_folder: RunFolder | None, stdin: BinaryIO | None
    ) -> Iterator[tuple[ImageRef, FinishedRecord | None]]:
        """The inputs, and their records if an earlier run finished them."""
        left_out = self.counts.leave_out(self.settings)
        options = SourceOptions(null=self.settings.null, told=self._pass_over, left_out=left_out)
        for ref in find_images(self.settings.inputs, options, stdin):
            if self._stop or (self.settings.limit is not None and self.counts.inputs >= self.settings.limit):
                return
            if run_folder is not None and not run_folder.takes(ref):
                continue
            yield (ref, None) if run_folder is None else run_folder.claim(ref)

    def _pass_over(self, folder: str) -> None:
        known = self.counts.run_folders
        if folder in known:
            return
        known.append(folder)
        if self.reporter is not None and len(known) <= _TOLD:
            self.reporter.note(f"{folder} is passed over: it is the output folder of a cnnviz run")

    def _decoded(
        self, refs: Iterator[tuple[ImageRef, FinishedRecord | None]], readers: ThreadPoolExecutor
    ) -> Iterator[_Waiting | None]:
        """Decoded images in input order, a bounded number ahead of the model; None where the next has no room."""
        ahead: deque[tuple[Future[_Waiting], Ticket]] = deque()
        room = max(2, (1 + self._prepared.lanes.count) * self._gathered)
        again = self._gathering is not None and self._gathering.sees_again
        for ref, earlier in refs:
            ticket = self._decoding.ticket()
            ahead.append((readers.submit(self._look_at, ref, ticket, earlier, again), ticket))
            while len(ahead) > room:
                yield from self._next(*ahead.popleft())
        while ahead:
            yield from self._next(*ahead.popleft())

    def _look_at(self, ref: ImageRef, memory: Ticket, earlier: FinishedRecord | None, again: bool) -> _Waiting:
        """Runs in a decoder thread: nothing more of an image that an earlier run finished, unless it changed."""
        if earlier is None:
            return self._decode(ref, memory)
        try:
            same = is_unchanged(ref, earlier.input)
        except ImageError:
            same = False
        if same and not again:
            memory.free()
            return _Waiting(ref, memory, None, finished=earlier)
        item = self._decode(ref, memory)
        return replace(item, finished=earlier) if same else replace(item, replaced=earlier)

    def _decode(self, ref: ImageRef, memory: Ticket) -> _Waiting:
        """Runs in a decoder thread. What is decoded holds its memory; what fails gives it back."""
        try:
            with open_file(ref, memory.cancelled) as stream:
                image = open_image(stream)
                place = stream.tell()
                source = fingerprint(ref, stream)
                stream.seek(place)
                kept = None if self._recall_kept is None else self._recall_kept(ref, source)
                if kept is not None:
                    memory.free()
                    return _Waiting(ref, memory, None, source=source, recalled=kept)
                memory.take(image.peak_bytes)
                item = shown(ref, image.decode().rgb, self._prepared.preprocess, self._annotations)
            memory.keep(item.rgb.nbytes + item.pixels.nbytes)
            return _Waiting(ref, memory, item, source=source)
        except CnnvizError as error:
            memory.free()
            if not isinstance(error, ImageError):  # what was asked for cannot be had, of whatever image
                raise
            row = failed(ref, error.kind, error.message)
            return _Waiting(ref, memory, None, row, passed_over=is_passed_over(ref, error))
        except Exception as error:
            memory.free()
            return _Waiting(ref, memory, None, failed(ref, "unreadable", f"{type(error).__name__}: {error}"))

    def _next(self, future: Future[_Waiting], ticket: Ticket) -> Iterator[_Waiting | None]:
        for _ in range(2):
            if self._decoding.wait(future, ticket):
                break
            yield None
        yield future.result()

    def _batches(self, waiting: Iterator[_Waiting | None], run_folder: RunFolder | None) -> Iterator[list[_Waiting]]:
        """Batches in input order; failures travel in them, so that records keep their order.

        An empty batch says that those before it must be finished to make room. Only when the next image has no room
        beside the images of this batch alone does it end early: where depends on their sizes, not on time.
        """
        batch: list[_Waiting] = []
        ready = without_room = 0
        for item in waiting:
            if item is None:
                without_room += 1
                if without_room == 2 and batch:
                    yield batch
                    batch, ready = [], 0
                yield []
                continue
            without_room = 0
            if item.passed_over:
                self.counts.passed_over += 1
                continue
            if self.settings.limit is not None and self.counts.inputs >= self.settings.limit:
                break
            self.counts.inputs += 1
            if item.replaced is not None and run_folder is not None:
                run_folder.forget(item.replaced)
            batch.append(item)
            ready += item.loaded is not None
            if ready >= self._gathered or len(batch) > 4 * self._gathered:
                yield batch
                batch, ready = [], 0
            if item.failure is not None and self.settings.output.fail_fast:
                break
        if batch:
            yield batch

    @property
    def _gathered(self) -> int:
        """Images that are explained together. With ``--view whole`` batches of one shape are made of them: of no more
        images than a batch there would be one or two of each shape."""
        size, total = self._prepared.batch_size, self._prepared.total
        if self._prepared.preprocess.view != "whole":
            return size
        return max(size, _GATHERED if total is None else min(_GATHERED, -(-total // self._prepared.lanes.count)))

    def _start(self, batch: list[_Waiting], models: ThreadPoolExecutor) -> None:
        loaded = [item.loaded for item in batch if item.loaded is not None]
        self._running.append((batch, models.submit(self._explain, loaded) if loaded else None))

    def _hand_over(self, writers: ThreadPoolExecutor, keep: int) -> None:
        """Give the oldest batches to the encoders until at most ``keep`` are with the model."""
        while len(self._running) > keep:
            batch, future = self._running.popleft()
            results = iter(future.result() if future is not None else [])
            for item in batch:
                result = next(results) if item.loaded is not None else item.failure
                if item.finished is not None:
                    self._finished.append(_Result(item, None, result))
                elif item.recalled is not None:
                    self._finished.append(_Result(item, writers.submit(item.recalled)))
                elif isinstance(result, Record):
                    item.memory.free()
                    self._finished.append(_Result(item, result))
                elif result is not None:
                    seen = result if self._gathering is not None else None
                    self._finished.append(_Result(item, self._drawn(result, item, writers), seen))
                else:  # an image that a second pass has no use for
                    item.memory.free()

    def _drawn(self, done: Any, item: _Waiting, writers: ThreadPoolExecutor) -> Future[Record]:
        """The record of a result that is being drawn; also when that is cancelled, its memory is given back."""
        memory = self._drawing.ticket()
        drawn = writers.submit(self._safely, done, memory)
        drawn.add_done_callback(lambda _: memory.free())
        if self._gathering is None:
            drawn.add_done_callback(lambda _: item.memory.free())
        return drawn

    def _safely(self, done: Any, memory: Ticket) -> Record:
        try:
            if hasattr(done, "rgb"):  # what a second pass over the images gathers has nothing to draw
                height, width = done.rgb.shape[:2]
                memory.take(getattr(done, "bytes_a_pixel", _DRAWING_PIXEL) * height * width)
            return self._draw(done)
        except ImageError as error:
            return failed(done, error.kind, error.message)
        except CnnvizError:
            raise
        except Exception as error:
            # One picture that cannot be drawn must not cost the others of a long run.
            return failed(done, "internal", f"{type(error).__name__}: {error}")

    def _drain(self, run_folder: RunFolder | None, keep: int) -> None:
        """Write finished records in order until at most ``keep`` are outstanding; then those that are ready."""
        while self._finished:
            first = self._finished[0]
            record = first.record
            if isinstance(record, Future):
                if len(self._finished) <= keep and not record.done():
                    return
                record = record.result()
            self._finished.popleft()
            if record is None:
                self._recall(first, run_folder)
            else:
                if run_folder is not None:
                    record = arrived(record, first.item.ref, first.item.source, run_folder.store)
                if first.seen is not None and record.error is None and self._gathering is not None:
                    self._gathering.fold(first.seen)
                self._write(record, first.item, run_folder)
            first.item.memory.free()
            if self._stop:
                self._discard(run_folder)

    def _recall(self, result: _Result, run_folder: RunFolder | None) -> None:
        """What an earlier run finished stands."""
        earlier = result.item.finished
        assert earlier is not None
        if self._gathering is not None and self._gathering.sees_again:
            if isinstance(result.seen, Record):  # a network that takes it no longer
                raise CnnvizError(
                    f"{result.item.ref.uri} was finished by the run that is continued, and fails now: "
                    f"{result.seen.reason}",
                    "Use --overwrite to begin again, or -o for another folder.",
                )
            self._gathering.fold(result.seen)
        elif self._gathering is not None:
            self._gathering.recall(earlier.record)
        if run_folder is not None:
            run_folder.keep(earlier)
        self.counts.resumed += 1
        self.counts.count(earlier.record)

    def _write(self, record: Record, item: _Waiting, run_folder: RunFolder | None) -> None:
        row = record.to_dict(item.ref.name, item.source)
        if run_folder is not None:
            run_folder.append(row)
        self.counts.count(row)
        if record.error is not None and self.settings.output.fail_fast:
            self._stop = self.counts.stopped = True
        if self.reporter is not None:
            self.reporter.advance(row)

    def _discard(self, run_folder: RunFolder | None) -> None:
        """Nothing after the failure that --fail-fast stops at: what was made ahead of its turn goes."""
        for _, future in self._running:
            if future is not None:
                future.cancel()
        self._running.clear()
        for result in self._finished:
            if isinstance(result.record, Future) and not result.record.cancel() and run_folder is not None:
                run_folder.discard(result.record.result().to_dict(result.item.ref.name, result.item.source))
        self._finished.clear()
