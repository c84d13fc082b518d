"""What is said of a file of class names: names that it lacks, and another number of them than a network has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnviz.errors import CnnvizError, counted

if TYPE_CHECKING:
    from cnnviz.io.label_files import ClassNames

_MOST_RUNS = 5


def told_of_unnamed(indices: Sequence[int]) -> tuple[str, ...]:
    """What people should know of classes that a file gives no name; nothing where there are none.

    >>> told_of_unnamed([3, 5, 6, 7])
    ('it has no name for 4 classes, which are told by number: 3, 5 to 7',)
    """
    if not indices:
        return ()
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    told = [", ".join(map(str, run)) if len(run) < 3 else f"{run[0]} to {run[-1]}" for run in runs[:_MOST_RUNS]]
    more = ", ..." * (len(runs) > _MOST_RUNS)
    which = "which is told" if len(indices) == 1 else "which are told"
    return (f"it has no name for {counted(len(indices), 'class')}, {which} by number: {', '.join(told)}{more}",)


def of_another_number(path: Path, found: ClassNames, num_classes: int) -> CnnvizError:
    """What is said of a file that is not of a network of so many classes."""
    count, out = len(found.names), "leave --labels out for 'class 0', 'class 1', …"
    named = counted(count - len(found.unnamed), "class")
    if not found.unnamed:
        message = f"the labels file {path} names {named}, the network has {num_classes}"
        return CnnvizError(message, f"give a file with {counted(num_classes, 'name')}, or {out}")
    last = num_classes - 1
    message = f"the labels file {path} names {named} with indices up to {count - 1}, those of the network end at {last}"
    if count > num_classes:
        return CnnvizError(message, f"give a file with indices from 0 to {last}, or {out}")
    return CnnvizError(
        message,
        f"if its indices are those of this network, give {last} a name in it too: what lies between is told by number; "
        f"otherwise {out}",
    )
