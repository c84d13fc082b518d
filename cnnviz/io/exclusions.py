"""``--exclude FILE``: images that a run leaves out, such as those of ImageNet's validation set that its rules ban."""

from __future__ import annotations

import os
import re

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.archives import path_of

_VALIDATION = re.compile(r"ILSVRC\d*_val_0*(\d+)")


class Exclusions:
    """Names of images, one a line: a path, a file's name with or without its suffix, or the number of an image of
    ImageNet's validation set (``36`` is ``ILSVRC2012_val_00000036``), as its development kit lists them. Within an
    archive an image is named by its path there.

    Args:
        path: The file. Paths in it are relative to its folder, or to the one in which the program runs.

    Attributes:
        names: How many different names it has.

    Raises:
        CnnvizError: It cannot be read, or names nothing.
    """

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
                names = list(dict.fromkeys(filter(None, map(str.strip, stream))))
        except OSError as error:
            raise CnnvizError(
                f"--exclude {shown(path)} cannot be read: {error.strerror}", "Give a text file."
            ) from error
        if not names:
            raise CnnvizError(f"--exclude {path} names no image.", "Write one image a line: its name, or its path.")
        self.names = len(names)
        self._used: set[str] = set()
        folder = os.path.dirname(os.path.abspath(path))
        self._keys: dict[str, str] = {name: name for name in names}
        for name in names:
            if "/" in name or os.sep in name:
                for root in (folder, os.getcwd()):
                    self._keys.setdefault(os.path.normpath(os.path.join(root, name)), name)

    def leaves_out(self, uri: str) -> bool:
        """Whether the file names this image."""
        path = path_of(uri)
        base = os.path.basename(path)
        stem = os.path.splitext(base)[0]
        number = _VALIDATION.fullmatch(stem)
        keys = [uri, os.path.abspath(uri), path, base, stem, *([number[1]] if number else [])]
        found = [self._keys[key] for key in keys if key in self._keys]
        self._used.update(found)
        return bool(found)

    @property
    def unused(self) -> int:
        """How many names no image had so far."""
        return self.names - len(self._used)
