"""Whether texts under a word of many meanings, ``names`` or ``labels``, look like names of classes.

A list as long as the output is wide says little: settings, parameters and files have names too, and wrong class names
in a picture are worse than none. So what speaks against them counts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable
from functools import cache

from torch import optim

from cnnviz.errors import shown
from cnnviz.settings import is_number

# Two classes of ImageNet are called crane, two maillot; a table of labels of images repeats many.
_REPEATED = 0.01
# One class of a few may be called head, as a layer is, or step.
_FOREIGN = 1 / 3
_LONGEST = 200
_FILE = re.compile(
    r"(?:[a-z]:\\|~?/|\.{1,2}[/\\]|[a-z0-9]+://).*"
    r"|.*\.(?:jpe?g|png|gif|bmp|tiff?|webp|avif|heic|npy|npz|txt|csv|tsv|json|ya?ml|xml|pkl|pickle|pth|pt|ckpt|bin"
    r"|safetensors|onnx|h5|tar|gz|zip|mp4|avi|py)",
    re.IGNORECASE | re.DOTALL,
)
# What training scripts call their settings and what they measure, beside what optimizers call theirs.
_TRAINING = frozenset(
    "acc accuracy ap auc batch batch_size best_acc criterion data_time decay device dropout epoch epochs f1 fitness"
    " gamma image_size img_size imgsz input_size iou iteration learning_rate loss map map50 milestones mixup model"
    " num_workers optimizer precision recall scheduler seed smoothing step step_size time top1 top5 train_loss val_acc"
    " val_loss warmup warmup_epochs wd workers".split()
)


def speaks_against(names: Collection[str], keys: Iterable[str], parameters: Iterable[str]) -> str:
    """Why texts are hardly names of classes, as what they are; empty where nothing speaks against it.

    Args:
        names: The texts.
        keys: What stands beside them and among the settings of the training.
        parameters: Names of the weights.
    """
    odd = [name for name in names if not name.strip() or "\n" in name or len(name) > _LONGEST]
    if odd:
        return f"has {shown(odd[0])}, which is no name"
    if any(map(_FILE.fullmatch, names)):
        return "has names of files"
    if len(set(names)) < (1 - _REPEATED) * len(names):
        return "has texts that repeat"
    if all(is_number(name) for name in names):
        return "has numbers"
    settings = _TRAINING | _of_optimizers() | {_plain(key) for key in keys}
    if sum(_plain(name) in settings for name in names) > _FOREIGN * len(names):
        return "has names of settings"
    parts = {part for name in parameters for part in _paths(name)}
    return "has names of the network's parts" if sum(n in parts for n in names) > _FOREIGN * len(names) else ""


def _plain(text: str) -> str:
    return text.casefold().replace("-", "_").replace(" ", "_")


def _paths(name: str) -> list[str]:
    """``a``, ``a.b`` and ``a.b.weight`` of ``a.b.weight``."""
    parts = name.split(".")
    return [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]


@cache
def _of_optimizers() -> frozenset[str]:
    """What PyTorch's optimizers call their settings."""
    kinds = [kind for kind in vars(optim).values() if isinstance(kind, type) and issubclass(kind, optim.Optimizer)]
    return frozenset(name for kind in kinds for name in inspect.signature(kind).parameters)
