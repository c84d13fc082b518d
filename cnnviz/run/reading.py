"""The inputs of a run, decoded by threads of their own, in input order and a bounded number ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import BinaryIO

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.annotations import Annotations
from cnnviz.io.budget import Budget, Ticket
from cnnviz.io.decode import open_image
from cnnviz.io.digests import fingerprint, is_unchanged
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, is_passed_over, open_file
from cnnviz.models.preprocess import Preprocess
from cnnviz.records import Record
from cnnviz.run.counting import Counts
from cnnviz.run.folder import FinishedRecord, RunFolder
from cnnviz.run.images import DecodedImage, failed, shown
from cnnviz.run.reporters import Reporter
from cnnviz.schema.images import InputFile
from cnnviz.settings import RunSettings

# Bytes of images that are being decoded, or are decoded and wait: for the model, the encoders, or while they are drawn.
_DECODED_BYTES = 384 << 20
# Folders of earlier runs that are told one by one; the summary lists all.
_TOLD = 3

Recall = Callable[[ImageRef, InputFile], Callable[[], Record] | None]
"""What brings back the record of an image from the cache, by its file; None where nothing is kept of it."""


@dataclass(frozen=True, eq=False)
class Waiting:
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


class Reading:
    """The inputs of one pass, from what was named to decoded images.

    Args:
        settings: What was asked for.
        preprocess: How the network sees an image.
        counts: Takes in what is left out, and says when the run stops.
        reporter: Told which folders are passed over; None for silence.
        annotations: What is known of the images; None where nobody asked.
        recall: None where there is no cache.

    Attributes:
        budget: Memory for decoded images. Once it is closed nobody waits for room.
        sees_again: Whether images that an earlier run finished are decoded too.
    """

    def __init__(
        self,
        settings: RunSettings,
        preprocess: Preprocess,
        counts: Counts,
        reporter: Reporter | None = None,
        annotations: Annotations | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.budget, self.sees_again = Budget(_DECODED_BYTES), False
        self._settings, self._preprocess, self._counts, self._reporter = settings, preprocess, counts, reporter
        self._annotations, self._recall = annotations, recall

    def images(
        self, run_folder: RunFolder | None, stdin: BinaryIO | None, readers: ThreadPoolExecutor, most: int
    ) -> Iterator[Waiting | None]:
        """Decoded images in input order, up to ``most`` ahead of the model; None where the next has no room."""
        ahead: deque[tuple[Future[Waiting], Ticket]] = deque()
        for ref, earlier in self._refs(run_folder, stdin):
            ticket = self.budget.ticket()
            ahead.append((readers.submit(self._look_at, ref, ticket, earlier), ticket))
            while len(ahead) > most:
                yield from self._next(*ahead.popleft())
        while ahead:
            yield from self._next(*ahead.popleft())

    def _refs(
        self, run_folder: RunFolder | None, stdin: BinaryIO | None
    ) -> Iterator[tuple[ImageRef, FinishedRecord | None]]:
        """The inputs, and their records if an earlier run finished them."""
        left_out = self._counts.leave_out(self._settings)
        options = SourceOptions(null=self._settings.null, told=self._pass_over, left_out=left_out)
        for ref in find_images(self._settings.inputs, options, stdin):
            limit = self._settings.limit
            if self._counts.stopped or (limit is not None and self._counts.inputs >= limit):
                return
            if run_folder is not None and not run_folder.takes(ref):
                continue
            yield (ref, None) if run_folder is None else run_folder.claim(ref)

    def _pass_over(self, folder: str) -> None:
        known = self._counts.run_folders
        if folder in known:
            return
        known.append(folder)
        if self._reporter is not None and len(known) <= _TOLD:
            self._reporter.note(f"{folder} is passed over: it is the output folder of a cnnviz run")

    def _look_at(self, ref: ImageRef, memory: Ticket, earlier: FinishedRecord | None) -> Waiting:
        """Runs in a decoder thread: nothing more of an image that an earlier run finished, unless it changed."""
        if earlier is None:
            return self._decode(ref, memory)
        try:
            same = is_unchanged(ref, earlier.input)
        except ImageError:
            same = False
        if same and not self.sees_again:
            memory.free()
            return Waiting(ref, memory, None, finished=earlier)
        item = self._decode(ref, memory)
        return replace(item, finished=earlier) if same else replace(item, replaced=earlier)

    def _decode(self, ref: ImageRef, memory: Ticket) -> Waiting:
        """Runs in a decoder thread. What is decoded holds its memory; what fails gives it back."""
        try:
            with open_file(ref, memory.cancelled) as stream:
                image = open_image(stream)
                place = stream.tell()
                source = fingerprint(ref, stream)
                stream.seek(place)
                kept = None if self._recall is None else self._recall(ref, source)
                if kept is not None:
                    memory.free()
                    return Waiting(ref, memory, None, source=source, recalled=kept)
                memory.take(image.peak_bytes)
                item = shown(ref, image.decode().rgb, self._preprocess, self._annotations)
            memory.keep(item.rgb.nbytes + item.pixels.nbytes)
            return Waiting(ref, memory, item, source=source)
        except CnnvizError as error:
            memory.free()
            if not isinstance(error, ImageError):  # what was asked for cannot be had, of whatever image
                raise
            row = failed(ref, error.kind, error.message)
            return Waiting(ref, memory, None, row, passed_over=is_passed_over(ref, error))
        except Exception as error:
            memory.free()
            return Waiting(ref, memory, None, failed(ref, "unreadable", f"{type(error).__name__}: {error}"))

    def _next(self, future: Future[Waiting], ticket: Ticket) -> Iterator[Waiting | None]:
        for _ in range(2):
            if self.budget.wait(future, ticket):
                break
            yield None
        yield future.result()
