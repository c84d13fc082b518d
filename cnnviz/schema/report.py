"""The report of a run: ``report.json``."""

from __future__ import annotations

from typing import Annotated, Any

from typing_extensions import NotRequired

from cnnviz.schema.confusion import WithConfusion
from cnnviz.schema.header import Header
from cnnviz.schema.images import AnyImage, FailedImage, Image
from cnnviz.schema.mosaics import WithMosaics
from cnnviz.schema.shapes import By, Interval
from cnnviz.schema.studies.activations import ActivationsReport
from cnnviz.schema.studies.adversarial import AdversarialReport
from cnnviz.schema.studies.audit import AuditReport
from cnnviz.schema.studies.base import OtherStudyReport
from cnnviz.schema.studies.classmap import ClassMapReport
from cnnviz.schema.studies.compare import CompareReport
from cnnviz.schema.studies.concepts import ConceptsReport
from cnnviz.schema.studies.dream import DreamReport
from cnnviz.schema.studies.embed import EmbedReport
from cnnviz.schema.studies.evaluate import EvaluateReport
from cnnviz.schema.studies.factors import FactorsReport
from cnnviz.schema.studies.filters import FiltersReport
from cnnviz.schema.studies.grid import GridReport
from cnnviz.schema.studies.invert import InvertReport
from cnnviz.schema.studies.localize import LocalizeReport
from cnnviz.schema.studies.synthesize import SynthesizeReport
from cnnviz.schema.studies.tcav import TcavReport
from cnnviz.schema.studies.top_patches import TopPatchesReport
from cnnviz.schema.studies.train import TrainReport
from cnnviz.schema.summary import Begun, MapSummary


class BegunReport(Header):
    """The report of a run that has not ended, or was killed: ``records.jsonl`` has what it did so far."""

    summary: Begun
    """That it has not ended."""
    scale_limits: NotRequired[Interval]
    """Of ``--scale run``: the values of the first and the last colour."""
    images: list[Any]
    """Empty."""


class MapReport(Header, WithConfusion, WithMosaics):
    """The report of a command that makes maps."""

    summary: MapSummary
    """What the run came to."""
    scale_limits: NotRequired[Interval]
    """Of ``--scale run``: the values of the first and the last colour."""
    images: list[Annotated[Image | FailedImage, By(("error",))]]
    """One record for each input, in input order: the lines of ``records.jsonl``."""


class AnyReport(Header):
    """A report of whatever command, as it is read back. One of another version may lack keys."""

    summary: dict[str, Any]
    """What the run came to."""
    images: list[AnyImage]
    """The records of its inputs."""
    files: NotRequired[list[str]]
    """All files that a study wrote."""
    scale_limits: NotRequired[Interval]
    """Of ``--scale run``: the values of the first and the last colour."""


EndedReport = Annotated[
    ActivationsReport
    | AdversarialReport
    | AuditReport
    | ClassMapReport
    | CompareReport
    | ConceptsReport
    | DreamReport
    | EmbedReport
    | EvaluateReport
    | FactorsReport
    | FiltersReport
    | GridReport
    | InvertReport
    | LocalizeReport
    | SynthesizeReport
    | TcavReport
    | TopPatchesReport
    | TrainReport
    | OtherStudyReport
    | MapReport,
    By(("summary", "study")),
]
"""The report of a run that has ended: of the study that its summary names, or of maps where it names none."""

Report = Annotated[BegunReport | EndedReport, By(("summary", "finished"))]
"""Any report."""
