"""What an entry of the register says: types only, no torch import.

``EntrySpec`` is what all kinds of entries share. Those with a command of their own are methods, which map an image, and
studies, which go through images or make some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from cnnviz.errors import CnnvizError, nearest
from cnnviz.registry.params import (
    ClassName,
    FilePath,
    Options,
    Param,
    background_option,
    option,
    options_of,
    params_of,
    typed,
)
from cnnviz.settings import VIEWS, View

Space = Literal["layer", "input", "grid"]
Need = Literal["gap-head", "trace", "boxes", "attention", "layer"]
Inputs = Literal["images", "optional", "none", "policy"]

# Shared options that mean nothing to a study unless it says so: those of maps, and resuming, which one pass cannot.
HIDDEN_FROM_STUDIES = tuple(
    "layer class_ target_ only score metric truth truth_classes augment sanity save scale colormap alpha image_format "
    "png_level legend draw_box resume cache no_cache".split()
)

# Shared options that mean nothing to a study that looks at no images: what is decoded, shown to the network and listed.
HIDDEN_WITHOUT_INPUT = tuple(
    "inputs null limit exclude fail_fast mean std resize view no_crop activation top batch_size workers compile".split()
)


# Shared options that mean nothing where a network is trained: what is explained, what is drawn, and what a network that
# exists already is like.
HIDDEN_FROM_TRAINING = (
    *HIDDEN_FROM_STUDIES,
    *"null limit exclude shard executor fail_fast model num_classes labels no_crop logits_key activation".split(),
    *"skip_check tracing top compile task".split(),
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

    def check(self, command: str, params: Options) -> None:
        """Raises a CnnvizError that names the command of pip when it is asked for and not installed."""
        if self.option is not None and getattr(params, self.option[0], None) != self.option[1]:
            return
        if find_spec(self.module) is None:
            flag = ""
            if self.option is not None:
                word = "" if self.option[1] is True else f" {self.option[1]}"
                flag = f" --{self.option[0].replace('_', '-')}{word}"
            message = f"{command}{flag} needs {self.name}, which is not installed."
            raise CnnvizError(message, f"pip install 'cnnviz[{self.extra}]'")


@dataclass(frozen=True, kw_only=True)
class EntrySpec:
    """What every entry of the register says.

    Attributes:
        name: As scripts write it (``explain(method=...)``, records, file names).
        entry: ``module:function`` or ``module:class``, imported on first use.
        title: As people write it.
        summary: One sentence.
        paper: Where it comes from.
        options: The dataclass of its options; what the entry names is handed an instance.
        params: The options one by one: read off ``options``, or given in its place, which then is made from them.
        kind: What people call such an entry.
    """

    kind: ClassVar[str] = "Method"

    name: str
    entry: str
    title: str
    summary: str
    paper: str
    options: type[Options] = Options
    params: tuple[Param, ...] = ()

    def __post_init__(self) -> None:
        declared = params_of(self.options)
        if not self.params:
            object.__setattr__(self, "params", declared)
        elif self.params != declared:
            object.__setattr__(self, "options", options_of(self.name, self.params))

    def load(self) -> Callable[..., Any]:
        """Import what the entry names."""
        return _imported(self.entry)

    def resolve_params(self, given: Mapping[str, Any]) -> Options:
        """The options with these values, checked, and defaults for the others.

        Raises:
            CnnvizError: An unknown option (with near matches), a bad value, or two options of which one takes the place
                of the other.
        """
        known = {param.name: param for param in self.params}
        for name in given:
            if name not in known:
                hint = nearest(name, known) or (f"It takes {', '.join(known)}." if known else "It takes no options.")
                raise CnnvizError(f"{self.kind} {self.name} has no option {name!r}.", hint)
        values = {name: param.check(given.get(name, param.default)) for name, param in known.items()}
        for name, param in known.items():
            other = param.replaces
            # Where all are given they are those of a run, resolved before.
            typed = other in given and len(given) < len(known)
            if other and values[name] != param.default and (typed or values[other] != known[other].default):
                raise CnnvizError(f"{name} takes the place of {other}: {self.name} cannot have both.", "Leave one out.")
        return self.options(**{param.attribute: values[name] for name, param in known.items()})

    def read_params(self, text: str, said: str) -> Options:
        """The options that ``option=value,option=value`` gives, as a command line has them after a name.

        Args:
            text: The part after the colon; empty for the defaults.
            said: What the person typed, for messages.

        Raises:
            CnnvizError: It is written otherwise, or as :meth:`resolve_params`.
        """
        known = {param.name: param for param in self.params}
        given: dict[str, Any] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = part.partition("=")
            key = name.strip().replace("-", "_")
            if not equals or key in given:
                problem = f"{part!r} is not option=value" if not equals else f"{key} is given twice"
                raise CnnvizError(f"{said}: {problem}.", f"For example {self.name}:seed=1")
            given[key] = typed(value.strip(), known[key]) if key in known else value
        try:
            return self.resolve_params(given)
        except CnnvizError as error:
            raise CnnvizError(f"{said}: {error.message}", error.hint) from error


@dataclass(frozen=True, kw_only=True)
class CommandSpec(EntrySpec):
    """An entry that the command line runs.

    Attributes:
        command: Subcommand that runs it; the variants of a command are the entries that share it.
        family: The heading under which it is listed.
        help_overrides: Help of shared options, by field name, where the general one does not hold.
        hidden_options: Shared options, by field name, that mean nothing to this command.
        caveat: What everybody who looks at its pictures should know; told once a run.
        no_caveat_with: Options that take away what the caveat warns of, where they are not at their defaults.
        packages: What must be installed for it beside cnnviz.
        views: What of ``--view`` it can take.
        why_views: Why it cannot take the others, after the command's name.
        default_classes: ``--class`` where nothing is asked for.
        default_save: ``--save`` where nothing is asked for.
        model_option: The option of its own that names the network, where that is not ``--model``.
        default_picture: The same with ``-o -``.
    """

    command: str
    family: str
    help_overrides: Mapping[str, str] = field(default_factory=dict)
    hidden_options: tuple[str, ...] = ()
    caveat: str = ""
    no_caveat_with: tuple[str, ...] = ()
    packages: tuple[Package, ...] = ()
    views: tuple[View, ...] = VIEWS
    why_views: str = ""
    default_classes: tuple[str, ...] = ("pred",)
    default_save: tuple[str, ...] = ("overlay", "heatmap")
    model_option: str = ""
    default_picture: str = "overlay"

    def takes(self) -> Inputs:
        """What its command line takes: images, images or nothing, or nothing."""
        return "images"

    def unavailable_options(self) -> frozenset[str]:
        """Shared options, by field name, that the command does not have."""
        return frozenset(self.hidden_options)

    def takes_shares(self) -> bool:
        """Whether shares of its inputs can be explained apart and joined: it continues a run by the records there."""
        return self.takes() in ("images", "policy") and not {"resume", "shard"} & self.unavailable_options()

    def usual_classes(self, truth: str | None) -> tuple[str, ...]:
        """``--class`` where nothing is asked for; without annotations there is nothing that they mark."""
        return tuple(name for name in self.default_classes if name != "truth" or truth is not None)

    def caveat_with(self, params: Options) -> str:
        """The caveat, where it holds with these options; else empty."""
        without = any(
            getattr(params, param.attribute) != param.default
            for param in self.params
            if param.name in self.no_caveat_with
        )
        return "" if without else self.caveat

    def check_view(self, view: str, params: Options) -> None:
        """Whether what the network is shown can be explained with these options.

        Raises:
            CnnvizError: It cannot, and why; which views can.
        """
        if view not in self.views:
            others = " or ".join(f"--view {name}" for name in self.views)
            raise CnnvizError(f"--view {view}: {self.command} {self.why_views}.", f"Use {others}.")
        single = self._demanding("one view", params)
        if view == "tiles" and single:
            flag = single[0].replace("_", "-")
            raise CnnvizError(
                f"--view tiles: what --{flag} draws cannot be joined from tiles.",
                f"Use --view whole, or leave --{flag} out.",
            )
        if view == "tiles" and (why := params.not_of_one_thing(moved=True)):
            raise CnnvizError(f"--view tiles: {why}.", "Use --view whole.")

    def _demanding(self, what: str, params: Options) -> list[str]:
        """Names of the options that demand this by not being at their defaults."""
        asked = [param for param in self.params if param.demands == what]
        return [param.name for param in asked if getattr(params, param.attribute) != param.default]


@dataclass(frozen=True, kw_only=True)
class MethodSpec(CommandSpec):
    """A method that maps one image to one heatmap: ``(run: ForwardPass, target: Target, params) -> Heatmap``.

    Attributes:
        needs: What must hold of the network: ``"gap-head"`` for CAM, ``"trace"``, ``"boxes"``,
            ``"attention"``; ``"layer"`` of methods in input space that look at a layer too, whatever their options.
        nodes: ``module:function`` that picks the nodes of a traced network at which it is cut, where that is neither
            the image nor a layer.
        space: What the raw map's axes are.
        signed: Whether raw values below zero have a meaning.
        class_specific: Whether the map depends on the target class.
        forward, backward: Passes per image and target, in words.
        colour: Whether the raw values [C, H, W] are a picture of their own, drawn around grey.
        several_layers: Whether more than one ``--layer`` makes one map.
        gap: For maps that should sum to the score: why one may not, told with how many do not.
        draws: For maps that are drawn by chance and state their ``reliability``: the option that says how many draws
            they are made of, of which it is told how many would do; ``draws_doubled``: of an option that is worth
            doubling alone.
        chance: For such maps, how they come out more alike beside more draws, told with how many would not;
            ``chance_unless``: options with which that is so already.
        fit: For maps that are a linear model's coefficients and state its ``fit``: what says more of a score that they
            do not explain, told with how many do not.
        counts: Options, by name, whose number a map may not take as it is, and states among its scores: with why.
        singly: Whether nearly all passes are of changed copies of one image after the other, so that images in a batch
            only wait for each other.
        dry_run_params: Options with which a run tries the method on a probe before it starts, where few passes will do.
        many: ``module:function`` of ``(run, targets, params) -> Heatmap | None``, which makes the maps of many targets
            of a pass at once, values [K, N, h, w]; None where it cannot for these.
    """

    needs: tuple[Need, ...] = ()
    nodes: str = ""
    space: Space = "layer"
    signed: bool = False
    class_specific: bool = True
    forward: str = "1"
    backward: str = "0"
    colour: bool = False
    several_layers: bool = False
    gap: str = ""
    draws: str = ""
    draws_doubled: bool = False
    chance: str = ""
    chance_unless: Mapping[str, Any] = field(default_factory=dict)
    fit: str = ""
    counts: Mapping[str, str] = field(default_factory=dict)
    singly: bool = False
    dry_run_params: Mapping[str, Any] = field(default_factory=dict)
    many: str = ""

    def wants_layer(self, params: Options) -> bool:
        """Whether these options make a method in input space look at a layer too."""
        return "layer" in self.needs or bool(self._demanding("layer", params))

    def load_many(self) -> Callable[..., Any]:
        """Import the function behind ``many``."""
        return _imported(self.many)

    def load_nodes(self) -> Callable[..., Any]:
        """Import the function behind ``nodes``."""
        return _imported(self.nodes)

    def dry_run(self, params: Options) -> Options:
        """The options with which the method is tried before a run with ``params``."""
        return params.with_values(self.dry_run_params)


@dataclass(frozen=True, kw_only=True)
class StudySpec(CommandSpec):
    """A study of what the network learned; the entry is a class (:class:`cnnviz.studies.base.Study`).

    Attributes:
        inputs: What its command line takes.
        shared_options: Shared options of its command beside those that :data:`HIDDEN_FROM_STUDIES` leaves.
        tasks: Tasks that it takes beside those that all studies take.
        joins: Whether what it gathered of shares of the inputs can be joined (``Study.state``), though it cannot be
            continued from its records.
    """

    inputs: Inputs = "images"
    shared_options: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    joins: bool = False

    def takes(self) -> Inputs:
        return self.inputs

    def takes_shares(self) -> bool:
        return super().takes_shares() or (self.joins and self.inputs == "images")

    def unavailable_options(self) -> frozenset[str]:
        idle = HIDDEN_WITHOUT_INPUT if self.inputs == "none" else ()
        return frozenset({*HIDDEN_FROM_STUDIES, *idle, *self.hidden_options} - set(self.shared_options))


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec(CommandSpec):
    """A command that makes maps by several methods and measures them; the entry is a class
    (:class:`cnnviz.maps.comparison.Comparison`), whose options name the methods.

    Attributes:
        first_is_policy: Whether its first argument is a policy, which says what else is asked.
        reads: ``module:function`` from its options to what its results depend on beside them: paths, and other texts,
            such as the day; None where it does more than write its folder. Without torch.
    """

    first_is_policy: bool = False
    reads: str = ""

    def load_reads(self) -> Callable[..., Any]:
        """Import the function behind ``reads``."""
        return _imported(self.reads)

    def takes(self) -> Inputs:
        return "policy" if self.first_is_policy else "images"


@dataclass(frozen=True, kw_only=True)
class PairSpec(CommandSpec):
    """A command that sets two whole runs against each other; the entry is a function
    ``(settings, params, reporter, run) -> RunResult``, where ``run`` makes the run of other settings.
    """


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(CommandSpec):
    """A command that trains a network; the entry is a function
    ``(settings, params, reporter) -> RunResult``.

    Attributes:
        shared_options: Shared options of its command beside those that :data:`HIDDEN_FROM_TRAINING` leaves.
    """

    shared_options: tuple[str, ...] = ()

    def unavailable_options(self) -> frozenset[str]:
        return frozenset({*HIDDEN_FROM_TRAINING, *self.hidden_options} - set(self.shared_options))


def _imported(reference: str) -> Callable[..., Any]:
    module, _, function = reference.partition(":")
    loaded: Callable[..., Any] = getattr(import_module(module), function)
    return loaded


__all__ = [
    "HIDDEN_FROM_STUDIES", "HIDDEN_WITHOUT_INPUT", "ClassName", "CommandSpec", "ComparisonSpec", "EntrySpec",
    "FilePath", "Inputs", "MethodSpec", "Need", "Options", "Package", "PairSpec", "Param", "Space", "StudySpec",
    "TrainingSpec", "background_option", "option",
]  # fmt: skip
