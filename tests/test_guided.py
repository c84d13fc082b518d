"""Rules at rectifiers: every spelling, what else reads a tensor, several calls, Guided Grad-CAM, units, records."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import open_session as opening
from cnnviz.engine import relu_rules
from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError
from tests.oracles import guided as oracle
from tests.support import kinds_of_networks as kinds
from tests.support.comparisons import closeness

close = closeness(1e-4)

RULES = ("backprop", "deconvnet", "guided")
EXPECTED_COUNTS = {
    "plain": {"relu": 3},
    "in-place": {"relu": 3},
    "functional": {"relu": 3},
    "method": {"relu": 3},
    "clamp": {"relu": 3},
    "relu6": {"relu": 0, "relu6": 3},
    "silu": {"relu": 0, "silu": 3},
    "max-pool": {"relu": 3},
    "no bias": {"relu": 3},
    "residual": {"relu": 2},
    "residual, no bias": {"relu": 2},
    "depthwise": {"relu": 0, "relu6": 2},
    "concat": {"relu": 2},
    "concat, no bias": {"relu": 2},
}


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_spelling(kind: str, rule: str, tracing: str) -> None:
    batch = kinds.images(2)
    found = cnnviz.explain(kinds.make(kind), batch, method="guided", rule=rule, target=[1, 2], tracing=tracing)
    for i, target in enumerate([1, 2]):
        expected = oracle.gradient(kind, batch[i], target, rule)
        close(found.raw[i], expected)
        close(found.maps[i], expected.abs().amax(0))
    assert found.facts["rule"] == rule
    if rule != "backprop":
        assert found.facts["rectified"] == EXPECTED_COUNTS[kind]
        assert found.facts["extended"] == (kind == "silu")


def test_what_a_run_tells_of_the_method_is_told_in_python() -> None:
    batch, network = kinds.images(1), kinds.make("plain")
    alone = cnnviz.explain(network, batch, "guided", target=1)
    assert any("guided backpropagation and deconvnet hardly depend on the class" in note for note in alone.notes)
    product = cnnviz.explain(network, batch, "guided", target=1, with_gradcam=True)
    assert not any("hardly depend" in note for note in product.notes)


class Branches(nn.Module):
    """y = relu(x) + k x, summed: another reader of the rectifier's input."""

    def __init__(self, k: float, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.k, self.relu = k, relu
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        inner = x * self.weight
        total = (self.relu(inner) + self.k * inner).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("relu", [nn.ReLU(), F.relu, nn.ReLU6(), lambda t: t.clamp(min=0)])
@pytest.mark.parametrize(
    ("k", "rule", "expected"),
    [
        (1, "backprop", (2, 1)), (1, "deconvnet", (2, 2)), (1, "guided", (2, 1)),
        (-2, "backprop", (-1, -2)), (-2, "deconvnet", (-1, -1)), (-2, "guided", (-1, -2)),
    ],
)  # fmt: skip
def test_other_readers_of_the_same_tensor_keep_their_gradient(
    k: float, rule: str, expected: tuple[float, float], relu: Callable[[Tensor], Tensor], tracing: str
) -> None:  # fmt: skip
    x = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2)
    found = cnnviz.explain(Branches(k, relu), x, method="guided", rule=rule, target=0, tracing=tracing)
    assert found.raw.flatten().tolist() == list(expected)


def test_a_clipped_unit_is_closed_and_masks_are_no_magnitudes() -> None:
    class Sum(nn.Module):
        def __init__(self, relu: nn.Module) -> None:
            super().__init__()
            self.relu = relu

        def forward(self, x: Tensor) -> Tensor:
            y = (self.relu(x) * torch.tensor([3.0, 3.0, 3.0, -3.0])).sum((1, 2, 3))
            return torch.stack([y, -y], 1)

    x = torch.tensor([-1.0, 0.25, 9.0, 4.0]).reshape(1, 1, 1, 4)

    def found(relu: nn.Module, rule: str) -> list[float]:
        return cnnviz.explain(Sum(relu), x, method="guided", rule=rule, target=0).raw.flatten().tolist()

    assert found(nn.ReLU6(), "guided") == [0, 3, 0, 0]
    assert found(nn.ReLU6(), "deconvnet") == [3, 3, 3, 0]
    assert found(nn.ReLU6(), "backprop") == [0, 3, 0, -3]
    assert found(nn.Hardtanh(0, 2), "guided") == [0, 3, 0, 0]
    assert found(nn.ReLU(), "guided") == [0, 3, 3, 0]


