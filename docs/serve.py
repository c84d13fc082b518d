"""Makes the picture of ``docs/serve.md``: the page with the sample images, in a headless Chromium.

python docs/serve.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.pages import chromium_path  # noqa: E402

OUT = ROOT / "docs" / "images" / "serve.jpg"


def main() -> None:
    """Start the explorer, ask for two things, and take the picture."""
    command = [sys.executable, "-m", "cnnviz", "serve", "sample_images", "--no-browser"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as tool:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
        browser = tool.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(address)
        page.wait_for_selector(".map")
        page.get_by_title("espresso.jpg").click()
        page.locator(".command code", has_text="espresso").wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=str(OUT), type="jpeg", quality=78)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
