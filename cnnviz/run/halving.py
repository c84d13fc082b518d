"""A batch that fails is divided until what failed is one image, which becomes a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, ImageError, first_line
from cnnviz.records import Record
from cnnviz.run.images import DecodedImage, failed

if TYPE_CHECKING:
    from cnnviz.run.prepared_model import PreparedModel

R = TypeVar("R")


class Halving:
    """Work on the batches of a run.

    Args:
        prepared: Its network. Where memory runs out, its batch size is halved for good.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        self._prepared = prepared
        self._told, self._turn = False, Lock()  # batches run side by side

    def guarded(
        self, items: Sequence[DecodedImage], work: Callable[[Sequence[DecodedImage]], list[R]]
    ) -> list[R | Record]:
        """``work`` on a batch, one result an image.

        Raises:
            CnnvizError: A fault of the run, not of an image.
        """
        prepared = self._prepared
        try:
            return list(work(items))
        except Exception as error:
            if isinstance(error, CnnvizError) and not isinstance(error, ImageError):
                raise
            memory, reason = rt.is_out_of_memory(error), first_line(error)
            # The tiles of one image are a batch of their own.
            tiled = memory and prepared.preprocess.view == "tiles" and prepared.batch_size > 1
            if len(items) == 1 and not tiled:
                kind = error.kind if isinstance(error, ImageError) else "out-of-memory" if memory else "model"
                return [failed(items[0], kind, reason)]
        if memory:
            rt.release_memory(prepared.runtime.device)
            prepared.batch_size = max(1, (prepared.batch_size if tiled else len(items)) // 2)
            prepared.note(f"out of memory: the batch is halved to {prepared.batch_size}")
        if tiled:
            return self.guarded(items, work)
        half = (len(items) + 1) // 2
        found = self.guarded(items[:half], work) + self.guarded(items[half:], work)
        if not memory and not any(isinstance(each, Record) for each in found):
            self._tell(len(items), reason)
        return found

    def _tell(self, count: int, reason: str) -> None:
        """What is computed twice takes twice as long, and no record says why."""
        with self._turn:
            first, self._told = not self._told, True
        if first:
            self._prepared.note(f"a batch of {count} failed though none of its images did, and ran in parts: {reason}")
