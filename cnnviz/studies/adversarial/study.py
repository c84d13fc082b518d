"""``cnnviz adversarial``: a small change of a picture that makes the network say something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.attacks import l2 as minimal
from cnnviz.attacks import linf as attacks
from cnnviz.attacks import picture_view as viewing
from cnnviz.attacks.linf import LEVELS, Aim, Goal
from cnnviz.engine.cut import Cut, cut_for
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import ClassTarget, class_logits
from cnnviz.errors import CnnvizError, ImageError, out_of
from cnnviz.geometry import placement as resample
from cnnviz.io.decode import decode
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.label_tables import is_label_table
from cnnviz.io.store import Store
from cnnviz.methods.heatmap import Heatmap
from cnnviz.models.preprocess import Preprocess, normalize, override, prepare
from cnnviz.records import ClassScore, Record
from cnnviz.registry import lookup
from cnnviz.registry.specs import Options
from cnnviz.registry.studies import AdversarialOptions
from cnnviz.render.comparison import Cell, Point, accuracy_curve, comparison, noise_picture
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.text import percent
from cnnviz.run.counting import count_inputs
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.named_folders import check_folders
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage, Figure
from cnnviz.schema.studies.adversarial import AdversarialFacts, AdversarialImage, Attack, AttackName
from cnnviz.settings import RunSettings
from cnnviz.studies.adversarial.attack_choice import CURVES, TITLES, Choice, epsilons
from cnnviz.studies.adversarial.tally import AT_INPUT, Outcome, Robustness, Tally
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.tasks.base import Task
from cnnviz.tasks.segmentation import Segmentation

_LARGE, _LARGEST = 1 << 22, 1 << 24
"""Pixels of a picture above which pictures take turns, and above which none is attacked through the resizing.

