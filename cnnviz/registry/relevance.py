"""The score handed back layer by layer."""

from typing import Literal

from cnnviz.registry.specs import FilePath, MethodSpec, Options, background_option, option


class ExcitationBackpropOptions(Options):
    """Options of Excitation backprop."""

    contrastive: bool = option(False, "Less what the class's dual unit, with negated weights, would reach.")


class LRPOptions(Options):
    """Options of LRP."""

    rule: Literal["composite", "epsilon", "alpha-beta", "attnlrp"] = option(
        "composite",
        "epsilon or alpha-beta at all layers; composite: epsilon at linear layers, alpha 1 beta 0 at convolutions, "
        "flat at the first; attnlrp: for transformers, gamma at all layers.",
    )
    epsilon: float = option(1e-06, "Added to the denominators of the epsilon rule.", minimum=0)
    alpha: float = option(2.0, "Weight of what speaks for; beta = alpha - 1 speaks against.", minimum=1)
    gamma: float = option(0.05, "attnlrp: weight of what shares its neuron's sign, in linear layers.", minimum=0)
    conv_gamma: float = option(0.25, "attnlrp: the same in convolutions.", minimum=0)
    bias: Literal["absorb", "ignore"] = option(
        "absorb", "Biases absorb their share (the paper), or are ignored: their share goes to the inputs."
    )
    through: str | None = option(
        None,
        "Concept relevance (CRP): only what goes through these channels of --layer, such as 5,17; or all.",
        demands="layer",
    )


class DeepLIFTOptions(Options):
    """Options of DeepLIFT."""

    baseline: str = option(
        "zero", "What the image is compared with: zero (mean colour), black, gray, mean, blur, noise, random, a colour."
    )
    background: FilePath | None = background_option()
    trials: int | None = option(
        None, "Baselines to average (DeepSHAP). [default: 1; of --background at most 16]", minimum=1
    )
    seed: int = option(0, "Seeds random baselines.", minimum=0)


RELEVANCE: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="excitation_backprop",
        command="excitation-backprop",
        family="relevance",
        entry="cnnviz.methods.relevance.excitation_backprop:excitation_backprop",
        title="Excitation backprop",
        summary="Where a winner-take-all walk from the class down the excitatory connections ends up.",
        paper="Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016",
        options=ExcitationBackpropOptions,
        backward="1 (head)",
        gap="neurons that only their bias excites, and branches around the layer, keep their share",
    ),
    MethodSpec(
        name="lrp",
        command="lrp",
        family="relevance",
        entry="cnnviz.methods.relevance.lrp:lrp",
        title="LRP",
        summary="Layer-wise relevance propagation: the score handed back layer by layer to the pixels; biases keep "
        "their share, in depthwise convolutions nearly all.",
        paper="Bach et al., On Pixel-Wise Explanations by Layer-Wise Relevance Propagation, PLoS ONE 2015",
        options=LRPOptions,
        space="input",
        signed=True,
        forward="2",
        backward="1",
        gap="biases keep their share, in depthwise convolutions nearly all, unless --bias ignore, with which neurons "
        "that no input excites keep theirs: much in such convolutions, little in others; where little arrives read the "
        "map as a ranking, or use gradcam --variant fullgrad, whose terms add up; conservation_gap in the report has "
        "each",
    ),
    MethodSpec(
        name="deeplift",
        command="deeplift",
        family="relevance",
        entry="cnnviz.methods.relevance.deeplift:deeplift",
        title="DeepLIFT",
        summary="The difference in score to a baseline image, handed back layer by layer; over several, DeepSHAP.",
        paper="Shrikumar et al., Learning Important Features Through Propagating Activation Differences, ICML 2017",
        options=DeepLIFTOptions,
        space="input",
        signed=True,
        forward="2 × trials",
        backward="trials",
        gap="a layer hands on what DeepLIFT has no exact rule for; completeness_gap in the report has each",
    ),
)
