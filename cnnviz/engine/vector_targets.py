"""Scores of the vector that a network makes of an image: how like that of another image it is, and its components."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import ByImage
from cnnviz.errors import CnnvizError


@dataclass(frozen=True, eq=False)
class SimilarityTarget(ByImage):
    """The cosine of the angle between an image's vector v and another one r: v . r / (|v| |r|), from -1 to 1.

    Gradients go through v alone: r is a constant. Where either is zero, so is the score.

    Attributes:
        vectors: The other one for each image [N, D].
        readout: Where v is read: before the classifier, or :meth:`Readout.scores` where the output is the vector.
    """

    vectors: Tensor
    readout: Readout = Readout.vector()  # noqa: RUF009  # a value

    def __call__(self, output: Tensor) -> Tensor:
        if output.dim() != 2 or output.shape[1] != self.vectors.shape[1]:
            raise CnnvizError(
                f"The vectors to compare have shapes {list(output.shape)} and {list(self.vectors.shape)}.",
                "Both are to be [N, D], of the same network.",
            )
        return F.cosine_similarity(output.float(), rt.moved(self.vectors, output.device).float(), dim=1)

    @property
    def unit(self) -> str:
        return "cosine"

    def of(self, images: Tensor) -> SimilarityTarget:
        return replace(self, vectors=self.vectors[images.to(self.vectors.device)])

    def describe(self) -> dict[str, Any]:
        return {"kind": "similar", "unit": self.unit}


@dataclass(frozen=True, eq=False)
class ComponentTarget(ByImage):
    """One number of an image's vector.

    Attributes:
        indices: Which one for each image, LongTensor [N].
        readout: As :class:`SimilarityTarget` has it.
    """

    indices: Tensor
    readout: Readout = Readout.vector()  # noqa: RUF009  # a value

    def __call__(self, output: Tensor) -> Tensor:
        wrong = [int(index) for index in self.indices if not 0 <= int(index) < output.shape[1]]
        if wrong:
            raise CnnvizError(
                f"embedding:{wrong[0]} does not exist: the vector has {output.shape[1]} components.",
                f"Use embedding:0 to embedding:{output.shape[1] - 1}.",
            )
        return output.gather(1, rt.moved(self.indices, output.device)[:, None]).squeeze(1)

    @property
    def unit(self) -> str:
        return "component"

    def of(self, images: Tensor) -> ComponentTarget:
        return replace(self, indices=self.indices[images.to(self.indices.device)])

    def describe(self) -> dict[str, Any]:
        return {"kind": "embedding", "unit": self.unit, "index": self.indices.tolist()}
