"""Networks in ONNX files explain as the PyTorch networks that they were exported from, in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.models.loading.load import load
from cnnviz.models.onnx_files.read import read_onnx
from cnnviz.settings import ModelSpec
from tests.support.networks import TOYS, calibrate, images, seeded, timm_network, torchvision_network
from tests.support.onnx_files import by_onnxruntime, exported, graph_file

SIZE = (64, 64)


def _explained(model: Any, batch: Tensor, method: str) -> cnnviz.Explanation:
    return cnnviz.explain(model, batch, method, target=[3, 0, 7])


def _calibrated(network: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return calibrate(network, SIZE)


@pytest.mark.parametrize("name", ["resnet18", "timm/mobilenetv3_small_050"])
def test_maps_are_those_of_the_network_that_was_exported(name: str, tmp_path: Path) -> None:
    network = _calibrated(timm_network(name[5:]) if name.startswith("timm/") else torchvision_network(name))
    batch = images(3, SIZE)
    path = exported(network, tmp_path / "network.onnx", batch[:1])
    model = cnnviz.load_model(str(path))
    assert model.loaded.preprocess.input_size == (3, *SIZE)
    for method in ("gradcam", "cam") if name == "resnet18" else ("gradcam",):
        mine, original = _explained(model, batch, method), _explained(network, batch, method)
        torch.testing.assert_close(mine.logits, original.logits, rtol=1e-4, atol=1e-4)
        assert float(original.raw.abs().amax((1, 2)).min()) > 0
        torch.testing.assert_close(mine.raw, original.raw, rtol=1e-4, atol=1e-4 * float(original.raw.abs().max()))
    assert len(model.layers()) > 3  # by its graph: without a trace there is one


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("method", ["gradcam", "lrp"])
def test_a_network_for_channels_last_explains_as_one_for_channels_first(method: str, tmp_path: Path) -> None:
    network, batch = TOYS["plain"].build(), images(3)
    path = exported(_ChannelsLast(network).eval(), tmp_path / "n.onnx", batch[:1].permute(0, 2, 3, 1))
    model = cnnviz.load_model(str(path))
    assert model.loaded.preprocess.input_size == (3, 12, 16)
    mine, original = (cnnviz.explain(each, batch, method, target=1) for each in (model, network))
    assert float(original.raw.abs().max()) > 0
    torch.testing.assert_close(mine.raw, original.raw, rtol=1e-4, atol=1e-4 * float(original.raw.abs().max()))
    assert "Permute" not in {row.type for row in model.layer_table()}  # it meets its inverse, and both are gone


@pytest.mark.slow
def test_the_newer_exporter_and_its_opset(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = _calibrated(timm_network("mobilenetv3_small_050"))
    batch = images(3, SIZE)
    path = exported(network, tmp_path / "network.onnx", batch[:1], dynamo=True, opset_version=20)
    mine, original = _explained(cnnviz.load_model(str(path)), batch, "gradcam"), _explained(network, batch, "gradcam")
    torch.testing.assert_close(mine.raw, original.raw, rtol=1e-4, atol=1e-4 * float(original.raw.abs().max()))


GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "a head that is reshaped": (
        """net (float[1,3,8,8] x) => (float[1,4] y) {
            a = Conv(x, w)  b = GlobalAveragePool(a)  s = Constant<value = int64[2] {1, 5}>()
            c = Reshape(b, s)  d = MatMul(c, v)  y = Add(d, e)
        }""",
        {"w": (5, 3, 3, 3), "v": (5, 4), "e": (4,)},
    ),
    "boxes in rows": (
        """net (float[1,3,8,8] x) => (float[1,36,4] y) {
            a = Conv(x, w)  b = Transpose<perm = [0, 2, 3, 1]>(a)
            s = Constant<value = int64[3] {1, -1, 4}>()  y = Reshape(b, s)
        }""",
        {"w": (4, 3, 3, 3)},
    ),
    "channels shuffled": (
        """net (float[1,3,8,8] x) => (float[1,3,6,6] y, float[1,3,6,6] z) {
            a = Conv(x, w)  s = Constant<value = int64[5] {1, 2, 3, 6, 6}>()  b = Reshape(a, s)
            c = Transpose<perm = [0, 2, 1, 3, 4]>(b)  t = Constant<value = int64[4] {1, 6, 6, 6}>()  d = Reshape(c, t)
            y, z = Split<axis = 1>(d)
        }""",
        {"w": (6, 3, 3, 3)},
    ),
    "a batch of two, merged with positions": (
        """net (float[2,3,8,8] x) => (float[2,36,5] y) {
            a = Conv(x, w)  s = Constant<value = int64[3] {2, 4, 36}>()  b = Reshape(a, s)
            c = Transpose<perm = [2, 0, 1]>(b)  t = Constant<value = int64[2] {-1, 4}>()  d = Reshape(c, t)
            e = MatMul(d, v)  u = Constant<value = int64[3] {36, 2, 5}>()  f = Reshape(e, u)
            y = Transpose<perm = [1, 0, 2]>(f)
        }""",
        {"w": (4, 3, 3, 3), "v": (4, 5)},
    ),
    "a class token": (
        """net (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv(x, w)  s = Constant<value = int64[3] {1, 5, 36}>()  b = Reshape(a, s)
            c = Transpose<perm = [0, 2, 1]>(b)  d = Concat<axis = 1>(t, c)  e = Softmax<axis = 1>(d)
            f = Mul(d, e)  g = ReduceMean<axes = [1], keepdims = 0>(f)  z = Constant<value = int64 {0}>()
            h = Gather<axis = 1>(f, z)  y = Add(g, h)
        }""",
        {"w": (5, 3, 3, 3), "t": (1, 1, 5)},
    ),
    "channels last": (
        """net (float[N,8,8,3] x) => (float[N,4,8,8] y) {
            a = Transpose<perm = [0, 3, 1, 2]>(x)  p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()
            b = Pad(a, p)  c = Conv(b, w)  k = Constant<value = float {0.1}>()  d = Div(c, k)
            y = HardSigmoid<alpha = 0.3, beta = 0.4>(d)
        }""",
        {"w": (4, 3, 3, 3)},
    ),
    "padding that is not spelled out": (
        """net (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)
            b = MaxPool<auto_pad = "SAME_LOWER", kernel_shape = [2, 2]>(a)
            c = Conv<auto_pad = "SAME_LOWER", strides = [3, 1]>(b, v)  d = GlobalMaxPool(c)  y = Flatten(d)
        }""",
        {"w": (4, 3, 3, 3), "v": (5, 4, 2, 4)},
    ),
    "limits and padding of what is computed": (
        """net (float[1,3,8,8] x) => (float[1,4,8,8] y) {
            s = Shape(x)  i = Constant<value = int64[1] {2}>()  h = Gather(s, i)  six = Constant<value = int64[1] {6}>()
            d = Sub(h, six)  zero = Constant<value = int64 {0}>()  p = Clip(d, zero, )
            half = Constant<value = int64[1] {2}>()
            q = Div(p, half)  none = Constant<value = int64[2] {0, 0}>()  r = Concat<axis = 0>(none, q, q, none, q, q)
            a = Pad(x, r)  b = Conv(a, w)  top = Constant<value = float {0.2}>()  y = Clip(b, , top)
        }""",
        {"w": (4, 3, 3, 3)},
    ),
    "an early opset": (
        """net (float[1,3,8,8] x) => (float[1,5] y) {
            a = Conv(x, w)  b = BatchNormalization(a, scale, shift, mean, var)  c = Clip<min = 0.0, max = 0.4>(b)
            p = Pad<pads = [0, 0, 1, 0, 0, 0, 0, 1]>(c)  u = Upsample<mode = "nearest">(p, factors)
            d = AveragePool<kernel_shape = [3, 3]>(u)  s = Sum(d, d)  e = GlobalAveragePool(s)
            q = Squeeze<axes = [2, 3]>(e)  f = Dropout<ratio = 0.5>(q)  g = Gemm(f, v, z)  y = Softmax(g)
        }""",
        {
            "w": (4, 3, 3, 3),
            "scale": (4,),
            "shift": (4,),
            "mean": (4,),
            "var": (4,),
            "v": (4, 5),
            "z": (5,),
            "factors": np.array([1, 1, 2, 2], np.float32),
        },
    ),
    "sizes of the batch in a resize": (
        """net (float[1,3,8,8] x) => (float[1,4,12,12] y) {
            a = Conv(x, w)  s = Constant<value = int64[4] {1, 4, 12, 12}>()
            b = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(a,,, s)
            st = Constant<value = int64[1] {1}>()  en = Constant<value = int64[1] {13}>()
            ax = Constant<value = int64[1] {3}>()  c = Concat<axis = 3>(b, b)  d = Slice(c, st, en, ax)  y = Sqrt(d)
        }""",
        {"w": np.ones((4, 3, 3, 3), np.float32)},
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_any_number_of_images_gives_what_each_gives_in_the_file(name: str, tmp_path: Path) -> None:
    text, weights = GRAPHS[name]
    path = graph_file(tmp_path / "network.onnx", text, 9 if "early" in name else 17, **weights)
    network = read_onnx(path)
    batch = images(6, (8, 8)).abs()
    expected = by_onnxruntime(
        path, batch.permute(0, 2, 3, 1) if "last" in name else batch, 2 if "batch of two" in name else 1
    )
    for count in (1, 6):
        found = network.module(batch[:count])
        found = [found] if isinstance(found, Tensor) else list(found.values())
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, torch.from_numpy(theirs[:count]), rtol=1e-5, atol=2e-5)
    left = {type(module).__name__ for module in network.module.modules() if "onnx2torch" in type(module).__module__}
    assert left <= {
        "OnnxTranspose",
        "OnnxBinaryMathOperation",
        "OnnxConcat",
        "OnnxCopyIdentity",
        "OnnxSqrt",
        "OnnxPadStatic",
        "OnnxClip",
        "OnnxSum",
    }  # which trace as they are
    told = [note for note in network.notes if "made for any number of images, the file for" in note]
    assert bool(told) == ("last" not in name)


class _Gates(nn.Module):
    """Functions that exporters take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU()), nn.Linear(8, 8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.act, self.head = nn.GELU(), nn.Linear(8, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x))
        x = self.act(self.mix(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("opset", [11, 17])
def test_activations_and_linear_layers_are_put_together_again(opset: int, tmp_path: Path) -> None:
    network, batch = seeded(_Gates)().eval(), images(3, (24, 20))
    model = cnnviz.load_model(str(exported(network, tmp_path / "n.onnx", batch[:1], opset_version=opset)))
    kinds = (nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.Linear, nn.Conv2d)
    for kind in kinds:
        counts = [sum(type(part) is kind for part in module.modules()) for module in (model.module, network)]
        assert counts[0] == counts[1], kind
    for method in ("guided", "lrp", "fullgrad"):
        mine, original = (_explained(each, batch, method).raw for each in (model, network))
        torch.testing.assert_close(mine, original, rtol=1e-3, atol=1e-4 * float(original.abs().max()))


class _Shuffling(nn.Module):
    """ShuffleNet's two ways to mix channels, and a softmax over them as older files have it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(6, 9, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        halves = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        x = torch.relu(self.last(halves[0] * 2 + halves[1]))
        return x.permute(0, 3, 2, 1).softmax(-1).permute(0, 3, 2, 1).mean((2, 3))


def test_channels_that_are_moved_stay_a_map(tmp_path: Path) -> None:
    network, batch = seeded(_Shuffling)().eval(), images(3, (24, 20))
    model = cnnviz.load_model(str(exported(network, tmp_path / "n.onnx", batch[:1], opset_version=11)))
    kinds = [type(part).__name__ for part in model.module.modules()]
    assert [kinds.count(name) for name in ("ChannelShuffle", "Index", "Softmax", "Reshape")] == [1, 2, 1, 0]
    rows = [row for row in model.layer_table() if row.type in ("Conv2d", "ReLU", "Softmax")]
    assert [row.receptive_field.size for row in rows if row.receptive_field] == [(3, 3), (7, 7), (7, 7), (7, 7)]
    with torch.no_grad():
        torch.testing.assert_close(model.module(batch), network(batch), rtol=1e-5, atol=1e-6)


class _Resizing(nn.Module):
    """Shapes taken from the input, as segmentation networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.act, self.scores = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low = self.act(self.low(x))
        maps = nn.functional.interpolate(self.scores(low), x.shape[2:], mode="bilinear")
        return {"maps": maps, "pooled": low.flatten(2).mean(2)}


def test_shapes_that_are_computed_follow_the_size_of_the_input(tmp_path: Path) -> None:
    free = {"image": {0: "n", 2: "h", 3: "w"}}
    names = ["maps", "pooled.0"]
    network = seeded(_Resizing)().eval()
    path = exported(network, tmp_path / "n.onnx", images(2, (32, 48)), dynamic_axes=free, output_names=names)
    model = cnnviz.load_model(str(path), input_size=(32, 32))
    assert model.loaded.preprocess.input_size == (3, 32, 32)
    assert model.loaded.output is not None
    assert model.loaded.output.key == "pooled/0"
    for size in ((32, 32), (33, 80)):
        batch = images(3, size)
        with torch.no_grad():
            found, original = model.module(batch), network(batch)
        for mine, theirs in zip(found.values(), original.values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert load(ModelSpec(model=str(path)), "maps").num_classes == 4


def test_a_function_as_target_reads_the_outputs_by_name(tmp_path: Path) -> None:
    network = seeded(_Resizing)().eval()
    path = exported(network, tmp_path / "n.onnx", images(1, (32, 48)), output_names=["maps", "pooled"])
    model, batch = cnnviz.load_model(str(path), logits_key="maps"), images(2, (32, 48))
    assert model.loaded.num_classes == 4
    layer = next(row.name for row in model.layer_table() if row.type == "ReLU")

    def target(output: dict[str, Tensor]) -> Tensor:
        return output["maps"][:, 1, 4:20].mean((1, 2))

    mine = cnnviz.explain(model, batch, target=target, layer=layer)
    original = cnnviz.explain(network, batch, target=target, layer="act", logits_key="maps")
    assert float(original.raw.max()) > 0
    torch.testing.assert_close(mine.raw, original.raw, rtol=1e-4, atol=1e-7)
