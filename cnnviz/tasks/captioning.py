"""Captioning: the network writes a text under an image, word by word, and its words are explained.

token:4     the fourth word of the text
token:dog   the first time that the word stands in it
caption     the whole text, the sum of its words' scores; and each word by itself

The text is written once, for the image as it is, and given to the network from then on: the score of a word is that
after the words before it, also where a method changes the image. Entries of the vocabulary in angle or square brackets
(``<end>``, ``[PAD]``) are marks and no words.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnnviz.engine.readout import Readout
from cnnviz.engine.text_targets import TextTarget
from cnnviz.io.names import safe_component
from cnnviz.models.loading.given import Given, write
from cnnviz.records import CaptionScore, TokenScore, WordScore
from cnnviz.tasks.base import Askable, Predictions, Request, Task, Words
from cnnviz.tasks.caption_selection import CaptionSelector
from cnnviz.tasks.class_names import ClassNames


@dataclass(frozen=True)
class Word:
    """A word of a text: its place among the words from 1, the step at which it was written, its token id and itself."""

    number: int
    step: int
    token: int
    text: str


@dataclass(frozen=True, eq=False)
class TextPredictions(Predictions):
    """What a captioning network wrote under an image; ``scores`` are the logits of its tokens [1, T], ``shares`` their
    probabilities.

    Attributes:
        tokens: [1, T].
        words: Those of them that are words.
    """

    tokens: Tensor
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, eq=False)
class Captioning(Task):
    """A network that writes.

    Attributes:
        classes: Its vocabulary.
        score: What is explained of a word: ``logit``, ``probability`` or ``log-probability``.
        activation: Of class scores; words have a softmax.
        network: As :func:`cnnviz.models.loading.given.captioner` makes it.
    """

    classes: ClassNames
    score: str
    activation: str
    network: nn.Module
    name = "caption"

    def begin(self, pixels: Tensor) -> None:
        write(self.network, pixels)

    @property
    def tokens(self) -> Tensor:
        """The text that the network is given [1, T], on the host."""
        given: Given = vars(self.network)["given"]
        return given.tokens.cpu()

    def reads(self, output: Tensor) -> TextPredictions:
        logits, tokens = output.detach().float().cpu(), self.tokens
        every = TextTarget(tokens, torch.ones_like(tokens))
        scores, shares = every.each(logits), every.in_unit("probability").each(logits)
        usable = bool(torch.isfinite(scores).all())
        return TextPredictions(scores, shares, (usable,) * len(logits), tokens, self.words_of(tokens[0]))

    def words_of(self, tokens: Tensor) -> tuple[Word, ...]:
        """The words among tokens [T]."""
        found: list[Word] = []
        for step, token in enumerate(tokens.tolist()):
            text = self.classes.labels[token]
            if not is_mark(text):
                found.append(Word(len(found) + 1, step, token, text))
        return tuple(found)

    def default_target(self, output: Tensor) -> TextTarget:
        return self.target_of(self.tokens, range(self.tokens.shape[1]))

    def target_of(self, tokens: Tensor, steps: Sequence[int]) -> TextTarget:
        """The target of some steps of a text [1, T]."""
        counted = torch.zeros(tokens.shape)
        counted[:, list(steps)] = 1
        return TextTarget(tokens, counted, self.score)

    def selector(self, words: Words) -> CaptionSelector:
        return CaptionSelector(words, self)

    def top(self, said: Predictions, place: int, count: int) -> tuple[WordScore, ...]:
        """All words, in their order: a text is not cut off."""
        assert isinstance(said, TextPredictions)
        return tuple(self.scored(word, said) for word in said.words)

    def scored(self, word: Word, said: TextPredictions) -> WordScore:
        """A word with what the network said of it."""
        share, logit = float(said.shares[0, word.step]), float(said.scores[0, word.step])
        return WordScore(word.token, word.text, share, logit, word.number)

    def askable(self, said: Predictions, place: int, count: int) -> list[Askable]:
        """Every word by its number."""
        return [
            Askable(f"token:{word.number}", word.label, word.class_index,
                    {"probability": word.probability, "logit": word.logit})
            for word in self.top(said, place, count)
        ]  # fmt: skip

    def facts(self, said: Predictions, place: int) -> dict[str, Any]:
        assert isinstance(said, TextPredictions)
        return {"text": said.text}


def is_mark(word: str) -> bool:
    """Whether an entry of a vocabulary is no word: empty, or in brackets."""
    text = word.strip()
    return not text or (len(text) > 1 and text[0] + text[-1] in ("<>", "[]"))


@dataclass(frozen=True, eq=False)
class TextRequest(Request):
    """A word of the text of one image, or all of them.

    Attributes:
        spec: As it was asked for.
        words: What is explained.
        said: What the network said.
        whole: Whether it is the whole text.
    """

    spec: str
    words: tuple[Word, ...]
    said: TextPredictions
    whole: bool
    task: Captioning = field(repr=False)

    @property
    def key(self) -> Hashable:
        return "text"

    @property
    def readout(self) -> Readout:
        return Readout.scores()

    @property
    def slug(self) -> str:
        return "caption" if self.whole else f"token-{self.words[0].number}-{safe_component(self.words[0].text)}"

    def target(self, requests: Sequence[TextRequest]) -> TextTarget:
        parts = [self.task.target_of(each.said.tokens, [word.step for word in each.words]) for each in requests]
        tokens, counted = torch.cat([part.tokens for part in parts]), torch.cat([part.counted for part in parts])
        return TextTarget(tokens, counted, self.task.score)

    def scored(self, said: Predictions, place: int, output: Any) -> TokenScore | CaptionScore:
        score = self.value(output)
        if self.whole:
            return CaptionScore(self.spec, self.said.text, score, len(self.words))
        word = self.task.scored(self.words[0], self.said)
        return TokenScore(
            self.spec, word.label, score, word.class_index, word.number, word.probability, word.logit, self.said.text
        )
