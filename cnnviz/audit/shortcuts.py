"""Shortcuts: a cluster of the maps of a class that looks at one place, on which its predictions hang.

Spectral relevance analysis (:mod:`cnnviz.metrics.map_clusters`) divides the maps of each class. What a cluster looks at
is the hot part of its mean map; that part is painted out of its images, and flips are counted against those without
random regions as large. Where it is known where objects are, every cluster is suspected whose hot part lies beside
them, and objects stay in the picture; that also finds what all images of a class have. Where it is not known, all
clusters but the largest are suspected: what they look at may be the object, and people must look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.audit.check import Check, Judged
from cnnviz.audit.suspects import Hidden, hidden, hot, share_on_object
from cnnviz.audit.verdict import Observation, Statement
from cnnviz.errors import counted, in_percent, of_all
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.metrics.map_clusters import DIVISIBLE, SIDE, Clusters, clusters, prepared
from cnnviz.render.cluster_sheet import ClusterRow, cluster_sheet

if TYPE_CHECKING:
    from cnnviz.io.store import Store
    from cnnviz.maps.second_look import SecondLook
    from cnnviz.schema.images import Figure

_FEWEST, _MOST = 24, 1000
_LOOKED_AT, _MEMBERS, _SHOWN = 20, 20, 6
_ON_OBJECT = 0.5


@dataclass(frozen=True, eq=False)
class Cluster:
    """Maps of one class that are alike.

    Attributes:
        number: From 1, the largest first.
        members: Its images.
        mean: Mean map [SIDE, SIDE].
        region: Its hot part.
        on_object: Mean share of that on the object; None where nothing says where it is.
        suspected: Whether the region was hidden.
        hidden: What became of predictions without it.
    """

    number: int
    members: Sequence[Judged]
    mean: NDArray[np.float64]
    region: NDArray[np.bool_]
    on_object: float | None
    suspected: bool
    hidden: Hidden | None = None

    @property
    def excess(self) -> NDArray[np.float64] | None:
        """[n] flips beyond the share of those at random; None where nothing was hidden."""
        if self.hidden is None or not len(self.hidden.flips):
            return None
        found: NDArray[np.float64] = self.hidden.flips - self.hidden.at_random.mean(1)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As the report has it."""
        rows, cols = np.flatnonzero(self.region.any(1)), np.flatnonzero(self.region.any(0))
        box = [cols[0] / SIDE, rows[0] / SIDE, (cols[-1] + 1) / SIDE, (rows[-1] + 1) / SIDE] if len(rows) else None
        flips = None
        if self.hidden is not None and self.excess is not None:
            flips = {
                "of": len(self.hidden.flips),
                "region": float(self.hidden.flips.mean()),
                "random": float(self.hidden.at_random.mean()),
                "p": self.hidden.p,
            }
        return {
            "number": self.number,
            "maps": len(self.members),
            "members": [each.path for each in self.members[:_MEMBERS]],
            "suspected": self.suspected,
            "region": None if box is None else [float(value) for value in box],
            "on_object": self.on_object,
            "flips": flips,
        }


@dataclass(frozen=True, eq=False)
class ClassClusters:
    """The clusters of the maps of a class by a method."""

    method: str
    label: str
    found: Clusters
    clusters: Sequence[Cluster]


@dataclass
class _Maps:
    """The maps of a class."""

    images: list[Judged] = field(default_factory=list)
    vectors: list[NDArray[np.float64]] = field(default_factory=list)


