"""The parts that pages are made of, in a browser, and that what is vendored is what the npm packages have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cnnviz.io import page_files

VENDORED = {
    "htm-preact-3.1.1.js": "62c4ffea400078c0eda7f435b22726b4961ebdf74c8506f188e92bec41d8ac51",
    "img-comparison-slider-8.0.7.css": "2e08fb99add8309d261056a13e9eac187832ddd76a777f2ffb2954c92c1b9a00",
    "img-comparison-slider-8.0.7.js": "6e01335000bbafdd053f851db4e0025dc3e0fadd677deca51548d6fe95b42162",
    "uplot-1.6.32.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot-1.6.32.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
}
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'"
)
VENDOR = Path(page_files.__file__).parent.parent / "report" / "page" / "vendor"


def test_vendored_files_are_those_of_the_packages() -> None:
    found = {path.name: path for path in VENDOR.iterdir() if path.suffix in (".js", ".css")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == VENDORED
    told = (VENDOR / "README.md").read_text("utf-8")
    for name in found:
        assert name.rpartition(".")[0] in told
    assert all((VENDOR / f"LICENSE-{name}.txt").stat().st_size > 1000 for name in ("htm", "preact", "uplot"))


def test_scripts_need_no_module_no_eval_and_no_network() -> None:
    own = page_files.script().decode()
    for word in ("import ", "export ", "fetch(", "eval(", "new Function", "XMLHttpRequest", "innerHTML", "http://"):
        assert word not in own, word
    assert "sourceMappingURL" not in page_files.libraries().decode()


@pytest.fixture
def made(page: Any, tmp_path: Path) -> Any:
    """A page under the strict policy, with all components and two pictures beside it; ``show(JS)`` renders one."""
    (tmp_path / "all.js").write_bytes(
        page_files.libraries(page_files.LIBRARIES + page_files.CURVES)
        + b"\n"
        + page_files.script((*page_files.COMPONENTS, "card.js", "map.js"))
    )
    (tmp_path / "style.css").write_bytes(page_files.style())
    for name, colour in (("photo.png", (255, 0, 0)), ("overlay.png", (0, 0, 255))):
        cv2.imwrite(str(tmp_path / name), np.full((120, 200, 3), colour, np.uint8))
    (tmp_path / "x.html").write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="stylesheet" href="style.css">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"></head>'
        '<body><div id="x"></div><script src="all.js"></script></body></html>'
    )
    page.goto((tmp_path / "x.html").as_uri())

    def show(name: str, **props: Any) -> None:
        page.evaluate(
            """([name, props]) => { window.heard = [];
            for (const key of Object.keys(props)) if (key.startsWith("on"))
              props[key] = (x) => { heard.push(x); if (name === "Tabs") { props.chosen = x; again(); } };
            const again = () => htmPreact.render(htmPreact.h(cnnviz.components[name], props),
              document.getElementById("x"));
            again(); }""",
            [name, props],
        )

    page.show = show
    return page


def _colour(page: Any, x: float, y: float) -> list[int]:
    """The colour of the middle pixels of the picture at a share of its width and height."""
    box = page.locator(".picture img").first.bounding_box()
    clip = {"x": box["x"] + x * box["width"] - 1, "y": box["y"] + y * box["height"] - 1, "width": 2, "height": 2}
    shot = cv2.imdecode(np.frombuffer(page.screenshot(clip=clip), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    return [int(value) for value in shot[0, 0][::-1]]


def test_an_overlay_lies_over_its_photograph_by_its_opacity(made: Any) -> None:
    made.show("Picture", overlay="overlay.png", photo="photo.png", mode="over", opacity=0.25)
    made.until("[...document.images].every((i) => i.complete && i.naturalWidth)")
    red, _, blue = _colour(made, 0.5, 0.5)
    assert (red, blue) == (pytest.approx(0.25 * 255, abs=3), pytest.approx(0.75 * 255, abs=3))


def test_a_slider_parts_photograph_and_overlay_and_obeys_the_keys(made: Any) -> None:
    made.show("Picture", overlay="overlay.png", photo="photo.png", mode="slider", width=200, height=120)
    made.wait_for_selector("img-comparison-slider.rendered")
    assert (_colour(made, 0.2, 0.2), _colour(made, 0.8, 0.2)) == ([0, 0, 255], [255, 0, 0])
    made.locator("img-comparison-slider").focus()
    made.keyboard.down("ArrowLeft")
    made.until("document.querySelector('img-comparison-slider').value < 10")
    made.keyboard.up("ArrowLeft")
    made.wait_for_timeout(300)
    assert _colour(made, 0.2, 0.2) == [255, 0, 0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"photo": "gone.png", "error": "DecodeError: damaged"}, "The photograph cannot be shown."),
        ({"maps": [{"method": "m", "target": "t", "picture": "gone.png"}]}, "The picture is not beside this page."),
    ],
)
def test_words_stand_in_the_place_of_a_picture_that_cannot_be_read(made: Any, row: dict[str, Any], said: str) -> None:
    record = {"id": 0, "run": 0, "path": "a.png", **row}
    made.show("Card", row=record, runs=[{"name": "r", "checks": []}], view={"method": ""})
    made.until(f"document.querySelector('.open').textContent.trim() === '{said}'")
    assert made.locator("img").count() == 0
    made.show("MapView", row={"path": "a.png", "photo": "other.png"}, map=None, look="over", zoom=1, opacity=1)
    made.until("document.querySelector('.map').textContent.includes('The photograph cannot be shown.')")
    assert made.locator("img").count() == 0
    assert all(text.startswith("error: Failed to load resource") for text in made.said)
    made.said.clear()


def test_without_a_photograph_the_overlay_stands_alone(made: Any) -> None:
    made.show("Picture", overlay="overlay.png", photo="gone.png", mode="slider", onPhotoMissing=1)
    made.until("heard.length === 1")
    assert made.locator(".picture img").count() == 1
    assert _colour(made, 0.8, 0.5) == [255, 0, 0]
    assert made.said[0].startswith("error: Failed to load resource")
    made.said.clear()


def test_tabs_are_moved_through_with_arrows(made: Any) -> None:
    made.show("Tabs", label="methods", chosen="a", onChoose=1,
              items=[{"key": "a", "text": "<b>a"}, {"key": "b", "text": "b", "note": "12 %"}])  # fmt: skip
    assert made.get_by_role("tab", selected=True).inner_text() == "<b>a"
    made.get_by_role("tab", selected=True).press("ArrowRight")
    assert made.evaluate("heard") == ["b"]
    assert made.get_by_role("tab", selected=True).inner_text().startswith("b")
    assert made.evaluate("document.activeElement.textContent") == "b12 %"


def test_predictions_have_bars_and_no_markup(made: Any) -> None:
    rows = [{"label": "<i>cat", "probability": 0.875, "note": "area 3 %"}, {"label": "dog", "probability": 1e-5}]
    made.show("Predictions", rows=[*rows, {"label": "logit only", "probability": None}], onChoose=1)
    assert made.locator("li").all_inner_texts()[0].split("\n")[0].startswith("<i>cat")
    assert made.locator(".number").all_inner_texts() == ["87.5 %", "< 0.1 %", ""]
    whole = made.locator(".bar").first.bounding_box()["width"]
    assert made.locator(".bar i").first.bounding_box()["width"] == pytest.approx(0.875 * whole, abs=0.5)
    made.get_by_role("button", name="dog").click()
    assert json.dumps(made.evaluate("heard")) == "[1]"


def test_a_curve_is_drawn_under_the_policy(made: Any) -> None:
    made.show("Curve", title="deletion", x=[0, 0.5, 1], lines=[{"name": "probability", "values": [1, 0.5, 0]}])
    made.wait_for_selector(".u-wrap canvas")
    assert made.locator(".u-legend").inner_text().count("probability") == 1
