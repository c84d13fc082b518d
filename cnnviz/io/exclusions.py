"""``--exclude FILE``: images that a run leaves out, such as those of ImageNet's validation set that its rules ban."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from cnnviz.errors import CnnvizError, counted, shown
from cnnviz.io.archives import path_of

_VALIDATION = re.compile(r"ILSVRC\d*_val_0*(\d+)")
_SHOWN, _NAMED = 2, 5


class Exclusions:
    """Names of images, one a line: a path, a file's name with or without its suffix, or the number of an image of
    ImageNet's validation set (``36`` is ``ILSVRC2012_val_00000036``), as its development kit lists them. Within an
    archive an image is named by its path there.

    Args:
        path: The file. Paths in it are relative to its folder, to the one in which the program runs, or to a folder of
            images.
        inputs: What is explained: of these, the folders of images.

    Attributes:
        names: How many different names it has.

    Raises:
        CnnvizError: It cannot be read, or names nothing.
    """

    def __init__(self, path: str, inputs: Sequence[str] = ()) -> None:
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
        self._images: dict[str, dict[str, None]] = {}  # by name, each once: an image may be among the inputs twice
        folder = os.path.dirname(os.path.abspath(path))
        self._keys: dict[str, list[str]] = {name: [name] for name in names}
        for name in names:
            if "/" in name or os.sep in name:
                for key in _places(name, (folder, os.getcwd(), *inputs)):
                    self._keys.setdefault(key, []).append(name)

    def leaves_out(self, uri: str) -> bool:
        """Whether the file names this image."""
        path = path_of(uri)
        base = os.path.basename(path)
        stem = os.path.splitext(base)[0]
        number = _VALIDATION.fullmatch(stem)
        keys = [uri, os.path.abspath(uri), path, base, stem, *([number[1]] if number else [])]
        found = {name for key in keys for name in self._keys.get(key, ())}
        for name in found:
            self._images.setdefault(name, {})[uri] = None
        return bool(found)

    @property
    def unused(self) -> int:
        """How many names no image had so far."""
        return self.names - len(self._images)

    def said(self, left_out: int) -> str:
        """How many images it left out, and which of its names are of no image, or of several."""
        told = [f"--exclude left out {counted(left_out, 'image')}"]
        if self.unused:
            are = "is" if self.unused == 1 else "are"
            some = "its name" if self.names == 1 else f"{self.unused} of its {self.names} names"
            told.append(f"{some} {are} of no image here")
        several = {name: images for name, images in self._images.items() if len(images) > 1}
        if several:
            named = [f"{name} ({_first([*images], _SHOWN)})" for name, images in several.items()]
            are = "is" if len(several) == 1 else "are"
            told.append(
                f"{counted(len(several), 'name')} {are} of several images, all left out, which paths would tell apart: "
                f"{_first(named, _NAMED)}"
            )
        return "; ".join(told)


def _first(texts: Sequence[str], count: int) -> str:
    return ", ".join(texts[:count]) + ", ..." * (len(texts) > count)


def _places(name: str, folders: Sequence[str]) -> Iterator[str]:
    """Where a path in a list may lie: in each of several folders, or below the URL of one."""
    for folder in folders:
        if "://" in folder:
            yield f"{folder.rstrip('/')}/{name}"
        elif os.path.isdir(folder):
            yield os.path.normpath(os.path.join(os.path.abspath(folder), name))
