"""Output folders of the runs of shares, on a disk or behind a URL, as who joins them reads them."""

from __future__ import annotations

import os
from typing import BinaryIO

from cnnviz.errors import CnnvizError
from cnnviz.io.remote_folder import RemoteFolder, opened
from cnnviz.io.sources import is_url
from cnnviz.io.walk import said


def folders_of_shares(out: str) -> list[str]:
    """The folders ``shard-...`` in a folder, or that folder itself where it has none.

    Raises:
        CnnvizError: There is no such folder.
    """
    if is_url(out):
        folder = RemoteFolder(out)
        try:
            names = [str(each["name"]) for each in folder.entries() if each["type"] == "directory"]
        except Exception as error:  # each backend has errors of its own
            raise CnnvizError(f"{out} cannot be read: {said(error)}", "Check the URL and your access to it.") from error
        below = [f"{out.rstrip('/')}/{name}" for name in names if name.startswith("shard-")]
        return below or [out]
    if not os.path.isdir(out):
        raise CnnvizError(f"{out}: there is no such folder.", "Name the output folders of the shares.")
    below = [os.path.join(out, name) for name in sorted(os.listdir(out)) if name.startswith("shard-")]
    return [folder for folder in below or [out] if os.path.isdir(folder)]


def same_folder(path: str) -> str:
    """What two spellings of one folder have in common."""
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def lies_in(folder: str, root: str) -> bool:
    """Whether a folder stands directly in another."""
    return os.path.dirname(same_folder(folder)) == same_folder(root)


def file_of(folder: str, name: str) -> str:
    """The path, or the URL, of a file of a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, *name.split("/"))


def open_in(folder: str, name: str) -> BinaryIO:
    """A file of a folder.

    Raises:
        OSError: It cannot be read; FileNotFoundError where there is none.
    """
    return opened(file_of(folder, name))


def has(folder: str, name: str) -> bool:
    """Whether a folder has a file of this name."""
    return RemoteFolder(folder).exists(name) if is_url(folder) else os.path.isfile(file_of(folder, name))
