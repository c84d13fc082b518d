"""How much the patches of a unit are of one class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnnviz.schema.studies import top_patches as schema


@dataclass(frozen=True)
class Selectivity:
    """The classes among a unit's patches.

    Attributes:
        label: The most frequent class; of equals the one whose patch ranks first.
        purity: Its share, 0 to 1.
        entropy: -sum p log2 p over the classes' shares, in bits: 0 for one class.
        count: Patches that have a label.
    """

    label: str
    purity: float
    entropy: float
    count: int

    def to_dict(self) -> schema.Selectivity:
        """As the report has it."""
        return {"label": self.label, "purity": self.purity, "entropy": self.entropy, "count": self.count}


def ranking(units: Iterable[tuple[int, Selectivity | None]]) -> list[schema.RankedUnit]:
    """The most selective unit first: pure, then of low entropy, then with many patches."""
    rows = [(unit, classes) for unit, classes in units if classes is not None]
    rows.sort(key=lambda row: (-row[1].purity, row[1].entropy, -row[1].count, row[0]))
    return [{"unit": number, **found.to_dict()} for number, found in rows]


def selectivity(labels: Sequence[str | None]) -> Selectivity | None:
    """Purity and entropy of labels, strongest patch first; None where there are none."""
    # A counter keeps the order in which labels came, and the first of equals is its most common one.
    counts = Counter(label for label in labels if label is not None)
    total = counts.total()
    if not total:
        return None
    label, most = counts.most_common(1)[0]
    entropy = -math.fsum(count / total * math.log2(count / total) for count in counts.values())
    return Selectivity(label, most / total, entropy + 0.0, total)
