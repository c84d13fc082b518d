"""Several threads at once, in Python: what one of them does to a network or its passes is none of the others'."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, fx, nn

import cnnviz
from cnnviz.models.borrowing import borrowed
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace

_PATIENCE = 30.0


class Meeting(nn.Module):
    """Where every pass waits for that of the other thread, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier: list[threading.Barrier] = []

    def forward(self, x: Tensor) -> Tensor:
        for barrier in self.barrier:
            barrier.wait(_PATIENCE)
        return x


def _network(first: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        first,
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "saliency"])
def test_hooks_see_the_passes_of_their_own_thread(method: str) -> None:
    """Both threads have their hooks on the layer before either of them runs it."""
    meeting = Meeting()
    network = _network(meeting).eval()
    images = torch.randn(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def explained(image: Tensor) -> Tensor:
        return cnnviz.explain(network, image, method, target=2, tracing="off").raw

    alone = [explained(image) for image in images]
    assert (alone[0] - alone[1]).abs().max() > 0.1 * alone[0].abs().max()
    meeting.barrier = [threading.Barrier(2)]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(explained, images))
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


class Signalled(nn.Module):
    """Tells that its network is being traced, then waits until it may go on."""

    def __init__(self, seconds: float = _PATIENCE) -> None:
        super().__init__()
        self.begun: list[threading.Event] = [threading.Event()]
        self.go_on: list[threading.Event] = [threading.Event()]
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            self.begun[0].set()
            self.go_on[0].wait(self.seconds)
        return x


class Scaled(nn.Module):
    """Reads its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _nodes(network: nn.Module) -> list[tuple[str, str]]:
    graph = trace(network, torch.randn(1, 3, 24, 24), selector(None))
    assert graph is not None
    return [(node.op, str(node.target)) for node in graph.module.graph.nodes]


def test_what_other_threads_run_is_not_traced() -> None:
    signalled = Signalled()
    network = nn.Sequential(Scaled(), _network(signalled)).eval()
    other = nn.Sequential(Scaled(), nn.Conv2d(3, 2, 1)).eval()
    image = torch.randn(1, 3, 24, 24)
    expected = [other(image), network(image)]
    signalled.go_on[0].set()
    alone = _nodes(network)
    signalled.begun[0].clear()
    signalled.go_on[0].clear()
    with ThreadPoolExecutor(1) as threads:
        traced = threads.submit(_nodes, network)
        try:
            assert signalled.begun[0].wait(_PATIENCE)
            found = [other(image), network(image)]
        finally:
            signalled.go_on[0].set()
        assert traced.result() == alone
    for value, before in zip(found, expected, strict=True):
        assert type(value) is Tensor
        torch.testing.assert_close(value, before, rtol=0, atol=0)


def test_threads_trace_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first to begin is the first to end, ``nn.Module`` would be left as the second had found it."""
    called = nn.Module.__call__
    monkeypatch.setattr(nn.Module, "__call__", called)  # put back, whatever happens here
    first, second = Signalled(seconds=0.5), Signalled(seconds=5.0)
    networks = [_network(first).eval(), _network(second).eval()]
    first.go_on = second.begun
    ended = second.go_on[0]
    with ThreadPoolExecutor(2) as threads:
        begun = threads.submit(_nodes, networks[0])
        begun.add_done_callback(lambda done: ended.set())
        assert first.begun[0].wait(_PATIENCE)
        after = threads.submit(_nodes, networks[1])
        assert [len(done.result()) for done in (begun, after)] == [len(networks[0]) + 1] * 2
    assert nn.Module.__call__ is called


def test_a_network_is_given_back_by_the_last_who_borrowed_it() -> None:
    network = _network(nn.Identity()).train()
    network[1].weight.requires_grad_(False)
    flags = [p.requires_grad for p in network.parameters()]
    mean = network[2].running_mean.clone()
    inside, leave = threading.Event(), threading.Event()

    def borrows() -> None:
        with borrowed(network[:4]):  # parts of it, as a trunk that two networks share
            inside.set()
            leave.wait(_PATIENCE)

    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(borrows)
        try:
            assert inside.wait(_PATIENCE)
            with borrowed(network):
                leave.set()
                other.result()
                assert not any(part.training for part in network.modules())
                assert not any(p.requires_grad for p in network.parameters())
                network[2].running_mean.fill_(7.0)
        finally:
            leave.set()
    assert all(part.training for part in network.modules())
    assert [p.requires_grad for p in network.parameters()] == flags
    assert torch.equal(network[2].running_mean, mean)
