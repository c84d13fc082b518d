"""Shares of the score among superpixels, from images in which some are hidden: Shapley values, KernelSHAP, LIME.

With z in {0, 1}^d which of the d superpixels are visible, x_z the image with the others replaced by the baseline, and
f the score, KernelSHAP and LIME fit f(x_z) by a linear function of z, weighted by how near x_z is to what is explained:

    KernelSHAP  weight (d - 1) / (C(d, |z|) |z| (d - |z|)), and exact at z = 0 and z = 1: Shapley values, which sum to
                f(x) - f(baseline)
    LIME        weight exp(-D^2 / width^2), D the cosine distance between z and 1; ridge regression

Shapley values are also the mean gain of a superpixel as it becomes visible, over all orders in which they do. By
orders that are drawn the error on photographs is about half of KernelSHAP's by as many images.

Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017, theorem 2; Ribeiro et al., "Why
Should I Trust You?", KDD 2016, section 3. Where 2^d - 2 is not more than the samples, KernelSHAP takes every z and its
values are the Shapley values themselves; otherwise sizes are drawn by the weight that the kernel gives them and each z
is followed by its complement. The superpixels are those of SLIC (Achanta et al., PAMI 2012).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine.perturbed_scores import Changes, scores
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import baseline, baseline_figures
from cnnviz.methods.chance import certainty
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.perturbation import LIMEOptions, SuperpixelOptions

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# The number of superpixels -> z [S, d], which of them are visible.
Design = Callable[[int], Bools]
# z [S, d], scores [S], scores of nothing and of all -> values [d] and how well they fit.
Ends = tuple[float, float]
Solve = Callable[[Bools, Floats, Ends], tuple[Floats, dict[str, float]]]


def shapley(run: ForwardPass, target: Target, params: SuperpixelOptions) -> Heatmap:
    """Shapley values of superpixels from random orders.

        v_k = mean over orders o of f(x with k and what comes before it in o) - f(x with what comes before it)

    Castro, Gomez & Tejada, "Polynomial calculation of the Shapley value based on sampling", Computers & Operations
    Research 2009. Each order is followed by its reverse (Mitchell, Cooper, Frank & Holmes, "Sampling Permutations for
    Shapley Value Estimation", JMLR 2022): what a superpixel gains early and what it gains late are balanced.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: As for :func:`kernelshap`. ``samples`` divided by 2 (d - 1) is the number of orders with their reverses,
            at least one; where all 2^d - 2 subsets are no more, they are run, and the values are exact.

    Returns:
        Heatmap with values [N, H, W], each pixel its superpixel's value, in units of the score, which sum to f(x) -
        f(baseline); array ``segments`` [N, H, W]; scores ``superpixels``, ``samples``, ``standard_error`` (that of the
        mean over orders with their reverses, root mean square over superpixels) and ``reliability``: the correlation to
        expect of the maps of two seeds, 1 - standard_error^2 / variance of the values.
    """

    def solve(design: Bools, answers: Floats, ends: Ends) -> tuple[Floats, dict[str, float]]:
        if not _all_are_run(design.shape[1], params.samples):
            return _mean_gains(design, answers, ends)
        values, figures = _solve_shap(design, answers, ends)
        del figures["fit"]
        return values, figures

    return _explained(run, target, params, lambda count: _orders(count, params.samples, params.seed), solve)


def kernelshap(run: ForwardPass, target: Target, params: SuperpixelOptions) -> Heatmap:
    """KernelSHAP on superpixels.

        min over v of sum_z (d - 1) / (C(d, |z|) |z| (d - |z|)) (f(x_z) - f(x_0) - v z)^2,    sum v = f(x) - f(x_0)

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``segments``: about so many superpixels; ``compactness`` of SLIC; ``samples``: images with hidden
            superpixels; ``baseline`` as for occlusion; ``seed``.

    Returns:
        Heatmap with values [N, H, W], each pixel its superpixel's value, in units of the score; array ``segments``
        [N, H, W]; scores ``superpixels`` and ``fit``: the weighted share of the scores' variance that the values
        explain (below 0 a constant would come nearer: shares that must add up say little of this score);
        ``standard_error`` and ``reliability`` as of :func:`shapley`, by the sandwich estimate of a least-squares fit
        (White 1980) with a sample and its complement as one draw.
    """
    return _explained(run, target, params, lambda count: _shap_design(count, params.samples, params.seed), _solve_shap)


def lime(run: ForwardPass, target: Target, params: LIMEOptions) -> Heatmap:
    """LIME on superpixels, each visible with probability one half; ridge regression with an intercept.

        min over a, v of sum_z exp(-D(z)^2 / width^2) (f(x_z) - a - v z)^2 + ridge |v|^2,    D cosine distance to all

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: As for :func:`kernelshap`, and ``width`` of the kernel, ``ridge``: the penalty on squared values.

    Returns:
        As :func:`kernelshap`; values are changes of the score as one superpixel becomes visible, and their error is
        the sandwich estimate with residuals of samples that are left out (HC3; MacKinnon & White 1985).
    """

    def solve(design: Bools, answers: Floats, ends: Ends) -> tuple[Floats, dict[str, float]]:
        return _solve_lime(design, answers, ends, params.width, params.ridge)

    return _explained(run, target, params, lambda count: _lime_design(count, params.samples, params.seed), solve)


def _explained(run: ForwardPass, target: Target, params: SuperpixelOptions, design: Design, solve: Solve) -> Heatmap:
    pixels = run.pixels.detach().float()
    segments = run.remember(
        ("segments", params.segments, params.compactness),
        lambda: np.stack([_segments(image, params.segments, params.compactness) for image in pixels]),
    )
    counts = [int(own.max()) + 1 for own in segments]
    designs = [design(count) for count in counts]
    longest = max(len(own) for own in designs)
    # The last two are nothing visible and all visible; shorter designs run what is visible once more.
    rows = [np.concatenate([own, np.ones((longest - len(own), count), bool), [[False] * count], [[True] * count]])
            for own, count in zip(designs, counts, strict=True)]  # fmt: skip
    fill = baseline(pixels, params.baseline, (max(1, pixels.shape[2] // 5),) * 2, params.seed,
                    run.session.preprocess)  # fmt: skip

    def hide(image: int, positions: range) -> Tensor:
        visible = rows[image][positions.start : positions.stop][:, segments[image]]
        return torch.where(torch.from_numpy(visible).to(pixels.device)[:, None], pixels[image], fill[image])

    # Other designs are other images: the same options do not make them the same.
    key = ("superpixels", params, tuple(own.tobytes() for own in rows))
    found = scores(run, target, Changes(longest + 2, hide, key=key)).cpu().double().numpy()
    maps, stated = [], []
    for own, answers, of_image in zip(designs, found, segments, strict=True):
        values, known = solve(own, answers[: len(own)], (float(answers[-2]), float(answers[-1])))
        maps.append(torch.from_numpy(values[of_image]))
        stated.append({"superpixels": own.shape[1], "samples": len(own), **known})
    figures: dict[str, Any] = {name: torch.tensor([each[name] for each in stated]) for name in stated[0]}
    figures |= baseline_figures(params.baseline, pixels, run.session.preprocess)
    arrays = {"segments": torch.from_numpy(segments)}
    return Heatmap(torch.stack(maps).float(), scores=figures, arrays=arrays)


def _segments(image: Tensor, segments: int, compactness: float) -> NDArray[np.int32]:
    """SLIC labels [H, W], 0 ... d - 1, of the network's input stretched to its own range."""
    slic = _slic()
    values = image.cpu().permute(1, 2, 0).numpy().astype(np.float64)
    low, high = values.min(), values.max()
    values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    labels = slic(
        values,
        n_segments=segments,
        compactness=compactness,
        start_label=0,
        channel_axis=-1,
        convert2lab=values.shape[2] == 3,
    )
    found: NDArray[np.int32] = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
    return found


def _slic() -> Any:
    try:
        return importlib.import_module("skimage.segmentation").slic
    except ImportError as error:
        raise CnnvizError(
            f"Superpixels need scikit-image, which cannot be imported: {error}.", "pip install 'cnnviz[superpixels]'"
        ) from error


def _all_are_run(count: int, samples: int) -> bool:
    return count < 31 and 2**count - 2 <= samples


def _all_subsets(count: int) -> Bools:
    """z [2^d - 2, d], all that are neither empty nor full."""
    every = (np.arange(1, max(1, 2**count - 1))[:, None] >> np.arange(count)) & 1
    return every.astype(bool)


def _orders(count: int, samples: int, seed: int) -> Bools:
    """z [S, d] along random orders, each followed by its reverse; or all z."""
    if _all_are_run(count, samples):
        return _all_subsets(count)
    random, rows = np.random.default_rng(seed), []
    first = np.tri(count - 1, count, dtype=bool)  # the first of an order, the first two ...
    for _ in range(max(1, samples // (2 * (count - 1)))):
        place = random.permutation(count)  # of each superpixel in the order
        rows += [first[:, place], first[:, count - 1 - place]]
    return np.concatenate(rows)


def _mean_gains(design: Bools, answers: Floats, ends: Ends) -> tuple[Floats, dict[str, float]]:
    """Values [d] from z [S, d] along orders and their reverses, and what is known of their error."""
    count = design.shape[1]
    ways = design.reshape(-1, count - 1, count)
    visible = np.pad(ways, ((0, 0), (1, 1), (0, 0)))
    visible[:, -1] = True
    gains = np.diff(np.pad(answers.reshape(-1, count - 1), ((0, 0), (1, 1)), constant_values=(ends,)), axis=1)
    of_each = np.zeros_like(gains)
    np.put_along_axis(of_each, (visible[:, 1:] & ~visible[:, :-1]).argmax(2), gains, 1)
    pairs = of_each.reshape(-1, 2, count).mean(1)
    values = pairs.mean(0)
    square = float(pairs.var(0, ddof=1).mean() / len(pairs)) if len(pairs) > 1 else math.nan
    return values, certainty(values, square)


def _shap_design(count: int, samples: int, seed: int) -> Bools:
    """z [S, d]: all that are neither empty nor full, or a sample of them in pairs of complements."""
    if _all_are_run(count, samples):
        return _all_subsets(count)
    random = np.random.default_rng(seed)
    sizes = np.arange(1, count)
    likely = 1 / (sizes * (count - sizes))
    found = np.zeros((samples + samples % 2, count), dtype=bool)
    for pair in range(0, len(found), 2):
        size = random.choice(sizes, p=likely / likely.sum())
        found[pair, random.permutation(count)[:size]] = True
        found[pair + 1] = ~found[pair]
    return found


def _solve_shap(design: Bools, answers: Floats, ends: Ends) -> tuple[Floats, dict[str, float]]:
    """Values [d] that sum to f(x) - f(baseline), how well they fit, and what is known of their error."""
    nothing, everything = ends
    count = design.shape[1]
    if count == 1:
        return np.array([everything - nothing]), {"fit": 1.0, "standard_error": 0.0, "reliability": 1.0}
    sizes = design.sum(1)
    complete = len(design) == 2**count - 2 == len(np.unique(design, axis=0))
    # Drawn by the kernel's weight already; where all are there each has its own.
    weights = np.array([1 / (math.comb(count, int(s)) * s * (count - s)) for s in sizes]) if complete else None
    weights = np.ones(len(design)) if weights is None else weights
    # The last value is what the others leave of the sum.
    total = everything - nothing
    z = design.astype(np.float64)
    left, right = z[:, :-1] - z[:, -1:], answers - nothing - z[:, -1] * total
    root = np.sqrt(weights)[:, None]
    others = np.linalg.lstsq(left * root, right * root[:, 0], rcond=None)[0]
    values = np.append(others, total - others.sum())
    square = 0.0 if complete else _sandwich(left, right - left @ others)
    return values, {"fit": _fit(answers, nothing + z @ values, weights), **certainty(values, square)}


def _sandwich(left: Floats, rest: Floats) -> float:
    """Mean over superpixels of the squared standard error of a least-squares fit; two rows each are one draw."""
    draws, free = len(left) // 2, left.shape[1]
    if draws <= free or np.linalg.matrix_rank(left) < free:
        return math.nan
    pull = (left * rest[:, None]).reshape(draws, 2, free).sum(1)
    inverse = np.linalg.inv(left.T @ left)
    of_others = inverse @ (pull.T @ pull) @ inverse * draws / (draws - free)
    # The last value is what the others leave: its error is that of their sum.
    return float((np.trace(of_others) + of_others.sum()) / (free + 1))


def _lime_design(count: int, samples: int, seed: int) -> Bools:
    return np.random.default_rng(seed).random((samples, count)) < 0.5


def _solve_lime(
    design: Bools, answers: Floats, ends: Ends, width: float, ridge: float
) -> tuple[Floats, dict[str, float]]:
    """Ridge regression [d] with an intercept; the whole image is among the samples, with weight 1.

    Also how well it fits, and what is known of its error.
    """
    z = np.concatenate([design, np.ones((1, design.shape[1]), bool)]).astype(np.float64)
    wanted = np.append(answers, ends[1])
    distance = 1 - np.sqrt(z.mean(1))  # the cosine between z and 1 is sqrt(|z| / d)
    weights = np.exp(-((distance / width) ** 2))
    middle, level = np.average(z, axis=0, weights=weights), np.average(wanted, weights=weights)
    root = np.sqrt(weights)[:, None]
    left, right = (z - middle) * root, (wanted - level) * root[:, 0]
    normal = left.T @ left + ridge * np.eye(z.shape[1])
    values = np.linalg.solve(normal, left.T @ right)
    square = _left_out(left, right - left @ values, normal) if len(design) > z.shape[1] + 1 else math.nan
    return values, {"fit": _fit(wanted, level + (z - middle) @ values, weights), **certainty(values, square)}


def _left_out(left: Floats, rest: Floats, normal: Floats) -> float:
    """Mean of the squared standard errors of a ridge regression, by what each sample pulls when it is left out.

    The last row is the whole image, which no seed changes.
    """
    if np.linalg.matrix_rank(normal) < len(normal):
        return math.nan
    pulls = left * rest[:, None]
    reach = np.linalg.solve(normal, left.T)
    # With a penalty the pulls do not add up to zero; what they have in common is none of the draws'.
    free = np.maximum(1 - np.einsum("sk,ks->s", left, reach), 1e-6)
    pulls = ((pulls - pulls[:-1].mean(0)) / free[:, None])[:-1]
    moves = np.linalg.solve(normal, pulls.T)
    return float((moves**2).sum() / len(normal))


def _fit(wanted: Floats, found: Floats, weights: Floats) -> float:
    """Weighted coefficient of determination; 1 where there is nothing to explain."""
    spread = float((weights * (wanted - np.average(wanted, weights=weights)) ** 2).sum())
    return 1 - float((weights * (wanted - found) ** 2).sum()) / spread if spread > 0 else 1.0
