"""``cnnviz concepts``: what of its images a class is recognised by, as concepts with pictures and an importance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.seeding import seed_for
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import class_logits, predicted
from cnnviz.errors import CnnvizError, counted
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.store import Store
from cnnviz.models.graph.outputs import two_dim
from cnnviz.models.preprocess import normalize
from cnnviz.records import Record
from cnnviz.registry.studies import ConceptsOptions
from cnnviz.render.concepts import importance_chart
from cnnviz.render.factors import FactorRow, factor_figure, factor_legend, painted, what_figures_are
from cnnviz.render.patches import cut
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.loop import Fold, Loop
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies import concepts as schema
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study, tell_of_lost
from cnnviz.studies.concepts.importance import total_indices
from cnnviz.studies.nonnegative import factorize, weights_of
from cnnviz.tasks.classification import Classification

MOST_VALUES = 1 << 25
"""Values of crops that the concepts are made of at most: 128 MiB of float32; further images are mapped only."""
_PER_CENT = "per cent: share of the area where a concept is the strongest"
_MOST_ON_PAGE = 200
_CROP = 112
_STRIDE = 0.8
# The paper takes hundreds of images of a class.
_FEW = 10
_PNG = ImageFormat("png")


def crop_starts(side: int, crop: int) -> list[int]:
    """Where crops begin along an axis: from edge to edge, evenly, at most 0.8 of a crop apart."""
    steps = int(np.ceil((side - crop) / (_STRIDE * crop)))
    return [round(place * (side - crop) / steps) for place in range(steps + 1)] if steps else [0]


@dataclass(frozen=True, eq=False)
class _Seen:
    """One image of the second pass: the weights of the concepts [K, h, w], and their total indices [K]."""

    item: DecodedImage
    weights: NDArray[np.float32]
    indices: NDArray[np.float64]
    variance: float

    @property
    def file(self) -> str:
        return f"images/{self.item.ref.name}.concepts.png"

    def areas(self) -> list[float]:
        active, strongest = self.weights.max(axis=0) > 0, self.weights.argmax(axis=0)
        return [float(((strongest == concept) & active).mean()) for concept in range(len(self.weights))]


@dataclass(eq=False)
class _Gathered:
    """What both passes found: images, rows of crops with the image of each; then maps, and crops by (concept, rank)."""

    rows: list[NDArray[np.float32]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    values: int = 0
    left_out: int = 0
    seen: int = 0
    facts: list[schema.ConceptMap] = field(default_factory=list)
    crops: dict[tuple[int, int], tuple[schema.ConceptCrop, NDArray[np.uint8]]] = field(default_factory=dict)


class Concepts(Study[ConceptsOptions]):
    """CRAFT (Fel et al., CVPR 2023): concepts of a class from crops, their importance by Sobol indices."""

    def __init__(self, prepared: PreparedModel, params: ConceptsOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        if not isinstance(prepared.task, Classification):
            raise CnnvizError("concepts explains a class of a network with class scores.", "Use factors.")
        self.index = prepared.classes.resolve(str(params.of))
        self.label = prepared.classes.labels[self.index]
        self.layer = prepared.session.layers[0]
        height, width = prepared.preprocess.input_size[1:]
        side = max(1, round(params.crop * min(height, width)))
        self.boxes = [(x, y, side) for y in crop_starts(height, side) for x in crop_starts(width, side)]
        self.gathered = _Gathered()

    @classmethod
    def cut(cls, settings: RunSettings, params: ConceptsOptions) -> Cut:
        layers = settings.target.layers
        # Here, since it is asked before the network is loaded.
        if params.of is None:
            raise CnnvizError("concepts explains one class: name it.", "For example --of 'golden retriever'.")
        if "-" in settings.inputs:
            raise CnnvizError("concepts goes through the images twice: not from standard input.", "Name a list.")
        if len(layers) > 1:
            raise CnnvizError(
                f"concepts takes one layer, not {len(layers)}.", "Run it once a layer, each with its --out."
            )
        return Cut.at_layers(*layers)

    # The first pass: crops.

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        chosen = self._chosen(run)
        rows: list[Any] = []
        for item, wanted in zip(items, chosen, strict=True):
            found = self._pooled(item) if wanted else None
            finite = found is None or np.isfinite(found).all()
            rows.append(found if finite else failed(item, "not-finite", "its activations are not finite"))
        return rows

    def _chosen(self, run: ForwardPass) -> list[bool]:
        """Which images of a batch the concepts are made of."""
        said = predicted(two_dim(run.chosen.detach())).tolist()
        return [self.params.images == "all" or each == self.index for each in said]

    def _pooled(self, item: DecodedImage) -> NDArray[np.float32]:
        """The mean activations [P, C] of the crops of what the network sees, each at the network's input size."""
        size = tuple(item.pixels.shape[1:])
        found = []
        for start in range(0, len(self.boxes), self.prepared.batch_size):
            some = self.boxes[start : start + self.prepared.batch_size]
            crops = [item.pixels[None, :, y : y + side, x : x + side].float() for x, y, side in some]
            grown = torch.cat([F.interpolate(crop, size, mode="bilinear", antialias=True) for crop in crops])
            pixels = grown.round().clamp(0, 255).to(torch.uint8).to(self.prepared.session.device)
            run = self.prepared.session.forward(normalize(pixels, self.prepared.preprocess))
            found.append(run.activations[0].detach().float().clamp_min(0).mean(dim=(2, 3)).cpu().numpy())
        return np.concatenate(found)

    def fold(self, done: Observed) -> None:
        gathered = self.gathered
        gathered.seen += 1
        if done.seen is None:
            return
        if gathered.values + done.seen.size > MOST_VALUES:
            gathered.left_out += 1
            return
        gathered.values += done.seen.size
        gathered.rows.append(done.seen)
        gathered.images.append(done.ref.index)

    def writes(self) -> Sequence[str]:
        return ["concepts.png", "importance.png", "concepts.npz", "images/any"]

    def finish(self) -> Findings:
        gathered, params = self.gathered, self.params
        rows = np.concatenate(gathered.rows) if gathered.rows else np.zeros((0, 1), dtype=np.float32)
        if not rows.any():
            return Findings({"concepts": None}, unmeasured=self._why_nothing())
        if gathered.left_out:
            self.prepared.note(f"the concepts are made of the first {len(gathered.images)} images of the class")
        count = min(params.components, *rows.shape)
        found = factorize(rows, count, params.iterations, self.prepared.settings.runtime.seed)
        if not found.converged:
            self.prepared.note(f"the concepts did not settle in {found.iterations} iterations; more with --iterations")
        if (images := len(gathered.images)) < _FEW:
            told = f"{images} image{'' if images == 1 else 's'}"
            self.prepared.note(f"the concepts are parts of {told} alone: with more images they are parts of the class")
        self.directions = found.directions
        self.winners = self._winners(found.weights)
        loop = Loop(self.prepared, self._explain, self._draw, gathering=Fold(self._gather))
        if loop.run(None, None):
            raise KeyboardInterrupt
        tell_of_lost(self.prepared, len(gathered.images) + gathered.left_out, len(gathered.facts))
        if not gathered.facts:
            return Findings({"concepts": None}, unmeasured="every image failed when gone through again")
        return self._findings(found.error, len(rows))

    def _why_nothing(self) -> str:
        """Why there are no concepts, and what to type next."""
        if self.gathered.rows:
            return (
                f"nothing is active at {self.layer.name} in crops of {self.label}: --layer takes another one, which "
                "cnnviz layers lists"
            )
        if not self.gathered.seen:
            return "no image could be used"
        return (
            f"no image is predicted as {self.label}, so that there are no crops of it: name images of the class, or "
            "take every image with --images all"
        )

    def _winners(self, weights: NDArray[np.float32]) -> dict[int, list[tuple[int, int, int, float]]]:
        """The strongest crops of each concept, at most one per image: (concept, rank, crop, weight) by image."""
        per, winners = len(self.boxes), dict[int, list[tuple[int, int, int, float]]]()
        by_image = weights.reshape(-1, per, weights.shape[1])
        for concept in range(weights.shape[1]):
            best = by_image[:, :, concept].max(axis=1)
            order = np.argsort(-best, kind="stable")[: self.params.patches].tolist()
            for rank, row in enumerate(row for row in order if best[row] > 0):
                crop = int(by_image[row, :, concept].argmax())
                winners.setdefault(self.gathered.images[row], []).append((concept, rank, crop, float(best[row])))
        return winners

    # The second pass: maps and importance.

    def _explain(self, items: Sequence[DecodedImage]) -> list[_Seen | Record | None]:
        return self.prepared.guarded(items, self._look)

    def _look(self, items: Sequence[DecodedImage]) -> list[_Seen | Record | None]:
        with rt.scope(), torch.no_grad():
            run = self.prepared.session.forward(normalize(self.prepared.batch(items), self.prepared.preprocess))
            chosen = self._chosen(run)
            return [self._mapped(run, place, item) if chosen[place] else None for place, item in enumerate(items)]

    def _mapped(self, run: ForwardPass, place: int, item: DecodedImage) -> _Seen:
        layer = run.activations[0].detach()[place]
        _channels, height, width = layer.shape
        flat = layer.float().clamp_min(0).flatten(1).T.cpu().numpy()
        weights = np.ascontiguousarray(weights_of(flat, self.directions).T).reshape(-1, height, width)
        parts = (
            torch.from_numpy(weights).to(layer)[:, None] * torch.from_numpy(self.directions).to(layer)[..., None, None]
        )

        def score(masks: Tensor) -> Tensor:
            """The class's logit with concept k at m_k of its weight; what no concept explains stays."""
            found = []
            for some in masks.to(layer).split(self.prepared.batch_size):
                changed = layer + torch.einsum("mk,kchw->mchw", some - 1, parts)
                images = torch.full((len(some),), place, device=layer.device)
                found.append(class_logits(two_dim(run.rerun(changed, images)).float())[:, self.index])
            return torch.cat(found).cpu()

        # One design for all images would be wrong in all of them by the same: their mean would keep its error.
        seed = seed_for(item.pixels, self.prepared.settings.runtime.seed)
        indices, variance = total_indices(score, len(weights), self.params.designs, seed)
        return _Seen(item, weights, indices.numpy(), variance)

    def _draw(self, seen: _Seen | None) -> Record:
        if seen is not None:
            self.store.write(seen.file.removesuffix(".png") + ".npz", encode_npz({"weights": seen.weights}))
            coloured = painted(seen.item.rgb, seen.weights, seen.item.geometry.rect)
            said = what_figures_are(_PER_CENT, seen.item.geometry.rect, seen.item.geometry.image_size)
            self.store.write(seen.file, encode(factor_figure(seen.item.rgb, coloured, seen.areas(), said), _PNG))
        return Record("", None, None, None)

    def _gather(self, seen: _Seen | None) -> None:
        if seen is None:
            return
        item = seen.item
        self.gathered.facts.append(
            {
                "path": item.ref.uri,
                "file": seen.file,
                "raw": seen.file.removesuffix(".png") + ".npz",
                "indices": seen.indices.tolist(),
                "variance": seen.variance,
            }
        )
        for concept, rank, crop, weight in self.winners.get(item.ref.index, ()):
            x, y, side = self.boxes[crop]
            size = item.shown_size
            left, top = item.geometry.to_image(x, y, size)
            right, bottom = item.geometry.to_image(x + side, y + side, size)
            facts: schema.ConceptCrop = {
                "path": item.ref.uri,
                "weight": weight,
                "crop_xywh": [round(value, 1) for value in (left, top, right - left, bottom - top)],
            }
            self.gathered.crops[concept, rank] = facts, cut(item.rgb, (left, top, right, bottom), _CROP)

    # Writing.

    def _findings(self, error: float, crops: int) -> Findings:
        gathered = self.gathered
        table = np.array([each["indices"] for each in gathered.facts])
        mean = table.mean(axis=0) if len(table) else np.zeros(len(self.directions))
        report: list[schema.ImportantConcept] = []
        legend: list[FactorRow] = []
        for concept in range(len(self.directions)):
            found = [gathered.crops[key] for key in sorted(gathered.crops) if key[0] == concept]
            report.append(
                {"concept": concept + 1, "importance": float(mean[concept]), "crops": [facts for facts, _ in found]}
            )
            said = [f"importance {mean[concept]:.2f}"]
            legend.append(FactorRow(f"concept {concept + 1}", said, [picture for _, picture in found]))
        title = f"{self.label}: {counted(len(report), 'concept')} of {_images(len(gathered.facts))}, {self.layer.name}"
        self.store.write("concepts.png", encode(factor_legend(title, legend), _PNG))
        self.store.write("importance.png", encode(importance_chart(title, mean.tolist()), _PNG))
        self.store.write("concepts.npz", encode_npz({"concepts": self.directions}))
        figures: list[Figure] = [
            {"file": "importance.png", "caption": "total Sobol indices of the class's logit, mean over the images"},
            {"file": "concepts.png", "caption": title},
        ]
        for each in gathered.facts[:_MOST_ON_PAGE]:
            figures.append({"file": each["file"], "caption": f"{each['path']}: {_PER_CENT}"})
        summary: schema.ConceptsFigures = {
            "layer": self.layer.name,
            "class_index": self.index,
            "label": self.label,
            "images": len(gathered.facts),
            "crops": crops,
            "components": len(report),
            "error": error,
        }
        best = sorted(report, key=lambda row: -row["importance"])[:3]
        told = [title, *(f"concept {row['concept']}: importance {row['importance']:.2f}" for row in best)]
        extras = cast("dict[str, Any]", {"concepts": report, "maps": gathered.facts})
        return Findings({"concepts": summary}, extras, figures, sentences=told)


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
