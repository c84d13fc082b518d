"""FullGrad: complete wherever constants are added, against formulas written out by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import gradcam as plain
from tests.oracles import gradcam_relatives as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness
from tests.support.toy_maps import CLASSES

close = closeness(2e-5, 1e-6)


# FullGrad -----------------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    """A convolution with a bias before a normalisation, a SiLU, a gate, and a linear layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 4, 3, stride=2)
        self.act = nn.SiLU()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(x)))
        y = self.act(self.second(y))
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.fc(y.mean((2, 3)))


def _by_hand(network: Steps, x: Tensor, target: int) -> tuple[list[np.ndarray], float, float]:
    """Every spatial piece of one image, the sum of all pieces, and the score."""
    n = network.double()
    image = x.double().requires_grad_()
    a = n.first(image)
    b = n.norm(a)
    c = n.second(torch.relu(b))
    d = n.act(c)
    pooled = d.mean((2, 3), keepdim=True)
    gate = torch.sigmoid(pooled)
    e = d * gate
    z = n.fc(e.mean((2, 3)))
    places = [image, a, b, c, d, gate, e, z]
    gradients = torch.autograd.grad(z[0, target], places)
    offset = n.norm.bias - n.norm.weight * n.norm.running_mean / torch.sqrt(n.norm.running_var + n.norm.eps)
    sigma = torch.sigmoid(c)
    constants = [
        image,
        n.first.bias[:, None, None],
        offset[:, None, None],
        n.second.bias[:, None, None],
        d - c * (sigma * (1 + c * (1 - sigma))),
        gate - pooled * gate * (1 - gate),
        -e,
        n.fc.bias,
    ]
    pieces = [(g * k).detach() for g, k in zip(gradients, constants, strict=True)]
    total = float(sum(p.sum() for p in pieces))
    return [p[0].numpy() for p in pieces if p.dim() == 4 and p.shape[2] > 1], total, float(z[0, target].detach())


@pytest.mark.parametrize("kept", [False, True], ids=["module", "model"])
def test_fullgrad(kept: bool) -> None:
    network = nets.seeded(Steps)()
    asked = nets.as_model(network) if kept else network
    found = cnnviz.explain(asked, nets.images(), method="fullgrad", target=CLASSES)
    for i, target in enumerate(CLASSES):
        pieces, total, score = _by_hand(copy.deepcopy(network), nets.images()[i : i + 1], target)
        assert total == pytest.approx(score, abs=1e-9)  # the decomposition is complete
        close(found.raw[i], oracle.full_gradient(pieces, (12, 16), plain.upsampled))
        assert abs(found.scores["completeness_gap"][i]) < 1e-5
    assert found.facts["bias_layers"] == 5


@pytest.mark.parametrize("name", [n for n, toy in nets.TOYS.items() if toy.traces])
def test_fullgrad_is_complete(name: str) -> None:
    found = cnnviz.explain(nets.TOYS[name].build(), nets.images(), method="fullgrad", target=CLASSES)
    scores = found.logits[range(3), CLASSES]
    assert float(scores.abs().min()) > 1e-4
    assert np.abs(found.scores["completeness_gap"]).max() < 2e-5 * float(scores.abs().max()) + 1e-6


class Turned(nn.Module):
    """What ConvNeXt and older networks have: normalisations of single images, and layers on [N, h, w, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 6, 3, stride=2), nn.GroupNorm(2, 6, eps=0.1)
        self.norm, self.mix = nn.LayerNorm(6, eps=0.1), nn.Linear(6, 8)
        self.local = nn.LocalResponseNorm(3, alpha=0.5)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.group(self.stem(x * 0.5 + 0.25))
        y = F.gelu(self.mix(self.norm(y.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.fc(self.local(y).mean((2, 3)))


def _turned_by_hand(n: Turned, x: Tensor, target: int) -> tuple[list[np.ndarray], float]:
    """Every spatial piece of one image, and the score; J a by PyTorch's own product."""
    image = x.double().requires_grad_()
    shifted = image * 0.5 + 0.25
    a = n.stem(shifted)
    b = n.group(a)
    c = n.norm(b.permute(0, 2, 3, 1))
    d = n.mix(c)
    e = F.gelu(d)
    f = n.local(e.permute(0, 3, 1, 2))
    z = n.fc(f.mean((2, 3)))
    gradients = torch.autograd.grad(z[0, target], [image, shifted, a, b, c, d, e, f])

    def beyond(function: Any, at: Tensor) -> Tensor:
        y, along = torch.autograd.functional.jvp(function, at.detach(), at.detach())
        return y - along

    constants = [
        image.detach(),
        torch.tensor(0.25).double(),
        n.stem.bias[:, None, None],
        beyond(n.group, a),
        beyond(n.norm, b.permute(0, 2, 3, 1)),
        n.mix.bias,
        beyond(F.gelu, d),
        beyond(n.local, e.permute(0, 3, 1, 2)),
    ]
    pieces = [(g * k).detach() for g, k in zip(gradients, constants, strict=True)]
    ordered = [p.permute(0, 3, 1, 2) if i in {4, 5, 6} else p for i, p in enumerate(pieces)]
    return [p[0].numpy() for p in ordered], float(z[0, target].detach())


