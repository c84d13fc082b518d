"""Drawn scenes of two objects, and one sentence for each: ``a yellow square left of a green circle``.

The sentence begins with the object that is further left, or, where both stand nearly above each other, with the upper
one; so every scene has one sentence, and it is another one where the two objects change places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 64
COLOURS = {
    "red": (214, 40, 40),
    "green": (44, 160, 60),
    "blue": (40, 80, 214),
    "yellow": (235, 205, 40),
    "purple": (140, 50, 170),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
PAD, START, END = "<pad>", "<start>", "<end>"
VOCABULARY = [PAD, START, END, "a", *COLOURS, *SHAPES, "left", "of", "above"]
LENGTH = 9
"""Words of the longest sentence, with its end."""
_FINE = 4


@dataclass(frozen=True)
class Thing:
    """An object: its colour, its shape, its middle and its side in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    side: float

    def mask(self, side: int = SIDE) -> NDArray[np.float32]:
        """The share of each pixel that it covers [side, side]."""
        fine = Image.new("L", (side * _FINE, side * _FINE))
        pen, half = ImageDraw.Draw(fine), self.side * _FINE / 2
        x, y = self.x * _FINE, self.y * _FINE
        if self.shape == "circle":
            pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
        elif self.shape == "square":
            pen.rectangle((x - half * 0.9, y - half * 0.9, x + half * 0.9, y + half * 0.9), fill=255)
        elif self.shape == "triangle":
            pen.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=255)
        else:
            arm = half * 0.42
            pen.rectangle((x - half, y - arm, x + half, y + arm), fill=255)
            pen.rectangle((x - arm, y - half, x + arm, y + half), fill=255)
        return np.asarray(fine.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


@dataclass(frozen=True)
class Scene:
    """Two objects, in the order in which the sentence names them."""

    first: Thing
    second: Thing
    seed: int

    @property
    def words(self) -> list[str]:
        """The sentence."""
        aside = abs(self.first.x - self.second.x) >= abs(self.first.y - self.second.y)
        relation = ["left", "of"] if aside else ["above"]
        return ["a", self.first.colour, self.first.shape, *relation, "a", self.second.colour, self.second.shape]

    def exchanged(self) -> Scene:
        """The scene whose objects have changed places: each has the colour and the shape of the other."""
        (a, b), (c, d) = (self.first.colour, self.first.shape), (self.second.colour, self.second.shape)
        return Scene(replace(self.first, colour=c, shape=d), replace(self.second, colour=a, shape=b), self.seed)

    def picture(self) -> NDArray[np.uint8]:
        """uint8 [64, 64, 3]: a grey slope with noise, and the objects on it."""
        chance = np.random.default_rng([self.seed, 1])
        low, high = chance.uniform(40, 110, 2)
        rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
        slope = low + (high - low) * (rows if chance.random() < 0.5 else columns)
        rgb = np.repeat(slope[..., None], 3, axis=2) + chance.normal(0, 6, (SIDE, SIDE, 3))
        for thing in (self.first, self.second):
            cover = thing.mask()[..., None]
            shade = np.asarray(COLOURS[thing.colour]) * chance.uniform(0.85, 1.0)
            rgb = rgb * (1 - cover) + shade * cover
        return rgb.clip(0, 255).astype(np.uint8)


def scene(seed: int) -> Scene:
    """The scene of a seed: two objects of different colours and shapes that do not touch."""
    chance = np.random.default_rng([seed, 0])
    colours = chance.permutation(list(COLOURS))[:2]
    shapes = chance.permutation(SHAPES)[:2]
    while True:
        sides = chance.uniform(19, 25, 2)
        places = chance.uniform(sides[:, None] / 2 + 1, SIDE - 1 - sides[:, None] / 2, (2, 2))
        apart = np.abs(places[0] - places[1])
        clear = apart.max() > sides.mean() + 2 and abs(apart[0] - apart[1]) > 6
        if clear:
            break
    axis = 0 if apart[0] >= apart[1] else 1
    order = np.argsort(places[:, axis])
    things = [
        Thing(str(colours[place]), str(shapes[place]), *map(float, places[which]), float(sides[which]))
        for place, which in enumerate(order)
    ]
    return Scene(things[0], things[1], seed)
