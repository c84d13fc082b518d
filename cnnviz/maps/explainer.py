"""The method of a run: batches of decoded images in, maps and predictions out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import without_layer
from cnnviz.engine.open_session import SessionOptions
from cnnviz.engine.precision import smooth_probe
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.maps import mosaics, tiling
from cnnviz.maps.asked import Asked, answered, check_targets, for_task, scored, truth_facts, truth_labels, with_role
from cnnviz.maps.comparison import Conclusion, comparison_of, of_several
from cnnviz.maps.expected_time import ExpectedTime
from cnnviz.maps.flat_maps import all_finite
from cnnviz.maps.numbers_used import told_of_numbers
from cnnviz.maps.parts import Parts, Tell, untold
from cnnviz.maps.preparation import cuts_of, of_methods, opened, passed_over, prepare_methods, rehearsed
from cnnviz.maps.prepared_method import BLURRED, PreparedBaseline, PreparedMethod, forgotten
from cnnviz.maps.remembered import Remembered
from cnnviz.maps.second_look import KeptPhotographs, SecondLook
from cnnviz.maps.tiling import ComputedMap, Tiles
from cnnviz.maps.write_image import ImageResult, TargetMap
from cnnviz.metrics.chosen import ModelMetrics, gathered, summed_up
from cnnviz.metrics.contract import ExplainedNetwork
from cnnviz.models.preprocess import normalize
from cnnviz.records import Record, RunHeader, TargetScore
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec, Options
from cnnviz.render.overlay import Style
from cnnviz.run.images import DecodedImage, failed, view_facts
from cnnviz.run.outcomes import WRONG
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.settings import SCORES, RunSettings, check_choice
from cnnviz.tasks.base import Request, Selected

ImageOutcome = ImageResult | Record


class Explainer:
    """Loads the model, prepares the methods and checks the request on a probe, before anything is written.

    Args:
        settings: What was asked for.
        total: Number of inputs if known: decides whether compilation pays.
        note: Told what the user should know.
        prepares: Makes the prepared network; another than the usual one where requests share what was prepared.

    Attributes:
        spec: What the command runs: a method, or a comparison of several.
        comparison: The comparison; None for a method.
        judges: Whether what is known of an image, its label or marks, says that the network is right or wrong.
        methods: The methods; those that share a session share its forward passes.
        makers: What makes the maps: the methods, and the baselines beside them. ``remembered``: the run's cache.
        part: Told how many images' worth of work is done, of images that are not finished.
        expected: Told how long batches take; None where nobody is to know.

    Raises:
        CnnvizError: The model, the layer, the class or a method cannot be had.
    """

    def __init__(
        self,
        settings: RunSettings,
        total: int | None,
        note: Callable[[str], None],
        prepares: type[PreparedModel] | Callable[..., PreparedModel] = PreparedModel,
    ) -> None:
        self.settings = settings
        self.remembered: Remembered | None = None
        self.part: Tell = untold
        self.expected: ExpectedTime | None = None
        self.spec = lookup.find_entry(settings.target.method)
        params = self.spec.resolve_params(settings.target.params)
        self.comparison = comparison_of(self.spec, params, settings.target)
        self.judges = self.comparison is None or self.comparison.judges
        refuse = passed_over(self.comparison, note)
        chosen, cuts, self.requests = cuts_of(self._chosen(params), settings.target, self.comparison, refuse)
        mosaics.check_view(self.requests[0], settings.model.view)
        check_choice(settings.target.score, SCORES, "--score")
        if "gradient" in settings.draw.save and not any(spec.space == "input" for spec, _ in chosen):
            names = ", ".join(spec.name for spec, _ in chosen)
            raise CnnvizError(
                f"--save gradient: {names} has no gradient at the image.", "Use it with guided or saliency."
            )
        asked = settings.target.layers
        for name in without_layer(asked, {spec.name: cut for (spec, _), cut in zip(chosen, cuts, strict=True)}):
            note(f"--layer {', '.join(asked)}: {name} looks at no layer")
        self.prepared, cut = opened(lambda cut, spec: prepares(settings, cut, total, note, spec=spec), chosen, cuts)
        self.annotations = self.prepared.annotations
        again = self.comparison is not None and self.comparison.looks_again
        self.kept = KeptPhotographs(self.prepared.preprocess) if again else None
        chosen = for_task(self.prepared, chosen)
        self.spec = chosen[0][0] if self.comparison is None else self.spec
        check_targets(self.prepared, self.requests)
        measured = dict(zip((spec.name for spec, _ in chosen), self.requests, strict=True))
        made = prepare_methods(self.prepared, cut, chosen, cuts, refuse)
        self.methods = rehearsed(self.prepared, made, refuse)
        self.prepared.session = self.methods[0].session
        self.requests = [measured[method.spec.name] for method in self.methods]
        self._probe_target: Target | None = None
        if len(self.methods) == 1:
            self.prepared.settle_precision(self.methods[0].cut, self._map_of_probe)
            self.methods[0].session = self.prepared.session
        self.makers = [*self.methods, *self._baselines()]
        for maker in self.makers:
            maker.metrics = ModelMetrics(self.requests[0], self._network(maker))

    def _chosen(self, params: Options) -> list[tuple[MethodSpec, Options]]:
        """The methods of the run, with their options."""
        if self.comparison is not None:
            return self.comparison.methods()
        assert isinstance(self.spec, MethodSpec)
        return [(self.spec, params)]

    def _baselines(self) -> list[PreparedBaseline]:
        kinds = () if self.comparison is None else self.comparison.baselines()
        seed = self.settings.runtime.seed
        once = [PreparedBaseline(self.methods[0], kind, seed) for kind in kinds if kind != BLURRED]
        return once + [PreparedBaseline(method, BLURRED, seed) for method in self.methods if BLURRED in kinds]

    def _network(self, method: PreparedMethod) -> ExplainedNetwork:
        """What metrics get that run the network again."""
        loaded, settings = self.prepared.loaded, self.settings
        key, tracing = settings.target.logits_key, settings.runtime.tracing
        options = SessionOptions(method.cut, key, private=False, tracing=tracing)
        return ExplainedNetwork(
            loaded.module, loaded.name, method.session, options, method.spec.signed, settings.runtime.seed
        )

    def _map_of_probe(self, session: Session) -> Tensor:
        """The method's map of a probe that is smooth as photographs are, for the class that it is first taken for."""
        with rt.scope():
            run = session.forward(smooth_probe(self.prepared.preprocess.input_size))
            if self._probe_target is None:
                self._probe_target = self.prepared.task.default_target(run.chosen)
            return self.methods[0].dry_run(run, self._probe_target).values.detach().float().cpu()

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        header = of_methods(self.prepared.header(), self.methods)
        for text in () if self.comparison is None else self.comparison.remarks_on(header.model):
            self.prepared.note(text)
        return header

    def explain(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        """Explain a batch; each image's row is what it would be alone. Images that fail become records."""
        tiled = self.prepared.preprocess.view == "tiles"
        parts, began = Parts(self.part, len(items), sum(maker.steps for maker in self.makers)), time.perf_counter()
        made = self.prepared.guarded(items, self._explain_tiled if tiled else partial(self._explain, parts))
        parts.finish()
        if self.expected is not None:
            self.expected.explained(len(items), time.perf_counter() - began)
        return made

    def _explain(self, parts: Parts, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        runs: dict[Session, ForwardPass] = {}
        with forgotten(runs):
            return self._explain_by(runs, parts, items)

    def _explain_by(
        self, runs: dict[Session, ForwardPass], parts: Parts, items: Sequence[DecodedImage]
    ) -> list[ImageOutcome]:
        """The same; the passes that are made on the way are put into ``runs``."""
        prepared = self.prepared
        with rt.scope():
            pixels = normalize(prepared.batch(items), prepared.preprocess)
            runs[self.methods[0].session] = prepared.forward(self.methods[0].session, pixels)
            predictions = prepared.predict(runs[self.methods[0].session].chosen.detach())
            asked = [prepared.requests(item, predictions, i) for i, item in enumerate(items)]
            if self.settings.target.only is not None and any(isinstance(each, Record) for each in asked):
                return self._explain_some(parts, items, asked)
            wanted: list[Sequence[Request]] = [() if isinstance(own, Record) else own.requests for own in asked]
            if not any(wanted):
                return [own for own in asked if isinstance(own, Record)]
            maps = []
            for method in self.makers:
                if method.session not in runs:
                    runs[method.session] = prepared.forward(method.session, pixels)
                maps.append(method.maps(runs[method.session], wanted, partial(parts.step, len(items))))
            run, pass_for = runs[self.methods[0].session], self.methods[0].pass_for
            targets = [scored(own, predictions, i, lambda each: pass_for(each, run)) for i, own in enumerate(wanted)]
        rows: list[ImageOutcome] = []
        for i, (item, own) in enumerate(zip(items, asked, strict=True)):
            if isinstance(own, Record):
                rows.append(own)
                continue
            facts = {**prepared.task.facts(predictions, i), **own.facts}
            of_image = answered(prepared, (item, predictions, i), wanted[i], targets[i], facts)
            rows.append(self._row(item, of_image, [made[i] for made in maps]))
        return rows

    def _explain_some(
        self, parts: Parts, items: Sequence[DecodedImage], asked: Sequence[Selected | Record]
    ) -> list[ImageOutcome]:
        """A batch of which some images are left out: one more pass over the others costs less than maps of all."""
        some = [item for item, own in zip(items, asked, strict=True) if not isinstance(own, Record)]
        made = iter(self._explain(parts, some) if some else [])
        return [own if isinstance(own, Record) else next(made) for own in asked]

    def _explain_tiled(self, items: Sequence[DecodedImage]) -> list[ImageOutcome]:
        rows: list[ImageOutcome] = []
        for some in tiling.together(items, self.prepared.preprocess, self.prepared.batch_size):
            with rt.scope():
                rows += self._explain_tiles(some)
        return rows

    def _explain_tiles(self, mosaics: Sequence[Tiles]) -> list[ImageOutcome]:
        """Images whose tiles run together; where they are more than a batch, each runs twice: for classes, for maps."""
        prepared, most, method = self.prepared, self.prepared.batch_size, self.methods[0]
        pixels = rt.moved(torch.cat([mosaic.cut() for mosaic in mosaics]), method.session.device)
        pixels = normalize(pixels, prepared.preprocess)
        first = method.session.forward(pixels) if len(pixels) <= most else None
        if first is not None:
            logits = first.logits.detach()
        else:
            logits = torch.cat([method.session.forward(part).logits.detach() for part in pixels.split(most)])
        predictions = prepared.predict(logits)
        best = [tiling.deciding(predictions, mosaic.rows) for mosaic in mosaics]
        asked = [
            tiling.select_targets(prepared, mosaic, predictions, row) for mosaic, row in zip(mosaics, best, strict=True)
        ]
        if all(isinstance(classes, Record) for classes in asked):
            return [classes for classes in asked if isinstance(classes, Record)]
        task = prepared.classification
        wanted = [
            [task.request(index) for index in (a if isinstance(a, list) else [0])]
            for m, a in zip(mosaics, asked, strict=True)
            for _ in m.rows
        ]
        maps: list[list[ComputedMap]] = []
        for start in range(0, len(pixels), most):
            run = first or method.session.forward(pixels[start : start + most])
            with forgotten({method.session: run}):
                maps += method.maps(run, wanted[start : start + most])
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
            of_image = answered(prepared, (mosaic.item, predictions, row), requests, targets, facts)
            rows.append(self._row(mosaic.item, of_image, [whole]))
        return rows

    def _row(self, item: DecodedImage, asked: Asked, maps: Sequence[Sequence[ComputedMap]]) -> ImageOutcome:
        """What is written of an image; ``maps`` are those of each method, for each request."""
        prepared = self.prepared
        for method, own in zip(self.makers, maps, strict=True):
            if not all_finite([made.drawn for made in own]):
                of = f" of {method.spec.name}" if len(self.makers) > 1 else ""
                return failed(item, "not-finite", f"the map{of} is not finite in {prepared.runtime.precision}")
        labels = truth_labels(prepared.truth_classes, asked.targets)
        rows = [
            self._target_map(method, request, target, own[place], labels[place])
            for place, (request, target) in enumerate(zip(asked.requests, asked.targets, strict=True))
            for method, own in zip(self.makers, maps, strict=True)
        ]
        if self.settings.target.only == WRONG:
            rows = [with_role(each, asked.verdict) for each in rows]
        known = asked.of_image(self.judges)
        return ImageResult(
            ref=item.ref,
            rgb=item.rgb,
            geometry=item.geometry,
            label=prepared.target_selector.truth(item.ref) if self.judges else None,
            predictions=asked.predictions,
            maps=rows,
            of_image={**view_facts(item, prepared.preprocess), **truth_facts(self.annotations, item), **known},
            truth=item.truth,
            meant_labels=asked.meant_labels,
            guesses=asked.guesses,
            classes=asked.shown,
        )

    def _target_map(
        self,
        method: PreparedMethod,
        request: Request,
        target: TargetScore,
        made: ComputedMap,
        labels: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> TargetMap:
        layer, facts = method.layer_of(request), dict(made.facts)
        if self.prepared.one_logit:
            facts["one_logit"] = "class 1 is the logit, class 0 its negative"
        if layer is not None:
            facts["pre_activation"] = layer.pre_activation
        name = made.layer or (None if layer is None else layer.name)
        return TargetMap(
            target,
            request.slug,
            method.spec,
            name,
            made.drawn,
            made.raw,
            made.scores,
            made.arrays,
            facts,
            *labels,
            outline=request.outline,
            box=request.box,
        )

    def conclude(
        self, records: Callable[[], Iterable[Mapping[str, Any]]], store: Store, *, unfinished: bool = False
    ) -> Conclusion:
        """What all images together say.

        Args:
            records: Goes through the records of the run, once more at each call.
            store: The output folder.
            unfinished: That not all images were seen, after Ctrl-C or a failure with ``--fail-fast``: then nothing more
                is run.
        """
        played = mosaics.Played() if unfinished else self._played(records)
        for text in (first := [*played.notes, *told_of_numbers(self.methods, records())]):
            self.prepared.note(text)
        report = {} if played.report is None else {"mosaics": played.report}
        if self.comparison is None:
            whole = gathered({"": self.requests[0]}, records())[""]
            found = summed_up(self.requests[0], whole, played.rows.get(self.spec.name, ()))
            for text in found.notes:
                self.prepared.note(text)
            told = [*first, *(": ".join(filter(None, each)) for each in found.remarks)]
            return Conclusion(found.figures, report=report, remarks=told)
        figures, remarks, own = {}, {}, dict(zip((each.spec.name for each in self.methods), self.requests, strict=True))
        # What stands beside the methods is measured as the first of them is.
        rows = gathered({each.spec.name: own.get(each.spec.name, self.requests[0]) for each in self.makers}, records())
        for name, measured in rows.items():
            found = summed_up(own.get(name, self.requests[0]), measured, played.rows.get(name, ()))
            figures[name] = found.figures
            if name in own:
                itself = self.comparison.says_itself()
                remarks[name] = tuple(each for each in found.remarks if each[0] not in itself)
        for text in (told := of_several(remarks)):
            self.prepared.note(text)
        self.comparison.look = SecondLook(self.prepared, self.makers, self.annotations, self.remembered, self.kept)
        concluded = self.comparison.conclude(figures, records(), store)
        left_out = {name: own["left_out"] for name, own in figures.items() if "left_out" in own}
        style = Style(self.settings.draw.colormap, self.settings.draw.alpha)
        pictures = mosaics.pictures(played, [method.spec.name for method in self.methods], style, store)
        summary = {**concluded.summary, **({"left_out": left_out} if left_out else {})}
        drawn, told = [*concluded.figures, *pictures], [*first, *told, *concluded.remarks]
        return replace(concluded, summary=summary, report=report, figures=drawn, remarks=told)

    def columns(self) -> dict[str, tuple[str, str]]:
        """Of several methods their names, with title and, of those that are left out, why: columns of a picture."""
        if self.comparison is None:
            return {}
        found = {each.spec.name: (each.spec.title, "") for each in self.makers}
        for name, (title, why) in self.comparison.left_out().items():
            found[name] = title, why
        asked = [spec.name for spec, _ in self.comparison.methods()]
        return {name: found[name] for name in dict.fromkeys([*asked, *found])} if len(found) > 1 else {}

    def writes(self) -> Sequence[str]:
        """Names, known before the first image, of what :meth:`conclude` may write."""
        if self.comparison is None:
            return ()
        return [*self.comparison.writes(), *([mosaics.PICTURE] if mosaics.asked(self.requests[0]) else [])]

    def _played(self, records: Callable[[], Iterable[Mapping[str, Any]]]) -> mosaics.Played:
        """The grid pointing game, where it was asked for."""
        request = mosaics.asked(self.requests[0])
        return mosaics.Played() if request is None else mosaics.play(self.prepared, self.makers, request, records())

    def facts(self) -> dict[str, Any]:
        """What the summary says of the method, or of the methods."""
        found: dict[str, Any] = {}
        if self.comparison is None:
            spec, params = self.methods[0].spec, self.methods[0].params
            caveat = spec.caveat_with(params)
            found = {"caveat": caveat} if caveat else {}
        if self.prepared.guesses:
            found["class_guesses"] = list(self.prepared.guesses)
        if self.comparison is not None:
            names = [method.spec.name for method in self.methods]
            # None where a run that is resumed had nothing left to do.
            times = {each.spec.name: round(each.seconds / each.count, 6) for each in self.methods if each.count}
            return {"study": self.spec.name, "methods": names, "seconds_per_map": times, **found}
        return {"method": spec.name, "class_specific": spec.class_specific and not params.starts_elsewhere, **found}
