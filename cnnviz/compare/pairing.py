"""What of one run belongs to what of another: images, and maps of one target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnnviz.io.finished_runs import FinishedRun
from cnnviz.registry import lookup

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PairedMaps:
    """A map of each run: of one target, or (``same`` is False) of what each explains alone."""

    a: Row
    b: Row
    same: bool


@dataclass
class Paired:
    """Which images both runs have.

    Attributes:
        both: Numbers of the records of A and of B, of one image, in the order of A.
        only_a, only_b: Names of images that one run has.
        others: Names of images whose files differ.
        failed: Number in A and in B, name, and what went wrong, of images that one of them could not explain.
    """

    both: list[tuple[int, int]] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    failed: list[tuple[int, int]] = field(default_factory=list)


def pair_images(a: FinishedRun, b: FinishedRun) -> Paired:
    """Images by the names of their records; what is left by the digest of the file, where that is unique."""
    found = Paired()
    named = {str(record["name"]): number for number, record in enumerate(b.records())}
    left: list[int] = []
    taken: set[int] = set()
    for number, record in enumerate(a.records()):
        other = named.get(str(record["name"]))
        if other is None:
            left.append(number)
            continue
        taken.add(other)
        _sort_in(found, a, b, (number, other))
    digests: dict[str, list[int]] = {}
    for number, record in enumerate(b.records()):
        if number not in taken:
            digests.setdefault(_digest(record) or "", []).append(number)
    for number in left:
        record = a.record(number)
        same = digests.get(_digest(record) or "", []) if _digest(record) else []
        if len(same) == 1:
            _sort_in(found, a, b, (number, same.pop()))
        else:
            found.only_a.append(str(record["name"]))
    rest = sorted(number for numbers in digests.values() for number in numbers)
    found.only_b = [str(b.record(number)["name"]) for number in rest]
    found.both.sort()
    return found


def _sort_in(found: Paired, a: FinishedRun, b: FinishedRun, pair: tuple[int, int]) -> None:
    first, second = a.record(pair[0]), b.record(pair[1])
    if first.get("error") or second.get("error"):
        found.failed.append(pair)
    elif None not in (own := (_digest(first), _digest(second))) and own[0] != own[1]:
        found.others.append(str(first["name"]))
    else:
        found.both.append(pair)


def _digest(record: Row) -> str | None:
    found: str | None = (record.get("input") or {}).get("sha256")
    return found


class Targets:
    """Tells whether two runs speak of the same thing.

    Args:
        a: The report of one run.
        b: That of the other.
    """

    def __init__(self, a: Row, b: Row) -> None:
        first, second = a["model"], b["model"]
        self._alike = first.get("labels_sha256") == second.get("labels_sha256")
        self._counted = first.get("num_classes") == second.get("num_classes")

    def same(self, a: Row, b: Row) -> bool:
        """Of targets, or predictions: classes by their index where the runs have the same ones, else by their labels
        (or by the index, where one of the networks has none); others by what was asked for."""
        if "kind" in a or "kind" in b:
            return all(a.get(key) == b.get(key) for key in ("kind", "spec", "label"))
        if self._alike:
            return bool(a.get("class_index") == b.get("class_index"))
        if a.get("label") == b.get("label"):
            return True
        bare = any(each.get("label") == f"class {each.get('class_index')}" for each in (a, b))
        return bool(self._counted and bare and a.get("class_index") == b.get("class_index"))

    def pairs(self, a: Row, b: Row, *, by_method: bool) -> Iterator[PairedMaps]:
        """Maps of two records that belong together."""
        first, second = maps_of(a), maps_of(b)
        alone: list[Row] = []
        for one in first:
            place = next(
                (
                    number
                    for number, other in enumerate(second)
                    if self.same(one["target"], other["target"]) and (not by_method or one["method"] == other["method"])
                ),
                None,
            )
            if place is None:
                alone.append(one)
            else:
                yield PairedMaps(one, second.pop(place), True)
        # Where each run explains what it predicts, and these are two.
        if len(alone) == len(second) == 1 and len(first) == 1:
            yield PairedMaps(alone[0], second[0], False)


def maps_of(record: Row) -> list[Row]:
    """The maps of methods in a record, without those that stand beside them."""
    known = lookup.method_names()
    return [each for each in record.get("explanations") or () if each["method"] in known]


def methods_of(run: FinishedRun) -> Sequence[str]:
    """The methods that made a run's maps, in the order of its first record that has some."""
    for record in run.records():
        if found := maps_of(record):
            return list(dict.fromkeys(str(each["method"]) for each in found))
    return ()
