"""The Python interface: ``load_model`` and ``explain``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut, cut_for, without_layer
from cnnviz.engine.examine import Examination, Wanted, examine
from cnnviz.engine.kept_sessions import KeptSessions
from cnnviz.engine.layer_table import LayerRow, layer_table
from cnnviz.engine.open_session import SessionOptions, open_session, probe_image
from cnnviz.engine.precision import AGREEMENT, correlation, opened, smooth_probe
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import CallableTarget, Target
from cnnviz.errors import CnnvizError, nearest
from cnnviz.explanation import Explanation as Explanation
from cnnviz.explanation import at_shape, caveats, explained_by, joined
from cnnviz.methods.explain import explain_batch
from cnnviz.models import preprocess
from cnnviz.models.graph.layers import LayerRef, reference, stages
from cnnviz.models.loading.dtypes import in_float32
from cnnviz.models.loading.given import answers_of
from cnnviz.models.loading.load import LoadedModel, load, unwrap
from cnnviz.registry import lookup
from cnnviz.registry.specs import Options
from cnnviz.registry.tasks import TaskRequest
from cnnviz.run.background import handed_over, read_background
from cnnviz.run.picture_vectors import PictureVectors
from cnnviz.settings import (
    ACTIVATIONS,
    COMPILE_MODES,
    TRACING_MODES,
    ModelSpec,
    check_choice,
    parse_augment,
    parse_skipped,
)
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.dense_words import has_places, placed_target
from cnnviz.tasks.probe_target import something_of
from cnnviz.tasks.text_words import each_with_its_text, taking_images, text_target
from cnnviz.tasks.words import TargetLike, check_target, check_unit, make_target, read_elsewhere, readout_of

# Of explain's options, those that belong to the pass and not to the method.
_GENERAL = ("score", "logits_key", "activation", "skip_check", "task", "question", "augment")
# A session of a call, and what is to be known of how this call got it.
_Opened = tuple[Session, tuple[str, ...]]


class Model:
    """A loaded network. It keeps what was prepared for each (layer, precision, device, compilation), for batches of any
    size where a check finds that it holds for them.

    Attributes:
        module: The network, in evaluation mode with frozen parameters.
        labels: Class names by index.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.module: nn.Module = loaded.module
        self.labels: tuple[str, ...] = loaded.labels
        self._sessions = KeptSessions(self.module, loaded.name, loaded.preprocess)

    def __repr__(self) -> str:
        return f"Model({self.loaded.name!r}, weights={self.loaded.weights!r}, classes={self.loaded.num_classes})"

    def transform(self, image: Any) -> Tensor:
        """A picture as the network wants it: PIL image or uint8 array [H, W, 3] -> float32 [C, H, W]."""
        rgb = np.ascontiguousarray(image.convert("RGB") if hasattr(image, "convert") else image, dtype=np.uint8)
        if rgb.ndim != 3 or rgb.shape[2] != 3:
            raise CnnvizError(f"An image has shape [H, W, 3]; got {list(rgb.shape)}.", "Convert it to RGB first.")
        pixels, _ = preprocess.prepare(rgb, self.loaded.preprocess)
        return preprocess.normalize(pixels[None], self.loaded.preprocess)[0]

    def layers(self) -> list[LayerRef]:
        """The convolutional stages that ``layer=-1``, ``-2`` ... name, input first; the last is the default."""
        loaded = self.loaded
        options = SessionOptions(logits_key=loaded.key, task=loaded.task, classes=(loaded.num_classes,))
        session = self.session(options, rt.resolve("cpu"), loaded.preprocess.input_size)
        if session.graph is None:
            return list(session.layers)
        graph = session.graph
        return [reference(graph, node) for node in stages(graph, self.loaded.name)]

    def layer_table(self) -> list[LayerRow]:
        """Every layer with shape, stride, receptive field, parameters; the rows of ``cnnviz layers``."""
        loaded = self.loaded
        return layer_table(self.module, loaded.name, loaded.preprocess.input_size, loaded.key, boxes=loaded.boxes)

    def session(self, options: SessionOptions, runtime: rt.Runtime, probe: tuple[int, ...]) -> Session:
        """The session for these options and this shape (C, H, W), prepared at the first call; the last are kept."""
        return self._sessions.get(options, runtime, probe)


