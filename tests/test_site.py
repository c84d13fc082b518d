"""The documentation site: each entry has its page, links lead somewhere, it opens from the disk without a network."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnnviz.registry import lookup
from tests.support.chromium import browser

pytest.importorskip("sphinx", reason="needs the extra docs")
pytest.importorskip("furo", reason="needs the extra docs")
pytest.importorskip("myst_parser", reason="needs the extra docs")

DOCS = Path(__file__).parent.parent / "docs"
ENTRIES: dict[str, Any] = runpy.run_path(str(DOCS / "site" / "entries.py"))
BUILD: dict[str, Any] = runpy.run_path(str(DOCS / "build.py"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that CI has built, or one that is built here."""
    if built := os.environ.get("CNNVIZ_SITE"):
        return Path(built)
    out = tmp_path_factory.mktemp("site")
    # In a process of its own: deprecations in Sphinx's extensions are not ours.
    subprocess.run([sys.executable, str(DOCS / "build.py"), str(out)], check=True)
    return out


@pytest.mark.parametrize("folder", ENTRIES["KINDS"])
def test_every_entry_has_a_page_with_every_heading(folder: str) -> None:
    assert ENTRIES["missing"](folder) == []


def test_pictures_are_small() -> None:
    pictures = [path for folder in ("methods", "studies") for path in (DOCS / "images" / folder).glob("*.jpg")]
    assert len(pictures) > 35
    for path in pictures:
        assert path.stat().st_size <= 15_000, path


def test_links_that_lead_nowhere_and_what_is_fetched_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="b.html">b</a><a href="#here">a</a><a href="c.html">c</a><a href="b.html#no">d</a>'
        '<script src="https://example.org/x.js"></script><img src="no.png"></p>'
    )
    (tmp_path / "b.html").write_text("<p></p>")
    assert sorted(BUILD["problems"](tmp_path)) == [
        "a.html fetches https://example.org/x.js",
        "a.html links to b.html#no: there is no such anchor",
        "a.html links to c.html, which is not there",
        "a.html links to no.png, which is not there",
    ]


def test_a_page_has_what_the_register_says(site: Path) -> None:
    page = (site / "methods" / "rise.html").read_text(encoding="utf-8").replace("’", "'")
    spec = lookup.find_method("rise")
    assert spec.summary in page
    assert "<math" in page
    assert "images/rise" in page
    for param in spec.params:
        assert f"--{param.name}" in page
        assert param.help in page


def test_it_opens_from_the_disk_without_a_network(site: Path, tmp_path: Path) -> None:
    with browser() as tab:
        for name in ("index.html", "methods/gradcam.html", "report.html", "python.html", "methods/index.html"):
            tab.open(site / name)
            assert tab.ask("[...document.images].every(image => image.naturalWidth > 0)")
        tab.open(site / "methods" / "gradcam.html")
        assert tab.ask("document.querySelector('div.math math').getBoundingClientRect().height") > 20
        tab.open(site / "methods" / "gradcam.html", size=(400, 900))
        assert tab.ask("document.documentElement.scrollWidth") <= 400
        assert [url for url in tab.requested() if not url.startswith(("file:", "data:"))] == []
        assert tab.complaints() == []


def test_search_and_the_dark_mode_work_from_the_disk(site: Path) -> None:
    with browser() as tab:
        tab.open(site / "search.html", query="?q=occlusion")
        tab.wait("document.querySelectorAll('#search-results li').length > 3")
        links = tab.ask("[...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'))")
        assert any("methods/occlusion.html" in link for link in links)
        seen = set()
        for _ in range(3):
            tab.ask("document.querySelector('.theme-toggle').click()")
            seen.add(tab.ask("getComputedStyle(document.body).backgroundColor"))
        assert len(seen) == 2
        assert [url for url in tab.requested() if not url.startswith(("file:", "data:"))] == []
        assert tab.complaints() == []
