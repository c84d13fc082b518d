"""``cnnviz synthesize``: images that a class, a unit or a layer responds to most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError
from cnnviz.io.label_tables import is_label_table
from cnnviz.io.movies import enlarged
from cnnviz.io.names import Names
from cnnviz.io.store import Store
from cnnviz.models.graph.layers import resolve, stages
from cnnviz.models.preprocess import normalize
from cnnviz.records import Record
from cnnviz.registry.image_makers import SynthesizeOptions
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.studies.synthesize import Synthesized as SynthesizedRow
from cnnviz.schema.studies.synthesize import SynthesizeFigures
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.synthesize import regions
from cnnviz.studies.synthesize.kept import MadeImage, Request, Synthesized, key_of
from cnnviz.studies.synthesize.output import MadeOutput
from cnnviz.synthesis.ascent import AscentOptions, AscentResult, Maker, as_picture, seed_of
from cnnviz.synthesis.augmentation import Augmentation
from cnnviz.synthesis.objectives import (
    Objective,
    Term,
    any_term,
    check,
    layers_of,
    neuron_term,
    unit_term,
)
from cnnviz.synthesis.reader import normalisation, open_reader

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "fourier": {"l2": 3.0, "tv": 30.0, "blur": 0.0},
    "pixel": {"l2": 3.0, "tv": 300.0, "blur": 0.8},
}
"""Regularisers that suit a parametrisation, for inputs of 224 pixels: 1/f scaling needs few; pixels stay noisy."""
DIVERSITY = 10.0
"""Default weight of the likeness of several images."""
_JITTER = 7
"""The default jitter is the input's shorter side over this: 32 pixels of 224."""
_TOLD, _FRAMES = 8, 48
_SHOWN_SCORES = 4
_USUAL = 224


@dataclass
class _Tally:
    steps: int = 0
    seconds: float = 0.0