def load_model(name: str = "efficientnet_lite0", *, weights: str | None = "DEFAULT", **options: Any) -> Model:
    """Load a network.

    Args:
        name: As ``--model``: a torchvision model, ``timm/NAME``, ``package.module:factory``, ``file.py:factory`` or
            ``FILE.onnx``.
        weights: ``"DEFAULT"``, a weights-enum member, or None for random (seeded) ones.
        options: The other model options by their long names: ``checkpoint``, ``num_classes``, ``labels``,
            ``input_size``, ``mean``, ``std``, ``channel_order``, ``resize``, ``no_crop``, ``trust_checkpoint``,
            ``seed``; and ``logits_key``; ``task``.

    Raises:
        CnnvizError: Unknown model or option, or weights that cannot be had; the message says what to do.
    """
    known, key = ModelSpec.__dataclass_fields__, options.pop("logits_key", None)
    task = lookup.read_task(options.pop("task", "auto"))
    for option in options:
        if option not in known:
            raise CnnvizError(f"load_model has no option {option!r}.", nearest(option, known))
    return Model(load(ModelSpec(model=name, weights="none" if weights is None else weights, **options), key, task))


def explain(
    model: Model | nn.Module,
    batch: Tensor,
    method: str = "gradcam",
    target: TargetLike = None,
    layer: str | int | Sequence[str] | None = None,
    precision: str = "fp32",
    device: str | torch.device | None = None,
    compile: str = "off",
    tracing: str = "auto",
    **method_options: Any,
) -> Explanation:
    """Explain a batch.

    Args:
        model: What :func:`load_model` returned (keeps what it prepared), or any ``nn.Module`` (left as found, also
            after an exception; one with other floats than float32 is explained as a copy, as ``notes`` say).
        batch: Float tensor [N, C, H, W], already preprocessed, in the network's own channel order.
        method: A name of :func:`cnnviz.list_methods`.
        target: None for the predicted class; a class index; one index an image (list or LongTensor [N]); a word:
            ``pred``, ``class:tabby``, ``diff:tabby,281`` (what speaks for the first rather than for the second),
            ``unit:layer4:17`` (the sum of a unit's map; ``unit:layer4:17/strongest``: its strongest position) or
            ``neuron:layer4:17:3:3`` (channel, row and column of one cell); of a network with scores at positions a
            class where it is found, ``class:car@all`` or ``class:car@box:x,y,w,h`` in pixels of the batch; of a
            detector ``box:2``, ``box:class=car``, ``box:x,y,w,h``, ``box:1/x0``; ``similar:FILE``, ``embedding:K``,
            ``file.py:function``; of ``task="caption"`` ``token:4``, ``token:dog``; with ``question=`` ``answer:red``; a
            :class:`cnnviz.extend.Target`; or a function of all that the network returns, ``function(output) -> [N]``.
        layer: Module path, negative stage index, or several; None for the tensor that feeds the head.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
        device: Where to compute; None for where the module is.
        compile: ``off``, ``on`` or ``auto`` (on where a compiler is).
        tracing: ``auto``; or ``off``: by hooks, for a network whose trace is suspected to be wrong.
        method_options: The method's, ``score``, ``logits_key``, ``activation``, ``task``, ``question``; ``augment``, of
            ``flip``, ``contrast`` and ``zoom`` (a name or several): maps are averaged over such copies of the images;
            and checks to omit, ``skip_check``.

    Raises:
        CnnvizError: Unknown method, option, layer or class; wrong shapes.
    """
    spec = lookup.find_method(method)
    general = {key: method_options.pop(key) for key in _GENERAL if key in method_options}
    activation = check_choice(general.get("activation") or "auto", ACTIVATIONS, "activation")
    params = spec.resolve_params(handed_over(method_options))
    augment = parse_augment(general.get("augment", ()))
    _check_batch(batch)
    asked = cut_for(spec, params, _layers(layer))
    without_layer(_layers(layer), {spec.name: asked})
    task = lookup.read_task(general["task"]) if "task" in general else _task_of(model)
    if not isinstance(model, Model):
        model = taking_images(unwrap(model), task, general.get("question"), batch[:1])
    tracing = "off" if task.writes else tracing  # a trace would keep the first text
    readout = readout_of(target, _vector_readout(task))
    how = _How(asked, readout, precision, device, compile, general.get("logits_key"), tracing, task)
    with _session(model, batch, spec, how) as (session, told):
        told = (*told, *caveats(session, (spec, params), target))
        exact = partial(_session, model, batch, spec, replace(how, precision="fp32", compile="off"))
        found = at_shape(_checks(session, told, exact, (spec, params), general.get("skip_check", ())), session, batch)
        params = _resolved(params, model)
        activation = session.final_activation or "softmax" if activation == "auto" else activation
        make = partial(explain_batch, spec, params=params, augment=augment)
        made = partial(_target, model, (general.get("score", "logit"), activation), task)

        def explained(images: Tensor, wanted: TargetLike) -> Explanation:
            run = session.forward(images)
            with rt.scope():
                chosen, indices = made(run, wanted)
                return explained_by(lambda at: make(at, chosen), run, chosen, indices, found)

        if task.writes:
            return joined(each_with_its_text(_module(model), batch, lambda image: explained(image, target)))
        if not session.one_by_one or len(batch) == 1:
            return explained(batch, target)
        # What an image gets must not depend on its batch, figures and facts of the method included.
        with rt.scope():
            whole, _ = made(session.forward(batch), target)
        return joined([explained(image, whole.for_image(i)) for i, image in enumerate(batch.split(1))])


