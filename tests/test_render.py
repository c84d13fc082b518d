"""Colours, overlays, grids and panels: which colour lands where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.render.colormap import COLORMAPS, SIGNED_DEFAULT, colormap
from cnnviz.render.grid import grid, thumbnail
from cnnviz.render.overlay import Style, coloured, heatmap_image, limits_of, overlay
from cnnviz.render.panel import PanelRow, panel
from cnnviz.render.text import printable

SEQUENTIAL = ("turbo", "jet", "viridis", "inferno", "magma", "gray")
DIVERGING = ("coolwarm", "seismic")


def photograph(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_placed(width: int, height: int, *, signed: bool, seed: int = 0) -> PlacedMap:
    raw = np.random.default_rng(seed).normal(size=(7, 7)).astype(np.float32)
    return place(raw if signed else np.maximum(raw, 0), (0, 0, width, height), (width, height), signed=signed)


def whole(values: NDArray[np.float32], *, signed: bool) -> PlacedMap:
    return PlacedMap(values, (0, 0, values.shape[1], values.shape[0]), signed)


def level(value: float, maximum: float, signed: bool) -> int:
    """The 8-bit level of one value by the contract's words, rounded half to even."""
    return 128 + round(127 * value / maximum) if signed else round(255 * max(value, 0.0) / maximum)


# ---- colour maps


def test_colour_maps_run_in_the_published_direction() -> None:
    ends = {
        "turbo": ((48, 18, 59), (122, 4, 3)),
        "viridis": ((68, 1, 84), (253, 231, 37)),
        "inferno": ((0, 0, 4), (252, 255, 164)),
        "magma": ((0, 0, 4), (252, 253, 191)),
        "jet": ((0, 0, 128), (128, 0, 0)),
        "gray": ((0, 0, 0), (255, 255, 255)),
        "coolwarm": ((59, 76, 192), (180, 4, 38)),
        "seismic": ((0, 0, 77), (128, 0, 0)),
    }
    assert set(ends) == set(COLORMAPS)
    for name, (first, last) in ends.items():
        table = colormap(name).astype(int)
        assert table.shape == (256, 3)
        assert np.abs(table[0] - first).max() <= 1, name
        assert np.abs(table[-1] - last).max() <= 1, name


@pytest.mark.parametrize("name", DIVERGING)
def test_a_diverging_colour_map_is_neutral_in_the_middle_blue_below_and_red_above(name: str) -> None:
    table = colormap(name).astype(int)
    assert len(set(table[128])) == 1
    assert table[128].sum() == table.sum(axis=1).max()
    assert (table[1:128, 2] > table[1:128, 0]).all()
    assert (table[129:, 0] > table[129:, 2]).all()


def test_colour_tables_cannot_be_changed_by_who_reads_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        colormap("turbo")[0] = 0


def test_an_unknown_colour_map_names_the_nearest() -> None:
    with pytest.raises(CnnvizError, match="'virids'") as caught:
        Style(colormap="virids")
    assert "viridis" in caught.value.hint


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(CnnvizError, match="alpha"):
        Style(alpha=alpha)


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_limits_that_are_no_interval_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(CnnvizError, match="limits"):
        Style(limits=limits)


