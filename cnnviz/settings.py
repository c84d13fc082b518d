"""What a run was asked to do: defaults < configuration file < command line, checked and frozen."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, Literal, get_args

from cnnviz.errors import CnnvizError, nearest, shown

SAVE_KINDS = ("overlay", "heatmap", "raw", "panel", "boxes", "segments", "detections", "words", "gradient", "none")
IMAGE_FORMATS = ("png", "jpg", "webp")
COMPILE_MODES = ("auto", "on", "off")
TRACING_MODES = ("auto", "off")
SCORES = ("logit", "probability", "log-probability")
ACTIVATIONS = ("auto", "softmax", "sigmoid")
CHECKS = (
    "output", "deterministic", "batch_independent", "gradient_reaches_layer", "precision_agreement", "input_sizes",
)  # fmt: skip
OUTCOMES = ("wrong", "correct")
AUGMENTATIONS = ("flip", "contrast", "zoom")
"""Changes of the image over which maps are averaged: :mod:`cnnviz.methods.augmented` makes them."""
View = Literal["crop", "tiles", "whole", "squash"]
VIEWS: tuple[View, ...] = get_args(View)
ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS: tuple[ChannelOrder, ...] = get_args(ChannelOrder)


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which weights, labels and preprocessing: the model options by their long names.

    ``no_crop`` is short for ``view="whole"``.
    """

    model: str = "efficientnet_lite0"
    weights: str = "DEFAULT"
    checkpoint: str | None = None
    trust_checkpoint: bool = False
    num_classes: int | None = None
    labels: str | None = None
    question: str | None = None
    input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: ChannelOrder | None = None
    resize: int | None = None
    view: str = "crop"
    seed: int = 0
    no_crop: InitVar[bool] = False

    def __post_init__(self, no_crop: bool) -> None:
        check_seed(self.seed)
        check_choice(self.view, VIEWS, "--view")
        if self.channel_order is not None:
            check_choice(self.channel_order, CHANNEL_ORDERS, "--channel-order")
        if not no_crop:
            return
        if self.view not in ("crop", "whole"):
            raise CnnvizError(
                f"--no-crop means --view whole, but --view {self.view} was given.", "Leave one of the two out."
            )
        object.__setattr__(self, "view", "whole")


@dataclass(frozen=True)
class TargetSettings:
    """What is explained.

    Attributes:
        method: Name in the register.
        params: The method's own options, checked.
        layers: Layer names; empty for the default.
        classes: ``--class`` specs; empty for the predicted class.
        targets: ``--target`` specs: ``class:SPEC``, where SPEC is one of ``--class``, or ``diff:A,B``.
        score: ``logit``, ``probability`` or ``log-probability``.
        logits_key: Dotted path to the class scores in what the network returns.
        activation: How logits become probabilities; ``auto`` reads it off the network.
        top: How many predictions a record lists.
        metrics: What is measured beside the map statistics: ``NAME`` or ``NAME:OPTION=VALUE,...``.
        truth: File or folder of annotations: where objects are in the images; None for none.
        truth_classes: Which classes the labels of ``truth`` mean: a file, or ``coco``; None: those of their names.
        only: ``wrong`` or ``correct``: which images are explained, of those whose classes are known; None for all.
        task: What the network is for, ``NAME`` or ``NAME:OPTION=VALUE,...``; ``auto``: told by its output.
        augment: Of :data:`AUGMENTATIONS`: maps are averaged over copies of the image that are changed so.
        sanity: Compare each map with those of the network with random weights: short for the metric ``randomization``.
        method_named: Whether somebody named the method, so that no task may take another in its place.
    """

    method: str = "gradcam"
    params: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ("pred",)
    targets: tuple[str, ...] = ()
    score: str = "logit"
    logits_key: str | None = None
    activation: str = "auto"
    top: int = 5
    metrics: tuple[str, ...] = ()
    truth: str | None = None
    truth_classes: str | None = None
    only: str | None = None
    task: str = "auto"
    augment: tuple[str, ...] = ()
    sanity: bool = False
    method_named: bool = False

    def __post_init__(self) -> None:
        if self.only is not None:
            check_choice(self.only, OUTCOMES, "--only")


AUTO_PRECISION = "auto"
"""``--precision``: what is faster, found out when a run begins."""


@dataclass(frozen=True)
class RuntimeSettings:
    """Where and how fast.

    Attributes:
        skip_check: Names of checks of the network that are not made before the run.
        tracing: ``auto``; or ``off``: by hooks, as if the network could not be traced.
    """

    device: str = "auto"
    precision: str = "fp32"
    compile: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    seed: int = 0
    skip_check: tuple[str, ...] = ()
    tracing: str = "auto"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_choice(self.tracing, TRACING_MODES, "--tracing")


