"""The program: ``cnnviz``, and ``python -m cnnviz``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line of the process; returns its exit code.

    A Ctrl-C that comes before the command line hears it, while modules are imported, ends the process as quietly.
    """
    try:
        from cnnviz.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
