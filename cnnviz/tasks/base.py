"""What a network is for: how its output is read, and what can be explained of it.

A task reads what the network says, for people and for the record, and turns what was asked for into requests, one for
each thing that is explained of an image. Requests of the images of a batch that are alike make one target, which costs
one backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import ByImage, DifferenceTarget, Target
from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.models.preprocess import Geometry
from cnnviz.records import DifferenceScore, PredictionScore, TargetScore

if TYPE_CHECKING:
    from cnnviz.registry.specs import MethodSpec


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the network said about a batch, on the host.

    Attributes:
        scores: Logits by class [N, K]; of a network with scores at positions their means.
        shares: Probabilities by class [N, K].
        usable: For each image whether all its logits are finite.
    """

    scores: Tensor
    shares: Tensor
    usable: tuple[bool, ...]

    def said_of(self, place: int, index: int) -> tuple[float, float]:
        """Probability and logit of a class of image ``place``."""
        if place not in self._of_images:
            self._of_images[place] = self.shares[place].tolist(), self.scores[place].tolist()
        shares, scores = self._of_images[place]
        return shares[index], scores[index]

    @cached_property
    def _of_images(self) -> dict[int, tuple[list[float], list[float]]]:
        """Reading a tensor for one class takes as long as reading it for a hundred."""
        return {}


class Request(ABC):
    """One thing that is explained of one image."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Requests of a batch with equal keys make one target."""

    @property
    @abstractmethod
    def readout(self) -> Readout:
        """What of the network it is read from."""

    @property
    @abstractmethod
    def slug(self) -> str:
        """What is explained as part of a file name."""

    @property
    def outline(self) -> NDArray[np.float32] | None:
        """The part of the image that is asked about, as shares of cells [h, w]; None for all of it."""
        return None

    @property
    def box(self) -> Box | None:
        """The box that is explained, in pixels of the photograph; None where it is no box."""
        return None

    def facts(self, spec: MethodSpec, values: Tensor, output: Any) -> dict[str, Any]:
        """What a record says of a map of it.

        Args:
            spec: The method that made it.
            values: The map, [h, w] or [C, H, W].
            output: What the target reads of this image [1, ...].
        """
        return {}

    @abstractmethod
    def target(self, requests: Sequence[Any]) -> Target:
        """The target of a batch: one request per image, all with this key."""

    @abstractmethod
    def scored(self, said: Predictions, place: int, output: Any) -> TargetScore:
        """What the record says of it.

        Args:
            said: The predictions for a batch.
            place: Of the image in it.
            output: What the target reads of this image [1, ...].
        """

    def value(self, output: Any) -> float:
        """The score of one image, of what the target reads of it [1, ...]."""
        return float(self.target([self])(output).detach().float()[0])


@dataclass(frozen=True, eq=False)
class Askable:
    """One thing that may be asked of an image.

    Attributes:
        spec: As ``--target`` takes it.
        label: What people call it.
        class_index: Of its class.
        figures: What the network says of it, by name.
        cells: Of a part of the image where it lies, bool [h, w] over what the network saw; None for all of it.
    """

    spec: str
    label: str
    class_index: int
    figures: Mapping[str, float]
    cells: NDArray[np.bool_] | None = None

    @property
    def kind(self) -> str:
        """What it is: ``class``, ``box``, ``segment`` and so on."""
        return self.spec.partition(":")[0]


class SeenImage(Protocol):
    """An image of a run, and what is known of it; ``shown_size`` are width and height of the network's input."""

    @property
    def ref(self) -> ImageRef: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def truth(self) -> Truth | None: ...

    @property
    def shown_size(self) -> tuple[int, int]: ...


class LabelMeanings(Protocol):
    """Which classes of the network the labels of annotations mean."""

    def labels_of(self, index: int) -> tuple[str, ...]:
        """The labels that mean a class."""

    def of_image(self, truth: Truth | None, logits: Tensor) -> list[int]:
        """The classes of what is marked on an image."""


class Vectors(Protocol):
    """The vectors that the network makes of images, which ``similar:FILE`` compares."""

    @property
    def readout(self) -> Readout:
        """Where they are read: before the classifier, or as the output where that is a vector."""

    def of(self, file: str) -> Tensor:
        """That of a picture, [D].

        Raises:
            CnnvizError: The file is not a picture, or the network makes no vector.
        """


@dataclass(frozen=True)
class Words:
    """What a run is asked to explain, as it was typed.

    Attributes:
        classes: ``--class`` specs.
        targets: ``--target`` specs.
        marked: What the labels of the annotations mean; None where there are none.
        only: ``--only``: then what an image is, and what it is taken for, are explained before all else.
        vectors: Of pictures, for ``similar:FILE``; None where nothing makes them.
    """

    classes: Sequence[str] = ()
    targets: Sequence[str] = ()
    marked: LabelMeanings | None = None
    only: str | None = None
    vectors: Vectors | None = None


