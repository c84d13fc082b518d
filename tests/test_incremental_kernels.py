"""Occlusion by differences, by PyTorch's operations and by compiled kernels, equals whole passes."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.io.compiler import compiled
from cnnviz.methods.perturbation.incremental import compiled_step, differences
from cnnviz.methods.perturbation.incremental import kernels as compiled_kernels
from cnnviz.methods.perturbation.incremental import windows as incremental
from cnnviz.methods.perturbation.incremental.compiled_step import Later
from cnnviz.methods.perturbation.incremental.differences import Differences
from cnnviz.methods.perturbation.incremental.kernels import Clipping, Joining, Kernels, Sliding, kernels
from cnnviz.methods.perturbation.incremental.ops import Axis
from cnnviz.methods.perturbation.incremental.plan import Region
from cnnviz.methods.perturbation.occlusion import place_windows
from tests.test_incremental import NETWORKS, SIZE, both_ways, calibrated, difference, image


class Inverted(nn.Module):
    """Convolutions of each channel by itself that are clipped: of two sizes, with strides, followed by what adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 40, 1, bias=False)
        self.norm, self.deep = nn.BatchNorm2d(40), nn.Conv2d(40, 40, 5, 1, 2, groups=40)
        self.narrow, self.deeper = nn.Conv2d(40, 8, 1), nn.Conv2d(8, 8, (3, 1), 2, (1, 0), groups=8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.narrow(F.relu6(self.deep(F.relu6(self.norm(self.wide(x))))))
        x = F.relu(self.deeper(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


MADE = {**NETWORKS, "inverted": Inverted}
HALF, FULL = torch.bfloat16, torch.float32
WAYS = ["pytorch", "compiled", "in parts"]
needs_compiler = pytest.mark.skipif(kernels(FULL) is None, reason="no C compiler")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How differences are worked on; small maps are never made in parts unless the cache is said to be small."""
    chosen: str = request.param
    if chosen == "pytorch":
        monkeypatch.setattr(differences, "kernels", lambda dtype: None)
        monkeypatch.setattr(incremental, "kernels", lambda dtype: None)
    elif kernels(FULL) is None:
        pytest.skip("no C compiler")
    if chosen == "in parts":
        monkeypatch.setattr(compiled_step, "_CACHE", 10_000)
    return chosen


@pytest.mark.parametrize("private", [True, False], ids=["packed", "shared"])
@pytest.mark.parametrize("name", MADE)
def test_differences_equal_brute_force(name: str, private: bool, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences in float32, where nothing but rounding may tell them apart."""
    network = calibrated(MADE[name])
    options = SessionOptions(Cut.before_classifier(), private=private)
    pixels = image()
    monkeypatch.setattr(incremental, "Runner", lambda trunk, dtype: Differences(trunk, trunk, dtype))
    with open_session(network, name, (3, *SIZE), runtime.resolve("cpu"), options) as session:
        for window, stride in (((16, 12), (7, 9)), ((5, 5), (11, 16)), ((40, 70), (20, 14))):
            assert difference(both_ways(session, pixels, window, stride)) < 1e-4
        runner = session._memory[f"incremental {SIZE}"]
        assert isinstance(runner, Differences)
        assert set(runner.trusted.values()) == {True}


@pytest.mark.parametrize("name", MADE)
def test_differences_in_bf16_are_those_of_float64(name: str, way: str) -> None:
    """Small changes of large values: windows of nearly what they hide, where rounded values are mostly noise."""
    network = calibrated(MADE[name])
    pixels = image()
    windows = place_windows(SIZE, (16, 12), (11, 12))
    fill = pixels + 0.1 * image().flip(3)
    with open_session(
        network, name, (3, *SIZE), runtime.resolve("cpu", "bf16"), SessionOptions(Cut.before_classifier())
    ) as session:
        clean, occluded = incremental.occluded_logits(session, pixels, windows, fill, "on")
        runner = session._memory[f"incremental {SIZE}"]
    assert isinstance(runner, Differences)
    assert set(runner.trusted.values()) == {True}
    exact = network.double()
    expected = []
    with torch.no_grad():
        for position in range(len(windows)):
            (top, left), copy = windows.corner(position), pixels.double()
            part = (..., slice(top, top + 16), slice(left, left + 12))
            copy[part] = fill.double()[part]
            expected.append(exact(pixels.double()) - exact(copy))
    drops, wanted = (clean[:, None] - occluded)[0].double(), torch.cat(expected)
    assert float((drops - wanted).norm() / wanted.norm()) < 0.02


@needs_compiler
@pytest.mark.parametrize("name", ["dense", "inverted", "plain"])
def test_kernels_are_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparisons above would say nothing of them."""
    called: list[str] = []
    for kind, method in ((Joining, "into"), (Sliding, "convolved"), (Sliding, "pooled"), (Later, "some")):
        plain = getattr(kind, method)

        def told(*args: object, plain: object = plain, method: str = method, **kwargs: object) -> object:
            called.append(method)
            return plain(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(kind, method, told)
    options = SessionOptions(Cut.before_classifier())
    with open_session(calibrated(MADE[name]), name, (3, *SIZE), runtime.resolve("cpu", "bf16"), options) as session:
        windows = place_windows(SIZE, (16, 12), (11, 12))
        incremental.occluded_logits(session, image(), windows, torch.zeros_like(image()), "on")
    wanted = {"dense": {"into", "some"}, "inverted": {"into", "convolved"}, "plain": {"into", "pooled"}}
    assert wanted[name] <= set(called)


def test_normalisations_alone_go_by_differences_in_float32(way: str) -> None:
    for name, expected in (("dense", way != "pytorch"), ("residual", False)):
        options = SessionOptions(Cut.before_classifier())
        with open_session(calibrated(MADE[name]), name, (3, *SIZE), runtime.resolve("cpu"), options) as session:
            assert difference(both_ways(session, image(), (16, 12), (7, 9))) < 1e-4
            assert isinstance(session._memory[f"incremental {SIZE}"], Differences) is expected


def on_the_map(patch: Tensor, region: Region, window: int, size: tuple[int, int]) -> Tensor:
    """[C, H, W]: a window's patch [h, w, C] where it lies, zero elsewhere."""
    top, left = region.rows[window // len(region.cols)], region.cols[window % len(region.cols)]
    found = torch.zeros(patch.shape[2], *size, dtype=torch.float64)
    found[:, top : top + region.height, left : left + region.width] = patch.double().permute(2, 0, 1)
    return found


def part_of(whole: Tensor, region: Region, window: int) -> Tensor:
    top, left = region.rows[window // len(region.cols)], region.cols[window % len(region.cols)]
    return whole[:, top : top + region.height, left : left + region.width].permute(1, 2, 0)


@needs_compiler
@pytest.mark.parametrize("dtype", [HALF, FULL])
@pytest.mark.parametrize("channels", [1, 16, 32, 45, 100])
@pytest.mark.parametrize("windows", [None, range(1, 5)])
def test_parts_are_joined(dtype: torch.dtype, channels: int, windows: range | None) -> None:
    """Two pieces, of one and of two patches; some lie beside the part, and one window of a patch at the border."""
    built, size = kernels(dtype), (11, 9)
    assert built is not None
    made, near = Region((0, 3), (0, 2, 3), 6, 5), Region((0, 3), (0, 2, 3), 6, 5)
    far = Region((5, 8), (4, 0, 7), 3, 2)
    generator = torch.Generator().manual_seed(channels)
    one, two, three = (
        torch.randn(6, r.height, r.width, channels, generator=generator).to(dtype) for r in (near, far, far)
    )
    scale, clean = (torch.randn(shape, generator=generator) for shape in ((2 * channels,), (*size, 2 * channels)))
    clips = Clipping(clean, -0.5, 0.75), Clipping(clean, 0.0, math.inf)
    for s, clipping in ((None, None), (scale, None), (None, clips[0]), (scale, clips[1])):
        joining = Joining(built, made, [(channels, [far]), (channels, [near, far])], s)
        found = joining.into(joining.empty(one, windows), [[three], [one, two]], clipping, windows)
        for i, window in enumerate(windows or range(6)):
            change = torch.cat(
                [
                    on_the_map(three[window], far, window, size),
                    on_the_map(one[window], near, window, size) + on_the_map(two[window], far, window, size),
                ]
            )
            change = change if s is None else change * s.double()[:, None, None]
            if clipping is not None:
                before = clean.double().permute(2, 0, 1)
                low, high = clipping.low, clipping.high
                change = before.clamp(low, high) - (before - change).clamp(low, high)
            torch.testing.assert_close(
                found[i].double(), part_of(change, made, window), rtol=2**-8 if dtype == HALF else 1e-5, atol=1e-6
            )


@needs_compiler
@pytest.mark.parametrize("dtype", [HALF, FULL])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), (1, 1), (1, 1)), ((5, 3), (2, 1), (2, 0)), ((2, 2), (2, 2), (0, 0)), ((7, 1), (3, 2), (3, 0))],
)
@pytest.mark.parametrize("channels", [3, 32, 77])
def test_kernels_slide(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], channels: int, dtype: torch.dtype
) -> None:
    """A convolution of each channel by itself, clipped and not, and max pooling."""
    built, size = kernels(dtype), (19, 17)
    assert built is not None
    generator = torch.Generator().manual_seed(channels)
    clean, weight = torch.randn(1, channels, *size, generator=generator), torch.randn(channels, 1, *kernel)
    result = F.conv2d(clean.double(), weight.double(), None, stride, padding, groups=channels)
    pooled = F.max_pool2d(clean.double(), kernel, stride, padding)
    height, width = result.shape[2:]
    patch = Region((0, 6, 13), (0, 11), 6, 6)
    region = Region((0, 1, height - 4), (0, width - 3), 4, 3)
    moved = torch.randn(6, 6, 6, channels, generator=generator).to(dtype)
    axes = (Axis(kernel[0], stride[0], padding[0]), Axis(kernel[1], stride[1], padding[1]))
    sliding = Sliding(built, region, patch, axes, channels, weight.flatten(1).T.contiguous())
    rows = [value[0].permute(1, 2, 0).float().contiguous() for value in (clean, result, pooled)]
    found = {
        "linear": sliding.convolved(sliding.empty(moved), moved),
        "clipped": sliding.convolved(sliding.empty(moved), moved, Clipping(rows[1], 0.0, 6.0)),
        "pooled": sliding.pooled(sliding.empty(moved), moved, rows[0], rows[2]),
    }
    for window in range(6):
        occluded = clean[0].double() - on_the_map(moved[window], patch, window, size)
        convolved = F.conv2d(occluded[None], weight.double(), None, stride, padding, groups=channels)
        wanted = {
            "linear": result - convolved,
            "clipped": result.clamp(0, 6) - convolved.clamp(0, 6),
            "pooled": pooled - F.max_pool2d(occluded[None], kernel, stride, padding),
        }
        for name, expected in wanted.items():
            torch.testing.assert_close(
                found[name][window].double(),
                part_of(expected[0], region, window),
                rtol=2**-8 if dtype == HALF else 1e-5,
                atol=1e-5,
            )


