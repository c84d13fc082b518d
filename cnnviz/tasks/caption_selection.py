"""Which words of a text are explained: the words of ``--target`` of a captioning network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, nearest, shown
from cnnviz.io.sources import ImageRef
from cnnviz.tasks.base import DifferenceRequest, Predictions, Request, SeenImage, Selected, Selector, Words
from cnnviz.tasks.class_selection import kind_of
from cnnviz.tasks.elsewhere import KINDS as ELSEWHERE
from cnnviz.tasks.elsewhere import other_request
from cnnviz.tasks.pairs import two_names

if TYPE_CHECKING:
    from cnnviz.tasks.captioning import Captioning, TextPredictions, TextRequest

WHOLE = "caption"
KINDS = ("token", WHOLE, "diff", *ELSEWHERE)
_MOST_DIGITS = 9


class _Nothing(Exception):
    """A target matches nothing in a text; the reason."""


class CaptionSelector(Selector):
    """Turns ``token:N``, ``token:WORD``, ``caption``, their differences and what is read elsewhere into requests.

    Args:
        words: As it was asked; ``caption`` where nothing was.
        task: What the network is for.

    Raises:
        CnnvizError: A spec that is none of these, or a word that is not in the vocabulary.
    """

    def __init__(self, words: Words, task: Captioning) -> None:
        self.task = task
        if words.only is not None:
            raise CnnvizError(f"--only {words.only} is of classes; --task caption has words.", "Leave out --only.")
        if named := [name for name in words.classes if name != "pred"]:
            raise CnnvizError(
                f"--class {named[0]}: --task caption has words, no classes.",
                f"Ask with --target token:{named[0]}, --target token:4 or --target caption.",
            )
        self._asked = [spec.strip() for spec in words.targets] or [WHOLE]
        others = {spec: other_request(spec, words.vectors) for spec in self._asked}
        self._others = {spec: other for spec, other in others.items() if other is not None}
        self.elsewhere = tuple(self._others.values())
        for spec in self._asked:
            if spec not in self._others:
                self._check(spec)

    def _check(self, spec: str) -> None:
        if spec.partition(":")[0] == "diff":
            for side in self._sides(spec):
                self._check(side)
        elif spec != WHOLE:
            self._token(spec)

    def _sides(self, spec: str) -> tuple[str, str]:
        sides = two_names(spec.partition(":")[2])
        if sides is None or WHOLE in sides or sides[0] == sides[1]:
            raise CnnvizError(
                f"--target {shown(spec)}: expected diff:A,B with two words.", "For example diff:token:2,token:7"
            )
        return sides

    def _token(self, spec: str) -> int | str:
        """The number of a word, or the word."""
        kind_of(spec, KINDS)  # says what a word of another kind is for
        kind, _, text = spec.partition(":")
        if kind != "token" or not text.strip():
            hint = (
                f"Did you mean token:{spec}?" if spec in self.task.classes.labels else "For example token:4 or caption."
            )
            raise CnnvizError(f"--target {shown(spec)}: expected token:N, token:WORD or caption.", hint)
        name = text.strip()
        if name.isascii() and name.isdecimal():
            if not name.strip("0") or len(name) > _MOST_DIGITS:
                raise CnnvizError(f"--target {shown(spec)}: words are counted from 1.", "For example token:1")
            return int(name)
        from cnnviz.tasks.captioning import is_mark

        labels = tuple(each for each in self.task.classes.labels if not is_mark(each))
        word = name if name in labels else next((each for each in labels if each.casefold() == name.casefold()), None)
        if word is None:
            more = f" and {len(labels) - 12} more" if len(labels) > 12 else ""
            hint = nearest(name, labels) or f"It has {', '.join(labels[:12])}{more}."
            what = f"{shown(name)} is a mark of the vocabulary and no word" if is_mark(name) else ""
            what = what or f"the vocabulary has no word {shown(name)}"
            raise CnnvizError(f"--target {shown(spec)}: {what}.", hint)
        return word

    @property
    def explains_scores(self) -> bool:
        return len(self._asked) > len(self._others)

    @property
    def beyond_classes(self) -> bool:
        return True

    def requests(self, item: SeenImage, said: Predictions, place: int) -> Selected:
        from cnnviz.tasks.captioning import TextPredictions

        assert isinstance(said, TextPredictions)
        found: list[Request] = []
        unmatched: list[tuple[str, str]] = []
        for spec in self._asked:
            try:
                found += [self._others[spec]] if spec in self._others else self._made(spec, said)
            except _Nothing as error:
                unmatched.append((spec, str(error)))
        if not found:
            raise ImageError("no-target", "; ".join(dict.fromkeys(reason for _, reason in unmatched)))
        return Selected.distinct(found, unmatched)

    def _made(self, spec: str, said: TextPredictions) -> Sequence[Request]:
        from cnnviz.tasks.captioning import TextRequest

        if not said.words:
            raise _Nothing("the network writes nothing under this image")
        if spec == WHOLE:
            whole = TextRequest(spec, said.words, said, True, self.task)
            return [whole, *(TextRequest(f"token:{w.number}", (w,), said, False, self.task) for w in said.words)]
        if spec.partition(":")[0] == "diff":
            first, second = (self._one(side, said) for side in self._sides(spec))
            if first.slug == second.slug:
                raise _Nothing("both sides are the same word")
            return [DifferenceRequest(first, second, spec)]
        return [self._one(spec, said)]

    def _one(self, spec: str, said: TextPredictions) -> TextRequest:
        from cnnviz.tasks.captioning import TextRequest

        asked = self._token(spec)
        for word in said.words:
            if asked in (word.number, word.text):
                return TextRequest(spec, (word,), said, False, self.task)
        count = len(said.words)
        what = f"has only {count} word{'s' * (count != 1)}" if isinstance(asked, int) else f"has no word {asked}"
        raise _Nothing(f"the text {what}: {said.text}")

    def rehearsal(self, output: Tensor) -> list[list[Request]]:
        from cnnviz.tasks.captioning import TextRequest, Word

        said = self.task.reads(output)
        # A probe may get a text without words.
        first = Word(1, 0, int(said.tokens[0, 0]), "probe")
        probe = TextRequest("token:1", said.words[:1] or (first,), said, False, self.task)
        return [[*([probe] if self.explains_scores else []), *self.elsewhere]]

    def truth(self, ref: ImageRef) -> str | None:
        """None: a label names a class, and there is none."""
        return None
