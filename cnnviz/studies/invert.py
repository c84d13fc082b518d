"""``cnnviz invert``: images that a layer cannot tell from a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.names import safe_component
from cnnviz.io.store import Store
from cnnviz.models.graph.layers import stages
from cnnviz.models.preprocess import normalize
from cnnviz.records import ClassScore, Record
from cnnviz.registry.image_makers import InvertOptions
from cnnviz.render.comparison import Cell, comparison
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.studies.invert import Inversion, InvertFacts
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Observed, Study
from cnnviz.synthesis.ascent import AscentOptions, Maker, as_picture, seed_of
from cnnviz.synthesis.augmentation import Augmentation
from cnnviz.synthesis.inversion import likeness_to, normalised_error
from cnnviz.synthesis.reader import normalisation, open_reader

_MOST_BY_DEFAULT = 4
_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class _Inverted:
    """An image that was made from the values of a layer.

    Attributes:
        layer: Name of the layer.
        rgb: [h, w, 3], of the network's input size.
        error: Of the picture as it is written.
        errors: Of the image, step by step.
        predictions: What the network says of the picture.
    """

    layer: str
    rgb: NDArray[np.uint8]
    error: float
    errors: tuple[float, ...]
    predictions: tuple[ClassScore, ...]


@dataclass(frozen=True, eq=False)
class _Observation:
    """What the network was shown [h, w, 3], and the inversions: for each layer one for each start."""

    shown: NDArray[np.uint8]
    made: tuple[tuple[_Inverted, ...], ...]


class Invert(Study[InvertOptions]):
    """What layers keep of an image, seen by images that are made from their values alone."""

    def __init__(self, prepared: PreparedModel, params: InvertOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        # A loop of small steps: all threads work on one image.
        prepared.lanes = prepared.lanes.one
        session, spec = prepared.session, prepared.preprocess
        options = AscentOptions(
            steps=params.steps,
            parametrisation=params.param,
            rate=params.rate,
            tv=params.tv,
            shaking=Augmentation(jitter=params.jitter, rotate=0.0, scale=0.0),
        )
        # A reader for each: what lies above its layer is not run.
        opened = [open_reader(session, (layer,), prepared.open, logits=False) for layer in self._layers()]
        # One layer may be named in several ways, such as -1.
        readers = {reader.layers[0].name: reader for reader in opened}
        self.makers = [
            Maker(reader, normalisation(spec, reader.device), spec.input_size, options) for reader in readers.values()
        ]
        if not prepared.settings.target.layers:
            named = ", ".join(maker.reader.layers[0].name for maker in self.makers)
            prepared.note(f"no --layer was named: {named} are inverted")

    @classmethod
    def cut(cls, settings: RunSettings, params: InvertOptions) -> Cut:
        return Cut.before_classifier()

    def _layers(self) -> list[str]:
        """Those that were asked for; else stages from the first to the last."""
        if self.prepared.settings.target.layers:
            return list(self.prepared.settings.target.layers)
        session = self.prepared.session
        if session.graph is None:
            why = f"This network {session.untraced}: there are no default layers."
            raise CnnvizError(why, "Name one or several with --layer.")
        count = len(stages(session.graph, session.name))
        places = np.unique(np.linspace(1, count, min(count, _MOST_BY_DEFAULT)).round().astype(int))
        return [str(place - count - 1) for place in places.tolist()]

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        return [self._inverted(item) for item in items]

    def _inverted(self, item: DecodedImage) -> _Observation | Record:
        made = []
        try:
            for maker in self.makers:
                made.append(self._made(maker, self._values(maker, item.pixels[None]), item))
        except CnnvizError as error:
            return failed(item, "not-inverted", error.message)
        return _Observation(as_picture(item.pixels), tuple(made))

    def _values(self, maker: Maker, pixels: Tensor) -> Tensor:
        """What a layer says of pictures as the network is shown them, [N, C, h, w]."""
        with rt.scope():
            batch = normalize(pixels.to(maker.reader.device), self.prepared.preprocess)
            return maker.reader.read(batch).layers[0].detach()

    def _made(self, maker: Maker, wanted: Tensor, item: DecodedImage) -> tuple[_Inverted, ...]:
        prepared, layer = self.prepared, maker.reader.layers[0].name
        content = item.pixels.numpy().tobytes()
        seeds = [seed_of(prepared.settings.runtime.seed + start, content) for start in range(self.params.starts)]
        found = maker.make(likeness_to(wanted, layer), seeds)
        errors = normalised_error(self._values(maker, found.images), wanted).tolist()
        batch = normalize(found.images.to(prepared.session.device), prepared.preprocess)
        said = prepared.predict(prepared.session.logits(batch))
        prepared.say(f"{item.ref.name}: {layer}: error {-float(found.scores[0, 0]):.3g} → {errors[0]:.3g}")
        return tuple(
            _Inverted(
                layer,
                as_picture(found.images[start]),
                errors[start],
                tuple((-found.scores[:, start]).tolist()),
                prepared.top_classes(said, start),
            )
            for start in range(len(seeds))
        )

    def draw(self, done: Observed) -> InvertFacts:
        seen: _Observation = done.seen
        stem = f"images/{done.ref.name}"
        first = done.predictions[0]
        grid: list[list[Cell | None]] = []
        rows: list[Inversion] = []
        for start in range(self.params.starts):
            label = getattr(first, "label", "")
            own: list[Cell | None] = [None]
            if start == 0:
                own = [Cell("image", seen.shown, label, percent(getattr(first, "probability", 0.0)))]
            for made in seen.made:
                inverted = made[start]
                best = inverted.predictions[0]
                number = f".{start + 1}" if self.params.starts > 1 else ""
                file = f"{stem}.{safe_component(inverted.layer)}{number}.inverted.png"
                self.store.write(file, encode(inverted.rgb, _PNG))
                seen_as = f"{best.label} {percent(best.probability)}"
                own.append(Cell(inverted.layer, inverted.rgb, f"error {inverted.error:.2g}", f"seen as {seen_as}"))
                rows.append(
                    {
                        "layer": inverted.layer,
                        "start": start,
                        "error": inverted.error,
                        "errors": [round(error, 6) for error in inverted.errors],
                        "inverted_predictions": [score.to_dict() for score in inverted.predictions],
                        "file": file,
                    }
                )
            grid.append(own)
        name = f"{stem}.inverted.png"
        self.store.write(name, encode(comparison(grid, done.ref.name), _PNG))
        caption = "made from the values of layers alone; error: share of the layer's energy that is missed"
        return {"inversions": rows, "files": {"inverted": name}, "figures": [{"file": name, "caption": caption}]}