# ---- overlay


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (70, 70)])
def test_the_peak_has_the_last_colour_and_zero_the_first(name: str, size: tuple[int, int]) -> None:
    width, height = size
    raw = np.zeros((7, 7), dtype=np.float32)
    raw[1, 5] = 3.7e-3
    placed = place(raw, (0, 0, width, height), size, signed=False)
    drawn = overlay(photograph(width, height), placed, Style(name, alpha=1.0))
    peak = np.unravel_index(int(placed.values.argmax()), placed.values.shape)
    assert drawn[peak].tolist() == colormap(name)[-1].tolist()
    assert drawn[-1, 0].tolist() == colormap(name)[0].tolist()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_every_pixel_is_the_stated_blend(signed: bool, alpha: float) -> None:
    rgb = photograph(24, 18)
    placed = random_placed(24, 18, signed=signed)
    drawn = overlay(rgb, placed, Style(alpha=alpha))
    table = colormap(SIGNED_DEFAULT if signed else "turbo").astype(float)
    maximum = float(np.abs(placed.values).max())
    off = 0
    for y in range(18):
        for x in range(24):
            value = float(placed.values[y, x])
            colour = table[level(value, maximum, signed)]
            weight = min(1.0, 1.6 * alpha * abs(value) / maximum) if signed else alpha
            expected = (1 - weight) * rgb[y, x].astype(float) + weight * colour
            off += bool(np.abs(drawn[y, x] - expected).max() > 0.51)
    # A value on the edge between two entries of the table may fall to either side.
    assert off <= 2


def test_the_brightness_of_the_image_does_not_depend_on_the_map() -> None:
    rgb = np.full((40, 40, 3), 200, dtype=np.uint8)
    drawn = []
    for maximum in (0.01, 1.0, 300.0):
        raw = np.zeros((7, 7), dtype=np.float32)
        raw[0, 0] = maximum
        drawn.append(overlay(rgb, place(raw, (0, 0, 40, 40), (40, 40), signed=False), Style())[-1, -1])
    expected = np.rint(0.5 * 200 + 0.5 * colormap("turbo")[0].astype(float))
    for pixel in drawn:
        assert np.abs(pixel - expected).max() <= 1


@pytest.mark.parametrize("chosen", ["auto", *DIVERGING])
def test_a_signed_map_is_drawn_about_a_neutral_zero(chosen: str) -> None:
    values = np.array([[-2.0, -1.0, 0.0, 1.0, 4.0]], dtype=np.float32)
    drawn = coloured(whole(values, signed=True), Style(chosen))[0]
    table = colormap(chosen if chosen in DIVERGING else SIGNED_DEFAULT)
    expected = [128 - round(127 / 2), 128 - round(127 / 4), 128, 128 + round(127 / 4), 255]
    assert drawn.tolist() == table[expected].tolist()


@pytest.mark.parametrize("chosen", ["turbo", "gray"])
def test_a_named_sequential_colour_map_is_obeyed_by_a_signed_map(chosen: str) -> None:
    values = np.array([[-1.0, 0.0, 4.0]], dtype=np.float32)
    drawn = overlay(photograph(3, 1), whole(values, signed=True), Style(chosen, alpha=1.0))[0]
    assert drawn.tolist() == colormap(chosen)[[0, round(255 / 5), 255]].tolist()


def test_a_signed_map_leaves_the_photograph_where_it_says_nothing() -> None:
    rgb = photograph(3, 1)
    drawn = overlay(rgb, whole(np.array([[-0.07, 0.0, 23.8]], dtype=np.float32), signed=True), Style(alpha=1.0))[0]
    assert drawn[1].tolist() == rgb[0, 1].tolist()
    assert drawn[2].tolist() == colormap(SIGNED_DEFAULT)[255].tolist()
    # Three thousandths of the maximum: a weight of half a per cent.
    assert np.abs(drawn[0].astype(int) - rgb[0, 0].astype(int)).max() <= 2


def test_an_unsigned_map_in_a_diverging_colour_map_starts_at_neutral() -> None:
    values = np.array([[0.0, 4.0]], dtype=np.float32)
    drawn = coloured(whole(values, signed=False), Style("coolwarm"))[0]
    assert drawn.tolist() == colormap("coolwarm")[[128, 255]].tolist()


@pytest.mark.parametrize("signed", [False, True])
def test_a_flat_map_leaves_the_image_grey(signed: bool) -> None:
    rgb = photograph(30, 20)
    placed = whole(np.zeros((20, 30), dtype=np.float32), signed=signed)
    luminance = rgb.astype(float) @ [0.299, 0.587, 0.114]
    for style in (Style(), Style(alpha=1.0), Style(limits=(0.0, 3.0))):
        drawn = overlay(rgb, placed, style).astype(float)
        assert np.abs(drawn - luminance[..., None]).max() <= 1.0
    assert limits_of(placed) == (0.0, 0.0)
    assert np.unique(heatmap_image(placed, Style())).tolist() == [128 if signed else 0]


