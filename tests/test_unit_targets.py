"""Units, neurons and functions of the whole output, explained by every method that can take them.

The expectation is another network: the same modules, whose forward ends at the layer and returns the units as if they
were classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine.targets import DifferenceTarget, UnitTarget
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.structures import map_tensors, tensors_of
from tests.support import networks as nets

METHODS: dict[str, dict[str, Any]] = {
    "gradcam": {}, "gradcam++": {}, "smoothgradcam++": {"samples": 2}, "xgradcam": {}, "hirescam": {}, "layercam": {},
    "eigengradcam": {}, "shapleycam": {}, "scorecam": {}, "ablationcam": {}, "saliency": {}, "gradient_x_input": {},
    "smoothgrad": {"samples": 2}, "integrated_gradients": {"steps": 3}, "guided": {}, "lrp": {},
    "fullgrad": {}, "occlusion": {"window": 4, "stride": 4}, "rise": {"masks": 12}, "kernelshap": {"samples": 20},
    "shapley": {"samples": 20},
    "lime": {"samples": 20}, "extremal": {"cells": 3, "steps": 1},
}  # fmt: skip
AT_IMAGE = {"saliency", "gradient_x_input", "smoothgrad", "integrated_gradients", "guided", "lrp",
            "fullgrad", "occlusion", "rise", "kernelshap", "shapley", "lime", "extremal"}  # fmt: skip


class UpToNorm(nets.ConvNorm):
    """The network up to its second normalisation, each unit reduced to one value."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm2(self.conv(F.relu(self.norm1(self.stem(x))))))


def conv_norm() -> nn.Module:
    return nets.calibrate(nets.seeded(nets.ConvNorm)().eval()).eval()


def ending(network: nn.Module, reduce: Callable[[Tensor], Tensor]) -> nn.Module:
    made = UpToNorm(reduce)
    made.load_state_dict(network.state_dict())
    return made.eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_unit_is_explained_as_the_class_of_a_network_that_ends_there(method: str) -> None:
    network, images, options = conv_norm(), nets.images(), dict(METHODS[method])
    if method not in AT_IMAGE:
        options["layer"] = "norm1"
    as_class = {**options, "score": "logit"}
    if method == "rise":  # which watches probabilities of classes, and a unit as it is

        def watched(output: Tensor) -> Tensor:
            return output[:, 3]

        expected = cnnviz.explain(ending(network, lambda a: a.sum((2, 3))), images, method, target=watched, **options)
    else:
        expected = cnnviz.explain(ending(network, lambda a: a.sum((2, 3))), images, method, target=3, **as_class)
    found = cnnviz.explain(network, images, method, target="unit:norm2:3", **options)
    assert float(expected.raw.abs().max()) > 1e-4
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-3, atol=1e-5 * float(expected.raw.abs().max()))
    assert found.target.tolist() == [3] * len(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    alone = cnnviz.explain(network, images[1:2], method, target="unit:norm2:3", **options)
    torch.testing.assert_close(alone.raw, found.raw[1:2], rtol=1e-3, atol=1e-5 * float(expected.raw.abs().max()))


@pytest.mark.parametrize(
    ("spec", "reduce"),
    [
        ("unit:norm2:2/strongest", lambda a: a.amax((2, 3))),
        ("unit:norm2:2/sum", lambda a: a.sum((2, 3))),
        ("neuron:norm2:2:1:4", lambda a: a[:, :, 1, 4]),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "gradcam", "occlusion", "lrp", "ablationcam", "guided"])
def test_neurons_and_strongest_positions(method: str, spec: str, reduce: Callable[[Tensor], Tensor]) -> None:
    network, images = conv_norm(), nets.images()
    options: dict[str, Any] = {"window": 3, "stride": 2} if method == "occlusion" else {}
    if method in {"gradcam", "ablationcam"}:
        options["layer"] = "norm1"
    expected = cnnviz.explain(ending(network, reduce), images, method, target=2, **options)
    found = cnnviz.explain(network, images, method, target=spec, **options)
    assert float(expected.raw.abs().max()) > 1e-5
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-3, atol=1e-5 * float(expected.raw.abs().max()))


def test_the_gradient_of_a_neuron_lies_in_its_receptive_field() -> None:
    """Two 3x3 convolutions, the first of stride 2: row y sees rows 2 y - 3 to 2 y + 3."""
    found = cnnviz.explain(conv_norm(), nets.images(), "saliency", target="neuron:norm2:0:2:3")
    rows, columns = found.maps[0].nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max())) == (2 * 2 - 3, 2 * 2 + 3)
    assert (int(columns.min()), int(columns.max())) == (2 * 3 - 3, 2 * 3 + 3)


