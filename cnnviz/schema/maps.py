"""What a report says of one map: its class or difference, its files, its figures."""

from __future__ import annotations

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.faithfulness import FaithfulnessScores
from cnnviz.schema.localization import Localization
from cnnviz.schema.shapes import Box, Count, Files, Interval, Pixel, Share, open_to
from cnnviz.schema.targets import Target


class Unmatched(TypedDict):
    """A target that matches nothing in an image."""

    spec: str
    """The target as it was asked for."""
    reason: str
    """Why it is not explained."""


class Merged(TypedDict):
    """A target that is the same thing in an image as another one, such as ``box:1`` and the best box of its class."""

    spec: str
    """The target as it was asked for."""
    same_as: str
    """The target that has the map."""


class Evidence(TypedDict):
    """How much of a map lies on what the network takes for one class."""

    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    label: str
    """Name of the class."""
    share: Share
    """Share of the map's positive values that lies where this class is predicted."""
    area: Share
    """Share of what the network saw that is predicted as this class."""


class SanityStep(TypedDict):
    """How alike a map is to the one of the network whose layers from the top down to one are random."""

    down_to: str
    """The lowest layer that is random; all layers above it are random too."""
    layers: Count
    """How many layers with weights are random."""
    spearman: float | None
    """Rank correlation of the values, -1 to 1; null where a map is flat or not finite."""
    spearman_abs: NotRequired[float | None]
    """Rank correlation of the magnitudes, 0 to 1, of maps that have a sign; null as for ``spearman``."""
    ssim: float | None
    """Structural similarity, at most 1, of the magnitudes where maps have a sign; null as for ``spearman``."""


class MapStatistics(TypedDict):
    """Figures of the placed map that every method's scores have. Those of a flat map, or of one without positive
    values, are null but for the first three."""

    min: float | None
    """Smallest value of the raw map, in the method's own unit; null where it is not finite."""
    max: float | None
    """Largest value of the raw map, in the method's own unit; null where it is not finite."""
    mean: float | None
    """Mean of the raw map, in the method's own unit; null where it is not finite."""
    peak: Pixel | None
    """``[x, y]`` where the map is largest, in pixels of the image."""
    box_xywh: Box | None
    """Box around the largest connected region above 20 % of the maximum (Zhou et al. 2016), in pixels of the image."""
    energy_in_box: float | None
    """Share of the positive values that lies in that box, 0 to 1."""
    entropy: float | None
    """Entropy of the positive values as a distribution over the pixels, divided by its largest possible value: 0 for
    one pixel, 1 for a uniform map."""
    area_above_half: float | None
    """Share of the pixels that the network saw above half of the maximum, 0 to 1."""
    flat: NotRequired[Literal[True]]
    """There where the map is zero, or the same, everywhere; ``flat_reason`` says why."""


class MapScores(MapStatistics, Localization):
    """What all figures of a map have beside its statistics, whatever the method."""

    sanity: NotRequired[list[SanityStep]]
    """Of ``--sanity``: how alike the map stays as more layers are random, one row a step."""
    tile: NotRequired[Count]
    """Of ``--view tiles``: the tile in which the class is most probable, whose figures these are, from 0."""


