"""``cnnviz activations``: all channels of a layer for an image, and which of them are dead over a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, counted
from cnnviz.geometry.placement import place
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.names import Names, safe_component
from cnnviz.io.store import Store
from cnnviz.models.graph.layers import LayerRef
from cnnviz.registry.studies import ActivationsOptions
from cnnviz.render.overlay import Style, overlay
from cnnviz.render.text import number
from cnnviz.render.tiles import coloured, layout, stack, tiles
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies.activations import (
    ActivationsFacts,
    EnlargedChannel,
    LayerFigures,
    LayerOfImage,
    LayerOfImages,
    StrongChannel,
)
from cnnviz.settings import RunSettings
from cnnviz.studies.activations.channels import ChannelFigures, ChannelTally, channel_figures, order
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.unit_selection import parse_numbers

_WIDE = 64
_STRONGEST = 10
# Of a layer whose values reach below zero by more than this share of their maximum, both signs are drawn.
_BELOW = 0.1
_MOST_ENLARGED = 64


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of one image: its values [C, h, w] and their figures."""

    values: NDArray[np.float32]
    figures: ChannelFigures

    @property
    def signed(self) -> bool:
        low = float(self.figures.smallest.min())
        return low < 0 and -low > _BELOW * max(float(self.figures.largest.max()), 0.0)

    def limit(self) -> float:
        """The value of the last colour when all channels share one scale."""
        high = float(self.figures.largest.max())
        return max(high, -float(self.figures.smallest.min())) if self.signed else max(high, 0.0)


