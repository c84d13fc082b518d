"""The picture of an image that two runs explain: how much of a difference its colours show."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnviz.compare import panels
from cnnviz.compare.likeness import ComparedMaps
from cnnviz.compare.pairing import PairedMaps
from cnnviz.geometry.placement import PlacedMap
from cnnviz.io.finished_runs import KeptMap
from cnnviz.render.overlay import Style
from cnnviz.render.panel import PanelRow, PictureRow, picture_panel
from tests.support.written import listen


def test_a_difference_is_drawn_by_its_own_largest_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small it is it has the same colours, and its figure stands beside it; without one there is no colour."""
    Image.new("RGB", (240, 240), (90, 140, 60)).save(tmp_path / "a.png")
    record = {"path": str(tmp_path / "a.png"), "name": "a.png", "width": 240, "height": 240}
    said: list[str] = []
    paint = panels.picture_panel
    monkeypatch.setattr(
        panels, "picture_panel", lambda rows, title: said.extend(row.row.method for row in rows) or paint(rows, title)
    )
    ramp = np.linspace(0.2, 0.6, 64, dtype=np.float32).reshape(8, 8)
    ramp[7, 7] = 2.0  # of both the largest

    def difference(step: float) -> NDArray[np.uint8]:
        changed = ramp.copy()
        changed[2, 2] += 2 * step
        changed[5, 1] -= step
        kept = [KeptMap(values, (0, 0, 240, 240), False, True) for values in (ramp, changed)]
        target = {"target": {"label": "cat"}}
        pair = ComparedMaps(PairedMaps(target, target, True), *kept, None)
        page, _ = panels.compared_panel(record, [pair], ("", ""), Style())
        assert page is not None
        return page[-24 - 240 : -24, 24 + 3 * 252 : 24 + 3 * 252 + 240]

    small, large, none = difference(0.001), difference(0.1), difference(0.0)
    np.testing.assert_allclose(small.astype(int), large, atol=3)
    assert int(np.ptp(large.astype(int), axis=2).max()) > 120
    assert int(np.ptp(none.astype(int), axis=2).max()) == 0
    shown = [float(text.split("|")[2].split()[0]) for text in said[:2]]
    # Twice the step, of maps that were divided by 2; enlarged from 8 cells to 240 pixels.
    np.testing.assert_allclose(shown, [0.001, 0.1], rtol=0.05)
    assert said[2].startswith("no difference")


@pytest.mark.parametrize("size", [(60, 400), (30, 30), (400, 60)])
@pytest.mark.parametrize(
    "label", ["cat", "A: American Staffordshire terrier 12.3 %; B: Staffordshire bullterrier 10.2 %"]
)
def test_nothing_is_cut_above_narrow_pictures(
    label: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word is written, within the page, and no two texts lie on each other."""
    written = listen(monkeypatch)
    headings = ["image", "A: efficientnet_lite0 IMAGENET1K", f"B: folder/{'net' * 14}.py:make", panels._DIFFERENCE]
    method, title = "largest |B - A| 0.933 of 1; rank correlation -0.24", f"{'photograph_' * 9}1.jpg"
    blank = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    own = PanelRow(label, None, PlacedMap(np.zeros(size[::-1], dtype=np.float32), (0, 0, *size), False), method)
    page = picture_panel([PictureRow(own, [(heading, blank) for heading in headings])] * 2, title)
    together = "".join(text for text, _ in written).replace(" ", "")
    for wanted in (title, *headings, label, method):
        assert wanted.replace(" ", "") in together
    boxes = [box for _, box in written]
    assert min(box[0] for box in boxes) >= 0
    assert max(box[2] for box in boxes) <= page.shape[1]
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