@needs_compiler
@pytest.mark.parametrize("dtype", [HALF, FULL])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    region, built = Region((0,), (0,), 2, 2), kernels(dtype)
    assert built is not None
    patch, clean = torch.tensor([math.nan, math.inf, -math.inf, 1.0]).to(dtype).reshape(1, 2, 2, 1), torch.ones(2, 2, 1)
    found = Joining(built, region, [(1, [region])], torch.ones(1))
    assert found.into(found.empty(patch), [[patch]]).isnan().flatten().tolist() == [True, False, False, False]
    clipped = found.into(found.empty(patch), [[patch]], Clipping(clean, 0.0, 6.0)).flatten().tolist()
    assert math.isnan(clipped[0])
    assert clipped[1:] == [1, -5, 1]
    axes = (Axis(2, 2, 0), Axis(2, 2, 0))
    pool = Sliding(built, Region((0,), (0,), 1, 1), region, axes, 1)
    assert pool.pooled(pool.empty(patch), patch, clean, torch.ones(1, 1, 1)).isnan().all()


@needs_compiler
def test_kernels_read_nothing_that_lies_elsewhere() -> None:
    """Their process would end."""
    region, built = Region((0,), (0,), 2, 3), kernels(FULL)
    assert built is not None
    joining, dense = Joining(built, region, [(4, [region])]), torch.ones(1, 2, 3, 4)
    for patch in (dense.to("meta"), dense.transpose(1, 2).contiguous().transpose(1, 2)):
        with pytest.raises(ValueError, match="dense arrays"):
            joining.into(dense, [[patch]])


