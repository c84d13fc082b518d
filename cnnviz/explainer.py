"""The model and the method of a run: batches of decoded images in, maps and predictions out."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import cnnviz
from cnnviz import catalog
from cnnviz.asking import Asker, Classes, top_classes
from cnnviz.drawing import Explained, TargetMap
from cnnviz.engine import runtime as rt
from cnnviz.engine.session import Pass, Session, SessionOptions, layers_for, prepare
from cnnviz.engine.targets import ClassTarget, class_logits, probabilities
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.sources import ImageRef
from cnnviz.methods.heatmap import Heatmap
from cnnviz.models.load import load
from cnnviz.models.preprocess import Geometry, normalize
from cnnviz.records import ClassScore, Record, RunHeader
from cnnviz.settings import ACTIVATIONS, COMPILE_MODES, SCORES, RunSettings, check_choice

# Compilation takes about half a minute and saves about a tenth of the time of the packed network on a CPU.
_WORTH_COMPILING_SECONDS = 300.0
_WORTH_MEASURING_INPUTS = 500

Row = Explained | Record


@dataclass(frozen=True, eq=False)
class _Made:
    """What a method made of one image for one target."""

    drawn: NDArray[np.float32]
    raw: NDArray[np.float32]
    facts: dict[str, Any]
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A decoded image: as a viewer shows it, and as the network sees it (uint8 [C, H, W])."""

    ref: ImageRef
    rgb: NDArray[np.uint8]
    pixels: Tensor
    geometry: Geometry


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
        self._note = note
        self.spec = catalog.find_method(settings.target.method)
        self.params = self.spec.resolve_params(settings.target.params)
        check_choice(settings.target.score, SCORES, "--score")
        check_choice(settings.target.activation, ACTIVATIONS, "--activation")
        check_choice(settings.runtime.compile, COMPILE_MODES, "--compile")
        if "gradient" in settings.draw.save and self.spec.space != "input":
            raise CnnvizError(
                f"--save gradient: {self.spec.name} has no gradient at the image.", "Use it with guided or saliency."
            )
        self.runtime = rt.resolve(settings.runtime.device, settings.runtime.precision)
        self.lanes = rt.lanes(self.runtime.device)
        self.batch_size = settings.runtime.batch_size or self._default_batch_size(total)
        self._loaded = load(settings.model)
        for text in self._loaded.notes:
            note(text)
        self.preprocess = self._loaded.preprocess
        self.session = self._open(compile_it=False)
        if self.session.graph is None:
            # Hooks sit on the one module: batches must take turns.
            self.lanes = rt.Lanes(1, self.lanes.count * self.lanes.threads)
        with rt.threads(self.lanes.threads):
            self._choose_compilation(total)
        for text in self.session.notes:
            note(text)
        self.activation = settings.target.activation
        if self.activation == "auto":
            self.activation = self.session.final_activation or "softmax"
        outputs = self._rehearse()
        self.one_logit = outputs == 1
        self.classes = Classes(self._labels(outputs), self.one_logit)
        self.asker = Asker(settings.target.classes, self.classes)
        self._method = self.spec.load()

    def _default_batch_size(self, total: int | None) -> int:
        """Few inputs are shared out over the lanes."""
        size = rt.default_batch_size(self.runtime.device)
        return size if total is None else max(1, min(size, -(-total // self.lanes.count)))

    def _labels(self, outputs: int) -> tuple[str, ...]:
        labels = self._loaded.labels
        if len(labels) == outputs or (outputs == 1 and len(labels) == 2):
            return labels
        if self.settings.model.labels is None:
            return tuple(f"class {index}" for index in range(max(outputs, 1)))
        raise CnnvizError(
            f"There are {len(labels)} labels, but the network has {outputs} outputs.",
            "Give --labels with one name a class, or choose the class scores with --output.",
        )

    def _open(self, *, compile_it: bool) -> Session:
        target = self.settings.target
        layers = layers_for(self.spec, self.params, target.layers)
        options = SessionOptions(layers, target.output, compile_it, self.batch_size)
        session = prepare(self._loaded.module, self._loaded.name, self.preprocess.input_size, self.runtime, options)
        session.preprocess = self.preprocess
        return session

    def _probe(self, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn((count, *self.preprocess.input_size), generator=generator)

    def _rehearse(self) -> int:
        """Run the method on a probe, so that a request it cannot meet fails before the run. Returns K."""
        with rt.scope():
            run = self.session.forward(self._probe(1))
            target = ClassTarget(torch.zeros(1, dtype=torch.long), self.settings.target.score, self.activation)
            heatmap: Heatmap = self.spec.load()(run, target, self.params)
        for text in (*heatmap.notes, *([self.spec.caveat] if self.spec.caveat else [])):
            self._note(text)
        return int(run.logits.shape[1])

    def _choose_compilation(self, total: int | None) -> None:
        mode = self.settings.runtime.compile
        if mode == "off" or not self.session.graph:
            return
        if mode == "auto":
            if not rt.compiler_here(self.runtime.device) or (total or 0) < _WORTH_MEASURING_INPUTS:
                return
            expected = self._seconds(self.session) / self.batch_size * (total or 0)
            if expected < _WORTH_COMPILING_SECONDS:
                return
            self._note(f"compiling the network: {total} images would take about {expected:.0f} s without")
        compiled = self._open(compile_it=True)
        faster = mode == "on" or self._seconds(compiled) < 0.98 * self._seconds(self.session)
        if compiled.compiled and faster:
            self.session = compiled
        elif compiled.compiled:
            self._note("the compiled network is not faster here: the packed one is used")
        else:
            self.session.notes.extend(compiled.notes)

    def _seconds(self, session: Session) -> float:
        """Time of one forward pass over a batch: the better of two after a warm-up."""
        batch, best = self._probe(self.batch_size), float("inf")
        for _ in range(3):
            began = time.perf_counter()
            session.forward(batch)
            rt.wait(self.runtime.device)
            best = min(best, time.perf_counter() - began)
        return best

    @property
    def layer_name(self) -> str | None:
        return self.session.layers[0].name if self.session.layers else None

    def explain(self, items: Sequence[Loaded]) -> list[Row]:
        """Explain a batch; each image's row is what it would be alone. Images that fail become records."""
        try:
            return self._explain(items)
        except CnnvizError:
            raise
        except Exception as error:
            memory = rt.is_out_of_memory(error)
            if len(items) == 1:
                kind = "out-of-memory" if memory else "model"
                return [_failed(items[0], kind, (str(error).strip().splitlines() or [type(error).__name__])[0])]
        if memory:
            rt.release_memory(self.runtime.device)
            self.batch_size = max(1, len(items) // 2)
            self._note(f"out of memory: the batch is halved to {self.batch_size}")
        half = (len(items) + 1) // 2
        return self.explain(items[:half]) + self.explain(items[half:])

    def _explain(self, items: Sequence[Loaded]) -> list[Row]:
        pixels = torch.stack([item.pixels for item in items]).to(self.session.device, non_blocking=True)
        with rt.scope():
            run = self.session.forward(normalize(pixels, self.preprocess))
            logits = run.logits.detach()
            scores = class_logits(logits).cpu()
            shares = probabilities(logits, self.activation).cpu()
            usable = torch.isfinite(scores).all(dim=1).tolist()
            asked = [self._ask(item, scores[i], usable[i]) for i, item in enumerate(items)]
            maps = self._maps(run, [a if isinstance(a, list) else [0] for a in asked])
        rows: list[Row] = []
        for i, item in enumerate(items):
            wanted = asked[i]
            if isinstance(wanted, Record):
                rows.append(wanted)
            else:
                rows.append(self._row(item, wanted, (scores[i], shares[i]), maps[i]))
        return rows

    def _ask(self, item: Loaded, scores: Tensor, usable: bool) -> list[int] | Record:
        if not usable:
            return _failed(item, "not-finite", f"the network's output is not finite in {self.runtime.precision}")
        try:
            return self.asker.ask(item.ref, scores)
        except ImageError as error:
            return _failed(item, error.kind, error.message)

    def _maps(self, run: Pass, asked: Sequence[list[int]]) -> list[list[_Made]]:
        """For each image, for each of its classes: what is drawn, what is stored, what the method states.

        One forward pass is shared; place k of all images' lists is one backward pass. Images with fewer classes
        repeat their first there, and the result is dropped.
        """
        found: list[list[_Made]] = [[] for _ in asked]
        for place in range(max(len(classes) for classes in asked)):
            indices = [classes[place] if place < len(classes) else classes[0] for classes in asked]
            target = ClassTarget(
                torch.tensor(indices, device=run.logits.device), self.settings.target.score, self.activation
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

    def _row(
        self,
        item: Loaded,
        classes: Sequence[int],
        scored: tuple[Tensor, Tensor],
        maps: Sequence[_Made],
    ) -> Row:
        scores, shares = scored
        if not all(np.isfinite(made.drawn).all() for made in maps):
            return _failed(item, "not-finite", f"the map is not finite in {self.runtime.precision}")
        listed = top_classes(scores, min(self.settings.target.top, len(self.classes)))
        facts: dict[str, Any] = dict(maps[0].facts) if maps else {}
        if self.session.layers:
            facts["pre_activation"] = self.session.layers[0].pre_activation
        if self.one_logit:
            facts["one_logit"] = "class 1 is the logit, class 0 its negative"
        return Explained(
            ref=item.ref,
            rgb=item.rgb,
            geometry=item.geometry,
            label=self.asker.truth(item.ref),
            predictions=tuple(self._scored(index, scores, shares) for index in listed),
            maps=[
                TargetMap(
                    self._scored(index, scores, shares),
                    self.classes.slug(index),
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

    def _scored(self, index: int, scores: Tensor, shares: Tensor) -> ClassScore:
        return ClassScore(index, self.classes.labels[index], float(shares[index]), float(scores[index]))

    def header(self) -> RunHeader:
        """What the report says of the run, before its first image."""
        import timm
        import torchvision

        loaded, spec = self._loaded, self.preprocess
        return RunHeader(
            cnnviz=cnnviz.__version__,
            command=self.settings.command,
            options=self.settings.options(),
            model={
                "name": loaded.name,
                "source": loaded.source,
                "weights": loaded.weights,
                "parameters": loaded.parameters,
                "num_classes": loaded.num_classes,
                "input_size": list(spec.input_size),
                "layers": [layer.name for layer in self.session.layers],
                "preprocess": {
                    "resize": spec.resize,
                    "crop": spec.crop,
                    "interpolation": spec.interpolation,
                    "mean": list(spec.mean),
                    "std": list(spec.std),
                },
                "notes": list(loaded.notes),
            },
            environment={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "timm": timm.__version__,
                "device": str(self.runtime.device),
                "precision": self.runtime.precision,
                "preparation": self.session.preparation,
            },
            summary={"inputs": 0, "explained": 0, "failed": 0, "finished": False},
        )

    def facts(self) -> dict[str, Any]:
        """What the summary says of the method."""
        said = {"caveat": self.spec.caveat} if self.spec.caveat else {}
        return {"method": self.spec.name, "class_specific": self.spec.class_specific, **said}


def _failed(item: Loaded, kind: str, message: str) -> Record:
    height, width = item.rgb.shape[:2]
    return Record(item.ref.uri, width, height, item.ref.label, error={"type": kind, "message": message})
