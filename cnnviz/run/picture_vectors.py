"""The vectors that a network makes of pictures, which ``similar:FILE`` compares."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.decode import open_image
from cnnviz.io.photographs import pictures_near
from cnnviz.io.sources import find_images, open_file
from cnnviz.models.preprocess import Preprocess, normalize, prepare


class PictureVectors:
    """Vectors of picture files, each made once.

    Args:
        preprocess: How pictures become inputs of the network; None where nobody knows.
        session: One whose output are the vectors; None where they are read before the classifier.
        opened: Gives a session that is read there; called once, and only where a picture is named.

    Attributes:
        readout: Where vectors are read.
    """

    def __init__(
        self, preprocess: Preprocess | None, session: Session | None, opened: Callable[[Cut, Readout], Session]
    ) -> None:
        self.readout = Readout.vector() if session is None else Readout.scores()
        self._preprocess, self._session, self._opened = preprocess, session, opened
        self._known: dict[str, Tensor] = {}

    def of(self, file: str) -> Tensor:
        """The vector [D] of a picture, float32, on the host.

        Raises:
            CnnvizError: The file is not a picture, or the network makes no vector.
        """
        if file not in self._known:
            if self._preprocess is None:
                raise CnnvizError(
                    f"target='similar:{file}': nobody knows how a file becomes an input of this network.",
                    "Load it with cnnviz.load_model, or pass cnnviz.extend.SimilarityTarget(vectors).",
                )
            pixels = self._pixels(file, self._preprocess)
            self._session = self._session or self._opened(Cut.at_image(), self.readout)
            with rt.scope():
                found = self._session.chosen(normalize(pixels[None].to(self._session.device), self._preprocess))
            vector = found.flatten(1)[0].float().cpu()
            if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
                raise CnnvizError(f"--target similar:{file}: its vector is zero or not finite.", "Use another picture.")
            self._known[file] = vector
        return self._known[file]

    def _pixels(self, file: str, preprocess: Preprocess) -> Tensor:
        try:
            refs = list(itertools.islice(find_images([file]), 2))
        except CnnvizError as error:
            hint = pictures_near(file) or "Give the path of a picture."
            raise CnnvizError(f"--target similar:{file}: there is no such picture.", hint) from error
        if len(refs) != 1:
            many = "names several pictures" if refs else "has no picture"
            raise CnnvizError(f"--target similar:{file} {many}, where one is compared.", "Name one image file.")
        try:
            with open_file(refs[0]) as stream:
                pixels, _ = prepare(open_image(stream).decode().rgb, preprocess)
        except ImageError as error:
            raise CnnvizError(f"--target similar:{file}: {error.message}", "Give an image that can be read.") from error
        return pixels
