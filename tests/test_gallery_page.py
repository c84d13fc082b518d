"""The gallery in a browser: filters, order, close view, keys, address; and that the console stays empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.galleries import failed, gallery, record
from tests.support.names import HOSTILE
from tests.test_html import record_named

RECORDS = [record(number, ("gradcam", "saliency")) for number in range(20)] + [failed("photos/broken.png")]
CHECKS = [
    {"name": "sky", "statement": "energy", "method": "gradcam", "verdict": "violated", "level": "error",
     "at_least": False, "allowed": 0.2, "beyond": 25, "measured": 0.4, "ci95": None, "group": None, "n": 20,
     "reason": "", "confirmed": None,
     "violations": [{"path": RECORDS[7]["path"], "value": 0.9}, {"path": RECORDS[3]["path"], "value": 0.5}]},
]  # fmt: skip
AUDIT = {"audit": {"passed": False, "policy": "p.yaml", "false_alarm": 0.01, "undecided": 0, "checks": CHECKS}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gallery(tmp_path_factory.mktemp("gallery"), RECORDS)


@pytest.fixture
def opened(page: Any, made: Path) -> Any:
    page.goto(made.as_uri())
    page.wait_for_selector(".cards")
    return page


def names(page: Any) -> list[str]:
    return [each.rpartition("/")[2] for each in page.locator(".card h2").all_inner_texts()]


def expected(*, keep: Any = lambda row: True) -> list[str]:
    return [row["path"].rpartition("/")[2] for row in RECORDS if keep(row)]


def address(page: Any) -> str:
    page.wait_for_timeout(200)
    return str(page.url.partition("#")[2])


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.dataset.id || document.activeElement.tagName"))


def test_all_cards_stand_in_the_order_of_the_run(opened: Any) -> None:
    assert names(opened) == expected()
    assert opened.locator(".count").inner_text() == "21 images"
    assert opened.get_by_text("truncated: the JPEG ends early").count() == 1
    assert "✗ truth: cat, predicted: dog" in opened.locator(".card").first.inner_text()


def test_filters_and_search_leave_what_they_name(opened: Any) -> None:
    opened.get_by_label("outcome").select_option("wrong")
    wrong = expected(keep=lambda row: row.get("outcome") == "wrong")
    assert names(opened) == wrong
    assert opened.locator(".count").inner_text() == f"{len(wrong)} of 21 images"
    opened.get_by_label("truth").select_option("dog")
    assert names(opened) == expected(keep=lambda row: row.get("outcome") == "wrong" and row["label"] == "dog")
    opened.get_by_role("button", name="Clear filters").click()
    opened.get_by_label("predicted").select_option("red fox")
    assert names(opened) == expected(
        keep=lambda row: row["predictions"] and row["predictions"][0]["label"] == "red fox"
    )
    opened.get_by_role("button", name="Clear filters").click()
    opened.get_by_label("outcome").select_option("failed")
    assert names(opened) == ["broken.png"]
    opened.keyboard.press("Escape")
    opened.get_by_label("search").fill("RED 0000")
    assert names(opened) == expected(keep=lambda row: "red fox/0000" in row["path"] or (any(
        each["label"] == "red fox" for each in row["predictions"]) and "0000" in row["path"]))  # fmt: skip
    opened.get_by_label("search").fill("nothing like that")
    opened.get_by_text("No image is left by these filters.").wait_for()


def test_a_range_of_a_score_looks_at_the_chosen_method(opened: Any) -> None:
    opened.get_by_label("score", exact=True).select_option("energy")
    assert names(opened) == [*expected()[:20][::-1], "broken.png"]  # the largest first
    opened.get_by_label("least").fill("0.255")
    opened.get_by_label("most").fill("0.258")
    assert names(opened) == ["00008.png", "00007.png", "00006.png", "00005.png"]
    opened.get_by_label("method").select_option("gradcam")
    assert names(opened) == []
    opened.get_by_label("least").fill("0.003")
    opened.get_by_label("most").fill("0.0045")
    assert names(opened) == ["00004.png", "00003.png"]
    assert "score=energy&min=0.003&max=0.0045" in address(opened)


def test_orders(opened: Any) -> None:
    opened.get_by_label("sort").select_option("-probability")
    assert names(opened)[:2] == ["00019.png", "00018.png"]
    assert names(opened)[-1] == "broken.png"
    opened.get_by_label("sort").select_option("path")
    assert names(opened)[:3] == ["broken.png", "00000.png", "00003.png"]
    assert address(opened) == "sort=path"


def test_cells_of_the_confusion_table_filter(opened: Any) -> None:
    cell = opened.locator('td[data-truth="cat"][data-predicted="dog"] button')
    pair = expected(keep=lambda row: row.get("label") == "cat" and row.get("outcome") == "wrong")
    assert cell.inner_text() == str(len(pair))
    cell.click()
    assert names(opened) == pair
    assert cell.get_attribute("aria-pressed") == "true"
    assert "truth=cat&predicted=dog" in address(opened)
    cell.click()
    assert len(names(opened)) == 21


def test_the_close_view_switches_methods_targets_and_ways_of_looking(opened: Any) -> None:
    opened.locator(".card .open").nth(3).click()
    dialog = opened.get_by_role("dialog")
    assert "photos/cat/00003.png" in dialog.inner_text()
    shown = dialog.locator(".picture .above")
    assert shown.get_attribute("src") == "images/3.gradcam.0.png"
    dialog.get_by_role("tablist", name="method").get_by_role("tab", name="saliency").click()
    assert shown.get_attribute("src") == "images/3.saliency.0.png"
    dialog.get_by_role("tablist", name="target").get_by_role("tab", name="red fox").click()
    assert shown.get_attribute("src") == "images/3.saliency.1.png"
    assert dialog.locator("table.scores tr", has_text="energy").locator("td").inner_text() == "0.753"
    dialog.get_by_label("opacity").fill("0.3")
    assert shown.evaluate("e => getComputedStyle(e).opacity") == "0.3"
    dialog.get_by_role("tab", name="slider").click()
    opened.wait_for_selector("img-comparison-slider.rendered")
    slots = dialog.locator("img-comparison-slider img")
    assert [slots.nth(k).get_attribute("src") for k in range(2)] == ["photos/3.png", "images/3.saliency.1.png"]
    dialog.get_by_role("tab", name="photograph").click()
    assert dialog.locator(".picture img").get_attribute("src") == "photos/3.png"
    whole = dialog.locator(".picture").bounding_box()["width"]
    dialog.get_by_role("button", name="larger").click()
    dialog.get_by_role("button", name="larger").click()
    assert dialog.locator(".sheet").bounding_box()["width"] == pytest.approx(2 * whole, abs=16)


def test_zoom_keeps_the_centre_and_the_line_in_sight(opened: Any) -> None:
    opened.locator(".card .open").nth(3).click()
    dialog = opened.get_by_role("dialog")
    dialog.get_by_role("tab", name="slider").click()
    opened.wait_for_selector("img-comparison-slider.rendered")
    for _ in range(3):
        dialog.get_by_role("button", name="larger").click()
    box = dialog.locator(".picture")
    where = (
        "e => [(e.scrollLeft + e.clientWidth / 2) / e.scrollWidth, (e.scrollTop + e.clientHeight / 2) / e.scrollHeight]"
    )
    assert box.evaluate(where) == pytest.approx([0.5, 0.5], abs=0.02)
    box.evaluate("e => { e.scrollLeft = 0; }")
    opened.until("document.querySelector('img-comparison-slider').value < 100 / 3")


def test_keys(opened: Any) -> None:
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert focused(opened) == "0/00001.png"
    columns = opened.evaluate("getComputedStyle(document.querySelector('.cards')).gridTemplateColumns").count("px")
    opened.keyboard.press("ArrowDown")
    assert focused(opened) == f"0/{1 + columns:05d}.png"
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("Enter")
    opened.get_by_role("dialog").get_by_text("2 of 21").wait_for()
    opened.keyboard.press("ArrowRight")
    opened.get_by_role("dialog").get_by_text("3 of 21").wait_for()
    opened.keyboard.press("ArrowDown")
    opened.until("document.querySelector('.picture .above').src.includes('images/2.gradcam.1.png')")
    opened.keyboard.press("s")
    opened.until("location.hash.includes('look=slider')")
    opened.keyboard.press("Escape")
    opened.get_by_role("dialog").wait_for(state="hidden")
    opened.until("document.activeElement.dataset.id === '0/00002.png'")
    opened.keyboard.press("/")
    opened.keyboard.type("fox")
    opened.until("document.activeElement.value === 'fox'")
    opened.keyboard.press("Escape")
    assert opened.get_by_label("search").input_value() == ""
    opened.evaluate("document.activeElement.blur()")
    opened.keyboard.press("?")
    opened.get_by_role("dialog", name="keys").wait_for()
    opened.keyboard.press("Escape")
    opened.get_by_role("dialog").wait_for(state="hidden")


def test_the_address_keeps_the_view(page: Any, made: Path) -> None:
    page.goto(f"{made.as_uri()}#outcome=wrong&sort=-probability&open=0%2F00005.png&map=2&look=photo&unknown=1")
    dialog = page.get_by_role("dialog")
    assert "photos/red fox/00005.png" in dialog.inner_text()
    assert dialog.get_by_role("tab", name="saliency", selected=True).count() == 1
    page.keyboard.press("Escape")
    assert names(page) == ["00015.png", "00010.png", "00005.png", "00000.png"]
    page.evaluate("location.hash = 'truth=cat'")
    page.until("document.querySelectorAll('.card').length === 7")


def test_the_exact_command_is_copied(opened: Any) -> None:
    opened.locator("section.run").get_by_role("button", name="Copy").click()
    opened.get_by_text("✓ copied").wait_for()
    opened.get_by_label("search").focus()
    opened.keyboard.press("Control+V")
    assert opened.get_by_label("search").input_value() == "cnnviz gradcam photos --class 'top:2'"


def test_an_audit_shows_the_worst_first_with_what_was_measured(page: Any, tmp_path: Path) -> None:
    page.goto(gallery(tmp_path, RECORDS, summary=AUDIT).as_uri())
    page.wait_for_selector(".cards")
    assert names(page)[:3] == ["00007.png", "00003.png", "00000.png"]
    said = page.locator(".card .checks li").first
    assert said.inner_text() == "✗ VIOLATED sky (gradcam): energy 0.9, allowed at most 0.2"
    page.get_by_label("check", exact=True).select_option(label="✗ sky: energy (gradcam) (2 worst of 25)")
    assert names(page) == ["00007.png", "00003.png"]
    assert page.locator("strong.violated").first.inner_text() == "✗ VIOLATED"


def test_a_run_without_images_has_no_filters_and_one_without_maps_its_photographs(page: Any, tmp_path: Path) -> None:
    page.goto(gallery(tmp_path / "a", []).as_uri())
    page.get_by_role("button", name="Copy").wait_for()
    assert page.locator(".toolbar").count() == 0
    page.goto(gallery(tmp_path / "b", [{**record(1), "explanations": []}]).as_uri())
    page.until("document.querySelector('.card img').naturalWidth === 60")
    assert page.locator(".card img").get_attribute("src") == "photos/1.png"
    page.locator(".card .open").click()
    assert page.get_by_role("dialog").locator(".picture img").get_attribute("src") == "photos/1.png"


def test_pictures_of_studies_keep_their_shape_and_are_not_blown_up(page: Any, tmp_path: Path) -> None:
    """Small, wider than the page, and higher than the window."""
    sizes = [(480, 328), (3000, 400), (400, 3000)]
    rows = [{**record(number), "explanations": [], "figures": [{"file": f"images/f{number}.png", "caption": "a study"}]}
            for number in range(len(sizes))]  # fmt: skip
    made = gallery(tmp_path, rows)
    for number, (width, height) in enumerate(sizes):
        Image.new("RGB", (width, height)).save(tmp_path / "images" / f"f{number}.png")
    page.goto(made.as_uri())
    page.wait_for_selector(".card")
    for number, (width, height) in enumerate(sizes):
        picture = f"document.querySelectorAll('.card .open img')[{number}]"
        page.evaluate(f"{picture}.loading = 'eager'")
        page.until(f"{picture}.naturalWidth === {width}")
        shown = page.evaluate(f"[{picture}.clientWidth, {picture}.clientHeight]")
        assert shown[0] / width == pytest.approx(shown[1] / height, abs=0.003)
        assert shown[0] <= width


def test_more_cards_come_when_the_end_is_near(page: Any, tmp_path: Path) -> None:
    page.goto(gallery(tmp_path, [record(number) for number in range(700)]).as_uri())
    page.wait_for_selector(".cards")
    assert page.locator(".count").inner_text() == "700 images"
    first = page.locator(".card").count()
    assert 30 <= first < 700
    page.keyboard.press("End")
    page.until(f"document.querySelectorAll('.card').length > {first}")


def test_no_name_becomes_markup(page: Any, tmp_path: Path) -> None:
    records = []
    for number, name in enumerate(HOSTILE):
        # Pictures of such names would not be found: this is about texts.
        row = {**record_named(name), "name": f"{number}-{name}"}
        row["explanations"][0]["files"] = {}
        records += [row, {**failed(name), "error": {"type": name, "message": name}}]
    page.goto(gallery(tmp_path, records, confusion=None, photo=lambda row: None).as_uri())
    page.wait_for_selector(".cards")
    assert page.locator(".card").count() == len(records)
    allowed = {"ARTICLE", "DIV", "H2", "BUTTON", "P", "STRONG", "OL", "LI", "SPAN", "I", "WBR"}
    found = page.evaluate("[...new Set([...document.querySelectorAll('.cards *')].map((e) => e.tagName))]")
    assert set(found) <= allowed
    page.locator(".card .link").first.click()
    assert page.get_by_role("dialog").locator("h2").inner_text().strip() == HOSTILE[0]


def test_colour_is_never_alone_and_the_dark_page_is_dark(chromium: Any, made: Path) -> None:
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(made.as_uri())
    page.wait_for_selector(".cards")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 23)"
    assert {text[0] for text in page.locator(".outcome").all_inner_texts()} == {"✓", "✗"}
    assert page.locator(".card.failed .error").inner_text().startswith("⚠")
    context.close()


def test_without_scripts_the_cards_and_tables_stand_there(chromium: Any, made: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(made.as_uri())
    assert page.locator("article[id]").count() == 21
    assert page.locator("table.confusion summary").count() > 0
    page.locator("progress.bar").first.wait_for()
    context.close()


def test_a_picture_of_the_whole_image_stands_before_those_of_its_targets(page: Any, tmp_path: Path) -> None:
    """As of class maps: the most probable class of each place, and behind the tabs each class."""
    rows = [{**record(0), "figures": [{"file": "images/f.png", "caption": "all of it"}]}, record(1)]
    made = gallery(tmp_path, rows)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "images/f.png")
    page.goto(made.as_uri())
    page.wait_for_selector(".card")
    first, second = page.locator(".card").nth(0), page.locator(".card").nth(1)
    assert str(first.locator("img").first.get_attribute("src")).endswith("images/f.png")
    assert first.get_by_text("all of it").count() == 1
    own = str(rows[0]["explanations"][0]["files"]["overlay"])
    first.get_by_role("tab").nth(1).click()
    assert str(first.locator("img").first.get_attribute("src")).endswith(own)
    assert first.get_by_text("all of it").count() == 0
    assert first.get_by_role("tab").count() == 3
    assert second.get_by_role("tab").count() == 2


def test_a_card_opens_with_a_map_that_has_a_picture(page: Any, tmp_path: Path) -> None:
    """Maps of guesses beside the truth have none; those of the truth do."""
    row = record(0)
    first, second = row["explanations"]
    rows = [{**row, "explanations": [{**first, "files": {}}, second]}]
    page.goto(gallery(tmp_path, rows).as_uri())
    page.wait_for_selector(".card")
    card = page.locator(".card").first
    assert str(card.locator("img").first.get_attribute("src")).endswith(str(second["files"]["overlay"]))
    assert card.get_by_role("tab").nth(1).get_attribute("aria-selected") == "true"
    card.get_by_role("tab").nth(0).click()
    assert str(card.locator("img").first.get_attribute("src")).endswith("photos/0.png")
