"""What every report of a run begins with: what was asked for, the network, where it was computed."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from cnnviz.schema.boxes import Boxes
from cnnviz.schema.images import Figure, View
from cnnviz.schema.shapes import Count, Sha256, Shape, Size


class Preprocessing(TypedDict):
    """How images are brought to what the network takes."""

    resize: int | Size | None
    """Length of the shorter side in pixels, or ``[height, width]``; null leaves the size alone."""
    view: View
    """What of an image the network is shown, as for a record."""
    interpolation: str
    """How pixels are interpolated."""
    mean: list[float]
    """What is subtracted from pixels between 0 and 1, a value a channel in the order R, G, B."""
    std: list[float]
    """What they are divided by afterwards, a value a channel."""
    channel_order: Literal["rgb", "bgr"]
    """Order in which the network gets the channels; mean and deviation are in R, G, B in any case."""


class OtherOutput(TypedDict):
    """Another floating-point tensor that the network returns."""

    key: str | None
    """Dotted path to it in what the network returns."""
    shape: list[int]
    """Its shape for one image."""


class Output(TypedDict):
    """Which of the network's outputs is explained."""

    key: str | None
    """Dotted path to it in what the network returns; null where there is nothing else."""
    shape: list[int]
    """Its shape for one image."""
    why: str
    """Why it is this one."""
    guessed: bool
    """Whether nobody said so."""
    others: list[OtherOutput]
    """The other tensors."""


class InputSizes(TypedDict):
    """Which input sizes the network takes, as far as a few trials tell."""

    takes: str
    """In words: ``any``, ``multiples of N`` or ``fixed``."""
    any: bool
    """Whether height and width are free."""
    multiple_of: Count
    """Both are multiples of this number of pixels: 1 where they are free, 0 where they are fixed."""
    minimum: Count
    """The smallest side in pixels that was tried and works."""


class Checks(TypedDict):
    """What an examination on a probe found, before the first image. A check that was not made is null."""

    output: Output | None
    """Which of the network's outputs is explained."""
    deterministic: bool | None
    """Whether two passes over the same input agree."""
    batch_independent: bool | None
    """Whether an image gives beside two others what it gives alone; where not, images run one by one."""
    gradient_reaches_layer: bool | None
    """Whether the class score has a gradient at the target layer."""
    precision_agreement: float | None
    """Correlation of the map of a probe in the chosen precision with that in float32, at most 1."""
    input_sizes: InputSizes | None
    """Which input sizes the network takes."""
    not_run: dict[str, str]
    """Why a check was not made, by its name."""


class Model(TypedDict):
    """The network."""

    name: str
    """Name of the network."""
    source: str
    """Where it comes from: ``bundled``, ``torchvision``, ``timm``, ``factory``, ``file`` or ``onnx``."""
    weights: str | None
    """Name of the weights, ``none``, or a checkpoint's file; null where a factory chose them."""
    weights_sha256: Sha256
    """Digest of all parameters and buffers: two runs with equal digests used the same network."""
    source_sha256: Sha256 | None
    """Digest of the Python files of the network's own code; null where it has none."""
    labels_sha256: Sha256
    """Digest of the class names, in order."""
    parameters: Count
    """How many numbers were trained."""
    num_classes: Count
    """How many classes it tells apart."""
    task: str
    """What it is for: ``classify``, ``segment``, ``detect``, or a task of another package."""
    boxes: NotRequired[Boxes]
    """Of ``detect``: how boxes are read from its output."""
    input_size: Shape
    """``[channels, height, width]`` that it is given."""
    layers: list[str]
    """The target layers, by the names that ``--layer`` takes."""
    preprocess: Preprocessing
    """How images are brought to what it takes."""
    notes: list[str]
    """What was found or guessed while loading."""
    checks: Checks
    """What an examination on a probe found."""


class Environment(TypedDict):
    """Where and how it was computed."""

    python: str
    """Version of Python."""
    torch: str
    """Version of PyTorch."""
    torchvision: str
    """Version of torchvision."""
    timm: str
    """Version of timm."""
    device: str
    """The device, as PyTorch names it."""
    precision: str
    """Number format of the network: ``fp32``, ``bf16`` or ``fp16``, and what is kept in float32."""
    preparation: str
    """``packed``, ``folded`` or ``compiled`` (batch normalisation folded into convolutions), ``plain`` or ``shared``
    (the network as it is), ``hooks`` (a network that could not be traced)."""
    compiled_kernels: NotRequired[list[str]]
    """What C that was compiled on that machine computed when the run was prepared: ``convolutions`` (of 3 x 3, with
    fewer products), ``occlusion`` (what windows change). Empty without a C compiler, with ``CC=false``, and where it is
    of no use. Results differ in the last digits."""


class PrecisionChoice(TypedDict):
    """What ``--precision auto`` chose."""

    chosen: str
    """The precision of the run."""
    why: str
    """Why, in words."""
    milliseconds: dict[str, float]
    """Of a forward pass over one image in a batch, by precision; of those that were timed."""


class Header(TypedDict):
    """What every report has."""

    schema: Literal["cnnviz.report/1"]
    """The version of this format."""
    cnnviz: str
    """The version of cnnviz."""
    command: str
    """The command that ran."""
    command_line: NotRequired[str]
    """The whole command, as one types it again: options that are not at their defaults, without ``--out``."""
    figures: NotRequired[list[Figure]]
    """The pictures of the whole run that its page shows, where there are any."""
    options: dict[str, Any]
    """Every option by its long name, with the value that was used; null means that the default was found by other
    means, such as from the weights."""
    option_files_sha256: dict[str, Sha256]
    """Digest of each file that an option names (such as ``--class FILE.csv``), by path; of the photographs that
    ``--background`` names one over their files."""
    model: Model
    """The network."""
    environment: Environment
    """Where and how it was computed."""
    precision_choice: NotRequired[PrecisionChoice]
    """Of ``--precision auto``: what was chosen when the run began, and why. A run that is continued keeps it."""
