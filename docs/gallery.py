"""Pictures of the gallery for docs/gallery.md, from runs over the sample images, in a headless Chromium.

python docs/gallery.py
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from cnnviz.cli.app import main as cnnviz

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
# Two of them are taken for something else.
TRUTH = {
    "camera_on_tripod.jpg": "tripod", "cat.jpg": "tabby", "espresso.jpg": "espresso",
    "military_uniform.jpg": "military uniform", "rocket.jpg": "missile", "space_shuttle_model.jpg": "space shuttle",
}  # fmt: skip


def main() -> None:
    """Makes the runs and takes the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "truth.csv"
        os.chdir(ROOT)
        lines = [f"{ROOT / 'sample_images' / path},{label}" for path, label in TRUTH.items()]
        table.write_text("\n".join(["path,label", *lines]) + "\n")
        photos = "sample_images"
        for command, more in (("gradcam", ["-c", "top:3"]), ("gradcam", ["--variant", "layercam", "-c", "top:3"])):
            out = str(folder / (more[1] if len(more) > 2 else command))
            assert cnnviz([command, photos, "-c", str(table), *more, "-o", out]) == 0
        assert cnnviz(["report", str(folder / "gradcam"), str(folder / "layercam"), "-o", str(folder / "both")]) == 0
        page = (folder / "both" / "index.html").as_uri()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            _take(browser, page + "#sort=-probability", "gallery-cards", "light")
            _take(browser, page + "#look=slider&open=0%2Fcat.jpg", "gallery-closeup", "light")
            _take(browser, page + "#outcome=wrong", "gallery-dark", "dark")
            browser.close()


def _take(browser: Any, address: str, name: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.locator(".toolbar").wait_for()
    if "open=" not in address:
        page.locator("#gallery").evaluate("e => e.scrollIntoView()")
    page.wait_for_timeout(1500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.resize((960, 645), Image.Resampling.LANCZOS).save(
        ROOT / "docs" / "images" / f"{name}.jpg", quality=82, optimize=True
    )
    context.close()


if __name__ == "__main__":
    main()
