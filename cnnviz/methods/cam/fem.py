"""FEM: where channels respond unusually strongly."""

from __future__ import annotations

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.registry.cam import FEMOptions


def fem(run: ForwardPass, target: Target, params: FEMOptions) -> Heatmap:
    """FEM, the feature explanation method: no class takes part in it.

        m_k, s_k = mean and standard deviation of A_k over positions
        B_k = 1 where A_k >= m_k + K s_k, else 0         (the K-sigma rule; K = ``sigmas``)
        L = ReLU(sum_k m_k B_k)

    Fuad, Martin, Giot, Bourqui, Benois-Pineau & Zemmari, "Features Understanding in 3D CNNs for Actions Recognition in
    Video", IPTA 2020. It is made for rectified activations, whose mean says how much a channel takes part; where
    activations have both signs, a channel with a negative mean takes away. A channel that is the same everywhere
    (s_k = 0) stands out nowhere and takes no part.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Not used.
        params: ``sigmas``.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the activations.
    """
    activations = run.activations[0].detach().float()
    mean = activations.mean((2, 3), keepdim=True)
    spread = rt.wide(activations).std((2, 3), correction=0, keepdim=True).float()
    # Rounding alone spreads a channel that is the same everywhere.
    alive = spread > 1e-6 * activations.abs().amax((2, 3), keepdim=True)
    strong = (activations >= mean + params.sigmas * spread) & alive
    return Heatmap((mean * strong).sum(1).clamp_min(0))
