"""The method of a run: batches of decoded images in, maps and predictions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz import catalog
from cnnviz.drawing import Explained, TargetMap
from cnnviz.engine import runtime as rt
from cnnviz.engine.cuts import cut_for
from cnnviz.engine.session import Pass
from cnnviz.engine.targets import ClassTarget
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.metrics.left_out import LeftOut
from cnnviz.models.preprocess import Preprocess, normalize
from cnnviz.records import Record, RunHeader
from cnnviz.sanity import Sanity, conclude
from cnnviz.sanity import said as sanity_said
from cnnviz.settings import SCORES, RunSettings, check_choice
from cnnviz.subject import Loaded, Said, Subject, failed

Row = Explained | Record


@dataclass(frozen=True, eq=False)
class _Made:
    """What a method made of one image for one target."""

    drawn: NDArray[np.float32]
    raw: NDArray[np.float32]
    facts: dict[str, Any]
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Explainer:
    """Loads the model, prepares the session and checks the request on a probe, before anything is written.

    Args:
        settings: What was asked for.
        total: Number of inputs if known: decides whether compilation pays.
        note: Told what the user should know.

    Raises:
        CnnvizError: The model, the layer, the class or the method cannot be had.
    """

    def __init__(self, settings: RunSettings, total: int | None, note: Callable[[str], None]) -> None:
        self.settings = settings
        self.spec = catalog.find_method(settings.target.method)
        self.params = self.spec.resolve_params(settings.target.params)
        check_choice(settings.target.score, SCORES, "--score")
        if "gradient" in settings.draw.save and self.spec.space != "input":
            raise CnnvizError(
                f"--save gradient: {self.spec.name} has no gradient at the image.", "Use it with guided or saliency."
            )
        cut = cut_for(self.spec, self.params, settings.target.layers)
        self.subject = Subject(settings, cut, total, note)
        self.session = self.subject.session
        self._method = self.spec.load()
        self._rehearse()
        self._sanity = Sanity(self.subject, cut, self.spec.signed) if settings.target.sanity else None

    def _rehearse(self) -> None:
        """Run the method on a probe, so that a request it cannot meet fails before the run."""
        with rt.scope():
            run = self.session.forward(self.subject.probe(1))
            target = ClassTarget(
                torch.zeros(1, dtype=torch.long), self.settings.target.score, self.subject.activation
            )
            heatmap: Heatmap = self._method(run, target, {**self.params, **self.spec.rehearsal})
        for text in (*heatmap.notes, *([self.spec.caveat] if self.spec.caveat else [])):
            self.subject.note(text)

    @property
    def lanes(self) -> rt.Lanes:
        return self.subject.lanes

    @property
    def batch_size(self) -> int:
        return self.subject.batch_size

    @property
    def preprocess(self) -> Preprocess:
        return self.subject.preprocess

    @property
    def layer_name(self) -> str | None:
        return self.subject.layer_name

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        return self.subject.header()

    def explain(self, items: Sequence[Loaded]) -> list[Row]:
        """Explain a batch; each image's row is what it would be alone. Images that fail become records."""
        return self.subject.guarded(items, self._explain)

    def _explain(self, items: Sequence[Loaded]) -> list[Row]:
        subject = self.subject
        with rt.scope():
            pixels = normalize(subject.batch(items), subject.preprocess)
            run = self.session.forward(pixels)
            said = subject.said(run.logits.detach())
            asked = [subject.ask(item, said, i) for i, item in enumerate(items)]
            wanted = [a if isinstance(a, list) else [0] for a in asked]
            maps = self._maps(run, wanted)
            if self._sanity is not None:
                self._compare(pixels, wanted, maps)
        rows: list[Row] = []
        for i, (item, classes) in enumerate(zip(items, asked, strict=True)):
            rows.append(classes if isinstance(classes, Record) else self._row(item, classes, (said, i), maps[i]))
        return rows

    def _compare(self, pixels: Tensor, asked: Sequence[list[int]], maps: list[list[_Made]]) -> None:
        assert self._sanity is not None

        def drawn(run: Pass) -> list[list[NDArray[np.float32]]]:
            return [[made.drawn for made in own] for own in self._maps(run, asked)]

        rows = self._sanity.compare(pixels, [[made.drawn for made in own] for own in maps], drawn)
        for own, of_image in zip(maps, rows, strict=True):
            for made, of_class in zip(own, of_image, strict=True):
                made.scores["sanity"] = of_class

    def _maps(self, run: Pass, asked: Sequence[list[int]]) -> list[list[_Made]]:
        """For each image, for each of its classes: what is drawn, what is stored, what the method states.

        One forward pass is shared; place k of all images' lists is one backward pass. Images with fewer classes
        repeat their first there, and the result is dropped.
        """
        found: list[list[_Made]] = [[] for _ in asked]
        for place in range(max(len(classes) for classes in asked)):
            indices = [classes[place] if place < len(classes) else classes[0] for classes in asked]
            target = ClassTarget(
                torch.tensor(indices, device=run.logits.device), self.settings.target.score, self.subject.activation
            )
            heatmap: Heatmap = self._method(run, target, self.params)
            raw = heatmap.values.detach().float().cpu().numpy()
            drawn = raw if heatmap.maps is None else heatmap.maps.detach().float().cpu().numpy()
            arrays = {name: array.detach().cpu().numpy() for name, array in heatmap.arrays.items()}
            for image, classes in enumerate(asked):
                if place < len(classes):
                    own = {name: array[image] for name, array in arrays.items()}
                    scores = {k: v[image].tolist() if isinstance(v, Tensor) else v for k, v in heatmap.scores.items()}
                    found[image].append(_Made(drawn[image], raw[image], dict(heatmap.facts), scores, own))
        return found

    def _row(self, item: Loaded, classes: Sequence[int], heard: tuple[Said, int], maps: Sequence[_Made]) -> Row:
        subject, (said, place) = self.subject, heard
        if not all(np.isfinite(made.drawn).all() for made in maps):
            return failed(item, "not-finite", f"the map is not finite in {subject.runtime.precision}")
        facts: dict[str, Any] = dict(maps[0].facts) if maps else {}
        if self.session.layers:
            facts["pre_activation"] = self.session.layers[0].pre_activation
        if subject.one_logit:
            facts["one_logit"] = "class 1 is the logit, class 0 its negative"
        return Explained(
            ref=item.ref,
            rgb=item.rgb,
            geometry=item.geometry,
            label=subject.asker.truth(item.ref),
            predictions=subject.predictions(said, place),
            maps=[
                TargetMap(
                    subject.scored(index, said, place),
                    subject.classes.slug(index),
                    made.drawn,
                    made.raw,
                    made.scores,
                    made.arrays,
                    self.spec.colour,
                )
                for index, made in zip(classes, maps, strict=True)
            ],
            facts=facts,
        )

    def conclusions(self, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What the summary says of all images together."""
        left_out = LeftOut()
        passing = left_out.counting(records) if self.spec.gap else records
        found: dict[str, Any] = {}
        if self._sanity is not None:
            found["sanity"] = conclude(passing)
            if found["sanity"]:
                self.subject.note(sanity_said(found["sanity"]))
        elif self.spec.gap:
            deque(passing, maxlen=0)
        if self.spec.gap and left_out.maps:
            found["left_out"] = left_out.summary()
            if text := left_out.note(self.spec.gap):
                self.subject.note(text)
        return found

    def facts(self) -> dict[str, Any]:
        """What the summary says of the method."""
        said: dict[str, Any] = {"caveat": self.spec.caveat} if self.spec.caveat else {}
        if self.subject.guesses:
            said["class_guesses"] = list(self.subject.guesses)
        return {"method": self.spec.name, "class_specific": self.spec.class_specific, **said}
