"""Weights from a file that nobody vouches for.

A checkpoint is a pickle, and a pickle is a program. Files are read with ``weights_only=True``, which builds
tensors and plain containers and runs nothing else; a file that wants more is refused with the name of what it
wanted. Then the tensors are found inside whatever the training script wrapped around them, their names are
matched with the network's, and every difference is said.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnviz.errors import CnnvizError, nearest

# Averaged weights first: they are what training scripts evaluate and report.
_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
# Counters and profiler figures that carry no weights.
_HARMLESS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$")
# torchvision's own DenseNet files still have the names of its first release.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_LISTED = 10


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a file holds.

    Args:
        path: The file.
        tensors: Names and values as the file has them; empty if it holds a whole module.
        module: A whole pickled module (only from a trusted file).
        notes: What was unpacked on the way.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint without running code from it.

    Args:
        path: ``.pth``, ``.pt``, ``.bin`` (zip or the older format) or ``.safetensors``; told by content.
        trust: Unpickle everything, code included. Only for files of known origin.

    Raises:
        CnnvizError: if the file cannot be read, needs code, or holds no weights.
    """
    path = Path(path)
    _check_file(path)
    content = _load_safetensors(path) if _is_safetensors(path) else _load_pickle(path, trust)
    found, trail = _find(content)
    if isinstance(found, nn.Module):
        return Checkpoint(path, {}, found, (f"{path.name} holds a whole {type(found).__name__} module",))
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
    return Checkpoint(path, found, notes=tuple(notes))


def classes_in(checkpoint: Checkpoint, module: nn.Module) -> int | None:
    """How many classes a checkpoint was trained for, if that is all in which it differs from the network.

    Compares shapes: the classifier's weights (linear, or 1x1 convolution) and auxiliary ones differ in their
    first dimension only, all by the same pair of numbers.

    Returns:
        The file's number, or None when it is the network's own or cannot be told.
    """
    tensors, _ = _match(checkpoint, module)
    pairs = _class_pairs(_mismatched(tensors, module.state_dict()))
    return next(iter(pairs))[0] if len(pairs) == 1 else None


def load_checkpoint(checkpoint: Checkpoint, module: nn.Module) -> tuple[str, ...]:
    """Put a checkpoint's tensors into a network, all of them.

    Returns:
        Notes for the record: which prefix was taken off, what was left out.

    Raises:
        CnnvizError: if keys are missing or unexpected, or shapes differ.
    """
    tensors, notes = _match(checkpoint, module)
    name = type(module).__name__
    mismatched = _mismatched(tensors, module.state_dict())
    pairs = _class_pairs(mismatched)
    if len(pairs) == 1:
        (in_file, in_model), key = next(iter(pairs.items()))
        raise CnnvizError(
            f"{checkpoint.path} was trained for {in_file} classes ({key}), the network has {in_model}",
            f"give --num-classes {in_file}",
        )
    result = None if mismatched else module.load_state_dict(tensors, strict=False)
    have, wanted = set(tensors), set(module.state_dict())
    missing = result.missing_keys if result else [key for key in wanted if key not in have]
    unexpected = result.unexpected_keys if result else [key for key in have if key not in wanted]
    problems = [
        _listed("missing", [key for key in missing if not _HARMLESS.search(key)]),
        _listed("unexpected", [key for key in unexpected if not _HARMLESS.search(key)]),
        _listed("of another shape", [f"{key} {a} instead of {b}" for key, (a, b) in mismatched.items()]),
    ]
    said = "; ".join(problem for problem in problems if problem)
    if said:
        raise CnnvizError(
            f"{checkpoint.path} does not fit {name}: {said}",
            "give the --model that it was trained as, or a factory: --model file.py:function",
        )
    return (*checkpoint.notes, *notes)


def _listed(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} {what}: {', '.join(sorted(keys)[:_LISTED])}{more}"


