"""torchvision and timm, imported without ``torch.compile``, which nothing needs before something is compiled.

Both touch ``torch._dynamo`` when they are imported: torchvision's ``roi_align`` for a question that it asks when it
runs, timm to mark methods of one family as not to be compiled. The compiler is a third of the imports of a run. While
they are imported, the question and the marks are put off until they are needed.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any, cast

import torch

from cnnviz.errors import CnnvizError

__all__ = ["timm", "torchvision_models"]

_COMPILER = "torch._dynamo"
_ASKED = "torch._dynamo.utils"


def _is_compile_supported(device: Any) -> bool:
    from torch._dynamo import utils

    return cast(bool, utils.is_compile_supported(device))


class _StandIn(ModuleType):
    """``torch._dynamo.utils`` with the one function that torchvision imports; asked for more, it is the real one."""

    is_compile_supported = staticmethod(_is_compile_supported)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_ASKED) is self:
            del sys.modules[_ASKED]
        return getattr(importlib.import_module(_ASKED), name)


def _not_compiled_from(disable: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compiler.disable`` that does its work when the function that it marks is first called."""

    def marked(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        if fn is None:
            return functools.partial(marked, recursive=recursive, reason=reason)

        @functools.cache
        def real() -> Any:
            return disable(fn, recursive, reason=reason)

        @functools.wraps(fn)
        def first(*args: Any, **kwargs: Any) -> Any:
            return real()(*args, **kwargs)

        # What torch.compile looks for where such a function is called.
        first._torchdynamo_disable = True  # type: ignore[attr-defined]
        return first

    return marked


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports within do not import ``torch.compile``'s machinery; where it is there already, nothing changes."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = _StandIn(_ASKED)
    disable = torch.compiler.disable
    sys.modules[_ASKED] = stand_in
    torch.compiler.disable = _not_compiled_from(disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        if sys.modules.get(_ASKED) is stand_in:
            del sys.modules[_ASKED]


@contextmanager
def fitting() -> Iterator[None]:
    """Raises a CnnvizError where torchvision is of another build than torch: its kernels are not found then."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except (ImportError, OSError, RuntimeError) as error:
        found = f"torchvision {version('torchvision')} does not fit torch {torch.__version__}"
        reason = str(error).split("\n")[0]
        hint = "Install both in one command, from one place: pip install --force-reinstall torch torchvision"
        raise CnnvizError(f"{found}: {reason}", hint) from error


with without_compiler():
    with fitting():
        from torchvision import models as torchvision_models
    import timm
