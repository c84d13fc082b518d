"""The figures of the metrics that change an image as its map says: what ``scores`` has of each.

All figures of a map that is not finite are null.
"""

from __future__ import annotations

from typing import Annotated

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.shapes import AtLeast, Between

Correlation = Annotated[float, Between(-1.0, 1.0)]


class OverBlurred(TypedDict, total=False):
    """What ``baselines`` adds."""

    blurred: float | None
    """The figure of a blurred copy of the map."""
    over_blurred: float | None
    """How much better the map is than its blurred copy; below 0 it is worse."""


class CurveScores(OverBlurred):
    """A curve of scores while the image changes by the map's order, part by part."""

    area: float | None
    """The area below the curve, by the trapezoidal rule over the share of pixels."""
    curve: list[float] | None
    """The score after each part of the pixels, from none to all."""
    unit: str | None
    """What is followed: ``probability``, or the unit of a target that has none."""


class RoadScores(OverBlurred):
    """Scores while pixels are removed and imputed, in two orders."""

    difference: float | None
    """Least relevant first minus most relevant first."""
    most_relevant_first: float | None
    """Mean score over the percentages, the map's best pixels removed first."""
    least_relevant_first: float | None
    """Mean score over the percentages, the map's last pixels removed first."""
    percentages: list[float] | None
    """Percent of the pixels that are removed."""
    most_relevant_first_curve: list[float] | None
    """The score at each percentage, the map's best pixels removed first."""
    least_relevant_first_curve: list[float] | None
    """The score at each percentage, the map's last pixels removed first."""
    unit: str | None
    """What is followed: ``probability``, or the unit of a target that has none."""


class DropScores(TypedDict):
    """What is lost when only what the map shows is left of the image."""

    drop: Annotated[float, AtLeast(0)] | None
    """The share of the score that is lost, in percent; 0 where it rises, null where it is not above 0."""


class IncreaseScores(TypedDict):
    """Whether anything is won when only what the map shows is left of the image."""

    increase: bool | None
    """Whether the score rises."""


class SensitivityNScores(TypedDict):
    """Whether the map's sum over random patches follows what the score loses when they are hidden."""

    correlation: Correlation | None
    """Pearson's correlation, mean over the shares; null where sums or losses are all the same."""
    by_share: list[Correlation | None] | None
    """The correlation for each share."""
    shares: list[float] | None
    """Shares of the patches that are hidden at once."""


class InfidelityScores(TypedDict):
    """How far the map's sum over a square is from what the score loses when it is hidden."""

    infidelity: float | None
    """The mean squared distance of the map times ``scale``."""
    relative: float | None
    """The same over that of a map of zeros: 0 to 1, 1 for a map that says nothing; null where no square matters."""
    unscaled: float | None
    """The mean squared distance of the map as it is, for maps in units of the score."""
    scale: Annotated[float, AtLeast(0)] | None
    """The factor, at least 0, that makes the distance least."""


class MaxSensitivityScores(TypedDict):
    """How much the map changes when the image hardly does."""

    max_sensitivity: Annotated[float, AtLeast(0)] | None
    """The largest norm of the change over the norm of the map; null for a map of zeros."""


class SparsenessScores(TypedDict):
    """Whether the map is made of few pixels."""

    gini: Annotated[float, Between(0.0, 1.0)] | None
    """The Gini index of the magnitudes: 0 for an even map; null for a map of zeros."""


class OcclusionAgreementScores(TypedDict):
    """Whether the map ranks pixels as occlusion does."""

    spearman: Correlation | None
    """The rank correlation with the occlusion map; null where one of them is the same everywhere."""


class FaithfulnessScores(TypedDict):
    """The figures of each metric that ``--metric`` asks for, under its name."""

    insertion: NotRequired[CurveScores]
    """Of ``--metric insertion``: the score while the map's best pixels are put back first."""
    deletion: NotRequired[CurveScores]
    """Of ``--metric deletion``: the score while the map's best pixels are taken away first."""
    road: NotRequired[RoadScores]
    """Of ``--metric road``: the score while pixels are removed and imputed, in two orders."""
    average_drop: NotRequired[DropScores]
    """Of ``--metric average_drop``: what is lost when only what the map shows is left of the image."""
    increase: NotRequired[IncreaseScores]
    """Of ``--metric increase``: whether anything is won by that."""
    sensitivity_n: NotRequired[SensitivityNScores]
    """Of ``--metric sensitivity_n``: whether sums over patches follow what the score loses without them."""
    infidelity: NotRequired[InfidelityScores]
    """Of ``--metric infidelity``: how far sums over squares are from what the score loses without them."""
    max_sensitivity: NotRequired[MaxSensitivityScores]
    """Of ``--metric max_sensitivity``: how much the map changes when the image hardly does."""
    sparseness: NotRequired[SparsenessScores]
    """Of ``--metric sparseness``: whether the map is made of few pixels."""
    occlusion_agreement: NotRequired[OcclusionAgreementScores]
    """Of ``--metric occlusion_agreement``: whether the map ranks pixels as occlusion does."""
