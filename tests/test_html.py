"""The gallery page, read back with an HTML parser: what it says, and that no name becomes markup."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from cnnviz.report.gallery import Gallery, begin, card, end
from tests.support.names import HOSTILE

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Elements with their attributes, text, and whether every element is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.comments: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def record_named(name: str, **changes: object) -> dict[str, object]:
    target = {"class_index": 281, "label": name, "probability": 0.8731, "logit": 9.1}
    record: dict[str, object] = {
        "path": name,
        "width": 500,
        "height": 375,
        "label": name,
        "predictions": [target, {"class_index": 7, "label": None, "probability": 0.00004, "logit": 1.0}],
        "explanations": [
            {
                "method": "gradcam",
                "layer": "features.7",
                "target": target,
                "files": {"overlay": f"images/{name}.overlay.png", "heatmap": f"images/{name}.heatmap.png"},
                "scores": {
                    "min": 0.0,
                    "max": 3.14159,
                    "peak": [120, 80],
                    "box_xywh": [1, 2, 3, 4],
                    "entropy": None,
                },
            }
        ],
        "error": None,
    }
    return {**record, **changes}


def page_of(records: Sequence[dict[str, object]], name: str = "a run") -> tuple[str, Page]:
    gallery = Gallery(name, f"cnnviz gradcam {name}", name, [("explained", "2"), (name, name)])
    source = begin(gallery) + "".join(card(record) for record in records) + end()
    return source, Page(source)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_element_or_attribute_comes_from_a_name(name: str) -> None:
    failed = record_named(name, explanations=[], predictions=[], error={"type": name, "message": name})
    _, plain = page_of([record_named("cat"), {**failed, "path": "cat", "label": "cat", "error": {"type": "x"}}])
    source, page = page_of([record_named(name), failed], name)
    assert [(tag, sorted(a)) for tag, a in page.elements] == [(tag, sorted(a)) for tag, a in plain.elements]
    assert page.open == []
    assert page.comments == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "base", "form", "style"})
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
    source.encode("utf-8")
    allowed = {"\n"}
    assert not [c for c in source if (ord(c) < 32 and c not in allowed) or 0x202A <= ord(c) <= 0x202E]


@pytest.mark.parametrize("name", HOSTILE)
def test_links_lead_to_the_bytes_of_the_file_beside_the_page(name: str) -> None:
    _, page = page_of([record_named(name)])
    [image] = page.all("img")
    expected = f"images/{name}.overlay.png"
    raw = os.fsencode(expected) if "\ud800" not in name else expected.encode("utf-8", "surrogatepass")
    link = image["src"]
    assert link is not None
    parts = urlsplit(link)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    assert unquote_to_bytes(parts.path) == raw
    assert [a["href"] for a in page.all("a")][:2] == [link, link]
    assert image["loading"] == "lazy"
    assert (image["width"], image["height"]) == ("500", "375")


@pytest.mark.parametrize("path", ["//evil.example/x.png", "javascript:alert(1)", "https://evil.example/x"])
def test_a_path_never_becomes_the_address_of_elsewhere(path: str) -> None:
    explanation = {"method": "cam", "target": {"class_index": 3}, "files": {"overlay": path}}
    page = Page(card(record_named("cat", explanations=[explanation])))
    for attributes in (*page.all("a"), *page.all("img")):
        parts = urlsplit(attributes.get("href") or attributes.get("src") or "")
        assert (parts.scheme, parts.netloc) == ("", "")


def test_a_card_says_path_predictions_target_and_scores() -> None:
    _, page = page_of([record_named("tabby cat")])
    text = " ".join(page.text)
    for said in ("tabby cat", "500 × 375", "gradcam at features.7", "87.3 %", "class 7", "< 0.1 %"):
        assert said in text
    scores = dict(zip(*[iter(page.text[page.text.index("min") : page.text.index("min") + 8])] * 2, strict=True))
    assert scores == {"min": "0", "max": "3.14", "peak x, y": "120, 80", "box x, y, width, height": "1, 2, 3, 4"}
    widths = [(a["value"], a["max"]) for a in page.all("progress")]
    assert widths == [("0.873", "1"), ("0.000", "1")]


def test_a_card_says_the_single_figures_of_metrics() -> None:
    scores = {
        "max": 2.0,
        "pointing_game": {"hit": True, "point": [1, 2], "baselines": {"centre_box": {"hit": False}}, "difficult": None},
        "road": {"road": 0.25, "curve": [1, 2]},
    }
    explanation = {"method": "cam", "target": {"class_index": 3}, "scores": scores}
    text = Page(card(record_named("cat", explanations=[explanation]))).text
    start = text.index("max")
    assert text[start : start + 6] == ["max", "2", "pointing game hit", "yes", "road", "0.25"]
    assert "centre_box" not in " ".join(text)


def test_a_failed_input_shows_its_reason_and_no_picture() -> None:
    error = {"type": "truncated", "message": "the JPEG ends early"}
    _, page = page_of([{"path": "a.jpg", "width": None, "height": None, "explanations": [], "error": error}])
    assert "truncated: the JPEG ends early" in page.text
    assert page.all("img") == []
    assert page.all("article") == [{"class": "failed"}]


def test_a_flat_map_is_called_so() -> None:
    explanation = {"method": "cam", "target": {"class_index": 3}, "scores": {"max": 0.0, "flat": True}}
    page = Page(card(record_named("cat", explanations=[explanation])))
    assert "the map is zero, or the same, everywhere" in page.text
    assert "max" not in page.text


def test_the_page_allows_what_lies_beside_it_and_loads_nothing_from_elsewhere() -> None:
    source, page = page_of([record_named("cat")])
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert rules["img-src"] == "'self' data:"
    assert [a["href"] for a in page.all("link")] == ["gallery/style.css"]
    assert "http:" not in source
    assert "https:" not in source


def test_what_a_page_cannot_show_is_spelled_out() -> None:
    _, page = page_of([record_named("caf\udce9\n\x1b\u202e\ud800.png")])
    assert "caf\\xe9\\n\\x1b\\u202e\\ud800.png" in page.text


def test_a_card_does_not_depend_on_the_others() -> None:
    first, second = record_named("a"), record_named("b")
    source, _ = page_of([first, second])
    assert source.count(card(first)) == source.count(card(second)) == 1
    assert source.endswith(card(second) + end())
