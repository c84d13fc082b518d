"""Rectifiers that are written out, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from tests.support import kinds_of_networks as kinds
from tests.support.comparisons import closeness

close = closeness(1e-4)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum(x, 0)": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum(0, x)": lambda x: torch.maximum(torch.tensor(0.0), x),
    "max(x, 0)": lambda x: torch.max(x, x.new_zeros(1)),
    "fmax(x, 0)": lambda x: torch.fmax(x, torch.zeros(1)),
    "clamp(min=0)": lambda x: torch.clamp(x, min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp(min=tensor)": lambda x: x.clamp(min=torch.tensor(0.0)),
    "where(x > 0, x, 0)": lambda x: torch.where(x > 0, x, 0),
    "where(0 < x, x, 0)": lambda x: torch.where(torch.gt(x, 0), x, torch.zeros_like(x)),
    "where(x <= 0, 0, x)": lambda x: torch.where(x <= 0, 0.0, x),
    "x * (x > 0)": lambda x: x * (x > 0),
    "(x >= 0).float() * x": lambda x: (x >= 0).float() * x,
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
}


NO_RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "maxout": lambda x: torch.maximum(x, -x),
    "another's sign": lambda x: torch.where(x.flip(1) > 0, x, 0),
    "what is below": lambda x: torch.where(x > 0, 0, x),
    "above a tenth": lambda x: torch.where(x > 0.1, x, 0),
}


class Spelled(nn.Module):
    """Two convolutions with a rectifier of one's own behind each."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.b(self.act(self.a(x)))).mean((2, 3)))


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rectifiers_that_are_written_out(spelling: str, rule: str) -> None:
    batch = kinds.images(2)
    found = cnnviz.explain(Spelled(SPELLINGS[spelling]), batch, method="guided", rule=rule, target=1)
    expected = cnnviz.explain(Spelled(F.relu), batch, method="guided", rule=rule, target=1)
    close(found.raw, expected.raw, 1e-6)
    assert found.facts["rectified"] == {"relu": 2}
    assert found.notes == expected.notes


def test_a_written_limit_is_kept() -> None:
    def clipped(x: Tensor) -> Tensor:
        return (10 * x).clamp(torch.tensor(0.0), torch.tensor(6.0))

    batch = kinds.images(1)
    found = cnnviz.explain(Spelled(clipped), batch, method="guided", target=1)
    expected = cnnviz.explain(Spelled(lambda x: F.relu6(10 * x)), batch, method="guided", target=1)
    close(found.raw, expected.raw, 1e-6)
    assert found.facts["rectified"] == {"relu": 0, "relu6": 2}


@pytest.mark.parametrize("kind", NO_RECTIFIERS)
def test_what_only_looks_like_a_rectifier(kind: str) -> None:
    """The gradient passes as it is, and that is said."""
    image = kinds.images(1)
    network = Spelled(NO_RECTIFIERS[kind]).eval().requires_grad_(False)
    found = cnnviz.explain(network, image, method="guided", target=1)
    leaf = image.clone().requires_grad_()
    close(found.raw, torch.autograd.grad(network(leaf)[0, 1], leaf)[0])
    assert found.facts["rectified"] == {"relu": 0}
    of_the_method = cnnviz.explain(Spelled(F.relu), image, method="guided", target=1).notes
    assert len(set(found.notes) - set(of_the_method)) == (2 if kind != "maxout" else 1)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("spelling", ["maximum(x, 0)", "maximum(0, x)"])
def test_a_maximum_with_zero_where_nothing_is_traced(spelling: str, rule: str) -> None:
    batch = kinds.images(1)
    options = {"method": "guided", "rule": rule, "target": 1, "tracing": "off"}
    found = cnnviz.explain(Spelled(SPELLINGS[spelling]), batch, **options)
    close(found.raw, cnnviz.explain(Spelled(F.relu), batch, **options).raw, 1e-6)
    assert found.facts["rectified"] == {"relu": 2}


def test_a_mask_where_nothing_is_traced_is_told() -> None:
    masked = Spelled(SPELLINGS["where(x > 0, x, 0)"])
    found = cnnviz.explain(masked, kinds.images(1), method="guided", target=1, tracing="off")
    assert found.facts["left_alone"] == {"WhereBackward0": 2}
    assert any("WhereBackward0 cannot be looked into" in note for note in found.notes)