class Shortcuts(Check):
    """No cluster of maps shows a region on which predictions hang."""

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.classes: list[ClassClusters] = []

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        if not look.of_classes:
            return [self._undecided("the network has no class for the whole image that could flip")]
        maps = self._maps(judged)
        large = {label: own for label, own in maps.items() if len(own.images) >= _FEWEST}
        if not large:
            most = max((len(own.images) for own in maps.values()), default=0)
            return [self._undecided(f"{counted(most, 'map')} of a class at most; {_FEWEST} are needed")]
        if len(large) < len(maps):
            few = len(maps) - len(large)
            self.remarks.append(f"{of_all(few, len(maps), 'class', 'has', 'have')} fewer than {_FEWEST} maps")
        own = [self._divided(method, label, large[label], look) for label in sorted(large)]
        self.classes += own
        # Where nothing says what the object is, a class that is not divided has no cluster to suspect.
        known = [each for each in own if each.found.divisible or any(c.on_object is not None for c in each.clusters)]
        if not known:
            most = max(len(each.found.labels) for each in own)
            return [
                self._undecided(f"{counted(most, 'map')} of a class at most; without truth, {DIVISIBLE} can be divided")
            ]
        return [self._statement(known)]

    def _undecided(self, why: str) -> Statement:
        return Statement("flips_beyond_random", "mean", False, self.params.max_flips, (), why)

    def _maps(self, judged: Sequence[Judged]) -> dict[str, _Maps]:
        """By class, in the order of the images; of very many a part."""
        found: dict[str, _Maps] = {}
        for each in judged:
            for row in each.maps:
                own = found.setdefault(str(row["target"].get("label")), _Maps())
                raw = self.raw(row) if len(own.images) < _MOST else None
                vector = None if raw is None else prepared(raw.values)
                if vector is not None:
                    own.images.append(each)
                    own.vectors.append(vector)
        self.empty(judged, {each.path for own in found.values() for each in own.images}, "place to compare")
        return found

    def _divided(self, method: str, label: str, maps: _Maps, look: SecondLook) -> ClassClusters:
        found = clusters(maps.vectors, self.params.neighbours)
        points = np.stack(maps.vectors)
        return ClassClusters(
            method, label, found, [self._cluster(k, points, maps.images, found, look) for k in range(found.count)]
        )

    def _cluster(
        self, k: int, points: NDArray[np.float64], images: Sequence[Judged], found: Clusters, look: SecondLook
    ) -> Cluster:
        inside = found.labels == k
        members = [image for image, own in zip(images, inside, strict=True) if own]
        mean = points[inside].mean(0)
        region = hot(mean.reshape(SIDE, SIDE))
        on_object = self._on_object(region, members, look)
        if on_object is None and k > 0:
            # Where nothing says what the object is: what tells this cluster from the others.
            special = hot(np.maximum(mean - points[~inside].mean(0), 0).reshape(SIDE, SIDE))
            region = special if special.any() else region
        suspected = k > 0 if on_object is None else on_object < _ON_OBJECT
        what = {"region": region.tolist(), "regions": self.params.regions, "objects": self.policy.truth_labels}
        some = members[: self.params.images]
        seen = None
        if suspected:
            answer = look.answered(
                {"shortcuts": what},
                [each.record for each in some],
                lambda: _as_json(hidden(region, some, look, self.policy.truth_labels, self.params.regions)),
            )
            seen = _read(answer, self.params.regions)
        return Cluster(k + 1, members, mean.reshape(SIDE, SIDE), region, on_object, suspected, seen)

    def _on_object(self, region: NDArray[np.bool_], members: Sequence[Judged], look: SecondLook) -> float | None:
        some = members[:_LOOKED_AT]
        objects = self.policy.truth_labels

        def shares() -> list[float]:
            found = []
            for each in some:
                photo = look.photograph(each.record)
                share = None if photo is None else share_on_object(region, photo, each, look, objects)
                if share is not None:
                    found.append(share)
            return found

        what = {"on_object": region.tolist(), "objects": objects}
        known = look.answered(what, [each.record for each in some], shares)
        return float(np.mean(known)) if known else None

    def _statement(self, own: Sequence[ClassClusters]) -> Statement:
        observations: list[Observation] = []
        also: dict[str, float] = {}
        for each in own:
            for cluster in each.clusters:
                if cluster.hidden is None or cluster.excess is None:
                    continue
                group = f"{each.label}, cluster {cluster.number} of {each.found.count}"
                also[group] = cluster.hidden.p
                observations += [
                    Observation(cluster.members[place].path, float(value), group)
                    for place, value in zip(cluster.hidden.images, cluster.excess, strict=True)
                ]
        count = sum(len(each.found.labels) for each in own)
        settled = ""
        if not any(cluster.suspected for each in own for cluster in each.clusters):
            settled = f"no cluster of {count} maps of {len(own)} class{'es' * (len(own) > 1)} is suspected"
            paths = dict.fromkeys(m.path for each in own for cluster in each.clusters for m in cluster.members)
            observations = [Observation(path, 0.0) for path in paths]
        return Statement(
            "flips_beyond_random", "mean", False, self.params.max_flips, observations,
            low=-1.0, also=also, settled=settled,
        )  # fmt: skip

    # What people see -------------------------------------------------------------------------------------------------

    def findings(self) -> list[dict[str, Any]]:
        return [
            {
                "check": self.check.name,
                "method": each.method,
                "label": each.label,
                "maps": len(each.found.labels),
                "eigenvalues": [round(float(value), 6) for value in each.found.eigenvalues],
                "gap": each.found.gap,
                "clusters": [cluster.to_dict() for cluster in each.clusters],
                "file": self._name(number) if _is_odd(each) else None,
            }
            for number, each in enumerate(self.classes, 1)
        ]

    def _name(self, number: int) -> str:
        return f"shortcuts/{self.check.line}-{number}.png"

    def pictures(self, look: SecondLook, store: Store) -> list[Figure]:
        found: list[Figure] = []
        for number, each in enumerate(self.classes, 1):
            if not _is_odd(each):
                continue
            rows = [self._row(cluster, look) for cluster in each.clusters]
            number_of = f"{each.found.count} cluster{'s' * (each.found.count > 1)}"
            title = f"{each.label}: {len(each.found.labels)} maps of {each.method}, {number_of}"
            store.write(self._name(number), encode(cluster_sheet(title, rows), ImageFormat("png")))
            caption = f"{self.check.name}: clusters of the maps of {each.label} by {each.method}"
            found.append({"file": self._name(number), "caption": caption})
        return found

    def _row(self, cluster: Cluster, look: SecondLook) -> ClusterRow:
        pictures = []
        for each in cluster.members[:_SHOWN]:
            photo = look.photograph(each.record)
            if photo is not None:
                pictures.append((photo.rgb, look.shown(photo.rgb)[1].rect))
        alarm = cluster.excess is not None and float(cluster.excess.mean()) > self.params.max_flips
        return ClusterRow(cluster.mean, cluster.region, _said(cluster), pictures, alarm)


def _is_odd(each: ClassClusters) -> bool:
    return each.found.count > 1 or any(cluster.suspected for cluster in each.clusters)


def _said(cluster: Cluster) -> str:
    text = f"cluster {cluster.number}: {counted(len(cluster.members), 'map')}"
    if cluster.on_object is not None:
        text += f", {in_percent(cluster.on_object)} of what it looks at lies on the object"
    if cluster.hidden is not None and cluster.excess is not None:
        own, other = (in_percent(float(each.mean())) for each in (cluster.hidden.flips, cluster.hidden.at_random))
        text += f"; without the region {own} flip, without random ones {other}"
        text += f" (p = {cluster.hidden.p:.2g})"
    return text


def _as_json(found: Hidden) -> dict[str, Any]:
    return {"images": list(found.images), "flips": found.flips.tolist(), "random": found.at_random.tolist()}


def _read(answer: Any, regions: int) -> Hidden:
    flips = np.array(answer["flips"], dtype=bool)
    return Hidden(answer["images"], flips, np.array(answer["random"], dtype=bool).reshape(len(flips), regions))
