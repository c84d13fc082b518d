"""Feature inversion: an image whose values at a layer are those of a photograph (Mahendran & Vedaldi, CVPR 2015)."""

from __future__ import annotations

from torch import Tensor

from cnnviz.errors import CnnvizError
from cnnviz.synthesis.ascent import Goal
from cnnviz.synthesis.reader import Reading


def normalised_error(values: Tensor, wanted: Tensor) -> Tensor:
    """||F(x) - F(x0)||^2 / ||F(x0)||^2 [N], of values [N, C, h, w] and those of the photograph [1, C, h, w].

    0 where the layer cannot tell x from x0; 1 where it sees in x nothing of x0 (all values zero). Mahendran & Vedaldi,
    "Understanding Deep Image Representations by Inverting Them", CVPR 2015, equations 1 and 2; their tables give
    another figure, the distance over the mean distance between the values of two photographs.
    """
    return (values - wanted).square().flatten(1).sum(dim=1) / wanted.square().sum()


def likeness_to(wanted: Tensor, layer: str) -> Goal:
    """What an inversion maximises: the negative error, layer 0 of a reading beside ``wanted``.

    Raises:
        CnnvizError: All of ``wanted`` is zero: every dark image has these values.
    """
    if not wanted.any():
        raise CnnvizError(f"All values of layer {layer} are zero for this image.", "Name another --layer.")

    def objective(reading: Reading, _: object) -> Tensor:
        return -normalised_error(reading.layers[0], wanted)

    return objective
