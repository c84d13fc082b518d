"""Units and neurons of any layer, as targets: what of the image excites them.

unit:LAYER:K            the sum of the map of unit K
unit:LAYER:K/strongest  its strongest position
neuron:LAYER:K:y:x      one position of it, in cells of the layer
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cnnviz.engine.readout import STRONGEST, SUM, Position, Readout
from cnnviz.engine.targets import UnitTarget
from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.records import UnitScore
from cnnviz.tasks.base import Predictions, Request

KINDS = ("unit", "neuron")
_MOST_DIGITS = 9


@dataclass(frozen=True)
class UnitRequest(Request):
    """A unit of a layer in one image.

    Attributes:
        layer: As ``--layer`` has it; also a layer that returns a vector.
        index: The channel.
        at: ``sum`` over positions, ``strongest`` position, or (row, column).
        spec: As it was asked for.
    """

    layer: str
    index: int
    at: Position
    spec: str

    @property
    def key(self) -> Hashable:
        return "unit", self.layer, self.at

    @property
    def readout(self) -> Readout:
        return Readout.units(self.layer, self.at)

    @property
    def slug(self) -> str:
        layer = self.layer.replace(":", ".")
        if isinstance(self.at, str):
            return f"unit-{layer}-{self.index}" + ("" if self.at == SUM else f"-{self.at}")
        return f"neuron-{layer}-{self.index}-{self.at[0]}-{self.at[1]}"

    @property
    def label(self) -> str:
        """In words."""
        if isinstance(self.at, str):
            where = "" if self.at == SUM else ", its strongest position"
            return f"unit {self.index} of {self.layer}{where}"
        return f"neuron {self.index} of {self.layer} at row {self.at[0]}, column {self.at[1]}"

    def target(self, requests: Sequence[UnitRequest]) -> UnitTarget:
        return UnitTarget(self.layer, torch.tensor([each.index for each in requests]), self.at)

    def scored(self, said: Predictions, place: int, output: Any) -> UnitScore:
        neuron = not isinstance(self.at, str)
        return UnitScore(
            kind="neuron" if neuron else "unit",
            spec=self.spec,
            label=self.label,
            score=self.value(output),
            layer=self.layer,
            index=self.index,
            reduction=None if neuron else str(self.at),
            position=None if isinstance(self.at, str) else self.at,
        )


def parse_unit(spec: str, where: str) -> UnitRequest | None:
    """The unit or neuron that a spec asks for; None where it is of another kind.

    Args:
        spec: Such as ``unit:layer4:17``.
        where: What to call it in messages, such as ``--target``.

    Raises:
        CnnvizError: It is one, but not of the form that is expected.
    """
    kind, _, rest = spec.strip().partition(":")
    if kind == "unit":
        layer, colon, unit = rest.rpartition(":")
        number, slash, at = unit.partition("/")
        if colon and layer and _is_number(number) and (not slash or at in (SUM, STRONGEST)):
            return UnitRequest(layer, int(number), at or SUM, spec.strip())
        hint = nearest(at, (SUM, STRONGEST)) if slash else ""
        raise CnnvizError(
            f"{where} {shown(spec)}: expected unit:LAYER:K, or unit:LAYER:K/strongest for its strongest position.",
            hint or "For example unit:layer4:17; `cnnviz layers` lists the layers.",
        )
    if kind == "neuron":
        layer, *numbers = rest.rsplit(":", 3)
        if len(numbers) == 3 and layer and all(map(_is_number, numbers)):
            index, row, column = map(int, numbers)
            return UnitRequest(layer, index, (row, column), spec.strip())
        raise CnnvizError(
            f"{where} {shown(spec)}: expected neuron:LAYER:K:ROW:COLUMN, in cells of the layer.",
            "For example neuron:layer4:17:3:3; `cnnviz layers` lists the layers with their sizes.",
        )
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
