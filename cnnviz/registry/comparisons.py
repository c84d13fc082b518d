"""Commands that make maps by several methods, and say which are right."""

from __future__ import annotations

from typing import Literal

from cnnviz.registry.specs import ComparisonSpec, FilePath, Options, PairSpec, option

_METHODS = "Method to compare, NAME or NAME:OPTION=VALUE,...; several with commas, or repeatable."
_SAVE = (
    "Any of overlay,heatmap,raw,panel,boxes,gradient,none. [default: {}; with -o -: {}; with --only wrong also panel]"
)


class GridOptions(Options):
    """Options of Methods side by side."""

    method: tuple[str, ...] = option(("gradcam", "layercam", "integrated_gradients"), _METHODS)


class LocalizeOptions(Options):
    """Options of Localization."""

    method: tuple[str, ...] = option(("gradcam",), _METHODS)
    protocol: Literal["cnnviz", "ilsvrc", "wsol"] = option(
        "cnnviz",
        "How boxes are taken from maps and compared: as is right; as ImageNet's development kit; as the code of Choe "
        "et al. 2020, whose boxes are a pixel too large.",
    )
    preset: Literal["cam2016", "gradcam2017"] = option(
        "cam2016", "Threshold of that paper: 0.2 of the maximum (CAM), or 0.15 (Grad-CAM)."
    )
    threshold: float | None = option(
        None, "Share of the maximum above which a box is drawn; by default that of --preset.", minimum=0, maximum=1
    )
    threshold_from: FilePath | None = option(
        None,
        "Run of localize on other images: the best threshold of each method there is used here, and is no oracle.",
        metavar="PATH",
    )
    component: Literal["largest", "strongest", "any"] = option(
        "largest", "Which connected region the box is of: the largest, that of the maximum, or any that fits best."
    )
    per_component: bool = option(
        False, "Also a box of every connected region, for several objects in an image: how many objects they find."
    )


class EvaluateOptions(Options):
    """Options of Evaluation."""

    method: tuple[str, ...] = option(("gradcam",), _METHODS)
    preset: Literal["all", "small"] = option(
        "all", "Metrics where --metric names none: all; or small, those that cost few passes."
    )
    mosaics: int = option(
        0,
        "Also the grid pointing game, on so many mosaics of four images that the model gets right.",
        minimum=0,
    )
    baselines: bool = option(
        True,
        "Also measure maps that know nothing of the model (random, center, edges, random_cells), and each map blurred.",
    )


class AuditOptions(Options):
    """Options of Audit."""

    policy: FilePath | None = option(None, "The policy, where it is not the first argument.")
    method: tuple[str, ...] = option((), "Methods in the place of the policy's.")
    strict: bool = option(False, "What is not decided fails too.")
    accept: str | None = option(None, "Store maps and predictions as the baseline for drift, with this reason.")
    until: str | None = option(None, "Last day on which the accepted baseline counts, YYYY-MM-DD.")
    init: bool = option(False, "Write a commented policy to begin with, and end.")


class CompareOptions(Options):
    """Options of Comparison of two runs."""

    method: str | None = option(None, "Method of both, NAME or NAME:OPTION=VALUE,... [default: gradcam]")
    method_b: str | None = option(None, "Method of B, where it is another.")
    model_b: str | None = option(None, "Network of B, as --model names one.")
    weights_b: str | None = option(None, "Weights of B, as --weights names them.")
    checkpoint_b: FilePath | None = option(None, "State dict of B.")
    labels_b: FilePath | None = option(None, "Class names of B. [default: those of --labels]")
    num_classes_b: int | None = option(None, "Number of classes of B.", minimum=1)
    input_size_b: str | None = option(None, "Input size of B, as --input-size has it.")
    mean_b: str | None = option(None, "Mean of B's input, as --mean has it.")
    std_b: str | None = option(None, "Deviation of B's input.")
    channel_order_b: Literal["rgb", "bgr"] | None = option(None, "Channel order of B's input.")
    resize_b: int | None = option(None, "Shorter side of B's pictures before the crop.", minimum=1, unit="pixels")
    view_b: Literal["crop", "tiles", "whole", "squash"] | None = option(None, "What B is shown, as --view has it.")
    layer_b: tuple[str, ...] = option((), "Target layer of B; repeatable. [default: that of --layer]")
    explained: Literal["a", "each"] = option(
        "a",
        "What is explained where neither --class nor --target say: in both what A predicts, or in each what it "
        "predicts itself.",
    )
    against: FilePath | None = option(
        None,
        "Folder of a finished run, or its report.json: that is A, and this run, or the one that INPUT names, is B.",
        metavar="PATH",
    )
    min_similarity: float | None = option(
        None, "Exit with 1 where the mean rank correlation of the maps is lower.", minimum=-1, maximum=1
    )
    max_changed_predictions: float | None = option(
        None, "Exit with 1 where a larger share of the predictions differs.", minimum=0, maximum=1
    )
    panels: int = option(100, "Draw so many images, those that differ most.", minimum=0)


