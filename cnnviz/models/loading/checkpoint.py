"""Weights from a file that nobody vouches for.

A checkpoint is a pickle, and a pickle is a program. Files are read with ``weights_only=True``, which builds
tensors and plain containers and runs nothing else; a file that wants more is refused with the name of what it
wanted. Then the tensors are found inside whatever the training script wrapped around them;
:mod:`cnnviz.models.loading.checkpoint_fit` puts them into a network.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnviz.errors import CnnvizError, first_line
from cnnviz.io.checkpoint_files import check_file, damaged, is_safetensors
from cnnviz.models.loading.carried_names import Candidate, names_in

# Averaged weights first: they are what training scripts evaluate and report.
_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema", "teacher")
_PLAIN = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "student")
_LISTED = 10


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds.

    Args:
        path: The file.
        tensors: Names and values as the file has them; empty if it holds a whole module.
        module: A whole pickled module (only from a trusted file).
        notes: What was unpacked on the way.
        metadata: What a safetensors file says beside its tensors.
        names: What may be class names in it.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    names: tuple[Candidate, ...] = ()


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint without running code from it.

    Args:
        path: ``.pth``, ``.pt``, ``.bin`` (zip or the older format) or ``.safetensors``; told by content.
        trust: Unpickle everything, code included. Only for files of known origin.

    Raises:
        CnnvizError: if the file cannot be read, needs code, or holds no weights.
    """
    path = Path(path)
    check_file(path)
    metadata: Mapping[str, str] = {}
    if is_safetensors(path):
        content, metadata = _load_safetensors(path)
    else:
        content = _load_pickle(path, trust)
    found, trail = _find(content)
    names = names_in(metadata or content, _names_of(found))
    if isinstance(found, nn.Module):
        return Checkpoint(path, {}, found, (f"{path.name} holds a whole {type(found).__name__} module",), names=names)
    if found is None:
        keys = ", ".join(map(str, list(content)[:_LISTED])) if isinstance(content, Mapping) else ""
        held = f"{type(content).__name__} with the keys {keys}" if keys else type(content).__name__
        raise CnnvizError(
            f"the checkpoint {path} holds {held}, but no weights",
            "save them with torch.save(model.state_dict(), FILE)",
        )
    notes = []
    if trail:
        kind = " (the averaged weights)" if trail[0] in _EMA else ""
        notes.append(f"weights taken from {'.'.join(trail)!r} of {path.name}{kind}")
    return Checkpoint(path, found, notes=tuple(notes), metadata=metadata, names=names)


def _find(content: Any, depth: int = 0) -> tuple[Mapping[str, torch.Tensor] | nn.Module | None, tuple[str, ...]]:
    """The weights inside what was saved, and the keys on the way to them."""
    if isinstance(content, nn.Module):
        return content, ()
    if not isinstance(content, Mapping) or depth > 3:
        return None, ()
    for key in (*_EMA, *_PLAIN):
        inner, trail = _find(content.get(key), depth + 1)
        if inner is not None:
            return inner, (key, *trail)
    tensors = OrderedDict((key, value) for key, value in content.items() if isinstance(value, torch.Tensor))
    if not tensors or not all(isinstance(key, str) and not value.is_nested for key, value in tensors.items()):
        return None, ()
    if hasattr(content, "_metadata"):
        tensors._metadata = content._metadata  # type: ignore[attr-defined]
    return tensors, ()


def _names_of(found: Mapping[str, torch.Tensor] | nn.Module | None) -> tuple[str, ...]:
    return tuple((found.state_dict() if isinstance(found, nn.Module) else found) or ())


def _load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except SafetensorError as error:
        raise damaged(path, str(error)) from error


def _load_pickle(path: Path, trust: bool) -> Any:
    try:
        with _plain_extras(), warnings.catch_warnings():
            # torch warns of newer pickle protocols before it refuses them; the refusal is all that is needed.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise damaged(path, str(error)) from error
        if not trust:
            raise CnnvizError(
                f"the checkpoint {path} is a pickle that needs code: it wants {_wanted(str(error))}",
                "save a plain state dict, or, if you trust its origin, run its code with --trust-checkpoint",
            ) from error
    except Exception as error:  # a damaged pickle raises anything: EOFError, KeyError, RuntimeError, …
        raise damaged(path, f"{type(error).__name__} {_first_line(error)}".strip()) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # code from the file runs here
        raise CnnvizError(
            f"the checkpoint {path} cannot be unpickled: {type(error).__name__}: {_first_line(error)}",
            "run where its classes can be imported, or save a plain state dict",
        ) from error


def _first_line(error: Exception) -> str:
    """The first sentence: torch goes on to explain its archive reader."""
    return first_line(error, "").split(". ")[0]


def _wanted(message: str) -> str:
    """What ``weights_only`` stumbled over, from torch's long message."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return found[1].rstrip(".,")
    if found := re.search(r"Unsupported operand (\d+)", message):
        names = {ord(operation.code): operation.name for operation in pickletools.opcodes}
        return f"the pickle operation {names.get(int(found[1]), found[1])}"
    if found := re.search(r"WeightsUnpickler error:\s*(.+)", message):
        return found[1].strip()
    return _first_line(Exception(message))


@contextmanager
def _plain_extras() -> Iterator[None]:
    """Allow what training scripts keep beside the weights and what runs nothing: arguments, NumPy numbers."""
    multiarray = getattr(np, "_core", None) or np.core
    dtypes = {type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "uint8", "float32", "float64")}
    allowed = [argparse.Namespace, multiarray.multiarray.scalar, np.dtype, *dtypes]
    with torch.serialization.safe_globals(allowed):
        yield
