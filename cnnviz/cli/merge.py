"""``cnnviz merge``: the runs of all shares of the inputs, joined."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from cnnviz.cli import streams
from cnnviz.cli.console import Console
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.options import Option
from cnnviz.cli.shared import shared_options
from cnnviz.cli.values import given_values
from cnnviz.errors import CnnvizError


def merge_command(summary: str) -> MadeCommand:
    """The command ``cnnviz merge``."""
    shared = shared_options()
    folders = "Output folders of runs with --shard, or the folder that holds them."
    out = "Folder of the whole run. [default: the one that holds the shares]"
    options = {
        "outs": Option("outs", str, folders, "Input", metavar="OUT...", many=True),
        "out": replace(shared["out"], help=out),
        "overwrite": replace(shared["overwrite"], help="Replace the run that is in the output folder."),
        "device": replace(
            shared["device"],
            default=None,
            help="Where what is left is computed. [default: as the shares were asked]",
        ),
        "quiet": shared["quiet"],
        "verbose": shared["verbose"],
        "json_": shared["json_"],
    }

    def merge(ctx: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, options)
        if not given.get("outs"):
            raise CnnvizError("Nothing to merge was named.", "For example cnnviz merge maps/shard-*")
        console.quiet, console.verbose = bool(given.get("quiet")), bool(given.get("verbose"))
        console.json = bool(given.get("json_"))
        console.starting("starting: PyTorch")
        with streams.reserved():
            # Not at the top: they bring torch.
            from cnnviz.pipeline import run
            from cnnviz.run.merge import merge as joined

            outs = [str(each) for each in given["outs"]]
            console.out = str(given.get("out") or os.path.dirname(os.path.abspath(outs[0])))
            changes = {"overwrite": given.get("overwrite"), "device": given.get("device")}
            result = joined(outs, given.get("out"), changes, console, run)
        return console.outcome(result)

    return MadeCommand("merge", options.values(), merge, summary)
