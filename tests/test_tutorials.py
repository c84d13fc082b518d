"""docs/tutorials: every file that a page shows is written, every line runs in order and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnviz.cli.app import main
from tests.test_readme_runs import folder  # noqa: F401

PAGES = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"(?:`([\w-]+\.\w+)`:\n\n)?^```(\w+)\n(.*?)^```", re.M | re.S)
# Fewer passes than a reader would wait for.
SHORTENED = {"cnnviz evaluate": "--input-size 64", "--sanity": "--input-size 64"}


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """The file that a block is to be, its language, its text."""
    yield from BLOCK.findall(page.read_text(encoding="utf-8"))


def run_line(line: str) -> str:
    """What a line of a shell prints; its comment says which exit code it has, other than 0."""
    words, expected = shlex.split(line, comments=True), re.search(r"# exits with (\d)", line)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if words[0] == "python":
            runpy.run_path(words[1], run_name="__main__")
            code = 0
        elif words[0] == "sed":
            assert words[3] == ">"
            old, new = words[1].split("/")[1:3]
            Path(words[4]).write_text(Path(words[2]).read_text().replace(old, new))
            code = 0
        else:
            assert words[0] == "cnnviz", line
            more = next((options for part, options in SHORTENED.items() if part in line), "")
            code = main([*words[1:], *more.split()])
    assert code == (int(expected[1]) if expected else 0), f"{line}\n{printed.getvalue()}"
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_runs_as_it_stands(
    page: Path,
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(folder / "classes")
    (folder / "photos" / "tiger cat" / "cat.jpg").rename(folder / "photos" / "cat.jpg")
    for old, new in (("tiger cat", "cat"), ("espresso", "cup")):
        (folder / "data" / "val" / old).rename(folder / "data" / "val" / new)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name in [each for each in sys.modules if each in {"model", "scenes", "segmenter"}]:
        monkeypatch.delitem(sys.modules, name)
    printed, ran = "", 0
    for name, language, text in blocks(page):
        if name:
            (folder / name).write_text(text)
        elif language == "sh":
            for line in filter(None, text.splitlines()):
                printed, ran = run_line(line), ran + 1
        elif language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
            ran += 1
        elif language == "text":
            said = [" ".join(line.split()) for line in printed.splitlines()]
            for line in text.splitlines():
                assert any(" ".join(line.split()) in each for each in said), f"{line!r} is not in\n{printed}"
    assert ran >= 4
    for name in ("model", "scenes", "segmenter"):
        sys.modules.pop(name, None)


def test_there_is_a_tutorial_for_each_first_question() -> None:
    assert {page.stem for page in PAGES} >= {"first-maps", "your-checkpoint", "ci", "segmentation", "transformers"}
