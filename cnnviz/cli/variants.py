"""What the help and the errors of a command say about its variants: methods that share one command."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cnnviz.cli.values import long_name
from cnnviz.errors import CnnvizError, nearest
from cnnviz.registry import lookup
from cnnviz.registry.other_names import folded
from cnnviz.registry.specs import CommandSpec, Param


def named_variant(specs: tuple[CommandSpec, ...], name: str | None) -> CommandSpec:
    """The method that ``--variant`` names.

    Raises:
        CnnvizError: No variant of this command has that name.
    """
    by_name = {spec.name: spec for spec in specs}
    if name is None:
        return lookup.default_variant(specs)
    if name not in by_name:
        if (spec := of_another(name)) is not None:
            raise CnnvizError(f"--variant {name}: this is not of cnnviz {specs[0].command}.", call_of(spec))
        hint = called_here(name) or nearest(name, by_name) or f"See cnnviz {specs[0].command} --help"
        raise CnnvizError(f"--variant {name}: expected one of {', '.join(by_name)}.", hint)
    return by_name[name]


def of_another(name: str) -> CommandSpec | None:
    """The method of that name, of whatever command; None where there is none."""
    return next((spec for spec in lookup.all_methods() if spec.name == name), None)


def call_of(spec: CommandSpec) -> str:
    """How a method is called, where the name of another command was typed."""
    specs = lookup.commands()[spec.command]
    alone = len(specs) == 1
    if not alone and spec == lookup.default_variant(specs):
        return f"Type cnnviz {spec.command}."
    call = f"cnnviz {spec.command}" + ("" if alone else f" --variant {spec.name}")
    return f"Type {call}; {spec.name} is {'a command of its own' if alone else f'a variant of {spec.command}'}."


def called_here(name: str) -> str:
    """What to type for a method, a study or a metric that is no command of that name; empty where there is none."""
    other = lookup.called_here(name)
    if other is None:
        metrics = {folded(each): spec.name for spec in lookup.all_metrics() for each in (spec.name, *spec.aliases)}
        metric = metrics.get(folded(name))
        return "" if metric is None else f"It is a metric: cnnviz evaluate photos/ --metric {metric}"
    spec = lookup.find_entry(other.entry)
    flags = [
        f"--{long_name(option)}" if value == "true" else f"--{long_name(option)} {value}"
        for option, value in other.options.items()
    ]
    default = spec == lookup.default_variant(lookup.commands()[spec.command])
    call = " ".join(["cnnviz", spec.command, *([] if default else ["--variant", spec.name]), *flags])
    if folded(name) != folded(other.entry):
        return f"Here that is {call}"
    return f"Type {call}" if default else f"It is a variant: {call}"


def variant_for_help(specs: tuple[CommandSpec, ...], arguments: Sequence[str]) -> tuple[CommandSpec, ...]:
    """The entries that a help page describes: all of the command, or the one that ``--variant`` names beside it."""
    if not {"-h", "--help"} & set(arguments):
        return specs
    for index, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--variant":
            name = value if equals else next(iter(arguments[index + 1 :]), "")
            return (named_variant(specs, name),) if name not in {"", "-h", "--help"} else specs
    return specs


def page_of(spec: CommandSpec) -> str:
    """The help text of one variant: what it shows, its formula, its paper, and how to call it."""
    lines = [spec.summary, "", f"{spec.title}. {spec.paper}."]
    formula = formula_of(spec)
    if formula:
        # \b keeps click from filling the block as prose.
        lines += ["", "\b", *(f"  {line}" for line in formula)]
    call = f"cnnviz {spec.command}" + ("" if spec.name == spec.command else f" --variant {spec.name}")
    examples = [f"{call} photos/", f"{call} cat.jpg --class top:2 --save panel"]
    option = next((param for param in spec.params if param.type in {"int", "float", "choice"}), None)
    if option is not None:
        value = option.choices[-1] if option.choices else option.default
        examples[1] = f"{call} cat.jpg --{long_name(option.name)} {value} --save panel"
    return "\n".join([*lines, "", "\b", "Examples:", *(f"  {example}" for example in examples)])


def formula_of(spec: CommandSpec) -> list[str]:
    """The formula in the docstring of the method's function, or its lines in that of the module. Imports nothing."""
    module, _, function = spec.entry.partition(":")
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return []
    tree = ast.parse(Path(found.origin).read_text("utf-8"))
    body = next((node for node in tree.body if getattr(node, "name", None) == function), None)
    own = ast.get_docstring(body) if isinstance(body, (ast.FunctionDef, ast.ClassDef)) else None
    lines = list(_indented((own or "").partition("\nArgs:")[0]))
    if lines:
        return lines
    whole = list(_indented(ast.get_docstring(tree) or ""))
    mine = [line for line in whole if line.startswith(f"{spec.title} ")]
    return mine or whole


def _indented(text: str) -> Iterator[str]:
    block = [line for line in text.split("\n") if line.startswith("    ") and line.strip()]
    yield from inspect.cleandoc("\n".join(["", *block])).split("\n") if block else []


