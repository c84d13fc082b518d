"""What the requests of a live explorer share: the loaded network, its sessions, and the passes of the last images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from torch import Tensor

from cnnviz.engine.cut import Cut
from cnnviz.engine.examine import Examination
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.models.loading.load import LoadedModel
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.settings import RunSettings

T = TypeVar("T")

MOST_SESSIONS = 8
"""Sessions that are kept: each holds a copy of the network's weights, packed for where it is cut."""
MOST_PASSES = 6
"""Forward passes that are kept, with their activations: the image that is looked at, at a few layers."""


class Latest(Generic[T]):
    """What was used last, by key, up to ``most`` values and up to ``room`` of their sizes together. Safe in threads.

    Args:
        most: Values that are kept.
        room: Sum of their sizes; None for any.
    """

    def __init__(self, most: int, room: int | None = None) -> None:
        self._most, self._room = most, room
        self._kept: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._turn = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        """The value of a key, which now is the last that was used; None where there is none."""
        with self._turn:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: T, size: int = 0) -> T:
        """Keep a value; those that were not used for longest go, but never this one."""
        with self._turn:
            self._kept[key] = (value, size)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._full()):
                self._kept.popitem(last=False)
        return value

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not kept."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found

    def __len__(self) -> int:
        return len(self._kept)

    def _full(self) -> bool:
        return self._room is not None and sum(size for _, size in self._kept.values()) > self._room


class SharedNetwork:
    """One network of a process, for many requests, one at a time.

    :meth:`prepared` is called as :class:`~cnnviz.run.prepared_model.PreparedModel` is, and gives one that loads,
    opens and examines nothing twice.
    """

    def __init__(self) -> None:
        self.loaded: tuple[LoadedModel, Future[str]] | None = None
        self.sessions: Latest[Session] = Latest(MOST_SESSIONS)
        self.examinations: Latest[Examination] = Latest(8 * MOST_SESSIONS)
        self.passes: Latest[ForwardPass] = Latest(MOST_PASSES)

    def prepared(self, *args: Any, **more: Any) -> PreparedModel:
        """The network, prepared for one request."""
        return _Sharing(self, *args, **more)


class _Sharing(PreparedModel):
    """The prepared network of one request."""

    def __init__(self, shared: SharedNetwork, settings: RunSettings, *args: Any, **more: Any) -> None:
        self._shared = shared
        super().__init__(settings, *args, **more)

    def read(self, adapt: Callable[[LoadedModel], LoadedModel]) -> tuple[LoadedModel, Future[str]]:
        if self._shared.loaded is None:
            self._shared.loaded = super().read(lambda loaded: loaded)
        loaded, digest = self._shared.loaded
        return adapt(loaded), digest

    def open(self, cut: Cut, *, compile_it: bool = False, readout: Readout = Readout.scores()) -> Session:  # noqa: B008
        key = (id(self.loaded.module), cut, compile_it, readout, self.runtime, self.settings.target.logits_key)
        known = self._shared.sessions.get(key)
        if known is None:
            made = super().open(cut, compile_it=compile_it, readout=readout)
            return self._shared.sessions.put(key, made)
        self.runtime = known.runtime
        return known

    def examined(self) -> Examination:
        key = (self.session, self._spec.name)
        known = self._shared.examinations.get(key)
        if known is None:
            return self._shared.examinations.put(key, super().examined())
        if self.session.one_by_one:
            self.batch_size = 1
        return known

    def forward(self, session: Session, pixels: Tensor) -> ForwardPass:
        key = (session, pixels.shape, hash(pixels.cpu().numpy().tobytes()))
        if (task := getattr(self, "task", None)) is not None:
            task.begin(
                pixels
            )  # also where the pass is known: the text that a captioner wrote is that of the last image
        return self._shared.passes.once(key, lambda: super(_Sharing, self).forward(session, pixels)).again()
