"""Builds the documentation site; a warning, or a link that leads nowhere, is an error.

python docs/build.py            # to build/site/index.html, which opens from the disk
python docs/build.py OUT
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).parent
# What a browser fetches of itself.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class _Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it fetches."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in _FETCHED and given.get(_FETCHED[tag]):
            self.fetched.append(given[_FETCHED[tag]])
            self.links.append(given[_FETCHED[tag]])


def problems(site: Path) -> Iterator[str]:
    """Links of a site that lead nowhere, and what it would fetch from elsewhere."""
    pages = {path.resolve(): _Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in page.fetched:
            if urlsplit(address).scheme not in ("", "data"):
                yield f"{name} fetches {address}"
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not goal.exists():
                yield f"{name} links to {link}, which is not there"
            elif goal in pages and unquote(parts.fragment) not in pages[goal].anchors:
                yield f"{name} links to {link}: there is no such anchor"


def build(out: Path) -> int:
    """The exit code: 0 where the site was built without a warning."""
    with tempfile.TemporaryDirectory() as doctrees:
        code = sphinx(["-q", "-W", "--keep-going", "-E", "-b", "html", "-d", doctrees, str(HERE), str(out)])
    found = list(problems(out)) if out.exists() else []
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if code == 0 and not found:
        print(f"{out / 'index.html'}")
    return code or int(bool(found))


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "site"))
