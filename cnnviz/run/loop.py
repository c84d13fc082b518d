"""The threads and queues of one pass over the inputs.

Decoders (:mod:`cnnviz.run.reading`), the model's lanes and encoders are threads of their own; the main thread hands
images on and takes results in input order as they are finished. Every queue is bounded, so memory does not grow with
the number of inputs.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from cnnviz.engine import runtime as rt
from cnnviz.engine.stopping import Unwanted, ends_at_once, unbroken
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.annotations import Annotations
from cnnviz.io.budget import Budget, Ticket
from cnnviz.records import Record
from cnnviz.run.counting import Counts
from cnnviz.run.folder import RunFolder
from cnnviz.run.images import DecodedImage, arrived, failed
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.run.reading import Reading, Recall, Waiting
from cnnviz.run.reporters import Reporter
from cnnviz.schema.images import AnyImage

# Bytes that drawing takes beside decoded images, and for each pixel unless the result says how many.
_DRAWING_BYTES = 448 << 20
_DRAWING_PIXEL = 16
# Images of which batches of one shape are made.
_GATHERED = 32
_SENDING = "stopping when what is on its way has arrived"


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
class _Result:
    """What is written next: a record, or one that is being drawn; None for one that an earlier run wrote.

    ``seen`` is what a study folds.
    """

    item: Waiting
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

    Attributes:
        together: Images that are explained together, where that is no batch.
        first_alone: Whether the first input is explained by itself, so that it is soon known how long they take. Not
            the first one that is left to do: what is continued has the batches of what was not interrupted.
    """

    together: int | None = None
    first_alone: bool = False

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
        self._gathering = gathering
        self._reading = Reading(self.settings, prepared.preprocess, self.counts, reporter, annotations, recall)
        self._reading.sees_again = gathering is not None and gathering.sees_again
        self._workers = self.settings.runtime.workers or max(2, os.cpu_count() or 2)
        self._running: deque[tuple[list[Waiting], Future[Sequence[Any]] | None]] = deque()
        self._finished: deque[_Result] = deque()
        self._unwanted, self._drawing = Unwanted(), Budget(_DRAWING_BYTES)

    def run(self, run_folder: RunFolder | None, stdin: BinaryIO | None) -> bool:
        """Go through all inputs. Returns whether Ctrl-C ended it."""
        lanes = self._prepared.lanes
        with (
            contextlib.nullcontext() if run_folder is None else run_folder.store.sending(),
            rt.threads(lanes.threads),
            ThreadPoolExecutor(self._workers, "decode", rt.use_threads, (1,)) as readers,
            ThreadPoolExecutor(lanes.count, "model", self._unwanted.heeded(rt.use_threads), (lanes.threads,)) as models,
            ThreadPoolExecutor(self._workers, "encode", rt.use_threads, (1,)) as writers,
            self._reading.budget,  # the innermost: no decoder waits for room when the threads are joined
        ):
            try:
                ahead = max(2, (1 + lanes.count) * self._gathered)
                waiting = self._reading.images(run_folder, stdin, readers, ahead)
                for batch in self._batches(waiting, run_folder):
                    if batch:
                        self._start(batch, models)
                    self._hand_over(writers, keep=lanes.count if batch else 0)
                    self._drain(run_folder, keep=2 * self._gathered if batch else 0)
                    if self.counts.stopped:
                        break
                self._hand_over(writers, keep=0)
                self._drain(run_folder, keep=0)
            except KeyboardInterrupt:
                readers.shutdown(wait=False, cancel_futures=True)
                self._end_early(run_folder, models, writers)
                return True
            except BaseException:
                for pool in (readers, models, writers):
                    pool.shutdown(wait=False, cancel_futures=True)
                raise
        return False

    def _end_early(self, run_folder: RunFolder | None, models: ThreadPoolExecutor, writers: ThreadPoolExecutor) -> None:
        """After Ctrl-C: batches that are done are written, also those behind one that is given up."""
        self._unwanted.set()
        if self.reporter is not None:
            self.reporter.say(ends_at_once("stopping: finished images are written"))
        models.shutdown(wait=False, cancel_futures=True)
        self._drain(run_folder, keep=0)
        models.shutdown()
        self._running = deque(each for each in self._running if each[1] is None or _succeeded(each[1]))
        self._hand_over(writers, keep=0)
        self._drain(run_folder, keep=0)

    def _batches(self, waiting: Iterator[Waiting | None], run_folder: RunFolder | None) -> Iterator[list[Waiting]]:
        """Batches in input order; failures travel in them, so that records keep their order.

        An empty batch says that those before it must be finished to make room. Only when the next image has no room
        beside the images of this batch alone does it end early: where depends on their sizes, not on time.
        """
        batch: list[Waiting] = []
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
                self.counts.pass_over(item.ref)
                continue
            if self.settings.limit is not None and self.counts.inputs >= self.settings.limit:
                break
            self.counts.inputs += 1
            if item.replaced is not None and run_folder is not None:
                run_folder.forget(item.replaced)
            batch.append(item)
            ready += item.loaded is not None
            alone = self.first_alone and self.counts.inputs == 1 and ready == 1
            if alone or ready >= self._gathered or len(batch) > 4 * self._gathered:
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
        if self.together is not None:
            return self.together
        size, total = self._prepared.batch_size, self._prepared.total
        if self._prepared.preprocess.view != "whole":
            return size
        return max(size, _GATHERED if total is None else min(_GATHERED, -(-total // self._prepared.lanes.count)))

    def _start(self, batch: list[Waiting], models: ThreadPoolExecutor) -> None:
        loaded = [item.loaded for item in batch if item.loaded is not None]
        with unbroken():
            self._running.append((batch, models.submit(self._explain, loaded) if loaded else None))

    def _hand_over(self, writers: ThreadPoolExecutor, keep: int) -> None:
        """Give the oldest batches to the encoders until at most ``keep`` are with the model."""
        while len(self._running) > keep:
            batch, future = self._running[0]
            results = future.result() if future is not None else []
            with unbroken():
                self._running.popleft()
                self._distribute(batch, iter(results), writers)

    def _distribute(self, batch: list[Waiting], results: Iterator[Any], writers: ThreadPoolExecutor) -> None:
        """What becomes of each image of a batch: drawn, written as it is, or left out."""
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

    def _drawn(self, done: Any, item: Waiting, writers: ThreadPoolExecutor) -> Future[Record]:
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
            # Until here it can be begun again after Ctrl-C.
            with unbroken("" if run_folder is None or run_folder.store.is_local else _SENDING):
                self._finished.popleft()
                self._settle(first, record, run_folder)
            if self.counts.stopped:
                self._discard(run_folder)

    def _settle(self, result: _Result, record: Record | None, run_folder: RunFolder | None) -> None:
        """The next record is written, or one that an earlier run wrote takes its place."""
        if record is None:
            self._recall(result, run_folder)
        else:
            if run_folder is not None:
                record = arrived(record, result.item.ref, result.item.source, run_folder.store)
            if result.seen is not None and record.error is None and self._gathering is not None:
                self._gathering.fold(result.seen)
            self._write(record, result.item, run_folder)
        result.item.memory.free()

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

    def _write(self, record: Record, item: Waiting, run_folder: RunFolder | None) -> None:
        row = record.to_dict(item.ref.name, item.source)
        if run_folder is not None:
            run_folder.append(row)
        self.counts.count(row)
        if record.error is not None and self.settings.output.fail_fast:
            self.counts.stopped = True
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


def _succeeded(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