class Synthesize(Study[SynthesizeOptions]):
    """Activation maximisation, from noise or from each input."""

    def __init__(self, prepared: PreparedModel, params: SynthesizeOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        settings = prepared.settings
        # An ascent is a loop of small steps: all threads work on one batch.
        prepared.lanes = prepared.lanes.one
        self.from_images = bool(settings.inputs)
        regions.refuse_inputs(prepared.task_spec, settings.inputs)
        self.fixed = self._fixed_terms()
        self.by_class = settings.target.classes != ("pred",) or not self.fixed
        self.options = self._options()
        self.rows = [] if self.from_images else self._requests()
        if self.from_images:
            self._refuse_for_images()
        known = [*self.fixed, *(term for row in self.rows for term in row.terms)]
        self.names = layers_of(known)
        diverse = self._diversity_layers() if self.options.diversity > 0 else ()
        self.maker = self._maker(tuple(dict.fromkeys([*self.names, *diverse])), diverse, known)
        self.tally = _Tally()
        self.synthesized = Synthesized(store)
        self.output = MadeOutput(store, params, prepared.classes.labels)
        self._stems: dict[Request, str] = {}
        self._last: tuple[int, Callable[[], Tensor]] | None = None
        self._unfinished: tuple[Sequence[Request], Objective, AscentResult, int] | None = None

    @classmethod
    def cut(cls, settings: RunSettings, params: SynthesizeOptions) -> Cut:
        return Cut.before_classifier()

    # What was asked for.

    def _fixed_terms(self) -> tuple[Term, ...]:
        """Everything but ``--class``."""
        params, classes = self.params, self.prepared.classes

        def terms(texts: Iterable[str], flag: str, sign: float) -> Iterable[Term]:
            for text in texts:
                yield any_term(text, classes.resolve, lambda index: classes.labels[index], flag).times(sign)

        layers = self.prepared.settings.target.layers
        found = (
            *(unit_term(text) for text in params.unit),
            *(neuron_term(text) for text in params.neuron),
            *(Term("layer", layer=layer, label=f"layer {layer}") for layer in layers),
            *terms(params.plus, "--plus", 1.0),
            *terms(params.minus, "--minus", -1.0),
            *regions.region_terms(self.prepared.asked_targets, classes, self.prepared.task_spec),
        )
        return tuple(map(self._by_full_name, found))

    def _by_full_name(self, term: Term) -> Term:
        """Labelled by the path of the layer, where it was asked for as a stage: -2:7 as blocks.4:7."""
        session = self.prepared.session
        if not term.layer or session.graph is None:
            return term
        path = resolve(session.graph, term.layer, session.name).name
        return replace(term, label=term.label.replace(term.layer, path, 1))

    def _class_term(self, index: int) -> Term:
        return Term("class", index, label=self.prepared.classes.labels[index])

    def _requests(self) -> list[Request]:
        """The images to make from noise."""
        specs = self.prepared.asked_classes if self.by_class else ()
        for spec in specs:
            if spec in {"pred", "all", "folder"} or spec.startswith("top:") or is_label_table(spec):
                if spec == "pred":
                    raise CnnvizError(
                        "Nothing says what to maximise.",
                        "Give --class, --unit LAYER:K, --neuron LAYER:K:y:x or --layer, or an image to start from.",
                    )
                raise CnnvizError(f"--class {spec} needs images.", "Name a class, such as --class goldfish.")
        named = [self._class_term(self.prepared.classes.resolve(spec)) for spec in specs]
        terms = (*named, *self.fixed)
        groups: list[tuple[Term, ...]] = [terms]
        if self.params.each:
            taken = [term for term in terms if term.weight <= 0]
            groups = [(term, *taken) for term in terms if term.weight > 0]
        seed = self.prepared.settings.runtime.seed
        wanted = [(number, group) for number, group in enumerate(groups) for _ in range(self.params.images)]
        return [Request(group, seed_of(seed, row), number) for row, (number, group) in enumerate(wanted)]

    def _refuse_for_images(self) -> None:
        for name, said in (("each", self.params.each), ("images", self.params.images > 1)):
            if said:
                raise CnnvizError(f"--{name} is for images from noise.", "Leave it out, or the INPUT.")

    def _options(self) -> AscentOptions:
        params, size = self.params, self.prepared.preprocess.input_size[1:]
        suited = DEFAULTS[params.param]
        # The same picture with half the pixels a side has four times the total variation a pixel.
        smaller = {"l2": 1.0, "tv": (min(size) / _USUAL) ** 2, "blur": min(size) / _USUAL}
        asked = {"l2": params.l2, "tv": params.tv, "blur": params.blur}
        amounts = {n: suited[n] * smaller[n] if value is None else value for n, value in asked.items()}
        jitter = max(1, round(min(size) / _JITTER)) if params.jitter is None else params.jitter
        diversity = DIVERSITY if params.diversity is None else params.diversity
        return AscentOptions(
            steps=params.steps,
            parametrisation=params.param,
            optimiser=params.optimizer,
            rate=params.rate,
            shaking=Augmentation(jitter, params.rotate, params.zoom, params.noise),
            diversity=0.0 if self.from_images or params.images < 2 else diversity,
            **amounts,
        )

    def _diversity_layers(self) -> tuple[str, ...]:
        """Where likeness is measured: the objective's own first layer, else the stage before the last."""
        if self.names:
            return self.names[:1]
        session = self.prepared.session
        if session.graph is None:
            why = f"This network {session.untraced}: there is no default layer for --diversity."
            raise CnnvizError(why, "Name the layer of its features with --unit.")
        return ("-2" if len(stages(session.graph, session.name)) > 1 else "-1",)

    def _maker(self, names: tuple[str, ...], diverse: tuple[str, ...], known: Sequence[Term]) -> Maker:
        logits = self.by_class or any(term.kind == "class" for term in known)
        reader = open_reader(self.prepared.session, names, self.prepared.open, logits=logits)
        check(known, reader, names)
        self.names = names
        spec = self.prepared.preprocess
        place = names.index(diverse[0]) if diverse else -1
        return Maker(reader, normalisation(spec, reader.device), spec.input_size, self.options, place)

    # The ascent.

    def _make(self, rows: Sequence[Request], start: Tensor | None, said: str) -> list[MadeImage]:
        """Make images at once; ``start`` uint8 [N, C, h, w]."""
        objective = self._objective(rows)
        frames: list[Tensor] = []
        began = time.perf_counter()
        ground = None if start is None else start.float() / 255.0
        self._unfinished = None
        try:
            made = self.maker.make(objective, [row.seed for row in rows], ground, self._watch(frames, said))
        except KeyboardInterrupt:
            if self._last is not None:
                step, images = self._last
                self._unfinished = (rows, objective, AscentResult(images(), torch.zeros(0, len(rows))), step + 1)
            raise
        self.tally.seconds += time.perf_counter() - began
        self.tally.steps += self.options.steps
        return self._judged(rows, objective, made, frames)

    def _judged(
        self, rows: Sequence[Request], objective: Objective, made: AscentResult, frames: Sequence[Tensor]
    ) -> list[MadeImage]:
        """The images with their score and what the network says of them."""
        device = self.maker.reader.device
        levels = made.images.to(device)
        with rt.scope():
            reading = self.maker.reader.read(normalize(levels, self.prepared.preprocess))
            final = objective(reading).detach().tolist()
        told = self.prepared.predict(self.prepared.session.chosen(normalize(levels, self.prepared.preprocess)))
        return [
            MadeImage(
                row.terms,
                made.images[place],
                final[place],
                tuple(made.scores[:, place].tolist()),
                self.prepared.top_predictions(told, place),
                tuple(enlarged(as_picture(frame[place])) for frame in frames),
                self.prepared.task.shown(told, place),
            )
            for place, row in enumerate(rows)
        ]

    def _objective(self, rows: Sequence[Request]) -> Objective:
        """The terms of all rows, each row with its own weights."""
        bare = list(dict.fromkeys(replace(term, weight=1.0) for row in rows for term in row.terms))
        weights = torch.zeros(len(rows), len(bare))
        for number, row in enumerate(rows):
            for term in row.terms:
                weights[number, bare.index(replace(term, weight=1.0))] += term.weight
        return Objective(bare, weights, self.names, self.params.pool)

    def _watch(
        self, frames: list[Tensor], said: str
    ) -> Callable[[int, Callable[[], Tensor], Callable[[], Tensor]], None]:
        steps = self.options.steps
        every, shot = math.ceil(steps / _TOLD), math.ceil(steps / _FRAMES)
        filmed = self.params.gif or self.params.video

        def watch(step: int, scores: Callable[[], Tensor], images: Callable[[], Tensor]) -> None:
            last = step + 1 == steps
            self._last = (step, images)
            if filmed and (step % shot == 0 or last):
                frames.append(images())
            if (step + 1) % every == 0 or last:
                values = scores().tolist()
                more = ", …" if len(values) > _SHOWN_SCORES else ""
                shown = ", ".join(f"{value:.2f}" for value in values[:_SHOWN_SCORES])
                of = " of that step's view; that of the finished image follows" if last else ""
                self.prepared.say(f"{said}step {step + 1} of {steps}: score {shown}{more}{of}")

        return watch

    # From images: in the model's lane, then in the encoder threads.

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        asked: list[tuple[Term, ...] | Record] = []
        told = self.prepared.predict(run.chosen.detach())
        for place, item in enumerate(items):
            classes = self.prepared.select_targets(item, told, place) if self.by_class else []
            if isinstance(classes, Record):
                asked.append(classes)
            else:
                asked.append((*map(self._class_term, classes), *self.fixed))
        chosen = [place for place, terms in enumerate(asked) if not isinstance(terms, Record)]
        seed = self.prepared.settings.runtime.seed
        rows = [
            Request(terms, seed_of(seed, items[place].pixels.numpy().tobytes()), 0)
            for place, terms in enumerate(asked)
            if not isinstance(terms, Record)
        ]
        if not rows:
            return asked
        start = torch.stack([items[place].pixels for place in chosen])
        said = f"{items[chosen[0]].ref.name}{' …' if len(chosen) > 1 else ''}: "
        found = dict(zip(chosen, self._make(rows, start, said), strict=True))
        return [found.get(place, record) for place, record in enumerate(asked)]

    def draw(self, done: Observed) -> Mapping[str, Any]:
        made: MadeImage = done.seen
        files = self.output.write(f"images/{done.ref.name}", made)
        before, after = done.predictions[0], made.predictions[0]
        caption = f"{before.label} {percent(before.probability)} → {after.label} {percent(after.probability)}"
        return {**self.output.reported(made, files), "figures": [{"file": files["image"], "caption": caption}]}

    # From noise.

    def finish(self) -> Findings:
        found, names = self.synthesized, Names()
        found.begin(self.prepared.settings.output.resume)
        for chunk in self._chunks():
            self._stems.update({row: names.unique(regions.slug(row.terms, self.prepared.classes)) for row in chunk})
            known = [found.find(key_of(row)) for row in chunk]
            if all(known):
                for each in known:
                    assert each is not None
                    found.add(*each)
                continue
            for row, made in zip(chunk, self._in_memory(chunk), strict=True):
                found.add(self._noted(row, made), made.rgb, key_of(row))
        return self._found()

    def interrupted(self) -> Findings:
        """The images that are finished, and those of the ascent that Ctrl-C ended, as far as it came."""
        if self.from_images:
            return Findings()
        if self._unfinished is not None:
            rows, objective, made, step = self._unfinished
            for row, each in zip(rows, self._judged(rows, objective, made, ()), strict=True):
                self.synthesized.add({**self._noted(row, each), "interrupted_at_step": step}, each.rgb)
        return self._found()

    def _noted(self, row: Request, made: MadeImage) -> SynthesizedRow:
        noted = self.output.reported(made, self.output.write(self._stems[row], made))
        return cast("SynthesizedRow", {**noted, "caption": self.output.caption(made)})

    def _found(self) -> Findings:
        found = self.synthesized
        found.close()
        told = [figure["caption"] for figure in found.figures]
        report = {"synthesized": found.report} if found.report else {}
        return Findings(self._summary(found.report), report, found.figures, sentences=told)

    def _in_memory(self, rows: Sequence[Request]) -> list[MadeImage]:
        """All rows at once, or, where memory is short and they may be made apart, in halves."""
        try:
            return self._make(rows, None, "")
        except Exception as error:
            if not rt.is_out_of_memory(error):
                raise
        rt.release_memory(self.maker.reader.device)
        if len(rows) == 1 or self.options.diversity > 0:
            raise CnnvizError(
                f"Out of memory: {len(rows)} images at once.", "Make fewer --images, or use --diversity 0."
            )
        self.prepared.say(f"out of memory: {len(rows)} images are made in halves")
        half = (len(rows) + 1) // 2
        return self._in_memory(rows[:half]) + self._in_memory(rows[half:])

    def _chunks(self) -> list[list[Request]]:
        """What goes through the network at once: images that are to differ stay together."""
        if self.options.diversity > 0:
            return [list(rows) for _, rows in groupby(self.rows, key=lambda row: row.group)]
        size = self.prepared.batch_size
        return [self.rows[first : first + size] for first in range(0, len(self.rows), size)]

    def _summary(self, report: Sequence[SynthesizedRow]) -> SynthesizeFigures:
        options, tally = self.options, self.tally
        summary: SynthesizeFigures = {
            "steps": options.steps,
            "param": options.parametrisation,
            "steps_per_second": round(tally.steps / tally.seconds, 2) if tally.seconds else None,
        }
        if report:
            summary["objective"] = "; ".join(dict.fromkeys(str(row["objective"]) for row in report))
            summary["images"] = len(report)
            summary["score"] = [round(float(row["score"]), 4) for row in report]
        return summary
