"""A vision transformer of 0.12 million weights that names the shape of the red one of two objects."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, PATCH, WIDTH, DEPTH, HEADS = 64, 8, 48, 4, 4
SHAPES = ("circle", "square", "triangle", "cross")
WEIGHTS = Path(__file__).parent / "shapes.pt"


class Attention(nn.Module):
    """Multi-head self-attention, computed by PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation and around a residual path."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ShapeTransformer(nn.Module):
    """Patches of 8 x 8 pixels, a class token, four blocks, and a linear layer on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(SHAPES))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(image.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def network() -> nn.Module:
    """The trained network; its weights are stored in half precision."""
    module = ShapeTransformer()
    weights = torch.load(WEIGHTS, weights_only=True)
    module.load_state_dict({name: value.float() for name, value in weights.items()})
    return module.eval()


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of two objects on a grey, noisy ground: a red one and one of another colour and another shape.

    Args:
        count: How many.
        generator: Where chance comes from.

    Returns:
        Pictures [count, 3, 64, 64] between 0 and 1; the classes [count]: the shapes of the red ones; masks
        [count, 2, 64, 64] of the red object and of the other. Each covers a tenth of the picture.
    """
    own = torch.randint(len(SHAPES), (count,), generator=generator)
    others = (own + torch.randint(1, len(SHAPES), (count,), generator=generator)) % len(SHAPES)
    # In opposite halves, left and right or top and bottom, so that they do not touch.
    along = torch.randint(12, 17, (count, 2), generator=generator)
    along[:, 1] = SIDE - along[:, 1]
    across = torch.randint(15, SIDE - 14, (count, 2), generator=generator)
    swap = torch.randint(2, (count,), generator=generator).bool()
    along = torch.where(swap[:, None], along.flip(1), along)
    turned = torch.randint(2, (count,), generator=generator).bool()[:, None]
    rows, cols = torch.where(turned, along, across), torch.where(turned, across, along)
    masks = torch.stack([_shape(own, rows[:, 0], cols[:, 0]), _shape(others, rows[:, 1], cols[:, 1])], 1)
    pictures = 0.5 + 0.05 * torch.randn((count, 3, SIDE, SIDE), generator=generator)
    colours = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.2, 0.9], [0.9, 0.9, 0.1], [0.1, 0.8, 0.8]])
    second = colours[torch.randint(len(colours), (count,), generator=generator)]
    red = torch.tensor([0.9, 0.1, 0.1]).expand(count, 3)
    for place, colour in enumerate((red, second)):
        mask = masks[:, place, None]
        pictures = torch.where(mask, colour[:, :, None, None] + 0.05 * (pictures - 0.5), pictures)
    return pictures.clamp(0, 1), own, masks


def _shape(kinds: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Masks [N, 64, 64] of shapes of about 410 pixels around these centres."""
    y = (torch.arange(SIDE) - rows[:, None])[:, :, None].float()
    x = (torch.arange(SIDE) - cols[:, None])[:, None, :].float()
    every = torch.stack(
        [
            (y * y + x * x <= 11.4**2),
            (y.abs() <= 10) & (x.abs() <= 9.9),
            (y <= 11) & (y >= -12 + 1.6 * x.abs() * 1.0) & (x.abs() <= 14.5),
            ((y.abs() <= 4.2) & (x.abs() <= 13)) | ((x.abs() <= 4.2) & (y.abs() <= 13)),
        ],
        1,
    )
    return every[torch.arange(len(kinds)), kinds]