def test_what_was_not_seen_is_light_grey_behind_a_frame_and_not_cold() -> None:
    rgb = photograph(60, 40)
    raw = np.ones((7, 7), dtype=np.float32)
    placed = place(raw, (12.0, 2.0, 48.0, 38.0), (60, 40), signed=False)
    assert placed.seen == (12, 2, 48, 38)
    drawn = overlay(rgb, placed, Style(alpha=1.0))
    assert (drawn[2:38, 12:48] == colormap("turbo")[-1]).all()
    frame = np.zeros((40, 60), dtype=bool)
    frame[1:39, 11:49] = True
    frame[2:38, 12:48] = False
    assert (drawn[frame] == 64).all()
    outside = np.ones((40, 60), dtype=bool)
    outside[1:39, 11:49] = False
    luminance = rgb.astype(float) @ [0.299, 0.587, 0.114]
    assert np.ptp(drawn[outside], axis=-1).max() == 0
    assert np.abs(drawn[outside][:, 0] - (140 + 0.4 * luminance[outside])).max() <= 1.0


def test_limits_of_a_run_replace_those_of_the_map() -> None:
    values = np.array([[0.0, 1.0, 2.0, 4.0, 8.0]], dtype=np.float32)
    placed = whole(values, signed=False)
    expected = [0, round(255 / 4), round(255 / 2), 255, 255]
    style = Style("gray", alpha=1.0, limits=(0.0, 4.0))
    assert heatmap_image(placed, style)[0].tolist() == expected
    assert overlay(photograph(5, 1), placed, style)[0, :, 0].tolist() == expected
    shifted = heatmap_image(placed, Style(limits=(1.0, 5.0)))[0].tolist()
    assert shifted == [0, 0, round(255 / 4), round(3 * 255 / 4), 255]
    signed = whole(values - 4, signed=True)
    assert heatmap_image(signed, Style(limits=(-1.0, 8.0)))[0].tolist() == [64, 80, 96, 128, 192]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("unit", [1e-42, 1e-30, 1.0, 3e38])
def test_heatmap_levels_follow_the_contract_in_every_unit(signed: bool, unit: float) -> None:
    values = (np.linspace(-1.0 if signed else 0.0, 1.0, 64, dtype=np.float32) * unit).reshape(8, 8)
    placed = whole(values.astype(np.float32), signed=signed)
    maximum = float(np.abs(placed.values).max())
    assert limits_of(placed) == (float(placed.values.min()) if signed else 0.0, float(placed.values.max()))
    drawn = heatmap_image(placed, Style())
    expected = [[level(float(v), maximum, signed) for v in row] for row in placed.values]
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert drawn.max() == 255
    assert drawn.min() == (1 if signed else 0)


def test_the_heatmap_outside_of_what_was_seen_is_zero_or_neutral_and_transparent() -> None:
    for signed, neutral in ((False, 0), (True, 128)):
        placed = place(np.ones((3, 3), dtype=np.float32), (4.0, 0.0, 8.0, 6.0), (12, 6), signed=signed)
        drawn = heatmap_image(placed, Style())
        assert (drawn[:, 4:8] == 255).all()
        assert (np.delete(drawn, np.s_[4:8], axis=1) == [neutral, 0]).all()


def test_the_caller_keeps_its_image_and_views_are_fine() -> None:
    rgb = photograph(30, 20)
    kept = rgb.copy()
    placed = random_placed(30, 20, signed=False)
    mirrored = overlay(rgb[:, ::-1], placed, Style())
    assert np.array_equal(mirrored, overlay(rgb[:, ::-1].copy(), placed, Style()))
    assert np.array_equal(rgb, kept)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        overlay(photograph(31, 20), random_placed(30, 20, signed=False), Style())


