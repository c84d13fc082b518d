"""Questions: a network is asked something about an image, and gives each answer a score.

answer:red    the score of an answer (the same as class:red)
answer:pred   that of the answer that it gives

It is a classifier of images once the question is fixed: everything that explains a class explains an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnviz.records import AnswerScore, ClassScore
from cnnviz.tasks.base import Askable, Predictions, Words
from cnnviz.tasks.class_selection import TargetSelector
from cnnviz.tasks.classification import Classification
from cnnviz.tasks.pairs import two_names

_KIND = "answer:"


@dataclass(frozen=True, eq=False)
class Answering(Classification):
    """A network that answers.

    Attributes:
        question: What it is asked.
    """

    question: str = ""

    def selector(self, words: Words) -> TargetSelector:
        return TargetSelector(replace(words, targets=[_as_class(target.strip()) for target in words.targets]), self)

    def scored(self, index: int, said: Predictions, place: int) -> AnswerScore:
        found = super().scored(index, said, place)
        return AnswerScore(found.class_index, found.label, found.probability, found.logit, self.question)

    def top(self, said: Predictions, place: int, count: int) -> tuple[ClassScore, ...]:
        """The best answers; a prediction does not repeat the question."""
        return tuple(
            ClassScore(each.class_index, each.label, each.probability, each.logit)
            for each in super().top(said, place, count)
        )

    def askable(self, said: Predictions, place: int, count: int) -> Sequence[Askable]:
        return [replace(each, spec=f"{_KIND}{each.label}") for each in super().askable(said, place, count)]


def _as_class(target: str) -> str:
    """The same target with classes in the place of answers."""
    if target.startswith("diff:") and (sides := two_names(target.partition(":")[2])) is not None:
        quoted = [f'"{_as_class(side)}"' if "," in side else _as_class(side) for side in sides]
        return f"diff:{quoted[0]},{quoted[1]}" if any(side.startswith(_KIND) for side in sides) else target
    return f"class:{target.removeprefix(_KIND)}" if target.startswith(_KIND) else target
