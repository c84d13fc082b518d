"""What a report says of what a map explains."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from cnnviz.schema.boxes import FoundBox
from cnnviz.schema.shapes import By, Count, Length, Share, open_to


class Prediction(TypedDict):
    """A class, with what the network says of it.

    A network with one logit is a two-class network: class 1 is the logit, class 0 its negative.
    """

    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    label: str
    """Name of the class."""
    probability: float | None
    """Probability of the class, 0 to 1, after softmax or sigmoid; null where it is not finite."""
    logit: float | None
    """The network's score of the class before softmax or sigmoid; null where it is not finite."""


class SegmentPrediction(TypedDict):
    """A class that a network with scores at positions finds in the image."""

    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    label: str
    """Name of the class."""
    probability: float | None
    """Mean probability of the class, 0 to 1, over the positions at which it is found."""
    logit: float | None
    """Mean score of the class before softmax or sigmoid over these positions."""
    area: Share
    """Share of the positions of the output at which the class is found."""


class Region(TypedDict):
    """The target of a network with scores at positions: the score of a class, summed over a region."""

    kind: Literal["region"]
    """What kind of target it is."""
    spec: str
    """The target as ``--target`` takes it."""
    label: str
    """Name of the class."""
    score: float | None
    """The sum over the region, in the unit of ``--score``: what is explained; null if not finite."""
    class_index: Count
    """Index of the class among the network's outputs, from 0."""
    probability: float | None
    """Mean probability of the class over the region, 0 to 1."""
    logit: float | None
    """Mean score of the class over the region, before softmax or sigmoid."""
    region: str
    """The region as it was asked for: ``pred`` (where the class is found), ``all``, ``truth``, ``mask:FILE``,
    ``box:x,y,w,h``, ``point:x,y`` or ``segment:N``."""
    region_area: Share
    """Share of what the network saw that lies in the region."""
    region_seen: Share | None
    """Share of the region, a part of the photograph (``truth``, ``mask``, ``box``, ``point``), that the network saw;
    null of others."""
    elements: Count
    """How many positions of the output lie in the region, wholly or in part."""
    reduction: Literal["sum"]
    """How the scores of the positions become one."""