@open_to("figures of methods and metrics of other packages")
class Scores(MapScores, FaithfulnessScores):
    """The figures of a map. Methods add their own."""

    areas: NotRequired[list[float]]
    """Of extremal: the shares of the image that were looked for, 0 to 1."""
    argmax_share: NotRequired[Share]
    """Of classmap: the share of what the network saw in which the class is the most probable one, 0 to 1."""
    baseline: NotRequired[str]
    """Of occlusion, superpixels, Sobol indices, HSIC, integrated gradients and their relatives: what stands for no
    information."""
    baseline_pixel: NotRequired[list[float]]
    """The same where it is one colour: R, G and B (or the one channel) of this image's, from 0 to 255."""
    completeness_gap: NotRequired[float | None]
    """Of integrated gradients, gradient_shap, conductance, deeplift and FullGrad: what the sum of the values lacks of
    the score, or of the difference in score, in its unit."""
    component_share: NotRequired[float | None]
    """Of eigencam and eigengradcam: the share of the squared values that the component holds; of kpcacam: its share of
    the positive eigenvalues. 0 to 1."""
    conductance: NotRequired[float | None]
    """Of neuron_conductance: the sum of the values, the unit's part in ``score_difference``."""
    conservation_gap: NotRequired[float | None]
    """Of LRP and excitation backpropagation: what the sum of the values lacks of the score, in its unit."""
    exchanges: NotRequired[list[Count]]
    """Of extremal: for each area how many exchanges of cells raised the score."""
    first_cell: NotRequired[list[float]]
    """Of classmap: ``[x, y]`` of the middle of the first cell, in pixels of the image."""
    fit: NotRequired[float | None]
    """Of kernelshap and lime: the weighted share of the scores' variance that the values explain, at most 1."""
    floor: NotRequired[float | None]
    """Of rise, drise, hsic, opticam and reciprocam: the smallest value, which is taken off where the map is drawn and
    measured (of reciprocam also in the raw map)."""
    gap_share: NotRequired[float | None]
    """What the values lack of the score, as a share of it; 0 where the score is 0."""
    grid: NotRequired[list[Count]]
    """Of classmap: rows and columns of cells."""
    head_passes: NotRequired[Count]
    """Of ablationcam and reciprocam: how often the head ran."""
    inputs: NotRequired[list[list[Count]]]
    """Of classmap: ``[height, width]`` of the network's input, for each scale."""
    masks: NotRequired[Count]
    """Of rise, drise, hsic, scorecam, sscam and iscam: how many masked images were run."""
    masked_score: NotRequired[float | None]
    """Of opticam: the score of the image seen through the map, scaled to 0 to 1, in its unit."""
    masked_score_before: NotRequired[float | None]
    """Of opticam: the same where all channels weigh alike, from where the search starts."""
    negative_score: NotRequired[bool]
    """Of ablationcam: whether the score is negative, so that the map shows what speaks against the class."""
    perturbed_scores: NotRequired[list[float | None]]
    """Of extremal: the score of the perturbed image, for each area."""
    pitch: NotRequired[list[float]]
    """Of classmap: ``[x, y]`` from one cell to the next, in pixels of the image."""
    positions: NotRequired[list[Count]]
    """Of occlusion: rows and columns of positions of the window."""
    reached_areas: NotRequired[list[float | None]]
    """Of extremal: the shares of the image that the masks have, 0 to 1, for each area."""
    references: NotRequired[list[Count]]
    """Of finercam: indices of the classes that the class is compared with."""
    reliability: NotRequired[float | None]
    """Of sobol, hsic, kernelshap, shapley, lime, rise and drise: the correlation to expect of the maps of two seeds
    over cells, superpixels or pixels, 0 to 1; null where too few samples tell."""
    samples: NotRequired[Count]
    """Of kernelshap, shapley and lime: how many perturbed images were run; of gradient_shap: how many points."""
    score_difference: NotRequired[float | None]
    """Of integrated gradients, gradient_shap, conductance, neuron_conductance and deeplift: the score of the image
    minus that of the baseline, or the mean over baselines."""
    similarity: NotRequired[float | None]
    """Of compare: rank correlation with the map of the other run, -1 to 1."""
    standard_error: NotRequired[float | None]
    """Of sobol, hsic, kernelshap, shapley, lime, rise and drise: the standard error of the values, root mean square
    over cells, superpixels or pixels, in their unit; 0 where all subsets were run, null where too few samples tell."""
    steps: NotRequired[Count]
    """Of integrated gradients and neuron_conductance: points on the path; of conductance: steps of it."""
    stride: NotRequired[int | list[int]]
    """Of occlusion: pixels of the network's input from one position to the next; ``[rows, columns]`` where they
    differ."""
    sum: NotRequired[float | None]
    """Of sobol: the sum of the indices; of total ones at least 1, up to the noise of the estimate."""
    superpixels: NotRequired[Count]
    """Of kernelshap, shapley and lime: how many superpixels the image has."""
    through_relevance: NotRequired[float | None]
    """Of lrp with ``--through``: the relevance of those channels at the layer, in the score's unit."""
    top_channel_relevance: NotRequired[list[float | None]]
    """Of lrp with ``--through``: the relevance of the ``top_channels`` at the layer, in the score's unit."""
    top_channels: NotRequired[list[Count]]
    """Of lrp with ``--through``: the channels of the layer with the most relevance, at most five."""
    trials: NotRequired[Count]
    """Of deeplift: how many baselines were averaged."""
    unit: NotRequired[Count]
    """Of neuron_conductance, and of guided and its relatives with ``--unit``: the channel that is explained."""
    unit_activation: NotRequired[float | None]
    """Of ``--unit``: the channel's largest value."""
    unit_position: NotRequired[list[Count]]
    """Of ``--unit``: row and column of that value in the layer."""
    variance: NotRequired[float | None]
    """Of sobol: the variance of the score, in its unit squared."""
    window: NotRequired[int | list[int]]
    """Of occlusion: the window's side in pixels of the network's input; ``[rows, columns]`` where they differ."""