def _mismatched(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Keys that both have in different shapes: the file's, the network's."""
    shared = {key: (tuple(tensors[key].shape), tuple(wanted[key].shape)) for key in tensors if key in wanted}
    return {key: (there, here) for key, (there, here) in shared.items() if there != here}


def _class_pairs(
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> dict[tuple[int, int], str]:
    """(file's, network's) class numbers and one key for each; empty if something else differs."""
    pairs: dict[tuple[int, int], str] = {}
    for key, (there, here) in mismatched.items():
        if len(there) != len(here) or not there or there[1:] != here[1:]:
            return {}
        pairs.setdefault((there[0], here[0]), key)
    return pairs


def _match(
    checkpoint: Checkpoint, module: nn.Module
) -> tuple[OrderedDict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors under the network's names: the wrapping that makes most of them fit is taken off."""
    wanted = module.state_dict()
    best: tuple[tuple[int, int], str, Callable[[str], str], dict[str, str]] | None = None
    for dropped, rename in _renamings():
        names = {rename(key): key for key in checkpoint.tensors}
        if len(names) < len(checkpoint.tensors):
            continue
        for prefix in _prefixes(list(names), list(wanted)):
            fitting = {key[len(prefix) :]: old for key, old in names.items() if key.startswith(prefix)}
            shared = [key for key in fitting if key in wanted]
            same = sum(checkpoint.tensors[fitting[key]].shape == wanted[key].shape for key in shared)
            if best is None or (len(shared), same) > best[0]:
                taken = (dropped, f"prefix {prefix!r}" if prefix else "")
                note = " and ".join(part for part in taken if part)
                best = (len(shared), same), note, _stripper(rename, prefix), fitting
    if best is None or best[0][0] == 0:
        theirs, ours = (", ".join(list(names)[:3]) for names in (checkpoint.tensors, wanted))
        raise CnnvizError(
            f"none of the {len(checkpoint.tensors)} tensors of {checkpoint.path} ({theirs}, …) is one of"
            f" {type(module).__name__} ({ours}, …)",
            "give the --model that it was trained as, or a factory: --model file.py:function",
        )
    _, note, strip, fitting = best
    outside = set(checkpoint.tensors) - set(fitting.values())
    notes = [f"taken off the names in {checkpoint.path.name}: {note}"] if note else []
    if outside:
        notes.append(f"left out of {checkpoint.path.name}: {_listed('tensors', sorted(outside))}")
    renamed = OrderedDict((key, checkpoint.tensors[old]) for key, old in fitting.items())
    metadata = getattr(checkpoint.tensors, "_metadata", None)
    if isinstance(metadata, Mapping):  # versions that a module's own loading hooks look at
        renamed._metadata = {strip(key): value for key, value in metadata.items()}  # type: ignore[attr-defined]
    return renamed, tuple(notes)


def _stripper(rename: Callable[[str], str], prefix: str) -> Callable[[str], str]:
    return lambda key: rename(key).removeprefix(prefix).removeprefix(prefix.rstrip("."))


def _renamings() -> Iterator[tuple[str, Callable[[str], str]]]:
    """Ways to clean names, the least intrusive first; ``torch.compile`` and DataParallel may sit inside."""
    yield "", lambda key: key
    for parts in (("_orig_mod",), ("module",), ("_orig_mod", "module")):
        label = " and ".join(f"'{part}.'" for part in parts)
        yield label, lambda key, parts=parts: ".".join(  # type: ignore[misc]
            part for part in key.split(".") if part not in parts
        )
    yield "the older spelling of DenseNet's layers", lambda key: _OLD_DENSENET.sub(r"\1\2", key)


def _prefixes(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """What stands before a few of the network's names, shortest first: ``module.``, ``model.model.``, …"""
    probes = {wanted[0], wanted[len(wanted) // 2], wanted[-1]} if wanted else set()
    found = {name[: -len(probe)] for name in names for probe in probes if name.endswith("." + probe)}
    return sorted({"", *found}, key=lambda prefix: (len(prefix), prefix))


def _find(
    content: Any, depth: int = 0
) -> tuple[Mapping[str, torch.Tensor] | nn.Module | None, tuple[str, ...]]:
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
    if not tensors or not all(isinstance(key, str) for key in tensors):
        return None, ()
    if hasattr(content, "_metadata"):
        tensors._metadata = content._metadata  # type: ignore[attr-defined]
    return tensors, ()


def _check_file(path: Path) -> None:
    """Say what is wrong with a file that is no checkpoint at all, in the words of its actual content."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        neighbours = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CnnvizError(
            f"cannot read the checkpoint {path}: {error.strerror or error}",
            nearest(path.name, neighbours) or "give --checkpoint FILE (.pth, .pt, .bin or .safetensors)",
        ) from error
    start = head.lstrip().lower()
    if not head:
        raise CnnvizError(f"the checkpoint {path} is empty (0 bytes)", "copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise CnnvizError(
            f"the checkpoint {path} is a Git LFS pointer, not the file itself", "run: git lfs pull"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CnnvizError(
            f"the checkpoint {path} is a web page, not weights",
            "download the file itself (the page asks for a login or a confirmation)",
        )
    if head[:2] == b"PK":
        _check_zip(path)
    elif not head.startswith(b"\x80") and not _is_safetensors(path):
        raise CnnvizError(
            f"the checkpoint {path} is no PyTorch or safetensors file (it starts with {head[:12]!r})",
            "save weights with torch.save(model.state_dict(), FILE)",
        )


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, "its end is missing") from error
    if "constants.pkl" in names:
        raise CnnvizError(
            f"the checkpoint {path} is a TorchScript archive, which cannot be differentiated layer by layer",
            "load the eager model with --model and its state dict: torch.save(model.state_dict(), FILE)",
        )
    if "data.pkl" not in names:
        raise CnnvizError(
            f"the checkpoint {path} is a zip archive without PyTorch weights ({', '.join(names[:3])})",
            "save weights with torch.save(model.state_dict(), FILE)",
        )


def _damaged(path: Path, reason: str) -> CnnvizError:
    size = path.stat().st_size
    return CnnvizError(
        f"the checkpoint {path} is damaged or cut short at {size} bytes: {reason}",
        "copy or download it again",
    )


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] == b"{"


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error


def _load_pickle(path: Path, trust: bool) -> Any:
    try:
        with _plain_extras(), warnings.catch_warnings():
            # torch warns of newer pickle protocols before it refuses them; the refusal is all that is needed.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise _damaged(path, str(error)) from error
        if not trust:
            raise CnnvizError(
                f"the checkpoint {path} is a pickle that needs code: it wants {_wanted(str(error))}",
                "save a plain state dict, or, if you trust its origin, run its code with --trust-checkpoint",
            ) from error
    except Exception as error:  # a damaged pickle raises anything: EOFError, KeyError, RuntimeError, …
        raise _damaged(path, f"{type(error).__name__} {_first_line(error)}".strip()) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # code from the file runs here
        raise CnnvizError(
            f"the checkpoint {path} cannot be unpickled: {type(error).__name__}: {_first_line(error)}",
            "run where its classes can be imported, or save a plain state dict",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


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
