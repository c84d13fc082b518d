"""How much of the score the maps of a run leave out, for methods whose maps should sum to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

TOLERATED = 0.01
"""Share of the score up to which a gap is not worth mentioning."""


class LeftOut:
    """Counts ``gap_share`` over the maps of a run.

    Attributes:
        maps: How many maps have one.
        above: How many leave out more than :data:`TOLERATED`.
        largest: The largest share.
    """

    def __init__(self) -> None:
        self.maps, self.above, self.largest = 0, 0, 0.0

    def counting(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The records, counted as they pass by."""
        for record in records:
            for explanation in record.get("explanations") or ():
                share = explanation.get("scores", {}).get("gap_share")
                if share is not None:
                    self.maps += 1
                    self.above += share > TOLERATED
                    self.largest = max(self.largest, share)
            yield record

    def note(self, reason: str) -> str:
        """What a person is told; empty where the maps sum to the score."""
        if not self.above:
            return ""
        return (
            f"{self.above} of {self.maps} maps leave out more than {TOLERATED:.0%} of the score "
            f"(at most {self.largest:.0%}): {reason}"
        )

    def summary(self) -> dict[str, Any]:
        """Figures for the report."""
        return {"maps": self.maps, "above_tolerance": self.above, "tolerance": TOLERATED, "largest": self.largest}
