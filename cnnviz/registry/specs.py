"""What an entry of the register says: types only, no torch import."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from cnnviz.errors import CnnvizError, nearest
from cnnviz.settings import VIEWS


@dataclass(frozen=True)
class Param:
    """An option of a method: flag ``--name``, YAML key ``name``, keyword ``name=``."""

    name: str
    # "int", "float", "bool", "choice", "size" (one whole number, or height and width), "text", "texts" (repeatable),
    # "file" (the path or URL of something that exists)
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    # Whether another value than the default makes a method in input space look at a layer too.
    needs_layer: bool = False
    # Whether another value than the default makes something that cannot be joined from tiles (--view tiles).
    one_view: bool = False

    def check(self, value: Any) -> Any:
        """The value in this option's type.

        Raises:
            CnnvizError: Wrong type, out of range, or not among the choices.
        """
        if value is None and self.default is None:
            return None
        if not all(map(_is_usable, value if isinstance(value, (tuple, list)) else (value,))):
            raise CnnvizError(f"{self.name}: expected a number that is finite, of at most 15 digits.")
        if self.type == "texts":
            return tuple(self._text(item) for item in (value if isinstance(value, (tuple, list)) else (value,)))
        if self.type == "bool":
            if isinstance(value, bool):
                return value
            raise CnnvizError(f"{self.name}={value!r}: expected true or false.")
        if self.type == "choice":
            if value in self.choices:
                return value
            hint = nearest(str(value), self.choices) or f"Choose from {', '.join(self.choices)}."
            raise CnnvizError(f"{self.name}={value!r}: expected one of {', '.join(self.choices)}.", hint)
        if self.type == "size":
            return self._size(value)
        if self.type in {"text", "file"}:
            return self._text(value)
        return self._number(value)

    def _size(self, value: Any) -> tuple[int, int]:
        """(height, width) of ``32``, ``(32, 48)``, ``"32"``, ``"32,48"`` or ``"32x48"``."""
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        if not isinstance(parts, (tuple, list)):
            parts = [parts]
        try:
            numbers = [float(part) if isinstance(part, str) else part for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2):
            raise CnnvizError(
                f"{self.name}={value!r}: expected a whole number, or height and width.", f"For example {self.name} 32"
            )
        height, width = (
            int(Param(self.name, "int", 0, "", (), self.minimum, self.maximum)._number(n))
            for n in (numbers[0], numbers[-1])
        )
        return height, width

    def _text(self, value: Any) -> str:
        if isinstance(value, (tuple, list)) and value and all(isinstance(v, (int, float)) for v in value):
            return ",".join(f"{v:g}" for v in value)
        if isinstance(value, str) and value.strip():
            return value.strip()
        raise CnnvizError(f"{self.name}={value!r}: expected a word.")

    def _number(self, value: Any) -> int | float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (self.type == "int" and not float(value).is_integer())
        ):
            raise CnnvizError(
                f"{self.name}={value!r}: expected {'a whole number' if self.type == 'int' else 'a number'}."
            )
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            span = f"{low:g} to {high:g}" if low is not None and high is not None else ""
            span = span or (f"{high:g} or less" if low is None else f"{low:g} or more")
            default = "" if self.default is None else f"The default is {self.default}."
            raise CnnvizError(f"{self.name}={value!r} is out of range: {span}.", default)
        return int(value) if self.type == "int" else float(value)


def _is_usable(value: Any) -> bool:
    """Whether a value, if it is a number, can be computed with: finite, and exact as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    return math.isfinite(value) and abs(value) < 10**15 if isinstance(value, float) else abs(value) < 10**15


# Shared options that mean nothing to a study unless it says so: those of maps, and resuming, which one pass cannot.
HIDDEN_FROM_STUDIES = tuple(
    "layer class_ target_ score sanity save scale colormap alpha image_format png_level legend draw_box resume".split()
)

# Shared options that mean nothing to a study that looks at no images: what is decoded, shown to the network and listed.
HIDDEN_WITHOUT_INPUT = tuple(
    "inputs null limit fail_fast mean std resize view no_crop activation top batch_size workers compile".split()
)


@dataclass(frozen=True)
class Package:
    """What must be installed beside cnnviz itself.

    Attributes:
        module: Its name as Python imports it.
        name: Its name as pip installs it.
        extra: The extra of cnnviz that brings it.
        option: Name and value of the parameter that asks for it; None when it is always needed.
    """

    module: str
    name: str
    extra: str
    option: tuple[str, Any] | None = None

    def check(self, command: str, params: Mapping[str, Any]) -> None:
        """Raises a CnnvizError that names the command of pip when it is asked for and not installed."""
        if self.option is not None and params.get(self.option[0]) != self.option[1]:
            return
        if find_spec(self.module) is None:
            flag = ""
            if self.option is not None:
                word = "" if self.option[1] is True else f" {self.option[1]}"
                flag = f" --{self.option[0].replace('_', '-')}{word}"
            message = f"{command}{flag} needs {self.name}, which is not installed."
            raise CnnvizError(message, f"pip install 'cnnviz[{self.extra}]'")


