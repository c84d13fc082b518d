"""Checks of the method itself on this network: a method that fails one cannot vouch for anything else."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnviz.audit.check import Check, Judged, mean
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import counted, of_all

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook


def is_for_trust(record: Mapping[str, Any]) -> bool:
    """Whether an image is of the fixed random third on which methods are tried, and nothing else is judged."""
    digest = hashlib.sha256(str(record["name"]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % 3 == 0


class Faithful(Check):
    """The method beats a map that knows nothing of the network."""

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {self.params.metric: {}}

    def baselines(self) -> tuple[str, ...]:
        kind = {"center": "centre_gaussian"}.get(self.params.better_than, self.params.better_than)
        return (kind,)

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        metric, other = self.params.metric, self.params.better_than
        seen: list[Observation] = []
        for each in judged:
            beside = f"{method}:blurred" if other == "blurred" else other
            values = {
                (row["method"], _what(row["target"])): row["scores"].get(metric) for row in each.record["explanations"]
            }
            for row in each.maps:
                own, base = (values.get((name, _what(row["target"]))) for name in (method, beside))
                if own and base and _area(metric, own) is not None and _area(metric, base) is not None:
                    better = _area(metric, own) - _area(metric, base)  # type: ignore[operator]
                    seen.append(each.seen(-better if metric == "deletion" else better))
        return [mean(f"{metric}_better_than_{other}", self.params.by, seen, at_least=True, low=-1.0)]


def _what(target: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is explained; several classes may have one label."""
    return tuple(target.get(name) for name in ("spec", "class_index", "label"))


def _area(metric: str, scores: Mapping[str, Any]) -> float | None:
    value = scores.get("difference" if metric == "road" else "area")
    return None if value is None else float(value)


class Sane(Check):
    """The map is another one when all weights are random."""

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {"randomization": {"steps": "last"}}

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        seen, flat, tried = [], 0, 0
        for each in judged:
            for row in each.maps:
                steps = row["scores"].get("sanity") or []
                value = None if not steps else steps[-1].get("spearman_abs", steps[-1]["spearman"])
                tried += bool(steps)
                if value is not None:
                    seen.append(each.seen(value))
                elif steps:
                    flat += 1
        made = mean("similarity_to_random_weights", self.params.max_similarity, seen, at_least=False, low=-1.0)
        why = self._left_out(flat, tried, len({each.image for each in seen}))
        return [dataclasses.replace(made, why_not=why)]

    def _left_out(self, flat: int, tried: int, left: int) -> str:
        """Tells of maps that correlate with nothing; why nothing can be decided, where too few images are left."""
        if not flat:
            return ""
        verb = "correlates" if flat == 1 else "correlate"
        text = f"{of_all(flat, tried, 'map')} flat, with random weights or without, and {verb} with nothing"
        if left < self.policy.min_images:
            rest = f"{counted(left, 'image')} {'is' if left == 1 else 'are'} left"
            return f"{text}; {rest}, at least {self.policy.min_images} decide"
        self.remarks.append(f"{text}; only the rest counts, {counted(left, 'image')}")
        return ""
