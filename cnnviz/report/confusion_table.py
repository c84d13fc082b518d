"""The confusion table of ``index.html``: what images show, in rows, and what the network takes them for, in columns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cnnviz.report.markup import anchor, text

if TYPE_CHECKING:
    from cnnviz.schema.confusion import Confusion, ConfusionCell

ROWS, COLUMNS = 25, 40
"""A page shows no more classes than these."""


def confusion_table(confusion: Confusion, only: str | None = None, place: int = 0) -> str:
    """The table, of the classes that occur.

    Where there are more than fit, those of the most errors stand there, and the page says so. A cell links to the cards
    of its images, where they have some.

    Args:
        confusion: As the report has it.
        only: ``--only``: cards of the other outcome do not exist; of ``wrong`` only classes with errors have rows.
        place: Number of the run on the page.
    """
    cells = confusion["cells"]
    names = {each[side]["class_index"]: each[side]["label"] for each in cells for side in ("truth", "predicted")}
    wrong = {c["truth"]["class_index"] for c in cells if c["truth"]["class_index"] != c["predicted"]["class_index"]}
    told = [each for each in cells if only != "wrong" or each["truth"]["class_index"] in wrong]
    rows, more_rows = _most(told, "truth", ROWS)
    in_rows = [each for each in cells if each["truth"]["class_index"] in rows]
    columns, more_columns = _most(in_rows, "predicted", COLUMNS)
    by_pair = {(each["truth"]["class_index"], each["predicted"]["class_index"]): each for each in cells}
    head = "".join(f'<th scope="col"><span>{text(names[column])}</span></th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{text(names[row])}</th>'
        + "".join(_cell(by_pair.get((row, column)), only, place) for column in columns)
        + "</tr>\n"
        for row in rows
    )
    said = (
        f"{confusion['wrong']} of {confusion['images']} images are taken for another class. "
        "Rows: what an image shows; columns: what the network takes it for."
    )
    if only == "wrong" and len(wrong) < len({each["truth"]["class_index"] for each in cells}):
        said += " Classes without errors are left out."
    for shown, more, what in ((rows, more_rows, "true"), (columns, more_columns, "predicted")):
        if more:
            of = f"{len(shown)} of {len(shown) + more} {what} classes"
            said += f" Shown are those {of} that have most errors; report.json has all."
    return (
        '<article class="wide">\n<div class="text">\n<h2>Truth and prediction</h2>\n'
        f'<p class="facts">{text(said)}</p>\n<div class="scroll"><table class="confusion">\n'
        f"<thead><tr><th>truth \\ predicted</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
        "</div>\n</article>\n"
    )


def _most(cells: list[ConfusionCell], side: str, most: int) -> tuple[list[int], int]:
    """The classes of a side of the table by index, those with most errors where there are too many; how many more."""
    wrong, every = Counter[int](), Counter[int]()
    for each in cells:
        index = each[side]["class_index"]  # type: ignore[literal-required]
        every[index] += each["images"]
        wrong[index] += each["images"] * (each["truth"]["class_index"] != each["predicted"]["class_index"])
    order = sorted(every, key=lambda index: (-wrong[index], -every[index], index))
    return sorted(order[:most]), max(0, len(order) - most)


def _cell(cell: ConfusionCell | None, only: str | None, place: int) -> str:
    """A count; of one image a link to it, of several a list that opens.

    The scripts of the page make of it a button that shows the images of the cell, by the labels that it carries.
    """
    if cell is None:
        return "<td></td>"
    right = cell["truth"]["class_index"] == cell["predicted"]["class_index"]
    kind, count = "right" if right else "off", cell["images"]
    pair = f'data-truth="{text(cell["truth"]["label"])}" data-predicted="{text(cell["predicted"]["label"])}"'
    if only == ("wrong" if right else "correct"):
        return f'<td class="{kind}">{count}</td>'
    links = [f'<a href="#{anchor(name, place)}">{text(name)}</a>' for name in cell["names"]]
    if count == 1:
        return f'<td class="{kind}" {pair}><a href="#{anchor(cell["names"][0], place)}">1</a></td>'
    if count > len(links):
        links.append(f"{count - len(links)} more")
    return f'<td class="{kind}" {pair}><details><summary>{count}</summary>{"<br>".join(links)}</details></td>'
