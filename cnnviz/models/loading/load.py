"""A network ready to be explained, from any of the ways in which people keep one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from cnnviz.errors import CnnvizError, counted, foreign_code
from cnnviz.io.label_files import ClassNames, read_class_names
from cnnviz.models.graph.any_size import stride_at_any_size
from cnnviz.models.graph.outputs import OutputChoice, choose_output
from cnnviz.models.loading import zoo
from cnnviz.models.loading.carried_names import Offered
from cnnviz.models.loading.checkpoint import Checkpoint, read_checkpoint
from cnnviz.models.loading.checkpoint_fit import classes_in, load_checkpoint
from cnnviz.models.loading.factories import attribute_of, called, import_place, importable, words_of
from cnnviz.models.loading.given import answerer, answers_of, captioner, vocabulary_of
from cnnviz.models.loading.inputs import cannot_run
from cnnviz.models.loading.labels import numbered
from cnnviz.models.loading.listed_boxes import class_count, lists_boxes, with_rows, without_background
from cnnviz.models.loading.trained import from_checkpoint, is_trained
from cnnviz.models.loading.transforms import from_timm
from cnnviz.models.loading.unwrap import unwrap as unwrap
from cnnviz.models.loading.unwrap import unwrap_parts
from cnnviz.models.onnx_files.read import SUFFIX, read_onnx
from cnnviz.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, override
from cnnviz.registry.box_forms import BoxForm
from cnnviz.registry.tasks import TaskRequest
from cnnviz.settings import ModelSpec as ModelSpec

RANDOM = "the weights are random: predictions mean nothing"
_MOST_CLASSES = 1_000_000
# Numbers that stand for the classes of a detector whose output does not say how many there are.
_UNNAMED = 1000
# Of detectors that resize their images themselves.
_USUAL_STRIDE = 32
_NO_TASK = TaskRequest()
_IMAGENET = Preprocess((3, 224, 224), 256, IMAGENET_MEAN, IMAGENET_STD, "bilinear")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode, float32, on the host, its parameters frozen; and what it expects and names.

    Args:
        source: ``"bundled"``, ``"torchvision"``, ``"timm"``, ``"factory"``, ``"file"`` or ``"onnx"``.
        weights: Name of the weights, ``"none"``, a checkpoint's file name, or None if a factory chose them.
        parameters: How many numbers were trained.
        notes: What the record should say.
        synsets: WordNet ids of the classes, where they are known.
        output: Where the class scores are in what it returns; None where that is not known yet.
        task: What it is said to be for.
        question: What it is asked, where it is asked anything.
        files: All that it was read from; None where that is not known.
    """

    module: nn.Module
    preprocess: Preprocess
    labels: tuple[str, ...]
    name: str
    source: str
    weights: str | None
    num_classes: int
    parameters: int
    notes: tuple[str, ...] = ()
    output: OutputChoice | None = None
    synsets: tuple[str, ...] = ()
    task: TaskRequest = field(default_factory=TaskRequest)
    question: str | None = None
    files: tuple[str, ...] | None = None

    @property
    def key(self) -> str | None:
        """Path to the class scores in what it returns; None where it returns nothing else, or nobody has looked."""
        return None if self.output is None else self.output.key

    @property
    def boxes(self) -> BoxForm | None:
        """How its output has candidates for boxes; None where it has none, or nobody has looked."""
        return None if self.output is None else self.task.boxes(self.output.shape, (self.num_classes,))


@dataclass(frozen=True, eq=False)
class _Built:
    """A network before it is frozen, with what came along."""

    module: nn.Module
    name: str
    source: str
    weights: str | None
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    num_classes: int | None = None  # None: ask the network
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None
    offered: Offered | None = None  # by the checkpoint


