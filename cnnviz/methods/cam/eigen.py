"""The first principal component of a layer's activations, or of its gradients times activations.

With O [h w, C] the values of a layer, one row per position, and O = U S V^T its singular value decomposition, the map
is the projection on the first right singular vector,

    L = O v_1 = s_1 u_1,

which is also s_1 times the first eigenvector of the small matrix O O^T. A singular vector has no sign of its own, so
one has to be chosen, and chosen so that neither rounding nor the other images of a batch can turn it around:

Eigen-CAM       sum_p L_p^3 > 0: the side on which the component is stronger is positive (the idea of Bro, Acar & Kolda,
                "Resolving the sign ambiguity in the singular value decomposition", J. Chemometrics 2008). It asks
                nothing of the channels' own signs: where all of them are negative, the map is still positive where
                the layer is most active, and it is zero only where all activations are.
Eigen-Grad-CAM  L has a positive product with the sum over channels (HiResCAM's map), so that the map of a class and
                that of its negative are opposite sides of the same component. Where that product is zero (below
                SIGN_MARGIN of its largest possible value), the rule of Eigen-CAM decides.

Where a component is exactly as strong on either side, the first position in reading order with at least half of the
largest magnitude is positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap
from cnnviz.methods.weighted_activations import gradients_of
from cnnviz.registry.params import Options

SIGN_MARGIN = 1e-3
"""Share of its largest possible value below which a sum does not decide about a sign: float32 leaves 1e-6 of noise."""


def eigencam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Eigen-CAM: no class takes part in it.

    Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020. As in the paper the
    values are not centred (pytorch-grad-cam subtracts each channel's mean first). The sign, which the paper leaves
    open, makes the stronger side positive (sum of L^3 > 0), also at layers whose activations are negative.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Not used.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the activations: the projection, rectified; zero everywhere only
        where all activations are zero. Fact ``sign``; score ``component_share`` [N]: s_1^2 / sum_k s_k^2.
    """
    # The same for all targets of an image.
    maps, share = run.remember("first component", lambda: first_component(run.activations[0].detach().float()))
    return Heatmap(
        maps.clamp_min(0),
        facts={"sign": "the stronger side of the component is positive (sum of cubes)"},
        scores={"component_share": share},
    )


def eigengradcam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Eigen-Grad-CAM: the first principal component of gradients times activations.

    From pytorch-grad-cam, where it is described as Eigen-CAM with class discrimination; there is no paper. Not centred,
    like :func:`eigencam`. The sign is that with which the map agrees with the sum over channels, HiResCAM's map; the
    stronger side is positive where the two are orthogonal.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0 in units of the score: the projection, rectified; zero everywhere where the
        component speaks against the class at every position. Fact ``sign``; score ``component_share`` [N].
    """
    product = run.activations[0].detach().float() * gradients_of(run, target)[0]
    maps, share = first_component(product, product.sum(1))
    return Heatmap(
        maps.clamp_min(0),
        facts={"sign": "as HiResCAM's map; where they are orthogonal, the stronger side is positive (sum of cubes)"},
        scores={"component_share": share},
    )


def first_component(values: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s_1 u_1 as maps [N, h, w] of values [N, C, h, w], and s_1^2 / sum_k s_k^2 [N].

    Image by image in float64. The sign is that of the product with ``like`` [N, h, w] where it is given and decides,
    otherwise the stronger side is positive.
    """
    maps, shares = [], []
    for image, value in enumerate(rt.exact(values)):
        map_, share = _component(value.flatten(1))
        agreement = () if like is None else (rt.exact(like[image]).flatten(),)
        maps.append(with_sign(map_, *agreement))
        shares.append(share)
    found = torch.stack(maps).reshape(len(values), *values.shape[2:])
    return found.to(values), torch.stack(shares).to(values)


def _component(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of values [C, P]: the projection [P] with any sign, and its share of the sum of squares."""
    channels, positions = rows.shape
    if not bool(torch.isfinite(rows).all()):
        # An image with such values must not take the rest of its batch down with it.
        return rows.new_full((positions,), torch.nan), rows.new_tensor(torch.nan)
    map_: Tensor
    if positions <= channels:
        strength, vectors = torch.linalg.eigh(rows.T @ rows)
        map_ = vectors[:, -1] * strength[-1].clamp_min(0).sqrt()
    else:
        map_ = rows.T @ torch.linalg.eigh(rows @ rows.T)[1][:, -1]
    total = rows.square().sum()
    return map_, map_.square().sum() / total if bool(total > 0) else total


def with_sign(map_: Tensor, like: Tensor | None = None) -> Tensor:
    """The map [P] with the sign that the module's rules give it."""
    sums = [] if like is None else [(map_ @ like, map_.norm() * like.norm())]
    # Over its largest magnitude, lest cubes of small numbers vanish.
    scaled = map_ / map_.abs().max().clamp_min(torch.finfo(map_.dtype).tiny)
    cubes = scaled**3
    sums.append((cubes.sum(), cubes.abs().sum()))
    for total, largest in sums:
        if bool(total.abs() > SIGN_MARGIN * largest):
            return -map_ if bool(total < 0) else map_
    strong = (scaled.abs() >= 0.5).nonzero().flatten()
    return -map_ if len(strong) and bool(map_[strong[0]] < 0) else map_
