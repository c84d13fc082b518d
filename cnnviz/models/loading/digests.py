"""What tells one network from another of the same name."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Sequence

import torch
from torch import nn

from cnnviz.io.digests import file_sha256
from cnnviz.models.loading.given import QUESTION

# Packages whose version the report states.
_VERSIONED = frozenset({"torch", "torchvision", "timm", "cnnviz", "builtins"})


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over all parameters and buffers, by name: name, type, shape and bytes of each.

    Buffers that are not saved with the network count too: they enter its values. A question belongs to the run.
    """
    digest = hashlib.sha256()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors.pop(QUESTION, None)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode("utf-8", "backslashreplace"))
        if not tensor.numel():
            continue
        try:
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        except RuntimeError:  # quantised or sparse tensors have no plain bytes
            digest.update(repr(tensor.detach()).encode())
    return digest.hexdigest()


def source_sha256(module: nn.Module, factory: str) -> str | None:
    """SHA-256 over the files in which the network's own code stands; None where it has none.

    These are the factory's file and those of the classes of all its modules, without PyTorch, torchvision and timm,
    whose versions the report states.

    Args:
        module: The network.
        factory: ``--model``: ``file.py:function``, ``package.module:function``, or a name.
    """
    place = factory.rpartition(":")[0]
    files: set[str | None] = {place} if place.endswith(".py") else {_file(place)} if place in sys.modules else set()
    for kind in {type(part) for part in module.modules()}:
        if kind.__module__.partition(".")[0] not in _VERSIONED:
            files.add(_file(kind.__module__))
    found = sorted(digest for path in files if path and (digest := file_sha256(path)) is not None)
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else None


def labels_sha256(labels: Sequence[str]) -> str:
    """SHA-256 over the class names, in order."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def _file(name: str) -> str | None:
    if name.partition(".")[0] in _VERSIONED or name not in sys.modules:
        return None
    try:
        return inspect.getsourcefile(sys.modules[name])
    except TypeError:  # built in
        return None
