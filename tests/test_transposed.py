"""Packed transposed convolutions against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.prepare.pack import PackedConv, tells_orders
from cnnviz.engine.prepare.transposed import TransposedConv

pytestmark = pytest.mark.skipif(not rt.packable(torch.device("cpu")), reason="no packed convolutions")


class Conv2dSame(nn.Conv2d):
    """Padding as TensorFlow has it: as many outputs as the stride allows, what is odd goes behind."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for axis in (1, 0):
            size, s = x.shape[2 + axis], self.stride[axis]
            span = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max((-(-size // s) - 1) * s + span - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


CASES: dict[str, tuple[type[nn.Conv2d], tuple[int, int, Any], dict[str, Any]]] = {
    "1x1": (nn.Conv2d, (16, 32, 1), {}),
    "1x1, stride 2": (nn.Conv2d, (16, 32, 1), {"stride": 2}),
    "1x1, stride 2, groups": (nn.Conv2d, (32, 64, 1), {"stride": 2, "groups": 2}),
    "1x1, padding": (nn.Conv2d, (16, 32, 1), {"padding": 1}),
    "3x3": (nn.Conv2d, (16, 32, 3), {"padding": 1}),
    "3x3, no padding": (nn.Conv2d, (16, 32, 3), {}),
    "3x3, stride 2": (nn.Conv2d, (16, 32, 3), {"padding": 1, "stride": 2}),
    "3x3, stride 3 over 2": (nn.Conv2d, (16, 32, 3), {"padding": (1, 0), "stride": (3, 2)}),
    "3x3, dilation": (nn.Conv2d, (16, 32, 3), {"padding": 2, "dilation": 2}),
    "3x3, dilation, stride 2": (nn.Conv2d, (16, 32, 3), {"padding": 2, "dilation": 2, "stride": 2}),
    "5x3 kernel": (nn.Conv2d, (16, 32, (5, 3)), {"padding": (2, 1)}),
    "2x2, stride 2": (nn.Conv2d, (16, 32, 2), {"stride": 2}),
    "more padding than kernel": (nn.Conv2d, (16, 32, 3), {"padding": 3}),
    "groups": (nn.Conv2d, (32, 64, 3), {"padding": 1, "groups": 4}),
    "groups, stride 2": (nn.Conv2d, (32, 64, 3), {"padding": 1, "groups": 4, "stride": 2}),
    "depthwise": (nn.Conv2d, (32, 32, 3), {"padding": 1, "groups": 32}),
    "depthwise, stride 2": (nn.Conv2d, (32, 32, 5), {"padding": 2, "groups": 32, "stride": 2}),
    "depthwise, two of each": (nn.Conv2d, (16, 32, 3), {"padding": 1, "groups": 16}),
    "image, 7x7, stride 2": (nn.Conv2d, (3, 64, 7), {"padding": 3, "stride": 2}),
    "image, 11x11, stride 4": (nn.Conv2d, (3, 64, 11), {"padding": 2, "stride": 4}),
    "image, 4x4, stride 4": (nn.Conv2d, (3, 32, 4), {"stride": 4}),
    "image, 2x2, stride 3": (nn.Conv2d, (3, 32, 2), {"stride": 3}),
    "image, stride 2 over 1": (nn.Conv2d, (1, 32, 3), {"padding": 1, "stride": (2, 1)}),
    "image, 3x3": (nn.Conv2d, (3, 32, 3), {"padding": 1}),
    "same": (Conv2dSame, (16, 32, 3), {"stride": 2}),
    "same, stride 1": (Conv2dSame, (16, 32, 4), {}),
    "same, image": (Conv2dSame, (3, 32, 3), {"stride": 2}),
    "same, depthwise": (Conv2dSame, (32, 32, 5), {"stride": 2, "groups": 32}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_equals_autograd(name: str, dtype: torch.dtype) -> None:
    """At even and odd sizes, for one image and several, alone and added to what is there."""
    kind, (inner, outer, kernel), options = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        conv = kind(inner, outer, kernel, **options).requires_grad_(False)
        exact = kind(inner, outer, kernel, **options).double().requires_grad_(False)
    exact.load_state_dict(conv.state_dict())
    packed = PackedConv(conv, torch.float32)
    transposed = None
    generator = torch.Generator().manual_seed(4)
    for count, size in ((1, (14, 16)), (3, (15, 13)), (1, (12, 12)), (1, (14, 16))):
        x = torch.randn(count, inner, *size, generator=generator, dtype=torch.float64).requires_grad_()
        y = exact(x)
        g = torch.randn(y.shape, generator=generator)
        (wanted,) = torch.autograd.grad(y, x, g.double())
        transposed = transposed or TransposedConv(conv, packed, dtype, tuple(g.shape))
        there = torch.randn(x.shape, generator=generator).contiguous(memory_format=torch.channels_last)
        before = there.double()
        g = g.contiguous(memory_format=torch.channels_last)
        untouched = g.clone()
        found, added = transposed(g, size), transposed(g, size, there)
        assert found.dtype == torch.float32
        tolerance = (1e-5 if transposed.dtype == torch.float32 else 2e-2) * float(wanted.abs().max())
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
        torch.testing.assert_close(added.double(), wanted + before, rtol=0, atol=tolerance + 1e-5)
        assert torch.equal(g, untouched)


@pytest.mark.skipif(not tells_orders(), reason="orders are not told")
def test_weights_of_many_shapes_are_held_once() -> None:
    conv = nn.Conv2d(16, 32, 3, 2, 1).requires_grad_(False)
    transposed = TransposedConv(conv, PackedConv(conv, torch.float32), torch.float32, (1, 32, 8, 8))
    for size in range(8, 20):
        transposed(torch.ones(1, 32, (size + 1) // 2, (size + 1) // 2), (size, size))
    held = transposed._form._ordered.values()
    assert len(held) == 12
    assert len({id(weight) for weight in held}) <= 2
