"""One request after the other: a thread that computes, and jobs that can be watched and cancelled."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cnnviz.engine.stopping import GivenUpError, while_wanted
from cnnviz.errors import CnnvizError, first_line

T = TypeVar("T")

MOST_WAITING = 200
_MOST_JOBS = 50


class SupersededError(Exception):
    """A newer request of the same view came before this one began."""


class CancelledError(Exception):
    """Somebody cancelled what was being computed."""


class StoppedError(Exception):
    """The server ended before it was computed."""


@dataclass(eq=False)
class _Task:
    work: Callable[[], Any]
    view: str | None
    future: Future[Any] = field(default_factory=Future)
    unwanted: Exception | None = None

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            with while_wanted(lambda: self.unwanted is not None):
                self.future.set_result(self.work())
        except GivenUpError:
            self.future.set_exception(self.unwanted)
        except BaseException as error:
            self.future.set_exception(error)


class Worker:
    """A thread in which everything is computed, in the order in which it was asked for.

    A request is dropped when a newer one of its view comes; one that runs, between two of its passes. A job lets
    requests that came meanwhile pass whenever it tells of its progress: they run in the same thread, between two of
    its steps.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Task] = []
        self._jobs: list[_Task] = []
        self._running: list[_Task] = []
        self._busy = self._closed = False
        # A daemon: Ctrl-C waits for no network.
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something runs or waits."""
        with self._changed:
            return self._busy or bool(self._waiting or self._jobs)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        with self._changed:
            return len(self._waiting)

    def submit(self, work: Callable[[], T], view: str | None = None) -> Future[T]:
        """Compute something as soon as what came before is done.

        Args:
            work: What is to be done.
            view: Which part of a page waits for it; older requests of it get a :class:`SupersededError`.

        Raises:
            CnnvizError: Very many wait already.
            StoppedError: It was closed.
        """
        task = _Task(work, view)
        with self._changed:
            if self._closed:
                raise StoppedError
            self._drop(view, SupersededError())
            if len(self._waiting) >= MOST_WAITING:
                raise CnnvizError(f"{MOST_WAITING} requests wait already.", "Wait until some are done.")
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    def cancel(self, view: str) -> None:
        """Give up the requests of a view; they get a :class:`CancelledError`."""
        with self._changed:
            self._drop(view, CancelledError())

    def forget(self, future: Future[Any]) -> None:
        """Give up a request for which nobody waits any more; nothing, if it is done."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.future is not future]
            for running in self._running:
                if running.future is future:
                    running.unwanted = running.unwanted or CancelledError()

    def close(self) -> None:
        """Give up everything, and take nothing more; all requests get a :class:`StoppedError`."""
        with self._changed:
            self._closed = True
            for waiting in self._waiting:
                waiting.future.set_exception(StoppedError())
            self._waiting, self._jobs = [], []
            for running in self._running:
                running.unwanted = running.unwanted or StoppedError()

    def _drop(self, view: str | None, why: Exception) -> None:
        if view is None:
            return
        for older in [each for each in self._waiting if each.view == view]:
            self._waiting.remove(older)
            older.future.set_exception(why)
        for running in self._running:
            if running.view == view:
                running.unwanted = running.unwanted or why

    def submit_job(self, work: Callable[[], Any]) -> None:
        """Compute something long, when no request waits."""
        with self._changed:
            self._jobs.append(_Task(work, None))
            self._changed.notify()

    def let_pass(self) -> None:
        """From within a job: answer the requests that came meanwhile."""
        while (task := self._next(jobs=False)) is not None:
            self._run(task)

    def _run(self, task: _Task) -> None:
        try:
            task.run()
        finally:
            with self._changed:
                self._running.remove(task)

    def _next(self, *, jobs: bool) -> _Task | None:
        with self._changed:
            first = self._waiting or (self._jobs if jobs else [])
            if not first:
                return None
            self._running.append(first[0])
            return first.pop(0)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.wait_for(lambda: self._waiting or self._jobs)
                self._busy = True
            task = self._next(jobs=True)
            if task is not None:
                self._run(task)


@dataclass(eq=False)
class Job:
    """Something long, as it stands.

    Attributes:
        key: Names it in requests.
        kind: What is made.
        state: ``waiting``, ``running``, ``done``, ``failed`` or ``cancelled``.
        text: How far it is, or why it failed.
        share: How far it is, 0 to 1, where that is known.
        result: What came of it, plain JSON.
        files: Pictures that came of it, by name.
    """

    key: str
    kind: str
    state: str = "waiting"
    text: str = ""
    share: float | None = None
    result: dict[str, Any] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _pass: Callable[[], None] = lambda: None

    def to_dict(self) -> dict[str, Any]:
        """As the page gets it."""
        row = {"job": self.key, "kind": self.kind, "state": self.state, "text": self.text, "share": self.share}
        return {**row, "result": self.result, "files": sorted(self.files)}

    def tell(self, text: str, share: float | None = None) -> None:
        """From within: say how far it is, and let other requests pass.

        Raises:
            CancelledError: Somebody cancelled it.
        """
        if self._cancelled.is_set():
            raise CancelledError
        self.text, self.share = text, share
        self._pass()
        if self._cancelled.is_set():
            raise CancelledError

    def cancel(self) -> None:
        """End it at its next step."""
        self._cancelled.set()


class Jobs:
    """The jobs of a worker, the last ones kept.

    Args:
        worker: Runs them.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._jobs: dict[str, Job] = {}

    def start(self, kind: str, work: Callable[[Job], Mapping[str, Any]]) -> Job:
        """Begin a job.

        Args:
            kind: What is made.
            work: Makes it, telling the job how far it is; returns what came of it.
        """
        job = Job(secrets.token_hex(8), kind, _pass=self._worker.let_pass)
        self._jobs[job.key] = job
        for old in list(self._jobs)[:-_MOST_JOBS]:
            self._jobs.pop(old).cancel()
        self._worker.submit_job(lambda: self._run(job, work))
        return job

    def find(self, key: str) -> Job:
        """A job by its key.

        Raises:
            CnnvizError: There is none.
        """
        if key not in self._jobs:
            raise CnnvizError("This job is not here any more.", "Start it again.")
        return self._jobs[key]

    @staticmethod
    def _run(job: Job, work: Callable[[Job], Mapping[str, Any]]) -> None:
        job.state = "running"
        try:
            with contextlib.suppress(CancelledError):
                job.tell("")
                job.result = dict(work(job))
                job.state = "done"
                return
            job.state, job.text = "cancelled", "cancelled"
        except CnnvizError as error:
            job.state, job.text = "failed", str(error)
        except Exception as error:
            job.state, job.text = "failed", first_line(error)
