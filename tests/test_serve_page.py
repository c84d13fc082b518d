"""The page of the live explorer, in a browser: what can be dropped, clicked, moved and typed there."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.engine.stopping import go_on
from cnnviz.settings import ModelSpec
from tests.support import box_network, segment_network, tiny_writers
from tests.support.runs import TINY
from tests.support.serving import Served, served

Find = Callable[..., Any]


def picture(size: int = 128) -> bytes:
    """Dark, with a red square at the left and a smaller blue one at the lower right; smooth enough for a JPEG."""
    pixels = np.full((size, size, 3), 12, np.uint8)
    pixels[16:80, 8:56] = (250, 10, 10)
    pixels[80:112, 72:112] = (10, 10, 250)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("photos")
    (made / "first.png").write_bytes(picture())
    (made / "second.png").write_bytes(picture(96))
    (made / "<img src=x onerror=alert(1)>.png").write_bytes(picture(64))
    (made / "notes.txt").write_text("no image")
    return made


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Served]:
    with served(folder, model=TINY) as running:
        yield running


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(segment_network.CLASSES))
    model = ModelSpec(
        f"{segment_network.__file__}:make",
        labels=str(labels),
        input_size=(3, 64, 64),
        resize=64,
        mean=(0.0,),
        std=(1.0,),
    )
    with served(model=model) as running:
        yield running


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(box_network.CLASSES))
    model = ModelSpec(
        f"{box_network.__file__}:yolov5", labels=str(labels), input_size=(3, 64, 64), resize=64, mean=(0.0,), std=(1.0,)
    )
    with served(model=model, task="detect:score=0.2") as running:
        yield running


def opened(page: Any, site: Served) -> Find:
    """The page at its address; what finds elements on it."""
    page.goto(site.door.url)
    page.wait_for_selector("select[name=method]")
    find: Find = page.locator
    return find


def drop(page: Any, data: bytes, name: str = "dropped.png") -> None:
    """A file let go over the page, as a person's hand does it."""
    page.evaluate(
        """([bytes, name]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], name));
          for (const kind of ["dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
          }
        }""",
        [list(data), name],
    )


def command(page: Any, *words: str) -> str:
    """The command of the map that is shown, once it has these words."""
    for word in words:
        page.locator(".look .command code", has_text=word).wait_for()
    page.until("document.querySelector('.look .map')?.complete")
    text: str = page.locator(".look .command code").inner_text()
    return text


def click_at(page: Any, x: float, y: float) -> None:
    """A click at shares of the photograph's width and height."""
    box = page.locator(".stage .layers").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_an_image_of_the_folder_is_explained_at_once_and_the_address_loses_its_token(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, ".png")
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    assert find(".samples button").count() == 3
    find(".samples button[title='second.png']").click()
    assert command(page, "second.png").startswith("cnnviz gradcam ")
    page.reload()
    page.wait_for_selector(".look .map")


def test_an_image_is_opened_by_choosing_a_file_and_by_dropping_one(page: Any, site: Served) -> None:
    find = opened(page, site)
    find("input[type=file]").set_input_files({"name": "chosen.png", "mimeType": "image/png", "buffer": picture(80)})
    command(page, "chosen.png")
    assert find(".stage img").first.evaluate("each => each.naturalWidth") == 80
    drop(page, picture(72), "<b>dropped.png")
    assert "<b>dropped" in command(page, "dropped")
    assert find(".command b").count() == 0


def test_a_view_has_an_address_and_an_opened_image_a_place_in_the_strip(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, ".png")
    drop(page, picture(76), "mine.png")
    command(page, "mine.png")
    find(".samples button[title='mine.png'][aria-pressed='true'] img").wait_for()
    find("select[name=method]").select_option("hirescam")
    command(page, "hirescam", "mine.png")
    page.until("location.hash.includes('method=hirescam')")
    page.reload()
    command(page, "hirescam", "mine.png")
    find("select[name=method] option[value=chefer][disabled]", has_text="the network has no attention").wait_for(
        state="attached"
    )
    find(".samples button[title='second.png']").click()
    command(page, "hirescam", "second.png")


def test_what_is_no_image_is_told_and_the_page_goes_on(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, "png")
    drop(page, b"hello", "letter.txt")
    find("[role=alert]", has_text="not an image").wait_for()
    page.said.clear()  # the browser notes the status 422
    drop(page, picture(88), "sound.png")
    command(page, "sound.png")
    assert find("[role=alert]").count() == 0


