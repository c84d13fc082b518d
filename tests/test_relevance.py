"""Excitation backprop and LRP against dense matrices in float64; what must be conserved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.targets import ClassTarget
from cnnviz.errors import CnnvizError
from cnnviz.methods.relevance.lrp import lrp
from cnnviz.registry.relevance import LRPOptions
from tests.oracles import relevance as oracle
from tests.support import kinds_of_networks as kinds
from tests.support.comparisons import closeness

close = closeness(1e-3)

BATCH = kinds.images(2, (7, 8))
WITHOUT_BIAS = ("no bias", "residual, no bias", "concat, no bias")
RULES = {
    "epsilon": oracle.Rule("epsilon", epsilon=0.01),
    "alpha-beta": oracle.Rule("alpha-beta", alpha=2.0),
    "composite": oracle.Rule("composite", epsilon=1e-6),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_lrp_by_its_formulas(kind: str, rule: str) -> None:
    how = RULES[rule]
    options = {"rule": rule, "epsilon": how.epsilon, "alpha": how.alpha}
    found = cnnviz.explain(kinds.make(kind), BATCH, method="lrp", target=[1, 2], **options)
    for i, target in enumerate([1, 2]):
        expected, logit = oracle.relevance(kind, BATCH[i], target, how)
        close(found.raw[i], expected)
        close(found.maps[i], expected.sum(0))
        gap = logit - float(expected.sum())
        assert found.scores["conservation_gap"][i] == pytest.approx(gap, abs=1e-3 * np.abs(expected).sum())
    assert sum(found.facts["layers"].values()) == {"residual": 3, "residual, no bias": 3, "concat": 3,
                                                  "concat, no bias": 3}.get(kind, 4)  # fmt: skip


def test_what_the_bias_of_a_depthwise_convolution_keeps_by_hand() -> None:
    """One channel, one neuron: 3 w+ x against the bias; and a neuron that its bias alone excites hands on nothing."""
    network = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, (1, 3), groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)
    ).eval()
    first, deep, head = network[0], network[1], network[4]
    with torch.no_grad():
        first.weight.fill_(1 / 3)
        first.bias.fill_(0)
        deep.weight.copy_(torch.tensor([[[[1.0, 2.0, -1.0]]], [[[-1.0, -1.0, -1.0]]]]))
        deep.bias.copy_(torch.tensor([6.0, 8.0]))
        head.weight.copy_(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        head.bias.fill_(0)
    image = torch.tensor([1.0, 1.0, 1.0]).expand(1, 3, 1, 3)
    # Neuron 1 is 1 + 2 - 1 + 6 = 8, of which the inputs hold 3 / 9; neuron 2 is 8 - 3 = 5, all of it its bias's.
    found = cnnviz.explain(network, image, method="lrp", target=0, epsilon=0)
    assert float(found.logits[0, 0]) == pytest.approx(8 + 3 * 5)
    assert float(found.raw.sum()) == pytest.approx(8 * 3 / 9, rel=1e-5)
    assert found.scores["gap_share"][0] == pytest.approx(1 - 8 * 3 / 9 / 23, rel=1e-5)
    ignored = cnnviz.explain(network, image, method="lrp", target=0, epsilon=0, bias="ignore")
    assert float(ignored.raw.sum()) == pytest.approx(8, rel=1e-5)


# Alpha 2 beta 1 does not conserve where all that reaches a neuron has one sign, which happens in the third network.
@pytest.mark.parametrize(
    ("kind", "rule"), [(k, r) for k in WITHOUT_BIAS for r in RULES if (k, r) != (WITHOUT_BIAS[2], "alpha-beta")]
)
def test_lrp_conserves_without_biases(kind: str, rule: str) -> None:
    found = cnnviz.explain(kinds.make(kind), BATCH, method="lrp", target=2, rule=rule, epsilon=0)
    logits = found.logits[:, 2]
    for i in range(2):
        assert float(found.raw[i].double().sum()) == pytest.approx(float(logits[i]), rel=1e-3)
        assert abs(found.scores["conservation_gap"][i]) < 1e-3 * abs(float(logits[i]))


@pytest.mark.parametrize("rule", ["epsilon", "composite"])
@pytest.mark.parametrize("kind", ["plain", "relu6", "residual", "concat"])
def test_lrp_that_ignores_biases_conserves(kind: str, rule: str) -> None:
    found = cnnviz.explain(kinds.make(kind), BATCH, method="lrp", target=2, rule=rule, bias="ignore", epsilon=1e-9)
    how = oracle.Rule(rule, epsilon=1e-9, ignore_bias=True)
    for i in range(2):
        expected, logit = oracle.relevance(kind, BATCH[i], 2, how)
        close(found.raw[i], expected, 0.01)
        assert float(expected.sum()) == pytest.approx(logit, rel=1e-4)
        assert abs(found.scores["conservation_gap"][i]) < 0.01 * float(np.abs(expected).sum())


def test_the_epsilon_rule_without_biases_overflows() -> None:
    """Neurons 1 - 1 + bias 1: each layer multiplies what it hands back by 1 / epsilon, and by -1 / epsilon."""

    def network(depth: int) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs in (3, *[2] * (depth - 1)):
            layer = nn.Conv2d(inputs, 2, 1)
            with torch.no_grad():
                layer.weight.zero_()
                layer.weight[0, :2, 0, 0] = torch.tensor([1.0, -1.0])
                layer.bias.fill_(1)
            layers += [layer, nn.ReLU()]
        head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            head.weight.copy_(torch.eye(2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()

    ones = torch.ones(1, 3, 4, 4)
    options: dict[str, Any] = {"rule": "epsilon", "bias": "ignore", "epsilon": 1e-6}
    found = cnnviz.explain(network(3), ones, "lrp", target=0, **options).raw[0]
    by_hand = torch.tensor([1e18, -1e18, 0]).reshape(3, 1, 1).expand(3, 4, 4) / 16
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=0)
    with pytest.raises(CnnvizError, match="LRP overflows") as refused:
        cnnviz.explain(network(8), ones, "lrp", target=0, **options)
    assert "--rule composite" in str(refused.value.hint)


@pytest.mark.parametrize("kind", ["plain", "functional", "clamp", "max-pool", "residual", "concat", "no bias"])
def test_lrp_with_epsilon_zero_is_gradient_times_input(kind: str) -> None:
    network = kinds.make(kind)
    found = cnnviz.explain(network, BATCH, method="lrp", rule="epsilon", epsilon=0, target=1)
    plain = cnnviz.explain(network, BATCH, method="gradient_x_input", target=1)
    close(found.raw, plain.raw, 1e-4)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_excitation_backprop_by_its_formula(kind: str) -> None:
    network = kinds.make(kind)
    # Before its activation, which hands on all it gets.
    layer = {"Plain": "one", "Residual": "norm", "Concat": "one", "Depthwise": "body.0"}[type(network).__name__]
    options = {"method": "excitation_backprop", "target": [1, 2], "layer": layer}
    found = cnnviz.explain(network, BATCH, **options)
    contrast = cnnviz.explain(network, BATCH, contrastive=True, **options)
    for i, target in enumerate([1, 2]):
        win, _ = oracle.relevance(kind, BATCH[i], target, oracle.Rule("excitation"), at="hidden")
        dual, _ = oracle.relevance(kind, BATCH[i], target, oracle.Rule("dual"), at="hidden")
        close(found.raw[i], win.sum(0))
        close(contrast.raw[i], np.maximum(win.sum(0) - dual.sum(0), 0))
        assert found.scores["conservation_gap"][i] == pytest.approx(1 - win.sum(), abs=1e-4)
    assert float(found.raw.min()) >= 0


@pytest.mark.parametrize("kind", ["no bias", "concat, no bias", "residual, no bias"])
def test_excitation_backprop_conserves_without_biases(kind: str) -> None:
    network = kinds.make(kind)
    for layer in (None, "two", "one"):
        found = cnnviz.explain(network, BATCH, method="excitation_backprop", target=2, layer=layer)
        around = kind.startswith(("residual", "concat")) and layer == "two"
        for i in range(2):
            total = float(found.raw[i].double().sum())
            assert (total < 0.999) if around else (total == pytest.approx(1, abs=1e-4))
            assert found.scores["conservation_gap"][i] == pytest.approx(1 - total, abs=1e-4)


class Gated(nn.Module):
    """Squeeze and excitation, a hand-written swish, a layer scale and a group norm: what LRP must still conserve."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.gate = nn.Sigmoid()
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.one(x))
        x = x * self.gate(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = x * torch.sigmoid(x)
        x = self.norm(x * self.scale) + x
        return self.head(x.mean((2, 3)))


def test_lrp_conserves_through_gates_and_norms() -> None:
    torch.manual_seed(5)
    network = Gated().eval()
    for rule in RULES:
        found = cnnviz.explain(network, BATCH, method="lrp", rule=rule, epsilon=0, target=[1, 3])
        for i, target in enumerate([1, 3]):
            assert float(found.raw[i].double().sum()) == pytest.approx(float(found.logits[i, target]), rel=2e-3)


class ByName(Gated):
    """The same with its second factors given by name."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.one(x))
        x = torch.mul(x, other=self.gate(self.squeeze(x.mean((2, 3), keepdim=True))))
        x = torch.mul(x, other=torch.sigmoid(x))
        x = self.norm(x * self.scale) + x
        return self.head(x.mean((2, 3)))


def test_a_factor_that_is_given_by_name_is_one() -> None:
    torch.manual_seed(5)
    network, named = Gated().eval(), ByName().eval()
    named.load_state_dict(network.state_dict())
    for method in ("lrp", "deeplift"):
        plain, found = (cnnviz.explain(each, BATCH, method=method, target=[1, 3]).raw for each in (network, named))
        close(found, plain, 1e-5)


def test_lrp_of_a_difference_of_classes() -> None:
    network = kinds.make("residual")
    one, two, both = (
        cnnviz.explain(network, BATCH, method="lrp", target=target).raw
        for target in (1, 3, lambda z: z[:, 1] - z[:, 3])
    )
    close(both, one - two, 1e-4)


@pytest.mark.parametrize(("method", "options"), [("lrp", {}), ("excitation_backprop", {"contrastive": True})])
def test_a_batch_gives_what_its_images_give_alone(method: str, options: dict[str, object]) -> None:
    network, batch = kinds.make("residual"), kinds.images(3)
    together = cnnviz.explain(network, batch, method=method, target=[0, 1, 2], **options)
    for i in range(3):
        alone = cnnviz.explain(network, batch[i : i + 1], method=method, target=i, **options)
        close(together.raw[i], alone.raw[0], 1e-5)


def test_threads_do_not_disturb_each_other() -> None:
    network = kinds.make("residual").requires_grad_(False)
    batch = kinds.images(1, (40, 40))
    options = opening.SessionOptions(Cut.at_image())
    with opening.open_session(network, "net", (3, 40, 40), rt.resolve("cpu"), options) as opened:

        def relevance(target: int) -> Tensor:
            with rt.scope():
                params = LRPOptions(rule="alpha-beta")
                return lrp(opened.forward(batch), ClassTarget(torch.tensor([target])), params).values

        alone = [relevance(k) for k in range(4)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(relevance, [0, 1, 2, 3] * 12))
    for index, found in enumerate(together):
        close(found, alone[index % 4], 1e-5)


class _Named(nn.Linear):
    """As timm's ``Linear``: a subclass that computes what its parent does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        )
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight.reshape_as(self.weight), self.bias)


