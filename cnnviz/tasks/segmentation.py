"""Segmentation: a score of each class at each position [N, K, h, w], and classes in regions to explain."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.readout import Readout
from cnnviz.engine.region_targets import RegionTarget, dense_logits
from cnnviz.geometry.regions import segments
from cnnviz.records import RegionScore, SegmentScore
from cnnviz.registry.specs import MethodSpec
from cnnviz.tasks.base import Askable, Predictions, Request, Task, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.region_selection import RegionSelector

# What networks call the class of everything that is nothing in particular.
_BACKGROUND = frozenset("background __background__ _background_ bg void unlabeled unlabelled".split())

# Above this correlation a map is the class's own score map.
_TRIVIAL = 0.99


@dataclass(frozen=True, eq=False)
class DensePredictions(Predictions):
    """What a segmentation network said about a batch, on the host.

    ``scores`` are the means of the logits over the positions at which a class is found (over all where it is not), and
    ``shares`` likewise of the probabilities.

    Attributes:
        found: bool [N, K, h, w]: where each class is found; of a softmax where it is the most probable one, of
            sigmoids where its probability is above one half.
        labels: The most probable class at each position [N, h, w], whether or not it is found there.
        areas: The share of the positions at which each class is found [N, K].
    """

    found: Tensor
    labels: Tensor
    areas: Tensor


@dataclass(frozen=True, eq=False)
class Segmentation(Task):
    """A network that gives each class a score at each position.

    Attributes:
        classes: The classes by name.
        score: What is explained of a class: ``logit``, ``probability`` or ``log-probability``.
        activation: How logits become probabilities: ``softmax`` or ``sigmoid``.
    """

    classes: ClassNames
    score: str = "logit"
    activation: str = "softmax"
    name = "segment"

    @property
    def background(self) -> tuple[int, ...]:
        """The classes that stand for nothing in particular, by their names; of one logit what is not its class."""
        labels = self.classes.labels
        rest = {"class 0", f"not {labels[-1]}"} if self.classes.one_logit else set[str]()
        return tuple(
            i for i, label in enumerate(labels) if label.casefold() in _BACKGROUND or (i == 0 and label in rest)
        )

    def reads(self, output: Tensor) -> DensePredictions:
        logits = dense_logits(output.detach())
        labels = logits.argmax(dim=1)
        several = self.activation == "sigmoid" and output.shape[1] > 1
        every = torch.arange(logits.shape[1], device=logits.device)
        found = logits > 0 if several else labels[:, None] == every[None, :, None, None]
        shares = torch.sigmoid(logits) if self.activation == "sigmoid" else torch.softmax(logits, dim=1)
        count = found.sum((2, 3))
        usable = torch.isfinite(logits).flatten(1).all(dim=1)
        means = (_mean_where(logits, found, count), _mean_where(shares, found, count))
        said = rt.fetched((*means, usable, found, labels, count / found[0, 0].numel()))
        return DensePredictions(said[0], said[1], tuple(said[2].tolist()), *said[3:])

    def default_target(self, output: Tensor) -> RegionTarget:
        said = self.reads(output)
        indices = torch.tensor([self.ranked(said, image)[0] for image in range(len(output))])
        return self.target_of(indices, said.found[torch.arange(len(output)), indices].float())

    def target_of(self, indices: Tensor, weights: Tensor) -> RegionTarget:
        """The target of a batch, of a class of each image [N] in a region [N, h, w]."""
        return RegionTarget(indices, weights, self.score, self.activation)

    def ranked(self, said: DensePredictions, place: int) -> list[int]:
        """The classes that are found in an image, by falling area; the background last."""
        areas = said.areas[place]
        order = torch.sort(areas, descending=True, stable=True).indices.tolist()
        there = [index for index in order if float(areas[index]) > 0]
        return sorted(there, key=lambda index: index in self.background)

    def selector(self, words: Words) -> RegionSelector:
        return RegionSelector(words, self)

    def shown(self, said: Predictions, place: int) -> NDArray[np.int64]:
        """The most probable class at each position [h, w]; -1 where none is found."""
        assert isinstance(said, DensePredictions)
        found: NDArray[np.int64] = torch.where(said.found[place].any(dim=0), said.labels[place], -1).numpy()
        return found

    def askable(self, said: Predictions, place: int, count: int) -> list[Askable]:
        """The classes that are found, by area, then the connected segments besides the background, largest first."""
        assert isinstance(said, DensePredictions)
        found = [
            Askable(
                f"class:{score.class_index}",
                score.label,
                score.class_index,
                {"probability": score.probability, "logit": score.logit, "area": score.area},
            )
            for score in self.top(said, place, count)
        ]
        for number, part in enumerate(segments(self.shown(said, place), self.background, count), 1):
            index, area = part.class_index, float(part.cells.mean())
            label = self.classes.labels[index]
            found.append(Askable(f"segment:{number}", label, index, {"area": area}, part.cells))
        return found

    def top(self, said: Predictions, place: int, count: int) -> tuple[SegmentScore, ...]:
        assert isinstance(said, DensePredictions)
        order = sorted(self.ranked(said, place), key=lambda index: -float(said.areas[place, index]))
        return tuple(
            SegmentScore(
                index,
                self.classes.labels[index],
                float(said.shares[place, index]),
                float(said.scores[place, index]),
                float(said.areas[place, index]),
            )
            for index in order[:count]
        )


def class_map_correlation(values: Tensor, scores: Tensor) -> float:
    """Correlation of a map [h, w] with the positive part of a class's scores [H, W], averaged over its cells; 0 where
    either is the same everywhere.
    """
    there = F.interpolate(scores.float()[None, None], tuple(values.shape), mode="area")[0, 0].clamp_min(0).flatten()
    pair = rt.wide(torch.stack([values.to(there).float().flatten(), there]))
    pair = pair - pair.mean(dim=1, keepdim=True)
    norms = pair.norm(dim=1)
    return float(pair[0] @ pair[1] / (norms[0] * norms[1])) if bool((norms > 0).all()) else 0.0


def _mean_where(values: Tensor, where: Tensor, count: Tensor) -> Tensor:
    """Means [N, K] of values [N, K, h, w] over the positions where each is found; over all where it is nowhere."""
    inside = (values * where).sum((2, 3)) / count.clamp_min(1)
    return torch.where(count > 0, inside, values.mean((2, 3)))


@dataclass(frozen=True, eq=False)
class RegionRequest(Request):
    """A class in a region of one image.

    Attributes:
        index: The class.
        weights: [h, w], the share of each position of the output that lies in the region.
        spec, region: As it was asked for.
        slug: What is explained as part of a file name.
        seen: The share of the region that the network saw; None where the region has its place in that.
    """

    index: int
    weights: NDArray[np.float32]
    spec: str
    region: str
    name: str
    task: Segmentation = field(repr=False)
    seen: float | None = None

    @property
    def key(self) -> Hashable:
        return "region", self.weights.shape

    @property
    def readout(self) -> Readout:
        return Readout.scores()

    @property
    def slug(self) -> str:
        return self.name

    @property
    def outline(self) -> NDArray[np.float32] | None:
        return None if self.region == "all" else self.weights

    def target(self, requests: Sequence[RegionRequest]) -> RegionTarget:
        weights = torch.from_numpy(np.stack([each.weights for each in requests]))
        return self.task.target_of(torch.tensor([each.index for each in requests]), weights)

    def facts(self, spec: MethodSpec, values: Tensor, output: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"watched": "mean"} if spec.backward == "0" else {}
        if spec.space == "layer" and spec.class_specific and values.dim() == 2:
            share = class_map_correlation(values, self.target([self]).scores_at(output.detach())[0])
            if share > _TRIVIAL:
                found["trivial"] = True
                found["trivial_reason"] = (
                    f"the map is the score map of {self.task.classes.labels[self.index]} (correlation {share:.3f}): "
                    "what lies behind this layer looks at each position alone; an earlier --layer explains it"
                )
        return found

    def scored(self, said: Predictions, place: int, output: Any) -> RegionScore:
        target = self.target([self])
        logit, share = (float(target.in_unit(unit).watched(output)[0]) for unit in ("logit", "probability"))
        return RegionScore(
            spec=self.spec,
            label=self.task.classes.labels[self.index],
            score=self.value(output),
            class_index=self.index,
            probability=share,
            logit=logit,
            region=self.region,
            region_area=float(self.weights.mean()),
            elements=int((self.weights > 0).sum()),
            region_seen=self.seen,
        )