def test_one_module_that_runs_several_times() -> None:
    class Reused(nn.Module):
        def __init__(self, relu: nn.Module) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
            self.relu = relu

        def forward(self, x: Tensor) -> Tensor:
            for conv in self.convs:
                x = self.relu(conv(x))
            return x.mean((2, 3))

    batch = kinds.images(2)
    for rule in RULES:
        found = cnnviz.explain(Reused(nn.ReLU(inplace=True)), batch, method="guided", rule=rule, target=1)
        leaf = batch.double().requires_grad_()
        Reused(oracle.Ruled(rule)).double()(leaf)[:, 1].sum().backward()
        close(found.raw, leaf.grad)
        assert found.facts["rectified"] == {"relu": 0 if rule == "backprop" else 4}


def test_the_architecture_of_the_bundled_network() -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=7).eval()
    batch = torch.randn(1, 3, 32, 32)
    plain = cnnviz.explain(network, batch, method="saliency", target=3)
    for rule in ("guided", "deconvnet"):
        found = cnnviz.explain(network, batch, method="guided", rule=rule, target=3)
        leaf = batch.double().requires_grad_()
        oracle.with_ruled_modules(network, rule)(leaf)[:, 3].sum().backward()
        close(found.raw, leaf.grad, 1e-3)
        assert found.facts["rectified"] == {"relu": 0, "relu6": 33}
        assert float((found.raw / found.raw.norm() - plain.raw / plain.raw.norm()).norm()) > 0.5


def test_guided_gradcam_multiplies_before_it_scales() -> None:
    network, batch = kinds.make("in-place"), kinds.images(2)
    for layer in (None, "one"):
        found = cnnviz.explain(network, batch, method="guided", with_gradcam=True, target=[1, 2], layer=layer)
        cam = cnnviz.explain(network, batch, method="gradcam", target=[1, 2], layer=layer)
        assert found.layer == cam.layer
        for i, target in enumerate([1, 2]):
            exact = kinds.make("functional").double()
            x = batch[i : i + 1].double().requires_grad_()
            a = exact.one(x)
            b = F.relu(exact.two(F.relu(a)))
            z = exact.head(F.relu(exact.hidden(b.mean((2, 3)))))[0, target]
            at = b if layer is None else a
            (g,) = torch.autograd.grad(z, at)
            coarse = F.relu((g.mean((2, 3), keepdim=True) * at).sum(1, keepdim=True))
            fine = F.interpolate(coarse, batch.shape[2:], mode="bilinear", align_corners=False)[0]
            assert 0 < float((fine == 0).double().mean()) < 1 or layer is None
            expected = oracle.gradient("functional", batch[i], target, "guided") * fine
            close(found.raw[i], expected.detach())
    assert found.facts["with_gradcam"] is True


def test_a_unit_instead_of_a_class() -> None:
    network, batch = kinds.make("max-pool"), kinds.images(2)
    for layer, start in (("two", "activation"), ("one", "one")):
        found = cnnviz.explain(
            network, batch, method="guided", rule="deconvnet", unit=2, layer=layer, start=start, target=0
        )
        for i in range(2):
            exact = kinds.make("max-pool").double()
            relu, x = oracle.Ruled("deconvnet"), batch[i : i + 1].double().requires_grad_()
            a = exact.one(x)
            if layer == "two":
                a = exact.two(exact.pool(relu(a)))
            best = a[0, 2].max()
            at = int(a[0, 2].detach().argmax())
            seed = best.detach() if start == "activation" else torch.ones_like(best)
            (expected,) = torch.autograd.grad(best, x, seed)
            close(found.raw[i], expected[0])
            assert found.scores["unit_activation"][i] == pytest.approx(best.item(), rel=1e-4)
            assert found.scores["unit_position"][i] == list(divmod(at, a.shape[3]))
    with pytest.raises(CnnvizError, match="Unit 8 does not exist: layer two has 8"):
        cnnviz.explain(network, batch, method="guided", unit=8, layer="two")
    with pytest.raises(CnnvizError, match="not a unit"):
        cnnviz.explain(network, batch, method="guided", unit=1, with_gradcam=True)


def test_a_strict_rule_refuses_other_activations() -> None:
    batch = kinds.images(1)
    with pytest.raises(CnnvizError, match="also has 3 silu") as caught:
        cnnviz.explain(kinds.make("silu"), batch, method="guided", strict_rule=True)
    assert "--strict-rule" in str(caught.value.hint)
    for kind in ("relu6", "clamp", "residual"):
        cnnviz.explain(kinds.make(kind), batch, method="guided", strict_rule=True)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(0)

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g


def test_what_cannot_be_looked_into_is_told() -> None:
    # A trace goes through such a function and finds the clamp in it.
    assert cnnviz.explain(_net_of_its_own(), kinds.images(1), method="guided").facts["rectified"] == {"relu": 1}
    found = cnnviz.explain(_net_of_its_own(), kinds.images(1), method="guided", tracing="off")
    assert found.facts["left_alone"] == {"_OwnBackward": 1}
    with pytest.raises(CnnvizError, match="1 _OwnBackward"):
        cnnviz.explain(_net_of_its_own(), kinds.images(1), method="guided", strict_rule=True, tracing="off")


