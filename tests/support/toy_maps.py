"""Maps of the toys of ``networks`` by name."""

from __future__ import annotations

from typing import Any

import cnnviz
from tests.support import networks as nets

CLASSES = [1, 3, 0]


def explained(name: str, method: str, **options: Any) -> Any:
    toy = nets.TOYS[name]
    layer = options.pop("layer", toy.layer)
    return cnnviz.explain(toy.build(), nets.images(), method=method, target=CLASSES, layer=layer, **options)
