"""Which classes are explained for each image: the words of ``--class`` made into class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, nearest, shown
from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.tasks.base import DifferenceRequest, Predictions, Request, SeenImage, Selected, Selector, Words
from cnnviz.tasks.class_names import descending
from cnnviz.tasks.class_words import ClassWords
from cnnviz.tasks.elsewhere import KINDS as ELSEWHERE
from cnnviz.tasks.elsewhere import other_request
from cnnviz.tasks.pairs import two_names

if TYPE_CHECKING:
    from cnnviz.tasks.classification import Classification

KINDS = ("class", "diff", *ELSEWHERE)

# Kinds of targets that other networks have.
_ELSEWHERE = {
    "output": "a network whose outputs are numbers (--task regress)",
    "segment": "a network with scores at positions (segmentation)",
    "box": "a detector",
    "token": "a network that writes (--task caption)",
    "answer": "a network that answers questions (--question TEXT)",
}

# What is explained of an image with these scores by class [K]; None where there is nothing to explain.
_Other = Callable[[Tensor], Request | None]


class TargetSelector(Selector):
    """Turns the ``--class`` and ``--target`` specs into classes, and pairs of classes, for each image.

    Args:
        words: Of ``--class``: ``pred``, ``top:K``, ``all``, ``folder``, ``truth``, ``FILE.csv``, an index or a label;
            the predicted class where nothing is asked for at all. Of ``--target``: ``class:SPEC`` with one of these;
            what is read elsewhere (:mod:`cnnviz.tasks.elsewhere`); or ``diff:A,B`` with two of ``pred``, an index or a
            label, or two of a kind that is read elsewhere.
        task: What the network is for.

    Raises:
        CnnvizError: A spec that is none of these (with near matches), before anything is run.
    """

    def __init__(self, words: Words, task: Classification) -> None:
        self.task, self.classes, self._only = task, task.classes, words.only
        others = [(target.strip(), other_request(target, words.vectors)) for target in words.targets]
        kinds = [("other" if other else kind_of(target, KINDS), target, other) for target, other in others]
        asked = [*words.classes, *(target.removeprefix("class:") for kind, target, _ in kinds if kind == "class")]
        self.words = ClassWords(asked or ([] if words.targets else ["pred"]), task.classes, words.marked)
        self._others = [
            (target, self._difference(target) if other is None else _always(other))
            for kind, target, other in kinds
            if kind != "class"
        ]
        self.elsewhere = tuple(other for _, _, other in kinds if other is not None)

    def check_folders(self, folders: Iterable[str | None]) -> None:
        self.words.check_folders(folders)

    @property
    def explains_scores(self) -> bool:
        return bool(self.words) or len(self._others) > len(self.elsewhere)

    @property
    def beyond_classes(self) -> bool:
        return bool(self._others)

    def _difference(self, target: str) -> _Other:
        parts = two_names(target.partition(":")[2])
        if parts is None:
            raise CnnvizError(
                f"--target {shown(target)}: expected diff:A,B with two classes.",
                "For example --target diff:tabby,281; a label that has a comma goes in quotation marks.",
            )
        first, second = (self._part(name) for name in parts)
        if first == second:
            raise CnnvizError(f"--target {shown(target)}: both are the same class.", "Name two.")

        def between_classes(scores: Tensor) -> Request | None:
            best = int(scores.argmax())
            a, b = (self.task.request(best if part is None else part) for part in (first, second))
            return None if a == b else DifferenceRequest(a, b, target)

        return between_classes

    def _part(self, name: str) -> int | None:
        """One side of a difference: a class; None for the predicted one."""
        # After "class:" there may stand a label that looks like a unit.
        label = name.removeprefix("class:").strip()
        return None if label == "pred" else self.classes.resolve(label)

    def of_classes(self, classes: Sequence[int], logits: Tensor) -> Selected:
        """Everything that is explained of one image, each once: its classes, then what else was asked for.

        A difference of which both sides are the same class for this image is left out.

        Args:
            classes: What :meth:`select` gave for it.
            logits: Its scores by class [K].
        """
        found = [self.task.request(index) for index in classes]
        made = [(spec, other(logits)) for spec, other in self._others]
        unmatched = [(spec, "both sides are the class that it is taken for") for spec, one in made if one is None]
        return Selected.distinct([*found, *(one for _, one in made if one is not None)], unmatched)

    def requests(self, item: SeenImage, said: Predictions, place: int) -> Selected:
        classes = self.select(item.ref, said.scores[place], item.truth)
        found = self.of_classes(classes, said.scores[place])
        if not found.requests:
            message = "it is taken for the class that it is compared with, and nothing else is asked for"
            raise ImageError("no-target", message)
        return found

    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        # As if each class in turn were predicted: a difference is left out where both sides are the same.
        said = torch.eye(len(self.task.classes))[:2]
        first: list[list[Request]] = [[self.task.request(0)]] if self.explains_scores else []
        return [*first, *(list(self.of_classes([], scores).requests) for scores in said)]

    def select(self, ref: ImageRef, logits: Tensor, truth: Truth | None = None) -> list[int]:
        """Class indices for one image, each once, in the order asked.

        Args:
            ref: The image.
            logits: Its scores by class [K].
            truth: What the annotations say of it.

        Raises:
            ImageError: The image has no label, or its label is not a class of this network; or only what is marked on
                it is asked for, and nothing is marked.
        """
        first = [*self.true_classes(ref, logits, truth), int(logits.argmax())] if self._only is not None else []
        found = list(dict.fromkeys([*first, *self.words.indices(ref, truth, descending(logits), logits)]))
        if self.words and not found and not self._others:
            raise ImageError("no-truth", "nothing that --truth marks on this image is a class of the model")
        return found

    def true_classes(self, ref: ImageRef, logits: Tensor, truth: Truth | None = None) -> list[int]:
        """What an image is known to show, as :meth:`ClassWords.true_classes` has it."""
        return self.words.true_classes(ref, logits, truth)

    def truth(self, ref: ImageRef) -> str | None:
        return self.words.truth(ref)


def _always(request: Request) -> _Other:
    return lambda scores: request


def asked_of(words: Words, kinds: Sequence[str]) -> tuple[list[tuple[str, str]], tuple[Request, ...]]:
    """What ``--class`` and ``--target`` ask for as (kind, spec), ``pred`` where they ask for nothing; and what is read
    elsewhere.
    """
    asked = [("class", spec.strip()) for spec in words.classes]
    if not words.classes and not words.targets:
        asked = [("class", "pred")]
    others = []
    for target in map(str.strip, words.targets):
        if (other := other_request(target, words.vectors)) is not None:
            others.append(other)
        else:
            kind = kind_of(target, kinds)
            asked.append((kind, target.removeprefix("class:").strip() if kind == "class" else target))
    return asked, tuple(others)


def kind_of(target: str, kinds: Sequence[str]) -> str:
    """The kind of a target: ``class`` where none is named.

    Raises:
        CnnvizError: It is of a kind that this network has not, or that is not known.
    """
    kind, colon, _ = target.strip().partition(":")
    if colon and kind.isidentifier() and kind not in kinds and kind != "top":
        if kind in _ELSEWHERE:
            raise CnnvizError(
                f"--target {shown(target)}: {kind} is asked of {_ELSEWHERE[kind]}, which this is not.",
                f"Use one of {', '.join(kinds)} or FILE.py:function; --task says what the network is for, where that "
                "was taken wrongly.",
            )
        hint = nearest(kind, (*kinds, *_ELSEWHERE)) or f"Use one of {', '.join(kinds)} or FILE.py:function."
        raise CnnvizError(f"--target {shown(target)}: there is no kind of target {kind!r}.", hint)
    return kind if colon and kind in kinds else "class"
