"""The photographs of a run once more, when it has ended: changed, and shown to the network again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import Truth
from cnnviz.io.annotations import Annotations
from cnnviz.io.decode import open_image
from cnnviz.io.sources import ImageRef, open_file
from cnnviz.maps.prepared_method import PreparedMethod
from cnnviz.maps.remembered import Remembered
from cnnviz.models.preprocess import Geometry, Preprocess, normalize, prepare, resized
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.tasks.base import Predictions, Request
from cnnviz.tasks.classification import Classification
from cnnviz.tasks.segmentation import Segmentation

Picture = NDArray[np.uint8]
Item = TypeVar("Item")
Found = TypeVar("Found")
# Of photographs of a run that wait for its end.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph as a viewer shows it, and what the annotations say of it."""

    rgb: Picture
    truth: Truth | None


class KeptPhotographs:
    """Photographs that are looked at again when the run has ended, as far as they find room. Safe in threads.

    They are kept at the size at which the network is shown them; masks have their own.

    Args:
        preprocess: What the network expects to see.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess, self._turn, self._room = preprocess, threading.Lock(), _KEPT_BYTES
        self._kept: dict[str, Photograph] = {}

    def add(self, name: str, rgb: Picture, truth: Truth | None) -> None:
        """Keep that of a record."""
        if self._room <= 0:
            return
        kept = Photograph(resized(rgb, self._preprocess), None if truth is None else _packed(truth))
        size = kept.rgb.nbytes + sum(mask.nbytes for mask in ({} if kept.truth is None else kept.truth.masks).values())
        with self._turn:
            self._room -= size
            if self._room > 0:
                self._kept[name] = kept

    def get(self, name: str) -> Photograph | None:
        """That of a record; None where it is not kept."""
        kept = self._kept.get(name)
        return kept if kept is None or kept.truth is None else replace(kept, truth=_unpacked(kept.truth))


def _packed(truth: Truth) -> Truth:
    """The same with eight pixels of its masks a byte."""
    return replace(truth, masks={label: np.packbits(mask) for label, mask in truth.masks.items()})  # type: ignore[misc]


def _unpacked(truth: Truth) -> Truth:
    width, height = truth.size
    return replace(
        truth,
        masks={
            label: np.unpackbits(bits.view(np.uint8), count=width * height).reshape(height, width).view(np.bool_)
            for label, bits in truth.masks.items()
        },
    )


class SecondLook:
    """Reads photographs of records again, and runs the network on pictures.

    Args:
        prepared: The network of the run.
        methods: Its methods, and the baselines beside them.
        annotations: What is known of the images; None where nobody asked.
        remembered: The cache of the run, where it has one.
        kept: Photographs of the run, where it kept some.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        methods: Sequence[PreparedMethod],
        annotations: Annotations | None,
        remembered: Remembered | None = None,
        kept: KeptPhotographs | None = None,
    ) -> None:
        self._kept = kept
        self._remembered, self._turn = remembered, threading.Lock()
        self._prepared = prepared
        self._methods = {method.spec.name: method for method in methods}
        self._annotations = annotations
        self.passes = 0

    @property
    def together(self) -> int:
        """How many pictures make a batch."""
        return self._prepared.batch_size

    def tell(self, text: str) -> None:
        """A word to whoever waits."""
        self._prepared.note(text)

    def seconds(self) -> dict[str, float]:
        """What maps and metrics took in the run, by ``maps`` and by metric, in seconds of the threads that ran them."""
        found = {"maps": sum(method.seconds for method in self._methods.values())}
        for method in self._methods.values():
            for name, spent in (method.metrics.seconds if method.metrics is not None else {}).items():
                found[name] = found.get(name, 0.0) + spent
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """The network's classes."""
        return self._prepared.classes.labels

    @property
    def of_classes(self) -> bool:
        """Whether the network has class scores for the whole image."""
        return isinstance(self._prepared.task, Classification)

    @property
    def at_positions(self) -> bool:
        """Whether the network says a class at each of its positions."""
        return isinstance(self._prepared.task, Segmentation)

    def class_of(self, word: str) -> int | None:
        """The class that a person calls so; None where there is none."""
        try:
            return self._prepared.classes.resolve(word)
        except CnnvizError:
            return None

    def photograph(self, record: Mapping[str, Any]) -> Photograph | None:
        """That of a record; None where it can no longer be read."""
        ref = ImageRef(record["path"], record["name"], 0)
        try:
            with open_file(ref) as stream:
                rgb = open_image(stream).decode().rgb
            truth = None
            if self._annotations is not None:
                truth = self._annotations.truth(ref, (rgb.shape[1], rgb.shape[0]))
        except ImageError:
            return None
        return Photograph(rgb, truth)

    def seen(self, record: Mapping[str, Any]) -> Photograph | None:
        """That of a record at the size at which the network is shown it, before it is cropped: :meth:`predict` finds
        nothing to resize. Its truth has the size of the photograph. None where it can no longer be read.
        """
        kept = None if self._kept is None else self._kept.get(str(record["name"]))
        if kept is not None or (whole := self.photograph(record)) is None:
            return kept
        return replace(whole, rgb=resized(whole.rgb, self._prepared.preprocess))

    def labels_of(self, index: int) -> tuple[str, ...]:
        """The labels of the annotations that mean a class."""
        known = self._prepared.truth_classes
        return () if known is None else known.labels_of(index)

    def shown(self, rgb: Picture) -> tuple[Tensor, Geometry]:
        """A picture as the network sees it, uint8 [C, H, W], and where that lies in the picture."""
        return prepare(rgb, self._prepared.preprocess)

    def predict(self, pictures: Sequence[Picture]) -> Predictions:
        """What the network says of pictures."""
        parts = []
        with rt.scope():
            for some in self._batches([self.shown(rgb)[0] for rgb in pictures]):
                parts.append(self._prepared.session.chosen(some))
            return self._prepared.predict(torch.cat([part.detach() for part in parts]))

    def maps(self, method: str, pictures: Sequence[Picture], index: int) -> list[NDArray[np.float32]]:
        """The maps of a method of pictures of one photograph, for one class, in the method's own cells."""
        maker, request = self._methods[method], self._prepared.classification.request(index)
        found: list[NDArray[np.float32]] = []
        with rt.scope():
            for some in self._batches([self.shown(rgb)[0] for rgb in pictures]):
                wanted: list[list[Request]] = [[request] for _ in some]
                found += [own[0] for own in maker.unmeasured(maker.session.forward(some), wanted)]
        return found

    def answered(self, what: Mapping[str, Any], records: Sequence[Mapping[str, Any]], ask: Callable[[], Any]) -> Any:
        """What a question about some images comes to, as plain JSON.

        Args:
            what: The question, with all that the answer depends on beside the network and the images.
            records: Of the images, in order.
            ask: Finds it out.
        """
        before = self.passes

        def asked() -> dict[str, Any]:
            return {"answer": ask(), "passes": self.passes - before}

        names = [str(record["name"]) for record in records]
        found = asked() if self._remembered is None else self._remembered.answered(what, names, asked)
        if not isinstance(found, dict) or found.keys() != {"answer", "passes"}:
            found = asked()  # an entry of the cache that is JSON, and no answer
        # What the answer needs, whether it was found out now or before.
        self.passes = before + int(found["passes"])
        return found["answer"]

    def each(self, work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """What comes of each item, in order; in as many threads as batches run side by side."""
        lanes = self._prepared.lanes
        with (
            rt.threads(lanes.threads),
            ThreadPoolExecutor(lanes.count, "check", rt.use_threads, (lanes.threads,)) as pool,
        ):
            return list(pool.map(work, items))

    def _batches(self, shown: Sequence[Tensor]) -> list[Tensor]:
        """Normalised batches, in order; pictures of other sizes are batches of their own."""
        prepared, found = self._prepared, list[Tensor]()
        some: list[Tensor] = []
        for each in shown:
            if some and (len(some) >= prepared.batch_size or each.shape != some[0].shape):
                found.append(self._batch(some))
                some = []
            some.append(each)
        if some:
            found.append(self._batch(some))
        with self._turn:
            self.passes += len(shown)
        return found

    def _batch(self, some: Sequence[Tensor]) -> Tensor:
        return normalize(torch.stack(list(some)).to(self._prepared.session.device), self._prepared.preprocess)
