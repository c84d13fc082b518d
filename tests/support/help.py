"""Help pages, as a terminal would show them."""

from __future__ import annotations

import contextlib
import functools
import io

from cnnviz.cli.app import main


@functools.cache
def help_page(command: str = "") -> str:
    """What ``cnnviz COMMAND --help`` prints; fails where there is no such command."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*command.split(), "--help"]) == 0, command
    return printed.getvalue()
