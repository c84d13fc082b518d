"""``cnnviz report``: one gallery of finished runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnnviz.cli.console import Console
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.options import Option
from cnnviz.cli.shared import shared_options
from cnnviz.cli.values import given_values
from cnnviz.errors import EXIT_DONE, CnnvizError

_OUT = "cnnviz-out/report"
_PANEL = "Output"
_SMALLEST, _LARGEST = 64, 4096


def report_command(summary: str) -> MadeCommand:
    """The command ``cnnviz report``."""
    shared = shared_options()
    options = {
        "folders": Option("folders", str, "Output folders of runs.", "Input", metavar="DIR...", many=True),
        "out": replace(shared["out"], help=f"The folder to write. [default: {_OUT}]"),
        "single_file": Option(
            "single_file", bool, "Everything in one index.html, its pictures smaller.", _PANEL, False,
            flags=("--single-file",),
        ),
        "size": Option(
            "size", int, "Of --single-file: the longer side of pictures, at most.", _PANEL, 640, "PIXELS", ("--size",)
        ),
        "overwrite": replace(shared["overwrite"], help="Replace the gallery that is there."),
        "quiet": shared["quiet"],
        "json_": replace(shared["json_"], help="What came of it as JSON."),
        "verbose": replace(shared["verbose"], help="Print tracebacks of unexpected errors."),
    }  # fmt: skip
    text = (
        f"{summary}\n\nPhotographs come along as small copies. Runs are one filter of it: for example\n"
        "cnnviz report cnnviz-out/gradcam cnnviz-out/occlusion -o both"
    )
    return MadeCommand("report", options.values(), lambda ctx: _run(ctx, options), text)


def _run(ctx: Any, options: dict[str, Option]) -> int:
    console: Console = ctx.obj
    given = given_values(ctx, options)
    console.quiet, console.verbose = bool(given.get("quiet")), bool(given.get("verbose"))
    folders = given.get("folders") or ()
    if not folders:
        raise CnnvizError("No DIR was given.", "For example cnnviz report cnnviz-out/gradcam")
    size = given.get("size", 640)
    if not _SMALLEST <= size <= _LARGEST:
        raise CnnvizError(f"--size {size}: expected {_SMALLEST} to {_LARGEST} pixels.", "For example --size 640")
    if "size" in given and not given.get("single_file"):
        raise CnnvizError("--size is of --single-file: a folder has the pictures as they are.", "Leave --size out.")
    # Not at the top: it brings NumPy, for which --help must not wait.
    from cnnviz.run import joined

    asked = joined.ReportSettings(
        tuple(folders), given.get("out") or _OUT, bool(given.get("overwrite")), bool(given.get("single_file")), size
    )
    console.out = asked.out
    found = joined.join_runs(asked)
    for said in joined.told(found, asked):
        console.note(said)
    if given.get("json_"):
        console.data({"images": found.images, "page": found.page, "photographs_missing": found.without_photo,
                      "pictures_missing": found.missing})  # fmt: skip
    else:
        images = f"{found.images} image{'' if found.images == 1 else 's'}"
        runs = f"{len(folders)} run{'' if len(folders) == 1 else 's'}"
        console.text(f"{images} of {runs}; open {found.page}")
    return EXIT_DONE
