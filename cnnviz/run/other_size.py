"""Whether a traced network holds for inputs of other sizes than the one that it was traced with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.outputs import as_rows, select_output

if TYPE_CHECKING:
    from cnnviz.run.prepared_model import PreparedModel


def check_other_size(prepared: PreparedModel) -> None:
    """A network is traced at one size: what Python decided on the way by that size would hold for all others.

    Raises:
        CnnvizError: The trace gives other scores at another size than the network itself.
    """
    _, height, width = prepared.preprocess.input_size
    other = (height + prepared.preprocess.stride, width + 2 * prepared.preprocess.stride)
    if not prepared.session.remember("holds at another size", lambda: holds_at(prepared, other)):
        raise CnnvizError(
            f"--view whole: {prepared.loaded.name} decides by the size of its input what to compute, which cannot be "
            "traced for several sizes.",
            "Use --view tiles, which covers the whole picture with crops of one size, or --view squash.",
        )


def holds_at(prepared: PreparedModel, size: tuple[int, int]) -> bool:
    """Whether the prepared network gives at an input size (H, W) the scores of the network itself."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, prepared.preprocess.input_size[0], *size), generator=generator)
    key = prepared.session.output.key
    with rt.scope():
        try:
            expected = as_rows(select_output(prepared.loaded.module(image), key).detach())
            got = prepared.session.forward(image).chosen.detach().cpu()
        except Exception as error:
            if rt.is_out_of_memory(error):
                raise
            return False
    return got.shape == expected.shape and bool(
        (got - expected).abs().max() <= prepared.runtime.tolerance * expected.abs().max().clamp_min(1e-6)
    )
