"""Incremental occlusion equals running the whole network on every occluded copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.session import Session
from cnnviz.methods.perturbation.incremental import windows as incremental
from cnnviz.methods.perturbation.incremental.assembly import Assembly, padded
from cnnviz.methods.perturbation.incremental.ops import Axis
from cnnviz.methods.perturbation.incremental.plan import Region
from cnnviz.methods.perturbation.incremental.runner import Runner
from cnnviz.methods.perturbation.occlusion import place_windows
from tests.support.library import torchvision_network

SIZE = (60, 84)


class Same(nn.Conv2d):
    """Pads as TensorFlow does, like timm's class of this name."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):
            size, stride, kernel = x.shape[2 + axis], self.stride[axis], self.kernel_size[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


Same.__name__ = "Conv2dSame"


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)
    )


class Residual(nn.Module):
    """Post-activation residual blocks, in-place ReLU, a stride in the shortcut, kernel 1 with stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8, 7, 2), conv(8, 8), conv(8, 8)
        self.c, self.d, self.short = conv(8, 12, 3, 2), conv(12, 12), conv(8, 12, 1, 2)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.stem(x)), 3, 2, 1)
        x = self.relu(self.b(self.relu(self.a(x))) + x)
        x = self.relu(self.d(self.relu(self.c(x))) + self.short(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Dense(nn.Module):
    """Concatenation, normalisation before the convolution, average pooling, functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (6, 10, 7))
        self.convs = nn.ModuleList(
            [nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 7, 1), nn.Conv2d(7, 4, 3, padding=2, dilation=2)]
        )
        self.fc = nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.convs[0](F.relu(self.norms[0](x)))], 1)
        x = F.avg_pool2d(self.convs[1](F.relu(self.norms[1](x))), 2)
        x = torch.cat([x, self.convs[2](F.relu(self.norms[2](x)))], 1)
        x = F.relu(F.avg_pool2d(x, 3, 1, 1))
        out: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return out


class Mobile(nn.Module):
    """Depthwise and "same" convolutions, ReLU6, hard swish, a gate that looks at the whole map."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.stem, self.expand = Same(3, 6, 3, 2), conv(6, 18, 1)
        self.deep, self.project = Same(18, 18, 5, 2, groups=18), conv(18, 6, 1)
        self.again, self.last = conv(6, 6, 3, groups=6), conv(6, 10, 1)
        self.squeeze = nn.Conv2d(10, 10, 1) if gate else None
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.expand(F.relu6(self.stem(x))))
        x = self.project(F.hardswish(self.deep(x)))
        x = F.relu6(self.last(self.again(x) + x))
        if self.squeeze is not None:
            x = x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        out: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return out


class Odd(nn.Module):
    """Operations that are not known: a channel shuffle, a pool to 2 x 3, a bias by position; ceil-mode pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 6, (1, 5), 1, (0, 2))
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.place = nn.Parameter(torch.randn(1, 6, 2, 3))
        self.fc = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.a(x)))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self.c(F.silu(self.b(x)))
        x = F.adaptive_avg_pool2d(x, (2, 3)) * self.place
        out: Tensor = self.fc(x.flatten(1))
        return out


class Plain(nn.Module):
    """Convolutions and pools only, pooled globally by maximum: the last map is a patch to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU6()
        )
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        pooled = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1)
        out: Tensor = self.fc(torch.flatten(pooled, 1))
        return out


class Pools(nn.Module):
    """Pools that step by their own size: padded, with a rest that is not seen, and beyond the map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 3, 1), nn.Conv2d(8, 7, 3), nn.MaxPool2d(4)
        )
        self.last = nn.Sequential(nn.Conv2d(7, 9, 1), nn.ReLU(), nn.MaxPool2d((3, 5), ceil_mode=True))
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.flatten(self.last(self.body(x)), 1))
        return out