# ---- grid and thumbnail


def test_a_grid_letterboxes_and_keeps_the_aspect_ratio() -> None:
    red, green, blue = (np.full((h, w, 3), 0, dtype=np.uint8) for w, h in ((80, 20), (20, 80), (9, 9)))
    red[..., 0], green[..., 1], blue[..., 2] = 200, 200, 200
    out = grid([red, green, blue], columns=2, cell=(40, 40), gap=4)
    assert out.shape == (2 * 44 + 4, 2 * 44 + 4, 3)
    for image, colour, area in ((red, 0, 40 * 10), (green, 1, 10 * 40), (blue, 2, 40 * 40)):
        exact = np.zeros(3)
        exact[colour] = 200
        ys, xs = np.nonzero((out == exact).all(axis=-1))
        assert len(ys) == area
        assert (np.ptp(xs) + 1) * image.shape[0] == (np.ptp(ys) + 1) * image.shape[1]
    painted = out.min(axis=-1) < 255
    assert painted[4 + 15 : 4 + 25, 4:44].all()
    assert painted[4:44, 48 + 15 : 48 + 25].all()
    assert painted[48:88, 4:44].all()
    assert painted.sum() == 400 + 400 + 1600


def test_a_grid_takes_grey_images_and_no_more_columns_than_it_has() -> None:
    out = grid([np.full((10, 10), 7, dtype=np.uint8)], columns=5, cell=(10, 10), gap=1)
    assert out.shape == (12, 12, 3)
    assert (out[1:-1, 1:-1] == 7).all()
    with pytest.raises(ValueError, match="needs an image"):
        grid([], columns=3, cell=(10, 10))


def test_a_thumbnail_averages_and_never_enlarges() -> None:
    rgb = photograph(400, 200)
    small = thumbnail(rgb, 100)
    means = rgb.reshape(50, 4, 100, 4, 3).mean(axis=(1, 3))
    assert small.shape == (50, 100, 3)
    assert np.abs(small - means).max() <= 0.51
    assert np.array_equal(thumbnail(rgb, 400), rgb)
    assert thumbnail(photograph(3000, 2), 100).shape == (1, 100, 3)


# ---- panel


def rows_for(rgb: NDArray[np.uint8], count: int, *, signed: bool = False) -> list[PanelRow]:
    height, width = rgb.shape[:2]
    return [
        PanelRow(f"class {n}", 0.5 / (n + 1), random_placed(width, height, signed=signed, seed=n), "gradcam")
        for n in range(count)
    ]


