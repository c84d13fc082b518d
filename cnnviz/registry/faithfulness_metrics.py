"""Whether a map says what the network uses: pixels are changed by the map's order, and the score is followed."""

from typing import Literal

from cnnviz.registry.metric_specs import Figure, MetricSpec
from cnnviz.registry.params import Options, option

_SUMMARY = "cnnviz.metrics.faithfulness_summary:summarize"
_PETSIUK = "Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018"
_CHATTOPADHYAY = (
    "Chattopadhyay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional "
    "Networks, WACV 2018"
)
_YEH = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019"
_HIDES = "What stands for a hidden pixel: zero of the normalised image, blur, or the image's mean colour."
_JITTER = "Seeds the order of pixels with equal values."
_BASELINES = "Measure a blurred copy of the map too: as many passes again."

_UNIT = Figure("unit", "what is followed: probability, or the unit of a target that has none")
_BLURRED = (
    Figure("blurred", "the same of a blurred copy of the map", "mean"),
    Figure("over_blurred", "how much better the map is than its blurred copy; below 0 it is worse", "mean"),
)


class DeletionOptions(Options):
    """Options of deletion."""

    steps: int = option(28, "Parts of the pixels, changed one after another.", minimum=1)
    replace: Literal["zero", "blur", "mean"] = option("zero", _HIDES)
    seed: int = option(0, _JITTER, minimum=0)
    baselines: bool = option(True, _BASELINES)


class InsertionOptions(Options):
    """Options of insertion."""

    steps: int = option(28, "Parts of the pixels, changed one after another.", minimum=1)
    replace: Literal["zero", "blur", "mean"] = option("blur", _HIDES)
    seed: int = option(0, _JITTER, minimum=0)
    baselines: bool = option(True, _BASELINES)


class RoadOptions(Options):
    """Options of ROAD."""

    percentages: str = option("10+30+50+70+90", "Percent of the pixels that are removed, joined by +.")
    noise: float = option(0.01, "Standard deviation of the noise, in normalised values.", minimum=0)
    seed: int = option(0, "Seeds the noise, and the order of pixels with equal values.", minimum=0)
    baselines: bool = option(True, _BASELINES)


class MaskingOptions(Options):
    """Options of average drop and increase."""

    replace: Literal["zero", "blur", "mean"] = option("zero", _HIDES)


class SensitivityNOptions(Options):
    """Options of sensitivity-n."""

    shares: str = option("0.1+0.3+0.5", "Shares of the patches that are hidden at once, joined by +.")
    subsets: int = option(30, "Random subsets for each share.", minimum=3)
    patch: int = option(16, "Side of a patch; 1 for single pixels.", minimum=1, unit="pixels")
    replace: Literal["zero", "blur", "mean"] = option("zero", _HIDES)
    seed: int = option(0, "Seeds the subsets.", minimum=0)


class InfidelityOptions(Options):
    """Options of infidelity."""

    window: int = option(32, "Side of the squares that are hidden.", minimum=1, unit="pixels")
    draws: int = option(50, "Squares.", minimum=2)
    replace: Literal["zero", "blur", "mean"] = option("zero", _HIDES)
    seed: int = option(0, "Seeds where the squares lie.", minimum=0)


class MaxSensitivityOptions(Options):
    """Options of max-sensitivity."""

    radius: float = option(0.02, "Largest change of a normalised value.", minimum=0)
    draws: int = option(10, "Changed images.", minimum=1)
    seed: int = option(0, "Seeds the changes.", minimum=0)


class OcclusionAgreementOptions(Options):
    """Options of the agreement with occlusion."""

    window: int = option(32, "Side of the window.", minimum=1, unit="pixels")
    stride: int = option(16, "Step between windows.", minimum=1, unit="pixels")
    replace: Literal["zero", "blur", "mean"] = option("zero", _HIDES)