def test_units_without_a_trace_are_those_with_one() -> None:
    untraced = nets.seeded(nets.ValueDependent)().eval()
    images = nets.images()

    class Straight(nets.ValueDependent):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.relu(self.stem(x))).sum((2, 3))

    same = Straight().eval()
    same.load_state_dict(untraced.state_dict())
    for method, options in (
        ("saliency", {}),
        ("occlusion", {"window": 4, "stride": 4}),
        ("gradcam", {"layer": "stem"}),
    ):
        found = cnnviz.explain(untraced, images, method, target="unit:conv:1", **options)
        expected = cnnviz.explain(same, images, method, target=1, **options)
        torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-6)
    rerun = cnnviz.explain(untraced, images, "ablationcam", target="unit:conv:1", layer="stem")
    expected = cnnviz.explain(same, images, "ablationcam", target=1, layer="stem")
    torch.testing.assert_close(rerun.raw, expected.raw, rtol=1e-4, atol=1e-6)


def test_units_of_a_vector_and_their_difference() -> None:
    network, images = nets.seeded(nets.Deep)().eval(), nets.images()

    def hidden(x: Tensor) -> Tensor:
        y = F.avg_pool2d(torch.relu(network.after(F.relu(network.maps(x)))), 2)
        return network.hidden(y.mean((2, 3)))

    found = cnnviz.explain(network, images, "gradcam", target="unit:hidden:5", layer="conv")
    leaf = network.maps(images).detach().requires_grad_()
    value = network.hidden(F.avg_pool2d(torch.relu(network.after(F.relu(leaf))), 2).mean((2, 3)))[:, 5].sum()
    [gradient] = torch.autograd.grad(value, [leaf])
    expected = (gradient.mean((2, 3), keepdim=True) * leaf.detach()).sum(1).clamp_min(0)
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, hidden(images).detach())
    difference = cnnviz.explain(network, images, "saliency", target="diff:unit:hidden:5,unit:hidden:1")
    pixels = images.clone().requires_grad_()
    values = hidden(pixels)
    [gradient] = torch.autograd.grad((values[:, 5] - values[:, 1]).sum(), [pixels])
    torch.testing.assert_close(difference.raw, gradient, rtol=1e-4, atol=1e-6)
    objects = DifferenceTarget(UnitTarget("hidden", torch.full((3,), 5)), UnitTarget("hidden", torch.ones(3).long()))
    torch.testing.assert_close(cnnviz.explain(network, images, "saliency", target=objects).raw, difference.raw)


def test_the_default_layer_of_a_unit_lies_below_it() -> None:
    """At the layer itself the gradient of a unit is 1 at itself and says nothing."""
    model = cnnviz.load_model("resnet18", weights="none")
    batch = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert cnnviz.explain(model, batch, target="unit:layer4:3").layer == "layer4.0"
    assert cnnviz.explain(model, batch, target="unit:layer4.0.conv1:3").layer == "layer3"
    assert cnnviz.explain(model, batch, target="unit:fc:3").layer == "layer4"
    assert cnnviz.explain(model, batch, target="unit:-2:3").layer == "layer3.0"


def test_the_default_layer_of_a_unit_without_a_trace_lies_below_it() -> None:
    model = cnnviz.load_model("resnet18", weights="none")
    batch = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    for spec in ("unit:layer3:3", "unit:-2:3", "unit:layer4.0.conv1:3", "unit:fc:3"):
        found = cnnviz.explain(model, batch, target=spec, tracing="off")
        traced = cnnviz.explain(model, batch, target=spec, layer=found.layer)
        assert found.layer is not None
        assert found.layer.startswith({"unit:fc:3": "layer4", "unit:layer4.0.conv1:3": "layer3"}.get(spec, "layer3.1"))
        torch.testing.assert_close(found.raw, traced.raw, rtol=1e-3, atol=1e-5 * float(traced.raw.abs().max()))


@pytest.mark.parametrize("spec", ["diff:1,1", "diff:unit:norm2:1,unit:norm2:1", "diff:pred,{pred}"])
def test_a_difference_of_the_same_is_refused(spec: str) -> None:
    network, images = conv_norm(), nets.images()
    predicted = int(network(images)[1].argmax())
    with pytest.raises(CnnvizError, match="both are the same"):
        cnnviz.explain(network, images, target=spec.format(pred=predicted))