def option_help(name: str, specs: tuple[CommandSpec, ...]) -> str:
    """Help of an option of the methods: one text where all that take it agree, otherwise each variant's own.

    Which variants take it is said wherever not all do.
    """
    takers = [(spec, param) for spec in specs for param in spec.params if param.name == name]
    texts: dict[str, list[str]] = {}
    for spec, param in takers:
        texts.setdefault(described(param), []).append(spec.name)
    if len(takers) == len(specs) and len(texts) == 1:
        return next(iter(texts))
    return " ".join(f"{', '.join(names)}: {text}" for text, names in texts.items())


def described(param: Param) -> str:
    """Help, range, unit and default of an option."""
    low, high = param.minimum, param.maximum
    unit = f" {param.unit}" if param.unit else ""
    words = [param.help.rstrip(".") + ("" if param.help.endswith("]") else ".")]
    if low is not None and high is not None:
        words.append(f"{low:g} to {high:g}{unit}.")
    elif low is not None or high is not None:
        words.append(f"{low:g} or more{unit}." if low is not None else f"{high:g} or less{unit}.")
    elif unit:
        words.append(f"In{unit}.")
    if param.default is not None and param.default is not False and param.default != ():
        shown = ",".join(param.default) if param.type == "texts" else param.default
        words.append(f"[default: {shown}]")
    return " ".join(words)


_MODEL_FLAGS = ("-m", "--model")
_CLASS_FLAGS = ("-c", "--class")
_ASKED = ("class_", "target_")
_PRINTS = ("layers", "models", "methods", "metrics", "schema")
# Why a command has no use for options that most others have.
_REASONS = {
    "layers": "the list of layers does not depend on it",
    "targets": "what can be asked does not depend on it",
    "models": "it lists names, and loads no network",
    "serve": "it is chosen on the page, where there is a choice",
    "merge": "the runs that it joins were made with theirs",
    "report": "the runs that it shows were made with theirs",
    "methods": "it loads no network",
    "metrics": "it loads no network",
    "schema": "it loads no network",
}


def refuse_foreign_options(spec: CommandSpec, specs: tuple[CommandSpec, ...], names: Iterable[str]) -> None:
    """Refuse options that only other variants of the command take.

    Raises:
        CnnvizError: Says which variants take it.
    """
    mine = {param.name for param in spec.params}
    for name in names:
        if name in mine:
            continue
        takers = [each.name for each in specs if any(param.name == name for param in each.params)]
        flag = f"--{long_name(name)}"
        raise CnnvizError(
            f"{flag} is an option of {_listed(takers)}, not of {spec.name}.",
            f"Add --variant {takers[0]}, or leave {flag} out.",
        )


def no_variants(path: str, arguments: Sequence[str]) -> tuple[str, str] | None:
    """Message and hint for ``--variant NAME`` of a command that has none; None where no method is called so."""
    words = " ".join(arguments).replace("--variant=", "--variant ").split()
    name = next((after for before, after in itertools.pairwise(words) if before == "--variant"), "")
    spec = of_another(name)
    return None if spec is None else (f"--variant {name}: {path} has no variants.", call_of(spec))


def elsewhere(flag: str, path: str, flags: Iterable[str]) -> str:
    """A hint for an option that a command does not have: why it has none or what to type instead where most commands
    have it, commands that have it, or near matches among its ``flags``.

    ``path`` is the command as it is typed, such as ``cnnviz cam``.
    """
    if flag in _MODEL_FLAGS and "--arch" in flags:
        return f"The network is named by --arch here. See {path} --help"
    if flag in _CLASS_FLAGS and "--of" in flags:
        return f"The class is named by --of here. See {path} --help"
    if why := _of_others(flag, path.split()[-1], flags):
        return f"{why} See {path} --help"
    wanted = flag.lstrip("-")
    takers = [
        f"cnnviz {name}"
        for name, specs in lookup.commands().items()
        if any(long_name(param.name) == wanted for spec in specs for param in spec.params)
    ]
    if takers:
        return f"{flag} is an option of {_listed(takers)}. See {path} --help"
    return nearest(flag, [each for each in flags if each.startswith("--")], ignore="-")


def _of_others(flag: str, command: str, flags: Iterable[str]) -> str:
    """What to do without an option that most commands have and this one does not; empty of any other option."""
    # Not at the top: --help of the list of commands need not wait for the options of all.
    from cnnviz.cli.shared import shared_options

    name = next((name for name, option in shared_options().items() if flag in option.flags), "")
    if not name:
        return ""
    if name == "out" and command in _PRINTS:
        return f"It prints what it finds; for a file: cnnviz {command} > FILE."
    if name == "resume" and "--overwrite" in flags:
        return f"cnnviz {command} cannot go on with a run; --overwrite begins anew in the folder."
    if name in _ASKED and command == "targets":
        return f"It lists all that can be asked; cnnviz gradcam IMAGE {flag} explains one of them."
    if name in ("metric", "sanity") and command not in _REASONS:
        return f"Leave {flag} out: cnnviz evaluate measures maps."
    reason = _REASONS.get(command, f"cnnviz gradcam and other commands have it, {command} has no use for it")
    return f"Leave {flag} out: {reason}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
