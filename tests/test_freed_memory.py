"""What is freed stays with the process, unless its user chose otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cnnviz.io.freed_memory import keep_freed_memory

FAULTS = """
import resource, sys, threading
import numpy as np
from cnnviz.io.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory({})
sizes = [int(size) for size in sys.argv[2].split(",")]
def work():
    for _ in range(40):
        some = [np.ones(size << 20, dtype=np.uint8) for size in sizes]
        del some
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("sizes", ["1,2,4,8", "38,38"])  # MiB; of 38 only one lies in a heap of a thread
def test_arrays_that_come_and_go_ask_the_system_less_often(sizes: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(how: str) -> int:
        line = [sys.executable, "-c", FAULTS, how, sizes]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    assert faults("keep") < 0.75 * faults("leave")


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "LD_PRELOAD", "GLIBC_TUNABLES"])
def test_who_chose_an_allocator_has_it(name: str) -> None:
    assert not keep_freed_memory({name: "1"})