def _target(
    model: Model | nn.Module, how: tuple[str, str], task: TaskRequest, run: ForwardPass, wanted: TargetLike
) -> tuple[Target, Tensor]:
    """The target of a pass over a batch, and the indices [N] that it explains.

    Args:
        model: The network.
        how: The score of a class, and how logits become probabilities.
        task: What the network is said to be for.
        run: The pass.
        wanted: As :func:`explain` has it.
    """
    vectors = _vectors(model, run.session)
    wanted = read_elsewhere(wanted, vectors, len(run.pixels)) or wanted
    if task.writes and not isinstance(wanted, Target) and run.session.readout == Readout.scores():
        return text_target(wanted, run, _module(model), how[0], vectors)
    if has_places(wanted, run):
        return placed_target(wanted, run, how, getattr(model, "labels", ()), task.options)
    chosen, indices = make_target(wanted, run.chosen, *how, _class_finder(model))
    if isinstance(wanted, Target) or isinstance(chosen, CallableTarget):
        check_target(chosen, run.output, len(run.pixels))
    check_unit(chosen, how[0])
    return chosen, indices


def _vectors(model: Model | nn.Module, session: Session) -> PictureVectors:
    """Vectors of picture files."""
    output = session if session.readout == Readout.scores() else None
    preprocess = model.loaded.preprocess if isinstance(model, Model) else None
    return PictureVectors(preprocess, output, lambda cut, readout: session)


def _vector_readout(task: TaskRequest) -> Readout:
    """Where the network's vector of an image is read."""
    return Readout.scores() if task.spec is not None and task.spec.vectors else Readout.vector()


def _module(model: Model | nn.Module) -> nn.Module:
    return model.module if isinstance(model, Model) else model


def _task_of(model: Model | nn.Module) -> TaskRequest:
    """What a network was said to be for when it was loaded."""
    return model.loaded.task if isinstance(model, Model) else TaskRequest()


def _resolved(params: Options, model: Model | nn.Module) -> Options:
    """Options with the classes and pictures that they name, of a network whose names and preprocessing are known."""
    if not isinstance(model, Model):
        return params
    known = params.with_classes(_class_finder(model))
    return known.with_pictures(partial(read_background, preprocess=model.loaded.preprocess))


def _class_finder(model: Model | nn.Module) -> Callable[[str], int]:
    """The index of a class by its name, where the names are known; they are sorted out only when one is asked for."""
    if not isinstance(model, Model):
        answers = answers_of(model)
        return (lambda name: ClassNames(answers, False).resolve(name)) if answers else int
    return lambda name: ClassNames(model.labels, len(model.labels) == 1).resolve(name)


def _examined(session: Session, spec: lookup.MethodSpec, params: Options, skip: str | Sequence[str]) -> Examination:
    """The examination of a session's network, once for each kind of question; what it found is told."""
    names = parse_skipped((skip,) if isinstance(skip, str) else skip)
    gradient, seed = spec.backward != "0", int(getattr(params, "seed", 0))
    wanted = Wanted(spec.name, gradient, skip=names, seed=seed)

    def made() -> Examination:
        with rt.scope():
            found = examine(session, probe_image(session.input_shape), wanted)
        for text in (*session.notes, *found.notes):
            _tell(text)
        return found

    return session.remember(f"examination {gradient} {sorted(names)} {seed}", made)


