"""What a run writes: one record an input, one report a run. Plain data, JSON both ways, no tensors.

What is written is typed in :mod:`cnnviz.schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from cnnviz.strict_json import from_json

if TYPE_CHECKING:
    from cnnviz.schema import boxes, header, images, maps, targets

SCHEMA = "cnnviz.report/1"


@dataclass(frozen=True)
class ClassScore:
    """A class with its score: a prediction, or the target of an explanation."""

    class_index: int
    label: str
    probability: float
    logit: float

    def to_dict(self) -> targets.Prediction:
        """As the report has it."""
        return {
            "class_index": self.class_index,
            "label": self.label,
            "probability": self.probability,
            "logit": self.logit,
        }


@dataclass(frozen=True)
class SegmentScore:
    """A class that a network finds somewhere in an image.

    ``probability`` and ``logit`` are means over the positions at which it is found, ``area`` is their share.
    """

    class_index: int
    label: str
    probability: float
    logit: float
    area: float

    def to_dict(self) -> targets.SegmentPrediction:
        """As the report has it."""
        return cast("targets.SegmentPrediction", asdict(self))


@dataclass(frozen=True)
class RegionScore:
    """The target of an explanation that is a class in a region: the sum of its scores over it; else they are means."""

    spec: str
    label: str
    score: float
    class_index: int
    probability: float
    logit: float
    region: str
    region_area: float
    elements: int
    region_seen: float | None = None
    reduction: str = "sum"
    kind: Literal["region"] = "region"


@dataclass(frozen=True)
class OutputValue:
    """An output of a regression."""

    class_index: int
    label: str
    logit: float
    probability: None = None

    def to_dict(self) -> targets.Prediction:
        """As the report has it: a prediction without a probability."""
        return {"class_index": self.class_index, "label": self.label, "probability": None, "logit": self.logit}


@dataclass(frozen=True)
class OutputScore:
    """The target of an explanation that is an output of a regression, or its negative."""

    spec: str
    label: str
    score: float
    class_index: int
    sign: int
    kind: Literal["output"] = "output"
    probability: None = None


@dataclass(frozen=True)
class UnitScore:
    """The target of an explanation that is a unit of a layer, or a single neuron."""

    kind: Literal["unit", "neuron"]
    spec: str
    label: str
    score: float
    layer: str
    index: int
    reduction: str | None
    position: tuple[int, int] | None
    probability: None = None


@dataclass(frozen=True)
class SimilarityScore:
    """The target of an explanation that is the cosine of the vectors of two images."""

    spec: str
    label: str
    score: float
    file: str
    kind: Literal["similar"] = "similar"
    probability: None = None


@dataclass(frozen=True)
class ComponentScore:
    """The target of an explanation that is one number of an image's vector."""

    spec: str
    label: str
    score: float
    index: int
    kind: Literal["embedding"] = "embedding"
    probability: None = None


@dataclass(frozen=True)
class FunctionScore:
    """The target of an explanation that is what a function of the user makes of the whole output."""

    spec: str
    label: str
    score: float
    kind: Literal["function"] = "function"
    probability: None = None


@dataclass(frozen=True)
class WordScore:
    """A word that a network wrote under an image; ``class_index`` is its token id, ``number`` counts words from 1."""

    class_index: int
    label: str
    probability: float
    logit: float
    number: int

    def to_dict(self) -> targets.WrittenWord:
        """As the report has it."""
        return cast("targets.WrittenWord", asdict(self))


@dataclass(frozen=True)
class TokenScore:
    """The target of an explanation that is a word of the text under an image."""

    spec: str
    label: str
    score: float
    token: int
    number: int
    probability: float
    logit: float
    text: str
    kind: Literal["token"] = "token"


@dataclass(frozen=True)
class CaptionScore:
    """The target of an explanation that is the whole text under an image; its label is the text."""

    spec: str
    label: str
    score: float
    elements: int
    reduction: str = "sum"
    kind: Literal["caption"] = "caption"
    probability: None = None


@dataclass(frozen=True)
class AnswerScore(ClassScore):
    """The target of an explanation that is an answer to a question."""

    question: str
    kind: Literal["answer"] = "answer"


@dataclass(frozen=True)
class DifferenceScore:
    """The target of an explanation that is the score of one class or unit minus that of another; ``unit`` is theirs."""

    spec: str
    label: str
    score: float
    first: SideScore
    second: SideScore
    unit: str = ""
    kind: Literal["diff"] = "diff"
    probability: None = None