def load(spec: ModelSpec, output: str | None = None, task: TaskRequest = _NO_TASK) -> LoadedModel:
    """Make, fill and freeze the network that the options describe.

    Args:
        spec: The options.
        output: Path to the class scores in what the network returns, as ``--logits-key``.
        task: What the network is said to be for, as ``--task``.

    Raises:
        CnnvizError: with the remedy, if any option does not fit.
    """
    if spec.num_classes is not None and spec.num_classes < 1:
        raise CnnvizError(f"--num-classes {spec.num_classes} is less than 1", "give --num-classes 10")
    if spec.num_classes is not None and spec.num_classes > _MOST_CLASSES:
        raise CnnvizError(f"--num-classes {spec.num_classes} is more than {_MOST_CLASSES}", "give --num-classes 10")
    with importable(Path.cwd()):
        file = spec.checkpoint
        is_onnx = spec.model.lower().endswith(SUFFIX)
        checkpoint = None if file is None or is_onnx else read_checkpoint(file, trust=spec.trust_checkpoint)
        if is_onnx:
            built = _from_onnx(spec)
        elif checkpoint is not None and is_trained(checkpoint):
            built = _from_trained(spec, checkpoint)
        elif checkpoint is not None and checkpoint.module is not None:
            built = _from_whole(spec, checkpoint, checkpoint.module)
        elif ":" in spec.model and not spec.model.startswith("timm/"):
            built = _from_factory(spec, checkpoint)
        else:
            built = _from_zoo(spec, checkpoint)
        return _finish(spec, built, output, task)


def _check_count(spec: ModelSpec, name: str, count: int) -> None:
    if spec.num_classes is not None and spec.num_classes != count:
        wanted = counted(spec.num_classes, "class")
        raise CnnvizError(
            f"{name} has {counted(count, 'class')}, --num-classes asks for {spec.num_classes}",
            f"leave --num-classes out, or give weights for {wanted} with --checkpoint FILE",
        )


def _finish(spec: ModelSpec, built: _Built, key: str | None, task: TaskRequest) -> LoadedModel:
    module, notes = unwrap(built.module), list(built.notes)
    if module is not built.module:
        notes.append(f"unwrapped {type(module).__name__} from {type(built.module).__name__}")
    unwrap_parts(module)
    module = module.to("cpu").float().eval().requires_grad_(False)
    preprocess = override(
        built.preprocess,
        input_size=spec.input_size,
        resize=spec.resize,
        mean=spec.mean,
        std=spec.std,
        view=spec.view,
        channel_order=spec.channel_order,
    )
    module, built = _given(module, built, spec, task, preprocess)
    asked = built.num_classes is None or key or task.spec is not None
    choice, listed = None, False
    if asked:
        module, choice, listed = _probe(module, preprocess, key, _widths(spec))
    if preprocess.view == "whole":
        notes += [f"the weights of {built.name} crop nothing: --view whole"] if spec.view == "crop" else []
        stride = _USUAL_STRIDE if listed else stride_at_any_size(module, built.name, preprocess.input_size)
        preprocess = replace(preprocess, stride=stride)
    count = choice.classes if choice is not None else built.num_classes or 0
    if choice is not None:
        known = (len(built.labels), *_widths(spec), class_count(module) or 0)
        count = _counted(task.boxes(choice.shape, known), known, count)
    if listed:
        notes.append("boxes of which the labels count from 1, as torchvision's: class 0 has the label 1")
    else:
        _check_count(spec, built.name, count)
    names = _class_names(spec, built, count, listed)
    notes.extend(names.notes)
    return LoadedModel(
        module=module,
        preprocess=preprocess,
        labels=names.names,
        name=built.name,
        source=built.source,
        weights=built.weights,
        num_classes=len(names.names) if listed else count,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        notes=tuple(notes),
        output=choice,
        synsets=names.synsets,
        task=task,
        question=spec.question,
        files=built.files,
    )


def _given(
    module: nn.Module, built: _Built, spec: ModelSpec, task: TaskRequest, preprocess: Preprocess
) -> tuple[nn.Module, _Built]:
    """The network as one that takes images alone, with the words that it chooses from, where it takes more."""
    if task.writes:
        noise = torch.randn((1, *preprocess.input_size), generator=torch.Generator().manual_seed(0))
        made = captioner(module, noise)
        return made, replace(built, labels=vocabulary_of(made), num_classes=None, offered=None)
    if spec.question is not None:
        made = answerer(module, spec.question)
        return made, replace(built, labels=answers_of(made), num_classes=None, offered=None)
    return module, built if task.spec is None or task.spec.classes else replace(built, offered=None)


def _counted(form: BoxForm | None, names: tuple[int, ...], count: int) -> int:
    """How many classes there are: a detector's output has other numbers beside them, or does not say it."""
    if form is None:
        return count
    return form.classes or next(filter(None, names), _UNNAMED)


