"""What is measured about maps: an entry for each metric, as data."""

from __future__ import annotations

from typing import Literal

from cnnviz.registry.faithfulness_metrics import FAITHFULNESS
from cnnviz.registry.localization_metrics import LOCALIZATION
from cnnviz.registry.metric_specs import Figure, MetricRequest, MetricSpec
from cnnviz.registry.params import Options, option

__all__ = [
    "CONSERVATION",
    "FIT",
    "MAP_STATISTICS",
    "METRICS",
    "RANDOMIZATION",
    "REPEATABILITY",
    "ConservationOptions",
    "Figure",
    "FitOptions",
    "MapStatisticsOptions",
    "MetricRequest",
    "MetricSpec",
    "RepeatabilityOptions",
]


class MapStatisticsOptions(Options):
    """Options of the map statistics."""

    on: Literal["auto", "pixels", "cells"] = option(
        "auto",
        "The photograph's pixels, or the map's own cells, for which nothing may be drawn or measured beside; "
        "auto: cells for all classes of a network where nothing is.",
    )


class RepeatabilityOptions(Options):
    """Options of repeatability."""

    reason: str | None = option(None, "How the maps of the method come out more alike, beside more draws.")
    draws: str | None = option(None, "The method's option that says how many draws a map is made of.")
    count: int = option(0, "How many that were.", minimum=0)
    doubled: bool = option(False, "Whether it is worth doubling alone.")


class FitOptions(Options):
    """Options of fit."""

    reason: str | None = option(None, "What says more of a score that the values do not explain.")


class ConservationOptions(Options):
    """Options of conservation."""

    reason: str | None = option(None, "Why the values of the method may not add up to the score.")


MAP_STATISTICS = MetricSpec(
    name="map_statistics",
    entry="cnnviz.metrics.map_statistics:score",
    title="Map statistics",
    summary="Where a map is largest, the box of its largest region, and how far it is spread out.",
    paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016 (the box)",
    measures="map",
    options=MapStatisticsOptions,
    figures=(
        Figure("min", "smallest value of the raw map, in the method's own unit"),
        Figure("max", "largest value of the raw map"),
        Figure("mean", "mean of the raw map"),
        Figure("peak", "`[x, y]` where the map is largest"),
        Figure("box_xywh", "box around the largest connected region above 20 % of the maximum (Zhou et al. 2016)"),
        Figure("energy_in_box", "share of the positive values that lies in that box"),
        Figure(
            "entropy",
            "of the positive values as a distribution over the pixels, divided by its largest possible value: "
            "0 for one pixel, 1 for a uniform map",
        ),
        Figure("area_above_half", "share of the pixels above half of the maximum"),
        Figure(
            "flat",
            "`true` where the map is zero, or the same, everywhere (`flat_reason` says why); "
            "the other figures are then `null`",
        ),
    ),
    summarizer="",
    key="",
)


class RandomizationOptions(Options):
    """Options of randomization."""

    steps: Literal["all", "last"] = option("all", "From the top down, layer by layer; or all layers at once, alone.")


RANDOMIZATION = MetricSpec(
    name="randomization",
    entry="cnnviz.metrics.randomization:Randomization",
    title="Parameter randomization test",
    summary="How alike a map stays when the network's layers are made random, from the top down.",
    paper="Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018",
    measures="model",
    direction="lower",
    options=RandomizationOptions,
    figures=(
        Figure("down_to", "lowest layer that is random; all layers above it are random too"),
        Figure("layers", "how many layers are random"),
        Figure("spearman", "rank correlation with the map of the trained network, -1 to 1"),
        Figure("spearman_abs", "of methods whose values have a sign: rank correlation of the magnitudes"),
        Figure("ssim", "structural similarity with the map of the trained network (of the magnitudes), -1 to 1"),
    ),
    summarizer="cnnviz.metrics.randomization:summarize",
    key="sanity",
    summary_key="sanity",
)

CONSERVATION = MetricSpec(
    name="conservation",
    entry="",
    title="Conservation",
    summary="What share of the score the values of a map leave out, of methods whose values should add up to it.",
    paper="Bach et al., On Pixel-Wise Explanations by Layer-Wise Relevance Propagation, PLOS ONE 2015",
    measures="figures",
    direction="lower",
    options=ConservationOptions,
    figures=(Figure("gap_share", "share of the score that the sum of the map's values leaves out"),),
    summarizer="cnnviz.metrics.conservation:summarize",
    key="",
    summary_key="left_out",
)

REPEATABILITY = MetricSpec(
    name="repeatability",
    entry="",
    title="Repeatability",
    summary="How alike the maps of two seeds would be, of methods that draw by chance and know their error.",
    paper="Covert & Lee, Improving KernelSHAP: Practical Shapley Value Estimation via Linear Regression, AISTATS 2021",
    measures="figures",
    direction="higher",
    options=RepeatabilityOptions,
    figures=(Figure("reliability", "correlation to expect of the maps of two seeds"),),
    summarizer="cnnviz.metrics.repeatability:summarize",
    key="",
    summary_key="repeatability",
)

FIT = MetricSpec(
    name="fit",
    entry="",
    title="Fit",
    summary="What share of the scores' variance the values of a linear model explain, of methods that fit one.",
    paper="Ribeiro et al., Why Should I Trust You? Explaining the Predictions of Any Classifier, KDD 2016",
    measures="figures",
    direction="higher",
    options=FitOptions,
    figures=(Figure("fit", "share of the scores' variance that the values explain, at most 1"),),
    summarizer="cnnviz.metrics.fit:summarize",
    key="",
    summary_key="fit",
)

METRICS: tuple[MetricSpec, ...] = (
    MAP_STATISTICS,
    RANDOMIZATION,
    CONSERVATION,
    REPEATABILITY,
    FIT,
    *FAITHFULNESS,
    *LOCALIZATION,
)
