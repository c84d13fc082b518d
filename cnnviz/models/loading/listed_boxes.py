"""Detectors in torchvision's form, which return a list with a mapping of boxes, scores and labels for each image.

How many boxes there are depends on the image, and labels count from 1, because 0 stands for the background. Such a
network is given back as one that returns [N, M, 6]: x0, y0, x1, y1, score, class from 0, with rows of zeros behind the
boxes. It is a copy of the network's outermost module that shares all others, so that the module which was handed in
stays as it was and layers keep their names; of its backbone, too, there is such a copy, behind whose maps a module each
marks what feeds the head.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnviz.models.graph.levels import Level

_KEYS = frozenset(("boxes", "scores", "labels"))
_MOST = 300
_LEVELS = "levels"


def lists_boxes(value: Any) -> bool:
    """Whether a network returned boxes in torchvision's form."""
    each = value if isinstance(value, (list, tuple)) else ()
    return bool(each) and all(isinstance(row, Mapping) and row.keys() >= _KEYS for row in each)


def with_rows(module: nn.Module, image: Tensor) -> nn.Module:
    """The network that returns [N, M, 6] for one that lists boxes.

    Args:
        module: The network, in evaluation mode; left as it is.
        image: [1, C, H, W] that it takes.
    """
    made: nn.Module = sharing(module, _rows_class(type(module)))
    vars(made)["_most_boxes"] = _most(module)
    backbone = module._modules.get("backbone")
    if backbone is not None:
        with torch.no_grad():
            maps = backbone(image)
        if isinstance(maps, Mapping) and all(isinstance(value, Tensor) and value.dim() == 4 for value in maps.values()):
            marked = sharing(backbone, _marking_class(type(backbone)))
            names = [str(key).replace(".", "_") for key in maps]
            marked._modules[_LEVELS] = nn.ModuleDict({f"map_{name}": Level() for name in names}).eval()
            made._modules["backbone"] = marked
    return made


def class_count(module: nn.Module) -> int | None:
    """How many classes a detector of torchvision has, without the background; None where that is not known."""
    for name, part in module.named_modules():
        if name.endswith("cls_score") and isinstance(part, nn.Linear):
            return part.out_features - 1
        found = getattr(part, "num_classes", None) or getattr(part, "num_columns", None)
        if name.endswith("classification_head") and isinstance(found, int):
            return found - 1
    return None


def without_background(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes that count from 0, of some that may count the background too."""
    return names[1:] if names and "background" in names[0].casefold() else names


def _most(module: nn.Module) -> int:
    for part in (module, module._modules.get("roi_heads")):
        most = getattr(part, "detections_per_img", None)
        if isinstance(most, int) and most > 0:
            return most
    return _MOST


def sharing(module: nn.Module, kind: type) -> Any:
    """A copy of a module that shares its parts and parameters, of another class."""
    made: Any = copy.copy(module)
    for name, value in list(vars(made).items()):
        if name.startswith("_") and isinstance(value, dict):
            vars(made)[name] = copy.copy(value)  # what is added to one is not added to the other
    made.__class__ = kind
    return made


def _rows_class(kind: type) -> type:
    def forward(self: Any, images: Tensor) -> Tensor:
        found = kind.forward(self, list(images))  # type: ignore[attr-defined]
        return torch.stack([_rows(each, self._most_boxes) for each in found])

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _rows(found: Mapping[str, Tensor], most: int) -> Tensor:
    """[most, 6] of the boxes of an image."""
    boxes, scores = found["boxes"].float(), found["scores"].float()
    classes = (found["labels"] - 1).clamp_min(0).to(boxes)
    rows = torch.cat([boxes, scores[:, None], classes[:, None]], 1)
    rows = rows[torch.sort(scores.detach(), descending=True, stable=True).indices][:most]
    return torch.cat([rows, rows.new_zeros(most - len(rows), 6)])


def _marking_class(kind: type) -> type:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        maps = kind.forward(self, *args, **kwargs)  # type: ignore[attr-defined]
        marks = self._modules[_LEVELS].values()
        return type(maps)((key, mark(value)) for (key, value), mark in zip(maps.items(), marks, strict=True))

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
