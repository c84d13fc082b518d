"""Occlusion: hide one window after another and see how much of the score goes with it.

Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2 and figure 7.

With x the image, b the baseline, and x_w the image whose window w is replaced by b:

    drop(w) = score(x) - score(x_w)

positive where the window mattered. (The paper draws score(x_w) itself, its figure 7b; the drop is that turned over and
moved to zero.) The value of a pixel is the mean of drop over the windows that cover it; peers sum, which makes
corners weak because fewer windows cover them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.perturbed_scores import by_position
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target, class_logits, probabilities
from cnnviz.methods.baselines import baseline, baseline_figures
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.perturbation.incremental.windows import Windows, occluded_logits
from cnnviz.registry.perturbation import OcclusionOptions


def occlusion(run: ForwardPass, target: Target, params: OcclusionOptions) -> Heatmap:
    """Occlusion sensitivity.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``window`` and ``stride`` (height, width) in pixels of the network's input; a window is never larger
            than the image, and the last one is moved inside. ``baseline``: what stands in the window: ``zero`` of the
            network's input (the mean colour of its training images), the image's ``mean`` colour, its ``blur``, seeded
            ``noise``, ``black``, ``gray``, or a colour such as ``red``, ``#ff8800`` or ``255,136,0``. ``incremental``:
            ``auto`` or ``off``. ``classes_map``: keep the most probable class of each position. ``seed``: of ``noise``.

    Returns:
        Heatmap with values [N, rows, cols], drops in units of the score; maps [N, H, W] in the same units; arrays
        ``coverage`` [N, H, W] (how many windows cover a pixel) and with ``classes_map`` ``classes`` and
        ``class_probability`` [N, rows, cols], and ``centre_rows`` [N, rows] and ``centre_cols`` [N, cols]: where the
        windows' centres lie, as shares of the network's input.

    Raises:
        CnnvizError: An unknown baseline, or a colour for a network whose normalisation is unknown.
    """
    pixels = run.pixels.detach()
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    windows = place_windows(size, params.window, params.stride)
    key = ("occlusion", windows, params.baseline, params.seed, params.incremental)
    fill = baseline(pixels, params.baseline, windows.size, params.seed, run.session.preprocess)
    clean, occluded = run.remember(key, lambda: occluded_logits(run.session, pixels, windows, fill, params.incremental))
    shape = (len(windows.rows), len(windows.cols))
    drops = score_drops(target, clean, occluded).reshape(-1, *shape)
    maps, coverage = covering_mean(drops, windows, size)
    arrays = {"coverage": coverage.expand(len(pixels), -1, -1)}
    if params.classes_map:
        arrays.update(_most_probable(occluded, shape, getattr(target, "activation", "softmax")))
        for name, starts, axis in (("centre_rows", windows.rows, 0), ("centre_cols", windows.cols, 1)):
            centres = (torch.tensor(starts) + windows.size[axis] / 2) / size[axis]
            arrays[name] = centres.expand(len(pixels), -1)
    figures = {
        "window": _shown(windows.size),
        "stride": _shown(params.stride),
        **baseline_figures(params.baseline, pixels, run.session.preprocess),
        "positions": list(shape),
    }
    return Heatmap(drops, maps, scores=figures, arrays=arrays)


def place_windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Windows:
    """The grid of windows on an image of ``size`` (height, width).

    Windows start every ``stride`` pixels from the first one; where they do not end at the border, one more ends
    there. So every window lies inside, none is cut, and with a stride up to the window's side every pixel is covered.
    """
    side = (min(window[0], size[0]), min(window[1], size[1]))
    rows, cols = (_starts(size[axis], side[axis], stride[axis]) for axis in (0, 1))
    return Windows(rows, cols, side)


def _starts(length: int, window: int, stride: int) -> tuple[int, ...]:
    last = length - window
    return (*range(0, last, stride), last)


def score_drops(target: Target, clean: Any, occluded: Any) -> Tensor:
    """score(x) - score(x_w): [N, P] of outputs [N, ...] and [N, P, ...]."""
    return target(clean)[:, None].detach().float() - by_position(target, occluded)


def covering_mean(drops: Tensor, windows: Windows, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The value of each pixel: the mean over the windows that cover it.

    Args:
        drops: [N, rows, cols].
        windows: Where the windows lie.
        size: Height and width of the image.

    Returns:
        maps [N, H, W], and the coverage [H, W]: how many windows cover each pixel. Pixels that no window covers (a
        stride beyond the window) take the value of the window whose centre is nearest; their coverage is 0.
    """
    drops = rt.wide(drops)
    rows = _membership(windows.rows, windows.size[0], size[0]).to(drops)
    cols = _membership(windows.cols, windows.size[1], size[1]).to(drops)
    coverage = (rows > 0).sum(0)[:, None] * (cols > 0).sum(0)[None, :]
    down, across = rows / rows.sum(0), cols / cols.sum(0)
    maps = down.T @ drops @ across
    # A gap along one axis is a gap.
    seen = _covered(windows.rows, windows.size[0], size[0])[:, None] & _covered(windows.cols, windows.size[1], size[1])
    return maps.float(), torch.where(seen.to(drops.device), coverage, 0).int()


def _membership(starts: tuple[int, ...], window: int, length: int) -> Tensor:
    """[windows, pixels]: 1 where the window covers the pixel; in gaps 1 for the window whose centre is nearest."""
    first, pixel = torch.tensor(starts)[:, None], torch.arange(length)
    inside = (pixel >= first) & (pixel < first + window)
    nearest_one = F.one_hot((pixel - first - (window - 1) / 2).abs().argmin(0), len(starts)).T.bool()
    return torch.where(inside.any(0), inside, nearest_one).double()


def _covered(starts: tuple[int, ...], window: int, length: int) -> Tensor:
    first, pixel = torch.tensor(starts)[:, None], torch.arange(length)
    return ((pixel >= first) & (pixel < first + window)).any(0)


def _most_probable(occluded: Tensor, shape: tuple[int, int], activation: str) -> dict[str, Tensor]:
    """Class and probability at each position (figures 7d and 7e of the paper)."""
    flat = occluded.reshape(-1, occluded.shape[-1])
    classes = class_logits(flat).argmax(1)
    chosen = probabilities(flat, activation).gather(1, classes[:, None])[:, 0]
    count = occluded.shape[0]
    return {"classes": classes.reshape(count, *shape), "class_probability": chosen.reshape(count, *shape)}


def _shown(size: tuple[int, int]) -> int | list[int]:
    """As the option was written: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)
