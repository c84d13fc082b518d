"""The files of the page: what the server gives away of this package, by name; nothing else is ever read for a name."""

from __future__ import annotations

from importlib.resources import files

_OWN = {
    "index.html": "text/html; charset=utf-8",
    "explorer.css": "text/css; charset=utf-8",
    "explorer.js": "text/javascript; charset=utf-8",
}


def page_file(name: str) -> tuple[bytes, str]:
    """A file of the page, and its type.

    Raises:
        FileNotFoundError: It is none of them.
    """
    if name not in _OWN:
        raise FileNotFoundError(name)
    return files("cnnviz.serve").joinpath("page", name).read_bytes(), _OWN[name]
