"""``cnnviz tcav``: whether a concept that is given by pictures moves a class's logit, tested against chance."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz.engine.cut import Cut
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import class_logits
from cnnviz.errors import CnnvizError, of_all, out_of
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.models.graph.outputs import two_dim
from cnnviz.registry.studies import TcavOptions
from cnnviz.render.tcav import Bars, derivative_figure, score_chart
from cnnviz.run.images import DecodedImage, failed
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import Figure
from cnnviz.schema.studies import tcav as schema
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study
from cnnviz.studies.tcav.directions import FEWEST, Cavs, compared, of_chance, of_concept, pictures_of_side
from cnnviz.studies.tcav.pictures import activations_of, pictures_apart
from cnnviz.tasks.classification import Classification

_PNG = ImageFormat("png")
# Of fewer images scores are too coarse for their significance to be taken for the class's.
_FEW = 10


def names_of(folders: Sequence[str]) -> list[str]:
    """The last part of each path; the whole path where two have the same."""
    short = [os.path.basename(os.path.normpath(folder)) for folder in folders]
    count = Counter(short)
    return [name if count[name] == 1 else folder for name, folder in zip(short, folders, strict=True)]


class Tcav(Study[TcavOptions]):
    """Testing with concept activation vectors (Kim et al., ICML 2018)."""

    def __init__(self, prepared: PreparedModel, params: TcavOptions, store: Store) -> None:
        super().__init__(prepared, params, store)
        classes = prepared.asked_classes
        if len(classes) != 1 or classes == ("pred",):
            named = (
                f"tcav asks about one class, not {len(classes)}" if len(classes) > 1 else "tcav asks about one class"
            )
            raise CnnvizError(f"{named}: name it.", "For example --class zebra.")
        if not params.concept or params.random is None:
            raise CnnvizError(
                "tcav compares pictures of a concept with random pictures: name a folder of each.",
                "For example --concept striped/ --random others/.",
            )
        if not isinstance(prepared.task, Classification):
            raise CnnvizError("tcav asks about a class of a network with class scores.", "Use factors.")
        concepts, random = pictures_apart(params.concept, params.random)
        self.index = prepared.classes.resolve(classes[0])
        self.label = prepared.classes.labels[self.index]
        self.layer = prepared.session.layers[0]
        self.names = names_of(params.concept)
        self.pictures: list[int] = []
        self.cavs: list[tuple[Cavs, Cavs]] = []
        self._learn(params.random, concepts, random)
        stacked = np.stack([np.stack([each.directions for each in pair]) for pair in self.cavs])
        self._directions = torch.from_numpy(stacked.reshape(-1, stacked.shape[-1]).T.copy())
        self._rows: list[NDArray[np.float64]] = []
        self._of_class, self._labelled = 0, 0

    @classmethod
    def cut(cls, settings: RunSettings, params: TcavOptions) -> Cut:
        layers = settings.target.layers
        if len(layers) > 1:
            raise CnnvizError(f"tcav takes one layer, not {len(layers)}.", "Run it once a layer, each with its --out.")
        return Cut.at_layers(*layers)

    def _learn(self, folder: str, concepts: Sequence[Sequence[ImageRef]], others: Sequence[ImageRef]) -> None:
        params, seed = self.params, self.prepared.settings.runtime.seed
        random = activations_of(self.prepared, ("--random", folder), others, params.pool)
        self.random_pictures, self.features = random.shape
        chance: dict[int, Cavs] = {}
        for concept, refs in zip(params.concept, concepts, strict=True):
            own = activations_of(self.prepared, ("--concept", concept), refs, params.pool)
            side = pictures_of_side(len(own), len(random))
            if side < FEWEST:
                raise CnnvizError(
                    f"--concept {concept} has {len(own)} pictures, --random {folder} {len(random)}: too few.",
                    f"Give at least {FEWEST} and {2 * FEWEST}; tens of each are usual.",
                )
            self.pictures.append(len(own))
            if side not in chance:
                chance[side] = of_chance(random, side, params.partitions, seed)
                self._check(f"--random {folder}", "pictures", chance[side])
            towards = of_concept(own, random, params.partitions, seed)
            self._check(f"--concept {concept}", "them from those of --random", towards)
            self.cavs.append((towards, chance[side]))

    def _check(self, flag: str, what: str, found: Cavs) -> None:
        """A vector of zeros raises no logit, which is no score of 0: refuse where one is among them."""
        if found.nothing:
            raise CnnvizError(
                f"{flag}: in {out_of(found.nothing, len(found.directions), 'partition')} nothing at "
                f"{self.layer.name} tells {what} apart: they are active alike.",
                "Give other pictures, or another --layer.",
            )

    def observe(self, run: ForwardPass, items: Sequence[DecodedImage]) -> Sequence[Any]:
        scores = class_logits(two_dim(run.chosen).float())[:, self.index]
        rows = self._derivatives(run.gradients(scores)[0])
        finite = np.asarray(np.isfinite(rows).all(axis=(1, 2, 3)))
        return [
            row if usable else failed(item, "not-finite", "the gradient of its logit is not finite")
            for item, row, usable in zip(items, rows, finite.tolist(), strict=True)
        ]

    def _derivatives(self, gradient: Tensor) -> NDArray[np.float64]:
        """Of the logit along each vector: [N, concepts, 2, P], of the concept and of chance.

        A step of the mean over positions is the same step at all of them: gradients are added up.
        """
        gradient = gradient.detach().cpu().double()
        flat = gradient.sum(dim=(2, 3)) if self.params.pool == "mean" else gradient.flatten(1)
        shape = (len(flat), len(self.names), 2, self.params.partitions)
        found: NDArray[np.float64] = (flat @ self._directions).reshape(shape).numpy()
        return found

    def draw(self, done: Observed) -> Mapping[str, Any]:
        derivatives: list[schema.Derivative] = [
            {"concept": name, "mean": float(own[0].mean()), "positive": float((own[0] > 0).mean())}
            for name, own in zip(self.names, done.seen, strict=True)
        ]
        name = f"images/{done.ref.name}.tcav.png"
        rows = [(each["concept"], each["mean"], each["positive"]) for each in derivatives]
        self.store.write(name, encode(derivative_figure(done.rgb, rows), _PNG))
        caption = (
            f"derivative of the logit of {self.label} along each concept: mean of its vectors, and how many are above 0"
        )
        figure = {"file": name, "caption": caption}
        return {"derivatives": derivatives, "figures": [figure]}

    def fold(self, done: Observed) -> None:
        self._rows.append(done.seen)
        self._labelled += done.label is not None
        taken = any(each.class_index == self.index for each in done.predictions[:1])
        self._of_class += taken or done.label == self.label

    def writes(self) -> Sequence[str]:
        return ["tcav.png", "cavs.npz"]

    def finish(self) -> Findings:
        if not self._rows:
            return Findings({"tcav": None}, unmeasured="no image could be used")
        derivatives = np.stack(self._rows)
        scores = (derivatives > 0).mean(axis=0)
        self._tell_others(len(derivatives))
        self._tell_coarse(len(derivatives), scores)
        report = [self._concept(place, scores[place]) for place in range(len(self.names))]
        bars = [
            Bars(each["concept"], each["significant"], *((s["score"], s["interval"]) for s in (each, each["random"])))
            for each in report
        ]
        many = len(derivatives)
        title = f"{self.label}, {many} image{'s' * (many != 1)}, {self.layer.name}"
        self.store.write("tcav.png", encode(score_chart(title, bars), _PNG))
        arrays = {
            "cavs": np.stack([pair[0].directions for pair in self.cavs]),
            "random_cavs": np.stack([pair[1].directions for pair in self.cavs]),
            "derivatives": derivatives[:, :, 0],
            "random_derivatives": derivatives[:, :, 1],
        }
        self.store.write("cavs.npz", encode_npz(arrays))
        summary: schema.TcavFigures = {
            "layer": self.layer.name,
            "class_index": self.index,
            "label": self.label,
            "images": len(derivatives),
            "of_class": self._of_class,
            "features": self.features,
            "random_pictures": self.random_pictures,
            "level": self.params.level,
        }
        caption = "share of the images whose logit a step towards the concept raises, and the same of random vectors"
        figures: list[Figure] = [{"file": "tcav.png", "caption": caption}]
        return Findings({"tcav": summary}, {"concepts": report}, figures, sentences=[title, *map(_said, report)])

    def _tell_others(self, images: int) -> None:
        """A note where most images are not of the class, as far as is known: a significant p does not show it."""
        if 2 * self._of_class >= images:
            return
        how = "predicted or labelled" if self._labelled else "predicted"
        whose = "of other images" if self._of_class == 0 else "mostly of other images"
        self.prepared.note(
            f"{of_all(self._of_class, images, 'image')} {how} as {self.label}: derivatives and scores are {whose}, and "
            f"p says nothing of {self.label}; give images of the class"
        )

    def _tell_coarse(self, images: int, scores: NDArray[np.float64]) -> None:
        """Notes on scores that say less than they seem to: of few images, or where the layer decides all of them."""
        if images < _FEW:
            steps = "0 or 1" if images == 1 else f"a multiple of 1/{images}"
            self.prepared.note(
                f"the score of a vector is a share of images: of {images} image{'s' * (images != 1)} it can only be "
                f"{steps}, and p says nothing of other images of the class; give tens of them"
            )
        if images > 1 and np.isin(scores, (0, 1)).all():
            self.prepared.note(
                f"along every vector all images have derivatives of one sign: between {self.layer.name} and the class "
                "the network is nearly linear, and scores say no more than that; --layer -2 may tell more"
            )

    def _concept(self, place: int, scores: NDArray[np.float64]) -> schema.TestedConcept:
        towards, nothing = self.cavs[place]
        found = compared(scores[0], scores[1])
        adjusted = min(1.0, found.p * len(self.names))
        return {
            "concept": self.names[place],
            "folder": self.params.concept[place],
            "pictures": self.pictures[place],
            "side": pictures_of_side(self.pictures[place], self.random_pictures),
            "score": found.mean,
            "interval": list(found.interval),
            "scores": scores[0].tolist(),
            "accuracy": float(towards.accuracies.mean()),
            "accuracies": towards.accuracies.tolist(),
            "random": {
                "score": found.random_mean,
                "interval": list(found.random_interval),
                "scores": scores[1].tolist(),
                "accuracy": float(nothing.accuracies.mean()),
                "accuracies": nothing.accuracies.tolist(),
            },
            "p": found.p,
            "p_adjusted": adjusted,
            "significant": adjusted < self.params.level,
        }


def _said(row: schema.TestedConcept) -> str:
    verdict = "significant" if row["significant"] else "not significant"
    return (
        f"{row['concept']}: score {row['score']:.2f}, of random vectors {row['random']['score']:.2f}, "
        f"{verdict} (p = {row['p_adjusted']:.2g}); accuracy {row['accuracy']:.2f}"
    )
