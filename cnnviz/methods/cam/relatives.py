"""Grad-CAM's relatives: what they make of the activations A [C, h, w] and their gradients g = dz/dA.

    Grad-CAM++          alpha = g^2 / (2 g^2 + g^3 sum A),  w_k = sum_ij alpha relu(g)
    Smooth Grad-CAM++   the same with the means of g, g^2 and g^3 over noisy images
    XGrad-CAM           w_k = sum_ij (A / sum A) g
    HiResCAM            L = relu(sum_k g A)
    LayerCAM            L = relu(sum_k relu(g) A)
    Finer-CAM           Grad-CAM of z_c - s * mean of the logits of similar classes
    ShapleyCAM          w_k = mean_ij (g - H A / 2),  H the Hessian of z

sums over positions (ij) or channels (k); with weights w_k, L = relu(sum_k w_k A_k). All at the layer's resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target, class_logits
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap, upsample
from cnnviz.methods.nearby_images import gradients_at, noisy_copies
from cnnviz.methods.weighted_activations import class_map, gradients_of, mean_gradient
from cnnviz.registry.cam import FinerCAMOptions, ShapleyCAMOptions, SmoothGradCAMPlusPlusOptions
from cnnviz.registry.params import Options

# Below this share of the sum of magnitudes a sum of activations is what rounding left of it.
_CANCELLED = 1e-4
_TANH_SCALE = 2.0


def gradcam_plus_plus(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Grad-CAM++.

        alpha_kij = g^2 / (2 g^2 + g^3 sum_ab A_kab)  (0 where g = 0),    w_k = sum_ij alpha_kij relu(g_kij)

    Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
    WACV 2018, equations 10 and 19: the closed form for the score exp(z), whose derivatives are powers of g times
    exp(z), which drops out of the map. Computed as 1 / (2 + g sum A): no epsilon, which in pytorch-grad-cam drowns
    small gradients. (torchcam up to 0.5 loses the division and weighs by relu(g) g^2.)

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0.
    """
    return Heatmap(class_map(run, target, _plus_plus).values.clamp_min(0))


def _plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    # Only positive gradients weigh; in place, because most of the time goes to fresh memory.
    rising = gradients.clamp_min(0)
    bottom = (rising * activations.sum((2, 3), keepdim=True)).add_(2)
    bottom.masked_fill_(bottom == 0, torch.inf)
    return weighed(activations, rising.mul_(bottom.reciprocal_()).sum((2, 3)))


def smooth_gradcam_plus_plus(run: ForwardPass, target: Target, params: SmoothGradCAMPlusPlusOptions) -> Heatmap:
    """Smooth Grad-CAM++.

        D_p = mean over noisy images of g^p,    alpha = D_2 / (2 D_2 + D_3 sum A),    w_k = sum_ij alpha relu(D_1)

    Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional
    Neural Network Models", 2019, equations 6 to 8; A is that of the clean image, the noise that of SmoothGrad: normal,
    with a deviation of ``noise`` times the image's range, drawn from the seed and the image's content.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``samples``, ``noise``, ``seed``.

    Returns:
        Heatmap with values [N, h, w] >= 0.
    """
    activations = run.activations[0].detach().float()
    one, two, three = (torch.zeros_like(activations) for _ in range(3))
    noisy = noisy_copies(run.pixels.detach().float(), params.noise, params.samples, params.seed)
    for _, gradient in gradients_at(run, target, noisy):
        one += gradient
        two += gradient.square()
        three += gradient**3
    count = params.samples
    bottom = (2 * two + three * activations.sum((2, 3), keepdim=True)) / count
    alpha = torch.where(bottom != 0, two / count / torch.where(bottom != 0, bottom, 1.0), 0.0)
    weights = (alpha * (one / count).clamp_min(0)).sum((2, 3))
    return Heatmap(weighed(activations, weights).clamp_min(0))


def xgradcam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """XGrad-CAM.

        w_k = sum_ij (A_kij / sum_ab A_kab) g_kij

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020, equation 8.
    A channel whose positive and negative activations cancel has no such weight, and gets 0; behind a ReLU that is a
    channel that is zero everywhere.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score.
    """
    return Heatmap(class_map(run, target, _axiomatic).values.clamp_min(0))


def _axiomatic(activations: Tensor, gradients: Tensor) -> Tensor:
    total = activations.sum((2, 3))
    usable = total.abs() > _CANCELLED * activations.abs().sum((2, 3))
    top = (activations * gradients).sum((2, 3))
    return weighed(activations, torch.where(usable, top / torch.where(usable, total, 1.0), 0.0))


def hirescam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """HiResCAM.

        L = relu(sum_k g_k A_k), element by element

    Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
    2020. Where the head is average pooling and one linear layer the gradient is the same at every position, and the
    map is Grad-CAM's.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score.
    """
    return Heatmap(class_map(run, target, lambda a, g: (a * g).sum(1)).values.clamp_min(0))