@dataclass(frozen=True)
class DrawSettings:
    """What is drawn. ``limits`` None scales every image by its own maximum.

    ``legend`` adds a band below each overlay, ``draw_box`` the box of the map's largest region.
    """

    save: tuple[str, ...] = ("overlay", "heatmap")
    scale: str = "image"
    colormap: str = "auto"
    alpha: float = 0.5
    image_format: str = "png"
    png_level: int = 1
    legend: bool = False
    draw_box: bool = False

    @property
    def limits(self) -> tuple[float, float] | None:
        return parse_scale(self.scale)


@dataclass(frozen=True)
class OutputSettings:
    """Where results go and what happens when some are there. ``out`` is ``-`` for one picture on standard output.

    ``cache`` is a folder in which what is computed is looked up and kept; None for none.
    """

    out: str = "cnnviz-out"
    resume: bool = False
    overwrite: bool = False
    fail_fast: bool = False
    cache: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """One run of a command that explains images. ``shard`` is the share of the inputs, I/N; None for all."""

    command: str
    inputs: tuple[str, ...]
    model: ModelSpec = field(default_factory=ModelSpec)
    target: TargetSettings = field(default_factory=TargetSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    draw: DrawSettings = field(default_factory=DrawSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    limit: int | None = None
    null: bool = False
    exclude: str | None = None
    shard: str | None = None

    def options(self) -> dict[str, Any]:
        """Every resolved option by its long name, as plain JSON: ``options`` of the report."""
        flat: dict[str, Any] = {"inputs": list(self.inputs), "limit": self.limit, "exclude": self.exclude}
        flat["shard"] = self.shard
        for part in (self.model, self.target, self.runtime, self.draw, self.output):
            for name in (each.name for each in fields(part)):
                value = getattr(part, name)
                if name == "method_named":
                    continue
                if name == "params":
                    flat.update(value)
                else:
                    flat[LONG_NAMES.get(name, name)] = list(value) if isinstance(value, tuple) else value
        return flat

    def option_files(self, digest: Callable[[str], str | None]) -> dict[str, str]:
        """Digests of the files that options name, such as a table of labels, by path.

        Not of the network and its class names, which the report identifies by what is read from them; nor of the first
        run of a comparison, with which its second is continued.
        """
        found = {}
        folder, own = os.path.split(os.path.normpath(self.output.out))
        first = os.path.join(folder, "a", _RECORDS) if own == "b" else None
        for name, value in self.options().items():
            if name in FREE_OPTIONS or name in {"model", "checkpoint", "labels"}:
                continue
            for text in value if isinstance(value, (list, tuple)) else (value,):
                for path in files_named(text) if isinstance(text, str) else ():
                    known = None if os.path.normpath(path) == first else digest(path)
                    if known is not None:
                        found[path] = known
        return found


_RECORDS = "records.jsonl"


def files_named(text: str) -> list[str]:
    """Files that an option names: itself, the records of a run, within a target a picture, a mask, a file of code, or
    within ``NAME:OPTION=VALUE,...`` a value.

    Paths stand as they do in the text, but for records and for modules of dotted names.
    """
    sides = text.removeprefix("diff:").split(",") if text.startswith("diff:") else []
    values = [piece.partition("=")[2] for piece in text.split(",") if "=" in piece]
    found = []
    for part in (text, *map(str.strip, [*sides, *values])):
        place = part.rpartition(":")[0]
        module = getattr(sys.modules.get(place), "__file__", None)
        mask = part.partition("@mask:")[2]
        run = part.strip().removeprefix("run:").strip() if part.strip().startswith("run:") else ""
        candidates = (
            part,
            part.removeprefix("similar:"),
            place * place.endswith(".py"),
            module,
            mask,
            mask.rpartition("#")[0],
            run and os.path.join(os.path.dirname(run) if os.path.isfile(run) else run, _RECORDS),
        )
        found += [path for path in candidates if path and os.path.isfile(path)]
    return list(dict.fromkeys(found))


LONG_NAMES = {"layers": "layer", "classes": "class", "targets": "target", "metrics": "metric"}
"""Options by the fields of the settings that are called otherwise."""
# Options that cannot change a result: a run may be resumed with others.
FREE_OPTIONS = frozenset(
    "out resume overwrite fail_fast cache device compile batch_size workers inputs limit png_level".split()
)


def check_seed(seed: int) -> None:
    """NumPy, scikit-learn and torch take the numbers of 32 bits, and not all of them more.

    Raises:
        CnnvizError: It is none of these.
    """
    if not isinstance(seed, int) or not 0 <= seed < 1 << 32:
        raise CnnvizError(f"--seed {shown(seed)}: expected a whole number from 0 to {(1 << 32) - 1}.", "Try --seed 1")


def parse_save(text: str) -> tuple[str, ...]:
    """``overlay,heatmap`` as a tuple.

    Raises:
        CnnvizError: An unknown kind, or ``none`` beside others.
    """
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in SAVE_KINDS:
            hint = nearest(kind, SAVE_KINDS) or f"Choose any of {','.join(SAVE_KINDS)}."
            raise CnnvizError(f"--save {text}: {kind!r} is no kind of file.", hint)
    if "none" in kinds and len(kinds) > 1:
        raise CnnvizError(f"--save {text}: 'none' stands alone.", "Leave it out, or use --save none.")
    if not kinds:
        raise CnnvizError("--save needs at least one kind.", f"Choose any of {','.join(SAVE_KINDS)}.")
    return () if kinds == ("none",) else kinds


def listed(texts: Iterable[str]) -> list[str]:
    """``a,b:x=1,y=2,c`` as ``a``, ``b:x=1,y=2`` and ``c``: a part that is an option belongs to the name before it."""
    found: list[str] = []
    for part in (piece.strip() for text in texts for piece in text.split(",")):
        if found and "=" in part and ":" not in part.partition("=")[0]:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def parse_augment(texts: str | Iterable[str]) -> tuple[str, ...]:
    """The augmentations that ``flip,zoom`` names, each once, in the order of :data:`AUGMENTATIONS`.

    Raises:
        CnnvizError: An unknown name, with near matches.
    """
    named = {
        check_choice(name, AUGMENTATIONS, "--augment") for name in listed([texts] if isinstance(texts, str) else texts)
    }
    return tuple(name for name in AUGMENTATIONS if name in named)


def parse_scale(text: str) -> tuple[float, float] | None:
    """Limits of ``fixed:a,b``; None for ``image`` and ``run``.

    Raises:
        CnnvizError: Another word, or limits that are no two growing numbers.
    """
    if text in {"image", "run"}:
        return None
    kind, _, rest = text.partition(":")
    parts = rest.split(",")
    if kind != "fixed" or len(parts) != 2:
        raise CnnvizError(f"--scale {text}: expected image, run or fixed:a,b.", "For example --scale fixed:0,12.5")
    low, high = _numbers(parts, f"--scale {text}", "fixed:0,12.5")
    if not low < high:
        raise CnnvizError(f"--scale {text}: the first limit must be below the second.", "For example fixed:0,12.5")
    return low, high


_BETWEEN = re.compile(r",|(?<=\d)x(?=\d)")
_EXAMPLES = {"--input-size": "224", "--mean": "0.485,0.456,0.406", "--std": "0.229,0.224,0.225"}


def parse_numbers(text: str, flag: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    """``a,b,c`` as numbers; ``counts`` are the accepted lengths."""
    example = _EXAMPLES[flag.removesuffix("-b")]
    values = _numbers(_BETWEEN.split(text), f"{flag} {text}", f"{flag} {example}")
    if len(values) not in counts:
        raise CnnvizError(
            f"{flag} {text}: expected {' or '.join(map(str, counts))} numbers, got {len(values)}.",
            f"For example {flag} {example}",
        )
    return values


def parse_input_size(text: str, flag: str = "--input-size") -> tuple[int, ...]:
    """``224``, ``224,320`` (height, width) or ``3,224,224`` as (channels, height, width) or (height, width)."""
    values = parse_numbers(text, flag, (1, 2, 3))
    if any(v < 1 or not v.is_integer() for v in values):
        raise CnnvizError(f"{flag} {text}: sizes are whole numbers above 0.", f"For example {flag} 224")
    sizes = tuple(int(v) for v in values)
    return (sizes[0], sizes[0]) if len(sizes) == 1 else sizes


def _numbers(parts: list[str], what: str, example: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        wrong = next(part for part in parts if not is_number(part))
        raise CnnvizError(f"{what}: {wrong!r} is not a number.", f"For example {example}") from None


def is_number(text: str) -> bool:
    """Whether a text is a number as Python reads one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_skipped(names: Iterable[str]) -> tuple[str, ...]:
    """The checks that ``--skip-check`` names, each once; hyphens and underscores are the same.

    Raises:
        CnnvizError: An unknown name, with near matches.
    """
    return tuple(dict.fromkeys(check_choice(name.replace("-", "_"), CHECKS, "--skip-check") for name in listed(names)))


def check_choice(value: str, choices: tuple[str, ...], flag: str) -> str:
    """``value`` when it is among ``choices``.

    Raises:
        CnnvizError: With the near matches.
    """
    if value in choices:
        return value
    hint = nearest(value, choices) or f"For example {flag} {choices[0]}"
    raise CnnvizError(f"{flag} {value}: expected one of {', '.join(choices)}.", hint)
