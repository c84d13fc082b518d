"""Guided backpropagation, deconvnet and plain backpropagation: one table, and the product with Grad-CAM.

Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015; Zeiler & Fergus,
"Visualizing and Understanding Convolutional Networks", ECCV 2014. The rules themselves are in
:mod:`cnnviz.engine.relu_rules`; they hold for every rectifier between the score and the image, the classifier's
included. Maximum pooling sends the gradient back to where the maximum was (deconvnet's switches); batch normalisation
is an affine map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import relu_rules
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.gradient.gradients import unsigned
from cnnviz.methods.heatmap import Heatmap, upsample
from cnnviz.methods.weighted_activations import mean_gradient
from cnnviz.registry.gradients import GuidedOptions

STARTS = ("activation", "one")
_NO_UNIT = -1


def guided(run: ForwardPass, target: Target, params: GuidedOptions) -> Heatmap:
    """The gradient of the score with respect to the image, with a rule at every rectifier.

        backprop    g * [0 < x]
        deconvnet   max(g, 0)
        guided      max(g, 0) * [0 < x]

    with x the input of the rectifier and g the gradient that arrives at its output.

    With ``with_gradcam`` Guided Grad-CAM (Selvaraju et al., ICCV 2017): the product of the unscaled guided gradient
    and the rectified, bilinearly upsampled Grad-CAM of the layer; pictures are scaled after the product.

    With ``unit`` the gradient starts at one unit of the layer instead of a class, as in Zeiler & Fergus: at the
    position where the unit is strongest, all other units and positions zero. What is sent back from there is the
    unit's activation (``start=activation``, the paper) or 1 (``start=one``).

    Guided and deconvnet maps hardly depend on the class and survive the randomisation of weights (Adebayo et al.,
    "Sanity Checks for Saliency Maps", NeurIPS 2018): they show what structure is there, not what speaks for a class.

    Args:
        run: A forward pass that starts at the image, and looks at a layer where one is needed.
        target: Score [N] of the logits.
        params: ``rule``, ``with_gradcam``, ``strict_rule``, ``unit``, ``start``, ``reduction``.

    Returns:
        Heatmap with values [N, C, H, W], the signed gradient, and maps [N, H, W] >= 0. Facts: ``rule``, ``rectified``
        (how many activations of each name), ``extended`` (whether some were no ReLUs), and ``left_alone``. With
        ``with_gradcam`` the two factors as arrays ``gradient`` [N, C, H, W] and ``gradcam`` [N, H, W].

    Raises:
        CnnvizError: ``strict_rule`` on a network with other activations than ReLUs; no such unit.
    """
    figures: dict[str, Any] = {}
    if params.unit == _NO_UNIT:
        scores = target(run.output)
    else:
        scores, figures = _unit(run, params)
    with relu_rules.applied(scores, params.rule, strict=params.strict_rule) as found:
        values = run.gradients(scores, (0,))[0]
    facts = {"rule": params.rule, **_said(found, params.rule)}
    arrays = {}
    if params.with_gradcam:
        cam = gradcam_at_pixels(run, scores)
        arrays = {"gradient": values, "gradcam": cam}
        values = values * cam[:, None]
        facts["with_gradcam"] = True
    heatmap = unsigned(values, params.reduction)
    facts.update(heatmap.facts)
    return replace(heatmap, facts=facts, scores=figures, arrays=arrays, notes=_notes(found, params.rule))


def gradcam_at_pixels(run: ForwardPass, scores: Tensor) -> Tensor:
    """ReLU of Grad-CAM at the layer, then bilinear to the image's size: [N, H, W], unscaled."""
    gradient = run.gradients(scores, (1,))[0]
    height, width = run.pixels.shape[2:]
    return upsample(mean_gradient(run.activations[1].detach().float(), gradient).clamp_min(0), (height, width))


def _unit(run: ForwardPass, params: GuidedOptions) -> tuple[Tensor, dict[str, Any]]:
    """A score [N] whose gradient at the layer is one value at the unit's strongest position and zero elsewhere."""
    unit, activations = params.unit, run.activations[1]
    if params.with_gradcam:
        raise CnnvizError("Grad-CAM explains a class, not a unit.", "Leave out --unit, or --with-gradcam.")
    channels, width = activations.shape[1], activations.shape[3]
    if unit >= channels:
        name = run.session.layers[0].name
        raise CnnvizError(f"Unit {unit} does not exist: layer {name} has {channels}.", f"Use 0 to {channels - 1}.")
    value, place = activations[:, unit].flatten(1).max(dim=1)
    figures = {
        "unit_activation": value.detach().float(),
        "unit_position": torch.stack([place // width, place % width], 1),
    }
    return (value * value.detach() if params.start == "activation" else value), {"unit": unit, **figures}


def _said(found: relu_rules.RuleReport, rule: str) -> dict[str, Any]:
    if rule == "backprop":
        return {"rectified": {"relu": 0}, "extended": False}
    said: dict[str, Any] = {"rectified": found.rectified(), "extended": bool(found.others)}
    return {**said, "left_alone": dict(found.hidden)} if found.hidden else said


def _notes(found: relu_rules.RuleReport, rule: str) -> tuple[str, ...]:
    notes = []
    if rule != "backprop" and found.others:
        names = ", ".join(f"{count} {name}" for name, count in found.others.items())
        notes.append(f"{rule} (extended): the papers' rule is for ReLUs; the gradient was rectified at {names} too")
    if rule != "backprop" and found.hidden:
        names = ", ".join(f"{count} {name}" for name, count in found.hidden.items())
        notes.append(f"{rule}: {names} cannot be looked into and passed the gradient on unrectified")
    if rule != "backprop" and not found.rectifiers and not found.others:
        notes.append(f"{rule}: no rectifier was found between the score and the image; this is the plain gradient")
    return tuple(notes)
