"""Checks of where maps lie: inside the object, outside of a region, on which predicted classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnnviz.audit.check import Check, Judged, all_flat, all_negative, mean, rate
from cnnviz.audit.verdict import Statement
from cnnviz.errors import nearest
from cnnviz.metrics.seen_region import BACKGROUND, TRUTH
from cnnviz.report.record_words import is_flat

if TYPE_CHECKING:
    from cnnviz.maps.second_look import SecondLook


# What maps without a place of their own do not have, by statement.
_LACKS = {"energy": "share to measure", "pointing": "peak to find"}


def energies(judged: Judged, regions: Sequence[str], region: str) -> list[float]:
    """The shares of an image's maps in a region, where they are known; of a flat map, which tells no place from
    another, the region's share of the picture is none, and of a region that the network saw nothing of no map has any.
    Where it saw nothing of the object, the background is all that it saw: no map can lie elsewhere.
    """
    asked = (region, TRUTH) if region == BACKGROUND else (region,)
    found = []
    for each in judged.maps:
        if is_flat(each) or any(seen_of(each, regions, one) == 0 for one in asked):
            continue
        scores = each["scores"].get("region_energy")
        value = None if scores is None else scores["energies"][regions.index(region)]
        if value is not None:
            found.append(float(value))
    return found


def seen_of(explanation: Mapping[str, Any], regions: Sequence[str], region: str) -> float | None:
    """The share of a region that the network saw, of the image of a map; None where there is no such region."""
    shares = (explanation["scores"].get("region_energy") or {}).get("seen")
    found: float | None = None if shares is None or region not in regions else shares[regions.index(region)]
    return found


class _OfRegions(Check):
    """A check of shares of the map; which regions there are is known to the audit."""

    regions: Sequence[str] = ()

    @property
    def region(self) -> str:
        """Which region it asks for."""
        return str(getattr(self.params, "region", TRUTH))

    def _seen(self, judged: Sequence[Judged], region: str) -> dict[str, float]:
        """By image the share of the region that the network saw: of the regions of several maps the mean."""
        found = {}
        for each in judged:
            shares = [seen_of(row, self.regions, region) for row in each.maps]
            known = [share for share in shares if share is not None]
            if known:
                found[each.path] = sum(known) / len(known)
        return found

    def _said(self, made: list[Statement], judged: Sequence[Judged]) -> list[Statement]:
        """The statements, with what is said of images of which nothing can be measured."""
        with_maps = [each for each in judged if each.maps]
        shares = self._seen(with_maps, self.region)
        hidden = self.hidden(shares, self.region)
        if self.region == BACKGROUND:
            # That the crop shows but a part of an object is no news here: what is left of it can be looked at.
            objects = {path: float(share > 0) for path, share in self._seen(with_maps, TRUTH).items()}
            hidden = "; ".join(filter(None, (hidden, self.hidden(objects, TRUTH))))
            shares = {path: share * objects.get(path, 1.0) for path, share in shares.items()}
        found = []
        for each in made:
            seen = {observation.image for observation in each.observations}
            known = seen | {path for path, share in shares.items() if not share}
            reasons = [hidden, self.empty(with_maps, known, _LACKS[each.name])]
            if self.region in (TRUTH, BACKGROUND):
                others = [one for one in with_maps if one.path in known or not (all_flat(one) or all_negative(one))]
                reasons.append(self.unmarked(others, known) if others else "")
            text = "; ".join(filter(None, reasons))
            found.append(each if each.observations else replace(each, why_not=each.why_not or text))
        return found


class Inside(_OfRegions):
    """The map lies on the object."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        found = []
        if self.params.min_energy is not None:
            shares = [each.seen(v) for each in judged for v in energies(each, self.regions, TRUTH)]
            found.append(mean("energy", self.params.min_energy, shares, at_least=True))
        if self.params.min_pointing is not None:
            hits = [
                each.seen(row["scores"]["region_energy"]["peak_inside"])
                for each in judged
                for row in each.maps
                if (row["scores"].get("region_energy") or {}).get("peak_inside") is not None
                and seen_of(row, self.regions, TRUTH) != 0
            ]
            found.append(rate("pointing", self.params.min_pointing, hits, at_least=True))
        if not found:
            why = "it allows anything: give min_energy or min_pointing"
            found.append(Statement("energy", "mean", True, 0.0, (), why))
        return self._said(found, judged)


class Avoid(_OfRegions):
    """The map does not lie on a region."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        shares = [each.seen(value) for each in judged for value in energies(each, self.regions, self.region)]
        return self._said([mean("energy", self.params.max_energy, shares, at_least=False)], judged)


class Evidence(Check):
    """The evidence for a class does not lie on what the network takes for another."""

    def statements(self, method: str, judged: Sequence[Judged], look: SecondLook) -> list[Statement]:
        of, on = self.params.of, self.params.on
        if not look.at_positions:
            why = "the network says no class at its positions: evidence is of segmentation networks, avoid of all"
            return [Statement("evidence", "mean", False, self.params.max_share, (), why)]
        for name in (on, *([] if of is None else [of])):
            if name not in look.labels:
                why = f"the network has no class {name!r}. {nearest(name, look.labels)}".strip()
                return [Statement("evidence", "mean", False, self.params.max_share, (), why)]
        asked = [
            replace(each, maps=[row for row in each.maps if "evidence" in row and of in (None, row["target"]["label"])])
            for each in judged
        ]
        # Of a map without positive values nothing is listed: it has no evidence, on this class or another.
        told = [(each, row) for each in asked for row in each.maps if not is_flat(row)]
        rows = [(each, row["evidence"]) for each, row in told if row["evidence"]]
        seen = [each.seen(_share(evidence, self.params.on)) for each, evidence in rows]
        text = self.empty([each for each in asked if each.maps], {each.image for each in seen}, "evidence to share out")
        made = mean("evidence", self.params.max_share, seen, at_least=False)
        return [made if seen else replace(made, why_not=text)]


def _share(rows: Sequence[Mapping[str, Any]], label: str) -> float:
    """The share of a map on a class, by its name; 0 where it is not among those listed."""
    return next((float(row["share"]) for row in rows if row["label"] == label), 0.0)