def test_fullgrad_of_layers_with_channels_last_and_other_normalisations() -> None:
    network = nets.seeded(Turned)()
    found = cnnviz.explain(network, nets.images(), method="fullgrad", target=CLASSES)
    for i, target in enumerate(CLASSES):
        by_hand = copy.deepcopy(network).double()
        pieces, score = _turned_by_hand(by_hand, nets.images()[i : i + 1], target)
        total = sum(float(piece.sum()) for piece in pieces) + float(by_hand.fc.bias[target].detach())
        assert total == pytest.approx(score, abs=1e-9)
        close(found.raw[i], oracle.full_gradient(pieces, (12, 16), plain.upsampled))
        assert abs(found.scores["completeness_gap"][i]) < 1e-5
    assert found.facts["bias_layers"] == 7


class ScoreIsASum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = 1.5 - torch.sub(0.5 + self.conv(x), 0.25, alpha=3)
        return torch.tanh(y.sub(0.5).mean((2, 3))) + 2.0


class OneAxis(nn.Module):
    """Layers on [N, C] and [N, C, L], a transposed convolution, and one whose submodule is called add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 4, 3), nn.Conv1d(1, 1, 3, padding=1)
        self.up, self.add = nn.ConvTranspose2d(4, 4, 2), nn.Identity()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        gate = torch.sigmoid(self.mix(y.mean((2, 3))[:, None]))[:, 0, :, None, None]
        return self.fc(self.norm(self.add(F.hardswish(self.up(y * gate))).mean((2, 3))))


class Joined(nn.Module):
    """Signals that are multiplied, divided and summed in every spelling, beside constants that the size decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)
        self.place = nn.Parameter(torch.randn(1, 6, 1, 7))
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + self.place
        q, k = torch.relu(y[:, :3]), torch.relu(y[:, 3:])
        # linear attention: products of matrices, and a quotient
        q, k = q.flatten(2), k.flatten(2)
        v = torch.matmul(torch.matmul(k, y.flatten(2).transpose(1, 2)).transpose(1, 2), q)
        v = v / ((k.sum(-1, keepdim=True) * q).sum(1, keepdim=True) + 0.1)
        y = y + v.reshape(y.shape) * (y.shape[2] - 1) * 3.0**-0.5
        # response normalisation: a quotient of norms
        norm = y.norm(p=2, dim=(2, 3), keepdim=True)
        response = norm / (norm.mean(1, keepdim=True) + 0.1)
        y = y + torch.addcmul(self.bias.view(1, -1, 1, 1), self.weight.view(1, -1, 1, 1), y * response)
        y = F.normalize(y, dim=1) + torch.einsum("nchw,nchw->nhw", y, y)[:, None].rsqrt() - self.place.flip(1)
        y = y.permute(0, 2, 3, 1) * torch.sigmoid(y.mean((2, 3)))[:, None, None]
        return self.fc(2.0 / (1.5 + y.mean((1, 2)).square()))


def _one_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))


@pytest.mark.parametrize("build", [OneAxis, ScoreIsASum, Joined, _one_layer])
def test_fullgrad_is_complete_wherever_constants_are_added(build: Any) -> None:
    found = cnnviz.explain(nets.seeded(build)(), nets.images(), method="fullgrad", target=CLASSES)
    assert np.abs(found.scores["completeness_gap"]).max() < 1e-5


def test_functions_that_are_given_no_bias() -> None:

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.conv2d(torch.relu(self.c(x)), torch.ones(4, 4, 1, 1), bias=None).mean((2, 3)))

    result = cnnviz.explain(Odd().eval(), torch.randn(2, 3, 12, 14), "fullgrad", target=1)
    assert max(map(abs, result.scores["completeness_gap"])) < 1e-6


class Sealed(nn.Module):
    """Decides by a value, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().mean()) > 1e9:
            return x
        return self.b(F.silu(self.a(x))) * torch.sigmoid(x)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem, self.inner, self.fc = nn.Conv2d(3, 6, 3), inner, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.inner(F.relu(self.stem(x)))).mean((2, 3)))


class Rows(nn.Module):
    """A recurrent layer over the rows of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.lstm(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0].reshape(n, h, w, c).permute(0, 3, 1, 2)


def test_a_module_in_one_piece_adds_what_its_derivative_leaves() -> None:
    """The score is accounted for although f(a) - J a, here J by central differences, is large."""
    torch.manual_seed(0)
    network, batch = Around(Sealed()).eval(), torch.randn(2, 3, 9, 11)
    found = cnnviz.explain(network, batch, method="fullgrad", target=1)
    assert max(found.scores["gap_share"]) < 1e-5
    with torch.no_grad():
        inner, a = network.inner.double(), F.relu(network.stem(batch)).double()
        along = (inner(a * (1 + 1e-5)) - inner(a * (1 - 1e-5))) / 2e-5
        assert float((inner(a) - along).abs().max()) > 0.1  # much to leave out


@pytest.mark.parametrize(("inner", "method", "said"), [
    (Sealed, "lrp", r"no rule for Sealed \(inner\)"),
    (Rows, "lrp", r"no rule for LSTM \(inner.lstm\)"),
    (Rows, "fullgrad", r"does not know what LSTM \(inner.lstm\) adds"),
])  # fmt: skip
def test_what_cannot_be_looked_into_is_refused_by_name(inner: type[nn.Module], method: str, said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(CnnvizError, match=said):
        cnnviz.explain(Around(inner()).eval(), torch.randn(2, 3, 9, 11), method=method, target=1)
