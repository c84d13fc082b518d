"""What of a network a target reads. Like a cut, a readout is a value: a cut says where gradients end, a readout where
scores begin."""

from __future__ import annotations

from dataclasses import dataclass

SUM, STRONGEST = "sum", "strongest"

Position = str | tuple[int, int]


@dataclass(frozen=True)
class Readout:
    """Where the scores of targets come from. Equal readouts of a network are the same session.

    Make one with :meth:`scores`, :meth:`units`, :meth:`vector` or :meth:`everything`.

    Attributes:
        layer: The layer whose units are read, as ``--layer`` has it; None for what the network returns.
        at: How a unit's map becomes one value: the ``sum`` of its positions, its ``strongest`` one, or the one at
            (row, column). A unit of a vector is one value anyway.
        whole: Whether all that the network returns is read, not its class scores alone.
        before_classifier: Whether what feeds a last linear layer is read: the vector of an image.
    """

    layer: str | None = None
    at: Position = SUM
    whole: bool = False
    before_classifier: bool = False

    @property
    def why(self) -> str | None:
        """Why something else than the class scores is explained, in words; None where they are."""
        if self.layer is not None:
            return f"the units of layer {self.layer} are explained"
        return "the vector before the classifier is explained" if self.before_classifier else None

    @classmethod
    def scores(cls) -> Readout:
        """The class scores: one tensor of what the network returns."""
        return _SCORES

    @classmethod
    def units(cls, layer: str, at: Position = SUM) -> Readout:
        """The units of a layer, [N, C]."""
        return cls(layer, at)

    @classmethod
    def vector(cls) -> Readout:
        """The vector of an image, [N, D]: what feeds a last linear layer; where there is none, the output."""
        return _VECTOR

    @classmethod
    def everything(cls) -> Readout:
        """All that the network returns, in its own structure."""
        return _EVERYTHING


_SCORES, _EVERYTHING, _VECTOR = Readout(), Readout(whole=True), Readout(before_classifier=True)
