"""``cnnviz top-patches``: the patches of a folder that each unit of a layer responds to most."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import fx

from cnnviz.engine.cut import DEFAULT_LAYER, Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, counted, out_of
from cnnviz.io.names import safe_component
from cnnviz.io.reports import read_report
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.layers import resolve
from cnnviz.models.graph.trace import Graph
from cnnviz.models.receptive_field.field import ReceptiveField, receptive_field
from cnnviz.registry.studies import TopPatchesOptions
from cnnviz.render.patches import UnitRow
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.named_folders import FOLDERS_AS_LABELS
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage, Figure
from cnnviz.schema.studies import top_patches as schema
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.top_patches.dissect import Dissection, asked, listed, summed_up
from cnnviz.studies.top_patches.dissection import Quantiles, codes
from cnnviz.studies.top_patches.review import Look, Patch, Review
from cnnviz.studies.top_patches.selectivity import Selectivity, ranking, selectivity
from cnnviz.studies.top_patches.shares import Winner, folders_of, join, state_of
from cnnviz.studies.top_patches.top_units import TopUnits, overlapping, strongest
from cnnviz.studies.top_patches.unit_changes import changes, compared, recorded
from cnnviz.studies.top_patches.unit_pages import FIRST, write_pages, write_strips
from cnnviz.studies.unit_selection import Choice, parse_units

MOST_WITH_GRADIENTS = 32
"""Units up to which ``--patch-gradient auto`` draws gradients: each of their patches costs a backward pass."""


@dataclass(frozen=True, eq=False)
class _Unit:
    """A unit with its patches, best first; ``index`` is its row among those that were followed."""

    number: int
    index: int
    patches: list[Patch]
    classes: Selectivity | None


def is_bounded(graph: Graph, node: fx.Node) -> bool:
    """Whether this is an activation that stops at an upper bound, such as ReLU6."""
    return (bounds := graph.operation(node).bounds) is not None and math.isfinite(bounds[1])


class TopPatches(Study[TopPatchesOptions]):
    """The strongest patches of every unit, in one pass; the images that won are read a second time and drawn.

    What is kept grows with units times patches, not with the folder.
    """

    def __init__(self, prepared: PreparedModel, params: TopPatchesOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        default = prepared.session.layers[0].name
        self.asked = prepared.settings.target.layers[0] if prepared.settings.target.layers else self._unbounded()
        self.layer = prepared.session.layers[0]
        # Other commands take the default layer behind its activation: whoever compares must be told.
        self.stepped_from = None if self.layer.name == default else default
        self.choice: Choice = parse_units(params.units, self.layer.channels, self.layer.name)
        self.before = None
        if params.compare_to is not None:
            self.before = recorded(read_report(params.compare_to, "--compare-to"), self.layer.name, params.compare_to)
        self.concepts = asked(params.boxes, params.masks, prepared.settings.inputs)
        self.field = self._field()
        # Which units are followed: all of them unless they were named.
        followed = self.choice.followed(self.layer.channels, prepared.settings.runtime.seed)
        self.units: NDArray[np.int64] = np.array(followed, dtype=np.int64)
        self.top = TopUnits(len(self.units), params.patches)
        self.quantiles = None if self.concepts is None else Quantiles(len(self.units))
        self.iou: dict[int, schema.UnitConcepts] = {}
        self.overlaps: NDArray[np.bool_] | None = None
        if self.field is not None:
            size, stride = self.field.size, self.field.stride
            self.overlaps = overlapping(size, stride, self.layer.size, params.overlap)
        self.winners: dict[int, Winner] = {}
        self.states: Sequence[Mapping[str, NDArray[Any]]] = ()
        self.holding: Mapping[str, str | None] = {}
        self.images, self.columns = 0, 1
        self.folders: Counter[str | None] = Counter()
        self.began = time.perf_counter()

    @classmethod
    def cut(cls, settings: RunSettings, params: TopPatchesOptions) -> Cut:
        layers = settings.target.layers
        if len(layers) > 1:
            raise CnnvizError(
                f"top-patches takes one layer, not {len(layers)}.", "Run it once a layer, each with its --out."
            )
        return Cut.at_layers(*layers)

    def _unbounded(self) -> str:
        """The default layer; before its last activation where that is a ReLU6: most strong patches are equal at 6."""
        session = self.prepared.session
        graph, layer = session.graph, session.layers[0]
        if graph is None or layer.node is None or not is_bounded(graph, layer.node):
            return DEFAULT_LAYER
        source = graph.inputs_of(layer.node)[0]
        name, call = name_of(graph, source)
        name = f"{name}:{call}" if len(graph.calls[name]) > 1 else name
        if resolve(graph, name, self.prepared.loaded.name).node is not source:
            return DEFAULT_LAYER
        self.prepared.note(
            f"{layer.name} stops at an upper bound, where all strong patches are equal: "
            f"units are ranked by their values before that activation ({name})"
        )
        self.prepared.session = self.prepared.open(Cut.at_layers(name), compile_it=session.compiled)
        return name

    @property
    def _where(self) -> str:
        """The layer, and whether its values are those before an activation."""
        if self.stepped_from is not None:
            return f"{self.layer.name} ({self.stepped_from} before its activation)"
        return f"{self.layer.name} (before its activation)" if self.layer.pre_activation else self.layer.name

    def _field(self) -> ReceptiveField | None:
        graph, node = self.prepared.session.graph, self.layer.node
        if graph is None or node is None:
            why = self.prepared.session.untraced
            self.prepared.note(f"the network {why}: receptive fields are not known, whole images are shown")
            return None
        try:
            return receptive_field(graph, node)
        except CnnvizError as error:
            self.prepared.note(f"{error.message} Whole images are shown.")
            return None

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        layer = run.activations[0].detach()
        if len(self.units) < layer.shape[1]:
            layer = layer[:, self.units.tolist()]
        found, places = strongest(layer, self.params.per_image, self.overlaps)
        values, positions = found.cpu().numpy(), places.cpu().numpy()
        binned = [None] * len(items) if self.quantiles is None else list(codes(layer).flatten(2).cpu().numpy())
        return [
            failed(item, "not-finite", f"an activation of {self.layer.name} is not finite")
            if np.isnan(value[:, 0]).any() or np.isposinf(value[:, 0]).any()
            else (value, position, each)
            for item, value, position, each in zip(items, values, positions, binned, strict=True)
        ]

    def fold(self, done: Observed) -> None:
        number = done.ref.index
        values, positions, binned = done.seen
        self.top.fold(number, values, positions)
        if self.quantiles is not None:
            self.quantiles.fold(binned)
        self.images += 1
        if len(self.folders) < 10_000:
            self.folders[done.ref.folder] += 1
        self.winners[number] = Winner(done.ref, done.label)
        # Once in a while, so that it costs nothing: only images that still hold a patch are needed.
        if len(self.winners) > 2 * self.top.images.size + 1000:
            holding = set(np.unique(self.top.images).tolist())
            self.winners = {key: value for key, value in self.winners.items() if key in holding}

    def state(self) -> Mapping[str, NDArray[Any]]:
        return state_of(self.top, self.quantiles, self.winners, self.folders)

    def take_up(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self.states, self.holding = states, folders_of(states)

    def recall(self, record: AnyImage) -> None:
        name, number = record["name"], self.images
        self.images += 1
        if name in self.holding:
            ref = ImageRef(record["path"], name, number, folder=self.holding[name])
            self.winners[number] = Winner(ref, record["label"])

    # After the pass.

    def writes(self) -> Sequence[str]:
        return [FIRST, "units/any", *(["crops/any"] if self.params.crops else [])]

    def finish(self) -> Findings:
        if not self.images:
            return Findings({"layer": self.layer.name, "units": 0}, unmeasured="no image could be used")
        numbers = {winner.ref.name: number for number, winner in self.winners.items()}
        join(self.states, numbers, self.top, self.quantiles, self.folders)
        self.seconds = time.perf_counter() - self.began
        units = self._chosen()
        rule = self._rule(len(units))
        side = 160 if len(units) <= 64 else 112 if len(units) <= 512 else 72
        look = Look(self.field, self.layer.size, side, rule, safe_component(self.layer.name), self.params.crops)
        review = Review(self.prepared, self.store, look, self.asked)
        every = [patch for unit in units for patch in unit.patches]
        review.look_at(every, {number: winner.ref for number, winner in self.winners.items()})
        lost = [patch for patch in every if patch.problem]
        self._tell(lost)
        for patch in every:
            winner = self.winners[patch.image]
            patch.path = winner.ref.uri
        units = [self._judged(unit) for unit in units]
        if any(patch.label and self.winners[patch.image].label is None for unit in units for patch in unit.patches):
            self.prepared.note(FOLDERS_AS_LABELS)
        dissected = self._dissect(units)
        figures = self._draw(units, review)
        report: schema.TopPatchesExtras = {"units": [self._reported(unit) for unit in units]}
        if any(unit.classes for unit in units):
            report["selectivity"] = ranking((unit.number, unit.classes) for unit in units)
        summary = self._summary(units, rule, len(lost))
        if dissected is not None:
            summary["dissection"] = dissected
        if self.before is not None:
            report["changes"] = changes(report["units"], self.before)
            summary["against"] = compared(report["changes"])
        return Findings(summary, report, figures, sentences=self._sentences(summary, report))

    def _chosen(self) -> list[_Unit]:
        """The units to show, in the order asked for, each with its patches."""
        indices = list(range(len(self.units)))
        if self.choice.kind in {"top", "selective"}:
            # Of equally strong or selective units the stronger stands first, then the first.
            strength = self.top.strength()
            by = strength if self.choice.kind == "top" else self.top.selectivity()
            indices = np.lexsort((-strength, -by))[: self.choice.count].tolist()
        return [_Unit(int(self.units[i]), i, self._patches(i), None) for i in indices]

    def _patches(self, index: int) -> list[Patch]:
        """What is listed of a unit: nothing of one that never fired."""
        if not self.top.values[index, 0] > 0.0:
            return []
        width = self.layer.size[1]
        rows = zip(
            self.top.values[index].tolist(),
            self.top.images[index].tolist(),
            self.top.positions[index].tolist(),
            strict=True,
        )
        unit, scale = int(self.units[index]), float(self.top.values[index, 0])
        return [
            Patch(unit, rank, image, value, place // width, place % width, scale)
            for rank, (value, image, place) in enumerate(rows, 1)
            if image >= 0
        ]

    def _rule(self, units: int) -> str:
        asked = str(self.params.patch_gradient)
        if asked != "auto":
            return asked
        if units > MOST_WITH_GRADIENTS:
            self.prepared.note(
                f"{units} units are drawn without gradients; --patch-gradient guided draws them, which takes long"
            )
            return "none"
        return "guided"

    def _tell(self, lost: Sequence[Patch]) -> None:
        for patch in lost[:5]:
            self.prepared.note(f"unit {patch.unit}: not reproduced, and left out: {patch.problem}")
        if len(lost) > 5:
            self.prepared.note(f"{len(lost) - 5} more patches were not reproduced, and left out")

    def _judged(self, unit: _Unit) -> _Unit:
        """Without the patches that were not reproduced; with the classes of those that activate the unit."""
        kept = [patch for patch in unit.patches if not patch.problem]
        for patch in kept:
            patch.label = self._label(self.winners[patch.image])
        return _Unit(unit.number, unit.index, kept, selectivity([patch.label for patch in kept if patch.shown]))

    def _label(self, winner: Winner) -> str | None:
        """The label that was given; else the folder, if there are several and not each image has its own."""
        if winner.label is not None:
            return winner.label
        return winner.ref.folder if 1 < len(self.folders) < self.images else None

    def _dissect(self, units: Sequence[_Unit]) -> schema.Dissection | None:
        """The second pass over all images; the concepts of each unit are kept for the report."""
        if self.concepts is None or self.quantiles is None:
            return None
        self.prepared.say("going through the images a second time: what the units overlap with")
        chosen = [unit.index for unit in units]
        thresholds = self.quantiles.thresholds()[chosen]
        study = Dissection(self.prepared, self.concepts, [unit.number for unit in units], thresholds)
        iou, names = study.run(), self.concepts.names
        found = zip(units, iou, thresholds.tolist(), strict=True)
        self.iou = {unit.number: {"threshold": value, "concepts": listed(row, names)} for unit, row, value in found}
        return summed_up(iou, names, study.sums.images)

    # Writing.

    def _draw(self, units: Sequence[_Unit], review: Review) -> list[Figure]:
        self.columns = max([1, *(len(unit.patches) for unit in units)])

        def row(place: int) -> UnitRow:
            return self._row(units[place], review)

        workers = self.prepared.settings.runtime.workers or max(2, os.cpu_count() or 2)
        pages = write_pages(self.store, len(units), self.columns, row, self._where)
        files = [self._file(unit) for unit in units]
        return pages + write_strips(self.store, files, row, review.look.side, workers)

    def _row(self, unit: _Unit, review: Review) -> UnitRow:
        missing = self.columns - len(unit.patches)
        tiles = [review.tile(patch) for patch in unit.patches] + [None] * missing
        return UnitRow(self.layer.name, f"unit {unit.number}", self._facts(unit), tiles)

    def _facts(self, unit: _Unit) -> str:
        fired = int(self.top.fired[unit.index])
        if not fired:
            return f"never fires on {f'these {self.images} images' if self.images > 1 else 'this image'}"
        before = " before the activation" if self.layer.pre_activation else ""
        of = out_of(fired, self.images, "image")
        said = f"up to {self.top.values[unit.index, 0]:.3g}{before}, fires on {of}"
        if unit.classes is not None:
            found = unit.classes
            said += f"; {percent(found.purity)} {found.label}, {found.entropy:.2f} bits"
        for best in self.iou.get(unit.number, {}).get("concepts", ())[:1]:
            said += f"; IoU {best['iou']:.2f} with {best['concept']}"
        return said

    def _file(self, unit: _Unit) -> str:
        return f"units/{safe_component(self.layer.name)}.{unit.number}.png"

    def _reported(self, unit: _Unit) -> schema.Unit:
        figures: schema.UnitFigures = {
            "layer": self.layer.name,
            "pre_activation": self.layer.pre_activation,
            "unit": unit.number,
            "activated": bool(self.top.fired[unit.index]),
            "max": float(self.top.values[unit.index, 0]),
            "images_fired": int(self.top.fired[unit.index]),
            "file": self._file(unit),
            "classes": None if unit.classes is None else unit.classes.to_dict(),
        }
        patches: list[schema.Patch] = [
            {
                "rank": patch.rank,
                "path": patch.path,
                "label": patch.label,
                "activation": patch.value,
                "position": [patch.row, patch.col],
                "receptive_field_xywh": list(patch.clipped),
                "receptive_field_unclipped_xywh": list(patch.unclipped),
            }
            for patch in unit.patches
        ]
        return cast("schema.Unit", {**figures, **self.iou.get(unit.number, {}), "patches": patches})

    def _summary(self, units: Sequence[_Unit], rule: str, lost: int) -> schema.TopPatchesOwn:
        field = self.field
        return {
            "layer": self.layer.name,
            "pre_activation": self.layer.pre_activation,
            **({} if self.stepped_from is None else {"default_layer": self.stepped_from}),
            "units": len(units),
            "units_of_layer": self.layer.channels,
            "units_never_fired": sum(not self.top.fired[unit.index] for unit in units),
            "patches": sum(patch.shown for unit in units for patch in unit.patches),
            "patches_not_reproduced": lost,
            "with": rule,
            "pass": {"seconds": round(self.seconds, 3), "images_per_second": round(self.images / self.seconds, 2)},
            "receptive_field": None
            if field is None
            else {"size": list(field.size), "stride": list(field.stride), "offset": list(field.offset),
                  "global_context": field.global_context},
        }  # fmt: skip

    def _sentences(self, summary: schema.TopPatchesOwn, report: schema.TopPatchesExtras) -> list[str]:
        """How many units were looked at, and the three that respond most to one class only."""
        units, never = out_of(summary["units"], summary["units_of_layer"], "unit"), summary["units_never_fired"]
        silent = f"; {counted(never, 'unit')} never fired" if never else ""
        told = [f"{self._where}: {units}, {counted(summary['patches'], 'patch')}{silent}"]
        for row in report.get("selectivity", ())[:3]:
            told.append(f"unit {row['unit']}: {row['label']} in {percent(row['purity'])} of its patches")
        return told
