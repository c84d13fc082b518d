"""What only a process of its own can show."""

from __future__ import annotations

import json
import subprocess
import sys

WRAPPER = """
import json, sys
from cnnviz.cli.app import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def modules_after(*args: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", WRAPPER, *args], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, modules
