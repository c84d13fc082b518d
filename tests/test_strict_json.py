"""JSON of records: what is written says what ``json`` reads of it, and survives any reader."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from cnnviz.strict_json import from_json, to_json

RECORD = {
    "path": "a/b.jpg",
    "width": 3,
    "label": None,
    "explanations": [{"scores": {"max": 1.508149489382049e-05, "peak": [1, 2], "flat": True}, "files": {}}],
}
VALUES = [
    RECORD,
    {"path": "schöne Grüße \U0001f600 \u2028 \x7f \x00 \n.jpg", "€": "ключ"},
    {"path": "broken \udc80 name.jpg"},
    {1: "a", None: "b", False: "c"},
    {"seed": 2**70, "low": -(2**63), "most": 2**64 - 1},
    [0.1, 1e-7, 1e22, -0.0, 5e-324, 1.7976931348623157e308, 123456789012345680.0],
    (1, (2, 3)),
    OrderedDict(b=1, a=2),
    {"text": 'quotes " and \\ and </script>'},
    [],
    "",
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_written_reads_as_what_json_writes(value: Any, indent: int | None) -> None:
    text = to_json(value, indent=indent)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert text.isascii()
    assert ("\n" in text) == (indent is not None and isinstance(value, (dict, list, tuple)) and len(value) > 0)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_is_read_is_what_json_reads(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1)):
        want = json.loads(text)
        if isinstance(want, dict) and "seed" in want:
            want["seed"] = float(want["seed"])  # beyond 64 bits
        assert from_json(text) == from_json(text.encode()) == want


def test_every_float_comes_back_as_it_was() -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64)
    values = [each for each in bits.view(np.float64).tolist() if math.isfinite(each)]
    assert np.array_equal(np.array(json.loads(to_json(values))).view(np.uint64), np.array(values).view(np.uint64))
    assert from_json(json.dumps(values)) == values


@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_not_finite_is_null(indent: int | None) -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5], "c": (-math.inf, {"d": np.float64("nan"), "e": np.float64(0.25)})}
    text = to_json({**value, "odd": "\udc80"}, indent=indent)
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": [None, {"d": None, "e": 0.25}], "odd": "\udc80"}
    assert json.loads(to_json(value, indent=indent)) == {key: json.loads(text)[key] for key in value}


def test_mappings_of_other_kinds_are_objects() -> None:
    value = {"facts": MappingProxyType({"a": (1, 2)})}
    assert json.loads(to_json(value)) == json.loads(to_json(value, indent=2)) == {"facts": {"a": [1, 2]}}


@pytest.mark.parametrize("value", [np.float32(1), np.arange(2), {1, 2}, object(), b"x"], ids=range(5))
def test_what_has_no_json_is_refused(value: object) -> None:
    for indent in (None, 2):
        with pytest.raises(TypeError):
            to_json({"a": value}, indent=indent)


def test_data_classes_are_refused() -> None:
    @dataclass
    class Point:
        x: int

    with pytest.raises(TypeError):
        to_json([Point(1)])


@pytest.mark.parametrize("text", ["", "{", '{"a": 1,}', "nul", '{"a": 1} x', "\ufeff{}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whoever asks says what it is that cannot be read
        from_json(text)


def test_old_lines_with_nan_and_broken_names_are_read() -> None:
    found = from_json(b'{"a": NaN, "b": -Infinity, "path": "\\udc80"}')
    assert math.isnan(found["a"])
    assert (found["b"], found["path"]) == (-math.inf, "\udc80")
