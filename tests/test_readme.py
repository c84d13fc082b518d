"""The README against the program: its table, its one-liners, its Python."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
from pathlib import Path

import pytest

from cnnviz.registry import lookup
from cnnviz.registry.specs import StudySpec
from tests.support.help import help_page

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_what_the_register_says() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "tables.py"))["with_table"](README)
    assert written == README, "run: python docs/tables.py"
    for spec in lookup.BUILT_IN:
        assert f"| {spec.title} | {spec.summary}" in README
    assert "pip install 'cnnviz[superpixels]'" in README
    for spec in lookup.STUDIES:
        assert f"| `{spec.command}` | {spec.summary}" in README


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def one_liners() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    lines = [line.split("  #")[0].partition("COMMAND")[0].strip() for block in blocks for line in block.splitlines()]
    return [line[line.index("cnnviz ") :] for line in lines if "cnnviz " in line]


@functools.cache
def options_of(command: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--?[A-Za-z0-9][\w-]*)", help_page(command)))


@pytest.mark.parametrize("line", one_liners())
def test_every_option_in_the_readme_exists(line: str) -> None:
    words = shlex.split(line.split(">")[0])
    command = words[1]
    assert command in {*lookup.commands(), "layers", "merge", "methods", "models", "report", "serve", "targets"}
    for word in words[2:]:
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-[1-9]", word):
            assert word.partition("=")[0] in options_of(command), f"{word} in: {line}"


@pytest.mark.parametrize("spec", lookup.STUDIES, ids=lambda spec: spec.name)
def test_the_page_of_a_study_has_the_command_that_one_types(spec: StudySpec) -> None:
    text = (ROOT / "docs" / "studies" / f"{spec.name.replace('_', '-')}.md").read_text(encoding="utf-8")
    before, _, _ = text.partition("\n## How it works")
    [line] = re.findall(r"```sh\n(cnnviz .*)\n```", before)
    assert line.split()[1] == spec.command
    test_every_option_in_the_readme_exists(line)
    own = {param.name.replace("_", "-") for param in spec.params}
    # What a study cannot do without is in it.
    needed = {"concepts": {"of"}, "tcav": {"concept", "random"}}.get(spec.name, set())
    assert needed <= own & {word.removeprefix("--") for word in line.split()}
