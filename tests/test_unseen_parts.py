"""What the network was not shown is drawn alike in all pictures: light grey, outside a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.geometry.placement import place
from cnnviz.render.factors import factor_figure, painted, what_figures_are
from cnnviz.render.overlay import Style, overlay, with_unseen
from cnnviz.studies.adversarial import region_figure

RECT = (40.0, 10.0, 100.0, 60.0)


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (80, 140, 3), dtype=np.uint8)


def test_it_is_drawn_as_an_overlay_has_it_and_what_was_seen_is_left(rgb: NDArray[np.uint8]) -> None:
    placed = place(np.ones((5, 6), np.float32), RECT, (140, 80), signed=False)
    expected = overlay(rgb, placed, Style("turbo", 0.5))
    picture = np.full_like(rgb, 7)
    found = with_unseen(picture, rgb, RECT, (140, 80))
    np.testing.assert_array_equal(found[10:60, 40:100], 7)
    expected[10:60, 40:100] = 7
    np.testing.assert_array_equal(found, expected)
    assert (picture == 7).all()


def test_the_rectangle_is_that_of_the_photograph_at_any_size(rgb: NDArray[np.uint8]) -> None:
    """Of a photograph of 280 x 160 pixels, drawn at half of that."""
    twice = (80.0, 20.0, 200.0, 120.0)
    picture = np.full_like(rgb, 7)
    np.testing.assert_array_equal(
        with_unseen(picture, rgb, twice, (280, 160)), with_unseen(picture, rgb, RECT, (140, 80))
    )


def test_factors_have_the_frame_and_say_what_their_shares_are(rgb: NDArray[np.uint8]) -> None:
    coloured = painted(rgb, np.ones((2, 5, 6), np.float32), RECT)
    np.testing.assert_array_equal(coloured[:9], overlay(rgb, _flat(), Style("turbo", 0.5))[:9])
    assert np.ptp(coloured[9, 45:95].astype(int), axis=0).max() == 0  # the line above what was seen
    assert what_figures_are("shares", RECT, (140, 80)) == "shares; grey, outside the frame: not shown to the network"
    assert what_figures_are("shares", (0, 0, 140, 80), (140, 80)) == "shares"
    bare = factor_figure(rgb, coloured, [0.4, 0.6], "")
    told = factor_figure(rgb, coloured, [0.4, 0.6], "share of the area")
    assert (told[: len(bare) - 16] == bare[: len(bare) - 16]).all()
    assert (told[-16:] < 200).any()
    assert (bare[-16:] == 255).all()


def test_predictions_under_attack_have_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure's photographs have the size at which it draws them, so that pixels stay what they are."""
    photo = np.random.default_rng(2).integers(0, 256, (420, 420, 3), dtype=np.uint8)
    rect = (105.0, 105.0, 315.0, 315.0)
    drawn: dict[str, Any] = {}

    def remembered(rows: Any, title: str) -> Any:
        drawn.update({cell.heading: cell.picture for row in rows for cell in row if cell is not None})
        return photo

    monkeypatch.setattr(region_figure, "comparison", remembered)
    classes = np.zeros((2, 2), dtype=np.int64)
    region_figure.attack_figure(
        region_figure.Attacked(
            "", (photo, photo, photo), (classes, classes), None, rect, ("one",), ("noise", "", "", "")
        )
    )
    blank = place(np.zeros((2, 2), np.float32), rect, (420, 420), signed=False)
    expected = overlay(photo, blank, Style("turbo", 0.5))
    for name in ("prediction", "prediction of the adversarial image"):
        np.testing.assert_array_equal(drawn[name][:105], expected[:105])
        np.testing.assert_array_equal(drawn[name][:, 315:], expected[:, 315:])


def _flat() -> Any:
    return place(np.ones((5, 6), np.float32), RECT, (140, 80), signed=False)