A dozen float32 copies of one of 12 megapixels take 3 GB.
"""
_PNG = ImageFormat("png")
_CURVE = "robustness.png"

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttackedImage:
    """A picture [H, W, 3], the one that is written, and what the network sees of that (uint8 [C, h, w])."""

    before: Picture
    after: Picture
    pixels: Tensor
    steps: int
    linf: float
    l2: float


@dataclass(frozen=True, eq=False)
class _Observation:
    """What an attack made of an image; ``predictions`` of the written one, read again; ``maps`` before and after."""

    made: AttackedImage
    predictions: tuple[ClassScore, ...]
    outcome: Outcome
    maps: tuple[Map, Map] | None


class Adversarial(Study[AdversarialOptions]):
    """FGSM, iterative FGSM, PGD, DeepFool and Carlini-Wagner, on the picture or on what the network sees of it."""

    def __init__(self, prepared: PreparedModel, params: AdversarialOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        for spec in prepared.asked_classes:
            if spec not in {"pred", "folder"} and not is_label_table(spec):
                raise CnnvizError(
                    f"--class {spec}: here --class says where labels come from.",
                    f"Use --target-class {spec} for the class to reach, --class folder or --class FILE.csv for labels.",
                )
        check_folders(prepared.settings, prepared.target_selector)
        # What differs between this session and one that reads the file again must not undo the attack.
        self.choice = Choice(params, prepared.runtime.tolerance, prepared.settings.runtime.seed)
        self.target = None if params.target_class is None else prepared.classes.resolve(params.target_class)
        self.network = attacks.of_session(prepared.session, prepared.preprocess)
        self.whole = params.at == "image"
        self.again, self.read_with = (prepared.preprocess, "") if self.whole else _as_it_is(prepared.preprocess)
        self.explaining = None if params.explain is None else _MapsOfBoth(prepared, params.explain)
        self.tally = Tally(self._curve())
        self._turn = threading.Lock()

    @classmethod
    def cut(cls, settings: RunSettings, params: AdversarialOptions) -> Cut:
        return Cut.at_image()

    @classmethod
    def of_task(cls, task: Task) -> type[Study[AdversarialOptions]]:
        # Not at the top: it builds on this class.
        from cnnviz.studies.adversarial.regions import AdversarialRegions

        return AdversarialRegions if isinstance(task, Segmentation) else cls

    def _curve(self) -> tuple[float, ...]:
        """Epsilons in 0–1, growing, the attack's own among them; empty for no curve.

        A single image has none unless it is asked for.
        """
        text = self.params.curve
        if text == "none" or (text is None and count_inputs(self.prepared.settings) == 1):
            return ()
        found = epsilons(text or CURVES[self.choice.norm], self.choice.norm)
        return found if self.choice.epsilon is None else tuple(sorted({*found, self.choice.epsilon}))

    # In the lanes.

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        clean = self.prepared.batch(items)
        said = class_logits(run.logits.detach()).argmax(dim=1)
        wanted = said if self.target is None else torch.full_like(said, self.target)
        goal = Goal(wanted, self.target is not None)
        made = self.attacked(items, clean, goal)
        seen: list[_Observation | Record | None] = [each if isinstance(each, Record) else None for each in made]
        done = [each for each in made if isinstance(each, AttackedImage)]
        if done:
            usable = [number for number, each in enumerate(made) if isinstance(each, AttackedImage)]
            rows = torch.tensor(usable, device=clean.device)
            judged = self._judged(done, clean[rows], said[rows], goal.of(rows))
            for number, result in zip(usable, judged, strict=True):
                seen[number] = result
        return seen

    def _judged(self, made: Sequence[AttackedImage], clean: Tensor, before: Tensor, goal: Goal) -> list[_Observation]:
        prepared = self.prepared
        after = torch.stack([each.pixels for each in made]).to(clean.device)
        # The way of a file that is read: 8 bits, normalised, forward.
        said = prepared.predict(prepared.session.logits(normalize(after, prepared.preprocess)))
        now, wanted = said.scores.argmax(dim=1), goal.classes.cpu()
        success = ((now == wanted) == goal.targeted).tolist()
        already = ((before.cpu() == wanted) & goal.targeted).tolist()
        falls: list[int | None] = [None] * len(made)
        if self.tally.curve:
            falls = self.choice.falls(self.network, clean.float() / LEVELS, goal, self.tally.curve).tolist()
        blind = attacks.without_gradient(self.network, clean.float() / LEVELS, goal).tolist()
        maps: list[tuple[Map, Map] | None] = [None] * len(made)
        if self.explaining is not None:
            maps = list(zip(self.explaining.maps(clean, before), self.explaining.maps(after, now), strict=True))
        return [
            _Observation(
                each,
                prepared.top_classes(said, number),
                Outcome(success[number], already[number], each.steps, each.linf, each.l2, falls[number], blind[number]),
                maps[number],
            )
            for number, each in enumerate(made)
        ]

    def attacked(self, items: Sequence[DecodedImage], clean: Tensor, goal: Aim) -> Sequence[AttackedImage | Record]:
        """The pictures of a batch, or what the network sees of them (uint8 [N, C, h, w]), changed."""
        return self._at_images(items, goal) if self.whole else self._at_inputs(clean, goal)

    def _at_inputs(self, clean: Tensor, goal: Aim) -> list[AttackedImage]:
        images = clean.float() / LEVELS
        found = self.choice.run(self.network, self.network, images, goal)
        linf, l2 = minimal.norms(found.images, images, LEVELS)
        made = []
        for number, (before, image) in enumerate(zip(images, found.images, strict=True)):
            after = viewing.to_rgb(image)
            pixels, _ = prepare(after, self.again)
            figures = (int(found.steps[number]), float(linf[number]), float(l2[number]))
            made.append(AttackedImage(viewing.to_rgb(before), after, pixels, *figures))
        return made

    def _at_images(self, items: Sequence[DecodedImage], goal: Aim) -> list[AttackedImage | Record]:
        """Pictures have sizes of their own: one by one."""
        device = goal.classes.device
        return [
            self._at_image(item, goal.of(torch.tensor([number], device=device))) for number, item in enumerate(items)
        ]

    def _at_image(self, item: DecodedImage, goal: Aim) -> AttackedImage | Record:
        height, width = item.rgb.shape[:2]
        if height * width > _LARGEST:
            return failed(item, "too-large", f"{width} x {height} pixels; --at input takes pictures of any size")
        with self._turn if height * width > _LARGE else contextlib.nullcontext():
            return self._through_resizing(item, goal)

    def _through_resizing(self, item: DecodedImage, goal: Aim) -> AttackedImage:
        spec, device = self.prepared.preprocess, self.prepared.session.device
        seeing = viewing.view(item.geometry, spec, device)
        image = viewing.from_rgb(item.rgb, device)
        smooth = viewing.through_view(self.network, seeing)
        exact = viewing.through_prepare(self.network, seeing, spec)
        found = self.choice.run(smooth, exact, image, goal, seeing)
        linf, l2 = minimal.norms(found.images, image, LEVELS)
        after = viewing.to_rgb(found.images[0])
        pixels, _ = prepare(after, self.again)
        return AttackedImage(item.rgb, after, pixels, int(found.steps[0]), float(linf[0]), float(l2[0]))

    # In the encoder threads.

    def draw(self, done: Observed) -> AdversarialFacts:
        seen: _Observation = done.seen
        files = {kind: f"images/{done.ref.name}.{kind}.png" for kind in ("adversarial", "noise", "figure")}
        data = encode(seen.made.after, _PNG)
        if not np.array_equal(decode(data).rgb, seen.made.after):
            raise ImageError("not-written", "the file of the adversarial image does not read as it was written")
        noise = noise_picture(seen.made.before, seen.made.after, self.params.amplify)
        self.store.write(files["adversarial"], data)
        self.store.write(files["noise"], encode(noise, _PNG))
        self.store.write(files["figure"], encode(self._figure(done, noise), _PNG))
        outcome, curve = seen.outcome, self.tally.curve
        said: AdversarialFacts = {
            "adversarial_predictions": [score.to_dict() for score in seen.predictions],
            "to": self._goal_label,
            "success": outcome.success,
            "already": outcome.already,
            "gradient_is_zero": outcome.blind,
            "steps": outcome.steps,
            "linf": outcome.linf,
            "l2": outcome.l2,
            "read_with": self.read_with,
            "files": files,
            "figures": [{"file": files["figure"], "caption": self._caption(done)}],
        }
        if outcome.falls is not None:
            said["falls_at"] = curve[outcome.falls] if outcome.falls < len(curve) else None
        return said

    def _caption(self, done: Observed) -> str:
        seen: _Observation = done.seen
        before, after = done.predictions[0], seen.predictions[0]
        if seen.outcome.already:
            return f"{before.label} already"
        if seen.outcome.blind and not seen.outcome.success:
            return f"{before.label} {percent(before.probability)}: the gradient is zero, so nothing was tried"
        ends = f"{before.label} {percent(before.probability)} → {after.label} {percent(after.probability)}"
        return ends if seen.outcome.success else f"{ends} (not fooled)"

    def _figure(self, done: Observed, noise: Picture) -> Picture:
        seen: _Observation = done.seen
        made, before, after = seen.made, done.predictions[0], seen.predictions[0]
        norms = f"max {made.linf * LEVELS:.0f}/255 · L2 {made.l2:.3g}"
        took = f"{made.steps} step{'s' * (made.steps != 1)} of {TITLES[self.choice.name]}"
        rows: list[list[Cell | None]] = [
            [
                Cell("image", made.before, before.label, percent(before.probability)),
                Cell(f"noise × {self.params.amplify:g}", noise, norms, took),
                Cell("adversarial", made.after, after.label, percent(after.probability)),
            ]
        ]
        if seen.maps is not None and self.explaining is not None:
            height, width = made.before.shape[:2]
            rect = done.item.geometry.rect if self.whole else (0.0, 0.0, float(width), float(height))
            spec, ends = self.explaining.spec, []
            for rgb, values, said in zip((made.before, made.after), seen.maps, (before, after), strict=True):
                placed = resample.place(values, rect, (width, height), signed=spec.signed)
                ends.append(Cell(spec.title, overlay(rgb, placed, Style()), f"for {said.label}"))
            rows.append([ends[0], None, ends[1]])
        return comparison(rows, done.ref.name)

    # In the main thread.

    def fold(self, done: Observed) -> None:
        known = done.label is not None and done.label in self.prepared.classes.labels
        self.tally.add(done.seen.outcome, known, done.predictions[0].label == done.label)

    def recall(self, record: AnyImage) -> None:
        """Raises a CnnvizError when the record has no place on this run's curve."""
        record = cast("AdversarialImage", record)
        curve, falls = self.tally.curve, record.get("falls_at")
        if curve and ("falls_at" not in record or (falls is not None and falls not in curve)):
            raise CnnvizError(
                "--resume: the run that is continued was not measured at the epsilons of this one.",
                "Use --overwrite to begin again, --curve none, or -o for another folder.",
            )
        at = None if not curve else len(curve) if falls is None else curve.index(falls)
        success, already, blind = record["success"], record["already"], record["gradient_is_zero"]
        known = record["label"] is not None and record["label"] in self.prepared.classes.labels
        right = record["predictions"][0]["label"] == record["label"]
        outcome = Outcome(success, already, record["steps"], record["linf"], record["l2"], at, blind)
        self.tally.add(outcome, known, right)

    def writes(self) -> Sequence[str]:
        return (_CURVE,) if self.tally.curve else ()

    def finish(self) -> Findings:
        choice, tally = self.choice, self.tally
        attack: AttackName = {"attack": choice.name, "norm": choice.norm, "epsilon": choice.epsilon}
        summary = cast("Attack", {**attack, **tally.summary()})
        robustness = Robustness.of(tally, self._goal_label)
        if not tally.attacked:
            return Findings({"adversarial": summary}, unmeasured=self._why_nothing())
        if not robustness.rows:
            return Findings({"adversarial": summary}, sentences=self._sentences(robustness))
        summary["labelled"] = tally.labelled
        summary[robustness.key] = robustness.rows
        self.store.write(_CURVE, encode(self._plot(robustness), _PNG))
        figure: Figure = {"file": _CURVE, "caption": f"{robustness.words} over epsilon, {AT_INPUT}"}
        return Findings({"adversarial": summary}, figures=[figure], sentences=self._sentences(robustness))

    def _why_nothing(self) -> str:
        """Why no image was attacked."""
        if not self.tally.already:
            return "no image could be used"
        return f"the network takes every image for {self._goal_label} already: --target-class takes another class"

    @property
    def _goal_label(self) -> str | None:
        return None if self.target is None else self.prepared.classes.labels[self.target]

    def _sentences(self, robustness: Robustness) -> list[str]:
        """How many images were fooled, and how many hold out at the epsilon of the attack."""
        tally, choice = self.tally, self.choice
        pictures = out_of(tally.fooled, tally.attacked, "written picture")
        told = [f"{TITLES[choice.name]} fooled the network with {pictures} (8 bits, read again)"]
        if tally.blind:
            blind = out_of(tally.blind, tally.attacked, "image")
            told.append(f"the gradient is zero at {blind}: this says nothing about robustness")
        if robustness.rows:
            # Minimal L2 attacks have no epsilon of their own: there, the largest of the curve.
            asked = next((row for row in robustness.rows if row["epsilon"] == choice.epsilon), robustness.rows[-1])
            where = f"epsilon {choice.epsilon_text}" if choice.epsilon_text else f"an L2 norm of {asked['epsilon']:.3g}"
            told.append(robustness.sentence(asked, where))
        return told

    def _plot(self, robustness: Robustness) -> Picture:
        unit = LEVELS if self.choice.norm == "linf" else 1
        points = [
            Point(row["epsilon"], row["value"], (row["ci95"][0], row["ci95"][1]), f"{row['epsilon'] * unit:.3g}")
            for row in robustness.rows
        ]
        title = f"{TITLES[self.choice.name]}: {robustness.words}, {robustness.images}"
        axis = "largest change of a channel, in 1/255" if unit == LEVELS else "L2 norm of the change, pixels in 0–1"
        return accuracy_curve(points, title, f"{axis} ({AT_INPUT})")


