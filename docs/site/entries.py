"""What the register says of a method, metric, check, study or command, put into its page as the site is built.

The page itself (``docs/methods/gradcam.md`` …) has what only people can say: formula, pitfalls, where other tools
differ. An entry without such a page, or a page without one of its headings, is a warning, and so fails the build.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sphinx.util import logging

from cnnviz.cli import shared
from cnnviz.cli.options import options_of
from cnnviz.registry import lookup
from cnnviz.registry.checks import CheckSpec
from cnnviz.registry.metric_specs import MetricSpec
from cnnviz.registry.params import Param
from cnnviz.registry.specs import CommandSpec, EntrySpec, MethodSpec

logger = logging.getLogger(__name__)
DOCS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Kind:
    """A folder of pages.

    Attributes:
        specs: Its entries.
        headings: What every page has.
        table: The rows that the register gives of an entry.
    """

    specs: Sequence[Any]
    headings: tuple[str, ...]
    table: Callable[[Any], Iterable[tuple[str, str]]]


def slug(name: str) -> str:
    """The page's name."""
    return name.replace("++", "-plus-plus").replace("_", "-")


def page_of(folder: str, spec: EntrySpec) -> Path:
    """The page's path."""
    return DOCS / folder / f"{slug(spec.name)}.md"


def _shared_command(spec: CommandSpec) -> bool:
    return len(lookup.commands().get(spec.command, ())) > 1 and spec.name != spec.command


def call(spec: CommandSpec) -> str:
    """How it is typed."""
    return f"cnnviz {spec.command}" + (f" --variant {spec.name}" if _shared_command(spec) else "")


