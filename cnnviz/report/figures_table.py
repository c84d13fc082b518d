"""The figures of several methods as a table of ``index.html``: rows methods, columns figures, baselines apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnviz.report.markup import text

TABLES = {"localize": "localization", "evaluate": "metrics"}
"""By command the key of the summary that has its figures."""
_ARROWS = {"higher": " ↑", "lower": " ↓"}


def figures_table(summary: Mapping[str, Any]) -> str:
    """The table of a comparison's summary, the best method of each column in bold; empty where there is none.

    Intervals stand below their values. Columns without a value are left out.
    """
    rows = summary.get(TABLES.get(str(summary.get("study")), ""))
    if not isinstance(rows, Mapping):
        return ""
    columns = [
        name
        for name in dict.fromkeys(name for row in rows.values() for name in row)
        if any(_value(row, name) is not None for row in rows.values())
    ]
    if not columns:
        return ""
    methods = [name for name in rows if name in summary.get("methods", ())]
    others = [name for name in rows if name not in methods]
    better = {name: _better(name, rows) for name in columns}
    best = {name: _best(name, better[name], [rows[method] for method in methods]) for name in columns}
    figures = {name: [row[name] for row in rows.values() if isinstance(row.get(name), Mapping)] for name in columns}
    units = {name: next((str(each["unit"]) for each in own if "unit" in each), "") for name, own in figures.items()}
    named = {
        name: next((str(each["figure"]) for each in own if "figure" in each), name) for name, own in figures.items()
    }
    called = {name: column_name(name, figure) for name, figure in named.items()}
    heads = "".join(
        f'<th scope="col">{text(heading(called[name], better[name], units[name]))}</th>' for name in columns
    )
    own = "".join(_row(method, rows[method], columns, best) for method in methods)
    beside = "".join(_row(name, rows[name], columns, {}) for name in others)
    apart = f'<tbody class="beside">\n{beside}</tbody>\n' if beside else ""
    said = "Best of the methods in bold, 95 % intervals below."
    said += " Every figure is a share, 0 to 1." if summary.get("study") == "localize" else ""
    said += " Grey: what knows nothing of the model, and maps that are blurred." if beside else ""
    return (
        '<article class="wide">\n<div class="text">\n<h2>Methods</h2>\n'
        f'<p class="facts">{said}</p>\n<div class="scroll"><table>\n<thead><tr><th>method</th>{heads}</tr></thead>\n'
        f"<tbody>\n{own}</tbody>\n{apart}</table></div>\n</div>\n</article>\n"
    )


# What papers write otherwise than the key with spaces.
_WRITTEN = {
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "gt_known_accuracy": "GT-known accuracy",
    "max_box_acc": "MaxBoxAcc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "pxap": "PxAP",
    "road": "ROAD",
    "sensitivity_n": "sensitivity-n",
    "max_sensitivity": "max-sensitivity",
}


def heading(name: str, better: str, unit: str = "") -> str:
    """What stands above a column, on the page as in a terminal: the figure's name, its unit, what is better."""
    written = _WRITTEN.get(name, name.replace("_", " "))
    return f"{written}{', ' * bool(unit)}{unit}{_ARROWS.get(better, '')}"


def better_by_name(name: str) -> str:
    """Which values of a figure of localization are better."""
    return "lower" if name.endswith("_error") else "higher"


def column_name(metric: str, figure: str) -> str:
    """What a column is called: by its figure, where that is an error or accuracy of a metric that has several."""
    return figure if figure.endswith(("_error", "_accuracy")) else metric


def _value(row: Mapping[str, Any], name: str) -> float | None:
    figure = row.get(name)
    value = figure.get("value") if isinstance(figure, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _better(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which values are better: as the figure says, else by its name."""
    for row in rows.values():
        if isinstance(row.get(name), Mapping) and "better" in row[name]:
            return str(row[name]["better"])
    return better_by_name(name)


def _best(name: str, better: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The best value of several methods; None where none is better than another."""
    values = [value for row in rows if (value := _value(row, name)) is not None]
    if len(values) < 2 or better not in _ARROWS or min(values) == max(values):
        return None
    return max(values) if better == "higher" else min(values)


def _row(method: str, row: Mapping[str, Any], columns: Sequence[str], best: Mapping[str, float | None]) -> str:
    cells = []
    for name in columns:
        value = _value(row, name)
        if value is None:
            cells.append("<td></td>")
            continue
        number, ends = f"{value:.3g}", row[name].get("ci95")
        shown = f"<strong>{number}</strong>" if value == best.get(name) else number
        span = "" if ends is None else f"<small>{ends[0]:.3g} to {ends[1]:.3g}</small>"
        cells.append(f"<td>{shown}{span}</td>")
    return f'<tr><th scope="row">{text(method)}</th>{"".join(cells)}</tr>\n'