def _checks(
    session: Session,
    told: tuple[str, ...],
    exact: Callable[[], contextlib.AbstractContextManager[_Opened]],
    how: tuple[lookup.MethodSpec, Options],
    skip: str | Sequence[str],
) -> Examination:
    """The examination of a session's network, with the agreement of its precision with float32 where it has another."""
    found = _examined(session, *how, skip)
    # Of this call alone: others may share its session.
    found = replace(found, notes=(*told, *found.notes))
    for text in found.notes:
        _tell(text)
    if session.runtime.precision == "fp32" or "precision_agreement" in found.not_run:
        return found
    with exact() as (other, _):
        return _with_agreement(found, session, other, how)


def _with_agreement(
    found: Examination, session: Session, exact: Session, how: tuple[lookup.MethodSpec, Options]
) -> Examination:
    """What was found, with how far the map of a probe is from that in float32; told below 0.99."""
    spec, params = how
    cheap = spec.dry_run(params)

    def measured() -> float:
        probe = smooth_probe(session.input_shape)
        maps = []
        with rt.scope():
            target: Target | None = None
            for each in (exact, session):
                run = each.forward(probe)
                target = target or something_of(run)
                maps.append(explain_batch(spec, run, target, cheap).values)
        return correlation(maps[1], maps[0])

    value = session.remember(f"agreement {spec.name} {cheap}", measured)
    if value >= AGREEMENT:
        return found.with_agreement(value, "")
    name = session.runtime.precision
    note = f"in {name} the map of a probe correlates only {value:.3g} with that in float32: use precision='fp32'"
    _tell(note)
    return found.with_agreement(value, "", (note,))


@lru_cache(maxsize=256)
def _tell(text: str) -> None:
    """A note to the log, once a process: Python shows it on standard error unless told otherwise."""
    logging.getLogger("cnnviz").warning(text)


def _check_batch(batch: Tensor) -> None:
    if not isinstance(batch, Tensor) or batch.dim() != 4 or not batch.is_floating_point():
        what = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise CnnvizError(
            f"explain takes a float tensor [N, C, H, W], already preprocessed; got {what}.",
            "model.transform(image) makes one image; stack them with torch.stack.",
        )
    if batch.shape[0] == 0:
        raise CnnvizError("The batch is empty.", "Pass at least one image.")


def _layers(layer: str | int | Sequence[str] | None) -> tuple[str, ...]:
    if layer is None:
        return ()
    return (str(layer),) if isinstance(layer, (str, int)) else tuple(str(name) for name in layer)


@dataclass(frozen=True)
class _How:
    """How a network is opened: where it is cut and read, and in what it computes."""

    cut: Cut
    readout: Readout
    precision: str
    device: str | torch.device | None
    compile: str
    logits_key: str | None
    tracing: str
    task: TaskRequest


@contextlib.contextmanager
def _session(model: Model | nn.Module, batch: Tensor, spec: lookup.MethodSpec, how: _How) -> Iterator[_Opened]:
    check_choice(how.compile, COMPILE_MODES, "compile")
    check_choice(how.tracing, TRACING_MODES, "tracing")
    probe = tuple(int(size) for size in batch.shape[1:])
    module, told = (model.module, None) if isinstance(model, Model) else in_float32(unwrap(model), batch)
    here = next((p.device for p in module.parameters()), batch.device)
    runtime = rt.resolve(str(how.device or here), how.precision)
    compiled = how.compile == "on" or (how.compile == "auto" and rt.compiler_here(runtime.device))
    size = int(batch.shape[0]) if compiled else 16
    # Here nobody continues a run, and one image should not take the time of eight.
    options = SessionOptions(
        how.cut, how.logits_key, compiled, size, readout=how.readout, tracing=how.tracing, repeatable=False,
        task=how.task,
    )  # fmt: skip
    if isinstance(model, Model):
        loaded = model.loaded
        key = how.logits_key if how.logits_key is not None else loaded.key
        wanted = replace(options, logits_key=key, classes=(loaded.num_classes,))
        yield opened(lambda each: model.session(wanted, each, probe), runtime)
        return
    inference = any(p.is_inference() for p in module.parameters())
    private = compiled or inference or runtime.precision != "fp32" or not rt.same_device(runtime.device, here)
    # Many passes pay for a faster private copy.
    private = private or spec.forward != "1"
    name = type(module).__name__
    with contextlib.ExitStack() as stack:
        choices = replace(options, private=private)
        session, fallen_back = opened(
            lambda each: stack.enter_context(open_session(module, name, probe, each, choices)), runtime
        )
        yield session, (*fallen_back, *([] if told is None else [told]))
