"""One small network of each torchvision and timm family, with random weights that answer to their input.

Freshly initialised networks prove nothing: many start their residual branches at zero, and without the statistics of
batch normalisation what arrives at the classifier differs by 1e-10 from image to image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

SAMPLES = Path(__file__).parent.parent / "sample_images"
TORCHVISION: dict[str, str] = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet v2": "efficientnet_v2_s",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenet v2": "mobilenet_v2",
    "mobilenet v3": "mobilenet_v3_small",
    "regnet x": "regnet_x_400mf",
    "regnet y": "regnet_y_400mf",
    "resnet": "resnet18",
    "resnext": "resnext50_32x4d",
    "shufflenet v2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "swin transformer": "swin_t",
    "swin transformer v2": "swin_v2_t",
    "vgg": "vgg11",
    "vgg with batch normalisation": "vgg11_bn",
    "vision transformer": "vit_b_16",
    "wide resnet": "wide_resnet50_2",
}
_CURRENT: list[nn.Module] = []


def families() -> Iterator[tuple[str, str, str, int]]:
    """(library, family, its smallest network, parameters); a family of timm is a file of its ``models``."""
    import timm

    for family, name in TORCHVISION.items():
        yield "torchvision", family, name, _parameters("torchvision", name)
    for family in timm.list_modules():
        sizes = []
        for name in timm.list_models(module=family):
            if name.startswith("test_"):  # made for timm's own tests
                continue
            sizes.append((_parameters("timm", name), name))
        parameters, name = min(sizes)
        yield "timm", family, name, parameters


def _parameters(library: str, name: str) -> int:
    try:
        with torch.device("meta"):
            module = _build(library, name)
    except NotImplementedError:  # computes its widths by tensors
        module = _build(library, name)
    return sum(parameter.numel() for parameter in module.parameters())


def _build(library: str, name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "torchvision":
            extra = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
            return torchvision.models.get_model(name, weights=None, **extra, **options)
        import timm

        module: nn.Module = timm.create_model(name, pretrained=False, **options)
        return module


def build(library: str, name: str) -> tuple[nn.Module, int]:
    """A network in evaluation mode, every parameter of which matters, and the side of the input it was made for."""
    torch.manual_seed(0)
    module = _build(library, name)
    _without_constants(module)
    size = getattr(module, "default_cfg", {}).get("input_size", (3, 299 if "inception" in name else 224, 0))[1]
    return module.eval().requires_grad_(False), size


@torch.no_grad()
def _without_constants(module: nn.Module) -> None:
    """Draw what starts as a constant: branches that start at zero would hide whatever is wrong with them."""
    for name, parameter in module.named_parameters():
        flat = parameter.flatten()
        if not parameter.is_floating_point() or len(flat) == 0 or bool((flat != flat[0]).any()):
            continue
        if name.endswith("bias") or parameter.dim() == 0:
            parameter += 0.1 * torch.randn_like(parameter)
        elif parameter.dim() >= 2 and parameter.numel() > parameter.shape[0]:
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter[0].numel()))
        else:
            parameter.copy_(0.5 + torch.rand_like(parameter))


def images(size: tuple[int, int], count: int = 6) -> Tensor:
    """Photographs, the second half of them with noise added, as a network of ImageNet takes them: [count, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    found = []
    paths = sorted(SAMPLES.glob("*.jpg"))
    for index in range(count):
        with Image.open(paths[index % len(paths)]) as picture:
            small = picture.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
        if index >= count / 2:
            pixels = pixels + 0.2 * torch.randn(pixels.shape, generator=generator)
        found.append((pixels - 0.45) / 0.225)
    return torch.stack(found)


@torch.no_grad()
def calibrate(module: nn.Module, size: tuple[int, int]) -> None:
    """Give batch normalisations the statistics of photographs; where there is no normalisation, the weights a scale."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    others = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
    if not norms and not any(isinstance(m, others) or "norm" in type(m).__name__.lower() for m in module.modules()):
        _unit_variance(module, images(size))
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = norm.track_running_stats
    for part in images(size, 12).split(6):
        module(part)
    module.eval()


def _unit_variance(module: nn.Module, batch: Tensor) -> None:
    """Scale each layer's weights, first to last, so that what it returns has variance 1 (Mishkin & Matas 2016)."""

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        deviation = output.std().clamp_min(1e-6)
        layer.weight.div_(deviation)
        if layer.bias is not None:
            layer.bias.div_(deviation)
        return output / deviation

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    handles = [m.register_forward_hook(scale) for m in module.modules() if type(m) in kinds or isinstance(m, kinds)]
    try:
        module(batch)
    finally:
        for handle in handles:
            handle.remove()


def offer(module: nn.Module) -> str:
    """Make a network what ``--model`` finds under the name that is returned."""
    _CURRENT[:] = [module]
    return f"{__name__}:current"


def current() -> nn.Module:
    """The network that was offered last."""
    return _CURRENT[0]