class Twice(nn.Module):
    """Convolutions that are added to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8, 5, 2), conv(8, 8), conv(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(x) + x
        x = F.relu(self.c(x) + x)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "dense": Dense,
    "mobile": lambda: Mobile(False),
    "gated": lambda: Mobile(True),
    "odd": Odd,
    "plain": Plain,
    "pools": Pools,
    "twice": Twice,
}


def calibrated(make: Callable[[], nn.Module], size: tuple[int, int] = SIZE) -> nn.Module:
    """Seeded weights; batch normalisation with the statistics of noise, so that no layer dies or explodes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
        with torch.no_grad():
            network.train()(torch.randn(4, 3, *size))
    return network.eval()


def image(size: tuple[int, int] = SIZE, count: int = 1) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(2))


def both_ways(
    session: Session, pixels: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Drops by increments and by brute force."""
    windows = place_windows((pixels.shape[2], pixels.shape[3]), window, stride)
    fill = pixels.flip(3) * 0.5
    found = []
    for how in ("on", "off"):
        clean, occluded = incremental.occluded_logits(session, pixels, windows, fill, how)
        found.append(clean[:, None] - occluded)
    return found[0], found[1]


def difference(pair: tuple[Tensor, Tensor]) -> float:
    """Largest difference relative to the largest drop."""
    assert torch.isfinite(pair[1]).all()
    return float((pair[0] - pair[1]).abs().max() / pair[1].abs().max())


@pytest.mark.parametrize("private", [True, False], ids=["packed", "shared"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_brute_force(name: str, private: bool) -> None:
    network = calibrated(NETWORKS[name])
    options = SessionOptions(Cut.before_classifier(), private=private)
    pixels = image()
    with open_session(network, name, (3, *SIZE), runtime.resolve("cpu"), options) as session:
        assert not any(key.startswith("incremental") for key in session._memory)
        for window, stride in (((16, 12), (7, 9)), ((5, 5), (11, 16)), ((60, 20), (1, 30)), ((40, 70), (20, 14))):
            assert difference(both_ways(session, pixels, window, stride)) < 1e-4
        assert set(session._memory[f"incremental {SIZE}"].trusted.values()) == {True}


@pytest.mark.parametrize(
    "axis", [Axis(3, 1, 1), Axis(7, 2, 3), Axis(1, 2, 0), Axis(3, 2, 0), Axis(3, 1, 2, 2), Axis(2, 3, 0), Axis(5, 2, 1)]
)
def test_the_changed_interval_is_what_changes(axis: Axis) -> None:
    length = 14
    conv = nn.Conv1d(1, 1, axis.kernel, axis.stride, axis.padding, axis.dilation, bias=False)
    nn.init.ones_(conv.weight)
    for low in range(length):
        for high in range(low + 1, length + 1):
            x = torch.zeros(1, 1, length)
            x[..., low:high] = 1
            with torch.no_grad():
                changed = conv(x)[0, 0].nonzero().flatten().tolist()
            first, last = axis.changed((low, high), conv(x).shape[2])
            if changed:
                assert first <= changed[0]
                assert last > changed[-1]
                if axis.dilation == 1:  # with holes in the kernel the interval is a hull
                    assert (first, last) == (changed[0], changed[-1] + 1)
            else:
                assert last - first == 1


def test_every_group_is_right_in_every_corner() -> None:
    """A small window and stride on a larger image: interior and border groups, each batch of windows."""
    network = calibrated(Residual, (96, 128))
    options = SessionOptions(Cut.before_classifier())
    with open_session(network, "r", (3, 96, 128), runtime.resolve("cpu"), options) as session:
        pair = both_ways(session, image((96, 128)), (8, 8), (8, 8))
        assert pair[0].shape[1] == 12 * 16
        assert float((pair[0] - pair[1]).abs().amax(0).amax(1).max()) < 1e-4 * float(pair[1].abs().max())


def test_a_window_that_changes_nothing_drops_nothing() -> None:
    network = calibrated(Residual)
    pixels = image()
    options = SessionOptions(Cut.before_classifier())
    with open_session(network, "r", (3, *SIZE), runtime.resolve("cpu"), options) as session:
        windows = place_windows(SIZE, (16, 16), (8, 8))
        clean, occluded = incremental.occluded_logits(session, pixels, windows, pixels, "on")
    assert float((clean[:, None] - occluded).abs().max()) < 1e-5


def test_increments_that_go_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, pixels = calibrated(Residual), image()
    whole = Runner.run

    def wrong(*args: Any) -> Tensor:
        return whole(*args) * 1.5

    def raises(*args: Any) -> Tensor:
        raise RuntimeError("shape '[1, 6]' is invalid for input of size 12")

    def memory(*args: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    for broken in (wrong, raises, memory):
        monkeypatch.setattr(Runner, "run", broken)
        options = SessionOptions(Cut.before_classifier())
        with open_session(network, "r", (3, *SIZE), runtime.resolve("cpu"), options) as session:
            on, off = both_ways(session, pixels, (16, 12), (20, 20))
        assert torch.equal(on, off)


def test_auto_increments_where_it_pays() -> None:
    """On a large image with small windows; not where every window is most of the image."""
    network, size = calibrated(Residual), (160, 160)
    pixels = image(size)
    options = SessionOptions(Cut.before_classifier())
    with open_session(network, "r", (3, *size), runtime.resolve("cpu"), options) as session:
        used = []
        for window in (10, 150):
            windows = place_windows(size, (window, window), (5, 5))
            incremental.occluded_logits(session, pixels, windows, torch.zeros_like(pixels))
            trusted = session._memory["incremental (160, 160)"].trusted
            used.append(trusted.get(f"incremental (1, 3, 160, 160) {windows}"))
    assert used == [True, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "alexnet vgg11_bn resnet18 resnext50_32x4d densenet121 squeezenet1_1 googlenet inception_v3 shufflenet_v2_x0_5 "
    "mobilenet_v2 mobilenet_v3_small mnasnet0_5 efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf "
    "convnext_tiny wide_resnet50_2".split(),
)
def test_families_of_torchvision(name: str) -> None:
    size = (96, 128) if name in {"alexnet", "inception_v3"} else (64, 96)
    extra = {"aux_logits": False} if name in {"googlenet", "inception_v3"} else {}
    network = calibrated(lambda: torchvision_network(name, **extra), size)
    if name.startswith("squeezenet"):  # as it is initialised, its last ReLU lets nothing through
        nn.init.constant_(network.classifier[1].bias, 1.0)
    options = SessionOptions(Cut.before_classifier())
    with open_session(network, name, (3, *size), runtime.resolve("cpu"), options) as session:
        assert difference(both_ways(session, image(size), (24, 24), (24, 26))) < 1e-4


@pytest.mark.parametrize("starts", [(-2, 0, 2, 4), (0, 0, 1, 1, 2), (0, 3, 5, 5), (2,)])
def test_parts_are_the_map_with_the_patch_laid_over(starts: tuple[int, ...]) -> None:
    """Windows at regular, half and irregular distances; patches inside, beside and beyond the part on both sides."""
    height, width, cols, pads = 9, 8, (-1, 1, 3), ((2, 1), (1, 0))
    values = torch.randn(1, 5, height, width)
    for size, shift in (((2, 3), 1), ((6, 7), -1), ((3, 2), 6)):
        part, count = Region(starts, cols, 5, 4), len(starts) * len(cols)
        patch = Region(tuple(s + shift for s in starts), tuple(c + shift for c in cols), *size)
        laid = torch.randn(count, 5, *size)
        made = Assembly((height, width), 5, part, patch, pads, (7, 1))
        parts = torch.zeros(made.shape)
        made.into(parts, padded(values, pads, 9.0), laid)
        for i, (row, col) in enumerate((r, c) for r in starts for c in cols):
            wide = F.pad(values[0], (20, 20, 20, 20), value=9.0)
            wide[:, 20 + row + shift :, 20 + col + shift :][:, : size[0], : size[1]] = laid[i]
            expected = wide[:, 20 + row : 25 + row, 20 + col : 24 + col].permute(1, 2, 0)
            assert torch.equal(parts.flatten(0, 1)[i, :, :, 1:6], expected)
        assert float(parts[..., 0].abs().max()) == float(parts[..., 6].abs().max()) == 0
