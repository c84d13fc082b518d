"""A gallery in one file: scripts, style and data stand in the page, and its policy names them by their digests."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from cnnviz.io import page_files
from cnnviz.io.store import Store
from cnnviz.report import gallery as html
from cnnviz.report import rows
from cnnviz.run.gallery import INDEX, GalleryRun, SeenRecords, run_section, runs_script


def write_single_file(store: Store, title: str, runs: Sequence[GalleryRun]) -> None:
    """``index.html`` alone. The rows wait on the disk until their digests are known.

    Args:
        store: The folder.
        title: Of the page.
        runs: What it shows; their addresses are ``data:`` ones.
    """
    with tempfile.TemporaryFile() as body:
        digests: list[str] = []
        curves = False
        pictures = _Pictures()
        for place, run in enumerate(runs):
            seen = SeenRecords(run, place, [], most=0)
            for data in rows.chunks((pictures.numbered(row) for row in seen.rows()), place):
                if fresh := pictures.fresh():
                    body.write(_element(rows.script_of("cnnviz.data.pictures(", fresh), digests))
                body.write(_element(data, digests))
            curves = curves or seen.curves
        names = page_files.LIBRARIES + (page_files.CURVES if curves else ())
        style = page_files.style()
        scripts = (page_files.libraries(names), page_files.script(page_files.GALLERY), runs_script(title, runs))
        first = [_element(script, digests) for script in scripts]
        with store.stream(INDEX) as page:
            policy = _policy(digests, digest(style))
            page.write(html.document(title, policy, f"<style>{style.decode()}</style>").encode("utf-8", "replace"))
            for place, run in enumerate(runs):
                page.write(run_section(run, place).encode("utf-8", "replace"))
            page.write(b'<main id="gallery">\n<p class="more">The images are shown where scripts run.</p>\n</main>\n')
            page.writelines(first)
            body.seek(0)
            shutil.copyfileobj(body, page)
            page.write(b"</body>\n</html>\n")


class _Pictures:
    """The pictures of the page, each once, by number: a row names a picture up to three times, and runs share them."""

    def __init__(self) -> None:
        # By digest: the pictures themselves would fill the memory.
        self._known: dict[bytes, int] = {}
        self._fresh: list[str] = []

    def fresh(self) -> list[str]:
        """Those that came since the last call, in the order of their numbers."""
        found, self._fresh = self._fresh, []
        return found

    def numbered(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with numbers for addresses."""
        found = dict(row)
        if "photo" in row:
            found["photo"] = self._number(row["photo"])
        for key in ("maps", "figures"):
            if key in row:
                found[key] = [self._of_drawing(each) for each in row[key]]
        return found

    def _of_drawing(self, drawing: dict[str, Any]) -> dict[str, Any]:
        found = dict(drawing)
        if "picture" in drawing:
            found["picture"] = self._number(drawing["picture"])
        if "files" in drawing:
            found["files"] = [[kind, self._number(address)] for kind, address in drawing["files"]]
        return found

    def _number(self, address: str) -> int:
        key = hashlib.sha256(address.encode()).digest()
        if key not in self._known:
            self._known[key] = len(self._known)
            self._fresh.append(address)
        return self._known[key]


def _element(script: bytes, digests: list[str]) -> bytes:
    # The element would end there, or be read as begun twice.
    safe = script.replace(b"</script", b"<\\/script").replace(b"<!--", b"<\\!--")
    digests.append(digest(safe))
    return b"<script>" + safe + b"</script>\n"


def digest(data: bytes) -> str:
    """A source of a Content-Security-Policy that allows what stands in an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(data).digest()).decode()}'"


def _policy(scripts: Sequence[str], style: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {' '.join(scripts)}; "
        "base-uri 'none'; form-action 'none'"
    )
