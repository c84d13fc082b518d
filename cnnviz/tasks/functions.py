"""A function of the user as target: ``file.py:function`` or ``package.module:function``, of all that the network
returns, with one score an image [N].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.readout import Readout
from cnnviz.engine.targets import CallableTarget
from cnnviz.errors import CnnvizError, foreign_code
from cnnviz.io.names import safe_component
from cnnviz.models.loading.factories import attribute_of, import_place, importable, words_of
from cnnviz.records import FunctionScore
from cnnviz.tasks.base import Predictions, Request


@dataclass(frozen=True)
class FunctionRequest(Request):
    """What a function makes of an image's output.

    Attributes:
        spec: As it was asked for.
        label: Its name.
        function: It; where it raises, the error says so in words.
    """

    spec: str
    label: str
    function: Callable[[Any], Tensor] = field(compare=False, repr=False)

    @property
    def key(self) -> Hashable:
        return "function", self.spec

    @property
    def readout(self) -> Readout:
        return Readout.everything()

    @property
    def slug(self) -> str:
        return f"function-{safe_component(self.label.replace(' ', '-'))}"

    def target(self, requests: Sequence[FunctionRequest]) -> CallableTarget:
        return CallableTarget(self.function)

    def scored(self, said: Predictions, place: int, output: Any) -> FunctionScore:
        return FunctionScore(self.spec, self.label, self.value(output))

    def minus(self, other: FunctionRequest, spec: str) -> FunctionRequest:
        """What the one makes of it less what the other does."""
        first, second = self.function, other.function
        label = f"{self.label} rather than {other.label}"
        return FunctionRequest(spec, label, lambda output: first(output) - second(output))


def parse_function(spec: str, where: str) -> FunctionRequest | None:
    """The function that a spec names; None where it is of another kind.

    Args:
        spec: ``file.py:function`` or ``package.module:function``.
        where: What to call it in messages, such as ``--target``.

    Raises:
        CnnvizError: It cannot be imported, or is no function.
    """
    text = spec.strip()
    place, colon, name = text.rpartition(":")
    dotted = "." in place and all(part.isidentifier() for part in place.split("."))
    if not colon or not (place.endswith(".py") or dotted) or not all(part.isidentifier() for part in name.split(".")):
        return None
    folder = Path(place).resolve().parent if place.endswith(".py") else None
    with importable(Path.cwd()), contextlib.nullcontext() if folder is None else importable(folder):
        found = attribute_of(import_place(place, where), name, text, where)
    return FunctionRequest(text, name, _in_words(found, text, where))


def _in_words(function: Callable[[Any], Tensor], spec: str, where: str) -> Callable[[Any], Tensor]:
    def called(output: Any) -> Tensor:
        try:
            with foreign_code():
                return function(output)
        except Exception as error:  # the user's code runs here
            if rt.is_out_of_memory(error) or isinstance(error, CnnvizError):
                raise
            raise CnnvizError(
                f"{where} {spec} raised {words_of(error)}",
                f"It gets what the network returns for N images, here {_kind(output)}, and returns a tensor [N].",
            ) from error

    called.__name__ = getattr(function, "__name__", "function")
    return called


def _kind(output: Any) -> str:
    return f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
