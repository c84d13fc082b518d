"""What of a network a target reads. Like a cut, a readout is a value: a cut says where gradients end, a readout where
scores begin."""

from __future__ import annotations

from dataclasses import dataclass

SUM, STRONGEST = "sum", "strongest"

Position = str | tuple[int, int]


@dataclass(frozen=True)
class Readout:
    """Where the scores of targets come from. Equal readouts of a network are the same session.

    Make one with :meth:`scores`, :meth:`units` or :meth:`everything`.

    Attributes:
        layer: The layer whose units are read, as ``--layer`` has it; None for what the network returns.
        at: How a unit's map becomes one value: the ``sum`` of its positions, its ``strongest`` one, or the one at
            (row, column). A unit of a vector is one value anyway.
        whole: Whether all that the network returns is read, not its class scores alone.
    """

    layer: str | None = None
    at: Position = SUM
    whole: bool = False

    @classmethod
    def scores(cls) -> Readout:
        """The class scores: one tensor of what the network returns."""
        return _SCORES

    @classmethod
    def units(cls, layer: str, at: Position = SUM) -> Readout:
        """The units of a layer, [N, C]."""
        return cls(layer, at)

    @classmethod
    def everything(cls) -> Readout:
        """All that the network returns, in its own structure."""
        return _EVERYTHING


_SCORES, _EVERYTHING = Readout(), Readout(whole=True)
