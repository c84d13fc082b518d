"""The options that all commands which run a model share: declared once, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cnnviz.cli.options import Option, flag, options_of, positional
from cnnviz.cli.values import channel_order_of, long_name
from cnnviz.errors import CnnvizError
from cnnviz.registry.specs import CommandSpec, StudySpec
from cnnviz.settings import (
    ACTIVATIONS,
    AUGMENTATIONS,
    CHANNEL_ORDERS,
    CHECKS,
    COMPILE_MODES,
    IMAGE_FORMATS,
    OUTCOMES,
    SCORES,
    TRACING_MODES,
    VIEWS,
    DrawSettings,
    ModelSpec,
    RuntimeSettings,
    TargetSettings,
    check_choice,
    listed,
    parse_augment,
    parse_input_size,
    parse_numbers,
    parse_save,
    parse_scale,
    parse_skipped,
)

_INPUT, _MODEL, _WHAT, _SPEED, _OUTPUT = "Input", "Model", "What to explain", "Speed", "Output"


@dataclass(frozen=True)
class Shared:
    """Values of the shared options, in the order of the help page. A trailing underscore avoids a keyword."""

    inputs: list[str] | None = positional(
        None,
        "Image, folder, glob, archive (.tar, .zip), list (.txt, .csv, .tsv), URL (s3://, https://, …), or - for "
        "paths on standard input.",
        "INPUT...",
        panel=_INPUT,
    )
    null: bool = flag(False, "Paths on standard input end in NUL, not in a newline.", panel=_INPUT, short="-0")
    limit: int | None = flag(None, "Stop after N images.", "N", panel=_INPUT)
    exclude: str | None = flag(
        None,
        "Leave out the images that this list names, one a line: paths (from the list, from here, or from INPUT), file "
        "names, or numbers of ImageNet's validation set.",
        "FILE",
        panel=_INPUT,
    )
    shard: str | None = flag(
        None,
        "Explain only share I of N, told by the name of each image; auto: what SLURM, Kubernetes or CI says. Writes to "
        "a folder of its own below --out; cnnviz merge joins them.",
        "I/N|auto",
        panel=_INPUT,
    )
    executor: str | None = flag(
        None, "Explain N shares by Ray, and join them. [default N: machines, or cards]", "ray[:N]", panel=_INPUT
    )
    config: str | None = flag(
        None, "YAML file with any of these options by their long names; the command line wins.", "FILE", panel=_INPUT
    )

    model: str = flag(
        "efficientnet_lite0",
        "torchvision name, timm/NAME, package.module:factory, file.py:factory or FILE.onnx.",
        "NAME",
        panel=_MODEL,
        short="-m",
    )
    weights: str = flag(
        "DEFAULT", "DEFAULT, a member of torchvision's weights enum, or none (random, seeded).", "W", panel=_MODEL
    )
    checkpoint: str | None = flag(None, "State dict: .pth, .pt or .safetensors.", "FILE", panel=_MODEL)
    trust_checkpoint: bool = flag(
        False, "Load a pickle that runs code. Only for files you trust as you trust a program.", panel=_MODEL
    )
    num_classes: int | None = flag(None, "Number of classes.", "N", panel=_MODEL)
    labels: str | None = flag(
        None, "Class names: one a line, JSON, YAML or CSV. [default: from the weights]", "FILE", panel=_MODEL
    )
    question: str | None = flag(None, "What a model that answers questions is asked.", "TEXT", panel=_MODEL)
    input_size: str | None = flag(None, "Pixels. [default: from the weights]", "S|H,W|C,H,W", panel=_MODEL)
    mean: str | None = flag(None, "Mean, pixels 0 to 1. [default: from the weights]", "R,G,B", panel=_MODEL)
    std: str | None = flag(None, "Deviation. [default: from the weights]", "R,G,B", panel=_MODEL)
    channel_order: str | None = flag(
        None,
        "Of the network's input. --mean and --std stay in R,G,B. [default: from the weights]",
        "|".join(CHANNEL_ORDERS),
        panel=_MODEL,
    )
    resize: int | None = flag(
        None,
        "Pixels of the shorter side, before the crop or of the whole picture. [default: from the weights]",
        "N",
        panel=_MODEL,
    )
    view: str = flag(
        "crop",
        "What the network is shown: the weights' own centre crop; overlapping crops at that scale over the "
        "whole picture, their maps joined; the whole picture at its aspect ratio; or pressed into the input size.",
        "|".join(VIEWS),
        panel=_MODEL,
    )
    no_crop: bool = flag(False, "Short for --view whole.", panel=_MODEL)
    logits_key: str | None = flag(None, "Key or index of the class scores in the model's output.", "KEY", panel=_MODEL)
    task: str = flag(
        "auto",
        "What the model is for: classify, segment, detect; auto tells it by the output. regress: numbers that are no "
        "classes, and embed: a vector, and caption: text; auto never takes them. Options stand behind it: "
        "detect:score=0.3,iou=0.5,form=yolov5.",
        "TASK[:OPTION=VALUE,...]",
        panel=_MODEL,
    )
    activation: str = flag(
        "auto", "How scores become probabilities; auto reads it off the network.", "|".join(ACTIVATIONS), panel=_MODEL
    )
    skip_check: list[str] | None = flag(
        None, f"Leave out checks of the network before the run, with commas: {', '.join(CHECKS)}.", "NAME", panel=_MODEL
    )
    tracing: str = flag(
        "auto",
        "off: hooks only, for a network whose trace is suspected to be wrong.",
        "|".join(TRACING_MODES),
        panel=_MODEL,
    )

    layer: list[str] | None = flag(
        None,
        "Target layer by module path, or -1, -2, … for stages from the end; repeatable. "
        "[default: the last convolutional stage]",
        "NAME",
        panel=_WHAT,
        short="-l",
    )
    target_: list[str] | None = flag(
        None,
        "class:SPEC, as --class; diff:A,B: what speaks for class A rather than for class B (each an "
        "index, a label or pred); unit:LAYER:K: a unit of a layer (unit:LAYER:K/strongest: its strongest "
        "position); neuron:LAYER:K:ROW:COLUMN; output:K or -output:K: what raises or lowers an output of --task "
        "regress; similar:FILE: what makes it like another picture; embedding:K; file.py:function of the model's whole "
        "output; token:N, token:WORD, caption; answer:NAME; repeatable.",
        "SPEC",
        panel=_WHAT,
        short="-t",
    )
    class_: list[str] | None = flag(
        None,
        "Index, label, pred, top:K, folder, FILE.csv (.tsv), truth (what --truth marks) or all; several with commas, "
        "or repeatable. [default: pred]",
        "SPEC",
        panel=_WHAT,
        short="-c",
    )
    only: str | None = flag(
        None,
        "Explain only the images that the network gets wrong, the map of the truth beside that of the prediction; or "
        "only those that it gets right. The truth is that of --class folder, --class FILE, a list with labels, or "
        "--truth.",
        "|".join(OUTCOMES),
        panel=_WHAT,
    )
    score: str = flag("logit", "What is explained.", "|".join(SCORES), panel=_WHAT)
    top: int = flag(5, "Predictions that a record lists, 1 or more.", "K", panel=_WHAT)
    metric: list[str] | None = flag(
        None,
        "Measure this of each map too, with its interval over the run (cnnviz metrics lists them); several with "
        "commas, or repeatable.",
        "NAME[:OPTION=VALUE,...]",
        panel=_WHAT,
    )
    truth: str | None = flag(
        None,
        "Where objects are in the images: COCO JSON, VOC or ImageNet XML (a file or a folder), ImageNet's LOC CSV, a "
        "folder of wsolevaluation's lists, or of masks LABEL/IMAGE.png.",
        "PATH",
        panel=_WHAT,
    )
    truth_classes: str | None = flag(
        None,
        "Which classes of the model the labels of --truth mean, where they are not called the same: a YAML or JSON "
        "file, LABEL: [CLASS, ...]; or coco, for COCO's labels and ImageNet's classes.",
        "FILE|coco",
        panel=_WHAT,
    )
    augment: list[str] | None = flag(
        None,
        "Average each map over changed copies of the image: its mirror image, other contrasts, its middle enlarged.",
        ",".join(AUGMENTATIONS),
        panel=_WHAT,
    )
    sanity: bool = flag(
        False,
        "Make the layers random from the top and say how alike the map stays (Adebayo et al. 2018): "
        "--metric randomization.",
        panel=_WHAT,
    )
    seed: int = flag(0, "Seeds every random choice, 0 or more.", "N", panel=_WHAT)

    device: str = flag("auto", "auto, cpu, cuda, cuda:N or mps.", "DEV", panel=_SPEED, short="-d")
    precision: str = flag("fp32", "fp32, bf16, fp16, or auto: what is faster for this run.", "P", panel=_SPEED)
    compile: str = flag("auto", "Compile the part below the target layer.", "|".join(COMPILE_MODES), panel=_SPEED)

    batch_size: str = flag("auto", "Images in a batch.", "N|auto", panel=_SPEED, short="-b")
    workers: int | None = flag(
        None, "Threads that decode and encode. [default: from the CPU count]", "N", panel=_SPEED, short="-j"
    )

    out: str | None = flag(
        None,
        "Output folder, or - for one picture on standard output. [default: cnnviz-out/COMMAND]",
        "DIR",
        panel=_OUTPUT,
        short="-o",
    )
    resume: bool = flag(False, "Continue the run in the folder.", panel=_OUTPUT)
    overwrite: bool = flag(False, "Replace the run in the folder.", panel=_OUTPUT)
    save: str | None = flag(
        None,
        "Any of overlay,heatmap,raw,panel,boxes,segments,detections,gradient,none. [default: {}; with -o -: overlay; "
        "with --only wrong also panel]",
        "KINDS",
        panel=_OUTPUT,
    )
    scale: str = flag(
        "image",
        "Value range of the colours: each image's own (image), one for the run (run), or fixed:LOW,HIGH.",
        "SCALE",
        panel=_OUTPUT,
    )
    colormap: str = flag(
        "auto", "turbo, viridis, jet, … auto: turbo, and coolwarm for maps with a sign.", "NAME", panel=_OUTPUT
    )
    alpha: float = flag(0.5, "Weight of the map, 0 to 1.", "A", panel=_OUTPUT)
    image_format: str = flag("png", "Of overlay and panel.", "|".join(IMAGE_FORMATS), panel=_OUTPUT)
    png_level: int = flag(1, "Compression, 0 to 9.", "N", panel=_OUTPUT)
    legend: bool = flag(
        False, "Add a band below overlays: class, probability, colours with their values.", panel=_OUTPUT
    )
    draw_box: bool = flag(False, "Draw the box of the largest region above 20 % of the maximum.", panel=_OUTPUT)
    cache: str | None = flag(
        None,
        "Look up and keep results here. [default: CNNVIZ_CACHE_DIR; the user's cache where methods are compared]",
        "DIR",
        panel=_OUTPUT,
    )
    no_cache: bool = flag(False, "Compute everything.", panel=_OUTPUT)
    fail_fast: bool = flag(False, "Stop at the first input that fails.", panel=_OUTPUT)
    json_: bool = flag(False, "Print the run's summary as JSON on standard output.", panel=_OUTPUT)
    quiet: bool = flag(False, "Print errors only.", panel=_OUTPUT, short="-q")
    verbose: bool = flag(False, "Print every input, and tracebacks of unexpected errors.", panel=_OUTPUT, short="-v")

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
        if self.only is not None:
            check_choice(self.only, OUTCOMES, "--only")
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
            question=self.question,
            input_size=None if self.input_size is None else parse_input_size(self.input_size),
            mean=None if self.mean is None else parse_numbers(self.mean, "--mean", (1, 3)),
            std=None if self.std is None else parse_numbers(self.std, "--std", (1, 3)),
            channel_order=channel_order_of(self.channel_order),
            resize=self.resize,
            view=self.view,
            no_crop=self.no_crop,
            seed=self.seed,
        )

    def target(self, spec: CommandSpec, params: Mapping[str, Any]) -> TargetSettings:
        """What is explained, by which command."""
        return TargetSettings(
            method=spec.name,
            params=params,
            layers=tuple(self.layer or ()),
            classes=self._classes(spec),
            targets=tuple(self.target_ or ()),
            score=self.score,
            logits_key=self.logits_key,
            activation=self.activation,
            top=self.top,
            metrics=tuple(listed(self.metric or ())),
            truth=self.truth,
            truth_classes=self.truth_classes,
            only=self.only,
            task=self.task,
            augment=parse_augment(self.augment or ()),
            sanity=self.sanity,
        )

    def _classes(self, spec: CommandSpec) -> tuple[str, ...]:
        if self.class_ or self.target_:
            return tuple(self.class_ or ())
        return spec.usual_classes(self.truth)

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

    def draw(self, spec: CommandSpec) -> DrawSettings:
        """What is drawn."""
        # Not at the top: it brings NumPy and OpenCV, for which --help must not wait.
        from cnnviz.render.colormap import AUTO, COLORMAPS

        return DrawSettings(
            save=parse_save(self._default_save(spec) if self.save is None else self.save),
            scale=self.scale,
            colormap=check_choice(self.colormap, (AUTO, *COLORMAPS), "--colormap"),
            alpha=self.alpha,
            image_format=self.image_format,
            png_level=self.png_level,
            legend=self.legend,
            draw_box=self.draw_box,
        )

    def _default_save(self, spec: CommandSpec) -> str:
        if self.out == "-":
            return spec.default_picture if self.only != "wrong" else "panel"
        draws_panels = not isinstance(spec, StudySpec) and "panel" not in spec.default_save
        beside = ("panel",) if self.only == "wrong" and draws_panels else ()
        return ",".join((*spec.default_save, *beside))


@cache
def shared_options() -> Mapping[str, Option]:
    """The shared options by field name."""
    return options_of(Shared)


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