class Activations(Study[ActivationsOptions]):
    """The channels of one or several layers, as the deep visualization toolbox shows them (Yosinski et al. 2015)."""

    # Which channels are dead is known from all their values only.
    sees_again = True

    def __init__(self, prepared: PreparedModel, params: ActivationsOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        self.refs: tuple[LayerRef, ...] = prepared.session.layers
        names = Names()
        self.parts = {ref.name: names.unique(safe_component(ref.name)) for ref in self.refs}
        draw = prepared.settings.draw
        self.style = Style(draw.colormap, draw.alpha)
        self.picture = ImageFormat(draw.image_format, draw.png_level)
        self.channels: tuple[int, ...] | None = None
        if params.channel is not None:
            fewest = min(self.refs, key=lambda ref: ref.channels)
            what = f"channels of {fewest.name}"
            self.channels = parse_numbers(params.channel, "--channel", fewest.channels, what)
            if len(self.channels) > _MOST_ENLARGED:
                raise CnnvizError(
                    f"--channel {params.channel}: {len(self.channels)} channels would be drawn over every image.",
                    f"Name up to {_MOST_ENLARGED}; the grid shows all.",
                )
        self.tallies = [ChannelTally(ref.channels) for ref in self.refs]

    @classmethod
    def cut(cls, settings: RunSettings, params: ActivationsOptions) -> Cut:
        return Cut.at_layers(*dict.fromkeys(settings.target.layers))

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        values = [activation.detach().float().cpu().numpy() for activation in run.activations]
        rows: list[Any] = []
        for index, item in enumerate(items):
            layers = [each[index] for each in values]
            if all(np.isfinite(each).all() for each in layers):
                rows.append([_Layer(np.ascontiguousarray(each), channel_figures(each)) for each in layers])
            else:
                rows.append(failed(item, "not-finite", "its activations are not finite"))
        return rows

    def draw(self, done: Observed) -> ActivationsFacts:
        stem = f"images/{done.ref.name}"
        grids = [self._grid(ref, layer) for ref, layer in zip(self.refs, done.seen, strict=True)]
        name = f"{stem}.activations.{self.picture.suffix}"
        self.store.write(name, encode(stack(grids), self.picture))
        names = ", ".join(ref.name for ref in self.refs)
        figures: list[Figure] = [{"file": name, "caption": f"channels of {names}"}]
        files = {"channels": name}
        rows = []
        for ref, layer in zip(self.refs, done.seen, strict=True):
            enlarged = self._enlarge(done, ref, layer, figures)
            rows.append(self._facts(done, ref, layer, enlarged))
        if self.params.raw:
            arrays = {ref.name: layer.values for ref, layer in zip(self.refs, done.seen, strict=True)}
            files["raw"] = f"{stem}.activations.npz"
            self.store.write(files["raw"], encode_npz(arrays))
        return {"layers": rows, "files": files, "figures": figures}

    def _grid(self, ref: LayerRef, layer: _Layer) -> NDArray[np.uint8]:
        sort, own = self._order_of(ref), self.params.per_channel
        channels, height, width = layer.values.shape
        figures, limit = layer.figures, layer.limit()
        ranked = order(figures, sort)
        # By index a place says which channel it is; in another order tiles of zeros say nothing.
        picked = (ranked if sort == "index" else _alive(ranked, figures)).tolist()
        largest = np.maximum(figures.largest, -figures.smallest if layer.signed else 0.0)
        made = [
            coloured(layer.values[c], float(largest[c]) if own else limit, self.style.colormap, layer.signed)
            for c in picked
        ]
        scale = "each on its own scale" if own else f"{'-' + number(limit) if layer.signed else '0'} to {number(limit)}"
        title = f"{ref.name}: {counted(channels, 'channel')} of {height}x{width}, by {sort}, {scale}"
        if left := channels - len(picked):
            title += "; all are zero" if limit == 0 else f"; {left} are zero and left out"
        return tiles(made, picked, layout(len(picked), (height, width)), title)

    def _order_of(self, ref: LayerRef) -> str:
        """``--sort``; by itself a wide layer begins with what is most active, since nobody reads it to the end."""
        if self.params.sort != "auto":
            return str(self.params.sort)
        return "mean" if ref.channels > _WIDE else "index"

    def _enlarge(self, done: Observed, ref: LayerRef, layer: _Layer, figures: list[Figure]) -> list[EnlargedChannel]:
        """The asked channels over the image; without a request the strongest."""
        by = "max" if self.params.sort == "max" else "mean"
        height, width = done.rgb.shape[:2]
        rows: list[EnlargedChannel] = []
        for channel in self.channels or (int(order(layer.figures, by)[0]),):
            placed = place(layer.values[channel], done.item.geometry.rect, (width, height), signed=layer.signed)
            name = f"images/{done.ref.name}.{self.parts[ref.name]}.{channel}.activations.{self.picture.suffix}"
            self.store.write(name, encode(overlay(done.rgb, placed, self.style), self.picture))
            figures.append({"file": name, "caption": f"{ref.name}, channel {channel}"})
            rows.append({"channel": channel, "file": name})
        return rows

    def _facts(self, done: Observed, ref: LayerRef, layer: _Layer, enlarged: list[EnlargedChannel]) -> LayerOfImage:
        figures, geometry = layer.figures, done.item.geometry
        height, width = layer.values.shape[1:]
        strongest: list[StrongChannel] = []
        for channel in order(figures, "max" if self.params.sort == "max" else "mean")[:_STRONGEST].tolist():
            row, col = figures.peak[channel].tolist()
            x, y = geometry.to_image(col + 0.5, row + 0.5, (width, height))
            mean, largest = float(figures.mean[channel]), float(figures.largest[channel])
            strongest.append({"channel": channel, "mean": mean, "max": largest, "peak": [round(x, 1), round(y, 1)]})
        return {
            "layer": ref.name,
            "channels": int(layer.values.shape[0]),
            "size": [height, width],
            "sparsity": figures.sparsity,
            "silent": int((figures.largest <= 0).sum()),
            "strongest": strongest,
            "enlarged": enlarged,
        }

    def fold(self, done: Observed) -> None:
        for tally, layer in zip(self.tallies, done.seen, strict=True):
            tally.add(layer.figures, done.ref.uri)

    def finish(self) -> Findings:
        summary: dict[str, LayerFigures] = {}
        report: list[LayerOfImages] = []
        for ref, tally in zip(self.refs, self.tallies, strict=True):
            dead = tally.dead()
            summary[ref.name] = {
                "channels": ref.channels,
                "silent": len(tally.silent()),
                "dead": None if dead is None else len(dead),
                "sparsity": tally.sparsity(),
            }
            report.append(
                {
                    "layer": ref.name,
                    "channels": ref.channels,
                    "size": list(ref.size),
                    "images": tally.images,
                    "sparsity": tally.sparsity(),
                    "silent": tally.silent(),
                    "dead": dead,
                    "units": tally.units(),
                }
            )
        sentences = [_told(ref, tally) for ref, tally in zip(self.refs, self.tallies, strict=True)]
        return Findings({"activations": summary}, {"layers": report}, sentences=sentences)


def _alive(ranked: NDArray[np.int64], figures: ChannelFigures) -> NDArray[np.int64]:
    """Of ranked channels those that are not zero everywhere; where all are, the first."""
    alive = ranked[(figures.largest[ranked] != 0) | (figures.smallest[ranked] != 0)]
    return alive if len(alive) else ranked[:1]


def _told(ref: LayerRef, tally: ChannelTally) -> str:
    """How many channels say nothing; what is silent in a few images need not be dead."""
    over = f"over {counted(tally.images, 'image')}"
    few, still = tally.dead() is None, len(tally.silent())
    text = f"{ref.name}: {still or 'none'} of {counted(ref.channels, 'channel')} {'silent' if few else 'dead'} {over}"
    return f"{text}, too few to call any of them dead" if few and still else text
