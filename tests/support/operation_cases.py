"""Operations in every spelling, and what each spelling must give."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Spelling = nn.Module | Callable[..., Any]
_WEIGHT = torch.randn(6, 2, 3, 5, generator=torch.Generator().manual_seed(1))
_VECTOR = torch.rand(4, generator=torch.Generator().manual_seed(2))
_SQUARE = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))


class Written(nn.Module):
    """A spelling as a network, with tensors of its own for functions that take weights."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.part = spelling if isinstance(spelling, nn.Module) else None
        self.function = None if isinstance(spelling, nn.Module) else spelling
        self.weight, self.vector, self.square = (nn.Parameter(t) for t in (_WEIGHT, _VECTOR, _SQUARE))

    def forward(self, x: Tensor) -> Any:
        if self.part is not None:
            return self.part(x)
        assert self.function is not None
        takes_network = self.function.__name__ == "<lambda>" and self.function.__code__.co_argcount == 2
        return self.function(x, self) if takes_network else self.function(x)


@dataclass(frozen=True)
class Case:
    """Spellings of one operation, and what all of them must give (of the arguments at least these)."""

    kind: str
    name: str
    expected: Mapping[str, Any]
    spellings: tuple[Spelling, ...]


def _conv() -> nn.Conv2d:
    return nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 0), dilation=(1, 2), groups=2, bias=False)