FAITHFULNESS: tuple[MetricSpec, ...] = (
    MetricSpec(
        name="insertion",
        entry="cnnviz.metrics.faithfulness_curves:Insertion",
        title="Insertion",
        summary="How soon the probability rises when the map's best pixels are put back first.",
        paper=_PETSIUK,
        measures="model",
        direction="higher",
        options=InsertionOptions,
        figures=(
            Figure("area", "area below the curve, by the trapezoidal rule over the share of pixels put back", "mean"),
            Figure("curve", "the score after each part of the pixels, from none to all"),
            _UNIT,
            *_BLURRED,
        ),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="deletion",
        entry="cnnviz.metrics.faithfulness_curves:Deletion",
        title="Deletion",
        summary="How soon the probability falls when the map's best pixels are taken away first.",
        paper=_PETSIUK,
        measures="model",
        direction="lower",
        options=DeletionOptions,
        figures=(
            Figure("area", "area below the curve, by the trapezoidal rule over the share of pixels gone", "mean"),
            Figure("curve", "the score after each part of the pixels, from none to all"),
            _UNIT,
            *_BLURRED,
        ),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="road",
        entry="cnnviz.metrics.faithfulness_road:Road",
        title="ROAD",
        summary="The probability when the map's last pixels are removed first, minus when its best are, imputed.",
        paper="Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022",
        measures="model",
        direction="higher",
        options=RoadOptions,
        figures=(
            Figure("difference", "least relevant first minus most relevant first", "mean"),
            Figure("most_relevant_first", "mean score over the percentages, the best pixels removed first", "mean"),
            Figure("least_relevant_first", "mean score over the percentages, the last pixels removed first", "mean"),
            Figure("percentages", "percent of the pixels that are removed"),
            Figure("most_relevant_first_curve", "the score at each percentage"),
            Figure("least_relevant_first_curve", "the score at each percentage"),
            _UNIT,
            *_BLURRED,
        ),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="average_drop",
        entry="cnnviz.metrics.faithfulness_masking:AverageDrop",
        title="Average drop",
        summary="How much of the probability is lost when only what the map shows is left of the image.",
        paper=_CHATTOPADHYAY,
        measures="model",
        direction="lower",
        unit="%",
        options=MaskingOptions,
        figures=(Figure("drop", "share of the probability that is lost, in percent; 0 where it rises", "mean"),),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="increase",
        entry="cnnviz.metrics.faithfulness_masking:Increase",
        title="Increase in confidence",
        summary="How often the probability rises when only what the map shows is left of the image.",
        paper=_CHATTOPADHYAY,
        measures="model",
        direction="higher",
        options=MaskingOptions,
        figures=(Figure("increase", "whether the probability rises", "rate"),),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="sensitivity_n",
        entry="cnnviz.metrics.faithfulness_subsets:SensitivityN",
        title="Sensitivity-n",
        summary="Whether the map's sum over random patches follows what the score loses when they are hidden.",
        paper="Ancona et al., Towards Better Understanding of Gradient-based Attribution Methods for Deep Neural "
        "Networks, ICLR 2018",
        measures="model",
        direction="higher",
        options=SensitivityNOptions,
        figures=(
            Figure("correlation", "Pearson's correlation, -1 to 1, mean over the shares", "mean"),
            Figure("by_share", "the correlation for each share"),
            Figure("shares", "shares of the patches that are hidden at once"),
        ),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="infidelity",
        entry="cnnviz.metrics.faithfulness_subsets:Infidelity",
        title="Infidelity",
        summary="How far the map's sum over a square is from what the score loses when it is hidden.",
        paper=_YEH,
        measures="model",
        direction="lower",
        options=InfidelityOptions,
        figures=(
            Figure("infidelity", "mean squared distance, the map times the scale that makes it least", "mean"),
            Figure("relative", "the same over that of a map of zeros: 0 to 1, 1 for a map that says nothing", "mean"),
            Figure("unscaled", "mean squared distance of the map as it is, for maps in units of the score", "mean"),
            Figure("scale", "that scale, at least 0"),
        ),
        summarizer=_SUMMARY,
    ),
    MetricSpec(
        name="max_sensitivity",
        entry="cnnviz.metrics.faithfulness_stability:MaxSensitivity",
        title="Max-sensitivity",
        summary="How much a map changes, at most, when the image changes by less than one can see.",
        paper=_YEH,
        measures="model",
        direction="lower",
        baselines_lose=False,
        options=MaxSensitivityOptions,
        figures=(Figure("max_sensitivity", "largest norm of the change over the norm of the map", "mean"),),
        aliases=("sensitivity", "sensitivity_max"),  # as Yeh et al. call it, beside infidelity, and captum
    ),
    MetricSpec(
        name="sparseness",
        entry="cnnviz.metrics.faithfulness_sparseness:score",
        title="Sparseness",
        summary="Whether a map is made of few pixels: the Gini index of its magnitudes.",
        paper="Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, ICML 2020",
        measures="map",
        direction="higher",
        baselines_lose=False,
        figures=(Figure("gini", "0 for an even map, almost 1 for a single pixel", "mean"),),
    ),
    MetricSpec(
        name="occlusion_agreement",
        entry="cnnviz.metrics.faithfulness_subsets:OcclusionAgreement",
        title="Agreement with occlusion",
        summary="Whether a map ranks pixels as occlusion does.",
        paper="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (occlusion)",
        measures="model",
        direction="higher",
        options=OcclusionAgreementOptions,
        figures=(Figure("spearman", "rank correlation with the occlusion map, -1 to 1", "mean"),),
        summarizer=_SUMMARY,
    ),
)
