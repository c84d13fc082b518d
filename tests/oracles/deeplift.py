"""DeepLIFT in float64 by dense matrices, unit by unit, from the paper's formulas; no autograd."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


def shares(network: nn.Sequential, image: Tensor, start: Tensor, class_index: int) -> tuple[Array, float]:
    """(x - x') m of one image [C, H, W], and the difference in score, of a chain of layers."""
    exact = copy.deepcopy(network).double().eval()
    values = [(image.double()[None], start.double()[None])]
    with torch.no_grad():
        for layer in exact:
            values.append(tuple(layer(each) for each in values[-1]))  # type: ignore[arg-type]
    output = values[-1][0].numel()
    back = np.zeros(output)
    back[class_index] = 1.0
    for layer, (x, x0) in zip(reversed(exact), reversed(values[:-1]), strict=True):
        back = _back(layer, x, x0, back)
    found = (image.double() - start.double()).numpy() * back.reshape(tuple(image.shape))
    (end, begin) = values[-1]
    return found, float(end.flatten()[class_index] - begin.flatten()[class_index])


def _back(layer: nn.Module, x: Tensor, x0: Tensor, above: Array) -> Array:
    """Multipliers of a layer's inputs from those of its outputs."""
    ours, theirs = x.numpy().reshape(-1), x0.numpy().reshape(-1)
    if isinstance(layer, nn.MaxPool2d):
        return _max_pool(layer, x, x0, above)
    if isinstance(layer, nn.ReLU | nn.SiLU | nn.Sigmoid):
        with torch.no_grad():
            y, y0 = (layer(each).numpy().reshape(-1) for each in (x, x0))
        found = np.zeros_like(above)
        for unit, m in enumerate(above):
            apart = ours[unit] - theirs[unit]
            if abs(apart) > 1e-9:
                found[unit] = m * (y[unit] - y0[unit]) / apart
            else:
                assert isinstance(layer, nn.ReLU)
                found[unit] = m * float(ours[unit] > 0)
        return found
    with torch.no_grad():
        zero = layer(torch.zeros_like(x)).reshape(-1)
        columns = layer(torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:])).flatten(1) - zero
    return columns.numpy() @ above


def _max_pool(layer: nn.MaxPool2d, x: Tensor, x0: Tensor, above: Array) -> Array:
    """Window by window: a rise goes to the image's maximum, a fall to the baseline's."""
    (y, here), (y0, there) = (F.max_pool2d(each, layer.kernel_size, return_indices=True) for each in (x, x0))
    channels, size = x.shape[1], x.shape[2] * x.shape[3]
    found = np.zeros((channels, size))
    m = above.reshape(channels, -1)
    for channel in range(channels):
        for window in range(m.shape[1]):
            rise = float(y[0, channel].flatten()[window] - y0[0, channel].flatten()[window])
            place = int((here if rise >= 0 else there)[0, channel].flatten()[window])
            apart = float(x[0, channel].flatten()[place] - x0[0, channel].flatten()[place])
            if rise != 0:
                found[channel, place] += m[channel, window] * rise / apart
    return found.reshape(-1)
