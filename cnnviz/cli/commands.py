"""Commands that map or study images, generated from the register: a new entry needs no change here."""

from __future__ import annotations

import inspect
import keyword
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cnnviz.cli import streams
from cnnviz.cli.console import Console, refuse_terminal
from cnnviz.cli.info import help_of
from cnnviz.cli.options import Shared, reworded, shared_annotations
from cnnviz.cli.values import flag_type, from_config, long_name, number
from cnnviz.cli.variants import named_variant, option_help, page_of, refuse_foreign_options
from cnnviz.errors import CnnvizError
from cnnviz.io.config_file import read_config
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, Param
from cnnviz.settings import RunSettings

_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "texts": list[str]}
_METAVARS = {"int": "N", "float": "X", "size": "N|H,W", "text": "TEXT", "texts": "TEXT", "file": "FILE"}


def command_of(name: str, specs: tuple[CommandSpec, ...]) -> Callable[..., int]:
    """The function behind ``cnnviz NAME``, with a signature from which Typer makes the flags.

    ``specs`` are all variants, or for a help page the one that it describes.
    """
    common = _common(specs[0])
    annotations = {**common, **_own_annotations(specs, common)}

    def command(ctx: typer.Context, **values: Any) -> int:
        console: Console = ctx.obj
        given = given_values(ctx, values, annotations)
        shared = Shared(**{key: given[key] for key in common if key in given})
        if specs[0].takes() == "images":
            shared.require_inputs(name)
        console.quiet, console.verbose, console.json = shared.quiet, shared.verbose, shared.json_
        console.resumes = "resume" in common
        spec = named_variant(specs, given.get("variant"))
        run_settings = _settings(spec, shared, given)
        if shared.out == "-":
            refuse_terminal()
        if shared.json_:
            streams.require_output("The summary of --json")
        # Not at the top: they bring NumPy and torch, for which --help must not wait.
        from cnnviz.run import preflight

        preflight.check(run_settings, spec)
        console.starting(f"starting: PyTorch, then {shared.model}")
        with streams.reserved():
            from cnnviz.pipeline import run

            stdin = sys.stdin.buffer if "-" in run_settings.inputs else None
            result = run(run_settings, console, stdin)
        return console.outcome(result)

    sign(command, annotations)
    command.__name__ = name
    command.__doc__ = help_of(specs) if len(specs) == len(lookup.commands()[name]) else page_of(specs[0])
    return command


def _common(spec: CommandSpec) -> dict[str, Any]:
    """The shared options of a command, in its own words where it has some."""
    common = {name: option for name, option in shared_annotations().items() if name not in spec.unavailable_options()}
    own = {name: reworded(common[name], text) for name, text in spec.help_overrides.items()}
    if spec.takes() == "optional":
        text = "Images to start from; from noise when there are none."
        own["inputs"] = reworded(common["inputs"], text, "[INPUT...]")
    return {**common, **own}


def sign(command: Callable[..., int], annotations: Mapping[str, Any]) -> None:
    """Give a function the signature from which Typer makes these options."""
    defaults = {field: parameter.default for field, parameter in inspect.signature(Shared).parameters.items()}
    kind = inspect.Parameter.KEYWORD_ONLY
    flags = {name: flag_type(annotation) for name, annotation in annotations.items()}
    parameters = [inspect.Parameter("ctx", kind, annotation=typer.Context)]
    for name, annotation in flags.items():
        default = defaults.get(name)
        shown = str(default) if type(default) in (int, float) else default
        parameters.append(inspect.Parameter(name, kind, annotation=annotation, default=shown))
    command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {"ctx": typer.Context, **flags, "return": int}


def _own_annotations(specs: tuple[CommandSpec, ...], common: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the methods: the union of their parameters, and ``--variant`` where there is a choice."""
    panel = f"Options of {specs[0].command}"
    own: dict[str, Any] = {}
    every = lookup.commands()[specs[0].command]
    if len(every) > 1:
        names = ", ".join(spec.name for spec in every)
        option = typer.Option(
            "--variant",
            metavar="NAME",
            help=f"{names}. [default: {lookup.default_variant(every).name}] --variant NAME --help shows one alone.",
            rich_help_panel=panel,
        )
        own["variant"] = Annotated[str | None, option]
    for spec in specs:
        for param in spec.params:
            name = f"{param.name}_" if keyword.iskeyword(param.name) else param.name
            if name not in common:
                own.setdefault(name, _own_option(param, option_help(param.name, specs), panel))
    return own


def _own_option(param: Param, text: str, panel: str) -> Any:
    flag = f"--{long_name(param.name)}"
    if param.type == "bool" and param.default:
        flag += f"/--no-{long_name(param.name)}"
    kind: Any = _TYPES.get(param.type, str)
    metavar = "|".join(param.choices) or _METAVARS.get(param.type)
    option = typer.Option(flag, metavar=metavar, help=text, rich_help_panel=panel, show_default=False)
    return Annotated[kind | None, option]


def given_values(ctx: typer.Context, values: Mapping[str, Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says, over what the configuration file says; defaults left out."""
    said = {}
    for name, value in values.items():
        source = ctx.get_parameter_source(name)
        # By name: the type lives in click, or in Typer's own copy of it.
        if value is not None and source is not None and source.name == "COMMANDLINE":
            said[name] = number(value, annotations[name], name)
    path = said.get("config")
    filed = from_config(read_config(path), annotations, path) if path else {}
    if "view" in said:  # the command line wins, also over the other word for the same thing
        filed.pop("no_crop", None)
    elif said.get("no_crop"):
        filed.pop("view", None)
    return {**filed, **said}


def _check(spec: CommandSpec, chosen: Mapping[str, Any]) -> None:
    """Refuses wrong values as they stand on a command line: ``--masks 0``, where Python has ``masks=0``."""
    known = {param.name: param for param in spec.params}
    for name, value in chosen.items():
        try:
            if name in known:
                known[name].check(value)
        except CnnvizError as error:
            said = error.message.replace(f"{name}={value!r}", f"--{long_name(name)} {value}", 1)
            raise CnnvizError(said, error.hint) from None


def _settings(spec: CommandSpec, shared: Shared, given: Mapping[str, Any]) -> RunSettings:
    names = {long_name(param.name): param.name for each in lookup.commands()[spec.command] for param in each.params}
    mine = {param.name for param in spec.params}
    chosen = {
        names[long_name(key)]: value
        for key, value in given.items()
        if long_name(key) in names and (names[long_name(key)] in mine or key not in shared_annotations())
    }
    refuse_foreign_options(spec, lookup.commands()[spec.command], chosen)
    _check(spec, chosen)
    return RunSettings(
        command=spec.command,
        inputs=tuple(shared.inputs or ()),
        model=shared.model_spec(),
        target=shared.target(spec.name, spec.resolve_params(chosen).to_dict()),
        runtime=shared.runtime(),
        draw=shared.draw(),
        output=shared.output_settings(spec.command),
        limit=shared.limit,
        null=shared.null,
    )