class OutputOfRegression(TypedDict):
    """The target of ``--target output:K`` or ``-output:K``: a number that the network gives, or its negative."""

    kind: Literal["output"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for."""
    label: str
    """The output in words; with ``less`` in front where its negative is explained."""
    score: float | None
    """Its value, times the sign; null if not finite."""
    class_index: Count
    """Index of the output, from 0."""
    sign: Literal[1, -1]
    """1 for what raises it, -1 for what lowers it."""
    probability: None
    """It has none: null."""


@open_to("what a kind of target says of itself")
class OtherTarget(TypedDict):
    """A target of another kind."""

    kind: str
    """What kind of target it is."""
    label: str
    """The target in words."""


class UnitOrNeuron(TypedDict):
    """The target of ``--target unit:LAYER:K`` or ``neuron:LAYER:K:ROW:COLUMN``: a unit of a layer, or one neuron."""

    kind: Literal["unit", "neuron"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for."""
    label: str
    """The target in words."""
    score: float | None
    """The sum of the unit's map, its strongest value, or the neuron's activation; null if not finite."""
    layer: str
    """The layer, by the name that ``--layer`` takes."""
    index: Count
    """The channel, from 0."""
    reduction: Literal["sum", "strongest"] | None
    """How the unit's map becomes one value; null for a neuron."""
    position: Annotated[list[int], Length(2)] | None
    """Row and column of a neuron, in cells of the layer; null for a unit."""
    probability: None
    """A unit has none: null."""


class SimilarImage(TypedDict):
    """The target of ``--target similar:FILE``: how like another picture the image is to the network."""

    kind: Literal["similar"]
    """What kind of target it is."""
    spec: str
    """The target as ``--target`` takes it."""
    label: str
    """The target in words."""
    score: float | None
    """The cosine of the angle between the vectors of the two, -1 to 1; null if not finite."""
    file: str
    """The other picture, as it was named."""
    probability: None
    """It has none: null."""


class VectorComponent(TypedDict):
    """The target of ``--target embedding:K``: one number of the vector that the network makes of the image."""

    kind: Literal["embedding"]
    """What kind of target it is."""
    spec: str
    """The target as ``--target`` takes it."""
    label: str
    """The target in words."""
    score: float | None
    """Its value; null if not finite."""
    index: Count
    """Which component, from 0."""
    probability: None
    """It has none: null."""


class UserFunction(TypedDict):
    """The target of ``--target file.py:function``: what a function of the user makes of the whole output."""

    kind: Literal["function"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for; the digest of the file stands in ``option_files_sha256``."""
    label: str
    """The function's name; of a difference both."""
    score: float | None
    """What it returned for the image; null if not finite."""
    probability: None
    """It has none: null."""


class WrittenWord(TypedDict):
    """A word that a captioning network wrote under the image."""

    class_index: Count
    """Its token id."""
    label: str
    """The word."""
    probability: float | None
    """Its probability after the words before it, 0 to 1."""
    logit: float | None
    """Its score before the softmax."""
    number: Count
    """Its place in the text, from 1."""


class WordOfText(TypedDict):
    """The target of ``--target token:N`` or ``token:WORD``: a word of the text under the image."""

    kind: Literal["token"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for."""
    label: str
    """The word."""
    score: float | None
    """Its score after the words before it, in the unit of ``--score``; null if not finite."""
    token: Count
    """Its token id."""
    number: Count
    """Its place in the text, from 1."""
    probability: float | None
    """Its probability after the words before it, 0 to 1."""
    logit: float | None
    """Its score before the softmax."""
    text: str
    """The whole text."""


class WholeText(TypedDict):
    """The target of ``--target caption``: the whole text under the image."""

    kind: Literal["caption"]
    """What kind of target it is."""
    spec: str
    """The target as it was asked for."""
    label: str
    """The text."""
    score: float | None
    """The sum of the scores of its words, in the unit of ``--score``; null if not finite."""
    elements: Count
    """How many words it has."""
    reduction: Literal["sum"]
    """How the scores of the words become one."""
    probability: None
    """It has none: null."""


class Answer(TypedDict):
    """The target of ``--target answer:NAME``: an answer to a question."""

    kind: Literal["answer"]
    """What kind of target it is."""
    question: str
    """The question, as ``--question`` has it."""
    class_index: Count
    """Index of the answer among those that the network may give, from 0."""
    label: str
    """The answer."""
    probability: float | None
    """Its probability, 0 to 1."""
    logit: float | None
    """Its score before softmax or sigmoid."""


Side = Annotated[
    UnitOrNeuron
    | Region
    | OutputOfRegression
    | FoundBox
    | SimilarImage
    | VectorComponent
    | UserFunction
    | WordOfText
    | WholeText
    | Answer
    | OtherTarget
    | Prediction,
    By(("kind",)),
]
"""One side of a difference: a class, as in ``predictions``, which has no ``kind``, or what its ``kind`` says."""


class Difference(TypedDict):
    """The target of ``--target diff:A,B``: the score of one class, or other thing, minus that of another."""

    kind: Literal["diff"]
    """What kind of target it is; a class has none."""
    spec: str
    """The difference as it was asked for."""
    label: str
    """The difference in words."""
    score: float | None
    """The score of the first class minus that of the second, in the unit of ``--score``; null if not finite."""
    first: Side
    """What the map speaks for."""
    second: Side
    """What it speaks against."""
    unit: str
    """What the scores of both are: ``logit``, ``probability``, ``log-probability``, ``activation`` of units, ``cosine``
    of similar images, ``component`` of vectors, ``output`` of regressions, ``coordinate`` of edges of boxes."""
    probability: None
    """A difference has none: null."""


Target = Annotated[
    Difference
    | UnitOrNeuron
    | Region
    | OutputOfRegression
    | FoundBox
    | SimilarImage
    | VectorComponent
    | UserFunction
    | WordOfText
    | WholeText
    | Answer
    | OtherTarget
    | Prediction,
    By(("kind",)),
]
"""What is explained: a class, as in ``predictions``, which has no ``kind``, or what its ``kind`` says."""
