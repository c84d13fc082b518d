"""Something to explain of any network: what a probe is asked, to compare maps in two precisions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import CallableTarget, ClassTarget, Target, UnitTarget
from cnnviz.engine.vector_targets import ComponentTarget
from cnnviz.models.graph.structures import tensors_of
from cnnviz.registry.params import Options
from cnnviz.tasks.dense_words import has_places, placed_target
from cnnviz.tasks.words import make_target


def something_of(run: ForwardPass) -> Target:
    """Something to explain of a pass over a probe."""
    readout = run.session.readout
    if readout.whole:
        return CallableTarget(_first_output)
    if has_places(None, run) and run.session.boxes is None:
        return placed_target(None, run, ("logit", "softmax"), (), Options())[0]
    chosen = make_target(None, run.chosen)[1]
    if readout.before_classifier:
        return ComponentTarget(chosen)
    return ClassTarget(chosen, "logit") if readout.layer is None else UnitTarget(readout.layer, chosen, readout.at)


def _first_output(output: Any) -> Tensor:
    """A score of anything: the largest value of each image's first tensor."""
    first = next(tensors_of(output))
    return first.reshape(len(first), -1).amax(1)
