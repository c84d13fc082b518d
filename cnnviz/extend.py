"""What a package that adds a method imports: the names below stay where they are.

A method is one function ``(run: ForwardPass, target: Target, params) -> Heatmap`` and one :class:`MethodSpec` behind
the entry-point group ``cnnviz.methods``; ``docs/extending.md`` in the repository shows one in twenty lines.

Names are imported on first use: an entry point that gives a spec does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnviz.engine.session import ForwardPass
    from cnnviz.engine.targets import CallableTarget, ClassTarget, DifferenceTarget, Target, UnitTarget
    from cnnviz.errors import CnnvizError, ImageError
    from cnnviz.methods.heatmap import Heatmap
    from cnnviz.registry.params import Options, Param, option
    from cnnviz.registry.specs import MethodSpec, Package

_HOMES = {
    "CallableTarget": "cnnviz.engine.targets",
    "ClassTarget": "cnnviz.engine.targets",
    "CnnvizError": "cnnviz.errors",
    "DifferenceTarget": "cnnviz.engine.targets",
    "ForwardPass": "cnnviz.engine.session",
    "Heatmap": "cnnviz.methods.heatmap",
    "ImageError": "cnnviz.errors",
    "MethodSpec": "cnnviz.registry.specs",
    "Options": "cnnviz.registry.params",
    "Package": "cnnviz.registry.specs",
    "Param": "cnnviz.registry.params",
    "Target": "cnnviz.engine.targets",
    "UnitTarget": "cnnviz.engine.targets",
    "option": "cnnviz.registry.params",
}

__all__ = [
    "CallableTarget",
    "ClassTarget",
    "CnnvizError",
    "DifferenceTarget",
    "ForwardPass",
    "Heatmap",
    "ImageError",
    "MethodSpec",
    "Options",
    "Package",
    "Param",
    "Target",
    "UnitTarget",
    "option",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnviz.extend' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
