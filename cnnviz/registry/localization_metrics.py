"""Whether maps lie where the explained class is: entries of the metrics that compare them with boxes and masks."""

from typing import Literal

from cnnviz.registry.metric_specs import Figure, MetricSpec
from cnnviz.registry.params import Options, option

_BASELINES = ("centre_box", "centre_gaussian", "whole_image")
_TRUE_LABELS = Figure(
    "true_labels", "labels of the truth of this image that mean the class; none where the class is not in it"
)
_PROTOCOL = (
    "cnnviz: the map on the photograph in shares of its maximum; wsol: as the program of Choe et al. 2020 does, "
    "at 224x224, between minimum and maximum, holes too, boxes one pixel larger."
)


class BoxLocalizationOptions(Options):
    """Options of box_localization."""

    threshold: float = option(0.2, "The box is around what exceeds this share of the maximum.", minimum=0, maximum=1)
    component: Literal["largest", "any", "strongest"] = option(
        "largest", "Which connected region the box is around; any: the one that fits best; strongest: with the maximum."
    )
    per_component: bool = option(
        False, "Also a box of every connected region, and how many objects of the class these find."
    )
    protocol: Literal["cnnviz", "ilsvrc", "wsol"] = option(
        "cnnviz", f"{_PROTOCOL[:-1]}; ilsvrc: as cnnviz, true boxes in whole pixels."
    )


class MaxBoxAccOptions(Options):
    """Options of max_box_acc and max_box_acc_v2."""

    at: float | None = option(
        None, "A threshold that was chosen on other images; none: the best of these.", minimum=0, maximum=1
    )
    protocol: Literal["cnnviz", "wsol"] = option("cnnviz", _PROTOCOL)


class PxAPOptions(Options):
    """Options of pxap."""

    protocol: Literal["cnnviz", "wsol"] = option(
        "cnnviz", "cnnviz: 256 levels of the map on the photograph; wsol: 1000 at 224x224, as Choe et al. 2020."
    )


class PointingGameOptions(Options):
    """Options of pointing_game."""

    tolerance: float = option(15.0, "How far beside a box still hits.", minimum=0, unit="pixels")


class RegionEnergyOptions(Options):
    """Options of region_energy."""

    regions: str = option(
        "truth;background", "truth, background, x0/y0/x1/y1 in fractions of width and height; several with ;."
    )
    objects: Literal["class", "any", "box"] = option(
        "class",
        "What truth is: where the class of the map is marked; all that is marked; or, of the map of a detector's box, "
        "the marked box of its class that it overlaps most, by an IoU of one half at least.",
    )
    tolerance: float = option(15.0, "How far beside the object its maximum still counts.", minimum=0, unit="pixels")


class GridPointingOptions(Options):
    """Options of grid_pointing."""

    mosaics: int = option(100, "Mosaics of four images that the network gets right.", minimum=1)
    seed: int = option(0, "Seeds which images stand together.", minimum=0)


BOX_LOCALIZATION = MetricSpec(
    name="box_localization",
    entry="cnnviz.metrics.localization_boxes:score",
    title="Box localization",
    summary="Whether the box around a map's largest region fits a box of the class: GT-known, ILSVRC top-1 and top-5.",
    paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016; "
    "Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015 (the errors)",
    measures="map and truth",
    truth="boxes",
    without_truth="scored",
    direction="neither",
    options=BoxLocalizationOptions,
    baselines=_BASELINES,
    figures=(
        Figure("box_xywh", "box around the region, in pixels of the photograph; null without positive values"),
        Figure("flat", "whether the map is the same everywhere: it has no box, and found nothing"),
        Figure("iou", "largest intersection over union with a true box of the class; 0 where the image has none"),
        Figure("rank", "place of the class among the first classes, from 1; null where it is not among them"),
        Figure("guesses", "how many first classes are guesses: 5, or all there are; 0 without classes of the image"),
        Figure("counted", "whether it counts for GT-known: of several classes that mean one label the likeliest does"),
        Figure("true_class", "whether the class is in the image; null where the truth does not know such a class"),
        _TRUE_LABELS,
        Figure("truth_classes", "how many labels of true boxes mean a class of the network; null without boxes"),
        Figure("size", "small, medium or large: COCO's size of the true box that fits best"),
        Figure("boxes_xywh", "with per_component: boxes around the regions, the largest first, at most 100"),
        Figure("objects", "with per_component: how many objects of the class the image has"),
        Figure("objects_found", "with per_component: how many of them have a box of their own with an IoU of 0.5"),
    ),
    summarizer="cnnviz.metrics.localization_boxes:summarize",
    # What the summary of a run has of it.
    aliases=(
        "gt_known",
        "gt_known_accuracy",
        "top1_error",
        "top5_error",
        "top1_classification_error",
        "top5_classification_error",
    ),
)

