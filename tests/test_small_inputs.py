"""Input sizes so small that the last maps have a single cell: told, with the layer that is explained in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import cnnviz
from cnnviz.cli.app import main
from tests.support.pictures import photographs_in
from tests.support.tiny_model import make


def residual() -> nn.Module:
    """Three strides of 2, the last in a block of two branches, as ResNet has them."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
            self.beside, self.act = nn.Conv2d(8, 8, 1, 2), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.act(self.two(self.act(self.one(x))) + self.beside(x))
            return out

    stem = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU()]
    return nn.Sequential(*stem, Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def convolutional_head() -> nn.Module:
    """Its classifier is a convolution over the whole of a map, as in a network that was made fully convolutional."""
    features = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU()]
    return nn.Sequential(*features, nn.Conv2d(8, 16, 2), nn.ReLU(), nn.Conv2d(16, 3, 1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    ("network", "side", "layer"),
    [
        (make(), 8, "2"),
        (residual(), 8, "1"),
        (make(), 64, None),
        (residual(), 32, None),
        (convolutional_head(), 8, None),
    ],
)
def test_that_a_single_cell_says_nothing_of_place_is_told(network: nn.Module, side: int, layer: str | None) -> None:
    found = cnnviz.explain(network, torch.rand(1, 3, side, side), target=0)
    told = [note for note in found.notes if "says nothing of where" in note]
    if layer is None:
        assert told == []
    else:
        assert found.layer == layer
        assert tuple(found.raw.shape[1:]) == (2, 2)
        assert told[0].startswith(
            f"at {side} x {side} pixels the last convolutions have a single cell, which says nothing of where: {layer} "
            "before them (2 x 2 cells) is explained"
        )


def test_a_run_tells_it_and_not_of_a_layer_that_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(photographs_in(tmp_path / "photos", 2))
    words = ["gradcam", photos, "-m", "tests.support.tiny_model:make", "--input-size", "8"]
    assert main([*words, "-o", str(tmp_path / "usual")]) == 0
    assert "2 before them (2 x 2 cells) is explained; a larger --input-size" in capsys.readouterr().err
    assert main([*words, "-o", str(tmp_path / "named"), "--layer", "4"]) == 0
    said = capsys.readouterr().err
    assert "before them" not in said
    assert "maps are flat: layer 4 has a single cell at this input size" in said
