"""Recipro-CAM: what the head says when it sees one place of the feature maps."""

from __future__ import annotations

import torch
from torch import Tensor

from cnnviz.engine.perturbed_scores import Changes, scores
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.cam import ReciproCAMOptions

# A Gaussian of 3 x 3 cells, as the paper has it.
_GAUSSIAN = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))


def reciprocam(run: ForwardPass, target: Target, params: ReciproCAMOptions) -> Heatmap:
    """Recipro-CAM.

        S(i, j) = y(A * M_ij),    L = S - min S

    with A the activations of the layer, y the score that the head makes of them, and M_ij zero but around position
    (i, j): a Gaussian of 3 x 3 cells (1/4 in the middle, 1/8 beside it, 1/16 in the corners), or the cell alone. Byun &
    Lee, "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc Explanations", CVPR workshop 2024.
    Only the head runs, once for each position. The paper divides L by its maximum, which a picture does here.

    Behind global average pooling and one linear layer S is the class activation map itself, smoothed by M and divided
    by the number of positions. With the probability as the score (``--score probability``) it is the softmax of
    those.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``mask``: ``gaussian`` or ``cell``.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the score; scores ``floor`` [N], the lowest S, and
        ``head_passes``.
    """
    activations = run.activations[0].detach()
    height, width = activations.shape[2:]
    masks = _masks(int(height), int(width), params.mask == "gaussian").to(activations)

    def seen(image: int, positions: range) -> Tensor:
        return activations[image] * masks[positions.start : positions.stop, None]

    key = ("reciprocam", params.mask)
    found = scores(run, target, Changes(len(masks), seen, of_layer=True, key=key)).reshape(-1, height, width)
    floor = found.amin((1, 2))
    untraced = f"the network {run.session.untraced}: all of it runs for each position"
    notes = () if run.session.graph is not None else (untraced,)
    figures = {"floor": floor, "head_passes": len(masks)}
    return Heatmap(found - floor[:, None, None], scores=figures, notes=notes)


def _masks(height: int, width: int, gaussian: bool) -> Tensor:
    """[h w, h, w]: what is seen from each position, in reading order."""
    weights = torch.tensor(_GAUSSIAN) if gaussian else torch.ones(1, 1)
    reach = len(weights) // 2
    padded = torch.zeros(height * width, height + 2 * reach, width + 2 * reach)
    for position in range(height * width):
        row, column = divmod(position, width)
        padded[position, row : row + len(weights), column : column + len(weights)] = weights
    return padded[:, reach : reach + height, reach : reach + width]
