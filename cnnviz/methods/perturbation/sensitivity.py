"""Sensitivity analysis of the score to the cells of a grid over the image: Sobol indices and HSIC.

The image is cut into d = cells x cells parts; with m in [0, 1]^d

    x(m) = m x + (1 - m) x0        part by part, x0 the baseline,        f(m) the score of x(m)

Sobol   m uniform. The total index of cell i is  S_i = E[Var(f | all m but m_i)] / Var f:  what of the variance would be
        left if only m_i were unknown, interactions included; the first-order index  Var(E[f | m_i]) / Var f  is its
        effect alone. Sums of first-order indices are at most 1, those of total indices at least 1; both are equal for a
        score that is a sum over cells.
HSIC    m in {0, 1}^d, each cell visible with probability 1/2. The Hilbert-Schmidt independence criterion of m_i and
        f, 0 where and only where f does not depend on m_i (in the limit of many masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.perturbed_scores import Changes, scores
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.baselines import baseline, baseline_figures
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.paired_designs import paired, reliability, standard_error
from cnnviz.registry.perturbation import HSICOptions, SobolOptions

_TINY = 1e-12


def sobol(run: ForwardPass, target: Target, params: SobolOptions) -> Heatmap:
    """Sobol indices.

        total  S_i = mean over j of (f(A_j) - f(A_j with cell i of B_j))^2 / (2 Var f)             (Jansen 1999)
        first  S_i = 1 - mean over j of (f(B_j) - f(A_j with cell i of B_j))^2 / (2 Var f)         (Jansen 1999)

    Fel, Cadene, Chalvidal, Cord, Vigouroux & Serre, "Look at the Variance! Efficient Black-box Explanations with
    Sobol-based Sensitivity Analysis", NeurIPS 2021, equations 3 to 5. A and B are ``designs`` points each, the same for
    every image, as :mod:`cnnviz.methods.paired_designs` draws them; the variance is that over A and B.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``cells``, ``designs``, ``order``, ``baseline``, ``seed``.

    Returns:
        Heatmap with values [N, cells, cells], shares of the score's variance (few points can leave a first-order
        index a little below 0; maps are >= 0); scores ``variance`` of f, ``sum`` of the indices, ``standard_error`` of
        an index (root mean square over cells, that of the variance included) and ``reliability``: the correlation to
        expect of the maps of two seeds. Both are NaN of fewer than eight designs.
    """
    cells, count = params.cells, params.designs
    size = cells * cells
    first, second = paired(count, size, params.seed)

    def design(positions: range) -> Tensor:
        # A, B, then A with one cell of B: cell (p - 2 n) // n of point p % n.
        rows = []
        for p in positions:
            block, point = divmod(p, count)
            row = (second if block == 1 else first)[point].clone()
            if block >= 2:
                row[block - 2] = second[point, block - 2]
            rows.append(row)
        return torch.stack(rows)

    found = _scores(run, target, params, (2 + size) * count, design).reshape(-1, 2 + size, count)
    a, b, exchanged = found[:, 0], found[:, 1], found[:, 2:]
    variance = torch.cat([a, b], 1).var(1, correction=0)[:, None]
    against = a if params.order == "total" else b
    halves = (against[:, None] - exchanged).square() / 2
    varies = variance > _TINY
    share = torch.where(varies, halves.mean(2) / variance.clamp_min(_TINY), 0.0)
    square = _square_of_error(halves, share, torch.stack([a, b], 1))
    if params.order == "first":
        share = torch.where(varies, 1 - share, 0.0)
    figures = {
        "variance": variance[:, 0].float(),
        "sum": share.sum(1).float(),
        "standard_error": torch.where(varies[:, 0], square.sqrt(), 0.0).float(),
        "reliability": torch.where(varies[:, 0], reliability(halves), 1.0).float(),
        **_hidden_by(run, params),
    }
    return _heatmap(run, share, cells, {"order": params.order}, figures)


def _square_of_error(halves: Tensor, share: Tensor, ends: Tensor) -> Tensor:
    """The squared standard error [N] of ``share`` [N, d], mean over cells; by linear terms, since shares are ratios.

    Args:
        halves: [N, d, n]: what the mean over points is of, half the squared differences.
        share: Their means, divided by the variance.
        ends: The scores [N, 2, n] of A and B, whose variance that is.
    """
    apart = (ends - ends.mean((1, 2), keepdim=True)).square().mean(1)
    variance = apart.mean(1)[:, None, None].clamp_min(_TINY)
    influences = (halves - share[:, :, None] * apart[:, None]) / variance
    return standard_error(influences).square().mean(1)


def hsic(run: ForwardPass, target: Target, params: HSICOptions) -> Heatmap:
    """The Hilbert-Schmidt independence criterion of each cell and the score.

        HSIC_i = trace(K_i H L H) / (n - 1)^2,    H = 1 - 1/n
        K_i(j, j') = 1 where m_i is the same in masks j and j', else 0
        L(j, j') = exp(-(f_j - f_j')^2 / (2 s^2)),  s the median of |f_j - f_j'| over pairs

    Novello, Fel & Vigouroux, "Making Sense of Dependence: Efficient Black-box Explanations Using Dependence Measure",
    NeurIPS 2022, sections 3.1 and 3.2; Gretton et al. 2005. The bandwidth makes it free of the score's unit. Masks are
    the same for every image.

    Args:
        run: A forward pass over pixels [N, C, H, W].
        target: Score [N] of the logits.
        params: ``cells``, ``masks`` n, ``baseline``, ``seed``.

    Returns:
        Heatmap with values [N, cells, cells] >= 0, without unit; maps [N, H, W] are the values above the ``floor``, the
        lowest of each image, which is what chance leaves where nothing depends on a cell; scores ``masks``,
        ``standard_error`` of a value (root mean square over cells) and ``reliability``: the correlation to expect of
        the maps of two seeds.
    """
    cells, count = params.cells, params.masks
    generator = torch.Generator().manual_seed(params.seed)
    masks = (torch.rand((count, cells * cells), generator=generator) < 0.5).float()
    found = _scores(run, target, params, count, lambda positions: masks[positions.start : positions.stop])
    known = [_dependence(masks.double(), own) for own in found]
    values = torch.stack([own for own, _ in known])
    floor = values.amin(1)
    stated = {name: torch.tensor([each[name] for _, each in known]) for name in known[0][1]}
    figures = {"floor": floor.float(), "masks": count, **stated, **_hidden_by(run, params)}
    heatmap = _heatmap(run, values - floor[:, None], cells, {}, figures)
    return Heatmap(values.reshape(-1, cells, cells).float(), heatmap.maps, facts=heatmap.facts, scores=heatmap.scores)


def _dependence(masks: Tensor, answers: Tensor) -> tuple[Tensor, dict[str, float]]:
    """HSIC [d] of each column of masks [n, d] (zeros and ones) with answers [n], and what is known of its error.

    K_i is 1/2 (1 + e e^T) with e = 2 m_i - 1; the constant goes under H, so that the trace is e^T H L H e / 2.
    """
    distances = (answers[:, None] - answers[None]).abs()
    apart = distances[torch.triu(torch.ones_like(distances, dtype=torch.bool), 1)]
    bandwidth = apart.median()
    few = not bool(bandwidth > 0)
    if few:
        # More than half of the pairs of answers are equal: the mean is a scale that is not zero unless all are.
        bandwidth = apart.mean()
        if not bool(bandwidth > 0):
            return masks.new_zeros(masks.shape[1]), {"standard_error": 0.0, "reliability": 1.0}
    kernel = torch.exp(-distances.square() / (2 * bandwidth.square()))
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    signs = 2 * masks - 1
    terms = signs * (centred @ signs) / 2 / (len(masks) - 1) ** 2
    values = terms.sum(0).clamp_min(0)
    stated = _error_of_pairs(values, terms, centred)
    # A few masks decide all of it then, and which they are is not among these: maps of other seeds were much less alike
    # than their errors say.
    return values, {**stated, "reliability": math.nan} if few else stated


def _error_of_pairs(values: Tensor, terms: Tensor, centred: Tensor) -> dict[str, float]:
    """What is known of the error of HSIC: a sum over pairs of masks, of which each mask has its share.

    By leaving out one mask after the other its variance is four times n^2 / n that of the shares, where what is of
    pairs alone counts twice (Efron & Stein 1981); once is taken off. What moves all cells alike, by a term or by a
    factor (the bandwidth does), does not make maps of two seeds less alike, and is left out of their reliability.

    Args:
        values: [d].
        terms: [n, d], the shares that sum to them.
        centred: H L H [n, n].
    """
    count, size = terms.shape
    # A mask with itself is the same for every cell.
    alone = centred.diagonal()
    of_pairs = float(centred.square().sum() - alone.square().sum()) / 2 / (count - 1) ** 4
    shares = terms - alone[:, None] / 2 / (count - 1) ** 2
    shares = shares - shares.mean(0)
    off = values - values.mean()
    spread = float(off.square().sum())
    own = shares - shares.mean(1, keepdim=True)
    own = own - torch.outer(own @ off, off) / spread if spread > 0 else own

    def square(parts: Tensor, free: int) -> float:
        return max(0.0, 4 * count * float(parts.var(0).sum()) - free * of_pairs)

    error = square(own, max(0, size - 2))
    alike = max(0.0, 1 - error / spread) if spread > 0 else 1.0
    return {"standard_error": (square(shares, size) / size) ** 0.5, "reliability": alike}


def _scores(
    run: ForwardPass,
    target: Target,
    params: SobolOptions | HSICOptions,
    count: int,
    design: Callable[[range], Tensor],
) -> Tensor:
    """Scores [N, count], float64 on the host, of images whose cells are seen as the design has it."""
    pixels = run.pixels.detach().float()
    height, width = (int(side) for side in pixels.shape[2:])
    window = (max(1, height // params.cells), max(1, width // params.cells))
    fill = baseline(pixels, params.baseline, window, params.seed, run.session.preprocess)
    rows, columns = (_cell_of(length, params.cells).to(pixels.device) for length in (height, width))

    def seen(image: int, positions: range) -> Tensor:
        grid = design(positions).reshape(-1, params.cells, params.cells).to(pixels)
        mask = grid[:, rows][:, :, columns][:, None]
        return mask * pixels[image] + (1 - mask) * fill[image]

    return scores(run, target, Changes(count, seen, key=("sensitivity", params))).cpu().double()


def _hidden_by(run: ForwardPass, params: SobolOptions | HSICOptions) -> dict[str, Any]:
    return baseline_figures(params.baseline, run.pixels.detach().float(), run.session.preprocess)


def _cell_of(length: int, cells: int) -> Tensor:
    """The cell of each of so many pixels."""
    return torch.arange(length) * cells // length


def _heatmap(run: ForwardPass, values: Tensor, cells: int, facts: dict[str, Any], figures: dict[str, Any]) -> Heatmap:
    """Values [N, d] as a grid, and at the pixels of their cells."""
    grid = values.reshape(-1, cells, cells).float()
    rows, columns = (_cell_of(int(length), cells) for length in run.pixels.shape[2:])
    return Heatmap(grid, grid[:, rows][:, :, columns].clamp_min(0), facts=facts, scores=figures)
