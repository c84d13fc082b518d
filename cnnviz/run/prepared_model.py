"""The network of a run: loaded, placed, prepared for its layers, its classes named; shared by maps and studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.examine import SKIPPED, Examination, Wanted, examine
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.precision import Maps, opened, settle
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import ImageError
from cnnviz.models.loading.digests import labels_sha256, weights_sha256
from cnnviz.models.loading.load import LoadedModel, load
from cnnviz.records import ClassScore, PredictionScore, Record, RunHeader
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, MethodSpec, StudySpec
from cnnviz.run.compilation import compiled_if_faster
from cnnviz.run.halving import Halving
from cnnviz.run.header import environment_of, run_header
from cnnviz.run.images import DecodedImage, alike, failed, view_facts
from cnnviz.run.other_size import check_other_size
from cnnviz.run.outcomes import Verdict, skipped, verdict_of
from cnnviz.run.picture_vectors import PictureVectors
from cnnviz.run.precision_choice import opened_as_asked
from cnnviz.run.task_choice import boxes_of, class_count, labels_of, made_task, selector_of, task_of, told
from cnnviz.run.truth_classes import annotations_of, truth_classes_of
from cnnviz.settings import ACTIVATIONS, COMPILE_MODES, RunSettings, check_choice
from cnnviz.tasks.base import Predictions, Selected, Selector, Task, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_selection import TargetSelector
from cnnviz.tasks.classification import Classification
from cnnviz.tasks.detection import Detection
from cnnviz.tasks.elsewhere import noun_of, plural

R = TypeVar("R")


class PreparedModel:
    """Loads the model and prepares it, before anything is written.

    Args:
        settings: What was asked for.
        cut: Where the network is cut.
        total: Number of inputs if known: decides whether compilation pays.
        note: Told what the user should know.
        adapt: Changes the loaded network before it is prepared.
        spec: What it is examined for; None for the entry of the run.

    Raises:
        CnnvizError: The model, the layer or the class cannot be had.
    """

    def __init__(
        self,
        settings: RunSettings,
        cut: Cut,
        total: int | None,
        note: Callable[[str], None],
        adapt: Callable[[LoadedModel], LoadedModel] = lambda loaded: loaded,
        spec: CommandSpec | None = None,
    ) -> None:
        self.settings, self.total = settings, total
        self._halving = Halving(self)
        self._spec = spec or lookup.find_entry(settings.target.method)
        self.note = note
        self.say = note
        self.annotations = annotations_of(settings.target)
        check_choice(settings.target.activation, ACTIVATIONS, "--activation")
        check_choice(settings.runtime.compile, COMPILE_MODES, "--compile")
        self.runtime = rt.resolve(settings.runtime.device, settings.runtime.precision)
        self.lanes = rt.lanes(self.runtime.device)
        self.batch_size = settings.runtime.batch_size or self._default_batch_size(total)
        self.asked_task = lookup.read_task(settings.target.task)
        self.loaded, self._weights = self.read(adapt)
        for text in self.loaded.notes:
            note(text)
        self.preprocess = self.loaded.preprocess
        self.session, self._choice = opened_as_asked(self, cut, total)
        self.batch_size = settings.runtime.batch_size or self._default_batch_size(total)
        if self.asked_task.writes:
            self.batch_size = 1  # each image has a text of its own
        self.examination = self.examined()
        if self.session.graph is None:
            # Hooks sit on the one module: batches must take turns.
            self.lanes = self.lanes.one
        with rt.threads(self.lanes.threads):
            self.session = compiled_if_faster(self, cut, total)
        for text in (*self.session.notes, *self.examination.notes):
            note(text)
        if self.preprocess.view == "whole":
            check_other_size(self)
        self._name_and_read()
        self.truth_classes = truth_classes_of(self.annotations, self.classes, settings.target, note)
        self.target_selector = self._selector()
        self._other_layers: list[str] = []
        if not self._explains_classes:
            self._in_float32(cut)

    def _name_and_read(self) -> None:
        """What the network is for, and what its classes are called."""
        asked, session = self.settings.target, self.session
        outputs = class_count(session, self.loaded)
        of_classes = self.asked_task.spec is None or self.asked_task.spec.classes
        self.one_logit = outputs == 1 and session.boxes is None and of_classes
        self.guesses: list[str] = []
        names = labels_of(self.loaded, self.settings.model.labels, outputs)
        self.classes = ClassNames(names, self.one_logit, self.loaded.synsets, self._guessed)
        self.asked_classes = self.classes.each(asked.classes)
        self.asked_targets = self.classes.each_target(asked.targets)
        self.task_spec = task_of(self._spec, session, self.asked_task, names, self.note)
        self.activation = asked.activation
        if self.activation == "auto":
            self.activation = session.final_activation or "softmax"
        how = (asked.score, self.activation)
        self.task: Task = made_task(self.task_spec, self.classes, how, session, self.loaded)
        if isinstance(self.task, Detection):
            self.note(told(self.task, session.output.shape))

    def _selector(self) -> Selector:
        asked = self.settings.target
        vectors = PictureVectors(self.preprocess, self.session if self.task_spec.vectors else None, self._exact)
        said = (self.asked_classes, self.asked_targets)
        return selector_of(self.task, Words(*said, self.truth_classes, asked.only, vectors))

    @property
    def _elsewhere(self) -> list[str]:
        """What is read elsewhere, in words."""
        return list(dict.fromkeys(plural(noun_of(each)) for each in self.target_selector.elsewhere))

    @property
    def classification(self) -> Classification:
        """The task, where it is that of class scores for the whole image."""
        assert isinstance(self.task, Classification)
        return self.task

    def read(self, adapt: Callable[[LoadedModel], LoadedModel]) -> tuple[LoadedModel, Future[str]]:
        """The network, and the digest of its weights to come."""
        loaded = adapt(load(self.settings.model, self.settings.target.logits_key, self.asked_task))
        # Beside the preparation: a large network takes a second.
        return loaded, ThreadPoolExecutor(1).submit(weights_sha256, loaded.module)

    def forward(self, session: Session, pixels: Tensor) -> ForwardPass:
        """One pass over a normalised batch by a session of this network, which is seen from now on."""
        if (task := getattr(self, "task", None)) is not None:
            task.begin(pixels)
        return session.forward(pixels)

    def examined(self) -> Examination:
        """Look the network over, and run it as it must be run."""
        spec, how = self._spec, self.settings.runtime
        gradient = isinstance(spec, MethodSpec) and spec.backward != "0"
        wanted = Wanted(spec.name, gradient, isinstance(spec, StudySpec), how.skip_check, how.seed)
        with rt.threads(self.lanes.threads):
            found = examine(self.session, self.probe(1), wanted)
        if self.session.one_by_one:
            self.batch_size = 1
        if "precision_agreement" in how.skip_check:
            return found.with_agreement(None, SKIPPED)
        exact = self.runtime.precision == "fp32"
        return found.with_agreement(None, "the network runs in float32" if exact else f"{spec.name} compares no maps")

    def _default_batch_size(self, total: int | None) -> int:
        """Few inputs are shared out over the lanes."""
        size = rt.default_batch_size(self.runtime.device, self.runtime.precision)
        return size if total is None else max(1, min(size, -(-total // self.lanes.count)))

    def _guessed(self, text: str) -> None:
        """Tell how a class was understood, and keep it for the report."""
        self.guesses.append(text)
        self.note(text)

    def open_elsewhere(self, cut: Cut, readout: Readout) -> Session:
        """A session that is read elsewhere, in float32: how a lower precision does there was not measured.

        Raises:
            CnnvizError: There is nothing to read, or nothing below it to explain it by.
        """
        session = self._exact(cut, readout)
        self._examine_elsewhere(session)
        self._other_layers += [layer.name for layer in session.layers if layer.name not in self._other_layers]
        return session

    def _exact(self, cut: Cut, readout: Readout) -> Session:
        """A session in float32, whatever is asked for."""
        before, self.runtime = self.runtime, rt.Runtime(self.runtime.device, "fp32")
        try:
            return self.open(cut, readout=readout)
        finally:
            self.runtime = before

    def _examine_elsewhere(self, session: Session) -> None:
        """Units may be reached by what the class scores are not: images that change each other, or no gradient."""
        spec, how = self._spec, self.settings.runtime
        gradient = isinstance(spec, MethodSpec) and spec.backward != "0"
        skip = {*how.skip_check, "output", "input_sizes"}
        with rt.threads(self.lanes.threads):
            found = examine(session, self.probe(1), Wanted(spec.name, gradient, skip=skip, seed=how.seed))
        if session.one_by_one:
            self.batch_size = 1
        for text in (*session.notes, *found.notes):
            if text not in (*self.session.notes, *self.examination.notes):
                self.note(text)
        self.examination = self.examination.with_units(found)

    def open(self, cut: Cut, *, compile_it: bool = False, readout: Readout = Readout.scores()) -> Session:  # noqa: B008
        """A session of this network, cut elsewhere, or read elsewhere."""
        loaded = self.loaded
        key = loaded.output.key if loaded.output is not None else self.settings.target.logits_key
        options = SessionOptions(
            cut, key, compile_it, self.batch_size, classes=(loaded.num_classes,), readout=readout, task=self.asked_task,
            tracing=self.settings.runtime.tracing,
        )  # fmt: skip
        # The text that a captioning network is given changes from image to image: a trace would keep the first.
        if self.asked_task.writes:
            options = replace(options, tracing="off", why_untraced="a trace would keep the text of one image")
        session, told = opened(
            lambda runtime: prepare(loaded.module, loaded.name, self.preprocess.input_size, runtime, options),
            self.runtime,
        )
        self.runtime = session.runtime
        session.notes.extend(told)
        session.of_pictures(self.preprocess)
        if (first := getattr(self, "session", None)) is not None:
            session.behave_like(first)
        return session

    def probe(self, count: int) -> Tensor:
        """Noise [count, C, H, W] that the network takes."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn((count, *self.preprocess.input_size), generator=generator)

    @property
    def _explains_classes(self) -> bool:
        """Whether the class scores are explained, and not units alone."""
        return self.target_selector.explains_scores or not self.target_selector.elsewhere

    def _in_float32(self, cut: Cut) -> None:
        """Leave the precision that was asked for where nothing is explained in it."""
        asked = self.runtime.precision
        if asked == "fp32":
            return
        self.runtime = rt.Runtime(self.runtime.device, "fp32")
        self.session = self.open(cut, compile_it=self.session.compiled)
        self.examination = self.examination.with_agreement(None, "the network runs in float32")
        self.note(f"{' and '.join(self._elsewhere)} are explained in float32: --precision {asked} is not used")

    def settle_precision(self, cut: Cut, maps: Maps) -> None:
        """Compare the map of a probe with that in float32, and keep in float32 what needs it."""
        if self.runtime.precision == "fp32" or "precision_agreement" in self.settings.runtime.skip_check:
            return

        def opens(runtime: rt.Runtime) -> Session:
            before, self.runtime = self.runtime, runtime
            try:
                return self.open(cut, compile_it=self.session.compiled)
            finally:
                self.runtime = before

        with rt.threads(self.lanes.threads):
            found = settle(self.session, opens, maps)
        self.session, self.runtime = found.session, found.session.runtime
        self.examination = self.examination.with_agreement(found.agreement, found.why_not)
        for text in found.notes:
            self.note(text)

    @property
    def layer_name(self) -> str | None:
        return self.session.layers[0].name if self.session.layers else None

    def guarded(
        self, items: Sequence[DecodedImage], work: Callable[[Sequence[DecodedImage]], list[R]]
    ) -> list[R | Record]:
        """``work`` on a batch, one result an image. Out of memory halves the batch; images that fail become records.

        With ``--view whole`` images of one shape share batches, and results keep the order of ``items``.
        """
        if self.preprocess.view != "whole":
            return self._halving.guarded(items, work)
        found: dict[int, R | Record] = {}
        for numbers in alike(items, self.batch_size):
            results = self._halving.guarded([items[number] for number in numbers], work)
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(items))]

    def batch(self, items: Sequence[DecodedImage]) -> Tensor:
        """The images as the network takes them before normalisation, uint8 [N, C, H, W] on its device."""
        return rt.moved(torch.stack([item.pixels for item in items]), self.session.device)

    def predict(self, logits: Tensor) -> Predictions:
        """Scores and probabilities of a batch."""
        return self.task.reads(logits)

    def requests(self, item: DecodedImage, predictions: Predictions, place: int) -> Selected | Record:
        """What ``--class`` and ``--target`` ask of image ``place`` of the batch, or why there is nothing; or its whole
        record where ``--only`` leaves it out.
        """
        return self._asked(item, predictions, place, self.target_selector.requests)

    def select_targets(self, item: DecodedImage, predictions: Predictions, place: int) -> list[int] | Record:
        """The classes alone that ``--class`` asks of an image, as :meth:`requests`."""
        selector = self.target_selector
        assert isinstance(selector, TargetSelector)
        return self._asked(
            item, predictions, place, lambda item, said, at: selector.select(item.ref, said.scores[at], item.truth)
        )

    def _asked(
        self,
        item: DecodedImage,
        predictions: Predictions,
        place: int,
        ask: Callable[[DecodedImage, Predictions, int], R],
    ) -> R | Record:
        if not predictions.usable[place]:
            return failed(item, "not-finite", f"the network's output is not finite in {self.runtime.precision}")
        try:
            found = ask(item, predictions, place)
        except ImageError as error:
            return failed(item, error.kind, error.message)
        only, verdict = self.settings.target.only, self.verdict(item, predictions, place)
        if only is None or verdict is None or verdict.outcome == only:
            return found
        facts = {**view_facts(item, self.preprocess), **verdict.facts()}
        return skipped(item, self.target_selector.truth(item.ref), self.top_predictions(predictions, place), facts)

    def verdict(self, item: DecodedImage, predictions: Predictions, place: int) -> Verdict | None:
        """Whether the network is right with image ``place`` of the batch; None where its classes are not known."""
        selector, task = self.target_selector, self.task
        if not isinstance(selector, TargetSelector) or not isinstance(task, Classification):
            return None
        return verdict_of(selector, task, item, predictions, place)

    def scored(self, index: int, predictions: Predictions, place: int) -> ClassScore:
        """A class with what the network said of it."""
        return self.classification.scored(index, predictions, place)

    def top_classes(self, predictions: Predictions, place: int) -> tuple[ClassScore, ...]:
        """The ``--top`` classes of a network with scores for the whole image, best first."""
        return self.classification.top(predictions, place, self.settings.target.top)

    def top_predictions(
        self, predictions: Predictions, place: int, item: DecodedImage | None = None
    ) -> tuple[PredictionScore, ...]:
        """The ``--top`` classes, best first, or what else the record of an image lists."""
        most = self.settings.target.top
        if item is None:
            return self.task.top(predictions, place, most)
        return self.task.listed(item, predictions, place, most)

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        of_classes = [layer.name for layer in self.session.layers] if self._explains_classes else []
        return run_header(
            self.settings,
            self.loaded,
            {
                "weights_sha256": self._weights.result(),
                "labels_sha256": labels_sha256(self.classes.labels),
                "task": self.task_spec.name,
                "boxes": boxes_of(self.task),
                "layers": list(dict.fromkeys([*of_classes, *self._other_layers])),
                "notes": [*self.loaded.notes, *self.guesses],
                "checks": self.examination.to_dict(),
            },
            {**environment_of(self.session, self._elsewhere), "choice": self._choice},
        )
