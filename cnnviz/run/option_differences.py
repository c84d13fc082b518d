"""How the options of two runs differ, in the words in which they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cnnviz.registry import lookup
from cnnviz.run.command_line import typed

MOST = 4
"""Differences that are written out."""
_COMMAND, _METHOD, _SAVE = "command", "method", "save"


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
            yield _in_words(command[0], name, one.get(name)), _in_words(command[0], name, now)


def _in_words(command: Any, name: str, value: Any) -> str:
    own = [param for spec in lookup.commands().get(command, ()) for param in spec.params if param.name == name]
    # Of commands that compare methods, ``--method``; of all others what was chosen of several.
    name = "variant" if name == _METHOD and not own else name
    # ``--save none`` is typed, and is not what a run without ``--save`` has.
    absent = value is None or (value == [] and name != _SAVE)
    # Only what is on unless it is turned off has a ``--no-`` form.
    if absent or (value is False and not any(param.default for param in own)):
        return f"no --{name.rstrip('_').replace('_', '-')}"
    return shlex.join(typed(name, value))
