"""Writes the README's table of methods from the register.

python docs/tables.py          # rewrites README.md
"""

from __future__ import annotations

from pathlib import Path

from cnnviz import catalog

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- methods: begin (python docs/tables.py) -->", "<!-- methods: end -->"


def methods_table() -> str:
    """The built-in methods as a Markdown table."""
    rows = [
        "| command | method | what it shows | passes (forward, backward) | paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    shared = {command for command, specs in catalog.commands().items() if len(specs) > 1}
    for spec in catalog.BUILT_IN:
        plain = spec.command not in shared or spec.name == spec.command
        call = f"`{spec.command}`" if plain else f"`{spec.command} --variant {spec.name}`"
        rows.append(f"| {call} | {spec.title} | {spec.summary} | {spec.forward}, {spec.backward} | {spec.paper} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """``text`` with the table between its two markers replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{methods_table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