class _MapsOfBoth:
    """The map of a method before and after; tried on noise first, so that a request it cannot meet fails at once."""

    def __init__(self, prepared: PreparedModel, name: str) -> None:
        self.prepared = prepared
        self.spec = lookup.find_method(name)
        self.params = self.spec.resolve_params({})
        self.method = self.spec.load()
        self.session = prepared.open(cut_for(self.spec, self.params, prepared.settings.target.layers))
        self._of(prepared.probe(1), torch.zeros(1, dtype=torch.long), self.spec.dry_run(self.params))

    def maps(self, pixels: Tensor, classes: Tensor) -> Map:
        """[N, h, w] for a batch of uint8 [N, C, H, W] and a class for each."""
        return self._of(normalize(pixels, self.prepared.preprocess), classes, self.params)

    def _of(self, batch: Tensor, classes: Tensor, params: Options) -> Map:
        run = self.session.forward(batch)
        target = ClassTarget(classes.to(run.logits.device), "logit", self.prepared.activation)
        heatmap: Heatmap = self.method(run, target, params)
        values = heatmap.values if heatmap.maps is None else heatmap.maps
        found: Map = values.detach().float().cpu().numpy()
        return found


def _as_it_is(spec: Preprocess) -> tuple[Preprocess, str]:
    """How a file of the network's input size is preprocessed to nothing else than itself, and the flag for that."""
    channels, height, width = spec.input_size
    trial = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    same = torch.from_numpy(trial).expand(channels, -1, -1)
    if torch.equal(prepare(np.repeat(trial[:, :, None], 3, axis=2), spec)[0], same):
        return spec, ""
    return override(spec, view="squash"), "--view squash"