def test_the_network_is_left_as_found() -> None:
    network, images = conv_norm().train(), nets.images()
    before = copy.deepcopy(network.state_dict())
    cnnviz.explain(network, images, target="unit:norm2:1", layer="norm1")
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unit:norm2", "expected unit:LAYER:K"),
        ("unit:norm2:x", "expected unit:LAYER:K"),
        ("unit:norm2:1/strong", "strongest"),
        ("neuron:norm2:1:2", "expected neuron:LAYER:K:ROW:COLUMN"),
        ("unit:norm3:1", "The network has no layer 'norm3'"),
        ("unit:norm2:6", "Unit 6 does not exist: layer norm2 has 6"),
        ("neuron:norm2:1:6:0", "6 x 8 positions; there is none at row 6, column 0"),
        ("neuron:fc:1:0:0", "returns a vector"),
        ("unit:stem:0", "no map lies below layer stem"),
        ("diff:1,unit:norm2:1", "no common scale"),
        ("diff:unit:norm2:1,unit:norm1:1", "two units of one layer"),
    ],
)
def test_units_that_do_not_exist(spec: str, message: str) -> None:
    with pytest.raises(CnnvizError, match=message):
        cnnviz.explain(conv_norm(), nets.images(), target=spec)


def test_a_layer_above_the_unit_is_refused() -> None:
    with pytest.raises(CnnvizError, match="does not influence"):
        cnnviz.explain(conv_norm(), nets.images(), target="unit:norm1:1", layer="norm2")


@pytest.mark.parametrize("method", ["cam", "excitation_backprop", "finercam"])
def test_methods_that_need_a_class_refuse_a_unit(method: str) -> None:
    with pytest.raises(CnnvizError, match="class"):
        cnnviz.explain(conv_norm(), nets.images(), method, target="unit:norm2:1", layer="norm1")


def _packed(kind: str) -> nn.Module:
    packs: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "dict": lambda z, a: {"logits": z, "maps": a},
        "tuple": lambda z, a: (z, a),
        "dataclass": lambda z, a: nets.Scores(z, a),
    }
    torch.manual_seed(0)
    return nets.Output(packs[kind]).eval()


def _maps_of(kind: str) -> Callable[[Any], Tensor]:
    return {"dict": lambda o: o["maps"], "tuple": lambda o: o[1], "dataclass": lambda o: o.hidden}[kind]


@pytest.mark.parametrize("kind", ["dict", "tuple", "dataclass"])
@pytest.mark.parametrize("method", ["saliency", "gradcam", "occlusion", "smoothgrad", "ablationcam", "extremal"])
def test_a_function_gets_all_that_the_network_returns(method: str, kind: str) -> None:
    """The score mixes two outputs; the expectation computes it inside of a network that returns it alone."""
    network, images, maps = _packed(kind), nets.images(), _maps_of(kind)

    class Alone(nets.Body):
        def forward(self, x: Tensor) -> Tensor:
            a = F.relu(self.maps(x))
            return (self.pooled(a)[:, 1] + a[:, 2].amax((1, 2)))[:, None].repeat(1, 2)

    alone = Alone().eval()
    alone.load_state_dict(network.state_dict())

    def score(output: Any) -> Tensor:
        z = next(tensors_of(output))
        assert z.shape[1:] == (4,), "the class scores come first"
        return z[:, 1] + maps(output)[:, 2].amax((1, 2))

    options: dict[str, Any] = {
        "occlusion": {"window": 4, "stride": 4}, "smoothgrad": {"samples": 3}, "gradcam": {"layer": "conv"},
        "ablationcam": {"layer": "conv"}, "extremal": {"cells": 3, "steps": 1},
    }.get(method, {})  # fmt: skip
    found = cnnviz.explain(network, images, method, target=score, **options)
    expected = cnnviz.explain(alone, images, method, target=1, **options)
    assert float(expected.raw.abs().max()) > 1e-5
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-6)


def test_a_function_of_a_dense_output() -> None:
    """A network without class scores: [N, K, h, w]."""

    class Segments(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.top = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.top(F.relu(self.stem(x)))

    torch.manual_seed(0)
    network, images = Segments().eval(), nets.images()
    found = cnnviz.explain(network, images, "saliency", target=lambda output: output[:, 2, 3, 5])
    pixels = images.clone().requires_grad_()
    [gradient] = torch.autograd.grad(network(pixels)[:, 2, 3, 5].sum(), [pixels])
    torch.testing.assert_close(found.raw, gradient, rtol=1e-4, atol=1e-6)
    assert found.target.tolist() == [-1] * len(images)
    cam = cnnviz.explain(network, images, "gradcam", target=lambda output: output[:, 2].mean((1, 2)), layer="stem")
    weights = network.top.weight[2, :, 0, 0] / (12 * 16)
    a = network.stem(images)
    gradient = (a > 0) * weights[:, None, None]
    expected = (gradient.mean((2, 3), keepdim=True) * a).sum(1).clamp_min(0)
    torch.testing.assert_close(cam.raw, expected.detach(), rtol=1e-4, atol=1e-7)


def test_a_final_softmax_is_part_of_what_a_function_gets() -> None:
    class Probabilities(nets.Body):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(F.relu(self.maps(x))).softmax(1)

    torch.manual_seed(0)
    network, images = Probabilities().eval(), nets.images()
    found = cnnviz.explain(network, images, "saliency", target=lambda output: output[:, 2])
    expected = cnnviz.explain(network, images, "saliency", target=2, score="probability")
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-7)