def _small(conv: nn.Module, head: type[nn.Linear] = nn.Linear) -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(
        conv, nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(4, 3)
    ).eval()


@pytest.mark.parametrize(
    ("method", "options"),
    [("lrp", {}), ("lrp", {"rule": "alpha-beta"}), ("excitation_backprop", {"layer": "0"})],
)
def test_subclasses_of_layers_count_as_what_they_compute(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    for made in (_Standardised(3, 4, 3), nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))):
        made.eval()
        plain = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            weight = made.weight
            if isinstance(made, _Standardised):
                rows = made.weight.flatten(1).double()
                rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
                weight = rows.reshape(made.weight.shape).float()
            plain.weight.copy_(weight)
            plain.bias.copy_(made.bias)
        padded = nn.ZeroPad2d((1, 0, 1, 0)) if isinstance(made, _Standardised) else nn.Identity()
        found = cnnviz.explain(_small(made, _Named), BATCH, method=method, target=1, **options)
        where = {"layer": "0.1"} if options.get("layer") else {}
        expected = cnnviz.explain(
            _small(nn.Sequential(padded, plain)), BATCH, method=method, target=1, **{**options, **where}
        )
        close(found.raw, expected.raw, 1e-4)


class _Divided(nn.Module):
    """Normalisations written by hand: a norm that values are divided by, and the functions for it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 1, bias=False)
        self.norm, self.head = nn.RMSNorm(6), nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = F.normalize(x, dim=1)
        x = x / (x.mean((2, 3), keepdim=True) + 0.1)
        x = x / x.square().mean((1, 2, 3), keepdim=True).sqrt()
        x = self.norm(self.two(x).mean((2, 3)))
        return self.head(F.rms_norm(F.relu(x), (6,)))


def test_lrp_conserves_through_quotients() -> None:
    torch.manual_seed(4)
    found = cnnviz.explain(_Divided().eval(), BATCH, method="lrp", rule="epsilon", epsilon=0, target=[1, 3])
    for i, target in enumerate([1, 3]):
        assert float(found.raw[i].double().sum()) == pytest.approx(float(found.logits[i, target]), rel=2e-3)


@pytest.mark.parametrize("method", ["lrp", "excitation_backprop"])
def test_what_is_refused(method: str) -> None:
    network = kinds.make("plain")
    with pytest.raises(CnnvizError, match=r"probability|starts at a class"):
        cnnviz.explain(network, BATCH, method=method, score="probability")

    class Rectified(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x))

    odd = _small(Rectified(3, 4, 3))
    if method == "lrp":
        with pytest.raises(CnnvizError, match="no rule for Rectified"):
            cnnviz.explain(odd, BATCH, method=method)
    with pytest.raises(CnnvizError, match=r"is not traced \(tracing is off\)"):
        cnnviz.explain(network, BATCH, method=method, tracing="off")


def test_lower_precision_and_flags() -> None:
    network = kinds.make("residual").train()
    for method in ("lrp", "excitation_backprop"):
        exact = cnnviz.explain(network, BATCH, method=method, target=1)
        rough = cnnviz.explain(network, BATCH, method=method, target=1, precision="bf16")
        close(rough.raw, exact.raw, 0.05)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


class _Separate(nn.Module):
    """The plain network with a module of its own for every step, as captum's LRP asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.hidden, self.head = network.one, network.two, network.hidden, network.head
        self.relus = nn.ModuleList([nn.ReLU() for _ in range(3)])
        self.pool, self.mean = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relus[1](self.two(self.pool(self.relus[0](self.one(x)))))
        return self.head(self.relus[2](self.hidden(torch.flatten(self.mean(x), 1))))


@pytest.mark.peers
def test_captum_agrees_on_the_epsilon_rule() -> None:
    import warnings

    from captum import attr

    network = kinds.make("no bias")
    found = cnnviz.explain(network, BATCH, method="lrp", rule="epsilon", epsilon=1e-4, target=1)
    separate = _Separate(network)
    for module in separate.children():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = attr._utils.lrp_rules.EpsilonRule(1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = attr.LRP(separate).attribute(BATCH.clone(), target=1)
    close(found.raw, theirs.detach(), 1e-2)
