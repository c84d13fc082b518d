"""No Python file above 400 lines, no function above 50 (its docstring not counted).

    python .ci/check_lines.py

Exceptions are named with the number of lines that they have; one that is not needed any more is told as well.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cnnviz", "tests", "benchmarks", "docs", ".ci")
FILE, FUNCTION = 400, 50
# File, or file:function, to the most lines that it may have.
EXCEPTIONS: dict[str, int] = {
    "tests/support/operation_cases.py": 600,
}


def lengths(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines and limit of a file and of each of its functions."""
    source, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
    yield name, len(source.splitlines()), FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            told = ast.get_docstring(node) is not None
            docstring = first.end_lineno - first.lineno + 1 if told and first.end_lineno else 0
            assert node.end_lineno is not None
            yield f"{name}:{node.name}", node.end_lineno - node.lineno + 1 - docstring, FUNCTION


def problems() -> list[str]:
    """What is too long, and which exceptions are stale."""
    found, unused = [], dict(EXCEPTIONS)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, lines, limit in lengths(path):
                if lines > limit:
                    allowed = unused.pop(name, EXCEPTIONS.get(name, limit))
                    if lines > allowed:
                        found.append(f"{name}: {lines} lines, at most {allowed}")
    return [*found, *(f"{name}: no exception is needed any more" for name in unused)]


if __name__ == "__main__":
    told = problems()
    if told:
        print("\n".join(told), file=sys.stderr)
    sys.exit(bool(told))
