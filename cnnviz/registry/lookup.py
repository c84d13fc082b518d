"""THE register: every method as data.

The command line, the pipeline, the report, the README's table, ``cnnviz.list_methods()`` and the contract tests read
it. A new method is its function, its entry here and its oracle; third parties add entries through the entry-point group
``cnnviz.methods``. Nothing here imports torch: ``--help`` must not wait for it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from cnnviz.errors import CnnvizError, nearest
from cnnviz.registry.cam import ACTIVATION_MAPS
from cnnviz.registry.gradients import INPUT_GRADIENTS
from cnnviz.registry.perturbation import PERTURBATION
from cnnviz.registry.relevance import RELEVANCE
from cnnviz.registry.specs import CommandSpec, MethodSpec, Param, StudySpec, check_words
from cnnviz.registry.studies import STUDIES

ENTRY_POINT_GROUP = "cnnviz.methods"

BUILT_IN: tuple[MethodSpec, ...] = (*ACTIVATION_MAPS, *INPUT_GRADIENTS, *RELEVANCE, *PERTURBATION)


_Spec = TypeVar("_Spec", bound=CommandSpec)


@lru_cache(maxsize=1)
def all_entries() -> tuple[CommandSpec, ...]:
    """Built-in methods and studies, then those of installed packages, by name.

    Raises:
        CnnvizError: A package registers something else than a :class:`MethodSpec`, a name that is taken, or an entry
            with a word in a field that does not take it.
    """
    found: dict[str, CommandSpec] = {spec.name: spec for spec in (*BUILT_IN, *STUDIES)}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        spec = point.load()
        spec = spec() if callable(spec) else spec
        refused = f"Entry point {point.name!r} of {ENTRY_POINT_GROUP} cannot be used"
        if not isinstance(spec, (MethodSpec, StudySpec)):
            raise CnnvizError(f"{refused}: it is no MethodSpec.")
        if spec.name in found:
            raise CnnvizError(f"{refused}: name {spec.name!r} is taken.")
        try:
            check_words(spec)
        except CnnvizError as error:
            raise CnnvizError(f"{refused}: {error.message}", error.hint) from None
        found[spec.name] = spec
    return tuple(found.values())


def all_methods() -> tuple[MethodSpec, ...]:
    """The entries that map an image."""
    return tuple(spec for spec in all_entries() if isinstance(spec, MethodSpec))


def default_variant(specs: tuple[CommandSpec, ...]) -> CommandSpec:
    """The method that a command runs without ``--variant``: the one called as the command, or the first."""
    return next((spec for spec in specs if spec.name == spec.command), specs[0])


def find_entry(name: str) -> CommandSpec:
    """The entry of a method or a study.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    return _find(name, all_entries(), "method or study")


def find_method(name: str) -> MethodSpec:
    """The entry of a method.

    Raises:
        CnnvizError: Unknown name, with near matches.
    """
    return _find(name, all_methods(), "method")


def list_methods() -> list[dict[str, Any]]:
    """Every method: name, one-line description, family, paper, command and options."""
    return [
        {
            "name": spec.name,
            "summary": spec.summary,
            "family": spec.family,
            "paper": spec.paper,
            "command": spec.command,
            "signed": spec.signed,
            "class_specific": spec.class_specific,
            "options": {p.name: {"default": p.default, "help": p.help, "choices": p.choices} for p in spec.params},
        }
        for spec in all_methods()
    ]


def _find(name: str, specs: tuple[_Spec, ...], what: str) -> _Spec:
    by_name = {spec.name: spec for spec in specs}
    if name in by_name:
        return by_name[name]
    hint = nearest(name, by_name) or f"Available: {', '.join(by_name)}."
    raise CnnvizError(f"Unknown {what} {name!r}.", hint)


def commands() -> dict[str, tuple[CommandSpec, ...]]:
    """Subcommands and the methods or the study that they run, in the order of the register."""
    grouped: dict[str, tuple[CommandSpec, ...]] = {}
    for spec in all_entries():
        grouped[spec.command] = (*grouped.get(spec.command, ()), spec)
    return grouped


__all__ = [
    "BUILT_IN", "ENTRY_POINT_GROUP", "STUDIES", "CommandSpec", "MethodSpec", "Param", "StudySpec", "all_entries",
    "all_methods", "commands", "find_entry", "find_method", "list_methods",
]  # fmt: skip
