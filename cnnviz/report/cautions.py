"""What the figures of a run and of a map warn of, in words: the same on the console, above the cards of the run's page
and in its pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnviz.errors import in_percent, of_all, out_of

Figures = Mapping[str, Any]

SANE = "near 0 is good; near 1 would say that maps do not depend on what was learned"
"""How to read correlations with maps of random weights."""

ALIKE = 0.8
"""Correlation with the map of another seed from which on a map is not worth mentioning."""
TOLERATED = 0.01
"""Share of the score up to which a gap is not worth mentioning."""
FITS = 0.0
"""Share of the variance below which a constant would explain the scores better."""


def repeatability(figures: Figures) -> list[str]:
    """That maps would come out otherwise with another seed, or that this is not known; nothing where all are alike."""
    below, unknown, maps, enough = (figures[key] for key in ("below_enough", "unknown", "maps", "enough"))
    found = []
    if below:
        least = "" if maps == 1 else "the least "
        found.append(
            f"{out_of(below, maps, 'map')} would correlate by less than {enough} with the map of another seed "
            f"({least}by {figures['least']:.2f}){_more(figures.get('draws'))}"
        )
    if unknown:
        tell = f"too few samples to tell how alike that of another seed would be{_some(figures.get('draws'))}"
        found.append(f"{out_of(unknown, maps, 'map')}: {tell}")
    return found


def _more(draws: Figures | None) -> str:
    """How many draws would do for all maps."""
    if draws is None:
        return ""
    option, needed = draws["option"], draws["needed"]
    if needed is None:
        return f"; far more --{option} than {draws['count']} would do"
    return f"; about {needed} --{option} would do, in the place of {draws['count']}"


def _some(draws: Figures | None) -> str:
    return "" if draws is None else f"; more --{draws['option']} than {draws['count']} would tell"


def left_out(figures: Figures) -> list[str]:
    """That the values of maps add up to less than the score; nothing where they do."""
    above, maps, tolerance = figures["above_tolerance"], figures["maps"], figures["tolerance"]
    if not above:
        return []
    most = in_percent(figures["largest"])
    if most == in_percent(tolerance):  # "more than 1 % (the largest share: 1.0 %)" would contradict itself
        most = f"{100 * figures['largest']:.2f} %"
    return [
        f"{of_all(above, maps, 'map', 'leaves', 'leave')} out more than {100 * tolerance:g} % of the score "
        f"(the largest share: {most})"
    ]


def fit(figures: Figures) -> list[str]:
    """That a linear model says less of the score than a constant would; nothing where none does."""
    below, maps = figures["below_enough"], figures["maps"]
    if not below:
        return []
    return [
        f"{of_all(below, maps, 'map', 'explains', 'explain')} the score of images with hidden parts worse than a "
        f"constant would (fit {figures['least']:.2f} at the least)"
    ]


def beside(figures: Figures) -> list[str]:
    """Of a comparison, which methods are no better than what knows nothing of the network, and that few images settle
    nothing.

    Args:
        figures: ``beside_baselines`` of its summary.
    """
    images, enough, rows = figures["images"], figures["enough"], figures["no_better"]
    found = []
    if 0 < images < enough:
        found.append(
            f"of {'one image' if images == 1 else f'{images} images'} nothing is certain: "
            f"fewer than {enough} do not tell a difference between methods from chance"
        )
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        if worse := _by_baseline(own, lambda row: row["certain"]):
            found.append(f"{method} is worse than {worse}: maps that know nothing of the model")
        if perhaps := _by_baseline(own, lambda row: [name for name in row["than"] if name not in row["certain"]]):
            these = "this image" if images == 1 else "these images"
            found.append(f"{method} is no better on {these} than {perhaps}; that may be chance")
    return found


def _by_baseline(rows: Sequence[Figures], names: Callable[[Figures], Sequence[str]]) -> str:
    """What stands beside a method, each with the figures by which that is so."""
    figures: dict[str, list[str]] = {}
    for row in rows:
        for name in names(row):
            figures.setdefault(name, []).append(row["figure"])
    return ", ".join(f"{name} ({', '.join(own)})" for name, own in figures.items())


def of_map(scores: Figures) -> list[str]:
    """What the figures of a single map warn of, by the same bounds, as its picture says it.

    Args:
        scores: Of the map, as its record has them.
    """
    found, alike = [], scores.get("reliability", ALIKE)
    if alike is None or math.isnan(alike):  # as records have it, and before it is one
        found.append("too few samples to tell how alike the map of another seed would be")
    elif alike < ALIKE:
        found.append(f"would correlate by {alike:.2f} with the map of another seed")
    if (share := scores.get("gap_share")) is not None and share > TOLERATED:
        found.append(f"leaves out {in_percent(share)} of the score")
    if (fits := scores.get("fit")) is not None and fits < FITS:
        found.append(f"explains the score worse than a constant would (fit {fits:.2f})")
    return found


_TITLES: Mapping[str, tuple[str, Callable[[Figures], list[str]]]] = {
    "repeatability": ("another seed", repeatability),
    "left_out": ("score left out", left_out),
    "fit": ("linear model", fit),
    "beside_baselines": ("certainty", beside),
}
OF_FIGURES = frozenset(("repeatability", "left_out", "fit"))
"""Keys of a summary whose warnings ``remarks`` have too, where there are any."""


def told(key: str, value: Any) -> list[tuple[str, str]]:
    """Pairs of name and value for the page, of a key of the summary; nothing of keys that warn of nothing.

    ``remarks`` say what figures warn of, and more; reports of earlier versions have figures alone.

    Args:
        key: Of the summary.
        value: What it has there: figures, or figures by method.
    """
    if key == "remarks" and isinstance(value, Sequence):
        return [("note", str(each)) for each in value]
    if key == "sanity" and isinstance(value, Sequence):
        return _sanity(value)
    if key not in _TITLES or not isinstance(value, Mapping):
        return []
    title, words = _TITLES[key]
    if "maps" in value or key == "beside_baselines":
        return [(title, each) for each in words(value)]
    return [(title, f"{method}: {each}") for method, own in value.items() for each in words(own)]


def _sanity(steps: Sequence[Figures]) -> list[tuple[str, str]]:
    """How alike maps are to those of the network with random weights: of its last layer, and of all of them."""
    known = [each for each in steps if each["spearman"]["value"] is not None]
    if not known:
        return []
    ends = [known[0]] if len(known) == 1 else [known[0], known[-1]]
    said = [f"{each['spearman']['value']:.2f} where all down to {each['down_to']} are random" for each in ends]
    return [("rank correlation with maps of random weights", f"{', '.join(said)} ({SANE})")]