def test_class_method_layer_and_options_change_the_map_as_they_change_the_command(page: Any, site: Served) -> None:
    find = opened(page, site)
    first = command(page, "png")
    assert "--target" not in first
    find(".predictions button").nth(1).click()
    index = re.search(r"--target class:(\d)", command(page, "--target class:"))
    assert index is not None
    find("select[name=rather]").select_option(index=2)
    command(page, f"--target diff:{index[1]},")
    find("input[name=class]").fill("class 3")
    find(".search button").click()
    command(page, "--target class:3")
    find("select[name=layer]").select_option("0")
    command(page, "--layer 0")
    find("input[aria-label='Layer by depth']").press("ArrowRight")
    command(page, "--layer 1")
    find("select[name=method]").select_option("occlusion")
    assert "--layer" not in command(page, "cnnviz occlusion")
    if not find("input[name=window]").is_visible():
        find(".options summary").click()
    find("input[name=window]").fill("20")
    find("input[name=window]").press("Enter")
    command(page, "--window 20")
    find("input[aria-label='stride slider']").press("ArrowRight")
    command(page, "--stride 9")
    find("select[name=score]").select_option("probability")
    shown = command(page, "--score probability")
    answer = site.ask(
        "/api/explain",
        {"image": "sample-0", "method": "occlusion", "target": "class:3", "score": "probability",
         "options": {"window": 20, "stride": 9}},
    )  # fmt: skip
    assert shown.split()[3:] == answer.json["command"].split()[3:]


