"""Stretches of a head in one piece: their gradients are those of the plain modules in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import open_session as opening
from cnnviz.engine import relu_rules
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.prepare import stretch as stretches
from cnnviz.engine.prepare.transposed import TransposedConv
from cnnviz.engine.session import Session
from tests.support import networks as nets

CPU = rt.Runtime(torch.device("cpu"), "fp32")
SIZE = (15, 18)

pytestmark = pytest.mark.skipif(not rt.packable(torch.device("cpu")), reason="no packed convolutions")


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here have few weights, with which it would not pay."""
    monkeypatch.setattr(stretches, "_MANY", 1)


class Stages(nn.Module):
    """Residual blocks, one with a stride; sums of a sum, of a value with itself, and of a branch that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down, self.conv3 = nn.Conv2d(16, 32, 1, 2), nn.Conv2d(16, 32, 3, 2, 1)
        self.shared = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.classify = nn.Linear(32, 5)
        self.relu, self.relu6 = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.norm(self.stem(x))), 2, 1)
        x = self.relu(self.conv2(self.relu(self.conv1(x))) + x)
        x = self.relu6(self.conv3(x) + self.down(x))
        y = self.shared(x)
        x = F.relu6(self.shared(y) + (y + y) + x)
        return self.classify(x.mean((2, 3)))


class Branches(nn.Module):
    """Branches that leave a stretch beside each other, and a sum of two inputs of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.classify = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.a(x)), self.b(x)
        both = torch.cat([a, F.relu(b)], 1)
        c = self.c(F.relu(torch.tanh(b) + torch.sigmoid(a)))
        return self.classify((both * c).mean((2, 3)))


class Anchored(nn.Module):
    """A convolution added to what it reads, and one of a parameter, which has one row in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.anchor = nn.Parameter(torch.linspace(-1, 1, 8 * SIZE[0] * SIZE[1]).view(1, 8, *SIZE))
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = F.relu(self.b(x) + x)
        return self.classify(F.relu(self.c(self.anchor) + x).mean((2, 3)))


NETWORKS = {"stages": Stages, "branches": Branches}


def opened(network: nn.Module, *layers: str, runtime: rt.Runtime = CPU) -> Session:
    options = opening.SessionOptions(cut=Cut.at_image(*layers))
    return opening.prepare(network.requires_grad_(False), "toy", (3, *SIZE), runtime, options)


def count(session: Session) -> int:
    assert session.split is not None
    assert isinstance(session.split.head, nn.Module)
    return sum(isinstance(part, stretches.Stretch) for part in session.split.head.modules())


def exact_gradient(network: nn.Module, x: Tensor, target: int) -> Tensor:
    leaf = x.double().requires_grad_()
    return torch.autograd.grad(copy.deepcopy(network).double()(leaf)[:, target].sum(), leaf)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_those_in_float64(name: str) -> None:
    """Of several targets of one pass, one after the other, at other sizes than the probe's."""
    network = nets.seeded(NETWORKS[name])()
    session = opened(network)
    assert session.preparation == "packed"
    assert count(session) >= 2
    for size in (SIZE, (24, 20)):
        x = nets.images(3, size)
        run = session.forward(x)
        torch.testing.assert_close(run.logits.detach(), network(x), rtol=0, atol=1e-5)
        for target in (1, 3, 1):
            wanted = exact_gradient(network, x, target)
            [found] = run.gradients(run.logits[:, target])
            torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_what_a_convolution_reads_itself_and_what_has_one_row_are_added() -> None:
    """Neither is written over, and the probe's one image is not every batch."""
    network = nets.seeded(Anchored)()
    session, x = opened(network), nets.images(3, SIZE)
    assert session.preparation == "packed"
    assert count(session) == 1
    run = session.forward(x)
    torch.testing.assert_close(run.logits.detach(), network(x), rtol=0, atol=1e-5)
    wanted = exact_gradient(network, x, 1)
    [found] = run.gradients(run.logits[:, 1])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", [name for name, toy in nets.TOYS.items() if toy.traces])
