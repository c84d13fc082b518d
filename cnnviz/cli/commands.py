"""Commands that map or study images, made of the register's entries: a new entry needs no change here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnviz.cli import streams
from cnnviz.cli.audit_policy import with_policy
from cnnviz.cli.console import Console, refuse_terminal
from cnnviz.cli.help_pages import MadeCommand
from cnnviz.cli.info import help_of
from cnnviz.cli.options import Option
from cnnviz.cli.places import executor_parts, output_of, share_of
from cnnviz.cli.shared import Shared, shared_options
from cnnviz.cli.values import from_config, given_values, long_name, told_of_files
from cnnviz.cli.variants import named_variant, option_help, page_of, refuse_foreign_options
from cnnviz.errors import EXIT_DONE, CnnvizError
from cnnviz.io.config_file import read_config
from cnnviz.io.freed_memory import keep_freed_memory
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, MethodSpec, Param, StudySpec
from cnnviz.settings import RunSettings

if TYPE_CHECKING:
    from cnnviz.run.counting import RunResult

Specs = tuple[CommandSpec, ...]

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool}
_METAVARS = {
    "int": "N", "float": "X", "size": "N|H,W", "text": "TEXT", "texts": "TEXT", "file": "FILE", "class": "CLASS",
}  # fmt: skip


def command_of(name: str, specs: Specs) -> MadeCommand:
    """The command ``cnnviz NAME``.

    ``specs`` are all variants, or for a help page the one that it describes.
    """
    shared = _shared(specs[0])
    options = {**shared, **_own(specs, shared)}
    # A command of several methods says what its default does; one method alone has a page of its own.
    text = page_of(specs[0]) if len(specs) == 1 and isinstance(specs[0], MethodSpec) else help_of(specs)
    return MadeCommand(name, options.values(), lambda ctx: _run(ctx, specs, options), text)


def _run(ctx: Any, specs: Specs, options: Mapping[str, Option]) -> int:
    console: Console = ctx.obj
    given, places = _with_config(given_values(ctx, options), options)
    hints: Mapping[str, str] = {}
    if specs[0].takes() == "policy":
        found = with_policy(given, options)
        if isinstance(found, str):
            console.note(found)
            return EXIT_DONE
        given, places, hints = found.values, {**places, **found.places}, found.hints
    # A study may have an option of its own by the name of a shared one that it hides (embed's --metric).
    common = _shared(specs[0])
    with told_of_files(places, hints):
        shared = Shared(**{key: value for key, value in given.items() if key in common})
        if specs[0].takes() == "images":
            shared.require_inputs(specs[0].command)
        console.quiet, console.verbose, console.json = shared.quiet, shared.verbose, shared.json_
        console.resumes = "resume" in options
        spec = named_variant(specs, given.get("variant"))
        run_settings = _settings(spec, shared, given)
    console.out = run_settings.output.out
    if run_settings.shard is not None:
        told = share_of(shared)[1]
        console.note(f"share {run_settings.shard} of the inputs" + (f", by {told}" if told else ""))
    if shared.out == "-":
        refuse_terminal()
    if shared.json_:
        streams.require_output("The summary of --json")
    # Not at the top: they bring NumPy and torch, for which --help must not wait.
    from cnnviz.run import preflight

    with told_of_files(places, hints):
        preflight.check(run_settings, spec)
    with streams.reserved(), told_of_files(places, hints):
        result = _result(run_settings, spec, console, executor_parts(shared))
    return console.outcome(result)


def _result(settings: RunSettings, spec: CommandSpec, console: Console, parts: int | None) -> RunResult:
    """What comes of the run, on a cluster where it has ``parts``; where the cache has all of it, nothing is run."""
    if parts is not None:
        console.starting("starting: Ray")
        from cnnviz.on_ray import run as run_on_ray

        return run_on_ray(settings, parts, console)
    from cnnviz.run.repeat import Repeat

    repeat = Repeat(settings, spec)
    if (known := repeat.recalled(console)) is not None:
        return known
    console.starting(f"starting: PyTorch, then {settings.model.model}")
    keep_freed_memory()
    from cnnviz.pipeline import run

    result = run(settings, console, sys.stdin.buffer if "-" in settings.inputs else None)
    return repeat.keep(result)


def _shared(spec: CommandSpec) -> dict[str, Option]:
    """The shared options of a command, in its own words where it has some."""
    found = {name: option for name, option in shared_options().items() if name not in spec.unavailable_options()}
    if not spec.takes_shares():
        found.pop("shard", None)
    if isinstance(spec, StudySpec) or not spec.takes_shares():
        found.pop("executor", None)
    if "save" in found:
        save = found["save"]
        found["save"] = replace(save, help=save.help.format(",".join(spec.default_save)))
    for name, text in spec.help_overrides.items():
        found[name] = replace(found[name], help=text)
    if spec.takes() == "policy":
        text = "The policy, a YAML file; images after it stand in the place of those that it names."
        found["inputs"] = replace(found["inputs"], help=text, metavar="POLICY [INPUT...]")
    if spec.takes() == "optional":
        text = "Images to start from; from noise when there are none."
        found["inputs"] = replace(found["inputs"], help=text, metavar="[INPUT...]")
    return found


def _own(specs: Specs, shared: Mapping[str, Option]) -> dict[str, Option]:
    """Options of the methods: the union of their parameters, and ``--variant`` where there is a choice."""
    own: dict[str, Option] = {}
    every = lookup.commands()[specs[0].command]
    panel = f"Options of {specs[0].command if len(specs) == len(every) else specs[0].name}"
    if len(every) > 1:
        names, default = ", ".join(spec.name for spec in every), lookup.default_variant(every).name
        text = f"{names}. [default: {default}] --variant NAME --help shows one alone."
        own["variant"] = Option("variant", str, text, panel, metavar="NAME", flags=("--variant",))
    for name in dict.fromkeys(param.attribute for spec in specs for param in spec.params):
        if name not in shared:
            own[name] = _own_option(name, specs, panel)
    return own


def _own_option(name: str, specs: Specs, panel: str) -> Option:
    """One option for all variants that take it, whatever types and choices each has."""
    takers = [param for spec in specs for param in spec.params if param.attribute == name]
    first = takers[0]
    flag = f"--{long_name(name)}"
    if any(param.type == "bool" and param.default for param in takers):
        flag += f"/--no-{long_name(name)}"
    choices = dict.fromkeys(choice for param in takers for choice in param.choices)
    metavar = first.metavar or "|".join(choices) or _METAVARS.get(first.type)
    text = option_help(first.name, specs)
    return Option(name, _kind(takers), text, panel, metavar=metavar, flags=(flag,), many=first.type == "texts")


def _kind(takers: list[Param]) -> type:
    kinds = {_TYPES.get(param.type, str) for param in takers}
    if len(kinds) == 1:
        return kinds.pop()
    return float if kinds == {int, float} else str


def _with_config(said: Mapping[str, Any], options: Mapping[str, Option]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the command line says over what its configuration file says, and where options of the file stand."""
    path = said.get("config")
    data = read_config(path) if path else {}
    filed = from_config(data, options, lambda key: f"--config {path}")
    if "view" in said:  # the command line wins, also over the other word for the same thing
        filed.pop("no_crop", None)
    elif said.get("no_crop"):
        filed.pop("view", None)
    keys = {key.replace("_", "-"): key for key in data}
    places = {name: f"--config {path}: {keys[long_name(name)]}" for name in filed if name not in said}
    return {**filed, **said}, places


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
        if long_name(key) in names and (names[long_name(key)] in mine or key not in shared_options())
    }
    refuse_foreign_options(spec, lookup.commands()[spec.command], chosen)
    _check(spec, chosen)
    params = spec.resolve_params(chosen).to_dict()
    model, shard = shared.model_spec(), share_of(shared)[0]
    return RunSettings(
        command=spec.command,
        inputs=tuple(shared.inputs or ()),
        model=replace(model, model=params[spec.model_option]) if spec.model_option else model,
        target=replace(shared.target(spec, params), method_named="variant" in given),
        runtime=shared.runtime(),
        draw=shared.draw(spec),
        output=output_of(shared, spec, shard),
        limit=shared.limit,
        null=shared.null,
        exclude=shared.exclude,
        shard=None if shard is None else str(shard),
    )
