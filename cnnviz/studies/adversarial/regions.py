"""``cnnviz adversarial`` of a segmentation network: a small change of a picture that changes what is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cnnviz.attacks import linf as attacks
from cnnviz.attacks.linf import LEVELS
from cnnviz.attacks.regions import RegionGoal
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import decode
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.store import Store
from cnnviz.models.preprocess import normalize
from cnnviz.records import PredictionScore, Record
from cnnviz.registry.studies import AdversarialOptions
from cnnviz.render.comparison import noise_picture
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage
from cnnviz.schema.studies.adversarial import SegmentAdversarialFacts, SegmentAdversarialImage, SegmentAttack
from cnnviz.studies.adversarial.attack_choice import L2, TITLES
from cnnviz.studies.adversarial.change import Change, ChangeTally, Labels, change
from cnnviz.studies.adversarial.region_figure import Attacked, attack_figure
from cnnviz.studies.adversarial.study import Adversarial, AttackedImage
from cnnviz.studies.base import Findings, Observed
from cnnviz.tasks.base import Words
from cnnviz.tasks.region_selection import only_regions
from cnnviz.tasks.segmentation import DensePredictions, RegionRequest

_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class _Region:
    """The region of an image.

    Attributes:
        weights: [h, w], shares of positions.
        specs: As it was asked for; empty for all that was seen.
        unmatched: What of that matches nothing, with the reason.
    """

    weights: NDArray[np.float32]
    specs: tuple[str, ...] = ()
    unmatched: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class _Observation:
    """What an attack made of an image: predictions before and after, of the written picture, read again."""

    made: AttackedImage
    region: _Region
    before: Labels
    after: Labels
    predictions: tuple[PredictionScore, ...]
    change: Change
    blind: bool


class AdversarialRegions(Adversarial):
    """FGSM, iterative FGSM and PGD with the mean per-pixel loss of a region."""

    def __init__(self, prepared: PreparedModel, params: AdversarialOptions, store: Store) -> None:
        if params.attack in L2:
            raise CnnvizError(
                f"--attack {params.attack} looks for the nearest image of another class; a segmentation has a class at "
                "each position, and no single border to reach.",
                "Use --attack pgd, ifgsm or fgsm.",
            )
        for name in ("curve", "explain"):
            if getattr(params, name) not in (None, "none"):
                raise CnnvizError(
                    f"--{name} {getattr(params, name)} is of networks with one prediction for each image.",
                    f"Leave out --{name}.",
                )
        if prepared.activation == "sigmoid" and not prepared.one_logit:
            raise CnnvizError(
                "With --activation sigmoid a position may have several classes: what an attack is to change is not one "
                "class.",
                "Use --activation softmax to attack the class with the largest score.",
            )
        targets = prepared.asked_targets
        only_regions(targets, "the region to attack")
        super().__init__(prepared, params, store)
        # Of the targets alone: --class says where labels come from.
        words = Words(targets=targets, marked=prepared.truth_classes)
        self._selector = prepared.task.selector(words) if targets else None
        self.changes = ChangeTally()

    def _curve(self) -> tuple[float, ...]:
        return ()

    # In the lanes.

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        said = self._said(run.chosen.detach())
        regions = [self._region(item, said, place) for place, item in enumerate(items)]
        rows = [place for place, region in enumerate(regions) if isinstance(region, _Region)]
        seen: list[Any] = list(regions)
        if not rows:
            return seen
        clean = self.prepared.batch(items)[rows]
        before = said.labels[rows]
        wanted = before if self.target is None else torch.full_like(before, self.target)
        weights = torch.from_numpy(np.stack([cast(_Region, regions[row]).weights for row in rows]))
        goal = RegionGoal(wanted.to(clean.device), weights.to(clean.device), self.target is not None)
        made = self.attacked([items[row] for row in rows], clean, goal)
        blind = attacks.without_gradient(self.network, clean.float() / LEVELS, goal).tolist()
        for place, row in enumerate(rows):
            each, region = made[place], regions[row]
            if isinstance(each, AttackedImage) and isinstance(region, _Region):
                seen[row] = self._outcome(each, region, before[place].numpy(), blind[place])
            else:
                seen[row] = each
        return seen

    def _said(self, output: torch.Tensor) -> DensePredictions:
        said = self.prepared.predict(output)
        assert isinstance(said, DensePredictions)
        return said

    def _region(self, item: DecodedImage, said: DensePredictions, place: int) -> _Region | Record:
        if not said.usable[place]:
            return failed(
                item, "not-finite", f"the network's output is not finite in {self.prepared.runtime.precision}"
            )
        if self._selector is None:
            return _Region(np.ones(tuple(said.labels.shape[1:]), dtype=np.float32))
        try:
            found = self._selector.requests(item, said, place)
        except ImageError as error:
            return failed(item, error.kind, error.message)
        asked = [request for request in found.requests if isinstance(request, RegionRequest)]
        return _Region(
            np.max([each.weights for each in asked], axis=0), tuple(each.spec for each in asked), found.unmatched
        )

    def _outcome(self, made: AttackedImage, region: _Region, before: Labels, blind: bool) -> _Observation:
        prepared = self.prepared
        # The way of a file that is read: 8 bits, normalised, forward.
        pixels = normalize(made.pixels[None].to(prepared.session.device), prepared.preprocess)
        said = self._said(prepared.session.chosen(pixels))
        after = said.labels[0].numpy()
        figures = change(before, after, region.weights, self.target)
        return _Observation(made, region, before, after, prepared.top_predictions(said, 0), figures, blind)

    # In the encoder threads.

    def draw(self, done: Observed) -> SegmentAdversarialFacts:  # type: ignore[override]
        seen: _Observation = done.seen
        stem = f"images/{done.ref.name}"
        files = {kind: f"{stem}.{kind}.png" for kind in ("adversarial", "noise", "figure")}
        files["predictions"] = f"{stem}.predictions.npz"
        data = encode(seen.made.after, _PNG)
        if not np.array_equal(decode(data).rgb, seen.made.after):
            raise ImageError("not-written", "the file of the adversarial image does not read as it was written")
        noise = noise_picture(seen.made.before, seen.made.after, self.params.amplify)
        arrays: dict[str, NDArray[Any]] = {"before": seen.before, "after": seen.after, "region": seen.region.weights}
        self.store.write(files["adversarial"], data)
        self.store.write(files["noise"], encode(noise, _PNG))
        self.store.write(files["predictions"], encode_npz(arrays))
        self.store.write(files["figure"], encode(attack_figure(self._shown(done, noise)), _PNG))
        figures, unmatched = seen.change, seen.region.unmatched
        missing = [{"spec": spec, "reason": reason} for spec, reason in unmatched]
        return {
            **cast(Any, {"unmatched": missing} if missing else {}),
            "task": "segment",
            "adversarial_predictions": [score.to_dict() for score in seen.predictions],  # type: ignore[misc]
            "to": self._goal_label,
            "region": list(seen.region.specs),
            "region_area": float(seen.region.weights.mean()),
            "pixels_changed": figures.pixels_changed,
            "mean_iou_lost": figures.mean_iou_lost,
            "target_share": figures.target_share,
            "target_share_before": figures.target_share_before,
            "gradient_is_zero": seen.blind,
            "steps": seen.made.steps,
            "linf": seen.made.linf,
            "l2": seen.made.l2,
            "read_with": self.read_with,
            "files": files,
            "figures": [{"file": files["figure"], "caption": self._caption_of(figures)}],
        }

    def _caption_of(self, found: Change) -> str:
        if self._goal_label is not None and found.target_share is not None and found.target_share_before is not None:
            ends = f"from {percent(found.target_share_before)} to {percent(found.target_share)}"
            return f"{self._goal_label}: {ends} of the region"
        return f"{percent(found.pixels_changed)} of the region changed, mean IoU lost {found.mean_iou_lost:.2f}"

    def _shown(self, done: Observed, noise: NDArray[np.uint8]) -> Attacked:
        seen: _Observation = done.seen
        made = seen.made
        height, width = made.before.shape[:2]
        rect = done.item.geometry.rect if self.whole else (0.0, 0.0, float(width), float(height))
        return Attacked(
            title=done.ref.name,
            pictures=(made.before, noise, made.after),
            classes=(seen.before, seen.after),
            region=seen.region.weights if seen.region.specs else None,
            rect=rect,
            labels=self.prepared.classes.labels,
            words=(
                f"noise × {self.params.amplify:g}",
                f"max {made.linf * LEVELS:.0f}/255 · L2 {made.l2:.3g}",
                f"{made.steps} step{'s' * (made.steps != 1)} of {TITLES[self.choice.name]}",
                self._caption_of(seen.change),
            ),
        )

    # In the main thread.

    def fold(self, done: Observed) -> None:
        self.changes.add(done.seen.change, done.seen.blind)

    def recall(self, record: AnyImage) -> None:
        found = cast("SegmentAdversarialImage", record)
        figures = Change(
            found["pixels_changed"], found["mean_iou_lost"], found["target_share"], found["target_share_before"]
        )
        self.changes.add(figures, found["gradient_is_zero"])

    def finish(self) -> Findings:
        tally, choice = self.changes, self.choice
        changed, lost, reached = tally.means
        summary: SegmentAttack = {
            "task": "segment",
            "attack": choice.name,
            "norm": choice.norm,
            "epsilon": choice.epsilon,
            "attacked": tally.attacked,
            "already": tally.already,
            "zero_gradient": tally.blind,
            "mean_pixels_changed": changed,
            "mean_mean_iou_lost": lost,
            "mean_target_share": reached,
        }
        return Findings({"adversarial": summary}, sentences=self._told(), unmeasured=self._why_nothing())

    def _why_nothing(self) -> str:
        """Why no image was attacked; empty where one was."""
        tally = self.changes
        if tally.attacked:
            return ""
        if not tally.already:
            return "no image could be used"
        return f"what would be attacked is {self._goal_label} already: --target-class takes another class"

    def _told(self) -> list[str]:
        tally = self.changes
        changed, lost, reached = tally.means
        many = f"{tally.attacked} image{'s' * (tally.attacked != 1)}"
        if changed is None or lost is None:
            return []
        told = [
            f"{TITLES[self.choice.name]} at epsilon {self.choice.epsilon_text} changed the prediction of "
            f"{percent(changed)} of the region, and the mean IoU with the prediction before is {1 - lost:.2f} ({many})"
        ]
        if reached is not None:
            told.append(f"{percent(reached)} of the region became {self._goal_label}")
        if tally.blind:
            told.append(f"the gradient is zero at {tally.blind} of {many}: this says nothing about robustness")
        return told
