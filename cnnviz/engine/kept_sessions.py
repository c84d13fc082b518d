"""What was prepared of one network, kept for the next batch: a session for each way of running it, for all sizes.

Threads may ask at once: what one of them prepares the others wait for and share.
"""

from __future__ import annotations

import threading

from torch import nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import PrecisionError, SessionOptions, prepare
from cnnviz.engine.other_size import Shape, keep_output, output_at, outputs_of
from cnnviz.engine.session import Session
from cnnviz.models.preprocess import Preprocess

# Sessions that are kept, each of which may hold a copy of the weights.
_MOST = 8
# Of those that are run alike, how many are asked whether they hold for another size: a network that was prepared for
# a size at which it is another one (a map of one cell) should not be prepared for all others.
_ASKED = 2
# Shapes for which it is remembered that a precision is not right.
_REFUSALS = 1024

Key = tuple[SessionOptions, str, str]


class KeptSessions:
    """The last sessions of a network that stays as it is.

    Args:
        module: The network, in evaluation mode with frozen parameters.
        name: What to call it in messages.
        preprocess: How pictures become its batches.
    """

    def __init__(self, module: nn.Module, name: str, preprocess: Preprocess) -> None:
        self._module, self._name, self._preprocess = module, name, preprocess
        self._kept: list[tuple[Key, Session]] = []
        self._refused: dict[tuple[Key, Shape], tuple[str, str]] = {}
        self._keeping, self._preparing = threading.Lock(), threading.RLock()

    def all(self) -> list[Session]:
        """Every session that is kept, the last one that was asked for last."""
        with self._keeping:
            return [session for _, session in self._kept]

    def get(self, options: SessionOptions, runtime: rt.Runtime, shape: Shape) -> Session:
        """The session for images of a shape (C, H, W): one that holds there, or a new one.

        Raises:
            CnnvizError: As :func:`~cnnviz.engine.open_session.prepare`.
        """
        key = (options, str(runtime.device), runtime.precision)
        if (known := self._known(key, shape)) is not None:
            return known
        with self._preparing:  # of threads that ask for the same, one prepares it
            found = self._known(key, shape) or self._holding(key, shape)
            if found is None:
                found = self._prepared(key, runtime, shape)
            self._keep(key, found)
        return found

    def _prepared(self, key: Key, runtime: rt.Runtime, shape: Shape) -> Session:
        """A new session; a precision that was not right for a shape is not tried there again."""
        if (said := self._refused.get((key, shape))) is not None:
            raise PrecisionError(*said)
        try:
            return prepare(self._module, self._name, shape, runtime, key[0]).of_pictures(self._preprocess)
        except PrecisionError as error:
            for oldest in list(self._refused)[: 1 - _REFUSALS]:
                del self._refused[oldest]
            # Not the error itself, whose traceback holds the copy of the weights that was tried.
            self._refused[key, shape] = (error.message, error.hint)
            raise

    def _known(self, key: Key, shape: Shape) -> Session | None:
        """The session that is known to hold for a shape, which is now the last one that was asked for."""
        found = next((session for session in self._alike(key) if shape in outputs_of(session)), None)
        if found is not None:
            self._keep(key, found)
        return found

    def _alike(self, key: Key) -> list[Session]:
        """Sessions that run the network in this way, the last one first."""
        with self._keeping:
            return [session for own, session in reversed(self._kept) if own == key]

    def _holding(self, key: Key, shape: Shape) -> Session | None:
        """A session that is found to hold for a shape."""
        for session in self._alike(key)[:_ASKED]:
            output = output_at(session, self._module, shape, key[0])
            if output is not None:
                keep_output(session, shape, output)
                return session
        return None

    def _keep(self, key: Key, session: Session) -> None:
        with self._keeping:
            self._kept = [each for each in self._kept if each[1] is not session][1 - _MOST :]
            self._kept.append((key, session))
