"""Random numbers that depend on the seed and on what they are for, never on the batch or on what ran before."""

from __future__ import annotations

import contextlib
import random
import threading
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.models.graph.randomness import seed_generators

# The generators are those of the process: passes of several threads take turns.
_TURN = threading.RLock()


@contextlib.contextmanager
def same_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a network on ``device`` draws from while the body runs: torch, NumPy, Python; as found afterwards.

    A network that draws random numbers is then a fixed function of its input: every pass drops the same units, whatever
    was computed before it, in whichever thread.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _TURN, torch.random.fork_rng(devices):
        python, numpy = random.getstate(), np.random.get_state()
        try:
            seed_generators(seed, device)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def generator_for(image: Tensor, seed: int) -> torch.Generator:
    """A source of randomness for one image, from the seed and the image itself, so that its batch does not matter."""
    return torch.Generator().manual_seed(seed_for(image, seed))


def seed_for(image: Tensor, seed: int) -> int:
    """A seed of 32 bits, of which torch's generator on a CPU reads no more, from another one and an image."""
    content = zlib.crc32(image.detach().float().cpu().contiguous().numpy().tobytes())
    return zlib.crc32(str(seed).encode(), content)


def generators_for(images: Tensor, seed: int) -> list[torch.Generator]:
    """:func:`generator_for` of each image of a batch; a graphics card is waited for once."""
    [here] = rt.fetched([images.detach()])
    return [generator_for(image, seed) for image in here]