def _class_names(spec: ModelSpec, built: _Built, count: int, listed: bool) -> ClassNames:
    if spec.labels is not None and listed:
        found = read_class_names(spec.labels)
        return ClassNames(without_background(found.names), notes=found.notes)
    if spec.labels is not None:
        names = read_class_names(spec.labels, count)
    elif built.offered is not None and not listed:
        names = built.offered.names(built.labels, count)
    else:
        names = ClassNames(built.labels if len(built.labels) == count else numbered(count))
    return names if names.synsets else replace(names, synsets=zoo.synsets_of(names.names))


def _from_zoo(spec: ModelSpec, checkpoint: Checkpoint | None) -> _Built:
    channels = spec.input_size[0] if spec.input_size is not None and len(spec.input_size) == 3 else 3
    recipe = zoo.find(spec.model, spec.weights, channels)
    labels = recipe.labels
    notes: tuple[str, ...] = ()
    weights = recipe.weights or "none"
    files: tuple[str | Path, ...] | None = () if spec.checkpoint is None else (spec.checkpoint,)
    if checkpoint is not None:
        keys = frozenset(part for key in checkpoint.tensors for part in _tails(key))
        module, notes = _filled(spec, checkpoint, lambda classes: recipe.build(classes, keys))
        weights = checkpoint.path.name
        labels = () if zoo.is_none(spec.weights) else labels
    elif recipe.weights is None:
        module = _seeded(spec.seed, lambda: recipe.build(spec.num_classes, frozenset()))
        labels, notes = (), (RANDOM,)
    else:
        if labels:
            _check_count(spec, recipe.name, len(labels))  # before anything is downloaded
        module = recipe.pretrained()
        files = recipe.files()
    count = None if zoo.detects(recipe.name) else _declared(module)
    read = None if files is None else tuple(map(str, files))
    offered = None if checkpoint is None else Offered(checkpoint.path.name, checkpoint.names, recipe.weights or "")
    return _Built(module, recipe.name, recipe.source, weights, recipe.preprocess, labels, count, notes, read, offered)


def _tails(key: str) -> Iterator[str]:
    """``module.aux1.conv`` is also ``aux1.conv``: prefixes are only known once there is a network."""
    parts = key.split(".")
    return (".".join(parts[start:]) for start in range(min(len(parts), 4)))


