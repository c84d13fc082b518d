"""Seeded networks for the tests: toys that each have one trap (and, from ``library``, networks of libraries).

A toy comes with the formula of its forward pass, written out without modules of the engine: ``split(network, x)``
gives the activations of the explained layer and the head as a function of them, in whatever precision they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.library import as_model, fill, timm_network, torchvision_network
from tests.support.toy_modules import (
    AddInPlace,
    Body,
    Concat,
    ConvNorm,
    Deep,
    Dense,
    FunctionalInPlace,
    MaxHead,
    Output,
    Plain,
    Residual,
    Reused,
    Scores,
    ValueDependent,
)

__all__ = [
    "OUTPUTS", "TOYS", "Body", "Toy", "ValueDependent", "as_model", "fill", "images", "seeded", "timm_network",
    "torchvision_network", "with_output", "with_pack",
]  # fmt: skip

Head = Callable[[Tensor], Tensor]


def calibrate(network: nn.Module, size: tuple[int, int] = (12, 16), count: int = 4) -> nn.Module:
    """Give every batch normalisation the statistics of what it sees, and weights that are not one and zero.

    With the identity that it starts from, folding it into a convolution would be no test.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        if norm.affine:
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.5, 0.5)
    if norms:
        with torch.no_grad():
            network.train()(images(count, size, seed=77))
    return network.eval()


def images(count: int = 3, size: tuple[int, int] = (12, 16), seed: int = 5) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A maker of the same network with the same weights every time; the caller's random state is left alone."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(11)
            network = make()
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.dim() > 1:
                        nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter[0].numel()))
                    else:
                        nn.init.uniform_(parameter, -0.3, 0.3)
            return calibrate(network)

    return build


@dataclass(frozen=True)
class Toy:
    """A network with one trap.

    Attributes:
        build: Makes it; the same weights every time.
        split: (network, x) -> (activations, head): the formula of its forward pass, cut at the layer.
        layer: What is asked for; None for the default.
        name: What the layer is called in the result.
        pre_activation: Whether an activation follows the explained tensor.
        traces: Whether the network can be traced.
        hooks: Whether hooks see this tensor (the result of a function outside any module they cannot see).
    """

    build: Callable[[], nn.Module]
    split: Callable[[Any, Tensor], tuple[Tensor, Head]]
    name: str
    layer: str | None = None
    pre_activation: bool = False
    traces: bool = True
    hooks: bool = True


def _after(function: Head) -> Callable[[Any, Tensor], tuple[Tensor, Head]]:
    return lambda n, x: (function(n.maps(x)), n.pooled)


def _before(function: Head) -> Callable[[Any, Tensor], tuple[Tensor, Head]]:
    return lambda n, x: (n.maps(x), lambda a: n.pooled(function(a)))


