"""JSON as records and reports have it: strict, ASCII alone, and fast enough for thousands of maps an image."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

_OURS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON, on one line without ``indent``: no NaN (it is null), non-ASCII escaped, so that any file name
    survives any reader.

    Raises:
        TypeError: Something in it has no JSON.
    """
    if indent is None:
        try:
            line = orjson.dumps(value, _plain, _OURS).decode()
        except TypeError:  # half of a surrogate pair, an integer beyond 64 bits, keys that are no texts
            pass
        else:
            return line if line.isascii() else _BEYOND_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], line)
    separators = (",", ":") if indent is None else None
    dumps = partial(json.dumps, ensure_ascii=True, allow_nan=False, indent=indent, separators=separators)
    try:
        return dumps(value)
    except (TypeError, ValueError):
        # Going through everything in Python takes ten times as long: few values need it.
        return dumps(finite(value))


def from_json(text: bytes | str) -> Any:
    """What a JSON text holds, as :func:`json.loads` reads it but for integers beyond 64 bits, which are floats.

    Raises:
        ValueError: It is not JSON.
        RecursionError: Its brackets nest without end.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        # It refuses more: NaN, half of a surrogate pair, numbers beyond a double.
        return json.loads(text)


def finite(value: Any) -> Any:
    """``value`` with every NaN or infinity replaced by null, tuples by lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, float):  # NumPy's float64 is one
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
