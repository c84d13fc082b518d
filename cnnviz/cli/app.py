"""The command line: wiring, and the one place where an exception becomes an exit code."""

from __future__ import annotations

import gc
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.main

from cnnviz.cli import help_pages as pages
from cnnviz.cli import info, variants
from cnnviz.cli.console import Console
from cnnviz.cli.interrupts import ended_by_the_second
from cnnviz.cli.options import unconverted
from cnnviz.cli.streams import open_closed_ones
from cnnviz.errors import EXIT_INTERRUPTED, CnnvizError, first_line, nearest
from cnnviz.io.idle_threads import giving_way
from cnnviz.registry import lookup

# Newer Typers bring their own copy of click, older ones import it: take the classes from what both export.
_ClickException: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# How seldom Python looks for cycles of objects. Imports and the trace of a network make a million that stay: looking
# through them at each 700 new ones, as is the default, was a fourteenth of the time to the first picture.
_CYCLES = (50_000, 20, 50)
_EXTRA = re.compile(r"Got unexpected extra arguments? ?\(?s?\)? ?\((.*)\)")
# Commands whose options, too, are built only when they run.
_LOOKING = {
    "targets": "List what can be asked of an image: its classes, and of a segmentation its segments.",
    "layers": "List a network's layers: shapes, receptive fields, parameters, default target, CAM.",
    "models": "List the networks that can be named, and whether their weights are on this machine.",
    "merge": "Join the runs of all shares of the inputs (--shard) to the one run that they are.",
    "serve": "Explore a network in the browser: drop an image, click a class, a box or a pixel. Needs "
    "`pip install 'cnnviz[serve]'`.",
}
# What is made of runs that are there.
_AFTERWARDS = {"report": "Make one gallery of finished runs: a folder that can be passed on, or a single file."}


class _Commands(pages.Group):
    """The commands written by hand, and those of the register, whose options are built only for the one that runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*lookup.commands(), *_AFTERWARDS, *_LOOKING, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _LOOKING:
            return _listed(cmd_name, _LOOKING[cmd_name], "Information")
        if cmd_name in _AFTERWARDS:
            return _listed(cmd_name, _AFTERWARDS[cmd_name], "Afterwards")
        specs = lookup.commands().get(cmd_name)
        if specs is None:
            return super().get_command(ctx, cmd_name)
        # For the list of commands: its name and its first line.
        return _listed(cmd_name, info.help_of(specs), specs[0].family.capitalize())

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        specs = lookup.commands().get(name)
        if specs is not None:
            # Not at the top: the list of commands need not wait for the options of one.
            from cnnviz.cli import commands as maps

            described = variants.variant_for_help(specs, args[1:])
            return name, maps.command_of(name, described), args[1:]
        if name in _LOOKING:
            from cnnviz.cli import inspect as look

            return name, look.COMMANDS[name](_LOOKING[name]), args[1:]
        if name == "report":
            from cnnviz.cli import report

            return name, report.report_command(_AFTERWARDS[name]), args[1:]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            raise CnnvizError(f"No such command: {name}", _hint_for(name, self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


def _listed(name: str, text: str, panel: str) -> pages.Command:
    """A command as the list of commands shows it: its name, its first line and its heading."""
    return pages.Command(name, help=text, rich_help_panel=panel)


def _hint_for(name: str, commands: list[str]) -> str:
    if called := variants.called_here(name):
        return called
    near = nearest(name, commands)
    if near:
        return near
    if os.path.exists(name) or "://" in name:
        return f"Say what to do with it: cnnviz gradcam {shlex.quote(name)}"
    return f"The commands are {', '.join(commands)}; see cnnviz --help"


app = typer.Typer(
    name="cnnviz",
    cls=_Commands,
    help="Shows why a convolutional network said what it said, and tests that it looked where it should.",
    epilog="Try: cnnviz gradcam photos/   (then open cnnviz-out/gradcam/index.html)",
    context_settings=pages.CONTEXT,
    rich_markup_mode=None,
)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=info.version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None: ...


app.command("methods", cls=pages.Command, rich_help_panel="Information")(info.methods)
app.command("metrics", cls=pages.Command, rich_help_panel="Information")(info.metrics)
app.command("schema", cls=pages.Command, rich_help_panel="Information")(info.schema)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None for those of the process, of which nothing but its end is
            left when this returns.

    Returns:
        The exit code of the process.
    """
    open_closed_ones()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Not Python's own handler, which an interpreter that ends tells of in a traceback.
    afterwards = signal.SIG_DFL if argv is None else signal.default_int_handler
    looked_for = gc.get_threshold()
    gc.set_threshold(*_CYCLES)
    try:
        with giving_way(), ended_by_the_second(afterwards):
            return _told(arguments, Console())
    except KeyboardInterrupt:  # while something else was told
        return EXIT_INTERRUPTED
    finally:
        gc.set_threshold(*looked_for)


