"""A sample of the walk of ``benchmarks/attention_families.py``: other families than the tests' own small networks."""

from __future__ import annotations

import pytest

pytest.importorskip("timm")

from benchmarks.attention_families import outcome
from benchmarks.family_networks import build

# Network, size, layout, grid; the share of what a cell sees outside its own patch where attention is the identity.
SAMPLE: list[tuple[str, tuple[int, int], str, list[int], float]] = [
    ("deit_tiny_distilled_patch16_224", (224, 224), "tokens", [14, 14], 1e-6),
    ("levit_128s", (224, 224), "tokens", [4, 4], 1.0),
    ("pvt_v2_b0", (128, 96), "tokens", [4, 3], 1.0),
    ("xcit_nano_12_p8_224", (128, 96), "tokens", [16, 12], 1.0),
    ("mobilevit_xxs", (128, 96), "NCHW", [4, 3], 1.0),
]


@pytest.mark.parametrize(("name", "size", "layout", "grid", "outside"), SAMPLE, ids=[row[0] for row in SAMPLE])
def test_a_family_has_a_checked_map(
    name: str, size: tuple[int, int], layout: str, grid: list[int], outside: float
) -> None:
    module, _ = build("timm", name)
    found = outcome(module, size)
    assert found["outcome"] == "map", found
    assert (found["layout"], found["grid"]) == (layout, grid)
    assert found["outside"] <= outside
