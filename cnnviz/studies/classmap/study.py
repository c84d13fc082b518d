"""``cnnviz classmap``: the fully convolutional reading of a classifier, over images larger than it was trained on."""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, check_runs, probe_image
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import probabilities
from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap, place_cells
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.store import Store
from cnnviz.metrics.map_statistics import map_scores
from cnnviz.models.fully_convolutional.rewrite import CLASS_MAP, Cells, cells, convolutional, moves_with_size
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace
from cnnviz.models.loading.load import LoadedModel
from cnnviz.models.preprocess import Geometry, Preprocess, normalize, override
from cnnviz.models.preprocess import prepare as prepare_image
from cnnviz.records import ClassScore, Explanation, Record
from cnnviz.registry.studies import ClassMapOptions
from cnnviz.render.label_map import areas, label_map
from cnnviz.render.legend import with_legend
from cnnviz.render.overlay import Style, heatmap_image, overlay
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.named_folders import check_folders
from cnnviz.run.outcomes import Verdict
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies.classmap import ClassMapFacts, ClassMapFigures
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.classmap.class_cells import Placement, merged

METHOD = "classmap"
MOST_PIXELS = 1 << 24
"""Largest input of the network: beyond it, a strip of one pixel's height would need all memory."""
_SAVES = ("overlay", "heatmap", "raw")
# Batches hold about as many pixels as this many batches at the training size.
_PIXELS_OF_BATCHES = 4
_PNG = ImageFormat("png")
_Scale = tuple[Placement, Geometry]


Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class _Observation:
    """The class map of one image.

    Attributes:
        targets: The chosen classes, with what the network says of the image at its training size.
        probabilities: Of these, [K, rows, cols].
        argmax: The most probable class of each cell, [rows, cols].
        first: Middle (y, x) of cell (0, 0), in pixels of the image.
        pitch: Pixels (y, x) of the image from one cell to the next.
        geometry: Where the network's input lies in the image.
        inputs: (height, width) of the network's input, for each scale.
        verdict: Whether the network is right; None where that is not known.
    """

    targets: tuple[ClassScore, ...]
    probabilities: NDArray[np.float32]
    argmax: NDArray[np.int32]
    first: tuple[float, float]
    pitch: tuple[float, float]
    geometry: Geometry
    inputs: tuple[tuple[int, int], ...]
    verdict: Verdict | None = None


