"""The options that all commands which run a model share: declared once, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

import typer

from cnnviz.cli.values import long_name
from cnnviz.errors import CnnvizError
from cnnviz.settings import (
    ACTIVATIONS,
    CHECKS,
    COMPILE_MODES,
    IMAGE_FORMATS,
    SCORES,
    TRACING_MODES,
    VIEWS,
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RuntimeSettings,
    TargetSettings,
    check_choice,
    parse_input_size,
    parse_numbers,
    parse_save,
    parse_scale,
    parse_skipped,
)

_INPUT, _MODEL, _WHAT, _SPEED, _OUTPUT = "Input", "Model", "What to explain", "Speed", "Output"


def _option(*flags: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class Shared:
    """Values of the shared options, in the order of the help page. A trailing underscore avoids a keyword."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Image, folder, glob, .txt or .csv list, URL (s3://, zip://, https://), or - for paths on "
            "standard input.",
            show_default=False,
        ),
    ] = None
    null: Annotated[
        bool,
        _option("--null", "-0", panel=_INPUT, help="Paths on standard input end in NUL, not in a newline."),
    ] = False
    limit: Annotated[int | None, _option("--limit", panel=_INPUT, metavar="N", help="Stop after N images.")] = None
    config: Annotated[
        str | None,
        _option(
            "--config",
            panel=_INPUT,
            metavar="FILE",
            help="YAML file with any of these options by their long names; the command line wins.",
        ),
    ] = None

    model: Annotated[
        str,
        _option(
            "--model",
            "-m",
            panel=_MODEL,
            metavar="NAME",
            help="torchvision name, timm/NAME, package.module:factory or file.py:factory.",
        ),
    ] = "efficientnet_lite0"
    weights: Annotated[
        str,
        _option(
            "--weights",
            panel=_MODEL,
            metavar="W",
            help="DEFAULT, a member of torchvision's weights enum, or none (random, seeded).",
        ),
    ] = "DEFAULT"
    checkpoint: Annotated[
        str | None,
        _option("--checkpoint", panel=_MODEL, metavar="FILE", help="State dict: .pth, .pt or .safetensors."),
    ] = None
    trust_checkpoint: Annotated[
        bool,
        _option(
            "--trust-checkpoint",
            panel=_MODEL,
            help="Load a pickle that runs code. Only for files you trust as you trust a program.",
        ),
    ] = False
    num_classes: Annotated[
        int | None, _option("--num-classes", panel=_MODEL, metavar="N", help="Number of classes.")
    ] = None
    labels: Annotated[
        str | None,
        _option(
            "--labels",
            panel=_MODEL,
            metavar="FILE",
            help="Class names: one a line, JSON, YAML or CSV. [default: from the weights]",
        ),
    ] = None
    input_size: Annotated[
        str | None,
        _option("--input-size", panel=_MODEL, metavar="S|H,W|C,H,W", help="Pixels. [default: from the weights]"),
    ] = None
    mean: Annotated[
        str | None,
        _option("--mean", panel=_MODEL, metavar="R,G,B", help="Mean, pixels 0 to 1. [default: from the weights]"),
    ] = None
    std: Annotated[
        str | None,
        _option("--std", panel=_MODEL, metavar="R,G,B", help="Deviation. [default: from the weights]"),
    ] = None
    resize: Annotated[
        int | None,
        _option(
            "--resize",
            panel=_MODEL,
            metavar="N",
            help="Pixels of the shorter side, before the crop or of the whole picture. [default: from the weights]",
        ),
    ] = None
    view: Annotated[
        str,
        _option(
            "--view",
            panel=_MODEL,
            metavar="|".join(VIEWS),
            help="What the network is shown: the weights' own centre crop; overlapping crops at that scale over the "
            "whole picture, their maps joined; the whole picture at its aspect ratio; or pressed into the input size.",
        ),
    ] = "crop"
    no_crop: Annotated[bool, _option("--no-crop", panel=_MODEL, help="Short for --view whole.")] = False
    logits_key: Annotated[
        str | None,
        _option(
            "--logits-key", panel=_MODEL, metavar="KEY", help="Key or index of the class scores in the model's output."
        ),
    ] = None
    activation: Annotated[
        str,
        _option(
            "--activation",
            panel=_MODEL,
            metavar="|".join(ACTIVATIONS),
            help="How scores become probabilities; auto reads it off the network.",
        ),
    ] = "auto"

    layer: Annotated[
        list[str] | None,
        _option(
            "--layer",
            "-l",
            panel=_WHAT,
            metavar="NAME",
            help="Target layer by module path, or -1, -2, … for stages from the end; repeatable. "
            "[default: the last convolutional stage]",
        ),
    ] = None
    target_: Annotated[
        list[str] | None,
        _option(
            "--target",
            "-t",
            panel=_WHAT,
            metavar="SPEC",
            help="class:SPEC, as --class; or diff:A,B: what speaks for class A rather than for class B (each an "
            "index, a label or pred); repeatable.",
        ),
    ] = None
    class_: Annotated[
        list[str] | None,
        _option(
            "--class",
            "-c",
            panel=_WHAT,
            metavar="SPEC",
            help="Index, label, pred, top:K, folder, FILE.csv or all; repeatable. [default: pred]",
        ),
    ] = None
    score: Annotated[str, _option("--score", panel=_WHAT, metavar="|".join(SCORES), help="What is explained.")] = (
        "logit"
    )
    top: Annotated[
        int, _option("--top", panel=_WHAT, metavar="K", help="Predictions that a record lists, 1 or more.")
    ] = 5
    sanity: Annotated[
        bool,
        _option(
            "--sanity",
            panel=_WHAT,
            help="Make the layers random from the top and say how alike the map stays (Adebayo et al. 2018).",
        ),
    ] = False
    seed: Annotated[int, _option("--seed", panel=_WHAT, metavar="N", help="Seeds every random choice, 0 or more.")] = 0

    device: Annotated[
        str, _option("--device", "-d", panel=_SPEED, metavar="DEV", help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto"
    precision: Annotated[str, _option("--precision", panel=_SPEED, metavar="P", help="fp32, bf16, fp16 or auto.")] = (
        "fp32"
    )
    compile: Annotated[
        str,
        _option(
            "--compile",
            panel=_SPEED,
            metavar="|".join(COMPILE_MODES),
            help="Compile the part below the target layer.",
        ),
    ] = "auto"
    skip_check: Annotated[
        list[str] | None,
        _option(
            "--skip-check",
            panel=_MODEL,
            metavar="NAME",
            help=f"Leave out a check of the network before the run: {', '.join(CHECKS)}; repeatable.",
        ),
    ] = None
    tracing: Annotated[
        str,
        _option(
            "--tracing",
            panel=_MODEL,
            metavar="|".join(TRACING_MODES),
            help="off: hooks only, for a network whose trace is suspected to be wrong.",
        ),
    ] = "auto"
    batch_size: Annotated[
        str, _option("--batch-size", "-b", panel=_SPEED, metavar="N|auto", help="Images in a batch.")
    ] = "auto"
    workers: Annotated[
        int | None,
        _option(
            "--workers",
            "-j",
            panel=_SPEED,
            metavar="N",
            help="Threads that decode and encode. [default: from the CPU count]",
        ),
    ] = None

    out: Annotated[
        str | None,
        _option(
            "--out",
            "-o",
            panel=_OUTPUT,
            metavar="DIR",
            help="Output folder, or - for one picture on standard output. [default: cnnviz-out/COMMAND]",
        ),
    ] = None
    resume: Annotated[bool, _option("--resume", panel=_OUTPUT, help="Continue the run in the folder.")] = False
    overwrite: Annotated[bool, _option("--overwrite", panel=_OUTPUT, help="Replace the run in the folder.")] = False
    save: Annotated[
        str | None,
        _option(
            "--save",
            panel=_OUTPUT,
            metavar="KINDS",
            help="Any of overlay,heatmap,raw,panel,gradient,none. [default: overlay,heatmap; with -o -: overlay]",
        ),
    ] = None
    scale: Annotated[
        str,
        _option(
            "--scale",
            panel=_OUTPUT,
            metavar="SCALE",
            help="Value range of the colours: each image's own (image), one for the run (run), or fixed:LOW,HIGH.",
        ),
    ] = "image"
    colormap: Annotated[
        str,
        _option(
            "--colormap",
            panel=_OUTPUT,
            metavar="NAME",
            help="turbo, viridis, jet, … auto: turbo, and coolwarm for maps with a sign.",
        ),
    ] = "auto"
    alpha: Annotated[float, _option("--alpha", panel=_OUTPUT, metavar="A", help="Weight of the map, 0 to 1.")] = 0.5
    image_format: Annotated[
        str,
        _option("--image-format", panel=_OUTPUT, metavar="|".join(IMAGE_FORMATS), help="Of overlay and panel."),
    ] = "png"
    png_level: Annotated[int, _option("--png-level", panel=_OUTPUT, metavar="N", help="Compression, 0 to 9.")] = 1
    legend: Annotated[
        bool,
        _option(
            "--legend", panel=_OUTPUT, help="Add a band below overlays: class, probability, colours with their values."
        ),
    ] = False
    draw_box: Annotated[
        bool,
        _option("--draw-box", panel=_OUTPUT, help="Draw the box of the largest region above 20 % of the maximum."),
    ] = False
    fail_fast: Annotated[bool, _option("--fail-fast", panel=_OUTPUT, help="Stop at the first input that fails.")] = (
        False
    )
    json_: Annotated[
        bool, _option("--json", panel=_OUTPUT, help="Print the run's summary as JSON on standard output.")
    ] = False
    quiet: Annotated[bool, _option("--quiet", "-q", panel=_OUTPUT, help="Print errors only.")] = False
    verbose: Annotated[
        bool, _option("--verbose", "-v", panel=_OUTPUT, help="Print every input, and tracebacks of errors.")
    ] = False

    def __post_init__(self) -> None:
        at_least = {"limit": 1, "num_classes": 1, "resize": 1, "top": 1, "seed": 0, "workers": 1}
        for name, low in at_least.items():
            _check_range(name, getattr(self, name), low, None)
        _check_range("alpha", self.alpha, 0, 1)
        _check_range("png_level", self.png_level, 0, 9)
        check_choice(self.compile, COMPILE_MODES, "--compile")
        check_choice(self.activation, ACTIVATIONS, "--activation")
        check_choice(self.tracing, TRACING_MODES, "--tracing")
        check_choice(self.score, SCORES, "--score")
        check_choice(self.view, VIEWS, "--view")
        check_choice(self.image_format, IMAGE_FORMATS, "--image-format")
        parse_scale(self.scale)
        if self.resume and self.overwrite:
            raise CnnvizError("--resume and --overwrite exclude each other.", "Leave one of them out.")
        if self.out == "-" and (self.json_ or self.resume or self.overwrite):
            raise CnnvizError(
                "-o - writes a picture to standard output and nothing else.",
                "Leave out --json, --resume and --overwrite, or give -o a folder.",
            )

    def require_inputs(self, command: str) -> None:
        """Raises a CnnvizError when no INPUT was given."""
        if not self.inputs:
            raise CnnvizError(
                "No INPUT was given.",
                f"Name an image or a folder: cnnviz {command} photos/ (or 'inputs' in --config)",
            )

    def model_spec(self) -> ModelSpec:
        """The model options, parsed."""
        return ModelSpec(
            model=self.model,
            weights=self.weights,
            checkpoint=self.checkpoint,
            trust_checkpoint=self.trust_checkpoint,
            num_classes=self.num_classes,
            labels=self.labels,
            input_size=None if self.input_size is None else parse_input_size(self.input_size),
            mean=None if self.mean is None else parse_numbers(self.mean, "--mean", (1, 3)),
            std=None if self.std is None else parse_numbers(self.std, "--std", (1, 3)),
            resize=self.resize,
            view=self.view,
            no_crop=self.no_crop,
            seed=self.seed,
        )

    def target(self, method: str, params: Mapping[str, Any]) -> TargetSettings:
        """What is explained, by which method."""
        return TargetSettings(
            method=method,
            params=params,
            layers=tuple(self.layer or ()),
            classes=tuple(self.class_ or (() if self.target_ else ("pred",))),
            targets=tuple(self.target_ or ()),
            score=self.score,
            logits_key=self.logits_key,
            activation=self.activation,
            top=self.top,
            sanity=self.sanity,
        )

    def runtime(self) -> RuntimeSettings:
        """Where and how fast."""
        return RuntimeSettings(
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            batch_size=_batch_size(self.batch_size),
            workers=self.workers,
            seed=self.seed,
            skip_check=parse_skipped(self.skip_check or ()),
            tracing=self.tracing,
        )

    def draw(self) -> DrawSettings:
        """What is drawn."""
        # Not at the top: it brings NumPy and OpenCV, for which --help must not wait.
        from cnnviz.render.colormap import AUTO, COLORMAPS

        return DrawSettings(
            save=parse_save(self._default_save() if self.save is None else self.save),
            scale=self.scale,
            colormap=check_choice(self.colormap, (AUTO, *COLORMAPS), "--colormap"),
            alpha=self.alpha,
            image_format=self.image_format,
            png_level=self.png_level,
            legend=self.legend,
            draw_box=self.draw_box,
        )

    def _default_save(self) -> str:
        return "overlay" if self.out == "-" else "overlay,heatmap"

    def output_settings(self, command: str) -> OutputSettings:
        """Where results go."""
        return OutputSettings(
            out=self.out or f"cnnviz-out/{command}",
            resume=self.resume,
            overwrite=self.overwrite,
            fail_fast=self.fail_fast,
        )


@cache
def shared_annotations() -> dict[str, Any]:
    """``Annotated`` type of each shared option by field name."""
    hints = get_type_hints(Shared, include_extras=True)
    return {field.name: hints[field.name] for field in fields(Shared)}


def reworded(annotation: Any, text: str, metavar: str | None = None) -> Any:
    """The annotation of a shared option with another help text, and another word for its value."""
    kind, option = get_args(annotation)
    other = copy(option)
    other.help, other.metavar = text, metavar or option.metavar
    return Annotated[kind, other]


def _check_range(name: str, value: float | None, low: float, high: float | None) -> None:
    if value is None or (low <= value and (high is None or value <= high)):
        return
    expected = f"{low} or more" if high is None else f"{low} to {high}"
    flag = f"--{long_name(name)}"
    raise CnnvizError(f"{flag} {value}: expected {expected}.", f"For example {flag} {low if high is None else high}")


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise CnnvizError(f"--batch-size {text}: expected a number above 0, or auto.", "For example --batch-size 16")
    return int(text)