def find(canvas: NDArray[np.uint8], picture: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Top left corners x, y where the picture stands in the canvas to the last bit."""
    height, width = picture.shape[:2]
    free_y, free_x = canvas.shape[0] - height + 1, canvas.shape[1] - width + 1
    rng = np.random.default_rng(0)
    ys, xs = (places.ravel() for places in np.mgrid[:free_y, :free_x])
    for y, x in zip(rng.integers(0, height, 30), rng.integers(0, width, 30), strict=True):
        possible = (canvas[ys + y, xs + x] == picture[y, x]).all(axis=-1)
        ys, xs = ys[possible], xs[possible]
    return [
        (int(x), int(y))
        for x, y in zip(xs, ys, strict=True)
        if np.array_equal(canvas[y : y + height, x : x + width], picture)
    ]


@pytest.mark.parametrize("size", [(320, 200), (200, 320), (280, 280)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_panel_shows_image_heatmap_and_overlay_of_every_row(size: tuple[int, int], signed: bool) -> None:
    rgb = photograph(*size)
    rows = rows_for(rgb, 2, signed=signed)
    out = panel(rgb, rows, Style())
    images = sorted(find(out, rgb), key=lambda corner: corner[1])
    assert len(images) == 2
    assert images[0][0] == images[1][0]
    for (x, y), row in zip(images, rows, strict=True):
        [(heat_x, heat_y)] = find(out, coloured(row.placed, Style()))
        [(over_x, over_y)] = find(out, overlay(rgb, row.placed, Style()))
        assert heat_y == over_y == y
        assert x < heat_x < over_x
        assert heat_x - x == over_x - heat_x >= size[0]


@pytest.mark.parametrize(
    ("signed", "name", "first"), [(False, "turbo", 0), (True, "coolwarm", 1), (False, "coolwarm", 128)]
)
def test_the_colour_bar_runs_from_the_last_colour_down(signed: bool, name: str, first: int) -> None:
    rgb = photograph(300, 300)
    rows = rows_for(rgb, 1, signed=signed)
    if signed:
        # Both sides as far as each other, so that the bar runs over the whole table.
        rows[0].placed.values[0, :2] = (-9.0, 9.0)
    out = panel(rgb, rows, Style(name))
    [(x, y)] = find(out, rgb)
    column = x + 3 * 300 + 3 * 12 + 4
    bar = out[y : y + 300, column]
    table = colormap(name)
    assert bar[0].tolist() == table[255].tolist()
    assert bar[-1].tolist() == table[first].tolist()
    middle = round((255 + first) / 2)
    assert np.abs(bar[150].astype(int) - table[middle]).max() <= 6


@pytest.mark.parametrize(("size", "count"), [((3000, 2000), 1), ((40, 3000), 2), ((3000, 40), 3), ((1, 1), 5)])
def test_a_panel_stays_a_page_for_every_size_of_image(size: tuple[int, int], count: int) -> None:
    rgb = photograph(*size)
    out = panel(rgb, rows_for(rgb, count), Style(), "a title")
    height, width = out.shape[:2]
    assert 500 < width < 1700
    assert height < 90 + count * 560
    border = np.concatenate([out[:8].ravel(), out[-8:].ravel(), out[:, :8].ravel(), out[:, -8:].ravel()])
    assert (border == 255).all()


def test_label_and_probability_are_written_and_long_ones_stay_inside() -> None:
    rgb = photograph(300, 200)
    placed = random_placed(300, 200, signed=False)
    texts = ["", "cat", "dog", "a very long label " * 40, "x" * 100_000]
    panels = [panel(rgb, [PanelRow(text, 0.5, placed, "cam")], Style()) for text in texts]
    assert len({out.tobytes() for out in panels}) == len(texts)
    for out in panels:
        assert out.shape == panels[0].shape
        assert (out[:, -12:] == 255).all()
        assert find(out, rgb) == find(panels[0], rgb)
    sure, unsure = (panel(rgb, [PanelRow("cat", p, placed, "cam")], Style()) for p in (0.9, 0.1))
    blue = [int((out == (66, 105, 208)).all(axis=-1).sum()) for out in (sure, unsure)]
    assert blue == [8 * round(0.9 * 72), 8 * round(0.1 * 72)]


def test_a_flat_row_says_so_and_has_no_colour() -> None:
    grey = np.repeat(photograph(250, 250)[..., :1], 3, axis=2)
    placed = whole(np.zeros((250, 250), dtype=np.float32), signed=False)
    out = panel(grey, [PanelRow("cat", None, placed, "cam")], Style())
    assert len(find(out, grey)) == 3
    assert np.ptp(out[100:], axis=-1).max() <= 10


def test_text_is_reduced_to_what_the_font_can_write() -> None:
    assert printable("tiger cat, 20 %") == "tiger cat, 20 %"
    assert printable("Schildkröte – naïve ×2") == "Schildkrote - naive x2"
    assert printable("a\nb\tc\x00\x1b[31m") == "a b c [31m"
    assert printable("\udce9中") == "??"
    assert printable("e\u0301\u200b") == "e"


def test_a_panel_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        panel(photograph(10, 10), [], Style())
