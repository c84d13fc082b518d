"""What a package that adds a method or a metric imports: the names below stay where they are.

A method is one function ``(run: ForwardPass, target: Target, params) -> Heatmap`` and one :class:`MethodSpec` behind
the entry-point group ``cnnviz.methods``; a metric is one function ``(placed: PlacedMap, image: ExplainedImage, truth:
Truth | None, params) -> {figure: value}`` (or a :class:`ModelMetric`) and one :class:`MetricSpec` behind
``cnnviz.metrics``; a task, what a network is for, is one class :class:`Task` and one :class:`TaskSpec` behind
``cnnviz.tasks``. ``docs/extending.md`` in the repository shows one of each.

Names are imported on first use: an entry point that gives a spec does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnviz.engine.readout import Readout
    from cnnviz.engine.region_targets import RegionTarget
    from cnnviz.engine.session import ForwardPass
    from cnnviz.engine.targets import CallableTarget, ClassTarget, DifferenceTarget, Target, UnitTarget
    from cnnviz.engine.vector_targets import ComponentTarget, SimilarityTarget
    from cnnviz.errors import CnnvizError, ImageError
    from cnnviz.geometry.boxes import Box
    from cnnviz.geometry.placement import PlacedMap
    from cnnviz.geometry.truth import Truth
    from cnnviz.methods.heatmap import Heatmap
    from cnnviz.metrics.contract import ExplainedBatch, ExplainedImage, ExplainedNetwork, ModelMetric, Row, RunSummary
    from cnnviz.registry.metrics import Figure, MetricSpec
    from cnnviz.registry.params import Options, Param, option
    from cnnviz.registry.specs import MethodSpec, Package
    from cnnviz.registry.tasks import TaskSpec
    from cnnviz.tasks.base import Predictions, Request, Selected, Selector, Task, Words
    from cnnviz.tasks.class_names import ClassNames

_HOMES = {
    "Box": "cnnviz.geometry.boxes",
    "CallableTarget": "cnnviz.engine.targets",
    "ClassNames": "cnnviz.tasks.class_names",
    "ClassTarget": "cnnviz.engine.targets",
    "CnnvizError": "cnnviz.errors",
    "ComponentTarget": "cnnviz.engine.vector_targets",
    "DifferenceTarget": "cnnviz.engine.targets",
    "ExplainedBatch": "cnnviz.metrics.contract",
    "ExplainedImage": "cnnviz.metrics.contract",
    "ExplainedNetwork": "cnnviz.metrics.contract",
    "Figure": "cnnviz.registry.metrics",
    "ForwardPass": "cnnviz.engine.session",
    "Heatmap": "cnnviz.methods.heatmap",
    "ImageError": "cnnviz.errors",
    "MethodSpec": "cnnviz.registry.specs",
    "MetricSpec": "cnnviz.registry.metrics",
    "ModelMetric": "cnnviz.metrics.contract",
    "option": "cnnviz.registry.params",
    "Options": "cnnviz.registry.params",
    "Package": "cnnviz.registry.specs",
    "Param": "cnnviz.registry.params",
    "PlacedMap": "cnnviz.geometry.placement",
    "Predictions": "cnnviz.tasks.base",
    "Readout": "cnnviz.engine.readout",
    "RegionTarget": "cnnviz.engine.region_targets",
    "Request": "cnnviz.tasks.base",
    "Row": "cnnviz.metrics.contract",
    "RunSummary": "cnnviz.metrics.contract",
    "Selected": "cnnviz.tasks.base",
    "Selector": "cnnviz.tasks.base",
    "Target": "cnnviz.engine.targets",
    "SimilarityTarget": "cnnviz.engine.vector_targets",
    "Task": "cnnviz.tasks.base",
    "TaskSpec": "cnnviz.registry.tasks",
    "Truth": "cnnviz.geometry.truth",
    "UnitTarget": "cnnviz.engine.targets",
    "Words": "cnnviz.tasks.base",
}

__all__ = [
    "Box",
    "CallableTarget",
    "ClassNames",
    "ClassTarget",
    "CnnvizError",
    "ComponentTarget",
    "DifferenceTarget",
    "ExplainedBatch",
    "ExplainedImage",
    "ExplainedNetwork",
    "Figure",
    "ForwardPass",
    "Heatmap",
    "ImageError",
    "MethodSpec",
    "MetricSpec",
    "ModelMetric",
    "Options",
    "Package",
    "Param",
    "PlacedMap",
    "Predictions",
    "Readout",
    "RegionTarget",
    "Request",
    "Row",
    "RunSummary",
    "Selected",
    "Selector",
    "SimilarityTarget",
    "Target",
    "Task",
    "TaskSpec",
    "Truth",
    "UnitTarget",
    "Words",
    "option",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnviz.extend' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