def test_the_networks_of_the_tests(name: str) -> None:
    network = nets.TOYS[name].build()
    x = nets.images(2)
    options = opening.SessionOptions(cut=Cut.at_image())
    run = opening.prepare(network.requires_grad_(False), name, (3, 12, 16), CPU, options).forward(x)
    wanted = exact_gradient(network, x, 0)
    [found] = run.gradients(run.logits[:, 0])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_second_derivatives_are_those_of_the_plain_modules(name: str) -> None:
    """d/dx of |dz/dx|^2 in float64, and the gradient on the way to it."""
    network = nets.seeded(NETWORKS[name])()
    session, x = opened(network), nets.images(2, SIZE)
    leaf = x.double().requires_grad_()
    exact = copy.deepcopy(network).double()
    [first] = torch.autograd.grad(exact(leaf)[:, 2].square().sum(), leaf, create_graph=True)
    [wanted] = torch.autograd.grad(first.square().sum(), leaf)
    first = first.detach()
    run = session.forward(x)
    [gradient] = torch.autograd.grad(run.logits[:, 2].square().sum(), run.activations[0], create_graph=True)
    torch.testing.assert_close(gradient.detach().double(), first, rtol=0, atol=1e-5 * float(first.abs().max()))
    [found] = torch.autograd.grad(gradient.square().sum(), run.activations[0])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("rule", relu_rules.RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_rules_hold_inside(name: str, rule: str) -> None:
    """As on the plain modules, rectifier by rectifier; the rule is gone afterwards."""
    network = nets.seeded(NETWORKS[name])()
    session, x = opened(network), nets.images(2, SIZE)
    assert session.split is not None
    leaf = x.clone().requires_grad_()
    plain = session.split.readable(leaf)[0][:, 1].sum()
    run = session.forward(x)
    score = run.logits[:, 1].sum()
    with relu_rules.applied(plain, rule) as there, relu_rules.applied(score, rule, strict=name == "stages") as here:
        [wanted] = torch.autograd.grad(plain, leaf, retain_graph=True)
        [found] = torch.autograd.grad(score, run.activations[0], retain_graph=True)
    assert here.rectified() == there.rectified()
    assert not here.hidden
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    wanted = exact_gradient(network, x, 1)
    [again] = torch.autograd.grad(score, run.activations[0])
    torch.testing.assert_close(again.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_layers_inside_have_their_gradients() -> None:
    """Explained layers end a stretch; a gradient that was handed out is not written to by what follows."""
    network = nets.seeded(Stages)()
    session, x = opened(network, "conv1", "down"), nets.images(2, SIZE)
    run = session.forward(x)
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, value: Tensor) -> Tensor:
            caught[name] = value.requires_grad_() if not value.requires_grad else value
            return caught[name].clone()  # what follows may work in place

        return hook

    exact = copy.deepcopy(network).double()
    for name in ("conv1", "down"):
        exact.get_submodule(name).register_forward_hook(keep(name))
    leaf = x.double().requires_grad_()
    score = exact(leaf)[:, 1].sum()
    wanted = torch.autograd.grad(score, [leaf, caught["conv1"], caught["down"]])
    for found, there in zip(run.gradients(run.logits[:, 1]), wanted, strict=True):
        torch.testing.assert_close(found.double(), there, rtol=0, atol=1e-5 * float(there.abs().max()))


def test_a_batch_gives_what_its_images_give_alone() -> None:
    network = nets.seeded(Stages)()
    session, x = opened(network), nets.images(4, SIZE)

    def gradient(batch: Tensor) -> Tensor:
        run = session.forward(batch)
        return run.gradients(run.logits[:, 0])[0]

    alone = torch.cat([gradient(image) for image in x.split(1)])
    torch.testing.assert_close(gradient(x), alone, rtol=0, atol=1e-5 * float(alone.abs().max()))


def test_the_network_is_left_as_found_also_by_a_gradient_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nets.seeded(Stages)()
    before = copy.deepcopy(network.state_dict())
    session, x = opened(network), nets.images(2, SIZE)
    run = session.forward(x)
    [wanted] = run.gradients(run.logits[:, 0])
    with monkeypatch.context() as patch:
        patch.setattr(TransposedConv, "_before", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.gradients(run.logits[:, 0])
    [again] = run.gradients(run.logits[:, 0])
    assert torch.equal(again, wanted)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.relu.inplace
    assert type(network.conv1) is nn.Conv2d


@pytest.mark.parametrize("fault", ["shifted", "raises"])
def test_a_wrong_gradient_is_found_and_the_next_preparation_taken(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TransposedConv.__call__

    def wrong(self: Any, gradient: Tensor, size: Any, into: Tensor | None = None) -> Tensor:
        if fault == "raises":
            raise RuntimeError("could not create a primitive descriptor")
        return honest(self, gradient, size, into).roll(1, 3)

    monkeypatch.setattr(TransposedConv, "__call__", wrong)
    network = nets.seeded(Stages)()
    session, x = opened(network), nets.images(2, SIZE)
    assert session.preparation == "folded"
    run = session.forward(x)
    wanted = exact_gradient(network, x, 1)
    [found] = run.gradients(run.logits[:, 1])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_what_does_not_pay_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few convolutions with few weights; one with many, and many with few, are joined."""
    monkeypatch.undo()
    assert count(opened(nets.seeded(Branches)())) == 0
    assert count(opened(nets.seeded(Stages)())) == 1  # the stem is alone, what follows has five
    monkeypatch.setattr(stretches, "_MANY", Stages().stem.weight.numel())
    assert count(opened(nets.seeded(Stages)())) == 2


def test_bf16_rounds_gradients_and_no_activations() -> None:
    network = nets.seeded(Stages)()
    session, x = opened(network, runtime=rt.Runtime(torch.device("cpu"), "bf16")), nets.images(3, SIZE)
    assert session.split is not None
    assert (session.split.trunk_dtype, session.split.head_dtype) == (torch.float32, torch.float32)
    assert session.split.gradient_dtype == torch.bfloat16
    run = session.forward(x)
    torch.testing.assert_close(run.logits.detach(), network(x), rtol=0, atol=1e-5)
    wanted = exact_gradient(network, x, 1)
    [found] = run.gradients(run.logits[:, 1])
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-4 < error < 1e-2
