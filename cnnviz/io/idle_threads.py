"""Threads of PyTorch that wait for work let others have the processor soon.

PyTorch shares each operation among threads, which wait for one another in a loop: by default 300,000 turns, tens of
milliseconds on processors whose PAUSE takes 140 cycles. Where other programs want the cores too, the thread that is
waited for may be the one that has none, and the start of a run, which is many small operations, took 7 to 12 s in
place of 3 to 4. What is set here waits for a millisecond: longer than it takes from one operation to the next (alone
on the machine, a pass over one image takes as long as before), and much shorter than the turns of a scheduler.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, MutableMapping

# Read once, when the library is loaded: GNU's (turns of the loop), LLVM's and Intel's (milliseconds).
_WAITING = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}


@contextlib.contextmanager
def giving_way(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Until the block ends, say so to whatever library is loaded; nothing where its user says how threads wait."""
    chosen = any(name in environment for name in ("OMP_WAIT_POLICY", *_WAITING))
    added = {} if chosen else _WAITING
    environment.update(added)
    try:
        yield
    finally:
        for name in added:
            environment.pop(name, None)
