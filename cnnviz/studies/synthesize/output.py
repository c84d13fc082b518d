"""What ``cnnviz synthesize`` writes and reports of an image that it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.movies import encode_gif, encode_mp4
from cnnviz.io.store import Store
from cnnviz.registry.image_makers import SynthesizeOptions
from cnnviz.render.text import percent
from cnnviz.schema.studies.synthesize import SynthesizedFacts, SynthesizedRegion
from cnnviz.studies.synthesize import regions
from cnnviz.studies.synthesize.kept import MadeImage
from cnnviz.synthesis.objectives import objective_text

_FRAME_RATE = 12.0
_PNG = ImageFormat("png")


@dataclass(frozen=True)
class MadeOutput:
    """Files, caption and record of an image.

    Attributes:
        store: Where files go.
        params: Of the study.
        labels: A name for each class.
    """

    store: Store
    params: SynthesizeOptions
    labels: Sequence[str]

    def write(self, stem: str, made: MadeImage) -> dict[str, str]:
        """The files of an image, by kind."""
        files = {"image": f"{stem}.png"}
        self.store.write(files["image"], encode(made.rgb, _PNG))
        if made.classes is not None:
            files["prediction"] = f"{stem}.prediction.png"
            names, title = self.labels, objective_text(made.terms)
            shown = regions.prediction_figure(made.rgb, made.terms, made.classes, names, title)
            self.store.write(files["prediction"], encode(shown, _PNG))
        if made.frames and self.params.gif:
            files["gif"] = f"{stem}.gif"
            self.store.write(files["gif"], encode_gif(made.frames, _FRAME_RATE))
        if made.frames and self.params.video:
            files["video"] = f"{stem}.mp4"
            self.store.write(files["video"], encode_mp4(made.frames, _FRAME_RATE))
        return files

    def caption(self, made: MadeImage) -> str:
        """An image from noise in a line."""
        best = made.predictions[0]
        if rows := self._regions(made):
            return f"{objective_text(made.terms)}: score {made.score:.3g}; {regions.in_words(rows)}"
        return f"{objective_text(made.terms)}: score {made.score:.3g}; seen as {best.label} {percent(best.probability)}"

    def _regions(self, made: MadeImage) -> list[SynthesizedRegion]:
        if made.classes is None:
            return []
        size = (int(made.pixels.shape[2]), int(made.pixels.shape[1]))
        return regions.region_rows(made.terms, made.classes, size)

    def reported(self, made: MadeImage, files: Mapping[str, str]) -> SynthesizedFacts:
        """What the report says of an image."""
        found: SynthesizedFacts = {
            "objective": objective_text(made.terms),
            "terms": [term.to_dict() for term in made.terms],
            "score": made.score,
            "scores": [round(score, 5) for score in made.scores],
            "synthesized_predictions": [score.to_dict() for score in made.predictions],
            "files": dict(files),
        }
        if rows := self._regions(made):
            found["regions"] = rows
        return found