def _norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Evaluation-mode batch normalisation as a formula."""
    shape = (1, -1, 1, 1)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


def _iadd(n: AddInPlace, x: Tensor) -> tuple[Tensor, Head]:
    low = F.relu(n.stem(x))
    return n.conv(low), lambda a: n.pooled(F.relu(a + low))


def _residual(n: Residual, x: Tensor) -> tuple[Tensor, Head]:
    low = F.relu(n.stem(x))
    middle = F.relu(_norm(n.norm, n.conv(low)))
    return F.relu(_norm(n.norm2, n.conv2(middle)) + low), n.pooled


def _residual_middle(n: Residual, x: Tensor) -> tuple[Tensor, Head]:
    low = F.relu(n.stem(x))
    return n.conv(low), lambda a: n.pooled(F.relu(_norm(n.norm2, n.conv2(F.relu(_norm(n.norm, a)))) + low))


def _residual_stem(n: Residual, x: Tensor) -> tuple[Tensor, Head]:
    def head(low: Tensor) -> Tensor:
        return n.pooled(F.relu(_norm(n.norm2, n.conv2(F.relu(_norm(n.norm, n.conv(low))))) + low))

    return F.relu(n.stem(x)), head


def _conv_norm(n: ConvNorm, x: Tensor) -> tuple[Tensor, Head]:
    return F.relu(_norm(n.norm2, n.conv(F.relu(_norm(n.norm1, n.stem(x)))))), n.pooled


def _conv_norm_conv(n: ConvNorm, x: Tensor) -> tuple[Tensor, Head]:
    return n.conv(F.relu(_norm(n.norm1, n.stem(x)))), lambda a: n.pooled(F.relu(_norm(n.norm2, a)))


def _concat(n: Concat, x: Tensor) -> tuple[Tensor, Head]:
    low = F.relu(n.stem(x))
    return torch.cat([F.relu(n.conv(low)), torch.sigmoid(n.side(low))], 1), n.pooled


def _concat_branch(n: Concat, x: Tensor) -> tuple[Tensor, Head]:
    low = F.relu(n.stem(x))
    return n.conv(low), lambda a: n.pooled(
        torch.cat([F.relu(a), torch.sigmoid(n.side(low)).expand(len(a), -1, -1, -1)], 1)
    )


def _max_head(n: MaxHead, x: Tensor) -> tuple[Tensor, Head]:
    return F.relu(n.maps(x)), lambda a: n.fc(a.flatten(2).max(2).values)


def _dense(n: Dense, x: Tensor) -> tuple[Tensor, Head]:
    pre, _ = _dense_pre(n, x)
    return F.relu(pre), lambda a: n.classifier(a.mean((2, 3)))


def _dense_pre(n: Dense, x: Tensor) -> tuple[Tensor, Head]:
    pre = _norm(n.features[1], n.features[0](n.stem(x)))
    return pre, lambda a: n.classifier(F.relu(a).mean((2, 3)))


def _reused_first(n: Reused, x: Tensor) -> tuple[Tensor, Head]:
    return F.relu(n.stem(x)), lambda a: n.pooled(F.relu(n.conv(a)))


def _deep(n: Deep, x: Tensor) -> tuple[Tensor, Head]:
    pre, _ = _deep_after(n, x)
    return pre.clamp_min(0), lambda a: n.fc(torch.tanh(n.hidden(F.avg_pool2d(a, 2).mean((2, 3)))))


def _deep_conv(n: Deep, x: Tensor) -> tuple[Tensor, Head]:
    _, head = _deep_after(n, x)
    return n.maps(x), lambda a: head(n.after(F.relu(a)))


def _deep_after(n: Deep, x: Tensor) -> tuple[Tensor, Head]:
    def head(a: Tensor) -> Tensor:
        return n.fc(torch.tanh(n.hidden(F.avg_pool2d(torch.relu(a), 2).mean((2, 3)))))

    return n.after(F.relu(n.maps(x))), head


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _clip6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


TOYS: dict[str, Toy] = {
    "plain": Toy(seeded(lambda: Plain(nn.ReLU())), _after(F.relu), "act"),
    "plain, before": Toy(seeded(lambda: Plain(nn.ReLU())), _before(F.relu), "conv", "conv", True),
    "in-place module after": Toy(seeded(lambda: Plain(nn.ReLU(inplace=True))), _before(F.relu), "conv", "conv", True),
    "in-place module": Toy(seeded(lambda: Plain(nn.ReLU(inplace=True))), _after(F.relu), "act"),
    "in-place function after": Toy(seeded(FunctionalInPlace), _before(F.relu), "conv", "conv", True),
    "in-place function": Toy(seeded(FunctionalInPlace), _after(F.relu), "conv", hooks=False),
    "+= after": Toy(seeded(AddInPlace), _iadd, "conv", "conv"),
    "relu6": Toy(seeded(lambda: Plain(nn.ReLU6())), _after(_clip6), "act"),
    "relu6 in place after": Toy(seeded(lambda: Plain(nn.ReLU6(inplace=True))), _before(_clip6), "conv", "conv", True),
    "silu": Toy(seeded(lambda: Plain(nn.SiLU())), _after(_silu), "act"),
    "silu in place after": Toy(seeded(lambda: Plain(nn.SiLU(inplace=True))), _before(_silu), "conv", "conv", True),
    "depthwise": Toy(seeded(lambda: Plain(nn.ReLU6(), groups=6)), _after(_clip6), "act"),
    "concat": Toy(seeded(Concat), _concat, "conv", hooks=False),
    "concat, one branch": Toy(seeded(Concat), _concat_branch, "conv", "conv", True),
    "max head": Toy(seeded(MaxHead), _max_head, "conv", hooks=False),
    "residual": Toy(seeded(Residual), _residual, "relu:2"),
    "residual, middle": Toy(seeded(Residual), _residual_middle, "conv", "conv"),
    "residual, block input": Toy(seeded(Residual), _residual_stem, "relu:0", "relu:0"),
    "conv and norm": Toy(seeded(ConvNorm), _conv_norm, "norm2", hooks=False),
    "conv before norm": Toy(seeded(ConvNorm), _conv_norm_conv, "conv", "conv"),
    "dense": Toy(seeded(Dense), _dense, "features", hooks=False),
    "dense, features": Toy(seeded(Dense), _dense_pre, "features", "features", True),
    "reused": Toy(seeded(Reused), _after(F.relu), "act:1"),
    "reused, first call": Toy(seeded(Reused), _reused_first, "act:0", "act:0"),
    "deep head": Toy(seeded(Deep), _deep, "after", hooks=False),
    "deep head, conv": Toy(seeded(Deep), _deep_conv, "conv", "conv", True),
    "deep head, last conv": Toy(seeded(Deep), _deep_after, "after", "after", True),
    "untraceable": Toy(seeded(ValueDependent), _after(F.relu), "act", traces=False),
    "untraceable, before": Toy(seeded(ValueDependent), _before(F.relu), "conv", "conv", True, traces=False),
}


def _outputs() -> dict[str, tuple[Callable[[Tensor, Tensor], Any], str | None]]:
    """How class scores come back, and the --logits-key that finds them (None where nobody need say)."""
    return {
        "tensor": (lambda z, a: z, None),
        "[N, K, 1, 1]": (lambda z, a: z[:, :, None, None], None),
        "tuple": (lambda z, a: (z, a), None),
        "list": (lambda z, a: [z, a], None),
        "second of a tuple": (lambda z, a: (a, z), "1"),
        "last of a tuple": (lambda z, a: (a, z), "-1"),
        "dict": (lambda z, a: {"features": a, "logits": z}, None),
        "dict, out": (lambda z, a: {"aux": a, "out": z}, None),
        "dict, own key": (lambda z, a: {"features": a, "scores": z}, "scores"),
        "nested": (lambda z, a: {"heads": [{"scores": z}], "features": a}, "heads.0.scores"),
        "object": (lambda z, a: Scores(z, a), None),
        "object, named": (lambda z, a: Scores(a, z), "hidden"),
    }


OUTPUTS = _outputs()


def with_output(kind: str) -> nn.Module:
    pack, _ = OUTPUTS[kind]
    return seeded(lambda: Output(pack))()


def with_pack(pack: Callable[[Tensor, Tensor], Any], classes: int = 4) -> nn.Module:
    """A network that returns ``pack(logits, activations)``; the same weights for the same number of classes."""
    return seeded(lambda: Output(pack, classes))()
