"""``cnnviz dream``: DeepDream on images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import decode
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.sources import find_images, read_bytes
from cnnviz.io.store import Store
from cnnviz.models.graph.layers import stages
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.records import ClassScore
from cnnviz.registry.image_makers import DeepDreamOptions
from cnnviz.render.text import percent
from cnnviz.run.images import DecodedImage
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.studies.dream import DreamFacts, Octave
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Observed, Study
from cnnviz.synthesis.ascent import as_levels, as_picture, seed_of
from cnnviz.synthesis.deepdream import DreamOptions, dream, guided_by
from cnnviz.synthesis.objectives import leaky_square
from cnnviz.synthesis.reader import normalisation, open_reader

_GREY = (0.299, 0.587, 0.114)
_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class _Observation:
    """A dream.

    Attributes:
        rgb: [H, W, 3], of the input's size.
        scores: For each octave the mean objective, step by step.
        sizes: Height and width of each octave.
        predictions: Of the dream.
    """

    rgb: NDArray[np.uint8]
    scores: tuple[tuple[float, ...], ...]
    sizes: tuple[tuple[int, int], ...]
    predictions: tuple[ClassScore, ...]


class Dream(Study[DeepDreamOptions]):
    """What a layer sees in an image, made stronger at several sizes."""

    def __init__(self, prepared: PreparedModel, params: DeepDreamOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        # A dream is a loop of small steps: all threads work on one image.
        prepared.lanes = prepared.lanes.one
        self.reader = open_reader(prepared.session, (self._layer(),), prepared.open, logits=False)
        self.layer = self.reader.layers[0].name
        if not prepared.settings.target.layers:
            prepared.note(f"no --layer was named: {self.layer}, the stage before the last, is dreamed of")
        self.normalise = normalisation(prepared.preprocess, self.reader.device)
        self.options = DreamOptions(
            octaves=params.octaves,
            octave_scale=params.octave_scale,
            steps=params.steps,
            step_size=params.step_size / 255,
            jitter=params.jitter,
            tile=params.tile,
            overlap=params.overlap,
        )
        self.energy = leaky_square if params.guide is None else guided_by(self._guide(params.guide))

    @classmethod
    def cut(cls, settings: RunSettings, params: DeepDreamOptions) -> Cut:
        if len(settings.target.layers) > 1:
            count = len(settings.target.layers)
            raise CnnvizError(f"dream takes one layer, not {count}.", "Run it once a layer, each with its --out.")
        return Cut.before_classifier()

    def _layer(self) -> str:
        """The layer that was asked for; else the stage before the last, whose units show parts of things."""
        if self.prepared.settings.target.layers:
            return self.prepared.settings.target.layers[0]
        session = self.prepared.session
        if session.graph is None:
            why = f"This network {session.untraced}: there is no default layer."
            raise CnnvizError(why, "Name one with --layer.")
        return "-2" if len(stages(session.graph, session.name)) > 1 else "-1"

    def _guide(self, path: str) -> Tensor:
        """The guide's values at the layer [1, C, h, w], seen as the network sees images."""
        refs = list(find_images([path]))
        if len(refs) != 1:
            raise CnnvizError(f"--guide {path}: expected one image, found {len(refs)}.", "Name one image file.")
        try:
            pixels, _ = prepare(decode(read_bytes(refs[0])).rgb, self.prepared.preprocess)
        except ImageError as error:
            raise CnnvizError(f"--guide {path}: {error.message}", "Give an image that can be read.") from error
        with rt.scope():
            batch = normalize(pixels[None].to(self.reader.device), self.prepared.preprocess)
            return self.reader.read(batch).layers[0].detach()

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        return [self._dream(item) for item in items]

    def _dream(self, item: DecodedImage) -> _Observation:
        prepared = self.prepared
        rgb = torch.from_numpy(np.require(item.rgb, requirements=("C", "W"))).permute(2, 0, 1)[None].float() / 255.0
        grey = prepared.preprocess.input_size[0] == 1
        image = (rgb * rgb.new_tensor(_GREY)[:, None, None]).sum(dim=1, keepdim=True) if grey else rgb
        seed = seed_of(prepared.settings.runtime.seed, item.pixels.numpy().tobytes())
        first = 0.0

        def watch(octave: int, step: int, score: float) -> None:
            nonlocal first
            first = score if step == 0 else first
            if step + 1 == self.options.steps:
                prepared.say(f"{item.ref.name}: octave {octave + 1}: score {first:.3g} → {score:.3g}")

        found = dream(image, self.reader, self.normalise, self.options, seed, self.energy, watch)
        made = found.image.cpu()
        # A grey network changes brightness; the picture keeps its colours.
        levels = as_levels(rgb + (made - image) if grey else made)[0]
        picture = as_picture(levels)
        pixels, _ = prepare(picture, prepared.preprocess)
        batch = normalize(pixels[None].to(prepared.session.device), prepared.preprocess)
        predictions = prepared.top_classes(prepared.predict(prepared.session.logits(batch)), 0)
        return _Observation(picture, found.scores, found.sizes, predictions)

    def draw(self, done: Observed) -> DreamFacts:
        seen: _Observation = done.seen
        name = f"images/{done.ref.name}.dream.png"
        self.store.write(name, encode(seen.rgb, _PNG))
        before, after = done.predictions[0], seen.predictions[0]
        octaves: list[Octave] = [
            {"size": [size[1], size[0]], "scores": [round(score, 6) for score in scores]}
            for size, scores in zip(seen.sizes, seen.scores, strict=True)
        ]
        caption = f"{self.layer}: {before.label} {percent(before.probability)} → "
        return {
            "layer": self.layer,
            "octaves": octaves,
            "dream_predictions": [score.to_dict() for score in seen.predictions],
            "files": {"dream": name},
            "figures": [{"file": name, "caption": f"{caption}{after.label} {percent(after.probability)}"}],
        }
