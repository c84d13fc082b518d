"""Which architecture a checkpoint's tensor names look like: what to say when they do not fit the network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

# What stands in the names of each family's tensors, the more particular first; torchvision's members that may be it.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("a GoogLeNet", r"inception3a\.branch1", "googlenet"),
    ("an Inception v3", r"Conv2d_1a_3x3|Mixed_5b\.", "inception_v3"),
    ("a DenseNet", r"denseblock\d+\.denselayer\d+", "densenet"),
    ("a SqueezeNet", r"features\.\d+\.squeeze\.", "squeezenet"),
    ("a ShuffleNet v2", r"stage2\.0\.branch[12]\.", "shufflenet"),
    ("a RegNet", r"trunk_output\.block\d", ""),
    ("an MNASNet", r"layers\.\d+\.\d+\.layers\.\d+", "mnasnet"),
    ("a Swin transformer", r"attn\.relative_position_bias_table", "swin"),
    ("a ConvNeXt", r"\.layer_scale|dwconv\.|conv_dw\.weight.*mlp\.fc1|stages\.\d+\.blocks\.\d+\.gamma", "convnext"),
    ("a vision transformer of torchvision", r"encoder\.layers\.encoder_layer_0", "vit_"),
    ("a vision transformer (timm/vit_… or timm/deit_…)", r"blocks\.0\.attn\.qkv", ""),
    ("an EfficientNet or MobileNet v3", r"features\.\d+\.(\d+\.)?block\.0\.0", "mobilenet_v3|efficientnet"),
    ("a MobileNet v2", r"features\.\d+\.conv\.0\.0\.", "mobilenet_v2"),
    ("an EfficientNet or MobileNet of timm", r"blocks\.\d+\.\d+\.(conv_pw|conv_dw|conv_pwl)", ""),
    ("a ResNet", r"layer[1-4]\.0\.conv1\.weight", "resnet|resnext|wide_resnet"),
    ("a VGG or an AlexNet", r"features\.0\.weight[\s\S]*classifier\.[0-6]\.weight", "vgg|alexnet"),
    ("a YOLO detector of Ultralytics", r"model\.\d+\.cv1\.conv\.weight", ""),
)
_CLASSIFIER = re.compile(r"(^|\.)(fc|head|heads|classifier)\b")
# A word of help is not worth a long wait.
_SECONDS = 5.0
_Shapes = Mapping[str, tuple[int, ...]]


def looks_like(shapes: _Shapes, build: Callable[[str], nn.Module] | None = None) -> tuple[str, str]:
    """The family of a checkpoint by its names, and the ``--model`` whose tensors these are.

    Args:
        shapes: Names and shapes of the checkpoint's tensors, prefixes included.
        build: A network by its name in torchvision; torchvision's own by default.

    Returns:
        Such as ``("a ResNet", "resnet18")``; empty texts for what is not recognised.
    """
    names = "\n".join(shapes)
    for family, pattern, members in _FAMILIES:
        if re.search(pattern, names):
            return family, _member(shapes, members, build or _torchvision)
    return "", ""


def _member(shapes: _Shapes, members: str, build: Callable[[str], nn.Module]) -> str:
    """The network with these very tensors, its classifier's number of classes aside."""
    from torchvision import models

    known: list[str] = [name for name in models.list_models(module=models) if members and re.match(members, name)]
    until = time.monotonic() + _SECONDS
    for name in sorted(known, key=_larger):
        if time.monotonic() < until:
            wanted = {key: tuple(value.shape) for key, value in build(name).state_dict().items()}
            if any(_same(shapes, wanted, prefix) for prefix in _prefixes(shapes, wanted)):
                return name
    return ""


def _larger(name: str) -> tuple[bool, str]:
    """Networks in the order in which they are likely: the second versions of EfficientNet take long to build."""
    return name.startswith(("efficientnet_v2", "wide_resnet", "resnext")), name


def _same(shapes: _Shapes, wanted: _Shapes, prefix: str) -> bool:
    for key, shape in wanted.items():
        if key.endswith("num_batches_tracked"):
            continue
        found = shapes.get(prefix + key)
        if found is None or (found != shape and not (_CLASSIFIER.search(key) and found[1:] == shape[1:])):
            return False
    # A larger network of the same family has all of these tensors and more.
    inside = sum(key.startswith(prefix) for key in shapes if not key.endswith("num_batches_tracked"))
    return inside == sum(not key.endswith("num_batches_tracked") for key in wanted)


def _prefixes(shapes: _Shapes, wanted: _Shapes) -> Sequence[str]:
    first = next(iter(wanted))
    return [key[: -len(first)] for key in shapes if key == first or key.endswith(f".{first}")]


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):  # shapes only
        network: nn.Module = models.get_model(name, weights=None, **extra)
    return network
