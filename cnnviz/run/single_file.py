"""A gallery in one file: scripts, style and data stand in the page, and its policy names them by their digests."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Sequence

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
        for place, run in enumerate(runs):
            seen = SeenRecords(run, place, [], most=0)
            for data in rows.chunks(seen.rows(), place):
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
