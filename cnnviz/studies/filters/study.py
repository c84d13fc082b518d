"""``cnnviz filters``: the weights of a convolution as pictures, and which of its filters are dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError, counted, nearest, out_of
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.names import Names, safe_component
from cnnviz.io.store import Store
from cnnviz.models.graph.layer_names import SHOWN_LAYERS, unknown_layer
from cnnviz.models.graph.trace import Graph
from cnnviz.registry.studies import FiltersOptions
from cnnviz.render.text import number
from cnnviz.render.tiles import coloured, layout, table, tiles
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies.filters import Convolution, ConvolutionFigures
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Study
from cnnviz.studies.filters.figures import FilterFigures, filter_figures, norm_gains
from cnnviz.studies.unit_selection import parse_numbers

# Of a deeper layer: so many filters and channels unless others are named.
_FILTERS, _CHANNELS = 16, 32
_MOST_CELLS = 1 << 16
_NAMED = 20
_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class _ShownFilters:
    """A convolution and what is drawn of it; ``pictures``: each filter is a picture of its own."""

    name: str
    module: nn.Conv2d
    weight: NDArray[np.float32]
    filters: tuple[int, ...]
    channels: tuple[int, ...]
    pictures: bool


class Filters(Study[FiltersOptions]):
    """Weights [O, C, h, w]: pictures where C is 1 or they read colours, otherwise a table of filters and channels."""

    def __init__(self, prepared: PreparedModel, params: FiltersOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        self.graph: Graph | None = prepared.session.graph
        found = dict(self._convolutions())
        if not found:
            raise CnnvizError(f"{prepared.loaded.name} has no 2-D convolution.", "Choose a convolutional network.")
        first = next(iter(found))
        self.shown = [self._choose(name, found) for name in dict.fromkeys(prepared.settings.target.layers or (first,))]

    @classmethod
    def cut(cls, settings: RunSettings, params: FiltersOptions) -> Cut:
        return Cut.before_classifier()

    def _convolutions(self) -> list[tuple[str, nn.Conv2d]]:
        """Convolutions by name, in the order in which they run where that is known."""
        parts = dict(self.prepared.loaded.module.named_modules())
        names = list(parts)
        if self.graph is not None:
            run = [str(node.target) for node in self.graph.module.graph.nodes if node.op == "call_module"]
            names = list(dict.fromkeys([*(name for name in run if name in parts), *names]))
        return [(name, part) for name in names if isinstance(part := parts[name], nn.Conv2d)]

    def _choose(self, name: str, found: Mapping[str, nn.Conv2d]) -> _ShownFilters:
        if name not in found:
            if name not in dict(self.prepared.loaded.module.named_modules()):
                raise unknown_layer(name, list(found), "convolutions")
            inside = [path for path in found if path.startswith(f"{name}.")]
            hint = f"Its first convolution is {inside[0]}." if inside else nearest(name, found)
            last = f"The last convolutions are {', '.join(list(found)[-SHOWN_LAYERS:])}."
            raise CnnvizError(f"--layer {name}: that is no 2-D convolution.", hint or last)
        module = found[name]
        weight = module.weight.detach().float().cpu().numpy()
        count, depth = weight.shape[:2]
        pictures = depth == 1 or (depth == 3 and module.in_channels == self.prepared.preprocess.input_size[0] == 3)
        asked, channels = self.params.filters, self.params.channels
        filters = tuple(range(count if pictures else min(count, _FILTERS)))
        if asked is not None:
            filters = parse_numbers(asked, "--filters", count, f"filters of {name}")
        drawn = tuple(range(min(depth, _CHANNELS)))
        if channels is not None:
            if pictures:
                raise CnnvizError(
                    f"--channels {channels}: the filters of {name} are drawn whole.", "Leave --channels out."
                )
            drawn = parse_numbers(channels, "--channels", depth, f"channels of {name}")
        if len(filters) * len(drawn) > _MOST_CELLS:
            raise CnnvizError(
                f"{len(filters)} filters by {len(drawn)} channels are more than a picture holds.",
                "Choose with --filters and --channels.",
            )
        return _ShownFilters(name, module, weight, filters, drawn, pictures)

    def finish(self) -> Findings:
        summary: dict[str, ConvolutionFigures] = {}
        report: list[Convolution] = []
        figures: list[Figure] = []
        names = Names()
        for shown in self.shown:
            gains = None if self.graph is None else norm_gains(self.graph, shown.name)
            found = filter_figures(shown.weight, gains)
            name = f"filters.{names.unique(safe_component(shown.name))}.png"
            title = f"{shown.name}: {' x '.join(map(str, shown.weight.shape))}, {self._scale(shown)}"
            picture = self._pictures(shown, title) if shown.pictures else self._table(shown, title)
            self.store.write(name, encode(picture, _PNG))
            figures.append({"file": name, "caption": f"{title}; {_dead(found.dead, len(found.l2))}"})
            summary[shown.name] = {"filters": len(found.l2), "dead": len(found.dead)}
            report.append(self._row(shown, found, name))
        sentences = [
            f"{row['layer']}: {summary[row['layer']]['filters']} filters, {_dead(row['dead'])}" for row in report
        ]
        return Findings({"filters": summary}, {"layers": report}, figures, sentences=sentences)

    def _limit(self, weight: NDArray[np.float32]) -> float:
        return float(np.abs(weight).max())

    def _scale(self, shown: _ShownFilters) -> str:
        if self.params.per_filter:
            return "each filter on its own scale"
        limit = number(self._limit(shown.weight[list(shown.filters)]))
        middle = "grey" if shown.pictures else "the neutral colour"
        return f"-{limit} to {limit}, zero is {middle}"

    def _pictures(self, shown: _ShownFilters, title: str) -> NDArray[np.uint8]:
        chosen = shown.weight[list(shown.filters)]
        if self.prepared.preprocess.channel_order == "bgr":
            chosen = chosen[:, ::-1]
        made = []
        for weight in chosen:
            limit = self._limit(weight if self.params.per_filter else chosen) or 1.0
            grey = np.clip(np.rint(127.5 + 127.5 * weight / limit), 0, 255).astype(np.uint8)
            made.append(np.ascontiguousarray(np.broadcast_to(grey.transpose(1, 2, 0), (*grey.shape[1:], 3))))
        return tiles(made, shown.filters, layout(len(made), chosen.shape[2:], largest=72), title)

    def _table(self, shown: _ShownFilters, title: str) -> NDArray[np.uint8]:
        chosen = shown.weight[list(shown.filters)][:, list(shown.channels)]
        colours = self.prepared.settings.draw.colormap
        rows = []
        for weight in chosen:
            limit = self._limit(weight if self.params.per_filter else chosen)
            rows.append([coloured(kernel, limit, colours, True) for kernel in weight])
        side = max(chosen.shape[2:])
        cell = side * max(1, (8 if side == 1 else 24) // side)
        return table(rows, shown.filters, shown.channels, cell, title)

    def _row(self, shown: _ShownFilters, found: FilterFigures, name: str) -> Convolution:
        return {
            "layer": shown.name,
            "shape": list(shown.weight.shape),
            "file": name,
            "shown": {"filters": list(shown.filters), "channels": list(shown.channels)},
            "dead": found.dead,
            "filters": found.rows(),
        }


def _dead(dead: Sequence[int], filters: int | None = None) -> str:
    """How many filters are dead, and which: ``2 of 64 dead (3, 17)``."""
    if not dead:
        return "none dead" if filters is None else f"none of {counted(filters, 'filter')} dead"
    which = ", ".join(map(str, dead[:_NAMED])) + (" …" if len(dead) > _NAMED else "")
    return (
        f"{len(dead)} dead ({which})" if filters is None else f"{out_of(len(dead), filters, 'filter')} dead ({which})"
    )
