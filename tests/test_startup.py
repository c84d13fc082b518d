"""What a person waits for before anything runs: help, version and usage errors must not load the heavy modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import modules_after

HEAVY = ("torch", "torchvision", "timm", "numpy", "cv2", "PIL", "pydantic")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["gradcam", "--help"], 0),
        (["methods"], 0),
        (["methods", "--json"], 0),
        (["gradcam", "--colrmap", "jet"], 2),
        (["gradcam", "a.jpg", "--alpha", "7"], 2),
        (["gradcam", "a.jpg", "--config", "missing.yaml"], 2),
        (["gardcam"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_nothing_heavy_is_imported(args: list[str], code: int) -> None:
    ended, modules = modules_after(*args)
    assert ended == code
    assert [name for name in HEAVY if name in modules] == []


def test_a_bad_colour_map_is_named_without_torch() -> None:
    """The names of the colour maps live beside NumPy and OpenCV, but the message does not wait for torch."""
    code, modules = modules_after("gradcam", "a.jpg", "--colormap", "viridsi")
    assert code == 2
    assert "cv2" in modules
    assert "torch" not in modules


def test_the_list_of_commands_is_drawn_without_rich() -> None:
    assert "rich" not in modules_after("--help")[1]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, cnnviz; print(sorted(m for m in sys.modules if m.startswith('cnnviz') or m == 'torch'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cnnviz']"
