"""What reports of ``embed`` have."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.images import FailedImage, Image
from cnnviz.schema.shapes import By, Count, Share
from cnnviz.schema.studies.base import StudyHeader
from cnnviz.schema.summary import Counted, Network


class Purity(TypedDict):
    """How often the nearest neighbours of an image share its label, or prediction."""

    value: Share | None
    """Mean share of neighbours of the same kind, 0 to 1; null where no two images share one."""
    chance: Share | None
    """The same of neighbours drawn by chance; null as for ``value``."""
    n: Count
    """How many images have one."""


class Purities(TypedDict):
    """Purity of neighbours."""

    label: Purity
    """By known labels."""
    prediction: Purity
    """By first predictions."""


class Pca(TypedDict):
    """The principal components that are drawn."""

    explained: list[float]
    """The share of the variance that each explains, 0 to 1."""


class Tsne(TypedDict):
    """The t-SNE that is drawn."""

    perplexity: float
    """The perplexity that was used."""


class GridFigures(TypedDict):
    """The grid of thumbnails."""

    rows: Count
    """Rows of cells."""
    columns: Count
    """Columns of cells."""
    of: Literal["tsne", "pca"]
    """The projection that it follows."""
    assignment: Literal["optimal", "optimal in blocks"]
    """How images were given their cells."""


class Embedding(TypedDict):
    """``summary.embedding``: the vectors, and how they lie."""

    source: str
    """Where the vectors come from: a layer, or the input of the classifier."""
    images: Count
    """How many vectors there are."""
    different: Count
    """How many of them differ."""
    dimensions: Count
    """Length of a vector."""
    metric: str
    """What neighbours are found by."""
    labels: Literal["given", "folder"] | None
    """Where labels come from; null where there are none."""
    pca: Pca
    """The principal components that are drawn."""
    tsne: Tsne | None
    """The t-SNE that is drawn; null where there are too few images."""
    grid: GridFigures
    """The grid of thumbnails."""
    neighbours: Count
    """How many neighbours of each image are listed."""
    purity: Purities
    """How often neighbours are of one kind."""
    seconds_arranging: NotRequired[float]
    """Seconds that projections, grid and neighbours took."""


class EmbedSummary(Counted, Network):
    """Of ``embed``."""

    study: Literal["embed"]
    """Name of the study."""
    embedding: NotRequired[Embedding | None]
    """The vectors, and how they lie; null where no image could be read; not there after Ctrl-C."""


class Neighbour(TypedDict):
    """A neighbour of an image: its path, and how near it is in the metric that was asked for."""

    path: str
    """Path of the other image."""
    similarity: NotRequired[float]
    """Cosine similarity of the vectors, -1 to 1."""
    distance: NotRequired[float]
    """Distance of the vectors."""


class Neighbours(TypedDict):
    """The neighbours of an image."""

    path: str
    """Path of the image."""
    label: str | None
    """Its label, given or the name of its folder; null where there is none."""
    neighbours: list[Neighbour]
    """Its nearest images, nearest first."""
    label_purity: float | None
    """The share of them with its label, 0 to 1; null where it has none, or no two images share one."""
    prediction_purity: float | None
    """The share of them with its prediction, 0 to 1; null where no two images share one."""


class EmbedFacts(TypedDict):
    """What is written of an image."""

    thumbnail: str
    """Its thumbnail, relative to the run's folder."""


class EmbedImage(Image, EmbedFacts):
    """A record of ``embed``."""


class EmbedReport(StudyHeader):
    """The report of ``embed``."""

    summary: EmbedSummary
    """What the run came to."""
    neighbours: NotRequired[list[Neighbours]]
    """The neighbours of each image, in input order."""
    images: list[Annotated[EmbedImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
