"""The method of a run: batches of decoded images in, maps and predictions out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import cut_for
from cnnviz.engine.precision import smooth_probe
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import ClassTarget, DifferenceTarget, Target, class_logits
from cnnviz.errors import CnnvizError
from cnnviz.maps import tiling
from cnnviz.maps.sanity import Sanity, conclude
from cnnviz.maps.sanity import said as sanity_said
from cnnviz.maps.tiling import ComputedMap, Tiles
from cnnviz.maps.write_image import ImageResult, TargetMap
from cnnviz.methods.heatmap import Heatmap
from cnnviz.metrics.conservation import LeftOut
from cnnviz.models.preprocess import normalize
from cnnviz.records import ClassScore, DifferenceScore, Record, RunHeader
from cnnviz.registry import lookup
from cnnviz.run.loop import Worker
from cnnviz.run.prepared_model import DecodedImage, PreparedModel, failed
from cnnviz.run.target_selection import Pair
from cnnviz.settings import SCORES, RunSettings, check_choice

ImageOutcome = ImageResult | Record


class Explainer(Worker):
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
        check_choice(settings.target.score, SCORES, "--score")
        if "gradient" in settings.draw.save and self.spec.space != "input":
            raise CnnvizError(
                f"--save gradient: {self.spec.name} has no gradient at the image.", "Use it with guided or saliency."
            )
        cut = cut_for(self.spec, self.params, settings.target.layers)
        self.prepared = PreparedModel(settings, cut, total, note)
        if settings.model.view == "tiles" and self.prepared.target_selector.compares:
            raise CnnvizError(
                "--view tiles: a difference of classes has no tile of its own.", "Use --view crop, whole or squash."
            )
        self.session = self.prepared.session
        self._method = self.spec.load()
        self._rehearse()
        self._probe_class: Tensor | None = None
        self.prepared.settle_precision(cut, self._map_of_probe)
        self.session = self.prepared.session
        self._sanity = Sanity(self.prepared, cut, self.spec.signed) if settings.target.sanity else None

    def _rehearse(self) -> None:
        """Run the method on a probe, so that a request it cannot meet fails before the run."""
        with rt.scope():
            run = self.session.forward(self.prepared.probe(1))
            target: Target = self._class_target(torch.zeros(1, dtype=torch.long))
            heatmap = self._dry_run(run, target)
            if self.prepared.target_selector.compares:
                other = torch.ones(1, dtype=torch.long)
                target = DifferenceTarget(self._class_target(other), self._class_target(1 - other))
                self._dry_run(run, target)
        for text in (*heatmap.notes, *([self.spec.caveat] if self.spec.caveat else [])):
            self.prepared.note(text)

    def _map_of_probe(self, session: Session) -> Tensor:
        """The method's map of a probe that is smooth as photographs are, for the class that it is first taken for."""
        with rt.scope():
            run = session.forward(smooth_probe(self.preprocess.input_size))
            if self._probe_class is None:
                self._probe_class = class_logits(run.logits.detach()).argmax(dim=1).cpu()
            target = self._class_target(self._probe_class)
            return self._dry_run(run, target).values.detach().float().cpu()

    def _dry_run(self, run: ForwardPass, target: Target) -> Heatmap:
        """The method with as few passes as will do to try it."""
        heatmap: Heatmap = self._method(run, target, self.spec.dry_run(self.params))
        return heatmap

    def _class_target(self, indices: Tensor) -> ClassTarget:
        return ClassTarget(indices, self.settings.target.score, self.prepared.activation)

    @property
    def layer_name(self) -> str | None:
        return self.prepared.layer_name

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        return self.prepared.header()

    def explain(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        """Explain a batch; each image's row is what it would be alone. Images that fail become records."""
        tiled = self.preprocess.view == "tiles"
        return self.prepared.guarded(items, self._explain_tiled if tiled else self._explain)

    def _explain(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        prepared = self.prepared
        with rt.scope():
            pixels = normalize(prepared.batch(items), prepared.preprocess)
            run = self.session.forward(pixels)
            predictions = prepared.predict(run.logits.detach())
            asked = [prepared.select_targets(item, predictions, i) for i, item in enumerate(items)]
            pairs = [prepared.target_selector.select_pairs(scores) for scores in predictions.scores]
            wanted = [_requests(classes, own) for classes, own in zip(asked, pairs, strict=True)]
            maps = self._maps(run, wanted)
        rows: list[ImageOutcome] = []
        for i, (item, classes) in enumerate(zip(items, asked, strict=True)):
            if isinstance(classes, Record):
                rows.append(classes)
                continue
            if not wanted[i]:
                message = "it is taken for the class that it is compared with, and nothing else is asked for"
                rows.append(failed(item, "no-target", message))
                continue
            targets: list[ClassScore | DifferenceScore] = [
                *(prepared.scored(index, predictions, i) for index in classes),
                *(prepared.compared(pair, predictions, i) for pair in pairs[i]),
            ]
            rows.append(self._row(item, targets, prepared.top_predictions(predictions, i), maps[i]))
        return rows

    def _explain_tiled(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        rows: list[ImageOutcome] = []
        for some in tiling.together(items, self.preprocess, self.prepared.batch_size):
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
        wanted = [a if isinstance(a, list) else [0] for m, a in zip(mosaics, asked, strict=True) for _ in m.rows]
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
            rows.append(self._row(mosaic.item, targets, prepared.top_predictions(predictions, row), whole, facts))
        return rows

    def _maps(self, run: ForwardPass, asked: Sequence[Sequence[int | Pair]]) -> list[list[ComputedMap]]:
        """The maps of a pass over a batch, with ``--sanity`` compared with those of random weights."""
        maps = self._made(run, asked)
        if self._sanity is None:
            return maps

        def drawn(other: ForwardPass) -> list[list[NDArray[np.float32]]]:
            return [[made.drawn for made in own] for own in self._made(other, asked)]

        rows = self._sanity.compare(run.pixels, [[made.drawn for made in own] for own in maps], drawn)
        for own, of_image in zip(maps, rows, strict=True):
            for made, of_class in zip(own, of_image, strict=True):
                made.scores["sanity"] = of_class
        return maps

    def _made(self, run: ForwardPass, asked: Sequence[Sequence[int | Pair]]) -> list[list[ComputedMap]]:
        """For each image, for each of its classes: what is drawn, what is stored, what the method states.

        One forward pass is shared; place k of all images' lists is one backward pass: of the images that have a class
        there, and one of those that have a pair.
        """
        found: list[list[ComputedMap]] = [[] for _ in asked]
        for place in range(max(len(own) for own in asked)):
            there = [own[place] if place < len(own) else None for own in asked]
            for kind in (int, Pair):
                if any(type(request) is kind for request in there):
                    self._add_maps(run, [request if type(request) is kind else None for request in there], found)
        return found

    def _add_maps(
        self, run: ForwardPass, there: Sequence[int | Pair | None], found: Sequence[list[ComputedMap]]
    ) -> None:
        """Maps of one request of each image that has one; the others repeat somebody's, and their result is dropped."""
        some = next(request for request in there if request is not None)
        target = self._target(run, [some if request is None else request for request in there])
        heatmap: Heatmap = self._method(run, target, self.params)
        raw = heatmap.values.detach().float().cpu().numpy()
        drawn = raw if heatmap.maps is None else heatmap.maps.detach().float().cpu().numpy()
        arrays = {name: array.detach().cpu().numpy() for name, array in heatmap.arrays.items()}
        for image, request in enumerate(there):
            if request is not None:
                own = {name: array[image] for name, array in arrays.items()}
                scores = {k: v[image].tolist() if isinstance(v, Tensor) else v for k, v in heatmap.scores.items()}
                found[image].append(ComputedMap(drawn[image], raw[image], dict(heatmap.facts), scores, own))

    def _target(self, run: ForwardPass, requests: Sequence[int | Pair]) -> Target:
        """The target of a batch whose requests are all classes, or all pairs of classes."""
        device = run.logits.device
        pairs = [request for request in requests if isinstance(request, Pair)]
        if not pairs:
            return self._class_target(torch.tensor(requests, device=device))
        first, second = (torch.tensor([pair[which] for pair in pairs], device=device) for which in (0, 1))
        return DifferenceTarget(self._class_target(first), self._class_target(second))

    def _row(
        self,
        item: DecodedImage,
        targets: Sequence[ClassScore | DifferenceScore],
        predictions: tuple[ClassScore, ...],
        maps: Sequence[ComputedMap],
        of_image: Mapping[str, Any] | None = None,
    ) -> ImageOutcome:
        prepared = self.prepared
        if not all(np.isfinite(made.drawn).all() for made in maps):
            return failed(item, "not-finite", f"the map is not finite in {prepared.runtime.precision}")
        facts: dict[str, Any] = dict(maps[0].facts) if maps else {}
        if self.session.layers:
            facts["pre_activation"] = self.session.layers[0].pre_activation
        if prepared.one_logit:
            facts["one_logit"] = "class 1 is the logit, class 0 its negative"
        return ImageResult(
            ref=item.ref,
            rgb=item.rgb,
            geometry=item.geometry,
            label=prepared.target_selector.truth(item.ref),
            predictions=predictions,
            maps=[
                TargetMap(
                    target,
                    prepared.slug(target),
                    made.drawn,
                    made.raw,
                    made.scores,
                    made.arrays,
                    self.spec.colour,
                )
                for target, made in zip(targets, maps, strict=True)
            ],
            facts=facts,
            of_image={**prepared.view_facts(item), **(of_image or {})},
        )

    def conclusions(self, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What the summary says of all images together."""
        left_out = LeftOut()
        passing = left_out.counting(records) if self.spec.gap else records
        found: dict[str, Any] = {}
        if self._sanity is not None:
            found["sanity"] = conclude(passing)
            if found["sanity"]:
                self.prepared.note(sanity_said(found["sanity"]))
        elif self.spec.gap:
            deque(passing, maxlen=0)
        if self.spec.gap and left_out.maps:
            found["left_out"] = left_out.summary()
            if text := left_out.note(self.spec.gap):
                self.prepared.note(text)
        return found

    def facts(self) -> dict[str, Any]:
        """What the summary says of the method."""
        predictions: dict[str, Any] = {"caveat": self.spec.caveat} if self.spec.caveat else {}
        if self.prepared.guesses:
            predictions["class_guesses"] = list(self.prepared.guesses)
        return {"method": self.spec.name, "class_specific": self.spec.class_specific, **predictions}


def _requests(classes: list[int] | Record, pairs: Sequence[Pair]) -> list[int | Pair]:
    """What is explained for an image; for one that fails anything, and it is dropped."""
    return [0] if isinstance(classes, Record) else [*classes, *pairs]
