"""``cnnviz methods``, ``metrics``, ``schema`` and ``--version``: what is installed, without loading any of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cnnviz import __version__
from cnnviz.cli.console import Console
from cnnviz.cli.variants import described
from cnnviz.errors import CnnvizError, nearest, shown
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, MethodSpec, Param

_COLUMNS = ("method", "command", "family", "passes an image", "paper")


def methods(
    ctx: typer.Context,
    json_: Annotated[bool, typer.Option("--json", help="The whole register as JSON.")] = False,
) -> int:
    """List every method: its command, family, cost, paper and options."""
    console: Console = ctx.obj
    specs = lookup.all_methods()
    if json_:
        console.data([_plain(spec) for spec in specs])
    else:
        console.text(_table(specs))
    return 0


def metrics(
    ctx: typer.Context,
    json_: Annotated[bool, typer.Option("--json", help="The whole register as JSON.")] = False,
) -> int:
    """List every metric that --metric takes: what it measures, its figures and options."""
    console: Console = ctx.obj
    if json_:
        console.data(lookup.list_metrics())
        return 0
    lines = []
    for spec in lookup.all_metrics():
        better = "" if spec.direction == "neither" else f" Better: {spec.direction}."
        needs = "" if spec.truth == "nothing" else f" Needs {spec.truth}."
        source = "" if spec.paper == "none" else f" {spec.paper}."
        also = f" Also called {', '.join(spec.aliases)}." if spec.aliases else ""
        lines += [f"{spec.name}: {spec.summary}{better}{needs}{source}{also}"]
        lines += [f"    {figure.name}  {figure.meaning}" for figure in spec.figures]
        lines += [f"    :{param.name}=  {_option(param)}" for param in spec.params]
    console.text("\n".join(lines))
    return 0


def schema(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(help="report, or policy of an audit.", metavar="[report|policy]")] = "report",
) -> int:
    """Print the JSON Schema of report.json, or of a policy."""
    # Not at the top: --help need not wait for them.
    from cnnviz.audit.policy_schema import policy_schema
    from cnnviz.io.reports import report_schema
    from cnnviz.strict_json import to_json

    known = {"report": report_schema, "policy": policy_schema}
    if what not in known:
        raise CnnvizError(f"There is no schema of {shown(what)}.", nearest(what, known) or "Use report or policy.")
    console: Console = ctx.obj
    console.text(to_json(known[what](), indent=2))
    return 0


def version(ctx: typer.Context, given: bool) -> None:
    """Print the version and end."""
    if given and not ctx.resilient_parsing:
        console: Console = ctx.find_root().obj
        console.text(f"cnnviz {__version__}")
        raise typer.Exit


def help_of(specs: tuple[CommandSpec, ...]) -> str:
    """Text of a command's help page: one line first, which is also what ``cnnviz --help`` shows."""
    spec = lookup.default_variant(specs)
    return spec.summary if spec.paper == "none" else f"{spec.summary}\n\n{spec.paper}."


def _plain(spec: MethodSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "command": spec.command,
        "family": spec.family,
        "title": spec.title,
        "summary": spec.summary,
        "paper": spec.paper,
        "signed": spec.signed,
        "class_specific": spec.class_specific,
        "forward": spec.forward,
        "backward": spec.backward,
        "options": {
            param.name: {
                "type": param.type,
                "default": param.default,
                "help": param.help,
                "choices": list(param.choices),
                "minimum": param.minimum,
                "maximum": param.maximum,
                "unit": param.unit,
            }
            for param in spec.params
        },
    }


def _option(param: Param) -> str:
    """Its choices, what it does, and its default as one types it."""
    choices = f"{'|'.join(param.choices)}  " if param.choices else ""
    return choices + described(param).replace("[default: True]", "[default: yes]")


def _table(specs: tuple[MethodSpec, ...]) -> str:
    rows = [_COLUMNS] + [
        (
            spec.name,
            spec.command,
            spec.family,
            f"{spec.forward} forward, {spec.backward} backward",
            spec.paper,
        )
        for spec in specs
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(rows[0], widths, strict=True)).rstrip()]
    for spec, row in zip(specs, rows[1:], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    --{param.name.replace('_', '-')}  {_option(param)}" for param in spec.params]
    return "\n".join(lines)
