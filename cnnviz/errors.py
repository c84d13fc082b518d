"""What can go wrong, said so that a person can mend it.

Every failure that a user can cause is a :class:`CnnvizError`: one line that names the value and what was
expected, a second that says what to type next, and the exit code of the process.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

EXIT_DONE = 0
EXIT_POLICY_VIOLATED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


class CnnvizError(Exception):
    """A failure with a remedy.

    Args:
        message: One line: the value, and what was expected instead.
        hint: One line: what to do about it. May be empty.
        exit_code: What the process exits with when nothing else was run.
    """

    def __init__(self, message: str, hint: str = "", *, exit_code: int = EXIT_USAGE) -> None:
        self.message = _cut(message)
        super().__init__(self.message)
        self.hint = _cut(hint)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def of_option(error: CnnvizError, flag: str) -> CnnvizError:
    """What is said of ``--layer``, said of the option with which the layer was named."""
    return CnnvizError(error.message.replace("--layer", flag), error.hint.replace("--layer", flag))


def of_target(error: CnnvizError, target: str) -> CnnvizError:
    """What is said of a class or a layer, said of the ``--target`` that names it."""
    message, hint = error.message, error.hint
    if message.startswith("--class "):
        message, hint = message.replace("--class ", "--target ", 1), hint.replace("--class ", "--target ")
    elif not message.startswith("--"):
        message = f"--target {shown(target)}: {message}"
    return CnnvizError(message, hint, exit_code=error.exit_code)


class ImageError(CnnvizError):
    """One input cannot be explained. The run goes on; the record of this input keeps the reason.

    Args:
        kind: A short stable word for ``error.type`` of the record, such as ``"truncated"``.
        message: What the record says.
        hint: What to type next, where this is said before a run.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint, exit_code=3)
        self.kind = kind


class StoppedError(RuntimeError):
    """The user's code raised what is meant to end a program, such as ``SystemExit``."""


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Around code of the user: a network's forward, a factory.

    ``SystemExit`` and other exceptions beyond ``Exception`` would pass every handler and end the process with the
    exit code of a success. Ctrl-C stays Ctrl-C. What is raised is known as theirs: :func:`foreign_cause`.

    Raises:
        StoppedError: In their place.
    """
    try:
        yield
    except (CnnvizError, KeyboardInterrupt, GeneratorExit):
        raise
    except Exception as error:
        _mark(error)
        raise
    except BaseException as error:
        _mark(error)
        said = first_line(error, "")
        raise StoppedError(f"the network's code raised {type(error).__name__}{f': {said}' if said else ''}") from error


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """The first line of what an exception says.

    Args:
        error: The exception.
        otherwise: What to give where it says nothing; None for the name of its kind.

    >>> first_line(ValueError("bad\\nworse")), first_line(KeyError()), first_line(KeyError(), "")
    ('bad', 'KeyError', '')
    """
    said = str(error).strip().splitlines()
    if said:
        return said[0]
    return type(error).__name__ if otherwise is None else otherwise


_FOREIGN = "raised_by_foreign_code"


def _mark(error: BaseException) -> None:
    """Keep that code of the user raised it, where some of it ran: of a name that cannot be imported none did."""
    step = error.__traceback__
    while step is not None:
        package = str(step.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package not in ("cnnviz", "contextlib", "importlib"):
            error.__dict__[_FOREIGN] = True
            return
        step = step.tb_next


def foreign_cause(error: BaseException) -> BaseException | None:
    """What code of the user raised, where that is the cause of an error; None where it has none, or one of ours."""
    cause = error.__cause__
    while cause is not None and _FOREIGN not in cause.__dict__:
        cause = cause.__cause__
    return cause


# A value of 100 kB in a message helps nobody; records and terminals would carry it whole.
_LONGEST = 2_000


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} … ({len(text) - _LONGEST} characters left out) … {text[-_LONGEST // 2 :]}"


_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80
_SHOWN.maxlevel = 3


def shown(value: Any) -> str:
    """``repr`` of a value from outside, cut to a length that a message can bear; cheap for nested values too.

    >>> shown("cat"), len(shown("cat" * 1000)) < 100
    ("'cat'", True)
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**80:
        return f"a number of {value.bit_length() * 30103 // 100000 + 1} digits"  # Python refuses to write some of them
    return _SHOWN.repr(value)


def brief(text: str) -> str:
    """A text from outside without quotes, cut to a length that a message can bear.

    >>> brief("9" * 5000)
    '99999999999999999999… (5000 characters)'
    """
    return text if len(text) <= 60 else f"{text[:20]}… ({len(text)} characters)"


def counted(count: int, noun: str) -> str:
    """How many of something there are.

    >>> counted(1, "map"), counted(2, "map"), counted(2, "class")
    ('1 map', '2 maps', '2 classes')
    """
    many = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count} {noun}{many * (count != 1)}"


def in_percent(share: float) -> str:
    """A share with one decimal, but never a 0 or a 100 that is none.

    >>> in_percent(0.657), in_percent(0.9996), in_percent(0.0004), in_percent(1.0)
    ('65.7 %', '> 99.9 %', '< 0.1 %', '100.0 %')
    """
    percent = 100.0 * share
    if 99.9 < percent < 100.0:
        return "> 99.9 %"
    return "< 0.1 %" if 0.0 < percent < 0.1 else f"{percent:.1f} %"


def out_of(count: int, every: int, noun: str) -> str:
    """How many of how many: the noun is one or several as ``every`` is.

    >>> out_of(1, 6, "map"), out_of(1, 1, "map")
    ('1 of 6 maps', '1 of 1 map')
    """
    return f"{count} of {counted(every, noun)}"


def of_all(count: int, every: int, noun: str, one: str = "is", many: str = "are") -> str:
    """How many of how many do something: as :func:`out_of`, and the verb is one or several as ``count`` is.

    >>> of_all(1, 6, "map"), of_all(1, 1, "map", "leaves", "leave"), of_all(2, 6, "image", "has", "have")
    ('1 of 6 maps is', '1 of 1 map leaves', '2 of 6 images have')
    """
    return f"{out_of(count, every, noun)} {one if count == 1 else many}"


def nearest(value: str, known: Iterable[str], count: int = 3, ignore: str = "", before: str = "") -> str:
    """Near matches of ``value`` among ``known`` as a phrase for a hint, or an empty string.

    Characters of ``ignore`` at the start of a name make it no likelier: the dashes of options. ``before`` stands before
    each name that is told: the folder of files.

    >>> nearest("restnet50", ["resnet50", "vgg16"])
    'Did you mean resnet50?'
    """
    names = list(known)
    folded = {name.casefold().lstrip(ignore): name for name in names}
    wanted = value.casefold().lstrip(ignore)
    matches = difflib.get_close_matches(wanted, list(folded), n=count, cutoff=0.6)
    if not matches:
        return ""
    found = [before + folded[match] for match in matches]
    return f"Did you mean {' or '.join(found)}?"


def nearest_file(value: str, names: Iterable[str], count: int = 3, before: str = "") -> str:
    """The same for names of files, which must also be near without their ends: those most files share.

    >>> nearest_file("nofile.jpg", ["rocket.jpg"]), nearest_file("roket.jpg", ["rocket.jpg"])
    ('', 'Did you mean rocket.jpg?')
    """
    known = list(names)
    stems = {_stem(name) for name in known}
    near = set(difflib.get_close_matches(_stem(value), stems, n=max(1, len(stems)), cutoff=0.6))
    return nearest(value, [name for name in known if _stem(name) in near], count, before=before)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].casefold()
