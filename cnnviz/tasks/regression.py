"""Regression: numbers [N, K] that are no class scores, such as an age, a distance, coordinates.

output:K      what raises output K (an index from 0, or its name)
-output:K     what lowers it
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import OutputTarget
from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.io.label_tables import is_index
from cnnviz.io.names import unique_parts
from cnnviz.io.sources import ImageRef
from cnnviz.models.graph.outputs import two_dim
from cnnviz.records import OutputScore, OutputValue
from cnnviz.tasks.base import (
    Askable,
    DifferenceRequest,
    Predictions,
    Request,
    SeenImage,
    Selected,
    Selector,
    Task,
    Words,
)
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_selection import kind_of
from cnnviz.tasks.elsewhere import KINDS as ELSEWHERE
from cnnviz.tasks.elsewhere import other_request
from cnnviz.tasks.pairs import two_names

KINDS = ("output", "class", "diff", *ELSEWHERE)
_MINUS = "-output"


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """A network that gives numbers.

    Attributes:
        classes: The outputs by name.
        score, activation: Of class scores; here only the outputs themselves are explained.
    """

    classes: ClassNames
    score: str = "logit"
    activation: str = "softmax"
    name = "regress"

    def __post_init__(self) -> None:
        if self.score != "logit":
            raise CnnvizError(
                f"--score {self.score}: an output of a regression has no probability.", "Leave out --score."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output."""
        names = enumerate(self.classes.labels)
        return tuple(f"output {index}" if name == f"class {index}" else name for index, name in names)

    def reads(self, output: Tensor) -> Predictions:
        values = two_dim(output.detach()).cpu()
        return Predictions(values, values, tuple(torch.isfinite(values).all(dim=1).tolist()))

    def default_target(self, output: Tensor) -> OutputTarget:
        return OutputTarget(torch.zeros(len(output), dtype=torch.long), torch.ones(len(output)))

    def selector(self, words: Words) -> OutputSelector:
        return OutputSelector(words, self)

    def top(self, said: Predictions, place: int, count: int) -> tuple[OutputValue, ...]:
        """All outputs, in their order: none is better than another."""
        return tuple(
            OutputValue(index, label, float(said.scores[place, index])) for index, label in enumerate(self.labels)
        )

    def askable(self, said: Predictions, place: int, count: int) -> list[Askable]:
        return [
            Askable(f"output:{each.class_index}", each.label, each.class_index, {"value": each.logit})
            for each in self.top(said, place, count)
        ]

    def request(self, text: str, spec: str) -> OutputRequest:
        """The output that an index or a name means.

        Raises:
            CnnvizError: There is none, with near matches.
        """
        name, labels = text.strip(), self.labels
        if is_index(name) and int(name) < len(labels):
            index = int(name)
        elif name in labels:
            index = labels.index(name)
        else:
            known = f"Use 0 to {len(labels) - 1}, or one of {', '.join(labels[:8])}."
            hint = nearest(name, labels) or (known if len(labels) > 1 else "It has one: output:0.")
            raise CnnvizError(f"--target {shown(spec)}: there is no output {shown(name)}.", hint)
        sign = -1 if spec.startswith(f"{_MINUS}:") else 1
        return OutputRequest(index, sign, spec, self)


@dataclass(frozen=True)
class OutputRequest(Request):
    """An output of one image, or its negative."""

    index: int
    sign: int
    spec: str
    task: Regression = field(compare=False, repr=False)

    @property
    def key(self) -> Hashable:
        return "output"

    @property
    def readout(self) -> Readout:
        return Readout.scores()

    @property
    def slug(self) -> str:
        name = unique_parts(self.task.labels)[self.index]
        return f"minus-{name}" if self.sign < 0 else name

    def target(self, requests: Sequence[OutputRequest]) -> OutputTarget:
        indices = torch.tensor([each.index for each in requests])
        return OutputTarget(indices, torch.tensor([float(each.sign) for each in requests]))

    def scored(self, said: Predictions, place: int, output: Any) -> OutputScore:
        label = self.task.labels[self.index]
        return OutputScore(
            spec=self.spec,
            label=f"less {label}" if self.sign < 0 else label,
            score=self.value(output),
            class_index=self.index,
            sign=self.sign,
        )


class OutputSelector(Selector):
    """Turns ``output:K``, ``-output:K``, ``diff:A,B``, units and neurons into requests.

    Raises:
        CnnvizError: There is no such output; or several, and nobody says which.
    """

    def __init__(self, words: Words, task: Regression) -> None:
        self.task = task
        if words.only is not None:
            raise CnnvizError(f"--only {words.only} is of classes; --task regress has none.", "Leave out --only.")
        named = [name for name in words.classes if name != "pred"]
        if named:
            raise CnnvizError(
                f"--class {named[0]}: --task regress has outputs, no classes.",
                "Ask for one with --target output:K, an index or a name.",
            )
        asked = [text.strip() for text in words.targets]
        if not asked and len(task.labels) == 1:
            asked = ["output:0"]
        others = [other_request(spec, words.vectors) for spec in asked]
        self._made_requests = [other or self._made(spec) for spec, other in zip(asked, others, strict=True)]
        self.elsewhere = tuple(other for other in others if other is not None)

    @property
    def _requests(self) -> list[Request]:
        """What was asked for; not refused before it is needed, so that the outputs can be listed."""
        if not self._made_requests:
            raise CnnvizError(
                f"--task regress: the model has {len(self.task.labels)} outputs, and none was asked for.",
                "Say which is explained: --target output:0, or --target output:NAME of "
                f"{', '.join(self.task.labels[:6])}.",
            )
        return self._made_requests

    def _made(self, spec: str) -> Request:
        before, _, rest = spec.partition(":")
        kind = "output" if before == _MINUS else kind_of(spec, KINDS)
        if kind == "diff":
            parts = two_names(rest)
            if parts is None:
                raise CnnvizError(f"--target {shown(spec)}: expected diff:A,B with two outputs.", "Such as diff:0,1.")
            first, second = (self.task.request(part.removeprefix("output:"), spec) for part in parts)
            if first.index == second.index:
                raise CnnvizError(f"--target {shown(spec)}: both are the same output.", "Name two.")
            return DifferenceRequest(first, second, spec)
        return self.task.request(rest if before in (_MINUS, kind) else spec, spec)

    @property
    def explains_scores(self) -> bool:
        return len(self._made_requests) > len(self.elsewhere)

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
