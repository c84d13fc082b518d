"""What the network sees of a picture: the view that an attack differentiates through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnviz.attacks import picture_view as viewing
from cnnviz.attacks.linf import (
    LEVELS,
    of_function,
    of_session,
)
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.runtime import resolve
from cnnviz.models.preprocess import Preprocess, normalize, prepare

# What the network sees of a picture


SPECS = [
    Preprocess((3, 24, 24), 28, (0.5,) * 3, (0.25,) * 3, "bilinear"),
    Preprocess((3, 24, 32), (30, 40), (0.5,) * 3, (0.25,) * 3, "bicubic"),
    Preprocess((1, 20, 20), 20, (0.5,), (0.25,), "bilinear"),
    Preprocess((3, 24, 24), 18, (0.5,) * 3, (0.25,) * 3, "bilinear", fill=(90, 20, 200)),
    Preprocess((3, 24, 24), None, (0.5,) * 3, (0.25,) * 3, "bicubic", view="squash"),
    Preprocess((3, 24, 24), 24, (0.5,) * 3, (0.25,) * 3, "nearest"),
]


@pytest.mark.parametrize("size", [(40, 61), (24, 24), (19, 13)])
@pytest.mark.parametrize("spec", SPECS)
def test_a_view_is_what_prepare_does_and_its_transpose_is_its_gradient(spec: Preprocess, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(1).integers(60, 196, (*size, 3), dtype=np.uint8)
    pixels, geometry = prepare(rgb, spec)
    seeing = viewing.view(geometry, spec)
    image = viewing.from_rgb(rgb)
    smooth = seeing.forward(image[0])
    assert smooth.shape == pixels.shape
    # It rounds after each axis, and to grey before.
    apart = (smooth * LEVELS - pixels).abs()
    assert float(apart.max()) < 1.6
    assert float(apart.mean()) < 0.5
    leaf = image[0].double().requires_grad_()
    double = viewing.View(seeing.rows.double(), seeing.columns.double(), seeing.padding.double(), seeing.grey)
    weights = torch.randn(smooth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    [expected] = torch.autograd.grad((double.forward(leaf) * weights).sum(), leaf)
    torch.testing.assert_close(double.back(weights), expected)
    assert not expected[:, ~seeing.seen()].any()


def test_through_prepare_the_network_sees_exactly_the_file() -> None:
    spec = SPECS[0]
    rgb = np.random.default_rng(3).integers(0, 256, (50, 44, 3), dtype=np.uint8)
    pixels, geometry = prepare(rgb, spec)
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.stack([x.mean(dim=(1, 2, 3)), x.amax(dim=(1, 2, 3))], dim=1)

    network = viewing.through_prepare(of_function(function), viewing.view(geometry, spec), spec)
    network(viewing.from_rgb(rgb))
    assert torch.equal((seen[0][0] * LEVELS).round().to(torch.uint8), pixels)


def test_a_session_sees_what_normalize_gives_and_differentiates_before_it() -> None:
    spec = Preprocess((3, 8, 8), 8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bilinear")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(6, 4)).eval()  # fmt: skip
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with open_session(module, "toy", (3, 8, 8), resolve("cpu"), SessionOptions(Cut.at_image())) as session:
        logits, back = of_session(session, spec)(pixels.float() / LEVELS)
        got = back(logits[:, 2])
    with torch.no_grad():
        torch.testing.assert_close(logits.detach(), module(normalize(pixels, spec)), rtol=1e-4, atol=1e-5)
    leaf = (pixels.float() / LEVELS).requires_grad_()
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.mean, spec.std))
    [expected] = torch.autograd.grad(module((leaf - mean) / std)[:, 2].sum(), leaf)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
