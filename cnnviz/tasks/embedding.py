"""Embedding: the network's output is a vector [N, D] of each image, and no class scores.

similar:FILE   what makes an image like another one
embedding:K    what raises component K
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.vector_targets import ComponentTarget
from cnnviz.errors import CnnvizError
from cnnviz.io.sources import ImageRef
from cnnviz.models.graph.outputs import two_dim
from cnnviz.records import PredictionScore
from cnnviz.tasks.base import Askable, Predictions, Request, SeenImage, Selected, Selector, Task, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_selection import kind_of
from cnnviz.tasks.elsewhere import KINDS, other_request


@dataclass(frozen=True, eq=False)
class Embedding(Task):
    """A network that gives a vector.

    Attributes:
        classes: A name for each component.
        score, activation: Of class scores; a vector has none.
    """

    classes: ClassNames
    score: str = "logit"
    activation: str = "softmax"
    name = "embed"

    def __post_init__(self) -> None:
        if self.score != "logit":
            raise CnnvizError(f"--score {self.score}: a vector has no probabilities.", "Leave out --score.")

    def reads(self, output: Tensor) -> Predictions:
        values = two_dim(output.detach()).cpu()
        return Predictions(values, values, tuple(torch.isfinite(values).all(dim=1).tolist()))

    def default_target(self, output: Tensor) -> ComponentTarget:
        return ComponentTarget(output.detach().abs().argmax(dim=1).cpu(), Readout.scores())

    def selector(self, words: Words) -> VectorSelector:
        return VectorSelector(words)

    def top(self, said: Predictions, place: int, count: int) -> tuple[PredictionScore, ...]:
        """Nothing: a vector predicts nothing."""
        return ()

    def askable(self, said: Predictions, place: int, count: int) -> list[Askable]:
        """The components that are largest by magnitude."""
        values = said.scores[place]
        best = torch.sort(values.abs(), descending=True, stable=True).indices[:count].tolist()
        return [Askable(f"embedding:{k}", f"component {k}", k, {"value": float(values[k])}) for k in best]


class VectorSelector(Selector):
    """Turns ``similar:FILE``, ``embedding:K``, their differences, units, neurons and functions into requests.

    Raises:
        CnnvizError: A word that means none of these.
    """

    def __init__(self, words: Words) -> None:
        if words.only is not None:
            raise CnnvizError(f"--only {words.only} is of classes; --task embed has none.", "Leave out --only.")
        if named := [name for name in words.classes if name != "pred"]:
            raise CnnvizError(
                f"--class {named[0]}: --task embed has a vector, no classes.",
                "Ask with --target similar:FILE or --target embedding:K.",
            )
        self._made = [self._request(spec, words) for spec in words.targets]
        self.elsewhere = tuple(each for each in self._made if each.readout != Readout.scores())

    def _request(self, spec: str, words: Words) -> Request:
        found = other_request(spec, words.vectors)
        if found is None:
            kind_of(spec, (*KINDS, "diff"))  # says what a word of another kind is for
            raise CnnvizError(
                f"--target {spec.strip()} is nothing that --task embed has.",
                "Ask for similar:FILE, embedding:K, diff:similar:A,similar:B or unit:LAYER:K.",
            )
        return found

    @property
    def _requests(self) -> list[Request]:
        """What was asked for; not refused before it is needed, so that components can be listed."""
        if not self._made:
            raise CnnvizError(
                "--task embed: a vector says nothing by itself, and nothing was asked for.",
                "Compare it with --target similar:FILE, or ask for one number with --target embedding:K.",
            )
        return self._made

    @property
    def explains_scores(self) -> bool:
        return len(self._made) > len(self.elsewhere)

    @property
    def beyond_classes(self) -> bool:
        return True

    def requests(self, item: SeenImage, said: Predictions, place: int) -> Selected:
        return Selected.distinct(self._requests)

    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        return [list(self._requests)]

    def truth(self, ref: ImageRef) -> str | None:
        """None: a label names a class, and there is none."""
        return None
