"""THE register: every method as data.

The command line, the pipeline, the report, the README's table, ``cnnviz.methods()`` and the contract tests read it. A
new method is its function, its entry here and its oracle; third parties add entries through the entry-point group
``cnnviz.methods``. Nothing here imports torch: ``--help`` must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cnnviz.errors import CnnvizError, nearest

ENTRY_POINT_GROUP = "cnnviz.methods"


@dataclass(frozen=True)
class Param:
    """An option of a method: flag ``--name``, YAML key ``name``, keyword ``name=``."""

    name: str
    type: str  # "int" | "float" | "bool" | "choice"
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""

    def check(self, value: Any) -> Any:
        """The value in this option's type.

        Raises:
            CnnvizError: Wrong type, out of range, or not among the choices.
        """
        if self.type == "bool":
            if isinstance(value, bool):
                return value
            raise CnnvizError(f"{self.name}={value!r}: expected true or false.")
        if self.type == "choice":
            if value in self.choices:
                return value
            hint = nearest(str(value), self.choices) or f"Choose from {', '.join(self.choices)}."
            raise CnnvizError(f"{self.name}={value!r}: expected one of {', '.join(self.choices)}.", hint)
        return self._number(value)

    def _number(self, value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (
            self.type == "int" and not float(value).is_integer()
        ):
            raise CnnvizError(f"{self.name}={value!r}: expected {'a whole number' if self.type == 'int' else 'a number'}.")
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise CnnvizError(f"{self.name}={value!r} is out of range: {low} to {'any' if high is None else high}.")
        return int(value) if self.type == "int" else float(value)


@dataclass(frozen=True)
class MethodSpec:
    """A method that maps one image to one heatmap.

    Attributes:
        name: As scripts write it (``explain(method=...)``, records, file names).
        command: Subcommand that runs it; the variants of a command are the entries that share it.
        entry: ``module:function``, imported on first use: ``(run, target, params) -> Heatmap``.
        needs: What must hold of the network: ``"gap-head"`` for CAM.
        space: ``layer``, ``input`` or ``grid``: what the raw map's axes are.
        signed: Whether raw values below zero have a meaning.
        class_specific: Whether the map depends on the target class.
        forward, backward: Passes per image and target, in words.
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
    space: str = "layer"
    signed: bool = False
    class_specific: bool = True
    forward: str = "1"
    backward: str = "0"
    kind: str = "method"

    def load(self) -> Callable[..., Any]:
        """Import the function behind the entry."""
        module, _, function = self.entry.partition(":")
        loaded: Callable[..., Any] = getattr(import_module(module), function)
        return loaded

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


_COUNTERFACTUAL = Param(
    "counterfactual", "bool", False, "Show what speaks against the class: negated gradients (Grad-CAM paper, 3.3)."
)

BUILT_IN: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="cam",
        command="cam",
        family="class activation maps",
        entry="cnnviz.methods.cam:cam",
        title="CAM",
        summary="Class activation map: the classifier's own weights on the last feature maps.",
        paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
        needs=("gap-head",),
        signed=True,
    ),
    MethodSpec(
        name="gradcam",
        command="gradcam",
        family="class activation maps",
        entry="cnnviz.methods.gradcam:gradcam",
        title="Grad-CAM",
        summary="Feature maps weighted by the mean gradient of the class score, rectified.",
        paper="Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks, ICCV 2017",
        params=(_COUNTERFACTUAL,),
        backward="1 (head)",
    ),
)


@lru_cache(maxsize=1)
def all_methods() -> tuple[MethodSpec, ...]:
    """Built-in methods, then those of installed packages, by name.

    Raises:
        CnnvizError: A package registers something else than a :class:`MethodSpec`, or a name that is taken.
    """
    found = {spec.name: spec for spec in BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        spec = point.load()
        spec = spec() if callable(spec) else spec
        if not isinstance(spec, MethodSpec) or spec.name in found:
            problem = f"name {spec.name!r} is taken" if isinstance(spec, MethodSpec) else "it is no MethodSpec"
            raise CnnvizError(f"Entry point {point.name!r} of {ENTRY_POINT_GROUP} cannot be used: {problem}.")
        found[spec.name] = spec
    return tuple(found.values())


def find_method(name: str) -> MethodSpec:
    """The entry of a method.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    methods = {spec.name: spec for spec in all_methods()}
    if name in methods:
        return methods[name]
    hint = nearest(name, methods) or f"There is: {', '.join(methods)}."
    raise CnnvizError(f"Unknown method {name!r}.", hint)


def commands() -> dict[str, tuple[MethodSpec, ...]]:
    """Subcommands and the methods that they run, in the order of the register."""
    grouped: dict[str, tuple[MethodSpec, ...]] = {}
    for spec in all_methods():
        grouped[spec.command] = (*grouped.get(spec.command, ()), spec)
    return grouped
