"""Whether a traced network holds for inputs of other sizes than the one that it was traced with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnviz.engine.other_size import holds_at
from cnnviz.errors import CnnvizError

if TYPE_CHECKING:
    from cnnviz.run.prepared_model import PreparedModel


def check_other_size(prepared: PreparedModel) -> None:
    """A network is traced at one size: what Python decided on the way by that size would hold for all others.

    Raises:
        CnnvizError: The trace gives other scores at another size than the network itself.
    """
    _, height, width = prepared.preprocess.input_size
    other = (height + prepared.preprocess.stride, width + 2 * prepared.preprocess.stride)
    session = prepared.session
    if not session.remember("holds at another size", lambda: holds_at(session, prepared.loaded.module, other)):
        raise CnnvizError(
            f"--view whole: {prepared.loaded.name} decides by the size of its input what to compute, which cannot be "
            "traced for several sizes.",
            "Use --view tiles, which covers the whole picture with crops of one size, or --view squash.",
        )
