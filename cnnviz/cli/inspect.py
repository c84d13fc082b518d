"""``cnnviz layers`` and ``cnnviz models``: what can be looked at, and what can be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnviz.cli import streams
from cnnviz.cli.console import Console
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.merge import merge_command
from cnnviz.cli.options import Option
from cnnviz.cli.serve import serve_command
from cnnviz.cli.shared import Shared, shared_options
from cnnviz.cli.tables import aligned
from cnnviz.cli.targets import targets_command
from cnnviz.cli.values import given_values
from cnnviz.errors import CnnvizError

if TYPE_CHECKING:
    from cnnviz.engine.layer_table import LayerRow
    from cnnviz.models.graph.places import Places
    from cnnviz.models.loading.listing import ModelRow

_SHARED = (
    "model weights checkpoint trust_checkpoint num_classes labels question input_size logits_key task tracing"
).split()
_CONTEXT_NOTE = (
    "* statistics of the whole map enter as well, so that every pixel counts; the field is that of the local path."
)


def layers_command(summary: str) -> MadeCommand:
    """The command ``cnnviz layers``."""
    shared = shared_options()
    options = {
        "name": Option("name", str, "What is looked at, as --model has it.", "Model", metavar="[MODEL]"),
        **{field: shared[field] for field in _SHARED},
        "json_": replace(shared["json_"], help="The list as JSON."),
        "verbose": replace(shared["verbose"], help="Print tracebacks of unexpected errors."),
    }

    def layers(ctx: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, options)
        name = given.pop("name", None)
        if name is not None and given.setdefault("model", name) != name:
            raise CnnvizError(f"Two models are named: {name} and --model {given['model']}.", "Leave one of them out.")
        asked = Shared(**given)
        console.verbose = asked.verbose
        with streams.reserved():
            rows = _rows(asked)
        if asked.json_:
            console.data([row.as_dict() for row in rows])
        else:
            console.text(_layers_text(rows))
        return 0

    return MadeCommand("layers", options.values(), layers, summary)


def _rows(options: Shared) -> list[LayerRow]:
    # Not at the top: they bring torch.
    from cnnviz.engine.layer_table import layer_table
    from cnnviz.models.loading.load import load
    from cnnviz.registry.lookup import read_task

    loaded = load(options.model_spec(), options.logits_key, read_task(options.task))
    size = loaded.preprocess.input_size
    return layer_table(loaded.module, loaded.name, size, loaded.key, options.tracing, loaded.boxes)


def _layers_text(rows: Sequence[LayerRow]) -> str:
    shown = [row for row in rows if row.type != "Identity"]
    grids = any(row.layout for row in shown)
    table = [("layer", "type", "output", *(["places"] * grids), "stride", "receptive field", "from", "parameters", "")]
    for row in shown:
        field = row.receptive_field
        table.append(
            (
                row.name,
                row.type,
                _by(row.output_shape),
                *([_places(row.layout)] * grids),
                _both(row.output_stride),
                "" if field is None else _both(field.size) + ("*" if field.global_context else ""),
                "" if field is None else _both(field.offset),
                f"{row.parameters:,}" if row.parameters else "",
                "<- default target" if row.default_target else "",
            )
        )
    notes = [_CONTEXT_NOTE] if any(r.receptive_field and r.receptive_field.global_context for r in shown) else []
    reasons: dict[str, str] = {}
    for row in shown:
        # A map without a figure; what has no positions needs none.
        if row.no_field and len(row.output_shape) == 3:
            reasons.setdefault(row.no_field, row.name)
    notes += [f"No receptive field from {layer} on: {reason}." for reason, layer in reasons.items()]
    target = next((row for row in rows if row.default_target), None)
    if target is None:
        notes.append(f"No default target: {rows[-1].cam}" if rows else "No layer returned a tensor.")
    else:
        notes.append(f"CAM: yes, at {target.name}." if target.cam is True else str(target.cam))
    return "\n".join([*aligned(table, right={6 + grids}), "", *notes])


def _places(layout: Places | None) -> str:
    """Where the image's places are in a tensor: its layout and grid, and how many tokens stand beside the patches."""
    if layout is None:
        return ""
    others = layout.before + layout.after
    return f"{layout.layout} {_by(layout.grid)}" + (f" + {others}" if others else "")


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _both(pair: Sequence[int] | None) -> str:
    """One number where the vertical and the horizontal one are the same."""
    if pair is None:
        return ""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]},{pair[1]}"


def models_command(summary: str) -> MadeCommand:
    """The command ``cnnviz models``."""
    pattern, here = "A part of the name, or a pattern: 'timm/*next*'.", "Only those whose weights are on this machine."
    options = {
        "pattern": Option("pattern", str, pattern, "Input", metavar="[PATTERN]"),
        "here": Option("here", bool, here, "Options", default=False, flags=("--here",)),
        "json_": Option("json_", bool, "The list as JSON.", "Options", default=False, flags=("--json",)),
    }

    def models(ctx: Any) -> int:
        # Not at the top: it brings torch.
        from cnnviz.models.loading.listing import listed

        console: Console = ctx.obj
        given = given_values(ctx, options)
        rows = [row for row in listed(given.get("pattern")) if row.file is not None or "here" not in given]
        if "json_" in given:
            console.data([row.as_dict() for row in rows])
        else:
            console.text(_models_text(rows))
        return 0

    return MadeCommand("models", options.values(), models, summary)


def _models_text(rows: Sequence[ModelRow]) -> str:
    table = [("model", "weights", "here", "from")]
    for row in rows:
        weights = "none" if row.weights is None else row.weights + (" (default)" if row.default else "")
        table.append((row.name, weights, "yes" if row.file else "", row.origin or ""))
    here = sum(row.file is not None for row in rows)
    return "\n".join([*aligned(table, right=set()), "", f"{len(rows)} listed, the weights of {here} are here."])


COMMANDS: Mapping[str, Callable[[str], MadeCommand]] = {
    "targets": targets_command,
    "layers": layers_command,
    "models": models_command,
    "merge": merge_command,
    "serve": serve_command,
}
