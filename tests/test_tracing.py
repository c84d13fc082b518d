"""What a network may do in its forward and still be explained: defaulted arguments, code that depends on strides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace
from tests.support import networks as nets


class Tutorial(nn.Module):
    """Convolution, ``view``, linear layer: what every tutorial builds."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(288, 4)

    def flat(self, y: Tensor) -> Tensor:
        return y.view(y.size(0), -1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.flat(torch.relu(self.c(x))))
        return out


class KeywordSize(Tutorial):
    def flat(self, y: Tensor) -> Tensor:
        return y.view(size=(y.shape[0], 288))


class ViewAs(Tutorial):
    def flat(self, y: Tensor) -> Tensor:
        return y.view_as(y.flatten(1))


class AsStrided(Tutorial):
    def flat(self, y: Tensor) -> Tensor:
        return torch.as_strided(y, (y.shape[0], 288), (288, 1))


class AsksForStrides(Tutorial):
    def flat(self, y: Tensor) -> Tensor:
        return y.flatten().as_strided((y.shape[0], 288), (y.stride(0), y.stride(3)))


class Bits(Tutorial):
    """The same bytes read as another type and back: no reshape can say that."""

    def flat(self, y: Tensor) -> Tensor:
        return (y + y.detach().view(torch.int32).view(torch.float32) - y.detach()).view(y.size(0), -1)