@dataclass(frozen=True)
class Selected:
    """What is explained of one image.

    Attributes:
        requests: Each once, in the order asked.
        unmatched: Specs that match nothing in this image, with the reason.
        merged: Specs that mean what another means too, with that one: they share a map.
    """

    requests: Sequence[Request]
    unmatched: Sequence[tuple[str, str]] = field(default=())
    merged: Sequence[tuple[str, str]] = field(default=())

    @property
    def facts(self) -> dict[str, Any]:
        """What the record of the image says of it."""
        found: dict[str, Any] = {}
        if self.unmatched:
            found["unmatched"] = [{"spec": spec, "reason": reason} for spec, reason in self.unmatched]
        if self.merged:
            found["merged"] = [{"spec": spec, "same_as": other} for spec, other in self.merged]
        return found

    @classmethod
    def distinct(cls, requests: Sequence[Request], unmatched: Sequence[tuple[str, str]] = ()) -> Selected:
        """Of requests that would write the same files the first; what two specs both mean is said."""
        by_slug: dict[str, Request] = {}
        merged = []
        for request in requests:
            first = by_slug.setdefault(request.slug, request)
            if first is request:
                continue
            spec, other = (str(getattr(each, "spec", "")) for each in (request, first))
            if spec != other:
                merged.append((spec, other))
        return cls(list(by_slug.values()), unmatched, tuple(dict.fromkeys(merged)))


class Selector(ABC):
    """Turns words into requests, for each image by what the network says of it.

    Attributes:
        elsewhere: What is asked for that is read of something else than the class scores: units and neurons, vectors,
            functions of the whole output.
    """

    elsewhere: Sequence[Request] = ()

    @property
    @abstractmethod
    def explains_scores(self) -> bool:
        """Whether the network's own output is explained, and not what is read elsewhere alone."""

    @property
    @abstractmethod
    def beyond_classes(self) -> bool:
        """Whether anything but a whole image's classes is asked for."""

    @abstractmethod
    def requests(self, item: SeenImage, said: Predictions, place: int) -> Selected:
        """What is explained of image ``place`` of the batch.

        Raises:
            ImageError: Nothing that was asked for is in it.
        """

    @abstractmethod
    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        """Requests like those to come, for a run over one probe with this output, in one list or several."""

    @abstractmethod
    def truth(self, ref: ImageRef) -> str | None:
        """The ground-truth label of an image where the run knows one, by the network's name for it if it has one."""

    def check_folders(self, folders: Iterable[str | None]) -> None:  # noqa: B027  # most ask for none
        """Look at the names of the folders of all images, where the classes of images are asked for by them.

        Raises:
            CnnvizError: None of them names a class.
        """


class Task(ABC):
    """What a network is for."""

    name: str

    def begin(self, pixels: Tensor) -> None:  # noqa: B027  # most tasks need not
        """Look at a batch [N, C, H, W] before it is explained; what is seen of it holds until the next."""

    @abstractmethod
    def reads(self, output: Tensor) -> Predictions:
        """What the network said about a batch, from the output that is explained."""

    @abstractmethod
    def default_target(self, output: Tensor) -> Target:
        """What is explained where nobody says what."""

    @abstractmethod
    def selector(self, words: Words) -> Selector:
        """What turns these words into requests.

        Raises:
            CnnvizError: A word that means nothing, with near matches.
        """

    @abstractmethod
    def top(self, said: Predictions, place: int, count: int) -> tuple[PredictionScore, ...]:
        """The first predictions for one image, best first."""

    def askable(self, said: Predictions, place: int, count: int) -> Sequence[Askable]:
        """What can be asked of one image: its first predictions, and of each kind of part as many at most."""
        found = []
        for score in self.top(said, place, count):
            sure = {} if score.probability is None else {"probability": score.probability}
            figures = {**sure, "logit": score.logit}
            found.append(Askable(f"class:{score.class_index}", score.label, score.class_index, figures))
        return found

    def listed(self, item: SeenImage, said: Predictions, place: int, count: int) -> tuple[PredictionScore, ...]:
        """The predictions that the record of an image lists; what lies somewhere, in pixels of the photograph."""
        return self.top(said, place, count)

    def facts(self, said: Predictions, place: int) -> dict[str, Any]:
        """What the record of an image says beside its predictions."""
        return {}

    def if_nothing(self) -> str:
        """What is said of an image of which nothing can be asked, and what to type then."""
        return "The network finds nothing in this image."

    def shown(self, said: Predictions, place: int) -> NDArray[np.int64] | None:
        """The class at each position of an output that has positions [h, w]; None for others."""
        return None


@dataclass(frozen=True)
class DifferenceRequest(Request):
    """What speaks for one thing rather than for another.

    Attributes:
        first, second: Two classes (of a network with scores at positions each in its region), or two units of one
            layer.
        spec: As it was asked for.

    Raises:
        CnnvizError: The two are read from different outputs.
    """

    first: Request
    second: Request
    spec: str

    def __post_init__(self) -> None:
        if self.first.readout != self.second.readout:
            raise CnnvizError(
                f"--target {self.spec}: a difference is of two classes, or of two units of one layer.",
                "For example diff:tabby,tiger_cat or diff:unit:features.28:5,unit:features.28:7.",
            )

    @property
    def key(self) -> Hashable:
        return "diff", self.first.key, self.second.key

    @property
    def readout(self) -> Readout:
        return self.first.readout

    @property
    def slug(self) -> str:
        return f"{self.first.slug}-minus-{self.second.slug}"

    def target(self, requests: Sequence[DifferenceRequest]) -> DifferenceTarget:
        first = self.first.target([each.first for each in requests])
        second = self.second.target([each.second for each in requests])
        assert isinstance(first, ByImage)
        assert isinstance(second, ByImage)
        return DifferenceTarget(first, second)

    def scored(self, said: Predictions, place: int, output: Any) -> DifferenceScore:
        first, second = (each.scored(said, place, output) for each in (self.first, self.second))
        assert not isinstance(first, DifferenceScore)
        assert not isinstance(second, DifferenceScore)
        score = self.first.value(output) - self.second.value(output)
        label = f"{first.label} rather than {second.label}"
        return DifferenceScore(self.spec, label, score, first, second, self.target([self]).unit)
