"""The accepted baseline of an audit: a folder with a JSON file and the maps."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store

FACTS, MAPS = "baseline.json", "maps.npz"
SCHEMA = "cnnviz.baseline/1"


@dataclass(frozen=True)
class BaselineFiles:
    """The contents of both files."""

    facts: bytes
    maps: bytes


@dataclass(frozen=True, eq=False)
class Baseline:
    """A baseline that was read: what was said of it, images by name, maps by name, method and class."""

    facts: Mapping[str, Any]
    images: Mapping[str, Mapping[str, Any]]
    maps: Mapping[str, NDArray[Any]]


def read_baseline(folder: str) -> Baseline | None:
    """The baseline in a folder; None where there is none.

    Raises:
        CnnvizError: It cannot be read.
    """
    path = os.path.join(folder, FACTS)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            facts = json.load(stream)
        if facts.get("schema") != SCHEMA:
            raise ValueError(f"schema {facts.get('schema')!r}")
        images = facts.get("images", {})
        if not all("predicted" in each for each in images.values()):
            raise ValueError("an image without its prediction")
        with open(os.path.join(folder, MAPS), "rb") as data, np.load(data) as stored:
            maps = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, BadZipFile) as error:
        raise CnnvizError(f"baseline {folder}: cannot be read ({error}).", "Accept it anew with --accept.") from error
    return Baseline(facts, images, maps)


def write_baseline(folder: str, files: BaselineFiles) -> None:
    """Write a baseline, in the place of one that is there.

    Raises:
        CnnvizError: It cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise CnnvizError(
            f"baseline {folder}: cannot be made ({error.strerror or error}).", "Name another folder."
        ) from error
    store = Store(folder)
    store.write(MAPS, files.maps)
    store.write(FACTS, files.facts)
