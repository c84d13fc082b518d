"""What a checkpoint file is, by its first bytes and its directory, before anything unpickles it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from cnnviz.errors import CnnvizError, nearest_file


def _neighbours(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)[:10_000]
    except (OSError, ValueError):
        return []


def check_file(path: Path) -> None:
    """Say what is wrong with a file that is no checkpoint at all, in the words of its actual content."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        # That it is there and cannot be read is no misspelling: its own name would be the nearest.
        neighbours = [name for name in _neighbours(path) if name != path.name]
        raise CnnvizError(
            f"cannot read the checkpoint {path}: {getattr(error, 'strerror', None) or error}",
            "its permissions do not let you read it"
            if isinstance(error, PermissionError)
            else nearest_file(path.name, neighbours) or "give --checkpoint FILE (.pth, .pt, .bin or .safetensors)",
        ) from error
    start = head.lstrip().lower()
    if not head:
        raise CnnvizError(f"the checkpoint {path} is empty (0 bytes)", "copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise CnnvizError(f"the checkpoint {path} is a Git LFS pointer, not the file itself", "run: git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CnnvizError(
            f"the checkpoint {path} is a web page, not weights",
            "download the file itself (the page asks for a login or a confirmation)",
        )
    if head[:2] == b"PK":
        _check_zip(path)
    elif not head.startswith(b"\x80") and not is_safetensors(path):
        raise CnnvizError(
            f"the checkpoint {path} is not a PyTorch or safetensors file (it starts with {head[:12]!r})",
            "save weights with torch.save(model.state_dict(), FILE)",
        )


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, "its end is missing") from error
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


def damaged(path: Path, reason: str) -> CnnvizError:
    size = path.stat().st_size
    return CnnvizError(
        f"the checkpoint {path} is damaged or cut short at {size} bytes: {reason}",
        "copy or download it again",
    )


def is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] == b"{"