class _Branching(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return y.view(y.size(0), -1) if y.sum() < 1e9 else y.flatten(1)


class Unreadable(Tutorial):
    """The view is in a part whose course depends on values: one opaque node of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.branching = _Branching()

    def flat(self, y: Tensor) -> Tensor:
        out: Tensor = self.branching(y)
        return out


class Hooked(Tutorial):
    """Cannot be traced at all."""

    def flat(self, y: Tensor) -> Tensor:
        return y.view(y.size(0), -1) if y.sum() < 1e9 else y.flatten(1)


_KINDS = (Tutorial, KeywordSize, ViewAs, AsStrided, AsksForStrides, Bits, Unreadable, Hooked)
_PIXELS = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3))


def _built(kind: type[nn.Module]) -> Any:
    torch.manual_seed(0)
    return kind().eval()


def test_epsilon_rule_of_the_tutorial_network() -> None:
    torch.manual_seed(0)
    network, pixels = Tutorial().eval(), torch.randn(2, 3, 8, 8)
    found = cnnviz.explain(network, pixels, "lrp", target=1, rule="epsilon", epsilon=0)
    torch.testing.assert_close(found.raw.sum((1, 2, 3)), torch.tensor([0.303336, 0.063032]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", _KINDS)
def test_relevance_is_gradient_times_input_of_the_network_itself(kind: type[nn.Module]) -> None:
    # For ReLUs, epsilon 0 and biases that absorb their share, LRP is gradient x input (Ancona et al. 2018).
    network = _built(kind)
    leaf = _PIXELS.clone().requires_grad_()
    network(leaf)[:, 2].sum().backward()
    if kind is Hooked:
        with pytest.raises(cnnviz.CnnvizError, match="cannot be traced"):
            cnnviz.explain(network, _PIXELS, "lrp", target=2)
        return
    found = cnnviz.explain(network, _PIXELS, "lrp", target=2, rule="epsilon", epsilon=0)
    torch.testing.assert_close(found.raw, leaf.grad * _PIXELS, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", _KINDS)
def test_occlusion_runs_the_network_on_covered_images(kind: type[nn.Module]) -> None:
    network = _built(kind)
    found = cnnviz.explain(network, _PIXELS, "occlusion", target=0, window=4, stride=4, score="logit")
    with torch.no_grad():
        for row, col in ((0, 0), (0, 1), (1, 0), (1, 1)):
            covered = _PIXELS.clone()
            covered[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 0
            drop = (network(_PIXELS) - network(covered))[:, 0]
            torch.testing.assert_close(found.raw[:, row, col], drop, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_method_runs_silently(kind: type[nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    network = _built(kind)
    methods = ["gradcam", "scorecam", "saliency", "guided", "rise"]
    methods += [] if kind is Hooked else ["fullgrad", "excitation_backprop"]  # which need a trace, and say so
    for method in methods:
        found = cnnviz.explain(network, _PIXELS, method, **({"masks": 8} if method == "rise" else {}))
        torch.testing.assert_close(found.logits, network(_PIXELS).detach(), atol=1e-5, rtol=1e-4)
    assert capfd.readouterr().err == ""


# Arguments that have defaults.


class Labels(Tutorial):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # type: ignore[override]
        z = super().forward(x)
        return (nn.functional.cross_entropy(z, labels), z) if labels is not None else z


class Mask(Tutorial):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if mask is None:
            mask = torch.ones_like(x)
        return super().forward(x * mask)


class Flags(Tutorial):
    def forward(self, x: Tensor, scale: float = 2.0, *, twice: bool = False, mode: str = "plain") -> Tensor:  # type: ignore[override]
        if twice or mode != "plain":
            raise ValueError("never")
        return super().forward(x if scale > 3 else x * scale)


class ReturnDict(Tutorial):
    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Any:  # type: ignore[override]
        z = super().forward(pixel_values)
        return {"logits": z} if return_dict else (z,)


class AnyArguments(Tutorial):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        x = args[0]
        if kwargs.get("labels") is not None or len(args) > 1:
            raise ValueError("never")
        return super().forward(x)


class Nested(Tutorial):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Labels()

    def forward(self, x: Tensor, targets: Any = None, **rest: Any) -> Tensor:  # type: ignore[override]
        out: Tensor = self.inner(x, labels=targets)
        return out


@pytest.mark.parametrize("kind", [Labels, Mask, Flags, ReturnDict, AnyArguments, Nested])
def test_defaulted_arguments_stay_at_their_defaults(kind: type[nn.Module]) -> None:
    network = _built(kind)
    graph = trace(network, _PIXELS[:1], selector(None))
    assert graph is not None
    assert [node.op for node in graph.module.graph.nodes].count("placeholder") == 1
    leaf = _PIXELS.clone().requires_grad_()
    value = network(leaf)
    (value["logits"] if isinstance(value, dict) else value)[:, 1].sum().backward()
    found = cnnviz.explain(network, _PIXELS, "saliency", target=1)
    torch.testing.assert_close(found.raw, leaf.grad)


# Hooks of other tools.


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_another_tools_tensor_hook_is_passed_by(name: str) -> None:
    """As pytorch-grad-cam has it: a hook on the module before the head that asks for the gradient of its output."""
    x = nets.images(1, (64, 64))
    methods = ("gradcam", "cam", "saliency", "lrp")
    expected = {m: cnnviz.explain(nets.torchvision_network(name), x, method=m, target=3) for m in methods}
    network, gradients = nets.torchvision_network(name), []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(gradients.append)

    handle = network.features.register_forward_hook(keep)
    for method in methods:
        found = cnnviz.explain(network, x, method=method, target=3)
        assert found.layer == expected[method].layer
        torch.testing.assert_close(found.raw, expected[method].raw)
    assert list(network.features._forward_hooks.values()) == [keep]
    gradients.clear()
    network(x.requires_grad_()).sum().backward()
    assert len(gradients) == 1  # the other tool's hook still works
    handle.remove()


def test_a_hook_that_changes_the_output_counts() -> None:
    """It looks at values, so it cannot be traced: the network runs by hooks, with what the hook makes of it."""
    network = nets.torchvision_network("squeezenet1_1")
    network.features.register_forward_hook(lambda module, args, output: output * 2 if output.sum() != 0 else output)
    x = nets.images(1, (64, 64))
    found = cnnviz.explain(network, x, target=3, layer="features.12")
    torch.testing.assert_close(found.logits, network(x).detach(), rtol=1e-4, atol=1e-5)
