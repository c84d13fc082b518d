"""Gradients at the pixels."""

from __future__ import annotations

from cnnviz.registry.specs import MethodSpec, Param

_REDUCTION = Param(
    "reduction",
    "choice",
    "max",
    "How the absolute values of a pixel's channels become one: their maximum (the paper), sum or L2 norm.",
    choices=("max", "sum", "l2"),
)

INPUT_GRADIENTS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="saliency",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradient.gradients:saliency",
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
        entry="cnnviz.methods.gradient.gradients:gradient_x_input",
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
        entry="cnnviz.methods.gradient.gradients:smoothgrad",
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
        entry="cnnviz.methods.gradient.gradients:integrated_gradients",
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
        gap="the steps are too few for the way from the baseline; use more with --steps",
        backward="steps",
    ),
    MethodSpec(
        name="guided",
        command="guided",
        family="input gradients",
        entry="cnnviz.methods.gradient.guided_backprop:guided",
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
)