class ClassMap(Study[ClassMapOptions]):
    """Class probabilities for every place of an image that is larger than the network was trained on."""

    def __init__(self, prepared: PreparedModel, params: ClassMapOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        draw = prepared.settings.draw
        for kind in draw.save:
            if kind not in _SAVES:
                hint = f"Choose any of {','.join(_SAVES)}, or none."
                raise CnnvizError(f"--save {kind}: classmap does not write that.", hint)
        trained = prepared.preprocess.input_size[1:]
        self.size: int = params.size or 2 * max(trained)
        self.scales = _scales(params.scales)
        if round(self.size * min(self.scales)) < max(trained):
            raise CnnvizError(
                f"--size {self.size} times --scales {min(self.scales):g} is less than the {max(trained)} pixels that "
                "the network was trained on; a class map needs at least as many.",
                f"Give --size {max(trained)} or more.",
            )
        check_folders(prepared.settings, prepared.target_selector)
        # Compiled programs hold for one input size.
        self.session = prepared.open(Cut.at_layers(CLASS_MAP)) if prepared.session.compiled else prepared.session
        if self.session.graph is None:
            raise CnnvizError(f"{prepared.loaded.name}: its class map cannot be traced.", "Choose another network.")
        self.graph, self.node = self.session.graph, self.session.nodes[0]
        self.moves = moves_with_size(self.graph)
        self.cells = cells(self.graph, self.node)
        self._known: dict[tuple[int, int], Cells] = {}
        self._lock = threading.Lock()
        # Of images that another class covers more of: name, label of the drawn and its share, the other and its share.
        self._elsewhere: list[tuple[str, tuple[str, float], int, float]] = []
        if self.cells.field.global_context:
            prepared.note(
                "statistics of the whole picture enter every cell (squeeze-and-excitation or the like): "
                "a cell is not exactly what the network says of its window alone"
            )
        self.style = Style(draw.colormap, draw.alpha, (0.0, 1.0), "magnitude")
        self.picture = ImageFormat(draw.image_format, draw.png_level)

    @classmethod
    def cut(cls, settings: RunSettings, params: ClassMapOptions) -> Cut:
        return Cut.at_layers(CLASS_MAP)

    @classmethod
    def adapt(cls, loaded: LoadedModel, settings: RunSettings, params: ClassMapOptions) -> LoadedModel:
        if settings.runtime.tracing == "off":
            raise CnnvizError(
                "classmap rewrites the traced network, and tracing is off.", "Leave --tracing out, or set it to auto."
            )
        key = settings.target.logits_key
        probe = probe_image(loaded.preprocess.input_size)
        asked = SessionOptions(logits_key=key, classes=(loaded.num_classes,))
        key = check_runs(loaded.module, loaded.name, probe, asked).key
        graph = trace(loaded.module, probe, selector(key))
        if graph is None:
            raise CnnvizError(
                f"{loaded.name} cannot be read as a fully convolutional network: it cannot be traced.",
                "Networks whose course depends on values, or that are no plain PyTorch, cannot.",
            )
        module = convolutional(graph, loaded.name, key)
        notes = (*loaded.notes, "read convolutionally: " + "; ".join(module.changes))
        return dataclasses.replace(loaded, module=module, notes=notes)

    # Looking.

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        said = self.prepared.predict(run.logits.detach())
        wanted = [self.prepared.select_targets(item, said, index) for index, item in enumerate(items)]
        # Of what is left out, or has no class, no map is made.
        plans = [
            [] if isinstance(asked, Record) else self._plans(item) for item, asked in zip(items, wanted, strict=True)
        ]
        found = self._maps(items, plans)
        rows: list[Any] = []
        for index, (item, plan, asked) in enumerate(zip(items, plans, wanted, strict=True)):
            if isinstance(asked, Record):
                rows.append(asked)
            elif not plan:
                rows.append(failed(item, "too-large", f"at --size {self.size} it has more than {MOST_PIXELS} pixels"))
            elif not all(bool(torch.isfinite(scale.values).all()) for scale, _ in found[index]):
                rows.append(failed(item, "not-finite", "its class map is not finite"))
            else:
                targets = tuple(self.prepared.scored(c, said, index) for c in asked)
                verdict = self.prepared.verdict(item, said, index)
                rows.append(dataclasses.replace(self._seen(targets, found[index], plan), verdict=verdict))
        return rows

    def _plans(self, item: DecodedImage) -> list[Preprocess]:
        """How the image is shown to the network at each scale; empty where it would be too large."""
        base, (height, width) = self.prepared.preprocess, item.rgb.shape[:2]
        trained = base.input_size[1:]
        plans = []
        for scale in self.scales:
            side = round(self.size * scale)
            sides = (height, width) if self.params.fit == "whole" else trained
            shown = tuple(max(side, round(side * length / min(sides))) for length in sides)
            if shown[0] * shown[1] > MOST_PIXELS:
                return []
            view = "crop" if self.params.fit == "crop" else "squash"
            plans.append(override(base, input_size=shown, view=view))
        return plans

    def _maps(self, items: Sequence[DecodedImage], plans: Sequence[list[Preprocess]]) -> list[list[_Scale]]:
        """The class map of each image at each of its scales; inputs of one size share a batch."""
        shown = defaultdict[tuple[int, int], list[tuple[int, int]]](list)
        for index, plan in enumerate(plans):
            for scale, spec in enumerate(plan):
                shown[spec.input_size[1], spec.input_size[2]].append((index, scale))
        found: dict[tuple[int, int], _Scale] = {}
        trained = self.prepared.preprocess.input_size
        budget = _PIXELS_OF_BATCHES * self.prepared.batch_size * trained[1] * trained[2]
        for size, wanted in shown.items():
            many = max(1, budget // (size[0] * size[1]))
            for begin in range(0, len(wanted), many):
                part = wanted[begin : begin + many]
                made = [prepare_image(items[index].rgb, plans[index][scale]) for index, scale in part]
                shares = self._shares(torch.stack([pixels for pixels, _ in made]))
                for key, values, (_, geometry) in zip(part, shares, made, strict=True):
                    found[key] = (self._placed(values, geometry, size), geometry)
        return [[found[index, scale] for scale in range(len(plan))] for index, plan in enumerate(plans)]

    def _shares(self, pixels: Tensor) -> Tensor:
        """Probabilities [N, K, rows, cols] of all cells."""
        batch = normalize(rt.moved(pixels, self.session.device), self.prepared.preprocess)
        scores = self.session.forward(batch).activations[0].detach().float()
        count, classes, rows, cols = scores.shape
        flat = scores.permute(0, 2, 3, 1).reshape(-1, classes)
        shares = probabilities(flat, self.prepared.activation)
        return shares.view(count, rows, cols, -1).permute(0, 3, 1, 2)

    def _placed(self, values: Tensor, geometry: Geometry, size: tuple[int, int]) -> Placement:
        """Where the middles of the cells' windows lie in the image."""
        where, (x0, y0, x1, y1) = self._cells(size), geometry.rect
        down, across = (y1 - y0) / size[0], (x1 - x0) / size[1]
        return Placement(
            values,
            (y0 + where.first[0] * down, where.stride[0] * down),
            (x0 + where.first[1] * across, where.stride[1] * across),
        )

    def _cells(self, size: tuple[int, int]) -> Cells:
        if not self.moves:
            return self.cells
        # Padding to whole strides is the same again a stride later.
        key = (size[0] % self.cells.stride[0], size[1] % self.cells.stride[1])
        # Tracing with shapes alone is not for several threads at once.
        with self._lock:
            if key not in self._known:
                self._known[key] = cells(self.graph, self.node, size)
            return self._known[key]

    def _seen(self, targets: tuple[ClassScore, ...], scales: list[_Scale], plans: list[Preprocess]) -> _Observation:
        whole = merged([placement for placement, _ in scales], self.params.merge)
        chosen = whole.values[[target.class_index for target in targets]]
        return _Observation(
            targets,
            chosen.cpu().numpy().astype(np.float32),
            whole.values.argmax(0).to(torch.int32).cpu().numpy(),
            (whole.rows[0], whole.cols[0]),
            (whole.rows[1], whole.cols[1]),
            scales[0][1],
            tuple((spec.input_size[1], spec.input_size[2]) for spec in plans),
        )

    # Drawing.

    def draw(self, done: Observed) -> ClassMapFacts:
        seen: _Observation = done.seen
        stem = f"images/{done.ref.name}"
        save = self.prepared.settings.draw.save
        shared: dict[str, str] = {}
        if save:
            shared["classes"] = f"{stem}.{METHOD}.classes.{self.picture.suffix}"
            self.store.write(shared["classes"], encode(self._labelled(done), self.picture))
        if "raw" in save:
            shared["raw"] = f"{stem}.{METHOD}.raw.npz"
            self.store.write(shared["raw"], encode_npz(_arrays(seen)))
        _, middles, size = self._shown(done)
        share = areas(seen.argmax.astype(np.int64), middles, size)
        rows = [
            self._drawn(done, place, shared, share.get(target.class_index, 0.0))
            for place, target in enumerate(seen.targets)
        ]
        figures: list[Figure] = (
            [{"file": shared["classes"], "caption": "most probable class of each cell"}] if shared else []
        )
        x0, y0, x1, y1 = place_cells(
            seen.probabilities[0], seen.first, seen.pitch, seen.geometry.rect, seen.geometry.image_size
        ).seen
        facts: ClassMapFacts = {
            "explanations": [row.to_dict() for row in rows],
            "figures": figures,
            "seen_xywh": [x0, y0, x1 - x0, y1 - y0],
        }
        return facts if seen.verdict is None else {**facts, **seen.verdict.facts()}  # type: ignore[typeddict-item]

    def _drawn(self, done: Observed, place: int, shared: Mapping[str, str], share: float) -> Explanation:
        """Pictures and scores of one class, the most probable one in ``share`` of what the network saw."""
        seen: _Observation = done.seen
        raw, target = seen.probabilities[place], seen.targets[place]
        placed: PlacedMap = place_cells(raw, seen.first, seen.pitch, seen.geometry.rect, seen.geometry.image_size)
        stem = f"images/{done.ref.name}.{self.prepared.classes.slug(target.class_index)}.{METHOD}"
        files: dict[str, str] = {}
        if "overlay" in self.prepared.settings.draw.save:
            files["overlay"] = f"{stem}.overlay.{self.picture.suffix}"
            # What the network says of the image at its training size is no figure of this map.
            drawn = with_legend(
                overlay(done.rgb, placed, self.style), f"{target.label}, at most", float(raw.max()), placed, self.style
            )
            self.store.write(files["overlay"], encode(drawn, self.picture))
        if "heatmap" in self.prepared.settings.draw.save:
            files["heatmap"] = f"{stem}.heatmap.png"
            self.store.write(files["heatmap"], encode(heatmap_image(placed, self.style), _PNG))
        scores = {
            **map_scores(raw, placed),
            "grid": list(raw.shape),
            "first_cell": [seen.first[1], seen.first[0]],
            "pitch": [seen.pitch[1], seen.pitch[0]],
            "inputs": [list(size) for size in seen.inputs],
            # A sum of shares of pixels: rounding may take it past the whole.
            "argmax_share": min(1.0, share),
        }
        return Explanation(METHOD, None, target, {**files, **shared}, scores)

    def _shown(self, done: Observed) -> tuple[Box, tuple[list[float], list[float]], tuple[int, int]]:
        """What the network saw (x0, y0, x1, y1), the middles of the cells in it by rows and columns, and its size."""
        seen: _Observation = done.seen
        x0, y0, x1, y1 = place_cells(
            seen.probabilities[0], seen.first, seen.pitch, seen.geometry.rect, seen.geometry.image_size
        ).seen
        middles = [
            (first + pitch * np.arange(count) - corner).tolist()
            for first, pitch, count, corner in zip(seen.first, seen.pitch, seen.argmax.shape, (y0, x0), strict=True)
        ]
        return (x0, y0, x1, y1), (middles[0], middles[1]), (y1 - y0, x1 - x0)

    def _labelled(self, done: Observed) -> NDArray[np.uint8]:
        """The label map over what the network saw."""
        seen: _Observation = done.seen
        (x0, y0, x1, y1), middles, _ = self._shown(done)
        names = {int(index): self.prepared.classes.labels[int(index)] for index in np.unique(seen.argmax)}
        classes = seen.argmax.astype(np.int64)
        return label_map(done.rgb[y0:y1, x0:x1], classes, middles, names)

    def fold(self, done: Observed) -> None:
        seen: _Observation = done.seen
        if self.prepared.asked_classes != ("pred",) or self.prepared.asked_targets:
            return
        _, middles, size = self._shown(done)
        share = areas(seen.argmax.astype(np.int64), middles, size)
        most = max(share, key=lambda index: share[index])
        drawn = {target.class_index for target in seen.targets}
        if most not in drawn:
            first = seen.targets[0]
            drawn_share = first.label, share.get(first.class_index, 0.0)
            self._elsewhere.append((done.ref.name, drawn_share, most, share[most]))

    def _tell_elsewhere(self) -> None:
        """A note where the map is of a class that the network hardly sees at this size."""
        if not self._elsewhere:
            return
        name, (drawn, own), index, share = self._elsewhere[0]
        label, many = self.prepared.classes.labels[index], len(self._elsewhere)
        more = f" (and so in {many - 1} more)" if many > 1 else ""
        self.prepared.note(
            f"{name}: the map is of {drawn}, which the network says at its training size; at --size {self.size} "
            f"{label} covers {percent(share)} of what it saw, {drawn} {percent(own)}{more}: -c {index} maps it"
        )

    def finish(self) -> Findings:
        self._tell_elsewhere()
        where = self.cells
        facts: ClassMapFigures = {
            "window": list(where.window),
            "stride": list(where.stride),
            "receptive_field": {"size": list(where.field.size), "offset": list(where.field.offset)},
            "size": self.size,
            "scales": list(self.scales),
            "merge": self.params.merge,
            "global_context": where.field.global_context,
        }
        return Findings({METHOD: facts})


def _arrays(seen: _Observation) -> dict[str, NDArray[Any]]:
    rows, cols = seen.argmax.shape
    return {
        "probabilities": seen.probabilities,
        "argmax": seen.argmax,
        "classes": np.array([target.class_index for target in seen.targets], dtype=np.int64),
        "centre_y": seen.first[0] + seen.pitch[0] * np.arange(rows),
        "centre_x": seen.first[1] + seen.pitch[1] * np.arange(cols),
        "rect": np.asarray(seen.geometry.rect, dtype=np.float64),
    }


def _scales(text: str) -> tuple[float, ...]:
    """``1,1.5,2``.

    Raises:
        CnnvizError: A scale is not a number between 1/8 and 8.
    """
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(0.125 <= value <= 8 for value in values):
        raise CnnvizError(f"--scales {text}: expected numbers from 0.125 to 8.", "For example --scales 1,1.5,2")
    return values
