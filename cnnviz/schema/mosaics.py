"""What a report says of the mosaics of the grid pointing game."""

from __future__ import annotations

from typing import Annotated

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.confusion import NamedClass
from cnnviz.schema.shapes import Count, Length, Share


class MosaicRow(TypedDict):
    """Four images that stand together, row by row."""

    names: Annotated[list[str], Length(4)]
    """The names of their records."""
    classes: Annotated[list[NamedClass], Length(4)]
    """Their classes, which the network gets right."""
    energy: dict[str, list[Share]]
    """By method, or baseline, for each class the share of the positive values of its map that lies on its image."""


class Mosaics(TypedDict):
    """The mosaics of a run."""

    full_size: bool
    """Whether images stand there at the size that the network is shown; else at half of it, because it takes one input
    size."""
    seed: Count
    """Seeds which images stand together."""
    mosaics: list[MosaicRow]
    """The mosaics, in the order in which they were drawn."""


class WithMosaics(TypedDict):
    """Of reports of commands that make maps."""

    mosaics: NotRequired[Mosaics]
    """Of ``--metric grid_pointing``, and ``--mosaics``: which images stood together, and what was measured."""
