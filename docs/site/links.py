"""Links that lead out of ``docs/``: to the page that the site makes of a file; where it has none, the path in words.

On GitHub the same links open the files. A page that begins with ``<!-- site: PATH -->`` is made of the file PATH of the
repository. CNNVIZ_SOURCE_URL is the address under which files of the repository are, where there is one.
"""

from __future__ import annotations

import os
import posixpath
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from sphinx.util import logging

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
_STUB = re.compile(r"<!-- site: (\S+) -->")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


@lru_cache(maxsize=1)
def _pages() -> dict[str, str]:
    """Files of the repository, by path, to the pages that are made of them."""
    found = {}
    for path in DOCS.rglob("*.md"):
        if stub := _STUB.match(path.read_text(encoding="utf-8")):
            found[stub[1]] = path.relative_to(ROOT).as_posix()
    return found


def _rewritten(text: str, origin: str, page: str) -> str:
    """``text`` of the file ``origin``, with links as they must be in ``page``; both are paths in the repository."""

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        words = _LINK.sub(link, words)
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return f"{picture}[{words}]({target})"
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if not (ROOT / goal).exists():
            logger.warning("%s links to %s, which does not exist", origin, goal)
        known = _pages().get(goal) or _pages().get(f"{goal}/README.md")
        inside = goal if goal.startswith("docs/") and goal.endswith(".md") else None
        if picture or known or inside:
            there = posixpath.relpath(known or inside or goal, posixpath.dirname(page))
            return f"{picture}[{words}]({there}{'#' + anchor if anchor else ''})"
        address = os.environ.get("CNNVIZ_SOURCE_URL")
        if address:
            return f"[{words}]({address.rstrip('/')}/{goal})"
        return words if goal in words else f"{words} (`{goal}`)"

    parts = _FENCE.split(text)
    return "".join(part if _FENCE.fullmatch(part) else _LINK.sub(link, part) for part in parts)


def _read(app: Any, docname: str, source: list[str]) -> None:
    page = origin = f"docs/{docname}.md"
    if stub := _STUB.match(source[0]):
        origin = stub[1]
        source[0] = (ROOT / origin).read_text(encoding="utf-8")
    source[0] = _rewritten(source[0], origin, page)


def setup(app: Any) -> None:
    """Rewrite links as pages are read, after the register has put its parts in."""
    app.connect("source-read", _read, priority=900)
