"""The drawings and the page of ``cnnviz embed``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnnviz.render import embedding as drawing
from cnnviz.render.embedding import categorize, colour_heading, placed, scatter
from cnnviz.report.embedding_page import Key, Plot, Point, page
from cnnviz.report.gallery import Gallery
from cnnviz.studies.embed import embedding
from tests.support.chromium import Browser, browser
from tests.support.embeds import table
from tests.support.names import HOSTILE

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
pytest.importorskip("scipy", reason="needs pip install 'cnnviz[embed]'")


def test_categories_are_the_frequent_labels_in_natural_order() -> None:
    few = categorize(["c10", "c9", None, "c9", "C2"])
    assert few.names == ("C2", "c9", "c10")
    assert few.counts == (1, 2, 1)
    assert few.of.tolist() == [2, 1, -1, 1, 0]
    assert few.rest == "no label"
    labels = [f"k{i}" for i in range(30) for _ in range(2 + (i % 3 == 0))] + ["once"]
    many = categorize(labels)
    assert len(many.names) == 20
    assert set(many.names) >= {f"k{i}" for i in range(0, 30, 3)}
    assert many.rest == "11 other labels"
    assert categorize([f"only {i}" for i in range(40)]).names == ()


def test_a_grey_plot_says_why() -> None:
    alone = categorize([f"only {i}" for i in range(22)])
    said = colour_heading("prediction", alone)
    assert said == "no colours: 22 different predictions, of one image each, are more than the 20 colours"
    assert colour_heading("label", categorize(["a", "b"])) == "colour: label"


def test_names_in_the_scatter_cover_neither_each_other_nor_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 points in a heap, by the ink of what is written: some names are left out, none is overprinted."""
    boxes: list[tuple[str, float, float, float, float]] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **more: Any) -> None:
        boxes.append((text, *self.textbbox(xy, text, font=more["font"])))
        draw(self, xy, text, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    points = np.random.default_rng(0).normal(size=(60, 2)) ** 3
    names = [f"quite a long name {i}" for i in range(60)]
    scatter([drawing.View("a", points), drawing.View("b", points)], categorize(names), "h")
    written = [box for box in boxes if box[0].startswith("quite")]
    assert 20 < len(written) < 120
    centres = placed(points) * 759 + (28, 68)
    for n, (_, x0, y0, x1, y1) in enumerate(written):
        for _, a0, b0, a1, b1 in written[:n]:
            assert x1 <= a0 or x0 >= a1 or y1 <= b0 or y0 >= b1
        left = 0 if x0 < 28 + 760 else 788
        for x, y in np.add(centres, (left, 0)):
            nearest = (min(max(x, x0), x1), min(max(y, y0), y1))
            assert max(abs(x - nearest[0]), abs(y - nearest[1])) > 5  # outside of the point's disc


def test_purity_is_undefined_where_no_two_images_share_a_label() -> None:
    index = np.array([[1], [0], [0]])
    for labels in (["a", "b", "c"], ["a", None, None]):
        found = embedding.mean_purity(embedding.purity(index, labels), labels)
        assert (found["value"], found["chance"]) == (None, None)
    found = embedding.mean_purity(embedding.purity(index, ["a", "b", "a"]), ["a", "b", "a"])
    assert found == {"value": pytest.approx(1 / 3), "chance": pytest.approx(1 / 3), "n": 3}


def test_points_are_placed_with_one_scale_and_the_second_axis_up() -> None:
    found = placed(np.array([[0.0, 0.0], [10.0, 5.0], [5.0, 2.5]]), room=0.1)
    np.testing.assert_allclose(found, [[0.1, 0.7], [0.9, 0.3], [0.5, 0.5]])
    assert placed(np.ones((3, 2))).tolist() == [[0.5, 0.5]] * 3


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name: str) -> None:
    head = Gallery(name, name, name, [(name, name)])
    plot = Plot(head, [name, "grid"], (1, "grid.png", (1, 1)), [Key(name, [(name, 1, "#123456", True)], name)],
                [("grid.png", name)], name, 8.0)  # fmt: skip
    point = Point(name, "thumbs/000000.jpg", [name], [(0.5, 0.5), (0.1, 0.2)], [0], ["thumbs/000001.jpg"])
    tags = _Page(b"".join(page(plot, [point])).decode("utf-8")).tags
    allowed = (
        "html head meta title link style body header h1 p code br dl div dt dd main input label span img a b i ul li s"
    )
    assert {tag for tag, _ in tags} <= set(f"{allowed} h2 small".split())
    attributes = {key for _, given in tags for key in given}
    assert not any(key.startswith("on") for key in attributes)
    links = {str(given.get(key)) for _, given in tags for key in ("src", "href") if key in given}
    assert links == {"gallery/style.css", "grid.png", "thumbs/000000.jpg", "thumbs/000001.jpg"}
    policy = next(given["content"] for tag, given in tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "script-src 'none'" in policy
    assert "default-src 'none'" in policy


@pytest.fixture(scope="module")
def shown(digit_run: tuple[Path, dict[str, Any]]) -> Iterator[tuple[Browser, Path]]:
    with browser() as opened:
        opened.open(digit_run[0] / "index.html")
        yield opened, digit_run[0]


def _choose(opened: Browser, name: str) -> None:
    place = "r => [r.x + 8, r.y + 8]"
    labels = f"[...document.querySelectorAll('.choice')].find(l => l.innerText.startsWith('{name}'))"
    x, y = opened.ask(f"({place})({labels}.getBoundingClientRect())")
    opened.point(x, y, click=True)


def _middles(opened: Browser) -> list[list[float]]:
    middle = "r => [r.x + r.width / 2, r.y + r.height / 2]"
    found: list[list[float]] = opened.ask(
        f"[...document.querySelectorAll('.p')].map(p => ({middle})(p.getBoundingClientRect()))"
    )
    return found


_SHOWN = "[...document.querySelectorAll('.card')].filter(c => getComputedStyle(c).display != 'none')"


def test_the_pointer_shows_the_picture_of_the_point(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    for view in ("t-SNE", "PCA", "grid"):
        _choose(opened, view)
        opened.point(2, 2)
        assert opened.ask(f"{_SHOWN}.length") == 0
        middles = _middles(opened)
        assert len(middles) == len(rows) == 200
        # Where points lie over each other only the uppermost is under the pointer.
        others = (((x, y), middles[i + 1 :]) for i, (x, y) in enumerate(middles))
        clear = [all(math.hypot(x - a, y - b) > 14 for a, b in above) for (x, y), above in others]
        alone = [place for place, free in enumerate(clear) if free]
        for place in (alone[0], alone[len(alone) // 2], alone[-1]):
            opened.point(*middles[place])
            opened.wait(f"{_SHOWN}.length == 1")
            assert opened.ask(f"{_SHOWN}[0].querySelector('b').textContent") == rows[place]["path"]
            opened.wait(f"[...{_SHOWN}[0].querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 0)")
            source = opened.ask(f"{_SHOWN}[0].querySelector('img').src")
            assert source == (out / f"thumbs/{place:06d}.jpg").resolve().as_uri()
            left, top, right, bottom = opened.ask(
                f"(r => [r.left, r.top, r.right, r.bottom])({_SHOWN}[0].getBoundingClientRect())"
            )
            plot = opened.ask("(r => [r.left, r.right])(document.querySelector('.plot').getBoundingClientRect())")
            assert plot[0] - 1 <= left < right <= plot[1] + 1
            x, y = middles[place]
            assert not (left < x < right and top < y < bottom), "the card hides its own point"


def test_points_stand_where_the_tables_say(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    box = "(r => [r.left, r.top, r.width, r.height])(document.querySelector('.plot').getBoundingClientRect())"
    for view, columns in (("t-SNE", ("tsne_x", "tsne_y")), ("PCA", ("pca_x", "pca_y"))):
        _choose(opened, view)
        middles = np.array(_middles(opened))
        points = np.array([[float(row[columns[0]]), -float(row[columns[1]])] for row in rows])
        gaps = np.ptp(middles, axis=0) / np.ptp(points, axis=0)
        assert gaps[0] == pytest.approx(gaps[1], rel=0.02)
        np.testing.assert_allclose(middles - middles[0], (points - points[0]) * gaps[0], atol=1.0)
    _choose(opened, "grid")
    left, top, width, height = opened.ask(box)
    cells = np.array([[int(row["grid_col"]), int(row["grid_row"])] for row in rows])
    shape = np.array([15, 14])  # 200 images: 14 rows of 15
    expected = (cells + 0.5) / shape * (width - 2, height - 2) + (left + 1, top + 1)
    np.testing.assert_allclose(np.array(_middles(opened)), expected, atol=1.0)


def test_colours_and_legend(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    _choose(opened, "t-SNE")
    seen: dict[str, dict[str, set[str]]] = {}
    for key in ("label", "prediction"):
        _choose(opened, key)
        colours = opened.ask(
            "[...document.querySelectorAll('.p')].map(p => getComputedStyle(p, '::before').backgroundColor)"
        )
        by_class = seen.setdefault(key, {})
        for row, colour in zip(rows, colours, strict=True):
            by_class.setdefault(row[key], set()).add(colour)
        assert len(by_class) == 10
        assert all(len(found) == 1 for found in by_class.values())
        assert len(set.union(*by_class.values())) == 10
    _choose(opened, "label")
    entry = "[...document.querySelectorAll('.legend li')].find(l => l.innerText.startsWith('class 3'))"
    opened.point(*opened.ask(f"(r => [r.x + 30, r.y + 8])({entry}.getBoundingClientRect())"))
    dimmed = opened.ask("[...document.querySelectorAll('.p')].map(p => getComputedStyle(p).opacity < 0.5)")
    assert dimmed == [row["label"] != "class 3" for row in rows]


def test_the_keyboard_reaches_the_points(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    opened.point(2, 2, click=True)
    for _ in range(2 + 4 + 1):  # the two groups of choices, the links to other files, the first point
        opened.press("Tab")
    opened.wait(f"{_SHOWN}.length == 1")
    assert opened.ask(f"{_SHOWN}[0].querySelector('b').textContent") == table(out)[0]["path"]


def test_the_page_asks_for_its_own_files_only(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    opened.ask("0")
    assert opened.complaints() == []
    base = out.resolve().as_uri() + "/"
    asked = {address for address in opened.requested() if address != "about:blank"}
    assert base + "index.html" in asked
    own = re.compile(re.escape(base) + r"(index\.html|gallery/style\.css|grid\.png|thumbs/\d{6}\.jpg)")
    assert [one for one in asked if not own.fullmatch(one)] == []
    # Pictures come when their card shows, not before.
    assert len(asked) < 80


def test_thumbnails_are_small_pictures_of_their_inputs(digit_run: tuple[Path, dict[str, Any]]) -> None:
    out, report = digit_run
    for place in (0, 120):
        small = cv2.imread(str(out / report["images"][place]["thumbnail"]), cv2.IMREAD_GRAYSCALE)
        original = np.array(Image.open(report["images"][place]["path"]))
        assert small is not None
        assert small.shape == (160, 160)  # each of the 8 x 8 pixels is a square
        assert np.abs(small[10::20, 10::20].astype(int) - original).mean() < 4
