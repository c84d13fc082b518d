"""Where a method took another number of samples than was asked for: how many, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from cnnviz.errors import out_of
from cnnviz.registry.params import Options
from cnnviz.registry.specs import MethodSpec

# A difference of so much of what was asked for is not worth mentioning: 980 for 1000.
_TOLERATED = 0.1


class Method(Protocol):
    """A method of a run, with its options."""

    @property
    def spec(self) -> MethodSpec: ...

    @property
    def params(self) -> Options: ...


def told_of_numbers(methods: Sequence[Method], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each option of a method whose maps took another number; nothing where all took what was asked for.

    Fewer are no news where they are all that there are: the values are exact then.

    Args:
        methods: Of the run.
        records: Of the run.
    """
    asked = {each.spec.name: (each.spec, each.params.to_dict()) for each in methods if each.spec.counts}
    if not asked:
        return []
    taken: dict[tuple[str, str], list[int]] = {}
    maps: dict[tuple[str, str], int] = {}
    for record in records:
        for explanation in record.get("explanations") or ():
            spec, wanted = asked.get(explanation["method"], (None, {}))
            for name in () if spec is None else spec.counts:
                used, exact = explanation["scores"].get(name), explanation["scores"].get("standard_error") == 0
                if used is None:
                    continue
                key = explanation["method"], name
                maps[key] = maps.get(key, 0) + 1
                if abs(used - wanted[name]) > _TOLERATED * wanted[name] and not (exact and used < wanted[name]):
                    taken.setdefault(key, []).append(int(used))
    found = []
    for (method, name), used in taken.items():
        spec, wanted = asked[method]
        ends = " to ".join(dict.fromkeys(map(str, (min(used), max(used)))))
        of = f"{method}: " if len(methods) > 1 else ""
        said = f"--{name.replace('_', '-')} {wanted[name]}: {out_of(len(used), maps[method, name], 'map')} took {ends}"
        found.append(f"{of}{said}: {spec.counts[name]}")
    return found
