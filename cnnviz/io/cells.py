"""Text in the cells of CSV files that we write, so that spreadsheet programs do not run it.

A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return is a formula to them, whatever its
quotes (OWASP: CSV injection), and labels and paths come from other people. Such a text gets an apostrophe in front,
which these programs understand as "this is text". A text that would look like that already gets one more, so that
taking one off gives every text back. Numbers are written as they are.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def guarded(text: str) -> str:
    """The text as it goes into a cell.

    >>> guarded("=1+1"), guarded("cat"), guarded("it's")
    ("'=1+1", 'cat', "it's")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def without_guard(cell: str) -> str:
    """What :func:`guarded` was given. Cells that it did not write come back as they are, unless they look like its own.

    >>> without_guard("'=1+1"), without_guard("=1+1"), without_guard("'tis")
    ('=1+1', '=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
