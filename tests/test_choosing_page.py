"""docs/choosing.md against the program: its commands, options and pictures exist, and the pictures are what it says."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.help import help_page

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
SPANS = sorted(set(re.findall(r"`([^`]+)`", PAGE)))
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "choosing.py"))
OPTION = r"(?<![\w-])(--?[A-Za-z][\w-]*)"


@functools.cache
def options_of(command: str) -> frozenset[str]:
    return frozenset(re.findall(OPTION, help_page(command)))


@functools.cache
def commands() -> tuple[str, ...]:
    found = re.findall(r"^  ([a-z][a-z-]+) {2,}\S", help_page(), flags=re.M)
    assert {"gradcam", "layers", "embed"} <= set(found)
    return tuple(found)


def check(words: list[str]) -> None:
    """A command with its options, as typed after ``cnnviz``."""
    command, options = words[0], [word for word in words if re.fullmatch(OPTION, word)]
    assert command in commands(), command
    for option in options:
        assert option in options_of(command), f"{option} of {command}"
    if "--variant" in words:
        help_page(f"{command} --variant {words[words.index('--variant') + 1]}")


@pytest.mark.parametrize("span", [span for span in SPANS if span.startswith("cnnviz ")])
def test_commands_exist_with_their_options(span: str) -> None:
    check(shlex.split(span)[1:])


@pytest.mark.parametrize("span", [span for span in SPANS if span.startswith("-")])
def test_options_that_stand_alone_belong_to_a_command(span: str) -> None:
    words = shlex.split(span)
    options = {word for word in words if re.fullmatch(OPTION, word)}
    assert options, span
    assert any(options <= options_of(command) for command in ("gradcam", "occlusion", "rise", "lrp")), span
    if "--variant" in words:
        variant = words[words.index("--variant") + 1]
        families = [command for command in ("gradcam", "saliency", "superpixels") if variant in help_page(command)]
        assert families, span


def test_keys_of_the_report_are_those_of_its_page() -> None:
    explained = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    for span in SPANS:
        if re.fullmatch(r"(scores|model)\.\w+|\w+_\w+", span) and span not in {"sample_images", "gap_share"}:
            assert re.search(rf"[`.]{re.escape(span.rpartition('.')[2])}`", explained), span


def test_the_pictures_are_those_that_the_script_makes() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\((images/[^)]+)\)", PAGE)
    assert sorted(target for _, target in shown) == sorted(f"images/choosing-{n}.jpg" for n in SCRIPT["PICTURES"])
    assert all(len(described) > 40 for described, _ in shown)
    sizes = 0
    for name in SCRIPT["PICTURES"]:
        path = ROOT / "docs" / "images" / f"choosing-{name}.jpg"
        sizes += path.stat().st_size
        with Image.open(path) as picture:
            assert picture.info["comment"].decode() == SCRIPT["comment"](name), "run: python docs/choosing.py"
    assert sizes < 600_000


@pytest.mark.parametrize("command", [command for commands in SCRIPT["PICTURES"].values() for command in commands])
def test_the_commands_of_the_pictures_exist(command: str) -> None:
    check(shlex.split(command))


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target).exists(), target
    assert "docs/choosing.md" in (ROOT / "README.md").read_text(encoding="utf-8")
