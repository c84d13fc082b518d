"""Class names: read from a file, counted against the network, found again by what a person types."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cnnviz.errors import CnnvizError, nearest

# Keys under which common tools keep the names: YOLO data.yaml, Hugging Face config.json, hand-written files.
_NESTED = ("names", "id2label", "labels", "classes", "categories", "class_to_idx", "label2id")
_HEADERS = {"name", "names", "label", "labels", "class", "classes", "category"}
_WNID = re.compile(r"n\d{8}\s+")
_LISTED = 8


def numbered(count: int) -> tuple[str, ...]:
    """The names of a network that came without any: ``class 0``, ``class 1``, …"""
    return tuple(f"class {index}" for index in range(count))


def read_labels(path: str | Path, num_classes: int | None = None) -> tuple[str, ...]:
    """Class names from a file, in the order of the network's outputs.

    Args:
        path: One name a line; JSON or YAML with a list, a mapping from index to name (or name to index), or
            torchvision's ``{"0": ["n01440764", "tench"]}``; CSV with ``index,name`` or one name a row.
        num_classes: How many outputs the network has, or None to take the file's word.

    Raises:
        CnnvizError: if the file cannot be read, or holds another number of names; both numbers are named.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CnnvizError(
            f"cannot read the labels file {path}: {error.strerror or error}",
            nearest(path.name, _neighbours(path)) or "give --labels FILE with one class name a line",
        ) from error
    except UnicodeDecodeError as error:
        raise CnnvizError(
            f"the labels file {path} is not UTF-8 text (byte {error.start})",
            "save it as UTF-8, one class name a line",
        ) from error
    labels = _named(_parse(text, path), path)
    if num_classes is not None and len(labels) == num_classes + 1 and labels[0].casefold() in _HEADERS:
        labels = labels[1:]
    if not labels:
        raise CnnvizError(f"the labels file {path} holds no names", "write one class name a line")
    if num_classes is not None and len(labels) != num_classes:
        raise CnnvizError(
            f"the labels file {path} names {len(labels)} classes, the network has {num_classes}",
            f"give a file with {num_classes} names, or leave --labels out for 'class 0', 'class 1', …",
        )
    return labels


