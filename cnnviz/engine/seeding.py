"""The same random numbers at every pass of a network that draws some."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

# The generators are those of the process: passes of several threads take turns.
_TURN = threading.RLock()


@contextlib.contextmanager
def same_noise(seed: int) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python while the body runs; their states are as found afterwards.

    A network that draws random numbers is then a fixed function of its input: every pass drops the same units, whatever
    was computed before it, in whichever thread.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with _TURN, torch.random.fork_rng(devices):
        python, numpy = random.getstate(), np.random.get_state()
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
