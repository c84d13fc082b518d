"""What an audit can check: entries of data, with the options that a policy gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cnnviz.registry.params import Options, option
from cnnviz.registry.specs import EntrySpec

# How a picture is changed for ``stable``.
CHANGES = ("shift", "flip", "brightness", "jpeg")

Needs = Literal["nothing", "truth", "labels", "baseline", "segments"]


@dataclass(frozen=True, kw_only=True)
class CheckSpec(EntrySpec):
    """A check of a policy; the entry is a class (:class:`cnnviz.audit.check.Check`).

    Attributes:
        needs: What must be known for it.
        of_maps: Whether it looks at maps, and so needs a method that can be trusted on this network.
        establishes_trust: Whether a method that fails it is not trusted.
        asks_network: Whether it runs the network again, at the end.
        keeps_maps: Whether it reads the maps themselves, so that they must be written.
        level: What a violation is where the policy does not say: ``error`` or ``warning``.
    """

    kind: ClassVar[str] = "Check"

    needs: Needs = "nothing"
    of_maps: bool = True
    establishes_trust: bool = False
    asks_network: bool = False
    keeps_maps: bool = False
    level: Literal["error", "warning"] = "error"


class InsideOptions(Options):
    """Options of inside."""

    min_energy: float | None = option(None, "Least mean share of the map inside the object.", minimum=0, maximum=1)
    min_pointing: float | None = option(
        None, "Least rate of maps that are largest inside the object.", minimum=0, maximum=1
    )
    tolerance: float = option(15.0, "Pixels beside the object that still count for min_pointing.", minimum=0)


class AvoidOptions(Options):
    """Options of avoid."""

    region: str = option("background", "background, or x0,y0,x1,y1 in fractions of width and height.")
    max_energy: float = option(0.5, "Most mean share of the map in the region.", minimum=0, maximum=1)


class CounterfactualOptions(Options):
    """Options of counterfactual."""

    replace: str = option("background", "background, or x0,y0,x1,y1 in fractions of width and height.")
    with_: Literal["shuffle", "blur", "mean", "noise"] = option(
        "shuffle", "What takes its place: that of other images (without their objects), or what is named."
    )
    max_flips: float | None = option(
        0.1, "Most share of predictions that flip, and do not in the control.", minimum=0, maximum=1
    )
    max_drop: float | None = option(
        None, "Most mean loss of probability beyond that of the control.", minimum=0, maximum=1
    )


class StableOptions(Options):
    """Options of stable."""

    under: tuple[str, ...] = option(CHANGES, "shift, flip, brightness, jpeg.")
    min_similarity: float = option(0.8, "Least mean rank correlation of the maps.", minimum=-1, maximum=1)


class DriftOptions(Options):
    """Options of drift."""

    baseline: str = option("baseline", "Folder that --accept wrote, beside the policy.")
    min_similarity: float | None = option(
        0.9, "Least mean rank correlation with the accepted maps.", minimum=-1, maximum=1
    )
    max_changed_predictions: float | None = option(
        None, "Most share of predictions that changed.", minimum=0, maximum=1
    )


class FaithfulOptions(Options):
    """Options of faithful."""

    metric: Literal["deletion", "insertion", "road"] = option("insertion", "What is measured.")
    better_than: Literal["random", "center", "edges", "random_cells", "blurred"] = option(
        "random", "What the method must beat."
    )
    by: float = option(0.0, "By how much, on the mean.", minimum=0, maximum=1)


class SaneOptions(Options):
    """Options of sane."""

    max_similarity: float = option(
        0.5, "Most mean rank correlation with the map of the network with random weights.", minimum=-1, maximum=1
    )


class AccuracyOptions(Options):
    """Options of accuracy."""

    min: float = option(0.9, "Least share of right predictions.", minimum=0, maximum=1)


class CalibrationOptions(Options):
    """Options of calibration."""

    max_error: float = option(0.1, "Most expected calibration error.", minimum=0, maximum=1)
    bins: int = option(15, "Bins of confidence.", minimum=1)


class ShortcutsOptions(Options):
    """Options of shortcuts."""

    max_flips: float = option(
        0.1,
        "Most share of predictions that flip without the region that a cluster of maps suspects, beyond random regions "
        "as large.",
        minimum=0,
        maximum=1,
    )
    neighbours: int = option(
        10, "Nearest maps to which each is joined; an eighth of them where that is fewer.", minimum=2
    )
    regions: int = option(9, "Random regions of each image.", minimum=1)
    images: int = option(40, "Images of a cluster in which the region is hidden, at most.", minimum=1)


class EvidenceOptions(Options):
    """Options of evidence."""

    of: str | None = option(None, "Class whose maps are judged; all without it.")
    on: str = option("background", "Class on which its evidence should not lie.")
    max_share: float = option(0.5, "Most mean share of the map on it.", minimum=0, maximum=1)


CHECKS = (
    CheckSpec(
        name="inside",
        entry="cnnviz.audit.attention:Inside",
        title="Looks at the object",
        summary="The map lies on the object: share of its energy inside, and how often its maximum is.",
        paper="Zhang et al., IJCV 2018; Wang et al., Score-CAM, CVPRW 2020",
        options=InsideOptions,
        needs="truth",
    ),
    CheckSpec(
        name="avoid",
        entry="cnnviz.audit.attention:Avoid",
        title="Does not look there",
        summary="The map does not lie on a region of the picture, or on the background.",
        paper="none",
        options=AvoidOptions,
    ),
    CheckSpec(
        name="evidence",
        entry="cnnviz.audit.attention:Evidence",
        title="Evidence by segment",
        summary="The evidence for a class of a segmentation network does not lie on what it takes for another.",
        paper="none",
        options=EvidenceOptions,
        needs="segments",
    ),
    CheckSpec(
        name="counterfactual",
        entry="cnnviz.audit.counterfactual:Counterfactual",
        title="Does not depend on it",
        summary="Predictions stay when a region, or the background, is replaced, beyond what the seams alone do.",
        paper="none",
        options=CounterfactualOptions,
        of_maps=False,
        asks_network=True,
    ),
    CheckSpec(
        name="stable",
        entry="cnnviz.audit.stability:Stable",
        title="Stable",
        summary="The map follows the picture when it is shifted, mirrored, brightened or compressed.",
        paper="none",
        options=StableOptions,
        asks_network=True,
    ),
    CheckSpec(
        name="drift",
        entry="cnnviz.audit.drift:Drift",
        title="No drift",
        summary="Maps and predictions are those of the accepted baseline.",
        paper="none",
        options=DriftOptions,
        needs="baseline",
        keeps_maps=True,
    ),
    CheckSpec(
        name="faithful",
        entry="cnnviz.audit.trust:Faithful",
        title="Faithful",
        summary="The method beats a map that knows nothing of the network, on this network.",
        paper="Petsiuk et al., RISE, BMVC 2018",
        options=FaithfulOptions,
        establishes_trust=True,
    ),
    CheckSpec(
        name="sane",
        entry="cnnviz.audit.trust:Sane",
        title="Sane",
        summary="The map changes when the network's weights are made random.",
        paper="Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018",
        options=SaneOptions,
        establishes_trust=True,
    ),
    CheckSpec(
        name="accuracy",
        entry="cnnviz.audit.predictions:Accuracy",
        title="Accuracy",
        summary="The network is right often enough.",
        paper="none",
        options=AccuracyOptions,
        needs="labels",
        of_maps=False,
    ),
    CheckSpec(
        name="calibration",
        entry="cnnviz.audit.predictions:Calibration",
        title="Calibration",
        summary="The network is as often right as it says.",
        paper="Guo et al., On Calibration of Modern Neural Networks, ICML 2017",
        options=CalibrationOptions,
        needs="labels",
        of_maps=False,
    ),
    CheckSpec(
        name="shortcuts",
        entry="cnnviz.audit.shortcuts:Shortcuts",
        title="No shortcuts",
        summary="No cluster of the maps of a class shows a region on which predictions hang, beside the object.",
        paper="Lapuschkin et al., Unmasking Clever Hans Predictors, Nature Communications 2019",
        options=ShortcutsOptions,
        asks_network=True,
        keeps_maps=True,
        level="warning",
    ),
)