class MethodFacts(TypedDict, total=False):
    """What a method states about its maps; it stands among the keys of an explanation."""

    attention_layers: Count
    """Of methods of attention matrices: how many layers they follow."""
    attention_rows: Literal["class token", "mean of tokens"]
    """Of methods of attention matrices: whose row the map is, the class token's or the mean of all that are read."""
    bias_layers: Count
    """Of FullGrad: how many additions of a bias enter the map."""
    contrastive: bool
    """Of excitation backpropagation: whether the map is the contrast with all other classes."""
    counterfactual: bool
    """Of Grad-CAM: there where the map shows what speaks against the class."""
    extended: bool
    """Of guided and deconvnet: whether the rule was also applied at activations that are no ReLUs."""
    fusion: str
    """Of layercam over several layers: how their maps are joined."""
    game: str
    """Of extremal: whether the region is to preserve the score or its loss is to delete it."""
    head: str
    """Of excitation backpropagation: how the end of the network was read."""
    identity_error: float | None
    """Of CAM: largest difference of the recomputed logits to the network's, as a share of the largest logit."""
    kernel: str
    """Of kpcacam: the kernel."""
    layers: list[str] | dict[str, Count]
    """Of layercam the layers that are joined, of LRP how many layers each rule was applied to."""
    left_alone: dict[str, Count]
    """Of guided and deconvnet: operations that cannot be looked into and passed the gradient on, by name."""
    linear: bool
    """Of CAM: whether the logit is linear in the feature map, so that the map sums to it."""
    order: Literal["total", "first"]
    """Of sobol: whether an index has the interactions of its cell."""
    pooling: str
    """Of CAM: how the positions of the feature map are pooled."""
    quadrature: str
    """Of integrated gradients: the rule of the sum over the path."""
    rectified: dict[str, Count]
    """Of guided and deconvnet: how many activations of each name were found."""
    reduction: str
    """How the channels of a map of single pixels become one value."""
    rule: str
    """Of guided and its relatives, and of LRP: the rule of the backward pass."""
    score: str
    """Of rise and drise: the unit of the score."""
    sign: str
    """Of eigencam, eigengradcam and kpcacam: which side of the component is positive."""
    statistic: str
    """Of SmoothGrad: what is taken over the noisy copies."""
    through: str
    """Of lrp with ``--through``: the channels through which relevance is followed, or ``all``."""
    with_gradcam: bool
    """Of guided: there where the map is multiplied by that of Grad-CAM."""


class Photographs(TypedDict):
    """Photographs with which an image is compared."""

    photographs: Count
    """How many had a part in the map."""
    of: Count
    """How many there were to choose from."""
    sha256: str
    """Digest of those that were read, as the network takes them."""


class MapFacts(MethodFacts, total=False):
    """What is said of a map beside the method's own facts."""

    background: Photographs
    """Of ``--background``: the photographs that stand in the place of a baseline."""
    augmentation: list[str]
    """Of ``--augment``: the copies of the image over which the map is averaged. Scores of the method itself are those
    of the unchanged image."""
    pre_activation: bool
    """Whether the layer is taken before the activation that follows it."""
    one_logit: str
    """Of a network with one logit: what its two classes are."""
    run: Literal["a", "b"]
    """Of ``compare``: which of the two runs made the map."""
    role: Literal["truth", "predicted"]
    """Of ``--only wrong``: whether the class is what the image shows, or what the network takes it for."""
    drawn_limits: Interval
    """The values of the map that the pictures draw in their first and last colour or grey; for maps of single pixels
    the 99th percentile of their magnitudes."""
    flat_reason: str
    """Why a map is ``flat``."""
    evidence: list[Evidence]
    """Of a network with scores at positions: on which predicted classes the map lies, largest share first, eight at
    most."""
    watched: Literal["mean", "box"]
    """Of methods that change the image: what they watch, the mean of the region's scores and not the sum, or the best
    of all candidates of the class for the box, by IoU x probability."""
    levels: list[str]
    """Of a detector with a pyramid: the layers that feed its head; ``layer`` is the one that made the box."""
    smoothed: float
    """Of odam: standard deviation of the Gaussian that smooths the gradient, in cells of the layer."""
    trivial: Literal[True]
    """There where the map is little else than the class's own score map, so that it explains nothing;
    ``trivial_reason`` says how much."""
    trivial_reason: str
    """Why a map is ``trivial``."""


class Map(TypedDict):
    """What every explanation has."""

    method: str
    """Name of the method that made the map."""
    layer: str | None
    """The target layer, by the name that ``--layer`` takes; null for methods at the image."""
    target: Target
    """What is explained."""
    files: Files
    """Files of this map relative to the run's folder, by kind: ``overlay``, ``heatmap``, ``raw``, ``panel`` …"""
    scores: Scores
    """The figures of the map."""


@open_to("facts of methods of other packages")
class Explanation(Map, MapFacts):
    """One map: of a class, or of a difference of classes. What the method states stands among its keys."""