MAX_BOX_ACC = MetricSpec(
    name="max_box_acc",
    entry="cnnviz.metrics.localization_thresholds:score",
    title="MaxBoxAcc",
    summary="Share of maps whose largest region fits a box of the class, at the threshold that is best for all maps.",
    paper="Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020",
    measures="map and truth",
    truth="boxes",
    direction="higher",
    options=MaxBoxAccOptions,
    baselines=_BASELINES,
    figures=(Figure("hits", "`[first, last]` levels of the threshold at which the box fits"), _TRUE_LABELS),
    summarizer="cnnviz.metrics.localization_thresholds:summarize",
    aliases=("maxboxacc",),
)

MAX_BOX_ACC_V2 = MetricSpec(
    name="max_box_acc_v2",
    entry="cnnviz.metrics.localization_thresholds:score_v2",
    title="MaxBoxAccV2",
    summary="Share of maps of which a region fits at the best threshold, the mean over IoU 0.3, 0.5 and 0.7.",
    paper="Choe et al., Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets, "
    "TPAMI 2022",
    measures="map and truth",
    truth="boxes",
    direction="higher",
    options=MaxBoxAccOptions,
    baselines=_BASELINES,
    figures=(
        Figure("hits_30", "`[first, last]` levels of the threshold at which a region fits by IoU 0.3"),
        Figure("hits_50", "the same by IoU 0.5"),
        Figure("hits_70", "the same by IoU 0.7"),
        _TRUE_LABELS,
    ),
    summarizer="cnnviz.metrics.localization_thresholds:summarize_v2",
    aliases=("maxboxaccv2",),
)

PXAP = MetricSpec(
    name="pxap",
    entry="cnnviz.metrics.localization_pixels:score",
    title="PxAP",
    summary="Area under precision and recall of all pixels of all maps of true classes, by masks.",
    paper="Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020",
    measures="map and truth",
    truth="masks",
    direction="higher",
    options=PxAPOptions,
    baselines=_BASELINES,
    figures=(Figure("levels", "`[levels, pixels of the class, other pixels]` of the map, a list each"),),
    summarizer="cnnviz.metrics.localization_pixels:summarize",
)

REGION_ENERGY = MetricSpec(
    name="region_energy",
    entry="cnnviz.metrics.region_energy:score",
    title="Energy by region",
    summary="Share of a map's positive values in regions: the object, the background, rectangles.",
    paper="Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPRW 2020",
    measures="map and truth",
    # Boxes or masks will do, and rectangles need neither.
    truth="nothing",
    direction="neither",
    options=RegionEnergyOptions,
    figures=(
        Figure("regions", "the regions that were asked for"),
        Figure("energies", "share of the positive values in each region; null where it is not known, or of a flat map"),
        Figure("seen", "share of each region that the network saw; null where it is not known"),
        Figure(
            "peak_inside", "whether the map is largest in the object; null where that is not known, or of a flat map"
        ),
    ),
    summarizer="cnnviz.metrics.region_energy:summarize",
)

POINTING_GAME = MetricSpec(
    name="pointing_game",
    entry="cnnviz.metrics.localization_points:score",
    title="Pointing game",
    summary="Whether a map is largest in, or close to, a box of the class.",
    paper="Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018",
    measures="map and truth",
    truth="boxes",
    direction="higher",
    options=PointingGameOptions,
    baselines=_BASELINES,
    figures=(
        Figure("point", "`[x, y]` of the first pixel where the map is largest; null where it is the same everywhere"),
        Figure("hit", "whether that is in a box of the class, or at most the tolerance beside it"),
        Figure("difficult", "whether the class covers less than a quarter of the image and others are in it too"),
        _TRUE_LABELS,
    ),
    summarizer="cnnviz.metrics.localization_points:summarize",
)

ENERGY_POINTING_GAME = MetricSpec(
    name="energy_pointing_game",
    entry="cnnviz.metrics.localization_points:score_energy",
    title="Energy pointing game",
    summary="Share of a map's positive values that lies in the boxes of the class.",
    paper="Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPRW 2020",
    measures="map and truth",
    truth="boxes",
    direction="higher",
    baselines=_BASELINES,
    figures=(
        Figure("energy", "share of the positive values that lies in the boxes; 0 of a map without any"),
        Figure("size", "small, medium or large: COCO's size of the largest box of the class"),
        _TRUE_LABELS,
    ),
    summarizer="cnnviz.metrics.localization_points:summarize_energy",
)

GRID_POINTING = MetricSpec(
    name="grid_pointing",
    entry="cnnviz.metrics.grid_pointing:score",
    title="Grid pointing game",
    summary="Of a mosaic of four images of four classes: the share of a class's map on the image of that class.",
    paper="Boehle et al., Convolutional Dynamic Alignment Networks for Interpretable Classifications, CVPR 2021",
    measures="mosaics",
    truth="label",
    direction="higher",
    options=GridPointingOptions,
    figures=(Figure("energy", "share of the positive values in the own cell of four; by chance 0.25", "mean"),),
    aliases=("grid_pointing_game",),
)

LOCALIZATION: tuple[MetricSpec, ...] = (
    BOX_LOCALIZATION,
    MAX_BOX_ACC,
    MAX_BOX_ACC_V2,
    PXAP,
    POINTING_GAME,
    ENERGY_POINTING_GAME,
    REGION_ENERGY,
    GRID_POINTING,
)
