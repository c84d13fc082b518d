"""What a page may ask: read from JSON, checked, and turned into the settings of a run.

Nothing that a page sends is ever opened as a file or run as code: targets are told by what they are made of
(:func:`check_target`), and options that name files are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnnviz.errors import CnnvizError, shown
from cnnviz.registry import lookup
from cnnviz.registry.params import Param
from cnnviz.registry.tasks import TaskSpec
from cnnviz.render.colormap import AUTO, COLORMAPS
from cnnviz.settings import SCORES, DrawSettings, RunSettings, check_choice

_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?%?"
_NUMBERS = rf"{_NUMBER}(?:,{_NUMBER}){{0,3}}"
_LAYER = r"[\w.:/-]{1,200}"
_SAFE = re.compile(
    rf"pred|top:\d{{1,3}}|class:(?:\d{{1,7}}|pred)(?:@(?:pred|all|(?:box|point):{_NUMBERS}))?"
    r"|segment:(?:largest|\d{1,4})"
    rf"|box:(?:best|\d{{1,6}}|{_NUMBERS})(?:/(?:score|box|x0|y0|x1|y1))?"
    rf"|unit:{_LAYER}:\d{{1,7}}(?:/(?:sum|strongest))?|neuron:{_LAYER}:\d{{1,7}}:\d{{1,5}}:\d{{1,5}}"
    r"|-?output:\d{1,6}|token:\d{1,4}|caption",
    re.ASCII,
)
_MOST_TEXT = 300


@dataclass(frozen=True)
class Question:
    """One map that is asked for.

    Attributes:
        image: Key of the image.
        method: Name of the method.
        options: Its options that are not at their defaults.
        layer: ``--layer``; None for the default.
        target: ``--target``; None for what is predicted.
        score: ``--score``.
    """

    image: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layer: str | None = None
    target: str | None = None
    score: str = "logit"

    @property
    def key(self) -> str:
        """The same for the same question."""
        parts = [self.image, self.method, sorted(self.options.items()), self.layer, self.target, self.score]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Drawing:
    """How a map is drawn: a colour map and the share of the colours."""

    colormap: str = AUTO
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_choice(self.colormap, (AUTO, *COLORMAPS), "--colormap")
        if not 0.0 <= self.alpha <= 1.0:
            raise CnnvizError(f"--alpha {self.alpha}: expected 0 to 1.", "0 is the image, 1 the map alone.")


def read_question(body: Any) -> Question:
    """The question in a JSON object.

    Raises:
        CnnvizError: Something of it is missing, unknown, or of another type.
    """
    given = fields_of(body, {"image", "method", "options", "layer", "target", "score"})
    options = given.get("options") or {}
    if not isinstance(options, dict):
        raise CnnvizError("options: expected an object.", "For example {'window': 32}.")
    method = text_of(given, "method")
    return Question(
        image=text_of(given, "image"),
        method=method,
        options=_options(method, options),
        layer=text_of(given, "layer") if given.get("layer") else None,
        target=text_of(given, "target") if given.get("target") else None,
        score=check_choice(str(given.get("score") or "logit"), SCORES, "--score"),
    )


def fields_of(body: Any, known: Collection[str]) -> dict[str, Any]:
    """A JSON object with no other keys than these.

    Raises:
        CnnvizError: It is none.
    """
    if not isinstance(body, dict):
        raise CnnvizError("The request is no JSON object.", "Reload the page.")
    unknown = sorted(set(body) - set(known))
    if unknown:
        raise CnnvizError(f"{shown(unknown[0])} is not known here.", f"Known are {', '.join(sorted(known))}.")
    return body


def text_of(given: Mapping[str, Any], name: str) -> str:
    """A short text of a JSON object.

    Raises:
        CnnvizError: There is none.
    """
    value = given.get(name)
    if not isinstance(value, str) or not value or len(value) > _MOST_TEXT:
        raise CnnvizError(f"{name}: expected a short text, got {shown(value)}.", "Reload the page.")
    return value


def _options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not at their defaults, checked."""
    spec = lookup.find_method(method)
    known = {param.name: param for param in spec.params}
    for name, value in options.items():
        param = known.get(name)
        if param is not None and param.type == "file":
            raise CnnvizError(f"{name}: a page names no files.", f"Use cnnviz {spec.command} --{name} FILE.")
        if not isinstance(value, (str, int, float, bool, list, type(None))):
            raise CnnvizError(f"{name}: expected a value, got {shown(value)}.", "Reload the page.")
    checked = spec.resolve_params(options).to_dict()
    usual = spec.resolve_params({}).to_dict()
    return {name: _plain(value) for name, value in checked.items() if value != usual[name]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_target(spec: str | None, offered: Collection[str]) -> None:
    """Refuse targets that would open a file or run code.

    Args:
        spec: ``--target``; None for what is predicted.
        offered: What the list of targets of the image has.

    Raises:
        CnnvizError: It is none of the words that a page may ask for.
    """
    sides = [spec] if spec is None or not spec.startswith("diff:") else two_of(spec)
    for side in sides:
        if side is not None and side not in offered and not _SAFE.fullmatch(side):
            raise CnnvizError(
                f"--target {shown(side)} cannot be asked for here.",
                "Click a class, a box, a word or a pixel; other targets are asked for on the command line.",
            )


def two_of(spec: str) -> list[str | None]:
    """The two sides of ``diff:A,B``, where each is a class by index, a unit or an output."""
    first, comma, second = spec.removeprefix("diff:").partition(",")
    if not comma:
        return [spec]
    return [side if ":" in side else f"class:{side}" for side in (first, second)]


def settings_of(question: Question, base: RunSettings, uri: str, task: TaskSpec) -> RunSettings:
    """The settings of the run that gives the same map.

    Args:
        question: What is asked for.
        base: Model, task and runtime of the explorer.
        uri: The image, as a command would name it.
        task: What the network is for.

    Raises:
        CnnvizError: An unknown method, or options that do not fit together.
    """
    spec = lookup.find_method(question.method)
    params = spec.resolve_params(question.options)
    spec.check_view(base.model.view, params)
    for package in spec.packages:
        package.check(spec.command, params)
    usual = lookup.default_variant(lookup.commands()[spec.command])
    target = replace(
        base.target,
        method=spec.name,
        params=params.to_dict(),
        layers=(question.layer,) if question.layer else (),
        classes=() if question.target else spec.usual_classes(None),
        targets=(question.target,) if question.target else (),
        score=question.score,
        # Where the task runs another method than the usual one, the usual one must be named.
        method_named=spec.name != usual.name or spec.name in task.instead,
    )
    return replace(base, command=spec.command, inputs=(uri,), target=target, draw=DrawSettings(), limit=None)


def option_facts(param: Param) -> dict[str, Any]:
    """An option as the page shows it."""
    default = param.default
    return {
        "name": param.name,
        "type": param.type,
        "default": _plain(default),
        "help": param.help,
        "choices": list(param.choices),
        "minimum": param.minimum,
        "maximum": param.maximum,
        "unit": param.unit,
    }
