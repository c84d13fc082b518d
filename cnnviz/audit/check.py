"""What a check of an audit gets, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cnnviz.audit.policy import Policy
from cnnviz.audit.policy_checks import PolicyCheck
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import of_all, out_of
from cnnviz.geometry.placement import Rect
from cnnviz.metrics.seen_region import BACKGROUND, SeenRegion, in_words
from cnnviz.metrics.similarity import spearman
from cnnviz.report.record_words import is_flat

if TYPE_CHECKING:
    from cnnviz.io.store import Store
    from cnnviz.maps.second_look import SecondLook
    from cnnviz.schema.images import Figure


@dataclass(frozen=True, eq=False)
class Judged:
    """An image that is judged, with the maps of one method that are.

    Attributes:
        record: Its record.
        maps: The explanations of the method for what the policy's ``target`` names.
        group: What it is judged with, by the check's scope.
        counts: Whether its prediction is one of those that the policy judges; others are seen by ``drift`` alone.
    """

    record: Mapping[str, Any]
    maps: Sequence[Mapping[str, Any]]
    group: str
    counts: bool = True

    @property
    def path(self) -> str:
        return str(self.record["path"])

    @property
    def predicted(self) -> str:
        """The class that the network says, by name."""
        return str(self.record["predictions"][0]["label"])

    def seen(self, value: float, note: str = "") -> Observation:
        """What a statement sees of it, and what that is in words."""
        return Observation(self.path, float(value), self.group, note)


@dataclass(frozen=True, eq=False)
class RawMap:
    """A method's own values, [h, w] or gradients in colours [3, H, W], and the part of the image that they cover."""

    values: NDArray[Any]
    rect: Rect


def all_flat(judged: Judged) -> bool:
    """Whether an image has maps, and each of them is the same everywhere."""
    return bool(judged.maps) and all(is_flat(each) for each in judged.maps)


def all_negative(judged: Judged) -> bool:
    """Whether an image has maps, and none of them has a positive value, though they are not flat."""
    highest = [each["scores"].get("max") for each in judged.maps]
    return bool(highest) and not all_flat(judged) and all(value is not None and value <= 0 for value in highest)


class Check(ABC):
    """A check of a policy, made before the first image.

    Args:
        check: What the policy says of it.
        policy: The whole policy.

    Attributes:
        remarks: What people should know of what it says; they are told with its name.
        hides: Whether the network was not shown all of what it asks for.
        raw: Reads the raw map of an explanation, of checks that keep maps; set before they are asked.
    """

    raw: Callable[[Mapping[str, Any]], RawMap | None]

    def __init__(self, check: PolicyCheck, policy: Policy) -> None:
        self.check, self.policy = check, policy
        self.params: Any = check.params
        self.remarks: list[str] = []
        self.hides = False

    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Metrics that must be measured of each map, with their options."""
        return {}

    def baselines(self) -> tuple[str, ...]:
        """Maps that must be measured as if they were a method's."""
        return ()

    def unmarked(self, judged: Sequence[Judged], seen: Collection[str], least: str = "nothing") -> str:
        """That images are left out, because nothing says where their object is; empty where all were seen.

        What is told where some were seen is the reason where none was. ``least``: what is too little.
        """
        out = [each.path for each in judged if each.path not in seen]
        if not out:
            return ""
        what = "marked" if self.policy.truth_labels == "any" else "marked as their class"
        text = f"{of_all(len(out), len(judged), 'image', 'has', 'have')} {least} {what}: {_first(out)}"
        if not seen:
            all_of = f"all {len(judged)} images have" if len(judged) > 1 else "the one image has"
            text = f"{all_of} {least} {what}"
        if self.policy.truth_labels == "class":
            text += "; truth_labels: any takes all that is marked, truth_classes says what its labels mean"
        if seen:
            self.remarks.append(text)
        return text

    def empty(self, judged: Sequence[Judged], seen: Collection[str], lack: str) -> str:
        """That images are left out, because their maps are the same everywhere, or have no positive values; empty where
        none is.

        Args:
            judged: Images with maps.
            seen: Those that were seen.
            lack: What such maps do not have.
        """
        texts = []
        for kind, what in ((all_flat, "are flat"), (all_negative, "have no positive values")):
            out = [each.path for each in judged if each.path not in seen and kind(each)]
            if out:
                of = out_of(len(out), len(judged), "image")
                texts.append(f"the maps of {of} {what}, no {lack}: {_first(out)}")
        self.remarks += texts
        return "; ".join(texts)

    def hidden(self, shares: Mapping[str, float], region: str) -> str:
        """That the network was not shown all of a region that the check asks for; empty where it was.

        Of an image in which it saw nothing of it there is nothing to say: no map can lie there. Where that is so of all
        images, it is the reason why nothing is decided; else it is told.

        Args:
            shares: By image the share of the region that the network saw, where there is such a region.
            region: ``truth``, ``background`` or a rectangle; of the background the network need not see all.
        """
        out = [path for path, share in shares.items() if not share]
        everywhere = bool(out) and len(out) == len(shares)
        seen, texts = SeenRegion(), []
        for share in shares.values():
            if share or everywhere:
                seen.add(share)
        if out and not everywhere:
            of = out_of(len(out), len(shares), "image")
            texts.append(f"the network saw nothing of {in_words(region)} in {of}, left out: {_first(out)}")
        if everywhere or region != BACKGROUND:
            texts.append(seen.hidden(region))
        said = "; ".join(filter(None, texts))
        self.hides = self.hides or bool(said)
        if said and not everywhere:
            self.remarks.append(said)
        return said

    def findings(self) -> list[dict[str, Any]]:
        """What the report says beside the statements, once these were made."""
        return []

    def pictures(self, look: SecondLook, store: Store) -> Sequence[Figure]:
        """Pictures of what it found, written to the output folder."""
        return ()

    @abstractmethod
    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        """What must hold, with what was measured of it.

        Args:
            method: Whose maps are judged; empty for checks that look at no maps.
            judged: The images.
            look: Photographs, and the network on changed ones.
        """


def _first(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:2])}{', ...' * (len(paths) > 2)}"


def likeness_of_ranks(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Spearman's rho of two maps of one shape; of maps without ranks, the same everywhere, 1 if both are, 0 if one is.

    A map that became flat, or no longer is, has changed: it is not passed over. None where both are flat at no
    finite value.
    """
    value = spearman(a, b)
    if value is not None:
        return value
    flat = [bool(each.min() == each.max()) for each in (a, b)]
    return float(all(flat)) if any(flat) else None


def mean(name: str, allowed: float, judged: Sequence[Observation], *, at_least: bool, low: float = 0.0) -> Statement:
    """That a mean of values from ``low`` to 1 is at least, or at most, what is allowed."""
    return Statement(name, "mean", at_least, allowed, judged, low=low)


def rate(name: str, allowed: float, judged: Sequence[Observation], *, at_least: bool) -> Statement:
    """That a rate is at least, or at most, what is allowed."""
    return Statement(name, "rate", at_least, allowed, judged)
