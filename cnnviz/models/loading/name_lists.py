"""Names in the order of the outputs, read from a list, a mapping from index to name or one from name to index."""

from __future__ import annotations

import ast
import contextlib
import json
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnviz.errors import counted, shown
from cnnviz.io.label_tables import is_index

Names = tuple[str, ...]

# What transformers writes where nobody said what the classes are.
_PLACEHOLDER = "LABEL_"


@dataclass(frozen=True)
class NameList:
    """What was read.

    Attributes:
        names: In the order of the outputs; empty where there is a fault.
        fault: Why it is no whole list of names, as a sentence that goes on behind the place; empty where it is one.
    """

    names: Names = ()
    fault: str = ""


def from_text(value: Any) -> Any:
    """What a text of JSON, or of Python as Ultralytics writes it, says; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[", "(")):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in a text
            return read(value)
    return value


def name_list(value: Any, by: str = "") -> NameList | None:
    """The names in the order of the outputs, or why they have none; None of what has nothing to do with names.

    Args:
        value: A sequence or a mapping, as JSON, YAML and pickles give them. Indices may be numbers of any library that
            Python takes as an index, and texts of digits; not truth values.
        by: What the keys of a mapping should be, ``index`` or ``name``; empty where nothing says it.
    """
    if isinstance(value, Mapping):
        return _from_mapping(value, by)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        return None
    if not any(isinstance(name, (str, bytes)) for name in value):
        return _no_text(value) if any(isinstance(name, (Mapping, list, tuple)) for name in value) else None
    return _checked(value)


def _checked(names: Sequence[Any]) -> NameList:
    if not all(isinstance(name, str) for name in names):
        return _no_text(names)
    if len(names) > 1 and len(set(names)) == 1:
        return NameList(fault=f"has {shown(names[0])} for each class")
    if all(name == f"{_PLACEHOLDER}{index}" for index, name in enumerate(names)):
        return NameList(fault=f"has placeholders ({_PLACEHOLDER}0, …) in the place of names")
    return NameList(tuple(names))


def _no_text(names: Sequence[Any]) -> NameList:
    index, odd = next((index, name) for index, name in enumerate(names) if not isinstance(name, str))
    return NameList(fault=f"has {shown(odd)} for class {index}, which is no text")


def _from_mapping(value: Mapping[Any, Any], by: str) -> NameList | None:
    said = _ordered(value, by) if by else None
    read = [found for found in ([said] if said else [_ordered(value, way) for way in ("index", "name")]) if found]
    if not read:
        texts = any(isinstance(text, (str, bytes)) for pair in value.items() for text in pair)
        return NameList(fault="maps no index to each name") if texts else None
    whole = {found.names: found for found in read if not found.fault}
    if len(whole) > 1:
        return NameList(fault="maps numbers to numbers, and either may be the index")
    return next(iter(whole.values()), read[0])


def _ordered(value: Mapping[Any, Any], by: str) -> NameList | None:
    """None where what should be indices are none."""
    pairs = value.items() if by == "index" else [(index, name) for name, index in value.items()]
    indices = [_index(index) for index, _ in pairs]
    if not indices or None in indices:
        return None
    by_index = {index: name for index, (_, name) in zip(indices, pairs, strict=True)}
    if len(by_index) < len(indices):
        return NameList(fault="gives two names one index")
    if set(by_index) != set(range(len(by_index))):
        return NameList(fault=f"does not count its {counted(len(by_index), 'name')} from 0 without gaps")
    return _checked([by_index[index] for index in range(len(by_index))])


def _index(value: Any) -> int | None:
    """A number that may be the index of a class; numbers of other libraries are taken, truth values are not."""
    if isinstance(value, str):
        return int(value) if is_index(value) else None
    if isinstance(value, bool):
        return None
    with contextlib.suppress(Exception):  # any object may stand there
        return operator.index(value)
    return None
