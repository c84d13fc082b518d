"""Are maps and predictions those that were accepted: a baseline beside the policy.

``cnnviz audit POLICY --accept REASON`` writes it: for each image the digest of its file, the class that is predicted,
what of it the network sees, and the raw map of each method in half precision, in its own cells. A map on another grid,
or of another part of the image, is compared where both cover it, which a remark says.
"""

from __future__ import annotations

import datetime
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged, RawMap, likeness_of_ranks, mean, rate
from cnnviz.audit.unlike_baseline import none_known, told, told_of_maps
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import CnnvizError, counted
from cnnviz.geometry.common_cells import aligned
from cnnviz.geometry.placement import Rect
from cnnviz.io.baselines import Baseline, BaselineFiles, read_baseline

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook


@dataclass
class _Compared:
    """What became of the maps of a method: how alike those are that were compared, whether their grids differ, and the
    images of those that were not, as the baseline has no such map or one of a part that has nothing in common.
    """

    similar: list[Observation] = field(default_factory=list)
    grids: list[bool] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)


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
        found = []
        compared = _Compared()
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
            changes.append(_change(each, known["predicted"], look))
            if each.counts:
                self._compare(each, method, stored, compared)
        if others:
            are, more = ("is", "") if len(others) == 1 else ("are", ", ...")
            self.remarks.append(f"{counted(len(others), 'file')} {are} not among those accepted: {others[0]}{more}")
        if self.params.min_similarity is not None:
            self.remarks += told_of_maps(method, compared.grids, compared.absent, compared.apart)
            found.append(mean("similarity", self.params.min_similarity, compared.similar, at_least=True, low=-1.0))
        if self.params.max_changed_predictions is not None:
            allowed = self.params.max_changed_predictions
            found.append(rate("changed_predictions", allowed, changes, at_least=False))
        return [replace(each, why_not=why) for each in found]

    def _compare(self, each: Judged, method: str, stored: Baseline, compared: _Compared) -> None:
        """Take in how alike the maps of an image are to those that were accepted."""
        for row in each.maps:
            values, after = stored.maps.get(_key(each.record, method, row["target"])), self.raw(row)
            if values is None:
                compared.absent.append(each.path)
            if values is None or after is None:
                continue
            before = RawMap(values, _accepted_rect(each.record, stored, after.rect))
            value, apart = likeness(before, after, (int(each.record["width"]), int(each.record["height"])))
            if apart:
                compared.apart.append(each.path)
            if value is not None:
                compared.grids.append(values.shape[-2:] != after.values.shape[-2:])
                compared.similar.append(each.seen(value))

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


def _change(each: Judged, before: int, look: SecondLook) -> Observation:
    """Whether a prediction is another class than before, and from which to which it went."""
    if before == each.record["predictions"][0]["class_index"]:
        return each.seen(False)
    known = 0 <= before < len(look.labels)  # a baseline of a network with other classes
    return each.seen(True, f"{look.labels[before] if known else f'class {before}'} becomes {each.predicted}")


def _accepted_rect(record: Mapping[str, Any], stored: Baseline, now: Rect) -> Rect:
    """The part of an image that the maps of a baseline cover.

    Older baselines say which pixels the network saw, which is that part where it was not padded; those that do not even
    say that have the part of today.
    """
    known = stored.images[str(record["name"])]
    if (rect := known.get("rect")) is not None:
        return rect[0], rect[1], rect[2], rect[3]
    then = known.get("seen_xywh")
    if then is None or then == record.get("seen_xywh"):
        return now
    return float(then[0]), float(then[1]), float(then[0] + then[2]), float(then[1] + then[3])


def likeness(before: RawMap, after: RawMap, size: tuple[int, int]) -> tuple[float | None, bool]:
    """Rank correlation of two maps of an image (W, H), and whether they have no part of it in common.

    Cell by cell where their grids and what they cover are the same; else where both cover the image, as runs are
    compared. Of gradients in colours the magnitudes. Without ranks, where a map is the same everywhere: 1 if both are,
    0 if one is; None where one is not finite, or there is no common part.
    """
    if not (np.isfinite(before.values).all() and np.isfinite(after.values).all()):
        return None, False
    first, second = (
        RawMap((np.abs(each.values).max(0) if each.values.ndim == 3 else each.values).astype(np.float32), each.rect)
        for each in (before, after)
    )
    pair = aligned(first, second, size)
    return (None, True) if pair is None else (likeness_of_ranks(*pair), False)


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
                found = raw(row)
                if found is not None:
                    images[name]["rect"] = list(found.rect)
                    # Ranks are compared: half precision has no room for gradients as small as they are.
                    scale = float(np.abs(found.values).max()) or 1.0
                    maps[_key(each.record, method, row["target"])] = (found.values / scale).astype(np.float16)
    facts = {"reason": reason, "until": until, "accepted": datetime.date.today().isoformat()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **maps)  # type: ignore[arg-type]
    text = json.dumps({"schema": "cnnviz.baseline/1", **facts, "images": images}, indent=1, sort_keys=True)
    return BaselineFiles(text.encode(), buffer.getvalue())