def _filled(
    spec: ModelSpec, checkpoint: Checkpoint, build: Callable[[int | None], nn.Module]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with the checkpoint's weights, built with as many classes as these have."""
    module = _seeded(spec.seed, lambda: build(spec.num_classes))
    notes: tuple[str, ...] = ()
    target = unwrap(module)
    found = classes_in(checkpoint, target) if spec.num_classes is None else None
    if found is not None:
        module = _seeded(spec.seed, lambda: build(found))
        target = unwrap(module)
        notes = (f"built with {counted(found, 'class')}, as {checkpoint.path.name} has",)
    return module, (*notes, *load_checkpoint(checkpoint, target))


def _from_factory(spec: ModelSpec, checkpoint: Checkpoint | None) -> _Built:
    place, _, attribute = spec.model.rpartition(":")
    with importable(Path(place).resolve().parent) if place.endswith(".py") else contextlib.nullcontext():
        factory = attribute_of(import_place(place), attribute, spec.model)
        if isinstance(factory, nn.Module):
            module = factory
            if checkpoint is not None:
                load_checkpoint(checkpoint, unwrap(module))
            notes: tuple[str, ...] = ()
        elif checkpoint is not None:
            module, notes = _filled(spec, checkpoint, lambda classes: called(factory, classes, spec.model))
        else:
            module, notes = _seeded(spec.seed, lambda: called(factory, spec.num_classes, spec.model)), ()
    preprocess, said = _guessed(module, spec)
    weights = checkpoint.path.name if checkpoint is not None else None
    offered = None if checkpoint is None else Offered(checkpoint.path.name, checkpoint.names)
    return _Built(module, spec.model, "factory", weights, preprocess, notes=(*notes, *said), offered=offered)


def _from_whole(spec: ModelSpec, checkpoint: Checkpoint, module: nn.Module) -> _Built:
    notes = (*checkpoint.notes, "--model is not used")
    (preprocess, said), path = _guessed(module, spec), checkpoint.path
    offered = Offered(path.name, checkpoint.names)
    return _Built(module, path.stem, "file", path.name, preprocess, notes=(*notes, *said), offered=offered)


def _from_trained(spec: ModelSpec, checkpoint: Checkpoint) -> _Built:
    network, source, notes = from_checkpoint(checkpoint)
    plan = network.plan
    name, file, count = f"{plan.arch}-{plan.head}", checkpoint.path.name, len(plan.classes)
    if spec.model not in (plan.arch, ModelSpec.model):
        notes = (*notes, f"--model is not used: {file} says that it is {plan.arch}, cut and trained")
    files = None if source == "onnx" else (str(checkpoint.path),)
    return _Built(network, name, source, file, plan.preprocess, plan.classes, count, notes, files)


def _from_onnx(spec: ModelSpec) -> _Built:
    given = {"checkpoint": spec.checkpoint, "trust-checkpoint": spec.trust_checkpoint or None}
    given["weights"] = None if spec.weights == ModelSpec.weights else spec.weights
    for name, value in given.items():
        if value is not None:
            raise CnnvizError(
                f"--{name} does not go with --model {spec.model}: an ONNX file holds its weights.",
                f"Leave --{name} out.",
            )
    network, path = read_onnx(spec.model, spec.input_size), Path(spec.model)
    notes = network.notes
    offered = Offered(path.name, network.names, kind="file")
    assumed = [name for name in ("mean", "std", "channel_order") if getattr(spec, name) is None]
    if assumed:
        notes = (*notes, f"preprocessing assumed to be ImageNet's ({', '.join(assumed)}): an ONNX file does not say it")
    preprocess = override(_IMAGENET, input_size=network.input_size)
    if override(preprocess, input_size=spec.input_size).input_size != network.input_size:
        rows, columns = network.input_size[1:]
        notes = (*notes, f"{path.name} says {rows} x {columns} pixels, and was compared with onnxruntime at these")
    return _Built(network.module, path.stem, "onnx", path.name, preprocess, offered.only, None, notes, None, offered)


def _guessed(module: nn.Module, spec: ModelSpec) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing of a network that nothing is known about: timm's note on it, or ImageNet's."""
    inner = unwrap(module)
    config = getattr(inner, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return from_timm(config), ()
    first = next((part for part in inner.modules() if isinstance(part, nn.Conv2d)), None)
    grey = first is not None and first.in_channels == 1
    base = override(_IMAGENET, input_size=(1, 224, 224)) if grey else _IMAGENET
    given = [name for name in ("input_size", "mean", "std", "resize") if getattr(spec, name) is not None]
    assumed = [name for name in ("input_size", "mean", "std") if name not in given]
    note = f"preprocessing assumed to be ImageNet's ({', '.join(assumed)})"
    return base, (note,) if assumed else ()


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build with random weights from the seed; the caller's random state stays what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that seeds accelerators as well
        return build()


def _declared(module: nn.Module) -> int | None:
    """Class number of a torchvision or timm network: its last linear layer or 1x1 convolution."""
    count = getattr(module, "num_classes", None)
    if isinstance(count, int):
        return count or None  # timm's 0: features instead of classes
    last = [part for part in module.modules() if isinstance(part, (nn.Linear, nn.Conv2d))][-1:]
    return next((p.out_features if isinstance(p, nn.Linear) else p.out_channels for p in last), None)


def _widths(spec: ModelSpec) -> tuple[int, ...]:
    """Numbers of classes that the options speak of."""
    if spec.num_classes is not None:
        return (spec.num_classes,)
    if spec.labels is None:
        return ()
    with contextlib.suppress(CnnvizError):  # a file that cannot be read is refused where it is read
        return (count := len(read_class_names(spec.labels).names), count - 1)  # its first line may be a header
    return ()


def _probe(
    module: nn.Module, preprocess: Preprocess, key: str | None, widths: tuple[int, ...]
) -> tuple[nn.Module, OutputChoice, bool]:
    """The class scores, and so the class number, by running the network once on zeros; and the network, which is given
    an output of one shape where it lists boxes.
    """
    image = torch.zeros(1, *preprocess.input_size)
    try:
        with torch.no_grad(), foreign_code():
            value = module(image)
    except Exception as error:  # the user's network runs here
        otherwise = CnnvizError(
            f"the network does not take an input of {'x'.join(map(str, preprocess.input_size))}: {words_of(error)}",
            "give --input-size C,H,W as it was trained",
        )
        raise cannot_run(module, "the network", error, otherwise) from error
    if listed := lists_boxes(value):
        module = with_rows(module, image)
        with torch.no_grad(), foreign_code():
            value = module(image)
    leaf = image.clone().requires_grad_()
    return module, choose_output(value, key, widths, lambda: module(leaf * 1)), listed