def test_the_target_of_the_page_on_extending() -> None:
    page = (Path(__file__).parent.parent / "docs" / "extending.md").read_text("utf-8")
    block = page.partition("# a target\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(block, names)
    network, images = nets.seeded(nets.Deep)().eval(), nets.images()
    found = cnnviz.explain(network, images, "saliency", target=names["Margin"]())
    pixels = images.clone().requires_grad_()
    scores = network(pixels).sort(dim=1, descending=True).values
    [gradient] = torch.autograd.grad((scores[:, 0] - scores[:, 1]).sum(), [pixels])
    torch.testing.assert_close(found.raw, gradient, rtol=1e-4, atol=1e-6)
    dropped = cnnviz.explain(network, images, "occlusion", target=names["Margin"](), window=4, stride=4)
    covered = images.clone()
    covered[:, :, :4, :4] = 0
    after = network(covered).sort(dim=1, descending=True).values
    expected = (scores[:, 0] - scores[:, 1]) - (after[:, 0] - after[:, 1])
    torch.testing.assert_close(dropped.raw[:, 0, 0], expected.detach(), rtol=1e-3, atol=1e-6)


@dataclass(slots=True)
class Slotted:
    logits: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Heads:
    top: nets.Scores


OBJECTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]], str | None]] = {
    "slots": (Slotted, lambda o: (o.logits, o.hidden), "logits"),
    "nested": (lambda z, a: Heads(nets.Scores(z, a)), lambda o: (o.top.logits, o.top.hidden), "top.logits"),
    "dict": (lambda z, a: {"logits": z, "maps": a}, lambda o: (o["logits"], o["maps"]), "logits"),
    "softmax": (lambda z, a: z.softmax(1), lambda o: (o, o[:, :, None, None]), None),
}


@pytest.mark.parametrize("tracing", ["auto", "off"])
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_function_of_objects_of_every_kind(kind: str, tracing: str) -> None:
    """Against gradients and differences of the network itself."""
    pack, parts, key = OBJECTS[kind]
    torch.manual_seed(0)
    network, images = nets.Output(pack).eval(), nets.images()

    def score(output: Any) -> Tensor:
        z, a = parts(output)
        return z[:, 1] + a[:, 2].amax((1, 2))

    how: dict[str, Any] = {"target": score, "tracing": tracing, "logits_key": key}
    pixels = images.clone().requires_grad_()
    [gradient] = torch.autograd.grad(score(network(pixels)).sum(), [pixels])
    # Without noise every sample is the image.
    smooth = cnnviz.explain(network, images, "smoothgrad", samples=3, noise=0.0, **how)
    torch.testing.assert_close(smooth.raw, gradient, rtol=1e-4, atol=1e-7)
    path = cnnviz.explain(network, images, "integrated_gradients", steps=4, **how)
    with torch.no_grad():
        difference = score(network(images)) - score(network(torch.zeros_like(images)))
        hidden = images.clone()
        hidden[:, :, :6, :8] = 0
        without = score(network(images)) - score(network(hidden))
    torch.testing.assert_close(torch.tensor(path.scores["score_difference"]), difference, rtol=1e-4, atol=1e-6)
    gap = difference - path.raw.sum((1, 2, 3))
    torch.testing.assert_close(torch.tensor(path.scores["completeness_gap"]), gap, rtol=1e-3, atol=1e-6)
    found = cnnviz.explain(network, images, "occlusion", window=(6, 8), stride=(6, 8), baseline="zero", **how)
    torch.testing.assert_close(found.raw[:, 0, 0], without, rtol=1e-4, atol=1e-6)


def test_structures_that_hold_themselves_end() -> None:
    class Node:
        def __init__(self) -> None:
            self.value, self.parent = torch.ones(2), self

    doubled = map_tensors(lambda t: 2 * t, Node())
    assert torch.equal(doubled.value, torch.full((2,), 2.0))


def test_structures_keep_their_kinds() -> None:
    first = {"a": torch.ones(2), "b": (torch.zeros(1), [nets.Scores(torch.ones(3), torch.ones(1)), "text"])}
    doubled = map_tensors(lambda t: 2 * t, first)
    assert torch.equal(doubled["a"], torch.full((2,), 2.0))
    assert isinstance(doubled["b"], tuple)
    assert torch.equal(doubled["b"][1][0].logits, torch.full((3,), 2.0))
    assert doubled["b"][1][1] == "text"
    assert torch.equal(first["b"][1][0].logits, torch.ones(3)), "what was given is left alone"
    summed = map_tensors(lambda *same: sum(same), first, doubled)
    assert torch.equal(summed["a"], torch.full((2,), 3.0))
    assert len(list(tensors_of(first))) == 4