def _net_of_its_own() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return _Own.apply(self.conv(x)).mean((2, 3))

    return Net()


@pytest.mark.parametrize(
    ("act", "name"),
    [(F.gelu, "gelu"), (F.hardswish, "hardswish"), (F.leaky_relu, "leaky_relu"), (F.elu, "elu"), (F.selu, "elu"),
     (F.mish, "mish"), (F.softplus, "softplus"), (nn.PReLU(), "prelu"), (F.celu, "celu")],
)  # fmt: skip
def test_other_activations_are_rectified_and_counted(act: Callable[[Tensor], Tensor], name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = act
            self.register_buffer("sign", torch.tensor([1.0, -1.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            y = (self.act(x).mean((2, 3)) * self.sign).sum(1)
            return torch.stack([y, -y], 1)

    batch = kinds.images(1)
    leaf = batch.clone().requires_grad_()
    slope = torch.autograd.grad(act(leaf).sum(), leaf)[0] / 80
    guided = cnnviz.explain(Net(), batch, method="guided", target=0)
    assert guided.facts["rectified"] == {"relu": 0, name: 1}
    assert guided.facts["extended"] is True
    open_ = torch.tensor([1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    close(guided.raw, slope * open_)
    deconvnet = cnnviz.explain(Net(), batch, method="guided", rule="deconvnet", target=0)
    close(deconvnet.raw, (open_ / 80).expand_as(batch))


def test_the_mode_ends_with_its_scope() -> None:
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    scores = F.relu(-F.relu(x) + 5).sum()

    def gradient() -> list[float]:
        return torch.autograd.grad(scores, x, retain_graph=True)[0].tolist()

    plain = gradient()
    with relu_rules.applied(scores, "deconvnet") as found:
        assert gradient() == [0, 0]
    assert found.rectified() == {"relu": 2}
    assert gradient() == plain == [-1, 0]
    with pytest.raises(KeyboardInterrupt), relu_rules.applied(scores, "guided"):
        raise KeyboardInterrupt
    assert gradient() == plain
    with relu_rules.applied(scores, "guided"):
        gc.collect()  # the nodes' Python objects may go; the rule stays
        assert gradient() == [0, 0]


def test_several_targets_of_one_pass() -> None:
    network, batch = kinds.make("residual"), kinds.images(2)
    model_like = [cnnviz.explain(network, batch, method="guided", target=k).raw for k in (0, 1, 0)]
    assert torch.equal(model_like[0], model_like[2])
    from cnnviz.engine import runtime as rt
    from cnnviz.engine.targets import ClassTarget
    from cnnviz.methods.gradient.guided_backprop import guided
    from cnnviz.registry.gradients import GuidedOptions

    params = GuidedOptions(with_gradcam=True, strict_rule=True, start="one")
    options = opening.SessionOptions(Cut.at_image(""), private=False)
    with opening.open_session(network, "net", (3, 8, 10), rt.resolve("cpu"), options) as opened:
        run = opened.forward(batch)
        first, second, again = (guided(run, ClassTarget(torch.tensor([k, k])), params).values for k in (0, 1, 0))
        plain = run.gradients(run.logits[:, 0], (0,))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    close(plain, cnnviz.explain(network, batch, method="saliency", target=0).raw)


def test_module_and_inplace_flags_are_left_as_found() -> None:
    network, batch = kinds.make("in-place").train(), kinds.images(2)
    before = [(name, id(m), m.training, getattr(m, "inplace", None)) for name, m in network.named_modules()]
    cnnviz.explain(network, batch, method="guided", with_gradcam=True)
    with pytest.raises(CnnvizError):
        cnnviz.explain(network, batch, method="guided", unit=99)
    after = [(name, id(m), m.training, getattr(m, "inplace", None)) for name, m in network.named_modules()]
    assert before == after
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.peers
@pytest.mark.parametrize(("peer", "rule"), [("GuidedBackprop", "guided"), ("Deconvolution", "deconvnet")])
def test_captum_agrees_on_relu_modules_without_other_readers(peer: str, rule: str) -> None:
    import warnings

    from captum import attr

    network, batch = kinds.make("max-pool"), kinds.images(2)
    ours = cnnviz.explain(network, batch, method="guided", rule=rule, target=1)
    separate = nn.Sequential(
        network.one, nn.ReLU(), network.pool, network.two, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        network.hidden, nn.ReLU(), network.head,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(attr, peer)(separate).attribute(batch.clone().requires_grad_(), target=1)
    np.testing.assert_allclose(ours.raw, theirs.detach(), atol=1e-5)
