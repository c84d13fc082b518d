"""What a share of the inputs writes when it has ended, by which shares are joined: ``shard.json``."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.io.shards import Shard, parse_shard
from cnnviz.io.sources import ImageRef, SourceOptions, find_images
from cnnviz.io.store import Store
from cnnviz.settings import (
    AUTO_PRECISION,
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RunSettings,
    RuntimeSettings,
    TargetSettings,
)

FILE = "shard.json"
SCHEMA = "cnnviz.shard/1"
STATE = "state.npz"
"""What a study gathered of its share, where its records do not have it."""
_PARTS: dict[str, type[Any]] = {
    "model": ModelSpec, "target": TargetSettings, "runtime": RuntimeSettings, "draw": DrawSettings,
    "output": OutputSettings,
}  # fmt: skip


class Listing:
    """The names of all inputs, whoever explains them: how many, and a digest of them in their order."""

    def __init__(self) -> None:
        self.files = 0
        self._digest = hashlib.sha256()

    def add(self, ref: ImageRef) -> None:
        """One more."""
        self.files += 1
        self._digest.update(ref.name.encode("utf-8", "surrogatepass") + b"\0")

    def to_dict(self) -> dict[str, Any]:
        """As ``shard.json`` has it."""
        return {"files": self.files, "sha256": self._digest.hexdigest()}


class Share:
    """The share of a run.

    Args:
        shard: Which it is.
        settings: Of the run.
    """

    def __init__(self, shard: Shard, settings: RunSettings) -> None:
        self.shard, self._settings, self._listing = shard, settings, Listing()

    def has(self, ref: ImageRef) -> bool:
        """Whether an input is in it; every input is asked for once."""
        self._listing.add(ref)
        return self.shard.has(ref.name)

    def to_dict(self) -> dict[str, Any]:
        """``shard.json``: which share, what all inputs were, and what was asked for."""
        named = {"index": self.shard.index, "count": self.shard.count}
        return {"schema": SCHEMA, **named, "inputs": self._listing.to_dict(), "settings": asdict(self._settings)}


def share_of(settings: RunSettings) -> Share | None:
    """The share that a run is to explain; None for all inputs.

    Raises:
        CnnvizError: Its precision would be chosen for this share alone.
    """
    if settings.shard is None:
        return None
    if settings.runtime.precision == AUTO_PRECISION:
        raise CnnvizError(
            f"--precision auto and --shard {settings.shard} exclude each other: every share would choose for itself, "
            "and the maps of one run be in two precisions.",
            "Name one for all shares: --precision bf16, or --precision fp32.",
        )
    return Share(parse_shard(settings.shard), settings)


def listing_of(settings: RunSettings, left_out: Any) -> Listing:
    """All inputs of a run as they are now."""
    found = Listing()
    for ref in find_images(settings.inputs, SourceOptions(null=settings.null, left_out=left_out)):
        found.add(ref)
    return found


def packed(value: Any) -> NDArray[np.uint8]:
    """Names and counts among the arrays of a study's state."""
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def unpacked(array: NDArray[np.uint8]) -> Any:
    """What :func:`packed` was given."""
    return json.loads(array.tobytes())


def states_in(store: Store, names: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """The arrays in these files."""
    found = []
    for name in names:
        with np.load(io.BytesIO(store.read(name) or b"")) as stored:
            found.append({key: stored[key] for key in stored.files})
    return found


def settings_from(data: Mapping[str, Any]) -> RunSettings:
    """The settings that :meth:`Share.to_dict` wrote.

    Raises:
        KeyError, TypeError: They are of another version.
    """
    parts = {name: kind(**_tuples(data[name])) for name, kind in _PARTS.items()}
    plain = {each.name: data[each.name] for each in fields(RunSettings) if each.name not in _PARTS}
    return RunSettings(**_tuples(plain), **parts)


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where settings have tuples."""
    return {
        name: _tuples(value) if isinstance(value, Mapping) else tuple(value) if isinstance(value, list) else value
        for name, value in data.items()
    }
