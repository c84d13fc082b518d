"""The files that a page is made of beside its data: scripts and styles of the package, in the order of their use."""

from __future__ import annotations

from importlib import resources

LIBRARIES = ("htm-preact-3.1.1.js", "img-comparison-slider-8.0.7.js")
"""What every page is made with."""
CURVES = ("uplot-1.6.32.js",)
"""What pages with curves need too."""
STYLES = ("vendor/img-comparison-slider-8.0.7.css", "vendor/uplot-1.6.32.css", "style.css")
COMPONENTS = ("base.js", "words.js", "picture.js", "tabs.js", "predictions.js", "slider.js", "curve.js")
"""What the gallery and other pages share; each hangs under ``window.cnnviz``."""
GALLERY = (*COMPONENTS, "view.js", "filter.js", "toolbar.js", "card.js", "map.js", "closeup.js", "help.js", "app.js")
"""The gallery, which begins when its data are there."""


def libraries(names: tuple[str, ...] = LIBRARIES) -> bytes:
    """Vendored classic builds as one script, under the notices of their licences."""
    notice = page_file("vendor/NOTICE.txt").decode()
    parts = [_without_map(page_file(f"vendor/{name}").decode()) for name in names]
    return "\n".join([f"/*\n{notice}*/", *parts]).encode()


def script(names: tuple[str, ...] = COMPONENTS) -> bytes:
    """Our own scripts as one."""
    return b"\n".join(page_file(name) for name in names)


def style() -> bytes:
    """All styles as one."""
    return b"\n".join(page_file(name) for name in STYLES)


def page_file(name: str, package: str = "cnnviz.report") -> bytes:
    """A file of ``page/`` in a package of ours, as it is."""
    at = resources.files(package).joinpath("page")
    for part in name.split("/"):
        at = at.joinpath(part)
    return at.read_bytes()


def _without_map(source: str) -> str:
    """Without the line that names a source map, which does not travel with the page."""
    return "\n".join(line for line in source.split("\n") if not line.startswith("//# sourceMappingURL="))
