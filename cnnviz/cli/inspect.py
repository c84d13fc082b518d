"""``cnnviz layers`` and ``cnnviz models``: what can be looked at, and what can be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnviz.cli import streams
from cnnviz.cli.commands import given_values, sign
from cnnviz.cli.console import Console
from cnnviz.cli.options import Shared, shared_annotations
from cnnviz.errors import CnnvizError

if TYPE_CHECKING:
    from cnnviz.engine.layer_table import LayerRow
    from cnnviz.models.loading.listing import ModelRow

_SHARED = "model weights checkpoint trust_checkpoint num_classes input_size logits_key tracing".split()
_CONTEXT_NOTE = (
    "* statistics of the whole map enter as well, so that every pixel counts; the field is that of the local path."
)


def layers_command(summary: str) -> Callable[..., int]:
    """The function behind ``cnnviz layers``."""
    argument = typer.Argument(
        metavar="[MODEL]", help="What is looked at, as --model has it.", show_default=False, rich_help_panel="Model"
    )
    as_json = typer.Option("--json", help="The list as JSON.", rich_help_panel="Output")
    verbose = typer.Option("--verbose", "-v", help="Print tracebacks of errors.", rich_help_panel="Output")
    shared = shared_annotations()
    annotations = {
        "name": Annotated[str | None, argument],
        **{field: shared[field] for field in _SHARED},
        "json_": Annotated[bool, as_json],
        "verbose": Annotated[bool, verbose],
    }

    def layers(ctx: typer.Context, **values: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, values, annotations)
        name = given.pop("name", None)
        if name is not None and given.setdefault("model", name) != name:
            raise CnnvizError(f"Two models are named: {name} and --model {given['model']}.", "Leave one of them out.")
        options = Shared(**{key: value for key, value in given.items() if key in shared})
        console.verbose = options.verbose
        with streams.reserved():
            rows = _rows(options)
        if options.json_:
            console.data([row.as_dict() for row in rows])
        else:
            console.text(_layers_text(rows))
        return 0

    sign(layers, annotations)
    layers.__doc__ = summary
    return layers


def _rows(options: Shared) -> list[LayerRow]:
    # Not at the top: they bring torch.
    from cnnviz.engine.layer_table import layer_table
    from cnnviz.models.loading.load import load

    loaded = load(options.model_spec())
    return layer_table(loaded.module, loaded.name, loaded.preprocess.input_size, options.logits_key, options.tracing)


def _layers_text(rows: Sequence[LayerRow]) -> str:
    shown = [row for row in rows if row.type != "Identity"]
    table = [("layer", "type", "output", "stride", "receptive field", "from", "parameters", "")]
    for row in shown:
        field = row.receptive_field
        table.append(
            (
                row.name,
                row.type,
                _by(row.output_shape),
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
    return "\n".join([*_aligned(table, right={6}), "", *notes])


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _both(pair: Sequence[int] | None) -> str:
    """One number where the vertical and the horizontal one are the same."""
    if pair is None:
        return ""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]},{pair[1]}"


def _aligned(table: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def models_command(summary: str) -> Callable[..., int]:
    """The function behind ``cnnviz models``."""

    def models(
        ctx: typer.Context,
        pattern: Annotated[
            str | None,
            typer.Argument(
                metavar="[PATTERN]", help="A part of the name, or a pattern: 'timm/*next*'.", show_default=False
            ),
        ] = None,
        here: Annotated[bool, typer.Option("--here", help="Only those whose weights are on this machine.")] = False,
        json_: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False,
    ) -> int:
        # Not at the top: it brings torch.
        from cnnviz.models.loading.listing import listed

        console: Console = ctx.obj
        rows = [row for row in listed(pattern) if row.file is not None or not here]
        if json_:
            console.data([row.as_dict() for row in rows])
        else:
            console.text(_models_text(rows))
        return 0

    models.__doc__ = summary
    return models


def _models_text(rows: Sequence[ModelRow]) -> str:
    table = [("model", "weights", "here", "from")]
    for row in rows:
        weights = "none" if row.weights is None else row.weights + (" (default)" if row.default else "")
        table.append((row.name, weights, "yes" if row.file else "", row.origin or ""))
    here = sum(row.file is not None for row in rows)
    return "\n".join([*_aligned(table, right=set()), "", f"{len(rows)} listed, the weights of {here} are here."])


COMMANDS: Mapping[str, Callable[[str], Callable[..., int]]] = {"layers": layers_command, "models": models_command}