def layercam(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """LayerCAM, of one layer or fused over several.

        M = relu(sum_k relu(g_k) A_k), element by element

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021. Of several
    layers each map is divided by its maximum, those of all but the deepest are raised by tanh(2 M / max M) (equation
    8: maps of shallow layers are weak), and the result is their maximum at each position (section III-C). The deepest
    is the layer that is computed from most of the others; of branches side by side the coarsest, then the last named.

    Args:
        run: A forward pass with activations of one or more layers.
        target: Score [N] of the logits.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0; of several layers at the resolution of the finest, between 0 and 1.
    """
    gradients = gradients_of(run, target)
    pairs = zip(run.activations, gradients, strict=True)
    maps = [(a.detach().float() * g.clamp_min(0)).sum(1).clamp_min(0) for a, g in pairs]
    if len(maps) == 1:
        return Heatmap(maps[0])
    size = max(((int(m.shape[1]), int(m.shape[2])) for m in maps), key=lambda s: s[0] * s[1])
    deepest = run.session.remember("deepest layer", lambda: _deepest(run.activations))
    scaled = []
    for place, map_ in enumerate(maps):
        top = map_.amax((1, 2), keepdim=True)
        share = torch.where(top > 0, map_ / torch.where(top > 0, top, 1.0), 0.0)
        raised = share if place == deepest else torch.tanh(_TANH_SCALE * share)
        scaled.append(upsample(raised, size))
    facts = {"layers": [layer.name for layer in run.session.layers], "fusion": "maximum; tanh of all but the deepest"}
    return Heatmap(torch.stack(scaled).amax(0), facts=facts)


def _deepest(activations: Sequence[Tensor]) -> int:
    """Place of the layer that is computed from most of the others."""

    def rank(place: int) -> tuple[int, int, int]:
        own = activations[place]
        others = [a for i, a in enumerate(activations) if i != place]
        reached = torch.autograd.grad(own.sum(), others, retain_graph=True, allow_unused=True)
        return sum(gradient is not None for gradient in reached), -own.shape[2] * own.shape[3], place

    return max(range(len(activations)), key=rank)


def finercam(run: ForwardPass, target: Target, params: FinerCAMOptions) -> Heatmap:
    """Finer-CAM: what tells a class from those like it.

        z = z_c - s * mean over d of z_d,    then Grad-CAM of z

    Zhang et al., "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", CVPR 2025. The d
    are the ``references`` classes whose logits are nearest to that of the class, or ``contrast_class``; s
    is ``strength``, at 0 the map is Grad-CAM. (The authors' code weighs the references by their probabilities and
    differentiates these weights too; here they count alike.)

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: The logit of a class.
        params: ``references``, ``strength``, ``contrast_class`` (an index; None: the nearest ones).

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score; score ``references``: the indices of the classes
        that each image's class was compared with.

    Raises:
        CnnvizError: The target is not the logit of a class, or ``contrast_class`` does not name one.
    """
    if target.logit_index is None:
        raise CnnvizError("Finer-CAM compares the logits of classes.", "Ask for a class, and leave --score out.")
    by_class = class_logits(run.logits)
    others = _references(by_class.detach(), target.logit_index.to(by_class.device), params)
    compared = by_class.gather(1, others).mean(1)
    gradients = run.gradients(target(run.output) - params.strength * compared)[0]
    map_ = mean_gradient(run.activations[0].detach().float(), gradients)
    return Heatmap(map_.clamp_min(0), scores={"references": others.cpu()})


def _references(by_class: Tensor, asked: Tensor, params: FinerCAMOptions) -> Tensor:
    """Indices [N, n] of the classes to compare with."""
    count, classes = by_class.shape
    if params.contrast_class is not None:
        word = params.contrast_class
        if not word.isdecimal():
            raise CnnvizError(f"contrast_class={word!r}: the classes of this network have no names.", "Give an index.")
        if int(word) >= classes:
            raise CnnvizError(f"contrast_class={word}: the network has {classes} classes.", "Name one of them.")
        return torch.full((count, 1), int(word), device=by_class.device)
    distance = (by_class - by_class.gather(1, asked[:, None])).abs()
    distance.scatter_(1, asked[:, None], torch.inf)
    order = torch.argsort(distance, dim=1, stable=True)
    return order[:, : max(1, min(params.references, classes - 1))]


def shapleycam(run: ForwardPass, target: Target, params: ShapleyCAMOptions) -> Heatmap:
    """ShapleyCAM.

        w_k = mean_ij (g - H A / 2)_kij,    H A the product of the Hessian of z with the activations

    Cai, "CAMs as Shapley Value-based Explainers", 2025: the Shapley value of each activation, were z its second-order
    expansion at A. For a head that is linear in A it is Grad-CAM. ``utility=rest`` takes the paper's residual softmax
    score z_c + log p_c in the place of the target's score.

    Args:
        run: A forward pass with activations [N, C, h, w].
        target: Score [N] of the logits.
        params: ``utility``: ``score`` or ``rest``.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score.

    Raises:
        CnnvizError: ``rest`` was asked for, and the target is not a class.
    """
    if run.session.graph is not None and run.session.graph.attention:
        with rt.twice_differentiable():
            run = run.session.forward(run.pixels)
    score = target(run.output)
    if params.utility == "rest":
        logit, log_p = target.in_unit("logit"), target.in_unit("log-probability")
        if logit is None or log_p is None:
            raise CnnvizError("utility=rest is defined for a class.", "Ask for a class, or use utility=score.")
        score = logit(run.output) + log_p(run.output)
    leaf = run.activations[0]
    [gradient] = torch.autograd.grad(score.sum(), [leaf], create_graph=True, materialize_grads=True)
    product = torch.zeros_like(leaf)
    if gradient.requires_grad:
        inner = (gradient * leaf.detach()).sum()
        [product] = torch.autograd.grad(inner, [leaf], retain_graph=True, materialize_grads=True)
    activations = leaf.detach().float()
    return Heatmap(mean_gradient(activations, gradient.detach().float() - 0.5 * product.float()).clamp_min(0))


def weighed(activations: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k A_k [N, h, w], signed, of weights [N, C]."""
    n, channels, height, width = activations.shape
    return (weights[:, None] @ activations.reshape(n, channels, -1)).reshape(n, height, width)