def resolve_class(text: str, labels: Sequence[str]) -> int:
    """The index of a class that a person named.

    Tried in this order, each step only if the ones before found nothing: an index; the whole label; the label
    without regard to case, underscores and hyphens; one of its synonyms ("tench" of "tench, Tinca tinca");
    the beginning of exactly one label.

    Raises:
        CnnvizError: if nothing fits (near matches are named) or several do (their indices are named).
    """
    wanted = text.strip()
    if re.fullmatch(r"[+-]?\d+", wanted):
        index = int(wanted)
        if not 0 <= index < len(labels):
            raise CnnvizError(
                f"class {index} does not exist; the network has {len(labels)} classes",
                f"give an index from 0 to {len(labels) - 1}, or a label",
            )
        return index
    folded = _fold(wanted)
    if not folded:
        raise CnnvizError("the class is empty", "give --class an index or a label")
    steps: tuple[Callable[[str], bool], ...] = (
        lambda label: label == wanted,
        lambda label: _fold(label) == folded,
        lambda label: folded in _synonyms(label),
        lambda label: any(part.startswith(folded) for part in _synonyms(label)),
    )
    for fits in steps:
        found = [index for index, label in enumerate(labels) if fits(label)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{index} ({labels[index]})" for index in found[:_LISTED])
            more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            raise CnnvizError(
                f"{wanted!r} fits {len(found)} classes: {listed}{more}", f"give the index: --class {found[0]}"
            )
    known = {part for label in labels for part in (label, *label.split(", "))}
    raise CnnvizError(
        f"no class is called {wanted!r} among the network's {len(labels)}",
        nearest(wanted, sorted(known))
        or f"give a name such as {labels[0]!r}, an index from 0 to {len(labels) - 1}, or --labels FILE",
    )


def _fold(text: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", text.casefold()).split())


def _synonyms(label: str) -> list[str]:
    return [_fold(label), *(_fold(part) for part in label.split(",") if part.strip())]


def _neighbours(path: Path) -> list[str]:
    try:
        return [item.name for item in path.parent.iterdir()]
    except OSError:
        return []


def _parse(text: str, path: Path) -> Any:
    """The file's content as a list or mapping of names, whatever its form."""
    suffix = path.suffix.casefold()
    looks_structured = text.lstrip().startswith(("{", "["))
    if suffix == ".csv":
        return _from_csv(text)
    if suffix not in (".json", ".yaml", ".yml") and not looks_structured:
        lines = [line.strip() for line in text.splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        # The ImageNet tool kit's synset_words.txt: "n01440764 tench, Tinca tinca".
        return [_WNID.sub("", line, count=1) for line in lines] if all(map(_WNID.match, lines)) else lines
    try:
        return json.loads(text)
    except ValueError as error:
        if suffix == ".json":
            raise CnnvizError(
                f"the labels file {path} is no JSON: {error}", "check it with python -m json.tool"
            ) from error
    try:
        # The base loader keeps every scalar a string: a class called "no" stays one.
        return yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise CnnvizError(f"the labels file {path} is no YAML: {reason}", "write a list of names") from error


def _from_csv(text: str) -> list[str] | dict[str, str]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
    if not rows or min(map(len, rows)) < 2:
        return [row[0] for row in rows]
    for number, name in ((0, 1), (1, 0)):
        body = rows if rows[0][number].isdecimal() else rows[1:]
        if body and all(row[number].isdecimal() for row in body):
            return _unique([(row[number], row[name]) for row in body])
    return [row[0] for row in rows]


def _unique(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for index, name in pairs:
        if index in found:
            raise CnnvizError(
                f"the labels file names class {index} twice: {found[index]!r} and {name!r}",
                "keep one of them",
            )
        found[index] = name
    return found


def _named(content: Any, path: Path) -> tuple[str, ...]:
    """The names in order; gaps of a mapping are numbered."""
    if isinstance(content, Mapping):
        nested = next((key for key in _NESTED if isinstance(content.get(key), (list, Mapping))), None)
        return _named(content[nested], path) if nested else _from_mapping(content, path)
    if isinstance(content, list):
        return tuple(_name(item, index, path) for index, item in enumerate(content))
    raise CnnvizError(
        f"the labels file {path} holds {type(content).__name__}, not a list of names or a mapping",
        'write a list ["cat", "dog"] or a mapping {"0": "cat", "1": "dog"}',
    )


def _from_mapping(content: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    pairs = list(content.items())
    if not all(_is_index(key) for key, _ in pairs):
        pairs = [(value, key) for key, value in pairs]  # name to index, as ImageFolder.class_to_idx
    if not all(_is_index(key) for key, _ in pairs):
        odd = next(key for key in content if not _is_index(key))
        raise CnnvizError(
            f"the labels file {path} maps {odd!r}, which is no class index, to no index either",
            'write a mapping {"0": "cat", "1": "dog"}',
        )
    by_index = {int(key): value for key, value in pairs}
    if len(by_index) != len(pairs):
        raise CnnvizError(f"the labels file {path} names a class index twice", "give every index one name")
    size = max(by_index, default=-1) + 1
    if size > 10 * len(by_index) + 100:
        raise CnnvizError(
            f"the labels file {path} names {len(by_index)} classes but counts up to {size - 1}",
            "the keys must be the indices of the network's outputs",
        )
    return tuple(_name(by_index.get(index), index, path) for index in range(size))


def _is_index(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool) and value >= 0) or (
        isinstance(value, str) and value.isdecimal()
    )


def _name(item: Any, index: int, path: Path) -> str:
    """One name: a string, torchvision's [wnid, name], or an object with a name."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("name", "label", "display_name") if key in item), item)
    if isinstance(item, list) and item:
        item = item[-1]
    if item is None or item == "":
        return f"class {index}"
    if isinstance(item, (str, int, float)):
        return str(item)
    raise CnnvizError(
        f"the labels file {path} gives class {index} the name {item!r}, which is no text",
        'write a list ["cat", "dog"] or a mapping {"0": "cat", "1": "dog"}',
    )