def _told(arguments: list[str], console: Console) -> int:
    """The exit code of a command line; what ends it is told."""
    try:
        return _run(arguments, console)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except CnnvizError as error:
        return console.error(error)
    except _ClickException as error:
        return console.error(_from_click(error, arguments))
    except (KeyboardInterrupt, typer.Abort):
        return console.interrupted()
    except BrokenPipeError:
        return console.broken_pipe()
    except Exception as error:
        return console.crash(error) if (known := _without_room(error)) is None else console.error(known)


def _without_room(error: Exception) -> CnnvizError | None:
    """What is told where memory ran out although no batch is left to be halved."""
    if not isinstance(error, MemoryError) and "torch" not in sys.modules:
        return None  # importing PyTorch takes a second; what has not done so ran no network
    from cnnviz.engine.runtime import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    reason = first_line(error, "no memory is left")
    told = CnnvizError(f"out of memory: {reason}", "Use a smaller --input-size or --batch-size, or --device cpu.")
    told.__cause__ = error
    return told


def _run(arguments: list[str], console: Console) -> int:
    command: Any = typer.main.get_command(app)
    for parameter in command.params:
        unconverted(parameter)
    if "_CNNVIZ_COMPLETE" in os.environ:
        command.main(arguments, prog_name="cnnviz")
    # Not command.main: it has an error boundary of its own, which makes an exit code of Ctrl-C and of a broken pipe.
    with command.make_context("cnnviz", [*arguments] or ["--help"], obj=console) as ctx:
        code = int(command.invoke(ctx) or 0)
    return console.interrupted() if code == EXIT_INTERRUPTED else code


def _behind_command(option: str, arguments: list[str], context: Any) -> str:
    """Where an option of a command belongs that stands before it; empty of what no command has."""
    commands = context.command.list_commands(context)
    why = ""
    # The first such word may be the value of an option: that line is refused then.
    for place in (k for k, word in enumerate(arguments) if word in commands):
        name, words = arguments[place], [*arguments[place + 1 :], *arguments[:place]]
        refused = _refused(name, words, context)
        if refused is None:
            return f"Options stand behind the command: {shlex.join(['cnnviz', name, *words])}"
        why = why or refused
    if why:
        return why
    # Not at the top: the list of commands need not wait for options.
    from cnnviz.cli.shared import shared_options

    known = {flag for each in shared_options().values() for flag in each.flags}
    return f"Options stand behind a command, such as cnnviz gradcam photos/ {option}" if option in known else ""


def _refused(name: str, words: list[str], context: Any) -> str | None:
    """Why a command does not take these words, and where it says what it takes; None where it takes them."""
    _, command, _ = context.command.resolve_command(context, [name])
    path = f"cnnviz {name}"
    try:
        _, rest, _ = command.make_parser(type(context)(command, info_name=name, parent=context)).parse_args([*words])
    except _ClickException as error:
        if type(error).__name__ == "NoSuchOption":
            return f"{path} has no option {getattr(error, 'option_name', '')}; see {path} --help"
        return f"Options stand behind the command; see {path} --help"
    return f"{path} does not take {rest[0]}; see {path} --help" if rest else None


def _from_click(error: Any, arguments: list[str]) -> CnnvizError:
    """A usage error with near matches, in the form of our own."""
    context = getattr(error, "ctx", None)
    if context is not None:
        path = context.command_path
    else:  # An option without its value.
        path = " ".join(["cnnviz", *arguments[:1]])
    hint = f"See {path} --help"
    message = " ".join(error.format_message().split())
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        message = f"No such option: {option}"
        if option == "--shard":
            message = f"{path} cannot be shared out"
        flags = [flag for param in context.command.params for flag in (*param.opts, *param.secondary_opts)]
        hint = variants.elsewhere(str(option), path, flags) or hint
        if context.parent is None:
            hint = _behind_command(str(option), arguments, context) or hint
        if option == "--variant":
            message, hint = variants.no_variants(path, arguments) or (f"{path} has no variants", hint)
    extra = _EXTRA.fullmatch(message)
    if extra is not None:
        message, hint = f"{path} does not take {extra[1]}", f"Leave that out. {hint}"
    return CnnvizError(message, hint)
