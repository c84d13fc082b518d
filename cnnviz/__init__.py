"""cnnviz: shows why a convolutional network said what it said, and tests that it looked where it should.

    import cnnviz
    model = cnnviz.load_model("resnet50", weights=None)
    result = cnnviz.explain(model, batch, method="gradcam")

Names are imported on first use, so that ``cnnviz --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnviz.api import Explanation, Model, explain, load_model
    from cnnviz.errors import CnnvizError, ImageError
    from cnnviz.io.annotation_formats import load_truth
    from cnnviz.io.reports import report_schema
    from cnnviz.registry.lookup import list_methods, list_metrics

_HOMES = {
    "Explanation": "cnnviz.api",
    "Model": "cnnviz.api",
    "explain": "cnnviz.api",
    "load_model": "cnnviz.api",
    "load_truth": "cnnviz.io.annotation_formats",
    "list_methods": "cnnviz.registry.lookup",
    "report_schema": "cnnviz.io.reports",
    "list_metrics": "cnnviz.registry.lookup",
    "CnnvizError": "cnnviz.errors",
    "ImageError": "cnnviz.errors",
}

__all__ = [
    "CnnvizError",
    "Explanation",
    "ImageError",
    "Model",
    "__version__",
    "explain",
    "list_methods",
    "list_metrics",
    "load_model",
    "load_truth",
    "report_schema",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnviz' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
