"""Shares in per cent: never 0 or 100 where they are neither, on the terminal, in pictures and on pages alike."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from cnnviz.audit.shortcuts import Cluster, _said
from cnnviz.metrics.seen_region import SeenRegion
from cnnviz.render import factors, tcav
from cnnviz.render.text import percent
from cnnviz.report import compare_words
from cnnviz.report.headline import headline
from cnnviz.report.record_words import prediction_note
from cnnviz.run.counting import Counts

# A share, and how it is written: rounded to whole per cent, which some of these were, the outer four would be 0 or 100.
SHARES = [(0.0004, "< 0.1 %"), (0.004, "0.4 %"), (0.5, "50.0 %"), (0.996, "99.6 %"), (0.9996, "> 99.9 %")]


@pytest.mark.parametrize(("share", "said"), SHARES)
def test_notes_and_pages(share: float, said: str) -> None:
    counts = Counts(cropped=1, outside=share)
    assert f"centre crop left out {said} of 1 picture" in counts.what_was_outside()
    pairs = dict(headline({"outside_view": {"images": 1, "mean_share": share}}))
    assert pairs["grey: not shown to the network"] == f"{said} of 1 picture"
    assert prediction_note({"probability": 1, "area": share}) == f"{said} of the area"
    ends = [share, share]
    assert f"({said}; 95 % interval {said} to {said})" in compare_words.rate({"value": share, "ci95": ends, "n": 9})
    if share < 0.99:
        seen = SeenRegion()
        seen.add(share)
        assert seen.hidden("truth") == f"the network saw {said} of the object: it cannot look at the rest"
    assert percent(share) == said
    assert percent(None) == ""


@pytest.mark.parametrize(("share", "said"), SHARES)
def test_clusters_of_an_audit(share: float, said: str) -> None:
    rows = 5000
    flips = np.arange(rows) < round(share * rows)
    hidden: Any = type("Hidden", (), {"flips": flips, "at_random": flips[:, None], "p": 0.5})
    cluster: Any = type("Found", (), {"number": 1, "members": [0], "on_object": share, "hidden": hidden})
    cluster.excess = np.zeros(1)
    text = _said(cast(Cluster, cluster))
    assert f"{said} of what it looks at lies on the object" in text
    assert f"without the region {said} flip, without random ones {said}" in text


@pytest.mark.parametrize(("share", "said"), SHARES)
def test_pictures_have_room_for_it(share: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(draw: Any, corner: Any, text: str, size: int, fill: Any, width: int) -> int:
        from cnnviz.render.text import fitted

        written.append(fitted(text, size, width))
        return width

    monkeypatch.setattr(factors, "write", write)
    monkeypatch.setattr(tcav, "write", write)
    rgb = np.zeros((40, 40, 3), dtype=np.uint8)
    factors.factor_figure(rgb, rgb, [share] * 12, "shares of the area")
    assert written[:12] == [f"{number}: {said}" for number in range(1, 13)]
    written.clear()
    tcav.derivative_figure(rgb, [("stripes", -1.2e-05, share)])
    assert written[1] == f"-1.2e-05; above 0: {said}"
