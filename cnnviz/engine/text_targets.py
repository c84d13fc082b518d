"""Scores of the words of a text that a network writes under an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.targets import ByImage


@dataclass(frozen=True, eq=False)
class TextTarget(ByImage):
    """The sum of the scores of words: of token w_t at step t the logit z_t[w_t], its probability or the log of that.

    The tokens before step t are those of the text, whatever becomes of the image. The sum of all log-probabilities is
    that of the whole text.

    Attributes:
        tokens: Token at each step of each image, LongTensor [N, T].
        counted: 1 for each step that counts, else 0 [N, T].
        score: ``logit``, ``probability`` or ``log-probability``.
    """

    tokens: Tensor
    counted: Tensor
    score: str = "logit"

    def __call__(self, output: Tensor) -> Tensor:
        return (self.each(output) * rt.moved(self.counted, output.device)).sum(dim=1)

    def each(self, output: Tensor) -> Tensor:
        """The score of every step [N, T], of logits [N, T, V]."""
        logits = output.float()
        values = logits if self.score == "logit" else F.log_softmax(logits, dim=2)
        found = values.gather(2, rt.moved(self.tokens, output.device)[..., None]).squeeze(2)
        return found.exp() if self.score == "probability" else found

    @property
    def unit(self) -> str:
        return self.score

    def in_unit(self, unit: str) -> TextTarget:
        return replace(self, score=unit)

    def of(self, images: Tensor) -> TextTarget:
        rows = images.to(self.tokens.device)
        return replace(self, tokens=self.tokens[rows], counted=self.counted[rows])

    def describe(self) -> dict[str, Any]:
        steps = [torch.nonzero(row).flatten().tolist() for row in self.counted]
        return {"kind": "text", "unit": self.unit, "steps": steps, "tokens": self.tokens.tolist()}
