"""The method of a run: batches of decoded images in, maps and predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut, cut_for
from cnnviz.engine.open_session import SessionOptions
from cnnviz.engine.precision import smooth_probe
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target, class_logits
from cnnviz.errors import CnnvizError
from cnnviz.io.annotation_formats import load_truth
from cnnviz.maps import tiling
from cnnviz.maps.tiling import ComputedMap, Tiles
from cnnviz.maps.write_image import ImageResult, TargetMap
from cnnviz.methods.explain import explain_batch
from cnnviz.methods.heatmap import Heatmap
from cnnviz.metrics.chosen import ModelMetrics, requested, summed_up
from cnnviz.metrics.contract import ExplainedBatch, ExplainedNetwork
from cnnviz.models.graph.layers import LayerRef
from cnnviz.models.preprocess import normalize
from cnnviz.records import ClassScore, Record, RunHeader, TargetScore
from cnnviz.registry import lookup
from cnnviz.registry.metrics import RANDOMIZATION
from cnnviz.run.prepared_model import DecodedImage, PreparedModel, failed
from cnnviz.settings import SCORES, RunSettings, check_choice
from cnnviz.tasks.base import Predictions, Request

ImageOutcome = ImageResult | Record


@dataclass(frozen=True, eq=False)
class Asked:
    """What is explained of one image, and what the network says of it.

    Attributes:
        requests, targets: What was asked for, and its scores.
        predictions: The first classes.
        facts: Of the record, beside those of all images.
    """

    requests: Sequence[Request]
    targets: Sequence[TargetScore]
    predictions: tuple[ClassScore, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


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
        self.spec = lookup.find_method(settings.target.method)
        self.params = self.spec.resolve_params(settings.target.params)
        self.metrics = requested(settings.target, self.spec.gap)
        known = settings.target.truth
        self.annotations = None if known is None else load_truth(known, "--truth")
        check_choice(settings.target.score, SCORES, "--score")
        if "gradient" in settings.draw.save and self.spec.space != "input":
            raise CnnvizError(
                f"--save gradient: {self.spec.name} has no gradient at the image.", "Use it with guided or saliency."
            )
        cut = cut_for(self.spec, self.params, settings.target.layers)
        self.prepared = PreparedModel(settings, cut, total, note)
        self.params = self.params.with_classes(self.prepared.classes.resolve)
        self.session = self.prepared.session
        self._check_targets()
        self._unit_sessions = {
            unit.readout: self.prepared.open_units(cut, unit.readout) for unit in self.prepared.target_selector.units
        }
        self._rehearse()
        self._probe_class: Tensor | None = None
        self.prepared.settle_precision(cut, self._map_of_probe)
        self.session = self.prepared.session
        self._model_metrics = ModelMetrics(self.metrics, self._network(cut))

    def _network(self, cut: Cut) -> ExplainedNetwork:
        """What metrics get that run the network again."""
        loaded, settings = self.prepared.loaded, self.settings
        key, tracing = settings.target.logits_key, settings.runtime.tracing
        options = SessionOptions(cut, key, private=False, tracing=tracing)
        return ExplainedNetwork(
            loaded.module, loaded.name, self.session, options, self.spec.signed, settings.runtime.seed
        )

    def _check_targets(self) -> None:
        """Refuse what only classes can be asked for."""
        if not self.prepared.target_selector.beyond_classes:
            return
        if self.settings.model.view == "tiles":
            raise CnnvizError(
                "--view tiles: only classes are explained by tiles; of all else no tile is the decisive one.",
                "Use --view crop, whole or squash.",
            )
        randomized = any(each.spec is RANDOMIZATION for each in self.metrics)
        if randomized and self.prepared.target_selector.units:
            raise CnnvizError("--sanity compares maps of classes, not of units.", "Leave out --sanity, or the unit.")
        if self.settings.target.score != "logit" and self.prepared.target_selector.units:
            raise CnnvizError(
                f"--score {self.settings.target.score}: a unit has an activation, no probability.",
                "Leave --score out, or explain classes and units in two runs.",
            )

    def _rehearse(self) -> None:
        """Run the method on a probe, so that a request it cannot meet fails before the run."""
        probe, task = self.prepared.probe(1), self.prepared.task
        with rt.scope():
            run = self.session.forward(probe)
            made: list[Heatmap] = []
            if self.prepared.target_selector.explains_classes:
                made.append(self._dry_run(run, task.target_of(torch.zeros(1, dtype=torch.long))))
            # As if each class in turn were predicted: a difference is left out where both sides are the same.
            said = 1.0 * torch.eye(len(task.classes))[:2]
            for requests in (self.prepared.target_selector.requests([], scores, task) for scores in said):
                for request in requests:
                    there = self._pass_for(request, run)
                    made.append(self._dry_run(there, request.target([request])))
        told = dict.fromkeys(note for heatmap in made for note in heatmap.notes)
        for text in (*told, *([self.spec.caveat] if self.spec.caveat else [])):
            self.prepared.note(text)

    def _map_of_probe(self, session: Session) -> Tensor:
        """The method's map of a probe that is smooth as photographs are, for the class that it is first taken for."""
        with rt.scope():
            run = session.forward(smooth_probe(self.prepared.preprocess.input_size))
            if self._probe_class is None:
                self._probe_class = class_logits(run.logits.detach()).argmax(dim=1).cpu()
            target = self.prepared.task.target_of(self._probe_class)
            return self._dry_run(run, target).values.detach().float().cpu()

    def _dry_run(self, run: ForwardPass, target: Target) -> Heatmap:
        """The method with as few passes as will do to try it."""
        return explain_batch(self.spec, run, target, self.spec.dry_run(self.params))

    @property
    def layer_name(self) -> str | None:
        return self.prepared.layer_name

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        return self.prepared.header()

    def explain(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        """Explain a batch; each image's row is what it would be alone. Images that fail become records."""
        tiled = self.prepared.preprocess.view == "tiles"
        return self.prepared.guarded(items, self._explain_tiled if tiled else self._explain)

    def _explain(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        prepared = self.prepared
        with rt.scope():
            pixels = normalize(prepared.batch(items), prepared.preprocess)
            run = self.session.forward(pixels)
            predictions = prepared.predict(run.logits.detach())
            asked = [prepared.select_targets(item, predictions, i) for i, item in enumerate(items)]
            wanted = [self._requests(classes, predictions, i) for i, classes in enumerate(asked)]
            maps = self._maps(run, wanted)
            targets = [[self._scored(request, predictions, i, run) for request in own] for i, own in enumerate(wanted)]
        rows: list[ImageOutcome] = []
        for i, (item, classes) in enumerate(zip(items, asked, strict=True)):
            if isinstance(classes, Record):
                rows.append(classes)
                continue
            if not wanted[i]:
                message = "it is taken for the class that it is compared with, and nothing else is asked for"
                rows.append(failed(item, "no-target", message))
                continue
            of_image = Asked(wanted[i], targets[i], prepared.top_predictions(predictions, i))
            rows.append(self._row(item, of_image, maps[i]))
        return rows

    def _requests(self, classes: list[int] | Record, said: Predictions, image: int) -> list[Request]:
        """What is explained for an image; for one that fails anything, and it is dropped."""
        task = self.prepared.task
        if isinstance(classes, Record):
            return [task.request(0)]
        return self.prepared.target_selector.requests(classes, said.scores[image], task)

    def _pass_for(self, request: Request, run: ForwardPass) -> ForwardPass:
        """The pass that a request reads: that of the run, or one of the same images that ends at a layer's units."""
        session = self._unit_sessions.get(request.readout)
        return run if session is None else run.remember(request.readout, lambda: session.forward(run.pixels))

    def _scored(self, request: Request, said: Predictions, image: int, run: ForwardPass) -> TargetScore:
        output = self._pass_for(request, run).output
        return request.scored(said, image, output[image : image + 1].detach())

    def _explain_tiled(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        rows: list[ImageOutcome] = []
        for some in tiling.together(items, self.prepared.preprocess, self.prepared.batch_size):
            with rt.scope():
                rows += self._explain_tiles(some)
        return rows

    def _explain_tiles(self, mosaics: Sequence[Tiles]) -> list[ImageOutcome]:
        """Images whose tiles run together. Where they are more than a batch, each runs twice: once for the classes,
        which depend on all of them, and once for its maps."""
        prepared, most = self.prepared, self.prepared.batch_size
        pixels = torch.cat([mosaic.cut() for mosaic in mosaics]).to(self.session.device, non_blocking=True)
        pixels = normalize(pixels, prepared.preprocess)
        first = self.session.forward(pixels) if len(pixels) <= most else None
        if first is not None:
            logits = first.logits.detach()
        else:
            logits = torch.cat([self.session.forward(part).logits.detach() for part in pixels.split(most)])
        predictions = prepared.predict(logits)
        best = [tiling.deciding(predictions, mosaic.rows) for mosaic in mosaics]
        asked = [
            tiling.select_targets(prepared, mosaic, predictions, row) for mosaic, row in zip(mosaics, best, strict=True)
        ]
        task = prepared.task
        wanted = [
            [task.request(index) for index in (a if isinstance(a, list) else [0])]
            for m, a in zip(mosaics, asked, strict=True)
            for _ in m.rows
        ]
        maps: list[list[ComputedMap]] = []
        for start in range(0, len(pixels), most):
            run = first or self.session.forward(pixels[start : start + most])
            maps += self._maps(run, wanted[start : start + most])
        rows: list[ImageOutcome] = []
        for mosaic, row, classes in zip(mosaics, best, asked, strict=True):
            if isinstance(classes, Record):
                rows.append(classes)
                continue
            shown = [tiling.showing(predictions, mosaic.rows, index) for index in classes]
            targets = [prepared.scored(index, predictions, at) for index, at in zip(classes, shown, strict=True)]
            whole = [
                tiling.joined(mosaic, [maps[tile][place] for tile in mosaic.rows], at - mosaic.rows.start)
                for place, at in enumerate(shown)
            ]
            facts = tiling.facts(mosaic, predictions, prepared, row)
            requests = [task.request(index) for index in classes]
            of_image = Asked(requests, targets, prepared.top_predictions(predictions, row), facts)
            rows.append(self._row(mosaic.item, of_image, whole))
        return rows

    def _maps(self, run: ForwardPass, asked: Sequence[Sequence[Request]]) -> list[list[ComputedMap]]:
        """The maps of a pass over a batch, with the scores of the metrics that run the network again."""
        maps = self._made(run, asked)
        if not self._model_metrics:
            return maps

        def drawn(other: ForwardPass) -> list[list[NDArray[np.float32]]]:
            return [[made.drawn for made in own] for own in self._made(other, asked)]

        def subject(image: int, place: int) -> tuple[ForwardPass, Target]:
            request = asked[image][place]
            return self._pass_for(request, run), request.target([request])

        batch = ExplainedBatch(run, [[made.drawn for made in own] for own in maps], drawn, subject)
        for own, of_image in zip(maps, self._model_metrics.score(batch), strict=True):
            for made, scores in zip(own, of_image, strict=True):
                made.scores.update(scores)
        return maps

    def _made(self, run: ForwardPass, asked: Sequence[Sequence[Request]]) -> list[list[ComputedMap]]:
        """For each image, for each of its requests: what is drawn, what is stored, what the method states.

        One forward pass is shared; place k of all images' lists is one backward pass for each kind of request there.
        """
        found: list[list[ComputedMap]] = [[] for _ in asked]
        for place in range(max(len(own) for own in asked)):
            there = [own[place] if place < len(own) else None for own in asked]
            for key in dict.fromkeys(request.key for request in there if request is not None):
                alike = [request if request is not None and request.key == key else None for request in there]
                self._add_maps(run, alike, found)
        return found

    def _add_maps(self, run: ForwardPass, there: Sequence[Request | None], found: Sequence[list[ComputedMap]]) -> None:
        """Maps of one request of each image that has one; the others repeat somebody's, and their result is dropped."""
        some = next(request for request in there if request is not None)
        target = some.target([some if request is None else request for request in there])
        heatmap = explain_batch(self.spec, self._pass_for(some, run), target, self.params)
        raw = heatmap.values.detach().float().cpu().numpy()
        drawn = raw if heatmap.maps is None else heatmap.maps.detach().float().cpu().numpy()
        arrays = {name: array.detach().cpu().numpy() for name, array in heatmap.arrays.items()}
        for image, request in enumerate(there):
            if request is not None:
                own = {name: array[image] for name, array in arrays.items()}
                scores = {k: v[image].tolist() if isinstance(v, Tensor) else v for k, v in heatmap.scores.items()}
                found[image].append(ComputedMap(drawn[image], raw[image], dict(heatmap.facts), scores, own))

    def _row(self, item: DecodedImage, asked: Asked, maps: Sequence[ComputedMap]) -> ImageOutcome:
        prepared = self.prepared
        if not all(np.isfinite(made.drawn).all() for made in maps):
            return failed(item, "not-finite", f"the map is not finite in {prepared.runtime.precision}")
        facts: dict[str, Any] = dict(maps[0].facts) if maps else {}
        if prepared.one_logit:
            facts["one_logit"] = "class 1 is the logit, class 0 its negative"
        rows = [
            TargetMap(
                target,
                request.slug,
                None if layer is None else layer.name,
                made.drawn,
                made.raw,
                made.scores,
                made.arrays,
                self.spec.colour,
                made.facts if layer is None else {**made.facts, "pre_activation": layer.pre_activation},
            )
            for request, target, made in zip(asked.requests, asked.targets, maps, strict=True)
            for layer in [self._layer_of(request)]
        ]
        return ImageResult(
            ref=item.ref,
            rgb=item.rgb,
            geometry=item.geometry,
            label=prepared.target_selector.truth(item.ref),
            predictions=asked.predictions,
            maps=rows,
            facts=facts,
            of_image={**prepared.view_facts(item), **self._truth_facts(item), **asked.facts},
            truth=item.truth,
        )

    def _truth_facts(self, item: DecodedImage) -> dict[str, Any]:
        """What the record says of the annotations of an image, where there are any."""
        if self.annotations is None:
            return {}
        return {"truth": None if item.truth is None else item.truth.to_dict()}

    def _layer_of(self, request: Request) -> LayerRef | None:
        """The layer at which a request is explained."""
        session = self._unit_sessions.get(request.readout, self.session)
        return session.layers[0] if session.layers else None

    def conclusions(self, records: Callable[[], Iterable[Mapping[str, Any]]]) -> dict[str, Any]:
        """What the summary says of all images together; ``records`` goes through them once more at each call."""
        found, notes = summed_up(self.metrics, records)
        for text in notes:
            self.prepared.note(text)
        return found

    def facts(self) -> dict[str, Any]:
        """What the summary says of the method."""
        predictions: dict[str, Any] = {"caveat": self.spec.caveat} if self.spec.caveat else {}
        if self.prepared.guesses:
            predictions["class_guesses"] = list(self.prepared.guesses)
        return {"method": self.spec.name, "class_specific": self.spec.class_specific, **predictions}