@needs_compiler
def test_the_default_device_and_precision_say_nothing_of_kernels() -> None:
    try:
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        assert kernels.__wrapped__(HALF) is not None
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(FULL)


def test_threads_that_begin_at_once_share_one_plan() -> None:
    """Each made a network of its own, for which the plan of another held nothing."""
    options, found = SessionOptions(Cut.before_classifier()), list[Tensor]()
    windows, fill = place_windows(SIZE, (16, 12), (11, 12)), torch.zeros_like(image())
    with open_session(
        calibrated(MADE["dense"]), "dense", (3, *SIZE), runtime.resolve("cpu", "bf16"), options
    ) as session:
        start = threading.Barrier(4)

        def occlude() -> None:
            start.wait()
            found.append(incremental.occluded_logits(session, image(), windows, fill, "on")[1])

        threads = [threading.Thread(target=occlude) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = incremental.occluded_logits(session, image(), windows, fill, "on")[1]
    assert len(found) == 4
    assert all(torch.equal(each, alone) for each in found)


@needs_compiler
def test_threads_share_the_windows() -> None:
    region, before = Region(tuple(range(40)), tuple(range(30)), 3, 3), torch.get_num_threads()
    patch, clean = torch.randn(1200, 3, 3, 33), torch.randn(42, 32, 33)
    built = kernels(FULL)
    assert built is not None
    assert built.parallel is not None
    joining, found = Joining(built, region, [(33, [region])]), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(joining.into(joining.empty(patch), [[patch]], Clipping(clean, 0.0, 1.0)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("moved += wide(other[i])", "moved -= wide(other[i])"),
        ("moved *= scale[i]", "moved *= scale[0]"),
        ("a1 += at[1] * w1", "a1 += at[1] * w0"),
        ("value > best[i] ||", "value < best[i] ||"),
    ],
)
def test_kernels_that_are_wrong_are_not_used(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compiler with a fault would make them."""
    assert kernels(FULL) is not None
    source = Path(compiled_kernels.__file__).with_name("kernels.c").read_text()
    assert right in source
    library = compiled(source.replace(right, wrong))
    assert library is not None
    assert not compiled_kernels._right(Kernels(library, FULL))
    monkeypatch.setattr(compiled_kernels, "compiled", lambda text: library)
    assert kernels.__wrapped__(FULL) is None


@pytest.mark.skipif(not runtime.packable(torch.device("cpu")), reason="no packed convolutions")
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_of_one_position_is_a_product(stride: int) -> None:
    conv = nn.Conv2d(24, 40, 1, stride)
    x = torch.randn(3, 24, 11, 9).bfloat16().contiguous(memory_format=torch.channels_last)
    found = PackedConv(conv, HALF).linear(x, None, [0, 0])
    with torch.no_grad():
        expected = F.conv2d(x.float(), conv.weight.bfloat16().float(), None, stride)
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-3)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_there_are_kernels_for_two_precisions() -> None:
    assert kernels(torch.float16) is kernels(torch.float64) is None
