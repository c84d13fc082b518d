"""Gradients at the pixels."""

from typing import Literal

from cnnviz.registry.specs import FilePath, MethodSpec, Options, background_option, option

Reduction = Literal["max", "sum", "l2"]


def _reduction() -> Reduction:
    return option(
        "max", "How the absolute values of a pixel's channels become one: their maximum (the paper), sum or L2 norm."
    )


class SaliencyOptions(Options):
    """Options of Saliency."""

    reduction: Reduction = _reduction()


class SmoothGradOptions(Options):
    """Options of SmoothGrad."""

    samples: int = option(25, "Noisy copies.", minimum=1)
    noise: float = option(0.15, "Standard deviation, as a share of the image's range.", minimum=0)
    statistic: Literal["mean", "square", "variance"] = option(
        "mean", "Mean of the gradients, mean of their squares, or their variance."
    )
    reduction: Reduction = _reduction()
    seed: int = option(0, "Seeds the noise.", minimum=0)


class IntegratedGradientsOptions(Options):
    """Options of Integrated gradients."""

    steps: int = option(50, "Points on the way from the baseline to the image.", minimum=1)
    baseline: str = option(
        "zero", "Where the way starts: zero (mean colour), black, gray, mean, blur, noise, random, or a colour."
    )
    quadrature: Literal["gauss", "midpoint", "right"] = option(
        "gauss", "Which points: Gauss-Legendre, midpoints, or the right ends of the paper."
    )
    background: FilePath | None = background_option()
    trials: int | None = option(
        None, "Baselines to average, of use for noise and random. [default: 1; of --background at most 16]", minimum=1
    )
    seed: int = option(0, "Seeds random baselines.", minimum=0)


class GradientSHAPOptions(Options):
    """Options of GradientSHAP."""

    samples: int = option(50, "Points, each on the way from a baseline of its own.", minimum=1)
    baseline: str = option(
        "random", "Where ways start: random (values within the image's range), noise, zero, blur, mean, or a colour."
    )
    background: FilePath | None = background_option()
    noise: float = option(0.0, "Deviation of noise on the image, as a share of its range.", minimum=0)
    seed: int = option(0, "Seeds baselines, points and noise.", minimum=0)


class NeuronConductanceOptions(Options):
    """Options of Neuron conductance."""

    unit: int = option(
        -1, "Channel of the layer; -1: that with the largest gradient times activation, in each image.", minimum=-1
    )
    row: int = option(-1, "With --column the one neuron of the unit, in cells of the layer; -1: all of it.", minimum=-1)
    column: int = option(-1, "As --row.", minimum=-1)
    steps: int = option(50, "Points on the way from the baseline to the image.", minimum=1)
    baseline: str = option(
        "zero", "Where the way starts: zero (mean colour), black, gray, mean, blur, noise, random, or a colour."
    )
    seed: int = option(0, "Seeds random baselines.", minimum=0)

    def not_of_one_thing(self, *, moved: bool) -> str:
        if self.unit < 0:
            return "the unit with the largest gradient times activation may be another in each picture: name --unit"
        one = moved and self.row >= 0
        return "--row and --column name one place, which is another in each picture" if one else ""


class GuidedOptions(Options):
    """Options of Guided backpropagation."""

    rule: Literal["backprop", "deconvnet", "guided"] = option(
        "guided", "What a ReLU sends back: the gradient where it was active, the positive gradient, or both conditions."
    )
    with_gradcam: bool = option(False, "Guided Grad-CAM: times the Grad-CAM of the layer.", demands="layer")
    strict_rule: bool = option(False, "Refuse networks with other activations than ReLUs.")
    unit: int = option(
        -1,
        "Start at this channel of the layer, where it is strongest, instead of at the class; -1: the class.",
        minimum=-1,
        demands="layer",
    )
    start: Literal["activation", "one"] = option(
        "activation", "What a unit sends back: its activation (Zeiler & Fergus) or one."
    )
    reduction: Reduction = _reduction()

    @property
    def starts_elsewhere(self) -> bool:
        return self.unit >= 0


INPUT_GRADIENTS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="saliency",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradient.gradients:saliency",
        title="Saliency",
        summary="The largest gradient of the class score over the channels of each pixel.",
        paper="Simonyan et al., Deep Inside Convolutional Networks, ICLR workshop 2014",
        options=SaliencyOptions,
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
        options=SmoothGradOptions,
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
        options=IntegratedGradientsOptions,
        space="input",
        signed=True,
        forward="steps + 1",
        gap="the steps are too few for the way from the baseline; use more with --steps",
        backward="steps",
    ),
    MethodSpec(
        name="gradient_shap",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradient.gradient_shap:gradient_shap",
        title="GradientSHAP",
        summary="Expected gradients: integrated gradients from many baselines, one point of each.",
        paper="Erion et al., Improving Performance of Deep Learning Models with Axiomatic Attribution Priors and "
        "Expected Gradients, Nature Machine Intelligence 2021; Lundberg & Lee, NIPS 2017",
        options=GradientSHAPOptions,
        space="input",
        signed=True,
        forward="2 × samples",
        gap="the samples are too few for the mean over baselines; use more with --samples",
        backward="samples",
    ),
    MethodSpec(
        name="neuron_conductance",
        command="saliency",
        family="input gradients",
        entry="cnnviz.methods.gradient.neuron_conductance:neuron_conductance",
        title="Neuron conductance",
        summary="Integrated gradients that flow through one unit of a layer: from where it gets what it adds.",
        paper="Dhamdhere et al., How Important Is a Neuron?, ICLR 2019",
        options=NeuronConductanceOptions,
        needs=("layer",),
        space="input",
        signed=True,
        forward="steps + 2",
        backward="2 × steps",
    ),
    MethodSpec(
        name="guided",
        command="guided",
        family="input gradients",
        entry="cnnviz.methods.gradient.guided_backprop:guided",
        title="Guided backpropagation",
        summary="The gradient at the image with a rule at every ReLU: backprop, deconvnet or guided; times Grad-CAM.",
        paper="Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015",
        options=GuidedOptions,
        space="input",
        backward="1",
        colour=True,
        caveat=(
            "guided backpropagation and deconvnet hardly depend on the class or on the trained weights (Adebayo et al. "
            "2018): read them as edges the network can see, not as evidence for a class"
        ),
        no_caveat_with=("with_gradcam",),
    ),
)
