"""Small transformers of timm for the tests, with weights that matter everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def vision_transformer(**options: Any) -> nn.Module:
    """A ViT of three blocks of width 24 with two heads, five classes, on images of 32 x 48 in patches of 8."""
    from timm.models.vision_transformer import VisionTransformer

    given = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    return _drawn(lambda: VisionTransformer(**{**given, **options}))


def make() -> nn.Module:
    """As ``--model`` takes it: on images of 64 x 64."""
    return vision_transformer(img_size=64)


def swin_transformer(**options: Any) -> nn.Module:
    """A Swin transformer of two stages on images of 32 x 64 in patches of 4 and windows of 4."""
    from timm.models.swin_transformer import SwinTransformer

    given = {"img_size": (32, 64), "patch_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2)}
    return _drawn(lambda: SwinTransformer(**{**given, "window_size": 4, "num_classes": 5, **options}))


def _drawn(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        module: nn.Module = make()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def pictures(size: tuple[int, int] = (32, 48), count: int = 2) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(7))


def with_gradient(module: nn.Module, layer: str, pixels: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """What a layer returns and its gradient, by a hook on the network itself in float64."""
    caught: list[Tensor] = []

    def keep(part: nn.Module, args: Any, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[0]

    module = module.double()
    handle = module.get_submodule(layer).register_forward_hook(keep)
    try:
        score = module(pixels.double())[:, target].sum()
        (gradient,) = torch.autograd.grad(score, caught)
    finally:
        handle.remove()
        module.float()
    return caught[0].detach(), gradient
