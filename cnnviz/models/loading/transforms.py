"""What a network expects to see, read off the transforms that come with its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.normalization import per_channel
from cnnviz.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


def from_torchvision(transforms: Any) -> Preprocess:
    """The spec of ``weights.transforms()``, torchvision's preset for classification, or that for segmentation,
    which shows the whole picture.

    Its ``antialias`` is left aside: on the Pillow images that the preset was written for it is always on.

    Raises:
        CnnvizError: if it is another kind of transform.
    """
    try:
        resize = list(transforms.resize_size)
        crop = list(getattr(transforms, "crop_size", resize))
        return Preprocess(
            input_size=(3, crop[0], crop[-1]),
            resize=resize[0] if len(resize) == 1 else (resize[0], resize[1]),
            view="crop" if hasattr(transforms, "crop_size") else "whole",
            mean=tuple(float(value) for value in transforms.mean),
            std=tuple(float(value) for value in transforms.std),
            interpolation=str(transforms.interpolation.value),
        )
    except AttributeError as error:
        message = f"cannot read the preprocessing of {type(transforms).__name__}: no preset for classes or segments"
        raise CnnvizError(message, "give --input-size, --resize, --mean and --std") from error


def from_timm(cfg: Mapping[str, Any]) -> Preprocess:
    """The spec of a timm data configuration (``model.pretrained_cfg`` or ``resolve_model_data_config``).

    Args:
        cfg: ``input_size``, ``crop_pct``, ``crop_mode`` (``center``, ``squash``, ``border``),
            ``interpolation``, ``mean``, ``std``; what is missing gets timm's own default.
    """
    channels, height, width = cfg.get("input_size") or (3, 224, 224)
    mean = per_channel("mean", cfg.get("mean") or IMAGENET_MEAN, channels)
    std = per_channel("std", cfg.get("std") or IMAGENET_STD, channels)
    fraction = cfg.get("crop_pct") or 0.875
    scaled = (math.floor(height / fraction), math.floor(width / fraction))
    mode = cfg.get("crop_mode") or "center"
    resize: int | tuple[int, int] = scaled
    if mode == "center" and scaled[0] == scaled[1]:
        resize = scaled[0]
    return Preprocess(
        input_size=(channels, height, width),
        resize=resize,
        mean=mean,
        std=std,
        interpolation=cfg.get("interpolation") or "bicubic",
        fit={"squash": "stretch", "border": "contain"}.get(mode, "cover"),
        fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0,),
    )
