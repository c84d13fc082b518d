"""Increments where memory is used twice: values that others still read, in three preparations, against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime
from cnnviz.engine.cut import Cut
from cnnviz.methods.perturbation.incremental import plan
from cnnviz.methods.perturbation.incremental import windows as incremental
from cnnviz.methods.perturbation.incremental.differences import Differences
from cnnviz.methods.perturbation.incremental.runner import Runner
from cnnviz.methods.perturbation.occlusion import place_windows
from tests.test_incremental import calibrated, image

SIZE = (25, 22)


class Net(nn.Module):
    """A convolution, what is tried behind it, and a classifier of means."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu, self.relu6 = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.widen, self.fc = nn.Linear(8, 12), nn.Linear(12, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.widen(self.between(self, self.a(x)).mean((2, 3)))))


def read_after_the_sum(net: Net, x: Tensor) -> Tensor:
    """A rectifier behind a normalisation of x, applied when x was added to."""
    normal = net.norm(x)
    y = net.b(F.silu(x)) + x
    return y - F.relu(normal)


def passed_on(net: Net, x: Tensor) -> Tensor:
    """What dropout hands on is x itself."""
    same = F.dropout(x, 0.5, net.training)
    return net.b(F.silu(x)) + x - F.relu(same)


def seen_through_a_view(net: Net, x: Tensor) -> Tensor:
    """A convolution reads what it is added to under another name."""
    y = net.b(F.silu(x))
    return net.c(F.dropout(y, 0.5, net.training)) + y


def viewed(net: Net, x: Tensor) -> Tensor:
    """A view of a part of x."""
    part = x.chunk(2, 1)[1]
    y = net.b(F.silu(x)) + x
    return F.relu6(part).mean(1, True) + y


def in_place(net: Net, x: Tensor) -> Tensor:
    """Rectifiers that overwrite what convolutions gave."""
    return net.relu6(net.c(net.relu(net.b(net.relu(x)))))


def averaged(net: Net, x: Tensor) -> Tensor:
    """Averages beyond the border of a patch by more than half a kernel."""
    return F.relu(net.b(F.avg_pool2d(F.avg_pool2d(F.relu(x), 3, 1, 1), (3, 5), (2, 1), (1, 2))))


def zeros_with_a_sign(net: Net, x: Tensor) -> Tensor:
    """A rectifier of -0.0: of a negative number times zero."""
    return F.relu6(torch.tanh(net.c(x)) * F.relu(x))


def drops_of(network: nn.Module, pixels: Tensor, fill: Tensor, windows: incremental.Windows) -> Tensor:
    """By brute force in float64."""
    exact, pixels, fill = network.double(), pixels.double(), fill.double()
    copies = pixels.repeat(len(windows), 1, 1, 1)
    for position in range(len(windows)):
        (top, left), (height, width) = windows.corner(position), windows.size
        part = (slice(None), slice(top, top + height), slice(left, left + width))
        copies[position][part] = fill[0][part]
    with torch.no_grad():
        found: Tensor = exact(pixels) - exact(copies)
    network.float()
    return found


CASES = [read_after_the_sum, passed_on, seen_through_a_view, viewed, in_place, averaged, zeros_with_a_sign]


@pytest.mark.parametrize("preparation", ["packed", "folded", "shared"])
@pytest.mark.parametrize("between", CASES)
def test_nothing_is_overwritten_that_is_still_read(
    between: Callable[[Net, Tensor], Tensor], preparation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if preparation == "packed" and not runtime.packable(torch.device("cpu")):
        pytest.skip("no packed convolutions")
    monkeypatch.setattr(opening, "usable_preparations", lambda _: (preparation,))
    monkeypatch.setattr(plan, "_CALL", 0.0)  # groups of windows that do not touch the border, also in small images
    network, pixels = calibrated(lambda: Net(between), SIZE), image(SIZE)
    fill, windows = pixels.flip(3) * 0.5, place_windows(SIZE, (4, 3), (5, 5))
    wanted = drops_of(network, pixels, fill, windows)
    options = opening.SessionOptions(Cut.before_classifier(), private=preparation != "shared")
    with opening.open_session(network, "net", (3, *SIZE), runtime.resolve("cpu"), options) as session:
        assert session.split is not None
        assert session.split.preparation == preparation
        trunk = session.split.trunk
        assert isinstance(trunk, torch.fx.GraphModule)
        for runner in (Runner(trunk, torch.float32), Differences(trunk, trunk, torch.float32)):
            # Directly: where increments raise or differ, whole passes would be taken.
            pair = incremental._by_groups(session, runner, pixels, windows, fill, True)
            assert pair is not None
            drops = (pair[0] - pair[1]).double()
            assert float((drops - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
            session._memory.pop(next(key for key in session._memory if key.startswith(f"incremental {SIZE} ")))
