"""The paper's two tables: errors of classification and of localization, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnviz.metrics.intervals import bootstrap_mean

BASELINE = "centre_box"
PARTS = ("val", "test")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What came of each test picture, of one network and one way to make maps of it. All bool [N].

    Attributes:
        head: Of the network.
        method: ``cam``, ``saliency``, or a baseline, which knows nothing of the network.
        level: Of 256, the share of the maximum that was chosen on other pictures.
        right: The first prediction is the class.
        at_paper: The box at 20 % of the map's maximum fits (intersection over union of at least 0.5).
        at_chosen: So does the one at ``level``.
        pointed: The map is largest within the true box.
    """

    head: str
    method: str
    level: int
    right: NDArray[np.bool_]
    at_paper: NDArray[np.bool_]
    at_chosen: NDArray[np.bool_]
    pointed: NDArray[np.bool_]

    @classmethod
    def read(cls, report: dict[str, Any], head: str, method: str) -> Outcomes:
        """From the report of ``cnnviz localize val test -c truth``."""
        rows = {
            part: [_row(each, method) for each in report["images"] if f"/{part}/" in each["path"]] for part in PARTS
        }
        fits = {part: np.array([row.fits for row in rows[part]]) for part in PARTS}
        level = int(fits["val"].mean(axis=0).argmax())
        test = rows["test"]
        return cls(
            head,
            method,
            level,
            np.array([row.right for row in test]),
            np.array([row.iou >= 0.5 for row in test]),
            fits["test"][:, level],
            np.array([row.pointed for row in test]),
        )


class _Row(NamedTuple):
    """A picture: the first prediction, the box at 20 % of the maximum, at which k of 256 a box fits, the peak."""

    right: bool
    iou: float
    fits: NDArray[np.bool_]
    pointed: bool


def _row(record: dict[str, Any], method: str) -> _Row:
    kinds = [each for each in record["explanations"] if method in (each["method"], BASELINE)]
    scores = kinds[0]["scores"]
    own = {name: scores[name] for name in ("box_localization", "max_box_acc", "pointing_game")}
    if method == BASELINE:
        own = {name: found["baselines"][BASELINE] for name, found in own.items()}
    fits = np.zeros(256, dtype=bool)
    for first, last in own["max_box_acc"]["hits"]:
        fits[first : last + 1] = True
    right = record["predictions"][0]["label"] in record["truth"]["labels"]
    return _Row(right, own["box_localization"]["iou"], fits, bool(own["pointing_game"]["hit"]))


def figures(outcomes: Sequence[Outcomes]) -> dict[str, Any]:
    """Both tables, and who is better by how much."""
    groups = defaultdict[tuple[str, str], list[Outcomes]](list)
    for each in outcomes:
        groups[each.head, each.method].append(each)
    classified = {head: _share([~each.right for each in groups[head, "saliency"]]) for head, _ in groups}
    located = {f"{head} {method}": _localization(group) for (head, method), group in groups.items()}
    gap, gmp, centre = groups["gap", "cam"], groups["gmp", "cam"], groups["gap", BASELINE]
    pairs = {"gap_over_gmp": (gap, gmp), "gap_over_centre": (gap, centre), "gmp_over_centre": (gmp, centre)}
    gains = {
        f"{name}_{at}": _share([getattr(a, at) * 1.0 - getattr(b, at) for a, b in zip(*pair, strict=True)])
        for name, pair in pairs.items()
        for at in ("at_paper", "at_chosen")
    }
    return {"classification_error": classified, "localization": located, "gains": gains}


def _localization(group: Sequence[Outcomes]) -> dict[str, Any]:
    return {
        "top1_error": _share([~(each.right & each.at_paper) for each in group]),
        "top1_error_chosen": _share([~(each.right & each.at_chosen) for each in group]),
        "gt_known_error": _share([~each.at_paper for each in group]),
        "gt_known_error_chosen": _share([~each.at_chosen for each in group]),
        "pointing_error": _share([~each.pointed for each in group]),
        "thresholds": [round(each.level / 256, 3) for each in group],
    }


def _share(values: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """Mean over seeds and pictures, an interval over pictures, and the means of single seeds."""
    by_picture = np.mean(np.array(values, dtype=float), axis=0)
    interval = bootstrap_mean(by_picture)
    return {
        "value": round(float(by_picture.mean()), 4),
        "ci95": None if interval is None else [round(end, 4) for end in interval],
        "seeds": [round(float(np.mean(each)), 4) for each in values],
    }


def printed(found: dict[str, Any]) -> str:
    """The tables in Markdown, and in words what they say."""
    on = found["on"]
    where = ", ".join(f"{name} {value}" for name, value in on.items())
    return "\n".join([f"{found['experiment']} ({where}; {found['seconds']:.0f} s)", "", *_lines(found)])


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield "| head | classification error |"
    yield "| --- | --- |"
    for head, share in found["classification_error"].items():
        yield f"| {_NAMES[head]} | {_cell(share)} |"
    keys = ("top1_error", "gt_known_error", "top1_error_chosen", "gt_known_error_chosen", "pointing_error")
    yield ""
    yield f"| {' | '.join(('head, map', *(_COLUMNS[key] for key in keys)))} |"
    yield f"| {' | '.join(['---'] * (len(keys) + 1))} |"
    for name, row in found["localization"].items():
        head, method = name.split()
        if method != BASELINE or head == "gap":
            words = _MAPS[method] if method == BASELINE else f"{_NAMES[head]}, {_MAPS[method]}"
            yield f"| {' | '.join((words, *(_cell(row[key]) for key in keys)))} |"
    yield ""
    yield from _verdicts(found)


_PAIRS = {
    "gap_over_gmp": "GAP over GMP",
    "gap_over_centre": "GAP over the centre",
    "gmp_over_centre": "GMP over the centre",
}
_NAMES = {"gap": "GAP", "gmp": "GMP", "fc": "FC"}
_MAPS = {"cam": "CAM", "saliency": "backpropagation", BASELINE: "a box in the centre"}
_COLUMNS = {
    "top1_error": "top-1 error at 20 %",
    "gt_known_error": "class given, at 20 %",
    "top1_error_chosen": "top-1 error, chosen threshold",
    "gt_known_error_chosen": "class given, chosen threshold",
    "pointing_error": "largest outside the box",
}


def _cell(share: dict[str, Any]) -> str:
    """``16.2 % (12.1 to 20.3; seeds 15 to 17)``."""
    ends, seeds = share["ci95"], share["seeds"]
    span = "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
    more = f"; seeds {100 * min(seeds):.1f} to {100 * max(seeds):.1f}" if len(seeds) > 1 else ""
    return f"{100 * share['value']:.1f} % ({span}{more})"


def _verdicts(found: dict[str, Any]) -> Iterator[str]:
    for name, gain in found["gains"].items():
        pair, _, at = name.rpartition("_at_")
        where = "at 20 %" if at == "paper" else "at the chosen threshold"
        ends = gain["ci95"] or [0.0, 0.0]
        said = "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "no difference can be told"
        points = f"{100 * gain['value']:+.1f} points ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"
        yield f"{_PAIRS[pair]}, boxes that fit {where}: {points}: {said}."
    for head, rates in found.get("nine", {}).items():
        each = ", ".join(f"{100 * rate['value']:.1f} %" for rate in rates)
        count = rates[0]["n"]
        yield f"{_NAMES[head]}, the map of the 9 is largest on the 9 among ten digits: {each} ({count} canvases)."
