"""The figures of several methods as a table of ``index.html``: rows methods, columns figures, baselines apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cnnviz.report.markup import text

TABLES = {"localize": "localization", "evaluate": "metrics"}
"""By command the key of the summary that has its figures."""
ARROWS = {"higher": " ↑", "lower": " ↓"}
BEYOND_CHANCE = {
    "localize": "by more than chance explains (95 % intervals that are apart)",
    "evaluate": "by more than chance explains (paired t tests, image by image: p < 0.05)",
}
"""By command when a method counts as better than others, the end of a sentence."""


def figures_table(summary: Mapping[str, Any]) -> str:
    """The table of a comparison's summary; empty where there is none.

    Bold is what is better than every other method by more than chance explains. Intervals stand below their values.
    Columns without a value are left out.
    """
    rows = summary.get(TABLES.get(str(summary.get("study")), ""))
    if not isinstance(rows, Mapping):
        return ""
    columns = [
        name
        for name in dict.fromkeys(name for row in rows.values() for name in row)
        if any(value_of(row, name) is not None for row in rows.values())
    ]
    if not columns:
        return ""
    methods = [name for name in rows if name in summary.get("methods", ())]
    others = [name for name in rows if name not in methods]
    better = {name: _better(name, rows) for name in columns}
    best = {name: {method for method in methods if beats_all(rows, name, method, methods)} for name in columns}
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
    said = [_bold(str(summary["study"]), bold=any(best.values()))] if len(methods) > 1 else []
    if any(each.get("ci95") is not None for own in figures.values() for each in own):
        said.append("95 % intervals below.")
    if told := counts(rows, {name: heading(called[name], "") for name in columns}):
        said.append(text(f"{told}."))
    if summary.get("study") == "localize":
        said.append("Every figure is a share, 0 to 1.")
    if beside:
        said.append("Grey: what knows nothing of the model, and maps that are blurred.")
    return (
        '<article class="wide">\n<div class="text">\n<h2>Methods</h2>\n'
        f'<p class="facts">{" ".join(said)}</p>\n'
        f'<div class="scroll"><table>\n<thead><tr><th>method</th>{heads}</tr></thead>\n'
        f"<tbody>\n{own}</tbody>\n{apart}</table></div>\n</div>\n</article>\n"
    )


def counts(rows: Mapping[str, Mapping[str, Any]], called: Mapping[str, str]) -> str:
    """``n = 78: top-1 error, top-5 error; n = 272: PxAP``: of how many images or maps the figures are.

    Args:
        rows: By method, by figure, a mapping with ``n``.
        called: What the columns are called, by figure. Of methods that differ the most counts.
    """
    by_count: dict[int, list[str]] = {}
    for name, said in called.items():
        found = [int(row[name].get("n") or 0) for row in rows.values() if isinstance(row.get(name), Mapping)]
        if count := max(found, default=0):
            by_count.setdefault(count, []).append(said)
    if len(by_count) == 1:
        return f"n = {next(iter(by_count))}"
    return "; ".join(f"n = {count}: {', '.join(names)}" for count, names in by_count.items())


# What papers write otherwise than the key with spaces.
_WRITTEN = {
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "top1_classification_error": "top-1 classification error",
    "top5_classification_error": "top-5 classification error",
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
    return f"{written}{', ' * bool(unit)}{unit}{ARROWS.get(better, '')}"


def better_by_name(name: str) -> str:
    """Which values of a figure of localization are better."""
    return "lower" if name.endswith("_error") else "higher"


def column_name(metric: str, figure: str) -> str:
    """What a column is called: by its figure, where that is an error or accuracy of a metric that has several."""
    return figure if figure.endswith(("_error", "_accuracy")) else metric


def value_of(row: Mapping[str, Any], name: str) -> float | None:
    """The value of a figure of a row; None where it has none."""
    figure = row.get(name)
    value = figure.get("value") if isinstance(figure, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _better(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Which values are better: as the figure says, else by its name."""
    for row in rows.values():
        if isinstance(row.get(name), Mapping) and "better" in row[name]:
            return str(row[name]["better"])
    return better_by_name(name)


def _bold(command: str, *, bold: bool) -> str:
    """What bold means, or that nothing is."""
    said = "Bold: better" if bold else "None is bold: no method is better"
    return f"{said} than every other method {BEYOND_CHANCE[command]}."


def beats_all(rows: Mapping[str, Mapping[str, Any]], name: str, row: str, methods: Sequence[str]) -> bool:
    """Whether a method's figure is better than that of every other method by more than chance explains.

    Args:
        rows: The table, by row, by column.
        name: The column.
        row: The method; of others, which stand beside methods, none does.
        methods: Which rows are methods.
    """
    others = {each for each in methods if each != row and value_of(rows[each], name) is not None}
    if row not in methods or not others or value_of(rows[row], name) is None:
        return False
    return others <= set(rows[row][name].get("better_than", ()))


def _row(method: str, row: Mapping[str, Any], columns: Sequence[str], best: Mapping[str, Collection[str]]) -> str:
    cells = []
    for name in columns:
        value = value_of(row, name)
        if value is None:
            cells.append("<td></td>")
            continue
        number, ends = f"{value:.3g}", row[name].get("ci95")
        shown = f"<strong>{number}</strong>" if method in best.get(name, ()) else number
        span = "" if ends is None else f"<small>{ends[0]:.3g} to {ends[1]:.3g}</small>"
        cells.append(f"<td>{shown}{span}</td>")
    return f'<tr><th scope="row">{text(method)}</th>{"".join(cells)}</tr>\n'
