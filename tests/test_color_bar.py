"""Where zero stands on the bars of signed maps, in panels of one method and of several."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz.geometry.placement import PlacedMap
from cnnviz.render.color_bar import bar_colours, zero_on
from cnnviz.render.colormap import colormap
from cnnviz.render.method_panel import Cell, CellRow, method_panel
from cnnviz.render.overlay import Style
from cnnviz.render.panel import PanelRow, panel
from tests.support.written import Written, listen

SIZE = (300, 300)


def _row(low: float, high: float) -> PanelRow:
    values = np.linspace(low, high, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE[::-1])
    return PanelRow("cat", None, PlacedMap(values, (0, 0, *SIZE), True), "occlusion")


def _only(written: list[Written], text: str) -> tuple[float, float, float, float]:
    [box] = [each.box for each in written if each.text == text]
    return box


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.05, 23.8), (-5, 0.02), (-1, 3)])
def test_zero_is_marked_on_the_bar_of_a_panel(low: float, high: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also close to an end, as of a CAM from -0.05 to 23.8."""
    written = listen(monkeypatch)
    out = panel(np.zeros((*SIZE[::-1], 3), np.uint8), [_row(low, high)], Style(), "")
    top = _only(written, f"{high:.3g}")[1]
    # The values stand 8 pixels to the right of the bar; in that gap the only dark pixels are those of zero.
    left = round(min(each.box[0] for each in written if each.text in (f"{high:.3g}", f"{low:.3g}", "0"))) - 9
    dark = np.flatnonzero((out[:, left + 1 : left + 4] < 60).all((1, 2)))
    assert len(dark) == 1
    begin = 24 + 28 + 30  # margin, headings, caption
    assert dark[0] - begin == pytest.approx(300 * high / (high - low), abs=1.5)
    zero = _only(written, "0")
    assert abs((zero[1] + zero[3]) / 2 - dark[0]) <= 24
    others = [each.box for each in written if each.text in (f"{high:.3g}", f"{low:.3g}", "for", "against")]
    assert all(box[3] <= zero[1] or box[1] >= zero[3] for box in others)
    assert top < zero[1]


def test_zero_is_written_between_against_and_for_in_a_panel_of_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    written = listen(monkeypatch)
    rows = [CellRow("cat", None, [Cell("Occlusion", _row(-1, 1)), Cell("CAM", _row(-1, 1))])]
    method_panel(np.zeros((*SIZE[::-1], 3), np.uint8), rows, Style(), ("", ""))
    against, zero, most = (_only(written, text) for text in ("against", "0", "for"))
    middle = (against[2] + most[0]) / 2
    assert (zero[0] + zero[2]) / 2 == pytest.approx(middle, abs=2)
    assert against[1] - 4 <= zero[1] < zero[3] <= against[3] + 4


def test_a_bar_runs_between_the_colours_of_its_limits() -> None:
    table = colormap("coolwarm")
    # -1 of 3 is a third of 127 steps below 128, 3 is the last entry.
    colours = bar_colours("coolwarm", (-1.0, 3.0), 400)
    assert colours[0].tolist() == table[128 - round(127 / 3)].tolist()
    assert colours[-1].tolist() == table[255].tolist()
    assert zero_on((-1.0, 3.0), 400) == 100
    assert [zero_on(limits, 400) for limits in ((0.0, 3.0), (-3.0, 0.0), (1.0, 2.0))] == [None] * 3
    assert zero_on((-3.0, 1e-9), 400) == 399
