"""Runs command lines in forks of a process that has imported everything, and ends them where it is told.

One JSON object a line on standard input: ``argv`` of a run, ``out`` its folder, ``at`` the number of the change to the
folder at which the process gets the signal ``by`` (null: never). One a line back: ``code``, or minus the signal, and
``changes``, how many there were.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

# Before torch: a fork of a process with threads may hang.
os.environ["OMP_NUM_THREADS"] = "1"


class Killer:
    """Counts what changes the folder, and signals at one of these: before it, within it, or after it."""

    def __init__(self, out: str, at: int | None, by: int) -> None:
        self.out, self.at, self.by = os.path.abspath(out), at, by
        self.changes = 0
        self.lock = threading.RLock()  # Ctrl-C is heard within it
        for name in ("open", "replace", "unlink", "mkdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        self._write = os.write
        os.write = self.write

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(path: Any, *args: Any, **more: Any) -> Any:
            reads = real.__name__ == "open" and args and not args[0] & (os.O_CREAT | os.O_WRONLY)
            if reads or not os.path.abspath(os.fsdecode(path)).startswith(self.out):
                return real(path, *args, **more)
            with self.lock:
                last = self._is_last()
                if last and self.changes % 2:
                    self._end()
                try:
                    return real(path, *args, **more)
                finally:
                    if last:
                        self._end()

        return change

    def write(self, descriptor: int, data: Any) -> int:
        with self.lock:
            written = 0
            if self._is_last():
                written = self._write(descriptor, bytes(data)[: len(data) // 2])
                self._end()
            return written + self._write(descriptor, bytes(data)[written:])

    def _is_last(self) -> bool:
        self.changes += 1
        return self.changes == self.at

    def _end(self) -> None:
        os.kill(os.getpid(), self.by)
        if self.by == signal.SIGKILL:
            threading.Event().wait()


def run(job: dict[str, Any]) -> dict[str, int]:
    known = set(sys.modules)
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        code = 99
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            real = os.write
            signal.signal(signal.SIGINT, signal.default_int_handler)
            killer = Killer(job["out"], job["at"], job["by"])
            from cnnviz.cli.app import main

            code = main(job["argv"])
            real(send, json.dumps([killer.changes, sorted(set(sys.modules) - known)]).encode())
        finally:
            os._exit(code)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        changes, modules = json.loads(stream.read() or "[0, []]")
    for name in modules:  # so that the next child need not
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "changes": changes}


if __name__ == "__main__":
    import cv2
    import torch

    from cnnviz.registry import lookup

    lookup.all_entries()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
