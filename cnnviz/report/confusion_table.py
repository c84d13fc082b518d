"""The confusion table of ``index.html``: what images show, in rows, and what the network takes them for, in columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnviz.errors import of_all
from cnnviz.report.markup import anchor, text

if TYPE_CHECKING:
    from cnnviz.schema.confusion import Confusion, ConfusionCell

_Key = tuple[int, str]
ROWS, COLUMNS = 25, 40
"""A page shows no more classes than these."""


def confusion_table(confusion: Confusion, only: str | None = None, place: int = 0) -> str:
    """The table, of the classes that the network gets wrong.

    Where there are more than fit, those of the most errors stand there, and the page says so. A cell links to the cards
    of its images, where they have some.

    Args:
        confusion: As the report has it.
        only: ``--only``: cards of the other outcome do not exist.
        place: Number of the run on the page.
    """
    cells = confusion["cells"]
    every = {_key(each["truth"]) for each in cells}
    wrong = {_key(each["truth"]) for each in cells if not _right(each)}
    told = [each for each in cells if _key(each["truth"]) in wrong]
    rows, more_rows = _most(told, "truth", ROWS)
    in_rows = [each for each in told if _key(each["truth"]) in rows]
    columns, more_columns = _most(in_rows, "predicted", COLUMNS)
    said = (
        f"{of_all(confusion['wrong'], confusion['images'], 'image')} taken for another class. "
        "Rows: what an image shows; columns: what the network takes it for."
    )
    if not wrong:
        many = confusion["images"] > 1
        said = (
            f"All {confusion['images']} images are taken for what they show."
            if many
            else "It is taken for what it shows."
        )
    elif left := len(every) - len(wrong):
        said += f" {left} {'class' if left == 1 else 'classes'} without errors {'is' if left == 1 else 'are'} left out."
    for shown, more, what in ((rows, more_rows, "true"), (columns, more_columns, "predicted")):
        if more:
            of = f"{len(shown)} of {len(shown) + more} {what} classes"
            said += f" Shown are those {of} that have most errors; report.json has all."
    table = _table(in_rows, rows, columns, (only, place)) if wrong else ""
    return (
        '<article class="wide">\n<div class="text">\n<h2>Truth and prediction</h2>\n'
        f'<p class="facts">{text(said)}</p>\n{table}</div>\n</article>\n'
    )


def _table(cells: list[ConfusionCell], rows: list[_Key], columns: list[_Key], how: tuple[str | None, int]) -> str:
    names = {_key(each[side]): each[side]["label"] for each in cells for side in ("truth", "predicted")}
    by_pair = {(_key(each["truth"]), _key(each["predicted"])): each for each in cells}
    head = "".join(f'<th scope="col"><span>{text(names[column])}</span></th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{text(names[row])}</th>'
        + "".join(_cell(by_pair.get((row, column)), *how) for column in columns)
        + "</tr>\n"
        for row in rows
    )
    return (
        '<div class="scroll"><table class="confusion">\n'
        f"<thead><tr><th>truth \\ predicted</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _key(shown: Mapping[str, Any]) -> _Key:
    """What a class is known again by: its index, or the label that is marked."""
    index = shown["class_index"]
    return (-1, str(shown["label"])) if index is None else (int(index), "")


def _right(cell: ConfusionCell) -> bool:
    # Reports of earlier versions have no marks, and do not say.
    return bool(cell.get("correct", cell["truth"]["class_index"] == cell["predicted"]["class_index"]))


def _most(cells: list[ConfusionCell], side: str, most: int) -> tuple[list[_Key], int]:
    """The classes of a side of the table, those with most errors where there are too many; how many more."""
    wrong, every = Counter[_Key](), Counter[_Key]()
    for each in cells:
        key = _key(each[side])  # type: ignore[literal-required]
        every[key] += each["images"]
        wrong[key] += each["images"] * (not _right(each))
    order = sorted(every, key=lambda key: (-wrong[key], -every[key], key))
    return sorted(order[:most]), max(0, len(order) - most)


def _cell(cell: ConfusionCell | None, only: str | None, place: int) -> str:
    """A count; of one image a link to it, of several a list that opens.

    The scripts of the page make of it a button that shows the images of the cell, by the labels that it carries.
    """
    if cell is None:
        return "<td></td>"
    right = _right(cell)
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
