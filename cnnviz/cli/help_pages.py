"""Help pages in plain text, grouped by panel.

Typer's own pages are drawn by rich, which takes longer to import than everything else that ``--help`` does, colours
files where a CI asks for it, and reads ``[default: …]`` as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer.core

from cnnviz.cli.options import Option, unconverted

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _named(argument: Any) -> str:
    return argument.metavar or "INPUT..."


def _sections(ctx: Any, formatter: Any, params: list[Any]) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        panel = getattr(param, "rich_help_panel", None)
        record = param.get_help_record(ctx)
        if record is not None:
            name, text = record
            is_input = param.param_type_name == "argument"
            heading = panel or ("Input" if is_input else "Options")
            # Click writes two spaces before a default, and Typer the type after a flag that takes no value.
            sections.setdefault(heading, []).append(
                (_named(param) if is_input else name.replace(" <bool>", ""), text.replace("  [", " ["))
            )
    for heading, rows in sorted(sections.items(), key=lambda item: item[0] == "Options"):
        with formatter.section(heading):
            formatter.write_dl(rows)


class Command(typer.core.TyperCommand):
    """A command whose options stand under the headings of their panels."""

    def get_help_option(self, ctx: Any) -> Any:
        return unconverted(super().get_help_option(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _sections(ctx, formatter, self.get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*(_named(param) for param in self.params if param.param_type_name == "argument"), "[OPTIONS]"]


class MadeCommand(Command):
    """A command made of a list of options; what it runs is given the context, and reads off it what was typed."""

    def __init__(self, name: str, options: Iterable[Option], run: Callable[[Any], int], help: str) -> None:
        params = [option.parameter() for option in options]
        super().__init__(name, params=params, callback=run, help=help, context_settings=CONTEXT, rich_markup_mode=None)

    def invoke(self, ctx: Any) -> Any:
        assert self.callback is not None
        return self.callback(ctx)


class Group(typer.core.TyperGroup):
    """A list of commands under the headings of their panels."""

    def get_help_option(self, ctx: Any) -> Any:
        return unconverted(super().get_help_option(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        names = self.list_commands(ctx)
        width = max(map(len, names))
        for name in names:
            command: Any = self.get_command(ctx, name)
            panel = getattr(command, "rich_help_panel", None)
            first_line = (command.help or "").split("\n")[0]
            heading = panel if isinstance(panel, str) else "Commands"
            sections.setdefault(heading, []).append((name.ljust(width), first_line))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _sections(ctx, formatter, self.get_params(ctx))