def _returns(spec: EntrySpec) -> str:
    """The paragraph ``Returns`` of the function's docstring."""
    module, _, name = spec.entry.partition(":")
    text = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    found = re.search(r"^Returns:\n((?:    .*\n?)+)", text, re.M)
    words = " ".join(found[1].split()) if found else ""
    words = re.sub(r":(?:func|class|attr|mod):`~?([^`]+)`", r"`\1`", words).replace("``", "`")
    return re.sub(r"\[([A-Z][^\]`]*)\]", r"`[\1]`", words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _methods(spec: MethodSpec) -> Iterable[tuple[str, str]]:
    needs = {
        "gap-head": "global pooling and one linear layer at the end",
        "trace": "a network that can be traced",
        "boxes": "a detector",
        "attention": "attention between all tokens of a grid",
        "layer": "a layer with maps",
    }
    yield "command", f"`{call(spec)}`"
    yield "Python", f'`cnnviz.explain(model, batch, method="{spec.name}")`'
    yield "paper", spec.paper
    yield "passes of an image and target", f"{spec.forward} forward, {spec.backward} backward"
    yield "what is stored", _returns(spec)
    yield "values below zero", "speak against the class" if spec.signed else "none"
    yield "depends on the class", "yes" if spec.class_specific else "no: the map is the same for every class"
    if spec.needs:
        yield "needs", ", ".join(needs.get(need, need) for need in spec.needs)
    if spec.several_layers:
        yield "several layers", "fused into one map where `--layer` is given more than once"
    if spec.gap:
        yield "where values do not add up", spec.gap
    if spec.caveat:
        yield "to know", spec.caveat
    yield from _installs(spec)


def _installs(spec: CommandSpec) -> Iterable[tuple[str, str]]:
    for package in spec.packages:
        when = f" for `--{package.option[0]}`" if package.option else ""
        yield "installation", f"`pip install 'cnnviz[{package.extra}]'`{when} ({package.name})"


def _metrics(spec: MetricSpec) -> Iterable[tuple[str, str]]:
    yield "command", f"`--metric {spec.name}` of every command that makes maps"
    yield "paper", spec.paper
    truth = {"nothing": "nothing", "boxes": "`--truth` with boxes", "masks": "`--truth` with masks"}
    yield "needs", truth.get(spec.truth, "labels (`--class folder`)")
    looks = {
        "map": "the map alone", "map and truth": "the map and where the object is", "model": "the map, and the network "
        "on changed images", "mosaics": "maps of mosaics of four images", "figures": "figures that the method states",
    }  # fmt: skip
    yield "looks at", looks[spec.measures]
    yield "better", spec.direction if spec.direction != "neither" else "neither: it describes"
    if spec.baselines:
        yield "measured beside", ", ".join(name.replace("_", " ") for name in spec.baselines)


def _checks(spec: CheckSpec) -> Iterable[tuple[str, str]]:
    yield "in a policy", f"`- {{kind: {spec.name}}}`"
    yield "paper", spec.paper
    yield "needs", spec.needs
    yield "looks at maps", "yes" if spec.of_maps else "no"
    if spec.establishes_trust:
        yield "trust", "a method that fails it is not trusted on this model, and its maps decide nothing"


def _studies(spec: CommandSpec) -> Iterable[tuple[str, str]]:
    yield "command", f"`{call(spec)}`"
    yield "paper", spec.paper
    takes = {"images": "images", "optional": "images, or nothing", "none": "nothing", "policy": "a policy, and images"}
    yield "takes", takes[spec.takes()]
    if spec.caveat:
        yield "to know", spec.caveat
    yield from _installs(spec)


# Where the start page takes up what nobody named there.
FURTHER, EXAMPLES = "<!-- further guides -->", "<!-- further examples -->"
_DIFFER = "Where other tools differ"
KINDS: dict[str, Kind] = {
    "methods": Kind(lookup.BUILT_IN, ("Formula", "Pitfalls", _DIFFER), _methods),
    "metrics": Kind(lookup.METRICS, ("Formula", "Cost", "Pitfalls", _DIFFER), _metrics),
    "checks": Kind(lookup.CHECKS, ("What is measured", "Cost", "Pitfalls", _DIFFER), _checks),
    "studies": Kind(lookup.STUDIES, ("How it works", "Cost", "Pitfalls", _DIFFER), _studies),
    "commands": Kind((*lookup.COMPARISONS, *lookup.TRAINING), ("How it works", "Cost", "Pitfalls"), _studies),
}


def unregistered(docs: Path) -> list[str]:
    """Pages whose entry is not registered, as patterns of Sphinx."""
    known = {page_of(folder, spec) for folder, kind in KINDS.items() for spec in kind.specs}
    pages = {page for folder in KINDS for page in (docs / folder).glob("*.md") if page.name not in _GENERAL}
    return sorted(page.relative_to(docs).as_posix() for page in pages - known)


_GENERAL = ("index.md", "options.md")


def missing(folder: str) -> list[str]:
    """What pages of a kind lack, in sentences."""
    problems = []
    for spec in KINDS[folder].specs:
        page = page_of(folder, spec)
        if not page.exists():
            problems.append(f"{spec.kind} {spec.name} has no page docs/{folder}/{page.name}")
            continue
        text = page.read_text(encoding="utf-8")
        if not text.startswith(f"# {spec.title}\n"):
            problems.append(f"docs/{folder}/{page.name} does not begin with '# {spec.title}'")
        for heading in KINDS[folder].headings:
            if not re.search(rf"^## {heading}\n\n\S", text, re.M):
                problems.append(f"docs/{folder}/{page.name} has no text under '## {heading}'")
    return problems


def _range(param: Param) -> str:
    if param.choices:
        return " or ".join(f"`{choice}`" for choice in param.choices)
    words = {"bool": "yes or no", "int": "whole number", "float": "number", "size": "number, or height and width"}
    words["texts"] = "word"
    kind = {"PATH": "path", "DIR": "folder"}.get(param.metavar) or words.get(param.type, param.type)
    kind += ", repeatable" * (param.type == "texts")
    low, high = param.minimum, param.maximum
    if low is not None and high is not None:
        kind += f", {low:g} to {high:g}"
    elif low is not None or high is not None:
        kind += f", {low:g} or more" if low is not None else f", {high:g} or less"
    return kind + (f" ({param.unit})" if param.unit else "")


def _value(value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _flag(param: Param, folder: str) -> str:
    if folder == "checks":
        return f"`{param.name.rstrip('_')}`"
    if folder == "metrics":
        return f"`:{param.name}=`"
    return f"`--{param.name.replace('_', '-')}`"


def options_table(folder: str, spec: EntrySpec) -> str:
    """Its options, from the register."""
    if not spec.params:
        return "It has none of its own." if folder != "commands" else ""
    rows = ["| option | value | default | what it does |", "| --- | --- | --- | --- |"]
    rows += [f"| {_flag(p, folder)} | {_range(p)} | {_value(p.default)} | {_cell(p.help)} |" for p in spec.params]
    return "\n".join(rows)


def _picture(folder: str, spec: EntrySpec) -> str:
    path = DOCS / "images" / folder / f"{slug(spec.name)}.jpg"
    return f"![{spec.title}](../images/{folder}/{path.name})\n" if path.exists() else ""


def _figures(spec: EntrySpec) -> str:
    if not isinstance(spec, MetricSpec) or not spec.figures:
        return ""
    summed = {"mean": "mean, with its interval", "rate": "rate, with its interval", "no": "–"}
    rows = [f"| `{f.name}` | {_cell(f.meaning)} | {summed[f.summed_up]} |" for f in spec.figures]
    where = f"`scores.{spec.score_key}`" if spec.score_key else "`scores`"
    head = f"## Figures\n\nIn the report under {where} of each map.\n\n"
    return head + "\n".join(["| figure | what it is | in the summary |", "| --- | --- | --- |", *rows]) + "\n\n"


def with_register(folder: str, spec: EntrySpec, text: str) -> str:
    """The page with the register's parts: summary, picture and table below the title, options after the formula."""
    title, _, rest = text.partition("\n")
    rows = [f"| {name} | {_cell(value)} |" for name, value in KINDS[folder].table(spec) if value]
    head = "\n".join(["|  |  |", "| --- | --- |", *rows])
    first = f"## {KINDS[folder].headings[0]}\n"
    opening, _, formula = rest.partition(first)
    body, heading, after = formula.partition("## Cost\n" if "## Cost\n" in formula else "## Pitfalls\n")
    every = "" if folder in ("checks", "metrics") else "\n\nAll commands share [these options](../commands/options.md)."
    table = options_table(folder, spec)
    options = f"## Options\n\n{table}{every}\n\n" if table else ""
    return (
        f"{title}\n\n{spec.summary}\n\n{_picture(folder, spec)}\n{head}\n{opening.rstrip()}\n\n"
        f"{first}{body}{_figures(spec)}{options}{heading}{after}"
    )


def _row(folder: str, spec: EntrySpec) -> str:
    link = f"[{spec.title}]({slug(spec.name)}.md)"
    if isinstance(spec, MethodSpec):
        return f"| {link} | {_cell(spec.summary)} | {spec.forward}, {spec.backward} |"
    name = f"`{call(spec)}`" if isinstance(spec, CommandSpec) else f"`{spec.name}`"
    return f"| {link} | {_cell(spec.summary)} | {name} |"


def _cards(folder: str, specs: Sequence[EntrySpec]) -> str:
    cards = [
        f"- [![{spec.title}](../images/{folder}/{slug(spec.name)}.jpg)]({slug(spec.name)}.md)"
        f" [{spec.title}]({slug(spec.name)}.md)"
        for spec in specs
        if (DOCS / "images" / folder / f"{slug(spec.name)}.jpg").exists()
    ]
    return "\n".join([":::{container} cards", *cards, ":::"]) if cards else ""


def index_text(folder: str) -> str:
    """All entries of a kind: pictures, a table, and what puts them into the navigation."""
    specs, parts = KINDS[folder].specs, []
    families = dict.fromkeys(getattr(spec, "family", "") for spec in specs) if folder == "methods" else {"": None}
    last = "passes (forward, backward)" if folder == "methods" else "name"
    for family in families:
        own = [spec for spec in specs if folder != "methods" or spec.family == family]
        head = [f"| {folder[:-1] if folder != 'studies' else 'study'} | what it does | {last} |", "| --- | --- | --- |"]
        rows = "\n".join([*head, *(_row(folder, spec) for spec in own)])
        parts += [f"## {family.capitalize()}\n" if family else "", _cards(folder, own), "", rows, ""]
    tree = "\n".join(slug(spec.name) for spec in specs)
    extra = "\noptions" if folder == "commands" else ""
    return "\n".join([*parts, "```{toctree}", ":hidden:", "", tree + extra, "```"])


def shared_options() -> str:
    """The options that all commands share, by the headings of the help page."""
    panels: dict[str, list[str]] = {}
    for option in options_of(shared.Shared).values():
        given = " ".join(f"`{flag}`" for flag in option.flags if flag.startswith("-")) or f"`{option.metavar}`"
        value = f" `{option.metavar}`" if option.metavar and option.flags else ""
        default = _value(option.default) if option.default not in (None, False) else "–"
        panels.setdefault(option.panel, []).append(f"| {given}{_cell(value)} | {_cell(option.help)} | {default} |")
    head = "| option | what it does | default |\n| --- | --- | --- |\n"
    return "\n\n".join(f"## {panel}\n\n{head}" + "\n".join(rows) for panel, rows in panels.items())


def with_further_pages(text: str) -> str:
    """The start page with the guides and examples in the navigation that nobody named there."""
    named = set(re.findall(r"^([\w-]+)$", text, re.M)) | {"index"}
    guides = sorted(page.stem for page in DOCS.glob("*.md") if page.stem not in named)
    examples = sorted(f"examples/{page.stem}" for page in (DOCS / "examples").glob("*.md"))
    return text.replace(FURTHER, "\n".join(guides)).replace(EXAMPLES, "\n".join(examples))


def _read(app: Any, docname: str, source: list[str]) -> None:
    folder, _, name = docname.rpartition("/")
    if docname == "index":
        source[0] = with_further_pages(source[0])
    if name == "options":
        source[0] += "\n" + shared_options()
    if folder not in KINDS:
        return
    if name == "index":
        for problem in missing(folder):
            logger.warning(problem)
        source[0] += "\n" + index_text(folder)
    for spec in KINDS[folder].specs:
        if slug(spec.name) == name:
            source[0] = with_register(folder, spec, source[0])


def setup(app: Any) -> None:
    """Put the register's parts into pages as they are read."""
    app.connect("source-read", _read, priority=500)
