"""JSON and YAML of unknown origin: read without unfolding what was made to fill the memory."""

from __future__ import annotations

import json
import re
from typing import Any

_MOST_VALUES = 2_000_000
_DEEPEST = 64
_MOST_OPEN = 1_000


def load_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: It is not JSON, or its brackets nest without end; the message says what and where.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None


def load_yaml(text: str, *, plain: bool = False) -> Any:
    """What a YAML text holds.

    A mapping of 431 bytes whose aliases name each other unfolds to gigabytes as soon as anything looks at all of it:
    the values are counted on the unresolved nodes first.

    Args:
        text: The document.
        plain: Keep every scalar a string, so that a class called ``no`` stays one.

    Raises:
        ValueError: It is not YAML, nests too deep or unfolds to too much; the message says what and where.
    """
    import yaml

    if _open_brackets(text) > _MOST_OPEN:  # the scanner would take seconds to find out
        raise ValueError("brackets within brackets without end")
    loader: Any = None
    try:
        loader = (yaml.BaseLoader if plain else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}, 0) > _MOST_VALUES:
            raise ValueError(f"its aliases (&, *) unfold to more than {_MOST_VALUES} values")
        _refuse_twice(node, set())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", getattr(error, "reason", None))
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{problem or type(error).__name__}{where}") from None
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # Explicit tags on what they do not fit, such as !!timestamp x: the constructors do not check.
        raise ValueError(f"a value that does not fit its tag ({type(error).__name__})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_twice(node: Any, seen: set[int]) -> None:
    """Of a key that stands twice YAML keeps the last without a word, and with it what the first held is lost."""
    if id(node) in seen or not isinstance(node.value, list):
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        if not isinstance(item, tuple):
            _refuse_twice(item, seen)
            continue
        key, value = item
        _refuse_twice(value, seen)
        if not isinstance(key.value, str) or key.value == "<<":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(f"key {key.value!r} twice, in lines {lines[key.value]} and {line}")
        lines[key.value] = line


def _open_brackets(text: str) -> int:
    """The most brackets open at once, if none of them is part of a quoted text."""
    most = now = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        now = now + 1 if bracket in "[{" else max(0, now - 1)
        most = max(most, now)
    return most


def _count(node: Any, known: dict[int, int], depth: int) -> int:
    """Values that a node unfolds to; each node is looked at once."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels of nesting, or an alias that names itself")
    if id(node) in known:
        return known[id(node)]
    children = node.value if isinstance(node.value, list) else ()
    flat = (child for item in children for child in (item if isinstance(item, tuple) else (item,)))
    known[id(node)] = total = 1 + sum(_count(child, known, depth + 1) for child in flat)
    return total