@dataclass(frozen=True)
class MethodSpec:
    """A method that maps one image to one heatmap, or a study of what the network learned.

    Attributes:
        name: As scripts write it (``explain(method=...)``, records, file names).
        command: Subcommand that runs it; the variants of a command are the entries that share it.
        entry: ``module:function``, imported on first use: ``(run, target, params) -> Heatmap``.
        needs: What must hold of the network: ``"gap-head"`` for CAM, ``"trace"``.
        nodes: ``module:function`` that picks the nodes of a traced network at which it is cut, where that is neither
            the image nor a layer.
        space: ``layer``, ``input`` or ``grid``: what the raw map's axes are.
        signed: Whether raw values below zero have a meaning.
        class_specific: Whether the map depends on the target class.
        forward, backward: Passes per image and target, in words.
        kind: ``method``: the entry is a function ``(run, target, params) -> Heatmap``; ``study``: a class
            (:class:`cnnviz.studies.base.Study`).
        inputs: ``images``, ``optional`` or ``none``: what a study's command line takes.
        uses: Shared options of a study's command beside those that :data:`STUDY_LACKS` leaves.
        says: Help of shared options, by field name, where the general one does not hold.
        hidden: Shared options, by field name, that mean nothing to this command.
        colour: Whether the raw values [C, H, W] are a picture of their own, drawn around grey.
        several_layers: Whether more than one ``--layer`` makes one map.
        caveat: What everybody who looks at these maps should know; told once a run.
        gap: For maps that should sum to the score: why one may not, told with how many do not.
        rehearsal: Options with which a run tries the method on a probe before it starts, where few passes will do.
        packages: What must be installed for it beside cnnviz.
        views: What of ``--view`` it can take.
        why_views: Why it cannot take the others, after the command's name.
    """

    name: str
    command: str
    family: str
    entry: str
    title: str
    summary: str
    paper: str
    params: tuple[Param, ...] = ()
    needs: tuple[str, ...] = ()
    nodes: str = ""
    space: str = "layer"
    signed: bool = False
    class_specific: bool = True
    forward: str = "1"
    backward: str = "0"
    kind: str = "method"
    colour: bool = False
    caveat: str = ""
    gap: str = ""
    several_layers: bool = False
    inputs: str = "images"
    shared_options: tuple[str, ...] = ()
    help_overrides: Mapping[str, str] = field(default_factory=dict)
    hidden_options: tuple[str, ...] = ()
    dry_run_params: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[Package, ...] = ()
    views: tuple[str, ...] = VIEWS
    why_views: str = ""

    def unavailable_options(self) -> frozenset[str]:
        """Shared options, by field name, that the command does not have."""
        if self.kind != "study":
            return frozenset(self.hidden_options)
        idle = HIDDEN_WITHOUT_INPUT if self.inputs == "none" else ()
        return frozenset({*HIDDEN_FROM_STUDIES, *idle, *self.hidden_options} - set(self.shared_options))

    def check_view(self, view: str, params: Mapping[str, Any]) -> None:
        """Whether what the network is shown can be explained by this method with these parameters.

        Raises:
            CnnvizError: It cannot, and why; which views can.
        """
        if view not in self.views:
            others = " or ".join(f"--view {name}" for name in self.views)
            raise CnnvizError(f"--view {view}: {self.command} {self.why_views}.", f"Use {others}.")
        single = [p.name for p in self.params if p.one_view and params[p.name] != p.default]
        if view == "tiles" and single:
            flag = single[0].replace("_", "-")
            raise CnnvizError(
                f"--view tiles: what --{flag} draws cannot be joined from tiles.",
                f"Use --view whole, or leave --{flag} out.",
            )

    def wants_layer(self, params: Mapping[str, Any]) -> bool:
        """Whether these parameters make a method in input space look at a layer too."""
        return any(p.needs_layer and params[p.name] != p.default for p in self.params)

    def load(self) -> Callable[..., Any]:
        """Import the function behind the entry."""
        return _imported(self.entry)

    def load_nodes(self) -> Callable[..., Any]:
        """Import the function behind ``nodes``."""
        return _imported(self.nodes)

    def resolve_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults filled in and values checked.

        Raises:
            CnnvizError: An unknown option (with near matches) or a bad value.
        """
        known = {param.name: param for param in self.params}
        for name in given:
            if name not in known:
                hint = nearest(name, known) or (f"It takes {', '.join(known)}." if known else "It takes no options.")
                raise CnnvizError(f"Method {self.name} has no option {name!r}.", hint)
        return {name: param.check(given.get(name, param.default)) for name, param in known.items()}


def _imported(reference: str) -> Callable[..., Any]:
    module, _, function = reference.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded
