"""``cnnviz serve``: the live explorer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnnviz.cli import streams
from cnnviz.cli.console import Console
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.options import Option
from cnnviz.cli.shared import Shared, shared_options
from cnnviz.cli.values import given_values
from cnnviz.errors import CnnvizError
from cnnviz.registry.specs import Options, Package
from cnnviz.settings import OutputSettings, RunSettings, TargetSettings, check_choice

_SHARED = (
    "inputs limit model weights checkpoint trust_checkpoint num_classes labels question input_size mean std "
    "channel_order resize view no_crop logits_key task activation skip_check tracing seed device precision quiet"
).split()
_HOSTS = ("127.0.0.1", "::1")
_PACKAGES = (Package("starlette", "Starlette", "serve"), Package("uvicorn", "uvicorn", "serve"))
_MOST_PORT = 65_535


def serve_command(summary: str) -> MadeCommand:
    """The command ``cnnviz serve``."""
    shared, panel = shared_options(), "Server"
    inputs = "Images to choose from, and to look for top patches in. [default: what is dropped on the page]"
    options = {
        **{field: shared[field] for field in _SHARED},
        "inputs": replace(shared["inputs"], help=inputs, metavar="[INPUT...]"),
        "port": Option("port", int, "Port. [default: a free one]", panel, metavar="N", flags=("--port",)),
        "host": Option(
            "host", str, "127.0.0.1, or ::1 for IPv6: this machine alone.", panel, "127.0.0.1", "HOST", ("--host",)
        ),
        "browser": Option(
            "browser", bool, "Open the page in the browser.", panel, default=True, flags=("--browser/--no-browser",)
        ),
        "verbose": replace(shared["verbose"], help="Print tracebacks of unexpected errors."),
    }

    def serve(ctx: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, options)
        port, host = given.pop("port", 0), check_choice(given.pop("host", _HOSTS[0]), _HOSTS, "--host")
        browser = given.pop("browser", True)
        asked = Shared(**given)
        console.quiet, console.verbose = asked.quiet, asked.verbose
        _check(asked, port)
        target = TargetSettings(logits_key=asked.logits_key, activation=asked.activation, task=asked.task)
        settings = RunSettings(
            "serve",
            tuple(asked.inputs or ()),
            asked.model_spec(),
            target,
            asked.runtime(),
            output=OutputSettings(""),
            limit=asked.limit,
        )
        console.starting(f"starting: PyTorch, then {settings.model.model}")
        # Not at the top: it brings torch.
        from cnnviz.serve.server import Listening, serve

        with streams.reserved():
            idle = serve(settings, Listening(host, port, browser), console.note, console.address)
        return console.served(idle)

    return MadeCommand("serve", options.values(), serve, summary)


def _check(asked: Shared, port: int) -> None:
    for package in _PACKAGES:
        package.check("cnnviz serve", Options())
    if not 0 <= port <= _MOST_PORT:
        raise CnnvizError(f"--port {port}: expected 0 to {_MOST_PORT}.", "Leave --port out for a free one.")
    if "-" in (asked.inputs or ()):
        raise CnnvizError("-: standard input is read once, and a page may ask again.", "Name a folder or a list file.")
    if asked.view == "tiles":
        raise CnnvizError("--view tiles: one view is explored at a time.", "Use --view crop, whole or squash.")
