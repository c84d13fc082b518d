"""Maps of one image. ``cnnviz.methods()`` lists them: the name is this package and that function at once.

Importing any module of this package sets the attribute ``methods`` of ``cnnviz`` to the package, so the package itself
must be callable.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from cnnviz import catalog


def listed() -> list[dict[str, Any]]:
    """Every method: name, one-line description, family, reference and options."""
    return [
        {
            "name": spec.name,
            "summary": spec.summary,
            "family": spec.family,
            "paper": spec.paper,
            "command": spec.command,
            "signed": spec.signed,
            "class_specific": spec.class_specific,
            "options": {p.name: {"default": p.default, "help": p.help, "choices": p.choices} for p in spec.params},
        }
        for spec in catalog.all_methods()
    ]


class _CallablePackage(ModuleType):
    def __call__(self) -> list[dict[str, Any]]:
        return listed()


sys.modules[__name__].__class__ = _CallablePackage
