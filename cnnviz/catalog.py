"""THE register: every method as data.

The command line, the pipeline, the report, the README's table, ``cnnviz.methods()`` and the contract tests read it. A
new method is its function, its entry here and its oracle; third parties add entries through the entry-point group
``cnnviz.methods``. Nothing here imports torch: ``--help`` must not wait for it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from cnnviz.errors import CnnvizError, nearest
from cnnviz.specs import MethodSpec, Param

ENTRY_POINT_GROUP = "cnnviz.methods"

_COUNTERFACTUAL = Param(
    "counterfactual",
    "bool",
    False,
    "Show what speaks against the class: negated gradients (Grad-CAM paper, 3.3).",
)

_REDUCTION = Param(
    "reduction",
    "choice",
    "max",
    "How the absolute values of a pixel's channels become one: their maximum (the paper), sum or L2 norm.",
    choices=("max", "sum", "l2"),
)

BUILT_IN: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="cam",
        command="cam",
        family="class activation maps",
        entry="cnnviz.methods.cam:cam",
        title="CAM",
        summary="Class activation map: the classifier's own weights on the last feature maps.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        needs=("gap-head",),
        signed=True,
    ),
    MethodSpec(
        name="gradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.gradcam:gradcam",
        title="Grad-CAM",
        summary="Feature maps weighted by the mean gradient of the class score, rectified.",
        paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017",
        params=(_COUNTERFACTUAL,),
        backward="1 (head)",
    ),
    MethodSpec(
        name="saliency",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradients:saliency",
        title="Saliency",
        summary="The largest gradient of the class score over the channels of each pixel.",
        paper="Simonyan et al., Deep Inside Convolutional Networks, ICLR workshop 2014",
        params=(_REDUCTION,),
        space="input",
        backward="1",
    ),
    MethodSpec(
        name="gradient_x_input",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradients:gradient_x_input",
        title="Gradient × input",
        summary="The gradient of the class score times the image: each pixel's first-order share.",
        paper="Shrikumar et al., Not Just a Black Box, 2016",
        space="input",
        signed=True,
        backward="1",
    ),
    MethodSpec(
        name="smoothgrad",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradients:smoothgrad",
        title="SmoothGrad",
        summary="The gradient averaged over noisy copies of the image; or its square, or its variance.",
        paper="Smilkov et al., SmoothGrad: removing noise by adding noise, 2017",
        params=(
            Param("samples", "int", 25, "Noisy copies.", minimum=1),
            Param("noise", "float", 0.15, "Standard deviation, as a share of the image's range.", minimum=0),
            Param(
                "statistic",
                "choice",
                "mean",
                "Mean of the gradients, mean of their squares, or their variance.",
                choices=("mean", "square", "variance"),
            ),
            _REDUCTION,
            Param("seed", "int", 0, "Seeds the noise.", minimum=0),
        ),
        space="input",
        forward="samples",
        backward="samples",
    ),
    MethodSpec(
        name="integrated_gradients",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradients:integrated_gradients",
        title="Integrated gradients",
        summary="The gradient integrated from a baseline to the image: shares that sum to the difference in score.",
        paper="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017",
        params=(
            Param("steps", "int", 50, "Points on the way from the baseline to the image.", minimum=1),
            Param(
                "baseline",
                "text",
                "zero",
                "Where the way starts: zero (mean colour), black, gray, mean, blur, noise, random, or a colour.",
            ),
            Param(
                "quadrature",
                "choice",
                "gauss",
                "Which points: Gauss-Legendre, midpoints, or the right ends of the paper.",
                choices=("gauss", "midpoint", "right"),
            ),
            Param("trials", "int", 1, "Baselines to average, of use for noise and random.", minimum=1),
            Param("seed", "int", 0, "Seeds random baselines.", minimum=0),
        ),
        space="input",
        signed=True,
        forward="steps + 1",
        backward="steps",
    ),
    MethodSpec(
        name="guided",
        command="guided",
        family="input gradients",
        entry="cnnviz.methods.guided:guided",
        title="Guided backpropagation",
        summary="The gradient at the image with a rule at every ReLU: backprop, deconvnet or guided; times Grad-CAM.",
        paper="Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015",
        params=(
            Param(
                "rule",
                "choice",
                "guided",
                "What a ReLU sends back: the gradient where it was active, the positive gradient, or both conditions.",
                choices=("backprop", "deconvnet", "guided"),
            ),
            Param(
                "with_gradcam",
                "bool",
                False,
                "Guided Grad-CAM: times the Grad-CAM of the layer.",
                needs_layer=True,
            ),
            Param("strict_rule", "bool", False, "Refuse networks with other activations than ReLUs."),
            Param(
                "unit",
                "int",
                -1,
                "Start at this channel of the layer, where it is strongest, instead of at the class; -1: the class.",
                minimum=-1,
                needs_layer=True,
            ),
            Param(
                "start",
                "choice",
                "activation",
                "What a unit sends back: its activation (Zeiler & Fergus) or one.",
                choices=("activation", "one"),
            ),
            _REDUCTION,
        ),
        space="input",
        backward="1",
        colour=True,
        caveat=(
            "guided backpropagation and deconvnet hardly depend on the class or on the trained weights (Adebayo et al. "
            "2018): read them as edges the network can see, not as evidence for a class"
        ),
    ),
    MethodSpec(
        name="excitation_backprop",
        command="excitation-backprop",
        family="relevance",
        entry="cnnviz.methods.excitation:excitation_backprop",
        title="Excitation backprop",
        summary="Where a winner-take-all walk from the class down the excitatory connections ends up.",
        paper="Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016",
        params=(
            Param("contrastive", "bool", False, "Less what the class's dual unit, with negated weights, would reach."),
        ),
        backward="1 (head)",
    ),
    MethodSpec(
        name="lrp",
        command="lrp",
        family="relevance",
        entry="cnnviz.methods.lrp:lrp",
        title="LRP",
        summary="Layer-wise relevance propagation: the score handed back layer by layer to the pixels.",
        paper="Bach et al., On Pixel-Wise Explanations by Layer-Wise Relevance Propagation, PLoS ONE 2015",
        params=(
            Param(
                "rule",
                "choice",
                "composite",
                "epsilon or alpha-beta at all layers; composite: epsilon at linear layers, alpha 1 beta 0 at "
                "convolutions, flat at the first.",
                choices=("composite", "epsilon", "alpha-beta"),
            ),
            Param("epsilon", "float", 1e-6, "Added to the denominators of the epsilon rule.", minimum=0),
            Param("alpha", "float", 2.0, "Weight of what speaks for; beta = alpha - 1 speaks against.", minimum=1),
            Param(
                "bias",
                "choice",
                "absorb",
                "Biases absorb their share (the paper), or are ignored: their share goes to the inputs.",
                choices=("absorb", "ignore"),
            ),
        ),
        space="input",
        signed=True,
        forward="2",
        backward="1",
    ),
    MethodSpec(
        name="occlusion",
        command="occlusion",
        family="perturbation",
        entry="cnnviz.methods.occlusion:occlusion",
        title="Occlusion",
        summary="How much the score drops when a window of the image is hidden.",
        paper="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014",
        params=(
            Param("window", "size", 32, "Side of the window, or height,width.", minimum=1, unit="pixels"),
            Param("stride", "size", 8, "Step between windows, or height,width.", minimum=1, unit="pixels"),
            Param(
                "baseline",
                "text",
                "zero",
                "What hides the window: zero (mean colour), black, gray, mean, blur, noise, or a colour.",
            ),
            Param(
                "incremental",
                "choice",
                "auto",
                "Recompute only what a window changes, exactly; off runs the whole network for each.",
                choices=("auto", "on", "off"),
            ),
            Param("classes_map", "bool", False, "Keep the most probable class of each position too."),
            Param("seed", "int", 0, "Seeds the noise.", minimum=0),
        ),
        space="grid",
        signed=True,
        forward="one a window",
    ),
)


@lru_cache(maxsize=1)
def all_methods() -> tuple[MethodSpec, ...]:
    """Built-in methods, then those of installed packages, by name.

    Raises:
        CnnvizError: A package registers something else than a :class:`MethodSpec`, or a name that is taken.
    """
    found = {spec.name: spec for spec in BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        spec = point.load()
        spec = spec() if callable(spec) else spec
        if not isinstance(spec, MethodSpec) or spec.name in found:
            problem = (
                f"name {spec.name!r} is taken" if isinstance(spec, MethodSpec) else "it is no MethodSpec"
            )
            raise CnnvizError(f"Entry point {point.name!r} of {ENTRY_POINT_GROUP} cannot be used: {problem}.")
        found[spec.name] = spec
    return tuple(found.values())


def find_method(name: str) -> MethodSpec:
    """The entry of a method.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    methods = {spec.name: spec for spec in all_methods()}
    if name in methods:
        return methods[name]
    hint = nearest(name, methods) or f"There is: {', '.join(methods)}."
    raise CnnvizError(f"Unknown method {name!r}.", hint)


def commands() -> dict[str, tuple[MethodSpec, ...]]:
    """Subcommands and the methods that they run, in the order of the register."""
    grouped: dict[str, tuple[MethodSpec, ...]] = {}
    for spec in all_methods():
        grouped[spec.command] = (*grouped.get(spec.command, ()), spec)
    return grouped


__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "MethodSpec", "Param", "all_methods", "commands", "find_method"]
