"""A network run for the shapes alone: nothing is computed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from torch._subclasses import fake_tensor


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Within it tensors have shapes and no values.

    An operation that fails there raises. PyTorch also logs it, with a traceback, which would stand on the console
    beside what is said of it here, or where the network runs after all.
    """
    log = logging.getLogger(fake_tensor.__name__)

    def muted(record: logging.LogRecord) -> bool:
        return False

    log.addFilter(muted)
    try:
        with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        log.removeFilter(muted)
