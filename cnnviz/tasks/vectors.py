"""The vector that a network makes of an image, as targets.

similar:FILE   the cosine of the angle between it and that of another picture
embedding:K    its component K

On a classifier it is what feeds the last linear layer (as ``cnnviz embed`` has it); with ``--task embed`` the output.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.vector_targets import ComponentTarget, SimilarityTarget
from cnnviz.errors import CnnvizError, shown
from cnnviz.io.names import safe_component
from cnnviz.records import ComponentScore, SimilarityScore
from cnnviz.tasks.base import Predictions, Request, Vectors

KINDS = ("similar", "embedding")
_MOST_DIGITS = 9


@dataclass(frozen=True)
class SimilarityRequest(Request):
    """How like another picture an image is to the network.

    Attributes:
        file: The other picture.
        where: Where vectors are read.
        vector: That of the other picture [D].
    """

    file: str
    where: Readout
    vector: Tensor = field(compare=False, repr=False)

    @property
    def spec(self) -> str:
        """As ``--target`` takes it."""
        return f"similar:{self.file}"

    @property
    def key(self) -> Hashable:
        return "similar"

    @property
    def readout(self) -> Readout:
        return self.where

    @property
    def slug(self) -> str:
        # Two folders may have pictures of one name.
        return f"similar-{safe_component(self.file.replace('/', '-').lstrip('.-'))[-80:]}"

    def target(self, requests: Sequence[SimilarityRequest]) -> SimilarityTarget:
        return SimilarityTarget(torch.stack([each.vector for each in requests]), self.where)

    def scored(self, said: Predictions, place: int, output: Any) -> SimilarityScore:
        return SimilarityScore(self.spec, f"like {PurePath(self.file).name}", self.value(output), self.file)


@dataclass(frozen=True)
class ComponentRequest(Request):
    """One number of an image's vector."""

    index: int
    where: Readout

    @property
    def key(self) -> Hashable:
        return "embedding"

    @property
    def readout(self) -> Readout:
        return self.where

    @property
    def slug(self) -> str:
        return f"embedding-{self.index}"

    def target(self, requests: Sequence[ComponentRequest]) -> ComponentTarget:
        return ComponentTarget(torch.tensor([each.index for each in requests]), self.where)

    def scored(self, said: Predictions, place: int, output: Any) -> ComponentScore:
        return ComponentScore(f"embedding:{self.index}", f"component {self.index}", self.value(output), self.index)


def parse_vector(spec: str, vectors: Vectors | None) -> SimilarityRequest | ComponentRequest | None:
    """What of a vector a spec asks for; None where it is of another kind.

    Raises:
        CnnvizError: The file is not a picture, K is not a number, or nothing here makes vectors.
    """
    kind, _, rest = spec.strip().partition(":")
    text = rest.strip()
    if kind not in KINDS:
        return None
    readout = Readout.vector() if vectors is None else vectors.readout
    if kind == "embedding":
        if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS:
            return ComponentRequest(int(text), readout)
        raise CnnvizError(f"--target {shown(spec)}: expected embedding:K, a number from 0.", "Such as embedding:3")
    if not text:
        raise CnnvizError("--target similar: names no picture.", "Such as similar:cat.jpg")
    if vectors is None:
        raise CnnvizError(f"--target {shown(spec)}: nothing makes vectors here.", "Ask for another target.")
    return SimilarityRequest(text, readout, vectors.of(text))
