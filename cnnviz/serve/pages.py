"""The files of the page: what the server gives away of this package, by name; nothing else is ever read for a name."""

from __future__ import annotations

from collections.abc import Callable

from cnnviz.io import page_files

SCRIPTS = ("asking.js", "command.js", "stage.js", "choosing.js", "dossier.js", "explorer.js")
"""Our own, in the order of their use."""
_COMPONENTS = ("base.js", "words.js", "picture.js", "tabs.js", "predictions.js", "slider.js")
_SCRIPT, _STYLE, _PAGE = (f"text/{kind}; charset=utf-8" for kind in ("javascript", "css", "html"))


def _own(name: str) -> bytes:
    return page_files.page_file(name, "cnnviz.serve")


_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "index.html": (lambda: _own("index.html"), _PAGE),
    "style.css": (page_files.style, _STYLE),
    "explorer.css": (lambda: _own("explorer.css"), _STYLE),
    "libraries.js": (page_files.libraries, _SCRIPT),
    "components.js": (lambda: page_files.script(_COMPONENTS), _SCRIPT),
    "explorer.js": (lambda: b"\n".join(map(_own, SCRIPTS)), _SCRIPT),
}


def page_file(name: str) -> tuple[bytes, str]:
    """A file of the page, and its type.

    Raises:
        FileNotFoundError: It is none of them.
    """
    if name not in _FILES:
        raise FileNotFoundError(name)
    make, kind = _FILES[name]
    return make(), kind
