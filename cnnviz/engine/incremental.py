"""The logits of every occluded copy of an image.

    clean, occluded = occluded_logits(session, pixels, windows, fill)

The plain path runs the whole network on batches of occluded copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import Session


@dataclass(frozen=True)
class Windows:
    """A grid of equal windows: one for every pair of a row and a column.

    Attributes:
        rows: First pixel row of each window, ascending.
        cols: First pixel column of each window, ascending.
        size: Height and width of a window.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    def corner(self, position: int) -> tuple[int, int]:
        """First row and column of window ``position`` in reading order."""
        row, col = divmod(position, len(self.cols))
        return self.rows[row], self.cols[col]


def occluded_logits(
    session: Session, pixels: Tensor, windows: Windows, fill: Tensor, incremental: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The network's answer to every image with every window replaced by ``fill``.

    Args:
        session: The prepared network.
        pixels: [N, C, H, W], normalised.
        windows: Where to occlude; P = rows x cols.
        fill: [N, C, H, W], normalised: what stands in the windows.

    Returns:
        Logits of the images [N, K] and of their occluded copies [N, P, K], float32, computed the same way, so that
        a window that changes nothing differs by nothing but rounding.
    """
    pixels, fill = pixels.to(session.device), fill.to(session.device)
    # Image by image: what an image gets does not depend on its batch.
    pairs = [_plain(session, pixels[i : i + 1], windows, fill[i : i + 1]) for i in range(pixels.shape[0])]
    return torch.cat([clean for clean, _ in pairs]), torch.stack([occluded for _, occluded in pairs])


def _plain(session: Session, image: Tensor, windows: Windows, fill: Tensor) -> tuple[Tensor, Tensor]:
    clean = session.logits(image)
    size, start, found = 2 * rt.default_batch_size(session.device), 0, []
    while start < len(windows):
        stop = min(start + size, len(windows))
        try:
            found.append(session.logits(_occluded(image, windows, fill, range(start, stop))))
        except Exception as error:
            if size == 1 or not rt.is_out_of_memory(error):
                raise
            size //= 2
            rt.release_memory(session.device)
            continue
        start = stop
    return clean, torch.cat(found)


def _occluded(image: Tensor, windows: Windows, fill: Tensor, positions: range) -> Tensor:
    """Copies [P, C, H, W] of one image, each with one window replaced."""
    copies = image.expand(len(positions), -1, -1, -1).clone(memory_format=torch.channels_last)
    height, width = windows.size
    for copy, position in zip(copies, positions, strict=True):
        top, left = windows.corner(position)
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        copy[part] = fill[0][part]
    return copies
