"""How the options of two runs differ, in the words in which they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cnnviz.run.command_line import typed

MOST = 4
"""Differences that are written out."""
_COMMAND, _METHOD = "command", "method"


def differences(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str], told: tuple[str, str]) -> str:
    """``--class pred then, --class top:3 now; no --size then, --size 448 now``; empty where nothing differs.

    Args:
        one: Options by their long names, and the ``command``.
        other: The same of the other run; what it lacks is no difference.
        but: Options that do not count.
        told: What is said of each run, such as ``("then", "now")``.
    """
    found = list(_pairs(one, other, but))
    written = "; ".join(f"{a} {told[0]}, {b} {told[1]}" for a, b in found[:MOST])
    return written + (f"; and {len(found) - MOST} more" if len(found) > MOST else "")


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str]) -> Iterator[tuple[str, str]]:
    command = one.get(_COMMAND), other.get(_COMMAND)
    if command[0] != command[1]:
        # Options of another command, and the method that follows from it, would only repeat it.
        yield f"cnnviz {command[0]}", f"cnnviz {command[1]}"
        return
    for name, now in other.items():
        if name not in but and one.get(name) != now:
            yield _in_words(name, one.get(name)), _in_words(name, now)


def _in_words(name: str, value: Any) -> str:
    name = "variant" if name == _METHOD else name
    if value is None or value == []:
        return f"no --{name.rstrip('_').replace('_', '-')}"
    return shlex.join(typed(name, value))
