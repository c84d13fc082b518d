"""The colours of classes: far apart, and the same in every picture."""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

# Farthest points in OKLab, in which lightness counts half: the photograph under a colour has its own. 0.13 apart and
# more, where the twelve after Okabe & Ito and their mixtures had 0.09. The order puts what is alike far apart in the
# index, and nothing near the first one, which most networks have as their background.
PALETTE: tuple[Colour, ...] = (
    (0, 0, 255), (45, 150, 135), (210, 240, 0), (255, 0, 255), (255, 0, 30), (0, 75, 30), (75, 255, 195),
    (255, 225, 150), (135, 210, 255), (150, 0, 150), (0, 165, 0), (240, 165, 180), (150, 0, 60), (165, 150, 0),
    (135, 105, 180), (255, 0, 150), (255, 135, 15), (0, 255, 0), (240, 135, 255), (120, 75, 15), (0, 75, 120),
    (60, 15, 165), (15, 135, 255), (150, 0, 255),
)  # fmt: skip
OTHER: Colour = (170, 174, 180)
"""That of classes without a colour of their own."""


def colours_of_classes(ranked: Sequence[int]) -> dict[int, Colour]:
    """A colour for each class of a picture; grey for those that are more than there are colours.

    A class has the same colour in every picture, that of its index, but where a class before it has that one already:
    then it gets one that no other has.
    """
    found: dict[int, Colour] = {}
    for index in ranked:
        own = PALETTE[index % len(PALETTE)]
        if own not in found.values():
            found[index] = own
    free = [colour for colour in PALETTE if colour not in found.values()]
    for index in ranked:
        if index not in found:
            found[index] = free.pop(0) if free else OTHER
    return found
