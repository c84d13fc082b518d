"""``cnnviz targets``: what can be asked of an image with ``--target`` and ``--class``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnviz.cli import streams
from cnnviz.cli.console import Console
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.options import Option
from cnnviz.cli.shared import Shared, shared_options
from cnnviz.cli.tables import aligned
from cnnviz.cli.values import given_values
from cnnviz.errors import CnnvizError, in_percent
from cnnviz.settings import OutputSettings, RunSettings, TargetSettings

if TYPE_CHECKING:
    from cnnviz.maps.target_list import TargetList

_SHARED = (
    "model weights checkpoint trust_checkpoint num_classes labels question input_size mean std channel_order resize "
    "view no_crop logits_key task activation tracing device quiet"
).split()
_FIGURES = ("score", "probability", "logit", "value", "area")


def targets_command(summary: str) -> MadeCommand:
    """The command ``cnnviz targets``."""
    shared = shared_options()
    options = {
        "image": Option("image", str, "One image.", "Input", metavar="IMAGE"),
        **{field: shared[field] for field in _SHARED},
        "top": replace(shared["top"], help="How many of each kind are listed, 1 or more.", default=10),
        "out": replace(shared["out"], help="Write a picture of the numbered segments into this folder."),
        "json_": replace(shared["json_"], help="The list as JSON."),
        "verbose": replace(shared["verbose"], help="Print tracebacks of unexpected errors."),
    }

    def targets(ctx: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, options)
        image = given.pop("image", None)
        asked = Shared(**{"top": 10, **given})
        console.quiet, console.verbose = asked.quiet, asked.verbose
        if image is None:
            raise CnnvizError("No IMAGE was given.", "For example cnnviz targets cat.jpg")
        if asked.out == "-":
            raise CnnvizError("-o -: the list is on standard output.", "Give -o a folder.")
        with streams.reserved():
            found = _listed(asked, image, console)
            written = _written(found, asked.out, console)
        if asked.json_:
            console.data({**found.to_dict(), "files": written})
        else:
            console.text(_text(found, written))
        return 0

    return MadeCommand("targets", options.values(), targets, summary)


def _listed(asked: Shared, image: str, console: Console) -> TargetList:
    # Not at the top: it brings torch.
    from cnnviz.maps.target_list import list_targets

    target = TargetSettings(logits_key=asked.logits_key, activation=asked.activation, top=asked.top, task=asked.task)
    out = OutputSettings(asked.out or "")
    return list_targets(
        RunSettings("targets", (image,), asked.model_spec(), target, asked.runtime(), output=out), console.note
    )


def _written(found: TargetList, out: str | None, console: Console) -> dict[str, str]:
    """The picture, where one was asked for and there is one."""
    if out is None:
        return {}
    from cnnviz.io.encode import ImageFormat, encode
    from cnnviz.io.store import Store

    picture = found.picture()
    if picture is None:
        console.note("no picture: the network scores the whole image, so there are no segments")
        return {}
    store, name = Store(out), f"{found.item.ref.name}.targets.png"
    store.write(name, encode(picture, ImageFormat("png")))
    return {"picture": store.path(name)}


def _text(found: TargetList, written: dict[str, str]) -> str:
    rows = found.rows()
    figures = [name for name in _FIGURES if any(name in row for row in rows)]
    boxes = any("box_xywh" in row for row in rows)
    table = [("--target", "class", *figures, *["x,y,w,h"] * boxes)]
    for row in rows:
        box = row.get("box_xywh")
        cells = [_figure(name, row.get(name)) for name in figures]
        table.append((row["target"], row["label"], *cells, *["" if box is None else _by_comma(box)] * boxes))
    first = next((row for row in rows if "box_xywh" in row), rows[0] if rows else {})
    asked = f"cnnviz gradcam {found.item.ref.uri} --target {first.get('target')}"
    notes = [f"Ask for one, with the same options of the model: {asked}"] if rows else []
    if not rows:
        notes = [found.if_nothing]
    notes += [rest] if (rest := found.rest()) else []
    notes += [f"Picture: {name}" for name in written.values()]
    return "\n".join([*aligned(table, right=set(range(2, 2 + len(figures)))), "", *notes])


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "value":
        return f"{value:.4g}"
    return f"{value:.2f}" if name == "logit" else in_percent(value)


def _by_comma(box: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in box)