def test_a_map_that_takes_long_is_stopped_and_asked_for_again(
    page: Any, site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_ever(question: Any) -> None:
        while True:
            go_on()
            time.sleep(0.001)

    find = opened(page, site)
    command(page, ".png")
    with monkeypatch.context() as patched:
        patched.setattr(site.explorer, "explain", for_ever)
        find("select[name=method]").select_option("saliency")
        find(".waiting button", has_text="Stop").click()
        find("[role=alert]", has_text="Stopped.").wait_for()
    assert find(".waiting button").count() == 0
    find("button", has_text="Ask again").click()
    command(page, "cnnviz saliency")
    assert find("[role=alert]").count() == 0
    with monkeypatch.context() as patched:
        patched.setattr(site.explorer, "explain", for_ever)
        find("select[name=method]").select_option("guided")
        find(".waiting button", has_text="Stop").click()
        find("[role=alert]", has_text="Stopped.").wait_for()
        # Of what is computed now nobody has said that it was stopped.
        find("select[name=method]").select_option("gradcam")
        find(".waiting button", has_text="Stop").wait_for()
        assert find("[role=alert]").count() == 0
        find(".waiting button", has_text="Stop").click()


def test_opacity_and_colours_change_the_picture_alone(page: Any, site: Served) -> None:
    find = opened(page, site)
    before = command(page, "png")
    find(".slider input").first.fill("0.25")
    assert command(page, "--alpha 0.25").startswith(before)
    assert find(".stage .map").evaluate("each => getComputedStyle(each).opacity") == "0.25"
    find("select[name=colormap]").select_option("viridis")
    command(page, "--colormap viridis")
    assert "viridis" in find(".stage .map").get_attribute("src")
    with page.expect_download() as waiting:
        find(".links a", has_text="PNG").click()
    with Image.open(waiting.value.path()) as saved:
        assert saved.width == find(".stage img").first.evaluate("each => each.naturalWidth")
    assert waiting.value.suggested_filename.endswith(".overlay.png")
    find("[role=tab]", has_text="Compare").click()
    page.wait_for_selector("img-comparison-slider")
    find("[role=tab]", has_text="Photograph").click()
    page.wait_for_selector(".stage")
    assert find(".stage .map").count() == 0


def test_a_click_asks_for_neurons_also_with_the_keyboard(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, "png")
    click_at(page, 0.3, 0.4)
    command(page, "--target neuron:")
    assert find(".near button").count() == 6
    first = command(page)
    stage = find(".stage .layers")
    stage.focus()
    for _ in range(3):
        stage.press("Shift+ArrowRight")
    stage.press("Enter")
    page.until(f"document.querySelector('.look .command code').innerText !== {first!r}")
    command(page, "--target neuron:")
    find(".near button").nth(2).click()
    find(".near button[aria-pressed=true]").nth(0).wait_for()
    find("button", has_text="what is predicted").click()
    page.until("!document.querySelector('.look .command code').innerText.includes('--target')")


def test_the_default_layer_that_is_shown_is_the_one_of_the_map(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, "png")
    click_at(page, 0.3, 0.4)
    command(page, "--target neuron:")
    page.until("!document.querySelector('.waiting button')")
    used = find(".scores div", has_text="layer").locator("dd").inner_text()
    assert find("select[name=layer] option").first.inner_text() == f"default ({used})"


def test_a_refusal_is_gone_once_something_else_is_asked(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, "png")
    for select, value in (("method", "saliency"), ("method", "gradcam"), ("layer", "1")):
        find("input[name=class]").fill("no such class")
        find(".search button").click()
        find("[role=alert]", has_text="No class is called").wait_for()
        find(f"select[name={select}]").select_option(value)
        find("[role=alert]").wait_for(state="detached")


def test_the_row_scrolls_to_an_image_that_was_dropped_and_names_it(page: Any, site: Served) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    find = opened(page, site)
    command(page, "png")
    for index in range(8):
        drop(page, picture(70 + 2 * index), f"dropped {index}.png")
        find(f".samples button[title='dropped {index}.png'][aria-pressed=true] img").wait_for()
    page.until(
        "(() => { const row = document.querySelector('.samples').getBoundingClientRect(),"
        " one = document.querySelector('.samples [aria-pressed=true]').getBoundingClientRect();"
        " return one.width > 10 && one.left >= row.left - 1 && one.right <= row.right + 1; })()"
    )
    assert find(".samples").evaluate("each => each.scrollLeft") > 0
    assert find(".shown").inner_text() == "dropped 7.png"


def test_the_dossier_shows_channels_and_makes_an_image(page: Any, site: Served) -> None:
    find = opened(page, site)
    command(page, "png")
    find(".dossier > summary").click()
    find("select[name=units]").select_option("2")
    find(".dossier .facts", has_text="8 channels of 16 × 16").wait_for()
    find("input[name=channel]").fill("5")
    find("input[name=channel]").press("Enter")
    find("h3", has_text="Unit 5 of 2").wait_for()
    find("button", has_text="Make an image for it").click()
    find(".job figcaption", has_text="2:5").wait_for()
    find("button", has_text="Top patches").click()
    find(".job code", has_text="cnnviz top-patches").wait_for()
    page.until("[...document.querySelectorAll('.job img')].every(each => each.complete && each.naturalWidth > 50)")
    find("button", has_text="Explain it on this image").click()
    # No map lies below the first stage: said in words.
    find(".look [role=alert]", has_text="no map lies below").wait_for()
    page.said.clear()
    find("select[name=method]").select_option("guided")
    command(page, "--target unit:2:5")


def test_a_click_on_a_segmentation_asks_for_the_segment_there(page: Any, segments: Served) -> None:
    find = opened(page, segments)
    drop(page, picture(), "street.png")
    command(page, "street.png")
    click_at(page, 0.25, 0.4)
    command(page, "--target segment:1")
    assert find(".near button").all_inner_texts() == [
        "red, this segment", "red, at this point", "red, wherever it is found"
    ]  # fmt: skip
    assert find(".stage img[src*=outline]").count() == 1
    find(".near button").nth(1).click()
    assert re.search(r"--target class:1@point:3[12],5[012] ", command(page, "@point:") + " ")
    click_at(page, 0.7, 0.75)
    command(page, "--target segment:2")
    assert find(".near button").first.inner_text() == "blue, this segment"


def test_a_click_on_a_detector_asks_for_the_box_there(page: Any, boxes: Served) -> None:
    find = opened(page, boxes)
    drop(page, picture(), "street.png")
    command(page, "street.png", "--variant odam")
    described = boxes.drop(picture())
    there = described["targets"][-1]
    x, y, width, height = there["box_xywh"]
    click_at(page, (x + width / 2) / 128, (y + height / 2) / 128)
    find(".near button").first.wait_for()
    number = find(".near button").first.inner_text().split()[0]
    assert find(".near button").count() >= 1
    command(page, f"--target box:{number}")
    assert find(".marks .chosen text").inner_html().startswith(f"{number} ")
    page.until(f"document.querySelectorAll('.marks .box').length === {len(described['targets'])}")


def test_a_word_of_a_text_is_clicked(page: Any) -> None:
    model = ModelSpec(f"{tiny_writers.__file__}:writer", input_size=(3, 32, 32), resize=32, mean=(0.5,), std=(0.5,))
    with served(model=model, task="caption") as writes:
        find = opened(page, writes)
        drop(page, picture(), "scene.png")
        command(page, "scene.png", "--task caption")
        words = writes.drop(picture(), "scene.png")["targets"]
        assert find(".words button").all_inner_texts() == [row["label"] for row in words]
        find(".words button").nth(1).click()
        command(page, f"--target {words[1]['target']}")
        assert find(".words [aria-pressed=true]").inner_text() == words[1]["label"]


def test_the_page_fits_a_narrow_window_and_the_dark(page: Any, site: Served) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme="dark")
    opened(page, site)
    command(page, "png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 23)"


def test_without_the_token_a_browser_sees_why_and_nothing_else(page: Any, site: Served) -> None:
    page.goto(f"http://{site.host}/")
    assert "holds the token that is missing" in page.locator("body").inner_text()
    page.said.clear()


def test_a_page_under_another_name_of_this_machine_gets_nothing(page: Any, site: Served) -> None:
    """The name resolves here, as in a rebinding attack; the browser sends it as the host."""
    answer = page.goto(f"http://rebound.localhost:{site.door.port}/?token={site.door.token}")
    assert answer.status == 421
    assert page.context.cookies() == []
    page.said.clear()
