"""The documentation site: Sphinx over the Markdown of this folder (``python docs/build.py``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "site"), str(HERE.parent)]

import entries  # noqa: E402
import links  # noqa: E402
import mathml  # noqa: E402

import cnnviz  # noqa: E402

project = "cnnviz"
author = "the cnnviz developers"
copyright = "the cnnviz developers, Apache-2.0"
release = version = cnnviz.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The pages of entries that are not registered have no place in the site.
exclude_patterns = ["site", *entries.unregistered(HERE)]

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "colon_fence", "fieldlist"]
myst_dmath_double_inline = False

# Quotes alone: two hyphens are the beginning of an option.
smartquotes_action = "q"
html_theme = "furo"
html_title = "cnnviz"
html_static_path = ["site/static"]
html_css_files = ["cnnviz.css"]
html_math_renderer = "mathml"
html_show_sphinx = html_show_sourcelink = html_copy_source = False
# The line below a hit is fetched, which a browser refuses to a page that is opened from the disk.
html_show_search_summary = False
html_theme_options = {"navigation_with_keys": True}
suppress_warnings = ["config.cache"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app: Any) -> None:
    mathml.setup(app)
    entries.setup(app)
    links.setup(app)