_SLIDING = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
_EVERY = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
CASES = [
    Case(
        "convolution",
        "conv2d",
        {
            "kernel_size": (3, 5),
            "stride": (2, 2),
            "padding": (1, 0),
            "dilation": (1, 2),
            "groups": 2,
            "bias": None,
            "padding_mode": "zeros",
            "weight": "tensor (6, 2, 3, 5)",
            "input": "the image",
        },
        (
            _conv(),
            lambda x, m: F.conv2d(x, m.weight, None, 2, (1, 0), (1, 2), 2),
            lambda x, m: torch.conv2d(x, m.weight, stride=[2], padding=[1, 0], dilation=(1, 2), groups=2),
            lambda x, m: F.conv2d(input=x, weight=m.weight, stride=(2, 2), padding=(1, 0), dilation=(1, 2), groups=2),
        ),
    ),
    Case(
        "convolution",
        "conv2d",
        {
            "kernel_size": (1, 1),
            "stride": (1, 1),
            "padding": (0, 0),
            "dilation": (1, 1),
            "groups": 1,
            "bias": "tensor (4,)",
            "weight": "tensor (4, 4, 1, 1)",
        },
        (
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1, padding="valid"),
            lambda x, m: F.conv2d(x, torch.ones(4, 4, 1, 1), m.vector),
        ),
    ),
    Case(
        "transposed_convolution",
        "conv_transpose2d",
        {
            "stride": (2, 2),
            "padding": (1, 1),
            "output_padding": (1, 1),
            "groups": 2,
            "dilation": (1, 1),
            "kernel_size": (3, 5),
            "weight": "tensor (6, 2, 3, 5)",
        },
        (
            nn.ConvTranspose2d(6, 4, (3, 5), 2, 1, output_padding=1, groups=2, bias=False),
            lambda x, m: F.conv_transpose2d(x, m.weight, None, 2, 1, 1, 2),
            lambda x, m: torch.conv_transpose2d(x, m.weight, stride=2, padding=1, output_padding=1, groups=2),
        ),
    ),
    Case(
        "linear",
        "linear",
        {"weight": "tensor (3, 8)", "bias": None, "input": "the image"},
        (nn.Linear(8, 3, bias=False), lambda x, m: F.linear(x, m.square), lambda x, m: F.linear(x, weight=m.square)),
    ),
    Case(
        "normalisation",
        "batch_norm",
        {
            "running_mean": "tensor (4,)",
            "running_var": "tensor (4,)",
            "weight": "tensor (4,)",
            "bias": "tensor (4,)",
            "training": False,
            "eps": 0.01,
            "momentum": 0.2,
        },
        (
            nn.BatchNorm2d(4, eps=0.01, momentum=0.2).eval(),
            nn.SyncBatchNorm(4, eps=0.01, momentum=0.2).eval(),
            lambda x, m: F.batch_norm(x, m.vector, m.vector, m.vector, m.vector, False, 0.2, 0.01),
            lambda x, m: torch.batch_norm(x, m.vector, m.vector, m.vector, m.vector, False, 0.2, 0.01, True),
        ),
    ),
    Case(
        "normalisation",
        "layer_norm",
        {"normalized_shape": (8,), "weight": None, "bias": None, "eps": 1e-6},
        (
            nn.LayerNorm(8, eps=1e-6, elementwise_affine=False),
            lambda x: F.layer_norm(x, [8], eps=1e-6),
            lambda x: torch.layer_norm(x, (8,), None, None, 1e-6),
        ),
    ),
    Case(
        "normalisation",
        "group_norm",
        {"num_groups": 2, "weight": "tensor (4,)", "bias": "tensor (4,)", "eps": 1e-5},
        (
            nn.GroupNorm(2, 4),
            lambda x, m: F.group_norm(x, 2, m.vector, m.vector),
            lambda x, m: torch.group_norm(x, num_groups=2, weight=m.vector, bias=m.vector),
        ),
    ),
    Case(
        "normalisation",
        "instance_norm",
        {"running_mean": None, "running_var": None, "weight": None, "bias": None, "use_input_stats": True},
        (nn.InstanceNorm2d(4), lambda x: F.instance_norm(x)),
    ),
    Case(
        "normalisation",
        "local_response_norm",
        {"size": 3, "alpha": 1e-4, "beta": 0.5, "k": 2.0},
        (nn.LocalResponseNorm(3, beta=0.5, k=2.0), lambda x: F.local_response_norm(x, 3, beta=0.5, k=2.0)),
    ),
    Case(
        "scaling",
        "rms_norm",
        {"normalized_shape": (8,), "weight": None, "eps": 1e-3},
        (nn.RMSNorm(8, 1e-3, elementwise_affine=False), lambda x: F.rms_norm(x, (8,), eps=1e-3)),
    ),
    Case(
        "scaling",
        "normalize",
        {"p": 2.0, "dim": 3},
        (lambda x: F.normalize(x, dim=-1), lambda x: F.normalize(x, 2.0, 3)),
    ),
    Case(
        "activation",
        "relu",
        {"input": "the image"},
        (
            nn.ReLU(),
            nn.ReLU(inplace=True),
            F.relu,
            F.relu_,
            torch.relu,
            torch.relu_,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            lambda x: F.relu(x, inplace=True),
        ),
    ),
    Case("activation", "relu6", {}, (nn.ReLU6(), F.relu6, lambda x: F.relu6(x, True))),
    Case(
        "activation",
        "leaky_relu",
        {"negative_slope": 0.2},
        (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2), lambda x: F.leaky_relu_(x, negative_slope=0.2)),
    ),
    Case(
        "activation",
        "hardtanh",
        {"min_val": -2.0, "max_val": 2.0},
        (
            nn.Hardtanh(-2.0, 2.0),
            lambda x: F.hardtanh(x, -2.0, 2.0),
            lambda x: F.hardtanh_(x, min_val=-2.0, max_val=2.0),
        ),
    ),
    Case(
        "activation",
        "clamp",
        {"min": 0, "max": 4},
        (
            lambda x: x.clamp(0, 4),
            lambda x: torch.clamp(x, max=4, min=0),
            lambda x: x.clip(0, 4),
            lambda x: x.clamp_(0, 4),
        ),
    ),
    Case(
        "activation",
        "clamp",
        {"min": 0, "max": None},
        (
            lambda x: x.clamp(min=0),
            lambda x: x.clamp_min(0),
            lambda x: torch.clamp_min(x, 0),
            lambda x: x.clamp_min_(0),
        ),
    ),
    Case(
        "activation",
        "clamp",
        {"min": None, "max": 6},
        (lambda x: x.clamp(max=6), lambda x: x.clamp_max(6), lambda x: torch.clamp_max_(x, 6)),
    ),
    Case("activation", "silu", {}, (nn.SiLU(), F.silu, torch.nn.functional.silu, lambda x: F.silu(x, inplace=True))),
    Case("activation", "gelu", {"approximate": "tanh"}, (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh"))),
    Case(
        "activation",
        "sigmoid",
        {},
        (nn.Sigmoid(), torch.sigmoid, F.sigmoid, lambda x: x.sigmoid(), lambda x: x.sigmoid_()),
    ),
    Case("activation", "tanh", {}, (nn.Tanh(), torch.tanh, lambda x: x.tanh())),
    Case("activation", "hardswish", {}, (nn.Hardswish(), F.hardswish)),
    Case(
        "activation",
        "threshold",
        {"threshold": 0.5, "value": 1.0},
        (nn.Threshold(0.5, 1.0), lambda x: F.threshold(x, 0.5, 1.0), lambda x: torch.threshold_(x, 0.5, 1.0)),
    ),
    Case("activation", "logsigmoid", {}, (nn.LogSigmoid(), F.logsigmoid)),
    Case("activation", "softplus", {"beta": 2.0, "threshold": 20.0}, (nn.Softplus(2.0), lambda x: F.softplus(x, 2.0))),
    Case(
        "activation",
        "prelu",
        {"weight": "tensor (4,)"},
        (nn.PReLU(4), lambda x, m: F.prelu(x, m.vector), lambda x, m: torch.prelu(x, m.vector)),
    ),
    Case(
        "softmax",
        "softmax",
        {"dim": 1},
        (
            nn.Softmax(1),
            nn.Softmax(-3),
            nn.Softmax2d(),
            lambda x: x.softmax(1),
            lambda x: F.softmax(x, dim=-3),
            lambda x: torch.softmax(x, 1),
        ),
    ),
    Case(
        "softmax",
        "log_softmax",
        {"dim": 3},
        (nn.LogSoftmax(-1), lambda x: F.log_softmax(x, 3), lambda x: x.log_softmax(-1)),
    ),
    Case("gated", "glu", {"dim": 1}, (nn.GLU(1), lambda x: F.glu(x, -3))),
    Case(
        "pooling",
        "max_pool2d",
        {**_SLIDING, "dilation": (1, 1), "ceil_mode": True, "return_indices": False},
        (
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
            lambda x: torch.max_pool2d(x, [3, 3], 2, 1, 1, True),
            lambda x: F.max_pool2d(x, (3, 3), [2], (1, 1), 1, True),
        ),
    ),
    Case(
        "pooling",
        "max_pool2d",
        {**_EVERY, "ceil_mode": False},
        (nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2), lambda x: torch.max_pool2d(x, kernel_size=(2, 2))),
    ),
    Case(
        "pooling",
        "avg_pool2d",
        {**_EVERY, "count_include_pad": True, "divisor_override": None},
        (nn.AvgPool2d(2), lambda x: F.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, kernel_size=2, stride=(2, 2))),
    ),
    Case(
        "pooling",
        "avg_pool2d",
        {**_SLIDING, "count_include_pad": False},
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), lambda x: F.avg_pool2d(x, 3, 2, 1, False, False)),
    ),
    Case(
        "pooling",
        "lp_pool2d",
        {"norm_type": 2, "kernel_size": (2, 2), "stride": (2, 2)},
        (nn.LPPool2d(2, 2), lambda x: F.lp_pool2d(x, 2, 2)),
    ),
    Case(
        "pooling",
        "adaptive_avg_pool2d",
        {"output_size": (1, 1)},
        (
            nn.AdaptiveAvgPool2d(1),
            nn.AdaptiveAvgPool2d((1, 1)),
            lambda x: F.adaptive_avg_pool2d(x, 1),
            lambda x: F.adaptive_avg_pool2d(x, output_size=[1, 1]),
        ),
    ),
    Case(
        "pooling",
        "adaptive_max_pool2d",
        {"output_size": (2, 3)},
        (nn.AdaptiveMaxPool2d((2, 3)), lambda x: F.adaptive_max_pool2d(x, (2, 3))),
    ),
    Case(
        "pooling", "max_pool1d", {"kernel_size": (2,), "stride": (2,)}, (nn.MaxPool1d(2), lambda x: F.max_pool1d(x, 2))
    ),
    Case(
        "pooling",
        "fractional_max_pool2d",
        {"kernel_size": (2, 2), "output_size": (3, 3)},
        (nn.FractionalMaxPool2d(2, 3), lambda x: F.fractional_max_pool2d(x, 2, 3)),
    ),
    Case(
        "reduction",
        "mean",
        {"dim": (2, 3), "keepdim": True},
        (
            lambda x: x.mean((2, 3), True),
            lambda x: torch.mean(x, dim=[-2, -1], keepdim=True),
            lambda x: x.mean(dim=(2, 3), keepdim=True),
            lambda x: x.mean(axis=(-2, 3), keepdims=True),
        ),
    ),
    Case("reduction", "sum", {"dim": None, "keepdim": False}, (lambda x: x.sum(), torch.sum)),
    Case("reduction", "max", {"dim": (3,)}, (lambda x: x.max(-1), lambda x: torch.max(x, 3))),
    Case(
        "reduction",
        "var",
        {"dim": (1,), "keepdim": True},
        (lambda x: x.var(1, True, True), lambda x: torch.var(x, -3, keepdim=True)),
    ),
    Case(
        "reduction",
        "vector_norm",
        {"dim": (2, 3), "ord": 2},
        (lambda x: torch.linalg.vector_norm(x, 2, (2, 3)), lambda x: torch.linalg.vector_norm(x, dim=(-2, -1))),
    ),
    Case(
        "addition",
        "add",
        {"input": "the image", "other": 2, "alpha": 1},
        (
            lambda x: x + 2,
            lambda x: torch.add(x, 2),
            lambda x: x.add(2),
            lambda x: x.add_(2),
            lambda x: operator.iadd(x, 2),
        ),
    ),
    Case("subtraction", "sub", {"input": 1, "other": "the image"}, (lambda x: 1 - x, lambda x: torch.rsub(x, 1))),
    Case(
        "product",
        "mul",
        {"input": "the image", "other": "the image"},
        (
            lambda x: x * x,
            lambda x: torch.mul(x, x),
            lambda x: x.mul(x),
            lambda x: x.multiply(x),
            lambda x: operator.imul(x, x),
        ),
    ),
    Case(
        "division",
        "div",
        {"input": "the image", "other": 3},
        (lambda x: x / 3, lambda x: torch.div(x, 3), lambda x: torch.true_divide(x, 3), lambda x: x.div_(3)),
    ),
    Case(
        "pointwise",
        "floor_divide",
        {"input": "the image", "other": 3},
        (lambda x: x // 3, lambda x: torch.div(x, 3, rounding_mode="floor"), lambda x: x.floor_divide(3)),
    ),
    Case(
        "matrix_product",
        "matmul",
        {"input": "the image"},
        (lambda x: x @ x, lambda x: torch.matmul(x, x), lambda x: x.matmul(x)),
    ),
    Case(
        "matrix_product",
        "einsum",
        {"equation": "nchw,nchw->n", "operands": ("the image", "the image")},
        (lambda x: torch.einsum("nchw,nchw->n", x, x), lambda x: torch.einsum("nchw,nchw->n", [x, x])),
    ),
    Case("pointwise", "pow", {"exponent": 3}, (lambda x: x**3, lambda x: torch.pow(x, 3), lambda x: x.pow(3))),
    Case(
        "pointwise",
        "where",
        {"condition": "gt", "input": "the image", "other": 0},
        (lambda x: torch.where(x > 0, x, 0), lambda x: x.where(x > 0, 0)),
    ),
    Case(
        "pointwise",
        "maximum",
        {"other": "the image"},
        (lambda x: torch.max(x, x), lambda x: torch.maximum(x, x), lambda x: x.max(x)),
    ),
    Case(
        "concatenation",
        "cat",
        {"tensors": ("the image", "the image"), "dim": 1},
        (
            lambda x: torch.cat([x, x], 1),
            lambda x: torch.concat((x, x), dim=-3),
            lambda x: torch.cat(tensors=[x, x], axis=1),
        ),
    ),
    Case("stack", "stack", {"dim": 4}, (lambda x: torch.stack([x, x], -1), lambda x: torch.stack((x, x), dim=4))),
    Case(
        "split",
        "split",
        {"split_size_or_sections": 2, "dim": 1},
        (lambda x: x.split(2, 1), lambda x: torch.split(x, 2, dim=-3), lambda x: x.split(split_size=2, dim=1)),
    ),
    Case(
        "split",
        "narrow",
        {"dim": 1, "start": 1, "length": 2},
        (lambda x: x.narrow(1, 1, 2), lambda x: torch.narrow(x, -3, start=1, length=2)),
    ),
    Case("split", "chunk", {"chunks": 2, "dim": 1}, (lambda x: x.chunk(2, 1), lambda x: torch.chunk(x, 2, dim=-3))),
    Case("index", "getitem", {"index": 0}, (lambda x: x[0], lambda x: operator.getitem(x, 0))),
    Case(
        "reshaping",
        "flatten",
        {"start_dim": 1, "end_dim": 3},
        (nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, start_dim=1, end_dim=-1)),
    ),
    Case("reshaping", "view", {"shape": (2, -1)}, (lambda x: x.view(2, -1), lambda x: x.view((2, -1)))),
    Case(
        "reshaping",
        "reshape",
        {"shape": (2, -1)},
        (lambda x: x.reshape(2, -1), lambda x: torch.reshape(x, [2, -1]), lambda x: torch.reshape(x, shape=(2, -1))),
    ),
    Case(
        "reshaping",
        "unflatten",
        {"dim": 1, "sizes": (2, 2)},
        (nn.Unflatten(1, (2, 2)), lambda x: x.unflatten(-3, (2, 2))),
    ),
    Case("reshaping", "squeeze", {"dim": (2,)}, (lambda x: x.squeeze(2), lambda x: torch.squeeze(x, dim=-2))),
    Case("reshaping", "unsqueeze", {"dim": 4}, (lambda x: x.unsqueeze(-1), lambda x: torch.unsqueeze(x, 4))),
    Case(
        "permutation",
        "permute",
        {"dims": (0, 2, 3, 1)},
        (
            lambda x: x.permute(0, 2, 3, 1),
            lambda x: x.permute((0, -2, -1, 1)),
            lambda x: torch.permute(x, (0, 2, 3, 1)),
        ),
    ),
    Case(
        "permutation",
        "permute",
        {"dims": (0, 3, 2, 1)},
        (
            lambda x: x.transpose(1, 3),
            lambda x: torch.transpose(x, -1, -3),
            lambda x: x.swapaxes(1, 3),
            lambda x: x.permute(0, 3, 2, 1),
        ),
    ),
    Case(
        "expansion",
        "expand",
        {"sizes": (2, -1, 8, 8)},
        (lambda x: x.expand(2, -1, 8, 8), lambda x: x.expand((2, -1, 8, 8))),
    ),
    Case(
        "padding",
        "pad",
        {"pad": (1, 2, 3, 4), "mode": "constant", "value": 0.0},
        (
            nn.ZeroPad2d((1, 2, 3, 4)),
            nn.ConstantPad2d((1, 2, 3, 4), 0.0),
            lambda x: F.pad(x, (1, 2, 3, 4)),
            lambda x: F.pad(x, [1, 2, 3, 4], "constant", 0.0),
        ),
    ),
    Case(
        "padding",
        "pad",
        {"pad": (1, 1, 1, 1), "mode": "reflect"},
        (nn.ReflectionPad2d(1), lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    ),
    Case(
        "padding",
        "pad",
        {"pad": (1, 1, 1, 1), "mode": "circular"},
        (nn.CircularPad2d(1), lambda x: F.pad(x, (1, 1, 1, 1), "circular")),
    ),
    Case(
        "resizing",
        "interpolate",
        {"size": None, "scale_factor": 2.0, "mode": "bilinear", "align_corners": False},
        (
            nn.Upsample(None, 2, "bilinear", False),
            lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False),
        ),
    ),
    Case("resizing", "pixel_shuffle", {"upscale_factor": 2}, (nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x, 2))),
    Case(
        "resizing",
        "pixel_unshuffle",
        {"downscale_factor": 2},
        (nn.PixelUnshuffle(2), lambda x: torch.pixel_unshuffle(x, 2)),
    ),
    Case("shuffling", "channel_shuffle", {"groups": 2}, (nn.ChannelShuffle(2), lambda x: F.channel_shuffle(x, 2))),
    Case("attention", "scaled_dot_product_attention", {}, (lambda x: F.scaled_dot_product_attention(x, x, x),)),
    Case(
        "identity",
        "dropout",
        {"p": 0.3, "training": False},
        (nn.Dropout(0.3).eval(), lambda x: F.dropout(x, 0.3, False), lambda x: torch.dropout(x, 0.3, False)),
    ),
    Case("identity", "dropout2d", {"p": 0.5}, (nn.Dropout2d(), lambda x: F.dropout2d(x))),
    Case("identity", "identity", {}, (nn.Identity(),)),
    Case("identity", "contiguous", {}, (lambda x: x.contiguous(),)),
    Case("constant", "zeros_like", {}, (torch.zeros_like, lambda x: torch.zeros_like(x))),
    Case("other", "cumsum", {}, (lambda x: x.cumsum(1), lambda x: torch.cumsum(x, 1))),
]
