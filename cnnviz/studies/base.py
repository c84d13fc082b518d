"""What a study is: a command that goes through images once, or makes some, and says what the network learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import out_of
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.models.loading.load import LoadedModel
from cnnviz.records import PredictionScore
from cnnviz.registry.params import Options
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage, Figure
from cnnviz.settings import RunSettings
from cnnviz.tasks.base import Task

_Options = TypeVar("_Options", bound=Options)


@dataclass(frozen=True, eq=False)
class Observed:
    """One image of a study.

    Attributes:
        item: The decoded image.
        label: Its ground truth, or None.
        predictions: What the network says of it, best first.
        seen: What the study made of it.
    """

    item: DecodedImage
    label: str | None
    predictions: tuple[PredictionScore, ...]
    seen: Any

    @property
    def ref(self) -> ImageRef:
        return self.item.ref

    @property
    def rgb(self) -> NDArray[np.uint8]:
        return self.item.rgb


@dataclass(frozen=True)
class Findings:
    """What a study came to.

    Attributes:
        summary: Figures that join the run's summary.
        report: Further keys of ``report.json``.
        figures: ``{"file", "caption"}`` of pictures that stand before the images in ``index.html``.
        index: Chunks of a page that stands in the place of the gallery, or what makes them of the summary of the run;
            None for the gallery.
        sentences: What it found in a few lines, for the person who ran it.
        unmeasured: Why it came to nothing although it was asked for something, and what to type next; empty where it
            found what it looks for.
    """

    summary: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    index: Iterable[bytes] | Callable[[Mapping[str, Any]], Iterable[bytes]] | None = None
    sentences: Sequence[str] = ()
    unmeasured: str = ""


class Study(Generic[_Options]):
    """Base of the studies: nothing is seen, nothing is drawn.

    ``observe`` runs in the model's lanes, ``draw`` in the encoder threads, several at once: they keep no state.
    ``fold`` gets the images one by one in input order, whatever the batches were: what it keeps depends on the inputs
    alone.

    Attributes:
        sees_again: Of a study that can be continued: whether images that an earlier run finished are observed and
            folded again, but not drawn, because what is folded is not in their records.

    Args:
        prepared: The network, prepared for ``layers``.
        params: The study's own options, checked.
        store: The output folder. Nothing is written to it before ``draw`` or ``finish``.

    Raises:
        CnnvizError: The request cannot be met.
    """

    sees_again = False

    def __init__(self, prepared: PreparedModel, params: _Options, store: Store) -> None:
        self.prepared = prepared
        self.params = params
        self.store = store

    @classmethod
    def cut(cls, settings: RunSettings, params: _Options) -> Cut:
        """Where the network is cut: at the layers of ``--layer``, or the default layer."""
        return Cut.at_layers(*settings.target.layers)

    @classmethod
    def of_task(cls, task: Task) -> type[Study[_Options]]:
        """The study of a network of this task."""
        return cls

    @classmethod
    def adapt(cls, loaded: LoadedModel, settings: RunSettings, params: _Options) -> LoadedModel:
        """The network that is studied, made from the one that was loaded."""
        return loaded

    def known_label(self, ref: ImageRef) -> str | None:
        """What an image is known to show, as its record has it."""
        return self.prepared.target_selector.truth(ref)

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        """What is seen in a batch: one value an image, on the host."""
        return [None] * len(items)

    def draw(self, done: Observed) -> Mapping[str, Any]:
        """Write this image's files; return what its record says beside the usual.

        ``figures``, a list of ``{"file", "caption"}``, are the pictures that its card shows.
        """
        return {}

    def fold(self, done: Observed) -> None:
        """Take one image into account."""

    def recall(self, record: AnyImage) -> None:
        """Take one image into account that an earlier run finished, from its record."""

    def state(self) -> Mapping[str, NDArray[Any]]:
        """Of a share of the inputs: what was gathered, of which shares are joined; empty where records have it all."""
        return {}

    def take_up(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        """Before all records are recalled: what was gathered of each share."""

    def writes(self) -> Sequence[str]:
        """Names, known before the first image, of what will be written after the last."""
        return ()

    def finish(self) -> Findings:
        """Write the run's own files, after the last image."""
        return Findings()

    def interrupted(self) -> Findings:
        """What there is after Ctrl-C: before the last image, or in :meth:`finish`."""
        return Findings()


def tell_of_lost(prepared: PreparedModel, seen: int, again: int) -> None:
    """Say that images failed when a study went through them for the second time: no record does.

    Args:
        prepared: Who is told.
        seen: Images of the first time.
        again: Those of the second.
    """
    if again < seen:
        lost = out_of(seen - again, seen, "image")
        prepared.note(f"{lost} failed when gone through again: left out")
