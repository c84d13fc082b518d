"""What reports of all studies have, and those of studies of other packages."""

from __future__ import annotations

from typing import Annotated

from typing_extensions import NotRequired

from cnnviz.schema.header import Header
from cnnviz.schema.images import FailedImage, Figure, Image
from cnnviz.schema.shapes import By, open_to
from cnnviz.schema.summary import Network, Time


class StudyHeader(Header):
    """What every report of a study has."""

    files: list[str]
    """All files that the run wrote, relative to its folder."""


class PlainImage(Image):
    """A record of a study."""

    figures: NotRequired[list[Figure]]
    """The pictures that its card on the page shows."""


@open_to("figures of studies of other packages")
class OtherStudySummary(Time, Network):
    """Of a study of another package."""

    study: str
    """Name of the study."""


@open_to("what studies of other packages say of an image")
class OtherStudyImage(Image):
    """A record of a study of another package."""


@open_to("what studies of other packages report")
class OtherStudyReport(StudyHeader):
    """The report of a study of another package."""

    summary: OtherStudySummary
    """What the run came to."""
    images: list[Annotated[OtherStudyImage | FailedImage, By(("error",))]]
    """One record for each input, in input order."""
