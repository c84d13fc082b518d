"""Properties that hold for any input: names of output files, the log of records cut anywhere, options of methods."""

from __future__ import annotations

import json
import math
import os
import tempfile
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnviz.errors import CnnvizError
from cnnviz.io.line_log import LineLog
from cnnviz.io.names import Names, safe_name
from cnnviz.registry.lookup import BUILT_IN, STUDIES

BOUNDED = settings(derandomize=True, max_examples=120, deadline=None)

# What ends a component, climbs, or meets another name when case is folded or Unicode normalised.
COMPONENTS = st.sampled_from(["..", ".", "", "~2", "a", "A", "a~2", "CON", "é", "e\u0301", "ß", "SS", "\0", "C:"])
PATHS = st.lists(COMPONENTS | st.text(max_size=12), max_size=5).map("/".join) | st.text(max_size=300)


@BOUNDED
@given(st.lists(PATHS, max_size=12))
@example(["a.jpg", "a.jpg", "a~2.jpg", "A.jpg"])
@example(["/etc/passwd", "../../etc/passwd", "etc/passwd"])
@example(["x" * 400, "x" * 401, "é" * 200])
@example(["\ud800.jpg", "\udfff.jpg"])
def test_names_of_any_paths_are_unique_and_stay_in_the_folder(paths: list[str]) -> None:
    names = Names()
    given_out = [names.unique(safe_name(path)) for path in paths]
    folded = {unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in given_out}
    assert len(folded) == len(paths)
    for name in given_out:
        parts = name.split("/")
        assert not PurePosixPath(name).is_absolute()
        assert all(part.strip(".") for part in parts), "an empty component, or one that climbs"
        assert all(len(part.encode()) <= 255 - 100 for part in parts)  # strict: no lone surrogates either
        assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in name)
        if os.name == "nt":
            assert not PureWindowsPath(name).drive


# A record holds anything that JSON does; none of its lines holds a newline.
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3), min_size=1, max_size=6)


@BOUNDED
@given(RECORDS, st.floats(0, 1))
def test_a_log_cut_at_any_byte_goes_on_with_whole_lines(records: list[dict[str, str]], share: float) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    whole = [line.encode("utf-8", "backslashreplace") + b"\n" for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        with opened(path) as log:
            starts = [log.append(line) for line in lines]
            assert [log.read(start) for start in starts] == [line[:-1].decode() for line in whole]
        content = path.read_bytes()
        assert content == b"".join(whole)
        cut = round(share * len(content))
        path.write_bytes(content[:cut])
        # Counted from the lengths, not from newlines: how many lines lie before the cut as a whole.
        kept = sum(sum(map(len, whole[: n + 1])) <= cut for n in range(len(whole)))
        with opened(path) as log:
            assert log.end == sum(map(len, whole[:kept]))
            log.append('{"next": 1}')
        assert path.read_bytes() == b"".join(whole[:kept]) + b'{"next": 1}\n'


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000])
def test_half_a_line_longer_than_a_block_is_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"first": 1}\n' + b"x" * length)
    with opened(path) as log:
        log.append('{"next": 1}')
    assert path.read_bytes() == b'{"first": 1}\n{"next": 1}\n'


def opened(path: Path) -> LineLog:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    return LineLog(os.open(path, flags, 0o666), path.name, str(path.parent), path=str(path))


OPTIONS = [(spec.name, param) for spec in (*BUILT_IN, *STUDIES) for param in spec.params]
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)
WORDS = st.sampled_from(sorted({c for _, param in OPTIONS for c in param.choices})) | st.text(max_size=8)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2)


def check_option(param: Any, value: Any) -> None:
    """A value that fits the option, or a sentence that names the option."""
    try:
        found = param.check(value)
    except CnnvizError as refusal:
        sentence = str(refusal)
    else:
        check_accepted(param, value, found)
        return
    assert param.name in sentence


def check_accepted(param: Any, value: Any, found: Any) -> None:
    if found is None:
        assert value is None
        assert param.default is None
        return
    kinds = {"bool": bool, "int": int, "float": float, "size": tuple, "texts": tuple}
    assert type(found) is kinds.get(param.type, str)
    if param.type == "choice":
        assert found in param.choices
    numbers = found if param.type == "size" else (found,) if param.type in {"int", "float"} else ()
    assert len(numbers) == (2 if param.type == "size" else len(numbers))
    for number in numbers:
        assert math.isfinite(number)
        assert param.minimum is None or number >= param.minimum
        assert param.maximum is None or number <= param.maximum
    assert param.check(found) == found, "a checked value is not one that passes the check"


@pytest.mark.parametrize("kind", sorted({param.type for _, param in OPTIONS}))
def test_any_value_of_any_option_is_checked_or_refused(kind: str) -> None:
    of_kind = st.sampled_from([param for _, param in OPTIONS if param.type == kind])
    settings(BOUNDED, max_examples=300)(given(of_kind, VALUES)(check_option))()


# JSON, as Python reads it, has numbers that are none, and whole numbers of any length.
ODD = [math.nan, math.inf, -math.inf, 10**400, -(10**400), "nan", "inf", "1e400", [math.nan], [1, math.inf], [10**400]]


def odd_cases() -> list[Any]:
    cases = []
    for kind in sorted({param.type for _, param in OPTIONS}):
        for value in ODD:
            cases.append(pytest.param(kind, value, id=f"{kind}-{value!r:.9}-{type(value).__name__}"))
    return cases


@pytest.mark.parametrize(("kind", "value"), odd_cases())
def test_numbers_that_are_none_are_refused(kind: str, value: Any) -> None:
    for _, param in OPTIONS:
        if param.type == kind:
            check_option(param, value)
