"""``grid``: the maps of several methods of one image in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Comparison, Conclusion
from cnnviz.registry.comparisons import GridOptions
from cnnviz.registry.specs import MethodSpec
from cnnviz.settings import TargetSettings


class Grid(Comparison[GridOptions]):
    """Maps of several methods, side by side; those that the network refuses are left out, with the reason."""

    def __init__(self, params: GridOptions, target: TargetSettings) -> None:
        super().__init__(params, target)
        self._left_out: dict[str, tuple[str, str]] = {}

    def goes_on_without(self, spec: MethodSpec, error: CnnvizError) -> bool:
        self._left_out[spec.name] = spec.title, error.message
        return True

    def left_out(self) -> Mapping[str, tuple[str, str]]:
        return self._left_out

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        return Conclusion({"refused": {name: why for name, (_, why) in self._left_out.items()}})
