"""Are maps and predictions those that were accepted: a baseline beside the policy.

``cnnviz audit POLICY --accept REASON`` writes it: for each image the digest of its file, the class that is predicted,
what of it the network sees, and the raw map of each method in half precision, in its own cells. A map on another grid
is compared on 32 x 32 cells, which a remark says.
"""

from __future__ import annotations

import datetime
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, likeness_of_ranks, mean, rate
from cnnviz.audit.unlike_baseline import none_known, told, told_of_maps
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import CnnvizError, counted
from cnnviz.io.baselines import Baseline, BaselineFiles, read_baseline

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook

_GRID = (32, 32)
Map = NDArray[np.float32]


class Drift(Check):
    """Maps and predictions are those of the accepted baseline.

    Attributes:
        accepting: Whether this run becomes a baseline.
        accepted_in: The folder of the baseline that a run becomes which is accepted: that of the first check of drift.
    """

    accepting = False
    accepted_in = ""

    @property
    def folder(self) -> str:
        """Where the baseline lies."""
        return os.path.join(self.policy.folder, self.params.baseline)

    @cached_property
    def _stored(self) -> Baseline | None:
        """What was accepted, read once for all methods; None where there is none, or one that is replaced anyway.

        Raises:
            CnnvizError: It cannot be read.
        """
        try:
            return read_baseline(self.folder)
        except CnnvizError as error:
            if not _same(self.folder, self.accepted_in):
                raise CnnvizError(error.message, "Copy one there that was accepted.") from error
            if not self.accepting:
                raise
            self.remarks.append(f"{error.message.rstrip('.')}: it is replaced")
            return None

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        stored = self._stored
        why = ""
        if stored is None:
            why = self._missing(bool(judged))
        if stored is not None and (until := stored.facts.get("until")) and until < datetime.date.today().isoformat():
            why = f"the baseline was accepted until {until}: {stored.facts.get('reason', '')}"
        if stored is not None:
            why = why or none_known(stored, judged, self.folder)
            self.remarks += told(stored, judged)
        grids: list[bool] = []
        absent: list[str] = []
        found = []
        similar: list[Observation] = []
        changes: list[Observation] = []
        others: list[str] = []
        for each in judged if stored is not None else ():
            assert stored is not None
            known = stored.images.get(str(each.record["name"]))
            if known is None:
                continue
            source = each.record.get("input") or {}
            if None not in (known.get("sha256"), source.get("sha256")) and known["sha256"] != source["sha256"]:
                others.append(each.path)
                continue
            changes.append(each.seen(known["predicted"] != each.record["predictions"][0]["class_index"]))
            for row in each.maps if each.counts else ():
                before = stored.maps.get(_key(each.record, method, row["target"]))
                after = self.raw(row)
                if before is None:
                    absent.append(each.path)
                value = None if before is None or after is None else likeness(before, after)
                if before is not None and after is not None and value is not None:
                    grids.append(before.shape[-2:] != after.shape[-2:])
                    similar.append(each.seen(value))
        if others:
            are, more = ("is", "") if len(others) == 1 else ("are", ", ...")
            self.remarks.append(f"{counted(len(others), 'file')} {are} not among those accepted: {others[0]}{more}")
        if self.params.min_similarity is not None:
            self.remarks += told_of_maps(method, grids, absent)
            found.append(mean("similarity", self.params.min_similarity, similar, at_least=True, low=-1.0))
        if self.params.max_changed_predictions is not None:
            allowed = self.params.max_changed_predictions
            found.append(rate("changed_predictions", allowed, changes, at_least=False))
        return [replace(each, why_not=why) for each in found]

    def _missing(self, judged: bool) -> str:
        """Why there is no baseline, and what writes one."""
        if not _same(self.folder, self.accepted_in):
            first = f"--accept writes that of the first check of drift, {self.accepted_in}"
            return f"there is no baseline in {self.folder}: {first}; copy one there that was accepted"
        if self.accepting and judged:
            return "the first baseline: there is nothing to compare it with"
        return f"there is no baseline in {self.folder}; --accept REASON writes one"


def _same(folder: str, other: str) -> bool:
    """Whether both are one folder, however they are spelled."""
    return os.path.abspath(folder) == os.path.abspath(other)


def _key(record: Mapping[str, Any], method: str, target: Mapping[str, Any]) -> str:
    """The name of a map in a baseline."""
    said = [target[name] for name in ("spec", "class_index") if name in target]
    return "|".join(map(str, [record["name"], method, *said]))


def likeness(before: NDArray[Any], after: NDArray[Any]) -> float | None:
    """Rank correlation of two maps; on a common grid where theirs differ. Of gradients in colours the magnitudes.

    Without ranks, where a map is the same everywhere: 1 if both are, 0 if one is; None where one is not finite.
    """
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    pair: list[Map] = []
    for each in (before, after):
        flat = (np.abs(each).max(0) if each.ndim == 3 else each).astype(np.float32)
        if before.shape[-2:] != after.shape[-2:]:
            flat = cv2.resize(flat, _GRID, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        pair.append(flat)
    return likeness_of_ranks(pair[0], pair[1])


def accepted(judged: Mapping[str, Sequence[Judged]], raw: Any, reason: str, until: str | None) -> BaselineFiles:
    """A baseline of this run.

    Args:
        judged: By method.
        raw: Reads the raw map of an explanation.
        reason: Why it is accepted.
        until: The last day on which it counts; None for always.
    """
    images: dict[str, Any] = {}
    maps: dict[str, NDArray[np.float16]] = {}
    for method, rows in judged.items():
        for each in rows:
            name = str(each.record["name"])
            source = each.record.get("input") or {}
            images[name] = {
                "sha256": source.get("sha256"),
                "predicted": each.record["predictions"][0]["class_index"],
                "seen_xywh": each.record.get("seen_xywh"),
            }
            for row in each.maps:
                values = raw(row)
                if values is not None:
                    # Ranks are compared: half precision has no room for gradients as small as they are.
                    scale = float(np.abs(values).max()) or 1.0
                    maps[_key(each.record, method, row["target"])] = (values / scale).astype(np.float16)
    facts = {"reason": reason, "until": until, "accepted": datetime.date.today().isoformat()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **maps)  # type: ignore[arg-type]
    text = json.dumps({"schema": "cnnviz.baseline/1", **facts, "images": images}, indent=1, sort_keys=True)
    return BaselineFiles(text.encode(), buffer.getvalue())
