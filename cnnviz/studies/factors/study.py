"""``cnnviz factors``: the parts that the activations of a layer are made of, over all images of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import class_logits
from cnnviz.errors import CnnvizError, counted
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.store import Store
from cnnviz.models.graph.outputs import two_dim
from cnnviz.models.preprocess import normalize
from cnnviz.records import Record
from cnnviz.registry.studies import FactorsOptions
from cnnviz.render.factors import FactorRow, factor_figure, factor_legend, painted, what_figures_are
from cnnviz.render.patches import cut
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.loop import Fold, Loop
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies import factors as schema
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study, tell_of_lost
from cnnviz.studies.nonnegative import Factors, Positions, factorize, weights_of
from cnnviz.tasks.classification import Classification

MOST_VALUES = 1 << 25
"""Values that are factorised at most: 128 MiB of float32; of more, a sample of positions."""
_PER_CENT = "per cent: share of the area where a factor is the strongest"
_MOST_ON_PAGE = 200
_CLASSES, _CROP = 3, 112
# Share of the shorter side of the image that a patch shows around its position.
_PATCH = 0.35
_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class _Seen:
    """One image of the second pass.

    Attributes:
        weights: [K, h, w].
        error: ||A - W H|| / ||A|| of its own activations.
        drops: [K, classes], what each score loses without the factor; None of a network without classes.
    """

    item: DecodedImage
    weights: NDArray[np.float32]
    error: float
    drops: NDArray[np.float64] | None

    @property
    def file(self) -> str:
        return f"images/{self.item.ref.name}.factors.png"

    def areas(self) -> list[float]:
        """The share of the cells in which each factor is the strongest."""
        active = self.weights.max(axis=0) > 0
        strongest = self.weights.argmax(axis=0)
        return [float(((strongest == factor) & active).mean()) for factor in range(len(self.weights))]


@dataclass(eq=False)
class _Gathered:
    """What the second pass found of all images."""

    maps: list[schema.FactorMap] = field(default_factory=list)
    drops: NDArray[np.float64] | None = None
    patches: list[list[tuple[schema.FactorPatch, NDArray[np.uint8]]]] = field(default_factory=list)


class DeepFeatureFactors(Study[FactorsOptions]):
    """Deep feature factorization (Collins, Achanta & Süsstrunk, ECCV 2018): one factorisation of all images."""

    def __init__(self, prepared: PreparedModel, params: FactorsOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        if "-" in prepared.settings.inputs:
            raise CnnvizError("factors goes through the images twice: not from standard input.", "Name a list.")
        self.layer = prepared.session.layers[0]
        if params.components > self.layer.channels:
            raise CnnvizError(
                f"--components {params.components}: layer {self.layer.name} has {self.layer.channels} channels.",
                f"Use {self.layer.channels} or fewer.",
            )
        self.positions = Positions(max(1, MOST_VALUES // self.layer.channels), prepared.settings.runtime.seed)
        self.negative = 0.0
        self.images = 0

    @classmethod
    def cut(cls, settings: RunSettings, params: FactorsOptions) -> Cut:
        layers = settings.target.layers
        if len(layers) > 1:
            raise CnnvizError(
                f"factors takes one layer, not {len(layers)}.", "Run it once a layer, each with its --out."
            )
        return Cut.at_layers(*layers)

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        values = run.activations[0].detach().float().flatten(2).transpose(1, 2).cpu().numpy()
        return [
            np.ascontiguousarray(each)
            if np.isfinite(each).all()
            else failed(item, "not-finite", "its activations are not finite")
            for item, each in zip(items, values, strict=True)
        ]

    def fold(self, done: Observed) -> None:
        self.images += 1
        self.negative = min(self.negative, float(done.seen.min()))
        self.positions.fold(done.ref.index, np.maximum(done.seen, 0))

    def writes(self) -> Sequence[str]:
        return ["factors.png", "factors.npz", "images/any"]

    def finish(self) -> Findings:
        rows = self.positions.rows() if self.images else np.zeros((0, 1), dtype=np.float32)
        if not rows.any():
            why = (
                f"{self.layer.name} is above zero nowhere: --layer takes another one, which cnnviz layers lists"
                if self.images
                else "no image could be used"
            )
            return Findings({"factors": None}, unmeasured=why)
        self._tell(rows)
        components = min(self.params.components, len(rows))
        found = factorize(rows, components, self.params.iterations, self.prepared.settings.runtime.seed)
        if not found.converged:
            self.prepared.note(
                f"the factorisation did not settle in {found.iterations} iterations; more with --iterations"
            )
        self.found = found
        self.gathered = _Gathered(patches=[[] for _ in range(components)])
        loop = Loop(self.prepared, self._explain, self._draw, gathering=Fold(self._gather))
        if loop.run(None, None):
            raise KeyboardInterrupt
        tell_of_lost(self.prepared, self.images, len(self.gathered.maps))
        if not self.gathered.maps:
            return Findings({"factors": None}, unmeasured="every image failed when gone through again")
        return self._findings(found, len(rows))

    def _tell(self, rows: NDArray[np.float32]) -> None:
        if len(rows) < self.positions.seen:
            self.prepared.note(f"factorised are {len(rows)} of {self.positions.seen} positions, drawn by the seed")
        if self.negative < 0:
            self.prepared.note(
                f"{self.layer.name} has values below zero (down to {self.negative:.3g}), which count as zero"
            )

    # The second pass.

    def _explain(self, items: Sequence[DecodedImage]) -> list[_Seen | Record]:
        return self.prepared.guarded(items, self._look)

    def _look(self, items: Sequence[DecodedImage]) -> list[_Seen | Record]:
        with rt.scope(), torch.no_grad():
            run = self.prepared.session.forward(normalize(self.prepared.batch(items), self.prepared.preprocess))
            layer = run.activations[0].detach()
            count, channels, height, width = layer.shape
            flat = layer.float().clamp_min(0).permute(0, 2, 3, 1).reshape(-1, channels).cpu().numpy()
            weights = weights_of(flat, self.found.directions)
            left = flat - weights @ self.found.directions
            per = height * width
            errors = [_ratio(left[n * per : (n + 1) * per], flat[n * per : (n + 1) * per]) for n in range(count)]
            maps = np.ascontiguousarray(weights.reshape(count, height, width, -1).transpose(0, 3, 1, 2))
            drops = self._drops(run, layer, maps)
        return [_Seen(item, maps[n], errors[n], None if drops is None else drops[n]) for n, item in enumerate(items)]

    def _drops(self, run: ForwardPass, layer: Tensor, maps: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """What the class scores lose when a factor is taken out, [N, K, classes]: z(A) - z(A - w_k h_k).

        Behind the layer nothing but mean pooling and a linear layer: exactly the classifier's weights applied to the
        factor, times its mean weight in the image.
        """
        if not isinstance(self.prepared.task, Classification):
            return None
        whole = class_logits(two_dim(run.chosen.detach()).float())
        rows = []
        for factor, direction in enumerate(torch.from_numpy(self.found.directions).to(layer)):
            part = torch.from_numpy(maps[:, factor]).to(layer)[:, None] * direction[None, :, None, None]
            rows.append(whole - class_logits(two_dim(run.rerun(layer - part)).float()))
        return torch.stack(rows, dim=1).cpu().double().numpy()

    def _draw(self, seen: _Seen) -> Record:
        item = seen.item
        coloured = painted(item.rgb, seen.weights, item.geometry.rect)
        said = what_figures_are(_PER_CENT, item.geometry.rect, item.geometry.image_size)
        self.store.write(seen.file, encode(factor_figure(item.rgb, coloured, seen.areas(), said), _PNG))
        self.store.write(seen.file.removesuffix(".png") + ".npz", encode_npz({"weights": seen.weights}))
        return Record("", None, None, None)

    def _gather(self, seen: _Seen) -> None:
        gathered, item = self.gathered, seen.item
        gathered.maps.append(
            {
                "path": item.ref.uri,
                "file": seen.file,
                "raw": seen.file.removesuffix(".png") + ".npz",
                "error": seen.error,
                "areas": seen.areas(),
                "mean_weights": seen.weights.mean(axis=(1, 2)).tolist(),
            }
        )
        if seen.drops is not None:
            gathered.drops = seen.drops + (0 if gathered.drops is None else gathered.drops)
        for factor, weights in enumerate(seen.weights):
            best, value = gathered.patches[factor], float(weights.max())
            full = len(best) == self.params.patches
            if value > 0 and self.params.patches and not (full and value <= best[-1][0]["weight"]):
                best.append(self._patch(item, weights, value))
                best.sort(key=lambda each: -each[0]["weight"])
                del best[self.params.patches :]

    def _patch(
        self, item: DecodedImage, weights: NDArray[np.float32], value: float
    ) -> tuple[schema.FactorPatch, NDArray[np.uint8]]:
        """The surroundings of the position where a factor is strongest in an image."""
        row, col = divmod(int(weights.argmax()), weights.shape[1])
        x, y = item.geometry.to_image(col + 0.5, row + 0.5, (weights.shape[1], weights.shape[0]))
        high, wide = item.rgb.shape[:2]
        half = _PATCH * min(high, wide) / 2
        left, top = (float(np.clip(at - half, 0, side - 2 * half)) for at, side in ((x, wide), (y, high)))
        facts: schema.FactorPatch = {"path": item.ref.uri, "weight": value, "position": [round(x, 1), round(y, 1)]}
        return facts, cut(item.rgb, (left, top, left + 2 * half, top + 2 * half), _CROP)

    # Writing.

    def _findings(self, found: Factors, rows: int) -> Findings:
        gathered, total = self.gathered, float((found.weights.astype(np.float64) ** 2).sum())
        report: list[schema.Factor] = []
        legend: list[FactorRow] = []
        for factor in range(len(found.directions)):
            share = float((found.weights[:, factor].astype(np.float64) ** 2).sum()) / total
            classes = self._classes(factor)
            patches = gathered.patches[factor]
            area = float(np.mean([each["areas"][factor] for each in gathered.maps])) if gathered.maps else 0.0
            report.append(
                {
                    "factor": factor + 1,
                    "energy": share,
                    "area": area,
                    "classes": classes,
                    "patches": [facts for facts, _ in patches],
                }
            )
            said = [f"{each['label']} (logit {each['drop']:+.2f})" for each in classes]
            title = f"factor {factor + 1}: {percent(area)} of the area"
            legend.append(FactorRow(title, said, [crop for _, crop in patches]))
        many = len(gathered.maps)
        title = f"{self.layer.name}: {counted(len(report), 'factor')} of {counted(many, 'image')}"
        self.store.write("factors.png", encode(factor_legend(title, legend), _PNG))
        self.store.write("factors.npz", encode_npz({"factors": found.directions}))
        figures: list[Figure] = [{"file": "factors.png", "caption": title}]
        for each in gathered.maps[:_MOST_ON_PAGE]:
            figures.append({"file": each["file"], "caption": f"{each['path']}: {_PER_CENT}"})
        summary: schema.FactorsFigures = {
            "layer": self.layer.name,
            "components": len(report),
            "positions": rows,
            "positions_seen": self.positions.seen,
            "error": found.error,
            "iterations": found.iterations,
            "converged": found.converged,
        }
        told = [f"{title}; what they leave of the activations: {percent(found.error**2)} of the energy"]
        told += [
            f"factor {row['factor']}: {', '.join(each['label'] for each in row['classes'])}"
            for row in report
            if row["classes"]
        ]
        return Findings({"factors": summary}, {"factors": report, "maps": gathered.maps}, figures, sentences=told)

    def _classes(self, factor: int) -> list[schema.FactorClass]:
        """The classes whose scores lose most without the factor, in the mean over the images."""
        if self.gathered.drops is None:
            return []
        mean = self.gathered.drops[factor] / len(self.gathered.maps)
        order = np.argsort(-mean, kind="stable")[:_CLASSES].tolist()
        labels = self.prepared.classes.labels
        return [
            {"class_index": index, "label": labels[index], "drop": float(mean[index])}
            for index in order
            if mean[index] > 0
        ]


def _ratio(part: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
    """||part|| / ||whole||; 0 where there is nothing."""
    length = float(np.linalg.norm(whole))
    return float(np.linalg.norm(part)) / length if length else 0.0
