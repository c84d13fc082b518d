"""What can go wrong, said so that a person can mend it.

Every failure that a user can cause is a :class:`CnnvizError`: one line that names the value and what was
expected, a second that says what to type next, and the exit code of the process.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

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
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ImageError(CnnvizError):
    """One input cannot be explained. The run goes on; the record of this input keeps the reason.

    Args:
        kind: A short stable word for ``error.type`` of the record, such as ``"truncated"``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message, exit_code=3)
        self.kind = kind


class StoppedError(RuntimeError):
    """The user's code raised what is meant to end a program, such as ``SystemExit``."""


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Around code of the user: a network's forward, a factory.

    ``SystemExit`` and other exceptions beyond ``Exception`` would pass every handler and end the process with the
    exit code of a success. Ctrl-C stays Ctrl-C.

    Raises:
        StoppedError: In their place.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        said = next(iter(str(error).splitlines()), "")
        raise StoppedError(f"the network's code raised {type(error).__name__}{f': {said}' if said else ''}") from error


def nearest(value: str, known: Iterable[str], count: int = 3, ignore: str = "") -> str:
    """Near matches of ``value`` among ``known`` as a phrase for a hint, or an empty string.

    Characters of ``ignore`` at the start of a name make it no likelier: the dashes of options.

    >>> nearest("restnet50", ["resnet50", "vgg16"])
    'Did you mean resnet50?'
    """
    names = list(known)
    folded = {name.casefold().lstrip(ignore): name for name in names}
    wanted = value.casefold().lstrip(ignore)
    matches = difflib.get_close_matches(wanted, list(folded), n=count, cutoff=0.6)
    if not matches:
        return ""
    found = [folded[match] for match in matches]
    return f"Did you mean {' or '.join(found)}?"