PAIRS: tuple[PairSpec, ...] = (
    PairSpec(
        name="compare",
        entry="cnnviz.compare.compare:compare",
        title="Comparison of two runs",
        summary="How two models, checkpoints or methods differ on the same images, or two finished runs: maps and "
        "predictions, what differs most first.",
        paper="none",
        command="compare",
        family="is the map right",
        options=CompareOptions,
        hidden_options=("only", "shard", "executor"),
        help_overrides={
            "inputs": "Images, as of other commands; or the folders of two finished runs, or of one with --against.",
            "class_": "Index, label, pred, top:K, folder, FILE.csv (.tsv), truth (what --truth marks) or all, in both; "
            "several with commas, or repeatable. [default: what A predicts, see --explained]",
            "save": "What each of the two runs writes, beside its exact maps: any of overlay,heatmap,panel,boxes,"
            "gradient,none. [default: {}]",
        },
        default_save=("overlay",),
    ),
)


COMPARISONS: tuple[ComparisonSpec, ...] = (
    ComparisonSpec(
        name="grid",
        entry="cnnviz.maps.methods_grid:Grid",
        title="Methods side by side",
        summary="What several methods say of an image, in one picture: a cell for each method, a row for each target.",
        paper="none",
        command="grid",
        family="is the map right",
        options=GridOptions,
        views=("crop", "whole", "squash"),
        why_views="compares maps of the whole picture",
        hidden_options=("precision", "metric", "sanity"),
        help_overrides={"save": _SAVE.format("panel", "panel").replace("; with --only wrong also panel", "")},
        default_save=("panel",),
        default_picture="panel",
    ),
    ComparisonSpec(
        name="audit",
        entry="cnnviz.audit.audit:Audit",
        title="Audit",
        summary="Whether the model looks where a policy says that it may; the exit code is 1 where it does not.",
        paper="none",
        command="audit",
        family="is the map right",
        options=AuditOptions,
        views=("crop", "whole", "squash"),
        why_views="compares maps of the whole picture",
        hidden_options=("precision", "only", "metric", "sanity"),
        first_is_policy=True,
        reads="cnnviz.audit.policy:read_by",
        default_save=("overlay",),
        default_picture="overlay",
    ),
    ComparisonSpec(
        name="localize",
        entry="cnnviz.maps.localize:Localize",
        title="Weakly supervised localization",
        summary="Boxes from the maps of one or several methods, and how well they find the objects.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        command="localize",
        family="is the map right",
        options=LocalizeOptions,
        views=("crop", "whole", "squash"),
        why_views="compares maps of the whole picture",
        hidden_options=("precision",),
        help_overrides={
            "class_": "Index, label, pred, top:K, folder, FILE.csv, truth (what --truth marks) or all; several "
            "with commas, or repeatable. [default: top:5, and truth with --truth]",
            "save": _SAVE.format("boxes", "boxes"),
        },
        default_classes=("top:5", "truth"),
        default_save=("boxes",),
        default_picture="boxes",
    ),
    ComparisonSpec(
        name="evaluate",
        entry="cnnviz.maps.evaluate:Evaluate",
        title="Evaluation of maps",
        summary="How faithful the maps of one or several methods are to the model: insertion, deletion, ROAD and more.",
        paper="Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018",
        command="evaluate",
        family="is the map right",
        options=EvaluateOptions,
        views=("crop", "whole", "squash"),
        why_views="changes pixels of one input",
        hidden_options=("precision",),
        help_overrides={"save": _SAVE.format("overlay", "panel")},
        default_save=("overlay",),
        default_picture="panel",
    ),
)
