"""A network in the state in which it is explained, and afterwards in the one in which it was found.

Several threads may explain one network, or networks that share parts. What a part was is noted by the first of them
and given back by the last: a thread that is done would put a part back into training mode under the eyes of another.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class _Mode:
    """A module in evaluation mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._before = module, module.training
        module.training = False

    def give_back(self) -> None:
        self._module.training = self._before


class _Frozen:
    """A parameter that takes no gradient."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self._parameter, self._before = parameter, parameter.requires_grad
        if self._before:
            parameter.requires_grad_(False)

    def give_back(self) -> None:
        if self._before:
            self._parameter.requires_grad_(True)


class _Values:
    """A buffer: a forward that puts its normalisation into training mode writes to the running statistics."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer, self._before = buffer, buffer.detach().clone()

    def give_back(self) -> None:
        with torch.no_grad():
            if self._buffer.shape == self._before.shape and not torch.equal(self._buffer, self._before):
                self._buffer.copy_(self._before)


class _Lent:
    """What is lent to somebody now, by the identity of the thing, which those who borrow it keep alive."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._lent: dict[int, tuple[Any, int]] = {}

    def take(self, kind: Any, thing: Any) -> None:
        with self._turn:
            state, borrowers = self._lent.get(id(thing)) or (kind(thing), 0)
            self._lent[id(thing)] = (state, borrowers + 1)

    def give_back(self, thing: Any) -> None:
        with self._turn:
            state, borrowers = self._lent.pop(id(thing))
            if borrowers > 1:
                self._lent[id(thing)] = (state, borrowers - 1)
            else:
                state.give_back()


_LENT = _Lent()


@contextlib.contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters, and every flag as found afterwards, also after an exception."""
    things = [
        *((_Mode, part) for part in module.modules()),
        # Parameters made under inference mode take part in no graph, and their flag cannot be set back.
        *((_Frozen, parameter) for parameter in module.parameters() if not parameter.is_inference()),
        *((_Values, buffer) for buffer in module.buffers() if not buffer.is_inference()),
    ]
    with contextlib.ExitStack() as stack:
        for kind, thing in things:
            _LENT.take(kind, thing)
            stack.callback(_LENT.give_back, thing)
        yield
