"""Traps of single methods that no oracle of theirs holds: batches, low precision, other spellings of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.support.kinds_of_networks import images

BATCH = images(3, (9, 11))


class Normal(nn.Module):
    """A normalisation that no convolution can absorb, as a module or as a function."""

    def __init__(self, norm: nn.Module, functional: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc, self.norm, self.functional = nn.Linear(6, 4), norm, functional
        for parameter in (norm.weight, norm.bias):
            nn.init.normal_(parameter)  # type: ignore[arg-type]
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean, norm.running_var = torch.randn(6), torch.rand(6) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self._normalised(torch.cat([x[:, :2], x[:, 2:]], 1))
        result: Tensor = self.fc(F.relu(self.conv(F.relu(x))).mean((2, 3)))
        return result

    def _normalised(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        last = isinstance(norm, nn.LayerNorm)
        x = x.permute(0, 2, 3, 1) if last else x
        if not self.functional:
            x = norm(x)
        elif last:
            x = F.layer_norm(x, (6,), norm.weight, norm.bias, norm.eps)
        elif isinstance(norm, nn.GroupNorm):
            x = F.group_norm(x, 2, norm.weight, norm.bias, eps=norm.eps)
        else:
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)
        return x.permute(0, 3, 1, 2) if last else x


NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNorm2d(6),
    "layer": lambda: nn.LayerNorm(6),
    "group": lambda: nn.GroupNorm(2, 6),
}


@pytest.mark.parametrize("kind", NORMS)
def test_relevance_knows_normalisation_in_both_spellings(kind: str) -> None:
    networks = [Normal(NORMS[kind](), functional) for functional in (False, True)]
    for options in ({"method": "lrp", "rule": "epsilon"}, {"method": "excitation_backprop", "layer": "stem"}):
        module, function = (cnnviz.explain(net, BATCH, target=1, **options) for net in networks)
        torch.testing.assert_close(function.logits, module.logits)
        largest = float(module.raw.abs().max())
        assert largest > 1e-4
        torch.testing.assert_close(function.raw, module.raw, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_winning_probabilities_are_never_negative(kind: str, functional: bool) -> None:
    found = cnnviz.explain(Normal(NORMS[kind](), functional), BATCH, method="excitation_backprop", layer="stem")
    assert float(found.raw.min()) >= 0
    assert float(found.raw.sum((1, 2)).max()) <= 1 + 1e-5


def test_lrp_epsilon_shares_out_the_score_behind_a_normalisation() -> None:
    # Without biases a normalisation with a constant deviation is linear, so that nothing is lost.
    for functional in (False, True):
        net = Normal(nn.GroupNorm(2, 6), functional)
        for bias in (net.stem.bias, net.conv.bias, net.fc.bias, net.norm.bias):
            nn.init.zeros_(bias)  # type: ignore[arg-type]
        found = cnnviz.explain(net, BATCH, method="lrp", rule="epsilon", epsilon=0, target=2)
        torch.testing.assert_close(found.raw.sum((1, 2, 3)), found.logits[:, 2], rtol=1e-3, atol=1e-5)


class NormThenRelu(nn.GroupNorm):
    """What libraries build: a subclass that does more than normalise."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class LayerNormThenRelu(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


def test_lrp_explains_the_network_or_refuses() -> None:
    found = cnnviz.explain(Normal(NormThenRelu(2, 6), False), BATCH, method="lrp", rule="epsilon", target=1)
    expected = cnnviz.explain(Normal(nn.GroupNorm(2, 6), False), BATCH, method="lrp", rule="epsilon", target=1)
    torch.testing.assert_close(found.raw, expected.raw, rtol=0, atol=1e-4 * float(expected.raw.abs().max()))
    with pytest.raises(CnnvizError, match="no rule for LayerNormThenRelu"):
        cnnviz.explain(Normal(LayerNormThenRelu(6), False), BATCH, method="lrp", target=1)


class Padded(nn.Module):
    """A first convolution that pads by itself, or behind a padding of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 5, 3, stride=2, padding=1 if how == "own" else 0)
        self.pad, self.conv, self.fc, self.how = nn.ZeroPad2d(1), nn.Conv2d(5, 6, 3), nn.Linear(6, 4), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            x = self.pad(x)
        elif self.how in {"function", "ones"}:
            x = F.pad(x, (1, 1, 1, 1), value=float(self.how == "ones"))
        return self.fc(F.relu(self.conv(F.relu(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize("how", ["module", "function"])
def test_lrp_is_flat_at_a_first_convolution_behind_its_padding(how: str) -> None:
    expected, found = (cnnviz.explain(Padded(h), BATCH, method="lrp", target=1) for h in ("own", how))
    assert found.facts["layers"] == expected.facts["layers"] == {"flat": 1, "alpha 1, beta 0": 1, "epsilon": 1}
    torch.testing.assert_close(found.raw, expected.raw, rtol=0, atol=1e-5 * float(expected.raw.abs().max()))


def test_lrp_is_not_flat_where_the_padding_has_a_value() -> None:
    assert "flat" not in cnnviz.explain(Padded("ones"), BATCH, method="lrp", target=1).facts["layers"]


class ClassMaps(nn.Module):
    """CAM's other head: a 1x1 convolution, then average pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.classifier = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.classifier(F.relu(self.stem(x))), 1).flatten(1)


def test_cam_of_class_maps_in_low_precision() -> None:
    low, full = (cnnviz.explain(ClassMaps(), BATCH, method="cam", target=3, precision=p) for p in ("bf16", "fp32"))
    torch.testing.assert_close(low.raw, full.raw, rtol=0, atol=0.03 * float(full.raw.abs().max()))


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu6(self.conv(x)).clamp(min=0).mean((2, 3)))


def test_fullgrad_counts_the_same_layers_in_every_batch() -> None:
    # The second image saturates the ReLU6, which adds a constant there; the first does not.
    batch = torch.stack([BATCH[0] * 0.1, BATCH[1] * 50])
    alone, together = (cnnviz.explain(Clipped(), b, method="fullgrad", target=1) for b in (batch[:1], batch))
    assert alone.facts == together.facts
    assert alone.facts["bias_layers"] == 2  # the convolution and the ReLU6
    torch.testing.assert_close(together.maps[:1], alone.maps)
