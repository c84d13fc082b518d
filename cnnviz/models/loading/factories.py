"""Functions of the user, ``package.module:function`` or ``file.py:function``, and the networks that they make."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from cnnviz.errors import CnnvizError, StoppedError, first_line, foreign_code, nearest, nearest_file


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Code in the folder can be imported, as if Python had been started there."""
    path = os.fspath(folder)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(path)


class _AsWritten(SourceFileLoader):
    """Reads a file as it is now. Python takes compiled code for that of a file of the same second and length, which a
    changed seed has."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def import_place(place: str, option: str = "--model") -> Any:
    """The module of a dotted name or a file; ``option`` is what named it."""
    is_file = place.endswith(".py")
    try:
        if not is_file:
            with foreign_code():
                return importlib.import_module(place)
        if not Path(place).is_file():
            near = nearest_file(Path(place).name, [item.name for item in Path(place).parent.glob("*.py")])
            raise CnnvizError(f"{place} does not exist", near or "give file.py:function")
        # Under a name of its own: a file called random.py must not stand in for the standard library's, nor for another
        # of that name in another folder.
        own = hashlib.sha256(os.path.realpath(place).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        name = f"cnnviz_{'factory' if option == '--model' else option.strip('-')}_{Path(place).stem}_{own}"
        spec = importlib.util.spec_from_file_location(name, place, loader=_AsWritten(name, place))
        if spec is None or spec.loader is None:
            raise CnnvizError(f"{place} cannot be imported", "give a Python file: file.py:function")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        with foreign_code():
            spec.loader.exec_module(module)
        return module
    except CnnvizError:
        raise
    except Exception as error:  # the user's code runs here
        raise CnnvizError(
            f"{option}: importing {place} raised {words_of(error)}",
            f"try it alone: python {place}" if is_file else f"try it alone: python -c 'import {place}'",
        ) from error


# How the networks of a library are named; library:function calls a function of it.
_LIBRARIES = {"timm": "timm/{}", "torchvision": "{}"}


def _is_own(module: Any, value: Any) -> bool:
    """Whether a value of a module may be meant: a function or class, or a module within it, none that it imports."""
    if isinstance(value, ModuleType):
        return value.__name__.startswith(f"{getattr(module, '__name__', '')}.")
    return callable(value)


def attribute_of(module: Any, path: str, asked: str, what: str = "--model") -> Any:
    """The function of this name in a module; ``what`` is the option that asked for it."""
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_") and _is_own(found, getattr(found, name))]
            library = asked.partition(":")[0]
            if library in _LIBRARIES and what == "--model":
                raise CnnvizError(
                    f"--model {asked}: {library} has no function {part!r}",
                    f"give {_LIBRARIES[library].format(path)} for the network of that name; cnnviz models lists them",
                )
            raise CnnvizError(
                f"{what} {asked}: there is no {part!r} in it",
                nearest(part, names) or f"it has {', '.join(names[:10]) or 'no public names'}",
            )
        found = getattr(found, part)
    if not callable(found):
        raise CnnvizError(
            f"{what} {asked} is {type(found).__name__}, not a function"
            f"{' that returns an nn.Module' if what == '--model' else ''}",
            "give file.py:function",
        )
    return found


def called(factory: Callable[..., Any], classes: int | None, asked: str) -> nn.Module:
    arguments: dict[str, int] = {}
    if classes is not None and _takes_num_classes(factory):
        arguments["num_classes"] = classes
    try:
        with foreign_code():
            made = factory(**arguments)
    except CnnvizError:
        raise
    except Exception as error:  # the user's code runs here
        raise CnnvizError(
            f"--model {asked} raised {words_of(error)}",
            "it is called without arguments, but for num_classes if it takes that",
        ) from error
    if not isinstance(made, nn.Module):
        is_class = isinstance(made, type)
        raise CnnvizError(
            f"--model {asked} returned {made.__name__ if is_class else type(made).__name__}"
            f"{', a class' if is_class else ''}; expected a torch.nn.Module",
            "return the network itself from the function",
        )
    return made


def _takes_num_classes(factory: Callable[..., Any]) -> bool:
    try:
        known = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built in C, no signature
        return False
    return "num_classes" in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def words_of(error: BaseException) -> str:
    error = error.__cause__ if isinstance(error, StoppedError) and error.__cause__ else error
    return f"{type(error).__name__}: {first_line(error, '')}"