@dataclass(frozen=True)
class DetectionScore:
    """A box that a detector finds: ``number`` counts by score from 1, the box is in pixels of the photograph."""

    number: int
    class_index: int
    label: str
    probability: float
    logit: float
    score: float
    box_xywh: tuple[float, ...]

    def to_dict(self) -> boxes.BoxPrediction:
        """As the report has it."""
        return cast("boxes.BoxPrediction", asdict(self))


@dataclass(frozen=True)
class BoxScore:
    """The target of an explanation that is a box of a detector, or where one of its edges lies.

    ``score`` is what is explained; ``probability`` and ``logit`` are those of the box.
    """

    spec: str
    label: str
    score: float
    class_index: int
    probability: float
    logit: float
    box_xywh: tuple[float, ...]
    number: int
    candidate: int
    part: str
    iou: float | None
    kind: Literal["box"] = "box"


SideScore = (
    ClassScore
    | UnitScore
    | RegionScore
    | BoxScore
    | OutputScore
    | SimilarityScore
    | ComponentScore
    | FunctionScore
    | TokenScore
    | CaptionScore
)
"""What may stand on a side of a difference."""
TargetScore = SideScore | DifferenceScore
PredictionScore = ClassScore | SegmentScore | DetectionScore | OutputValue | WordScore


@dataclass(frozen=True)
class Explanation:
    """One map of one input. ``facts`` are the method's own statements (such as CAM's identity error)."""

    method: str
    layer: str | None
    target: TargetScore
    files: Mapping[str, str]
    scores: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> maps.Explanation:
        """As the report has it: the facts stand among the other keys."""
        target = self.target.to_dict() if type(self.target) is ClassScore else asdict(self.target)
        row: maps.Map = {
            "method": self.method,
            "layer": self.layer,
            "target": cast("targets.Target", target),
            "files": dict(self.files),
            # Methods and metrics, those of other packages among them, add figures and facts of their own.
            "scores": cast("maps.Scores", dict(self.scores)),
        }
        return cast("maps.Explanation", {**row, **self.facts})


@dataclass(frozen=True)
class Record:
    """One input. ``facts`` are what the command says of it beside the usual."""

    path: str
    width: int | None
    height: int | None
    label: str | None
    predictions: tuple[PredictionScore, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    error: images.Failure | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why it failed, in words; empty where it did not."""
        return "" if self.error is None else self.error["message"]

    def to_dict(self, name: str, source: images.InputFile | None) -> images.AnyImage:
        """The record as the report has it: the facts stand among the other keys.

        Args:
            name: The stem of its files.
            source: The file as it was read.
        """
        row: images.Result = {
            "path": self.path,
            "name": name,
            "width": self.width,
            "height": self.height,
            "label": self.label,
            "predictions": [score.to_dict() for score in self.predictions],
            "explanations": [explanation.to_dict() for explanation in self.explanations],
        }
        if self.error is not None:
            return {**row, "error": self.error, "input": source}
        return cast("images.Image", {**row, "error": None, **self.facts, "input": source})


@dataclass(frozen=True)
class RunHeader:
    """Everything of a report but its images."""

    cnnviz: str
    command: str
    options: Mapping[str, Any]
    model: header.Model
    environment: header.Environment
    summary: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        extra = data.pop("extra")
        return {"schema": SCHEMA, **data, **extra}


def parse_line(line: bytes) -> images.AnyImage | None:
    """A line of ``records.jsonl``; None when it was cut off while being written, or is no record."""
    try:
        value = from_json(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return None
    return cast("images.AnyImage", value) if isinstance(value.get("name", ""), str) else None


def files_of(record: Any) -> Iterator[str]:
    """Names of the files that a run wrote, wherever its record lists them: not those that its user named."""
    if isinstance(record, (list, tuple)):
        for item in record:
            if isinstance(item, (dict, list, tuple)):
                yield from files_of(item)
    elif isinstance(record, dict):
        for key, value in record.items():
            if key == "files" and isinstance(value, dict):
                yield from (name for name in value.values() if isinstance(name, str))
            elif key in {"file", "thumbnail"} and isinstance(value, str):
                yield value
            # What was asked for may name a picture of the user's; scores are many, and name no files.
            elif key not in {"target", "options", "scores"} and isinstance(value, (dict, list, tuple)):
                yield from files_of(value)
