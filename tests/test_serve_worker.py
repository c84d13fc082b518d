"""The worker of the live explorer: one request after the other, and what is given up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cnnviz.engine.stopping import go_on
from cnnviz.serve.network import Latest
from cnnviz.serve.worker import CancelledError, Job, Jobs, StoppedError, SupersededError, Worker
from tests.support.serving import until_it_is_not_wanted


def test_a_request_that_waits_is_superseded_by_a_newer_one_of_its_view() -> None:
    worker, begun, go = Worker(), threading.Event(), threading.Event()
    running = worker.submit(lambda: (begun.set(), go.wait(20))[1], "map")
    assert begun.wait(20)
    old = worker.submit(lambda: "old", "map")
    other = worker.submit(lambda: "other", "layer")
    new = worker.submit(lambda: "new", "map")
    with pytest.raises(SupersededError):
        old.result(20)
    go.set()
    assert (running.result(20), other.result(20), new.result(20)) == (True, "other", "new")


@pytest.mark.parametrize("how", [CancelledError, SupersededError])
def test_a_request_that_runs_is_given_up(how: type[Exception]) -> None:
    worker, begun = Worker(), threading.Event()
    running = worker.submit(lambda: until_it_is_not_wanted(begun), "map")
    assert begun.wait(20)
    worker.cancel("layer")
    if how is CancelledError:
        worker.cancel("map")
    newer = worker.submit(lambda: (go_on(), "newer")[1], "map")
    with pytest.raises(how):
        running.result(20)
    assert newer.result(20) == "newer"
    go_on()


def test_a_worker_that_is_closed_gives_everything_up_and_takes_nothing() -> None:
    worker, begun = Worker(), threading.Event()
    running = worker.submit(lambda: until_it_is_not_wanted(begun))
    assert begun.wait(20)
    waiting = worker.submit(lambda: None)
    worker.close()
    for request in (running, waiting):
        with pytest.raises(StoppedError):
            request.result(10)
    with pytest.raises(StoppedError):
        worker.submit(lambda: None)


def test_of_a_job_and_a_request_that_it_lets_pass_the_request_is_given_up() -> None:
    worker, begun, passing, go = Worker(), threading.Event(), threading.Event(), threading.Event()

    def work(job: Job) -> dict[str, Any]:
        begun.set()
        go.wait(20)
        job.tell("half", 0.5)
        go_on()
        return {"made": True}

    job = Jobs(worker).start("long", work)
    assert begun.wait(20)
    request = worker.submit(lambda: until_it_is_not_wanted(passing), "map")
    go.set()
    assert passing.wait(20)
    worker.cancel("map")
    with pytest.raises(CancelledError):
        request.result(20)
    worker.submit(lambda: None).result(20)
    assert (job.state, job.result) == ("done", {"made": True})


def test_what_fails_fails_alone() -> None:
    worker = Worker()

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        worker.submit(fails).result(20)
    assert worker.submit(lambda: 3).result(20) == 3


def test_a_job_lets_requests_pass_between_its_steps() -> None:
    worker = Worker()
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def work(job: Job) -> dict[str, Any]:
        begun.set()
        go.wait(20)
        job.tell("half", 0.5)
        order.append("job")
        return {}

    job = Jobs(worker).start("long", work)
    assert begun.wait(20)
    passing = worker.submit(lambda: order.append("request"))
    go.set()
    passing.result(20)
    worker.submit(lambda: None).result(20)
    assert order == ["request", "job"]
    assert (job.state, job.text, job.share) == ("done", "half", 0.5)
    job.cancel()
    with pytest.raises(CancelledError):
        job.tell("more")


def test_what_is_kept_is_bounded_by_number_and_size() -> None:
    kept: Latest[str] = Latest(3, room=10)
    for number in range(5):
        kept.put(number, str(number), 1)
    assert [kept.get(number) for number in range(5)] == [None, None, "2", "3", "4"]
    kept.get(2)
    kept.put(5, "large", 9)
    assert [kept.get(number) for number in (2, 3, 4, 5)] == ["2", None, None, "large"]
    kept.put(6, "larger than all", 99)
    assert len(kept) == 1
    assert kept.once(6, lambda: "made again") == "larger than all"
