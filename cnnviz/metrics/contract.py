"""What a metric gets and gives.

A metric of a map is a function ``score(placed, image, truth, params)``. One that runs the network again is a class,
:class:`ModelMetric`, which scores batches where they are explained. Neither opens files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnviz.engine.open_session import SessionOptions
from cnnviz.engine.perturbed_scores import answers, by_position, chunk_size
from cnnviz.engine.session import ForwardPass, Session, concatenated
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import place
from cnnviz.models.graph.structures import map_tensors
from cnnviz.records import PredictionScore, TargetScore
from cnnviz.registry.params import Options

T = TypeVar("T")
Map = NDArray[np.float32]
Scores = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What a metric says of a map: its figures by name, or several rows of them."""


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """What a metric may know of an image beside its map.

    Attributes:
        uri: As found.
        name: Unique in the run; seeds what is random.
        rgb: [H, W, 3] uint8, upright, uncropped.
        rect: x0, y0, x1, y1 in its pixels: what fills the network's input.
        target: What the map explains.
        predictions: What the network says of the image, best first.
        label: Its known class, or None.
        method: Name of the method that made the map.
        truth_labels: The labels of the truth that mean the explained class (COCO's "dog" for ImageNet's "golden
            retriever"); empty where the truth's vocabulary has none, or where there is no truth.
        counted_labels: Those of them that no likelier class means which is explained too: an object counts once, as the
            likeliest of the classes that it may be. None for all.
        meant_labels: Of the labels of what is marked on the image those that mean some class of the network. None where
            that is not known, which stands for all.
        guesses: The classes of the image by falling score, the first five at least; none of a network without classes
            for the whole image. None for those of ``predictions``.
    """

    uri: str
    name: str
    rgb: NDArray[np.uint8]
    rect: tuple[float, float, float, float]
    target: TargetScore
    predictions: tuple[PredictionScore, ...]
    label: str | None
    method: str
    truth_labels: tuple[str, ...] = ()
    counted_labels: tuple[str, ...] | None = None
    meant_labels: tuple[str, ...] | None = None
    guesses: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class ExplainedNetwork:
    """The network of a run, as a :class:`ModelMetric` gets it before the first image.

    Attributes:
        module: The network itself; it must be left as it is found.
        name: Of the network.
        session: As it is prepared for the run.
        options: How another session of it, or of a changed copy, is opened (``engine.open_session.prepare``): where
            it is cut, which output is explained; on the given modules, not on a copy.
        signed: Whether the values of the method's maps have a sign.
        seed: Of the run.
    """

    module: nn.Module
    name: str
    session: Session
    options: SessionOptions
    signed: bool
    seed: int


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """A batch of images with their maps, where the network can be run again.

    Attributes:
        run: The pass that was explained: normalised pixels, logits, the session.
        maps: For each image, for each of its targets, the map [h, w] in the method's own cells.
        explain: The same maps of another pass over as many images, for the same targets.
        subject: (image, place) -> the pass that this map was made from, ``run`` or one that reads a unit, and what it
            explains, as the target of this image alone.
    """

    run: ForwardPass
    maps: Sequence[Sequence[Map]]
    explain: Callable[[ForwardPass], list[list[Map]]]
    subject: Callable[[int, int], tuple[ForwardPass, Target]]
    _memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def remember(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time: what several metrics ask of these very maps.

        What does not depend on the maps, ``run.remember`` shares among all methods.
        """
        if key not in self._memory:
            self._memory[key] = make()
        value: T = self._memory[key]
        return value

    def on_input(self, image: int, place_: int) -> Map:
        """A map at the size [H, W] of the network's input: bilinear, in its own unit."""
        height, width = self.run.pixels.shape[-2:]
        return place(self.maps[image][place_], (0, 0, width, height), (width, height), signed=False).values

    def scores(self, image: int, place_: int, changed: Tensor, unit: str = "probability") -> Tensor:
        """The score of what a map explains, of changed copies of its image: chunks of one batch, without gradients.

        Args:
            image: Which image of the batch.
            place_: Which of its maps.
            changed: Copies [M, C, H, W], normalised.
            unit: ``logit``, ``probability`` or ``log-probability``.

        Returns:
            [M] float32.

        Raises:
            CnnvizError: The target has no such unit (one of a network's layer, a function of the user's).
        """
        run, explained = self.subject(image, place_)
        target = explained.in_unit(unit)
        if target is None:
            raise CnnvizError(f"The target has no {unit}, which this metric follows.", "Explain a class.")
        parts = changed.split(chunk_size(run))
        output = concatenated([answers(run, image, part) for part in parts])
        return by_position(target, map_tensors(lambda tensor: tensor[None], output))[0]


class ModelMetric(ABC):
    """A metric that runs the network again: insertion and deletion, sensitivity, random weights.

    Made once a run; :meth:`score` is called in the lanes of the model, of which several may run at once.

    Args:
        network: The network of the run.
        params: The metric's options, checked.
    """

    @abstractmethod
    def __init__(self, network: ExplainedNetwork, params: Options) -> None: ...

    @abstractmethod
    def score(self, batch: ExplainedBatch) -> list[list[Scores]]:
        """For each image, for each of its maps, its figures. What a map gets depends on its own image only."""


@dataclass(frozen=True)
class Row:
    """What the summary of a run sees of one map.

    Attributes:
        scores: What the metric gave; None where it could not be asked, for want of the truth that it needs.
        image: Of which input: maps of one image are not independent.
        label: The known class of the image, or None.
        shared: What summarizers keep for the other methods of the run.
    """

    scores: Any
    image: str
    label: str | None
    shared: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class RunSummary:
    """What a metric says of all maps of a run.

    Attributes:
        figures: Plain JSON for the report; None for nothing.
        notes: What people are told.
        remarks: What of it figures do not say, told where they stand in a table of several methods: the metric's title
            (or nothing) and a sentence, which metrics may have in common.
    """

    figures: Any
    notes: tuple[str, ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()

    @classmethod
    def warning(cls, figures: Any, said: Sequence[str], reason: str | None, joined: str = "; ") -> RunSummary:
        """Figures that warn of something: it is told alike of one method and of several.

        Args:
            figures: Plain JSON for the report.
            said: What they warn of.
            reason: What the method says of it, if anything.
            joined: What stands before the reason.
        """
        notes = tuple(f"{each}{joined}{reason}" if reason else each for each in said)
        return cls(figures, notes, tuple(("", note) for note in notes))
