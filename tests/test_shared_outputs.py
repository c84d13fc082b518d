"""Functions as targets of networks that return more than rows for their images: losses, weights, anchors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError

_PIXELS = torch.randn((2, 3, 10, 12), generator=torch.Generator().manual_seed(5))
_METHODS: list[tuple[str, dict[str, Any]]] = [
    ("gradcam", {}),
    ("smoothgrad", {"samples": 3}),
    ("integrated_gradients", {"steps": 4}),
    ("lrp", {}),
    ("occlusion", {"window": 4, "stride": 4}),
    ("ablationcam", {}),
    ("rise", {"masks": 12}),
    ("kernelshap", {"samples": 20}),
    ("extremal", {"cells": 3}),
]


class Scores(nn.Module):
    """Scores of four classes, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(6, 4)

    def scores(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).mean((2, 3)))
        return out

    def forward(self, x: Tensor) -> Any:
        return self.scores(x)


class Loss(Scores):
    def forward(self, x: Tensor) -> Any:
        scores = self.scores(x)
        return {"loss": scores.logsumexp(1).mean(), "scores": scores}


class Weights(Scores):
    """Returns a weight of 4 rows, as many as two images need never have, and anchors [5]."""

    def forward(self, x: Tensor) -> Any:
        return {"weight": self.fc.weight, "anchors": torch.arange(5.0), "scores": self.scores(x)}


@pytest.mark.parametrize("tracing", ["auto", "off"])
@pytest.mark.parametrize("kind", [Loss, Weights])
@pytest.mark.parametrize(("method", "options"), _METHODS, ids=[method for method, _ in _METHODS])
def test_what_has_no_rows_does_not_matter(
    method: str, options: dict[str, Any], kind: type[Scores], tracing: str
) -> None:
    """The maps are those of the network that returns its scores alone."""
    if method == "lrp" and tracing == "off":
        pytest.skip("needs a trace")
    found = cnnviz.explain(
        kind().eval(), _PIXELS, method, target=lambda out: out["scores"][:, 1], tracing=tracing, **options
    )
    expected = cnnviz.explain(
        Scores().eval(), _PIXELS, method, target=lambda out: out[:, 1], tracing=tracing, **options
    )
    assert float(expected.raw.abs().max()) > 0
    torch.testing.assert_close(found.raw, expected.raw, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_a_constant_may_be_read(method: str) -> None:
    """Anchors are the same for every image: a sum that they weight is a score of each."""
    anchors = torch.arange(5.0)[:4]
    found = cnnviz.explain(
        Weights().eval(), _PIXELS, method, target=lambda out: (out["scores"] * out["anchors"][:4]).sum(1)
    )
    expected = cnnviz.explain(Scores().eval(), _PIXELS, method, target=lambda out: (out * anchors).sum(1))
    torch.testing.assert_close(found.raw, expected.raw, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("function", [
    lambda out: out["scores"][:, 1] * out["loss"],
    lambda out: out["loss"].expand(len(out["scores"])),
])  # fmt: skip
@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_a_value_that_all_images_share_is_no_score(method: str, function: Callable[[Any], Tensor]) -> None:
    with pytest.raises(CnnvizError, match=r"share \(a tensor of shape \[\]\), so that no image has a score of its own"):
        cnnviz.explain(Loss().eval(), _PIXELS, method, target=function)
