"""Writes the README's tables of methods, comparisons, studies and training from the register.

python docs/tables.py          # rewrites README.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- methods: begin (python docs/tables.py) -->", "<!-- methods: end -->"
STUDIES_BEGIN, STUDIES_END = "<!-- studies: begin (python docs/tables.py) -->", "<!-- studies: end -->"
TRAINING_BEGIN, TRAINING_END = "<!-- training: begin (python docs/tables.py) -->", "<!-- training: end -->"
COMPARISONS_BEGIN, COMPARISONS_END = "<!-- comparisons: begin (python docs/tables.py) -->", "<!-- comparisons: end -->"


def methods_table() -> str:
    """The built-in methods as a Markdown table."""
    rows = [
        "| command | method | what it shows | passes (forward, backward) | paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    shared = {command for command, specs in lookup.commands().items() if len(specs) > 1}
    for spec in lookup.BUILT_IN:
        plain = spec.command not in shared or spec.name == spec.command
        call = f"`{spec.command}`" if plain else f"`{spec.command} --variant {spec.name}`"
        rows.append(f"| {call} | {spec.title} | {_said(spec)} | {spec.forward}, {spec.backward} | {spec.paper} |")
    return "\n".join(rows)


def commands_table(specs: Sequence[CommandSpec]) -> str:
    """Commands as a Markdown table."""
    rows = ["| command | what it does | paper |", "| --- | --- | --- |"]
    rows += [f"| `{spec.command}` | {_said(spec)} | {spec.paper} |" for spec in specs]
    return "\n".join(rows)


def _said(spec: CommandSpec) -> str:
    """What an entry does, and how to install what it cannot do without."""
    extras = dict.fromkeys(package.extra for package in spec.packages if package.option is None)
    needs = "".join(f" Needs `pip install 'cnnviz[{extra}]'`." for extra in extras)
    return spec.summary + needs


def with_table(text: str) -> str:
    """``text`` with the tables between their markers replaced."""
    tables = (
        (BEGIN, methods_table(), END),
        (COMPARISONS_BEGIN, commands_table((*lookup.COMPARISONS, *lookup.PAIRS)), COMPARISONS_END),
        (STUDIES_BEGIN, commands_table(lookup.STUDIES), STUDIES_END),
        (TRAINING_BEGIN, commands_table(lookup.TRAINING), TRAINING_END),
    )
    for begin, table, end in tables:
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
