"""Which scalar is explained, what may be asked for, and what several targets cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.targets import (
    ClassTarget,
    DifferenceTarget,
    Target,
    UnitTarget,
    class_count,
    class_logits,
    predicted,
    probabilities,
)
from cnnviz.errors import CnnvizError
from cnnviz.tasks.words import make_target
from tests.support import networks as nets

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 2.0]])


def _softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(z) for z in row)
    return [math.exp(z) / total for z in row]


@pytest.mark.parametrize("target", [2, [2, 2, 2], (2, 2, 2), torch.tensor([2, 2, 2]), torch.tensor(2), np.int64(2)])
def test_every_way_of_naming_one_class(target: Any) -> None:
    network = nets.TOYS["plain"].build()
    found = cnnviz.explain(network, nets.images(), target=target)
    expected = cnnviz.explain(network, nets.images(), target=lambda z: z[:, 2])
    assert found.target.tolist() == [2, 2, 2]
    assert found.target.dtype == torch.int64
    torch.testing.assert_close(found.raw, expected.raw, rtol=0, atol=0)
    assert found.raw.abs().max() > 0


@pytest.mark.parametrize(
    "target", [[3, 0, 1], torch.tensor([3, 0, 1]), np.array([3, 0, 1]), torch.tensor([[3], [0], [1]])]
)
def test_one_class_for_each_image(target: Any) -> None:
    network = nets.TOYS["plain"].build()
    found = cnnviz.explain(network, nets.images(), target=target)
    assert found.target.tolist() == [3, 0, 1]
    for i, index in enumerate([3, 0, 1]):
        single = cnnviz.explain(network, nets.images(), target=index)
        torch.testing.assert_close(found.raw[i], single.raw[i], rtol=0, atol=0)


def test_none_is_the_predicted_class() -> None:
    found = cnnviz.explain(nets.TOYS["plain"].build(), nets.images())
    assert found.target.tolist() == found.logits.argmax(1).tolist()


def test_a_function_as_target() -> None:
    """The gradient is linear: the map for a difference is the difference of the signed maps."""
    network = nets.TOYS["plain"].build()

    def signed(target: Any) -> Tensor:
        sides = [cnnviz.explain(network, nets.images(), target=target, counterfactual=c).raw for c in (False, True)]
        return sides[0] - sides[1]

    contrast = signed(lambda z: z[:, 3] - 2 * z[:, 1])
    torch.testing.assert_close(contrast, signed(3) - 2 * signed(1), rtol=1e-4, atol=1e-6)
    assert contrast.abs().max() > 1e-3


class _Handed(Target):
    """A score of somebody's own."""

    unit = "score"

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, output: Tensor) -> Any:
        return self.function(output)

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ([1, 2], "2 targets for 3 images", "one for each image"),
        ([1], "1 targets for 3 images", "one for each image"),
        (np.array([1]), "1 targets for 3 images", "one for each image"),
        ([1, 2, 3, 0], "4 targets for 3 images", "one for each image"),
        (torch.zeros(3, 2, dtype=torch.long), "6 targets for 3 images", "one for each image"),
        (4, "Class 4 does not exist: the network has 4 classes", "0 to 3"),
        (-1, "Class -1 does not exist: the network has 4 classes", "0 to 3"),
        ([0, 1, 99], "Class 99 does not exist: the network has 4 classes", "0 to 3"),
        (1.0, "integers", "281"),
        (True, "integers", "281"),
        ("tabby", "'tabby' is not a class index", "281"),
        ([[1], [2, 3]], "not a class index", "281"),
        (lambda z: z, r"\[3, 4\]; expected one score an image, shape \[3\]", "output"),
        (lambda z: z.sum(), r"\[\]; expected one score", "output"),
        (lambda z: 1.0, "float; expected one score", "output"),
        (lambda z: z.detach()[:, 0], "does not depend", "output"),
        (ClassTarget(torch.tensor([1])), "1 targets for 3 images", "one for each image"),
        (ClassTarget(torch.tensor([0, 1, 4])), "Class 4 does not exist: the network has 4 classes", "0 to 3"),
        (ClassTarget(torch.tensor([0, 1, -1])), "Class -1 does not exist", "0 to 3"),
        (ClassTarget(torch.tensor([0, 1, 2]), "probabilty"), "Unknown score 'probabilty'", "probability"),
        (
            DifferenceTarget(ClassTarget(torch.tensor([0, 1, 2])), ClassTarget(torch.tensor([3]))),
            "1 targets for 3 images",
            "one for each image",
        ),
        (UnitTarget("conv", torch.tensor([1])), "1 targets for 3 images", "one unit for each image"),
        (_Handed(lambda z: z.sum()), r"_Handed returned \[\]; expected one score an image, shape \[3\]", "output"),
        (_Handed(lambda z: z[:1, 0]), r"_Handed returned \[1\]; expected one score an image", "output"),
        (_Handed(lambda z: z[:, :1]), r"_Handed returned \[3, 1\]; expected one score an image", "output"),
    ],
)
def test_wrong_targets(target: Any, message: str, hint: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), target=target)
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("kind", ["plain", "batch"])
def test_a_target_for_fewer_images_than_the_batch_has(kind: str) -> None:
    """Of a score that is one image's the gradient at the others is zero: no map of theirs."""

    class Centred(nets.Body):
        def forward(self, x: Tensor) -> Tensor:
            z = self.pooled(F.relu(self.maps(x)))
            return z - z.mean(0)

    torch.manual_seed(0)
    network = nets.TOYS["plain"].build() if kind == "plain" else Centred().eval()
    with pytest.raises(CnnvizError, match="2 targets for 3 images"):
        cnnviz.explain(network, nets.images(), "saliency", target=ClassTarget(torch.tensor([1, 2])))


@pytest.mark.parametrize(
    "target", [lambda z: z[:, 1], "unit:stem:1", ClassTarget(torch.tensor([1, 1, 1])), "diff:unit:stem:1,unit:stem:2"]
)
def test_a_score_of_classes_that_the_target_does_not_have(target: Any) -> None:
    with pytest.raises(CnnvizError, match="score='probability' is a score of classes; this target is explained as its"):
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), "saliency", target=target, score="probability")


def test_wrong_score_and_activation() -> None:
    network = nets.TOYS["plain"].build()
    with pytest.raises(CnnvizError, match="probabilty") as raised:
        cnnviz.explain(network, nets.images(), score="probabilty")
    assert "probability" in raised.value.hint
    with pytest.raises(CnnvizError, match="softmx") as raised:
        cnnviz.explain(network, nets.images(), activation="softmx")
    assert "softmax" in raised.value.hint


def test_one_logit_has_classes_0_and_1_only() -> None:
    with pytest.raises(CnnvizError, match="Class 2 does not exist: the network has 2 classes"):
        cnnviz.explain(nets.with_pack(lambda z, a: z, 1), nets.images(), target=2)


# Numbers ---------------------------------------------------------------------------------------------------------


def test_probabilities_by_hand() -> None:
    expected = [_softmax(row) for row in LOGITS.tolist()]
    torch.testing.assert_close(probabilities(LOGITS), torch.tensor(expected))
    sigmoid = [[1 / (1 + math.exp(-z)) for z in row] for row in LOGITS.tolist()]
    torch.testing.assert_close(probabilities(LOGITS, "sigmoid"), torch.tensor(sigmoid))
    one = torch.tensor([[2.0], [-1.0]])
    p = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]
    torch.testing.assert_close(probabilities(one), torch.tensor([[1 - p[0], p[0]], [1 - p[1], p[1]]]))
    assert class_logits(one).tolist() == [[-2, 2], [1, -1]]
    assert predicted(one).tolist() == [1, 0]
    assert (class_count(one), class_count(LOGITS)) == (2, 3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("score", ["logit", "probability", "log-probability"])
def test_class_scores_by_hand(score: str, activation: str) -> None:
    indices = torch.tensor([2, 0])
    p = [_softmax(row)[c] if activation == "softmax" else 1 / (1 + math.exp(-row[c]))
         for row, c in zip(LOGITS.tolist(), [2, 0], strict=True)]  # fmt: skip
    expected = {"logit": [0.5, 0.0], "probability": p, "log-probability": [math.log(x) for x in p]}[score]
    found = ClassTarget(indices, score, activation)(LOGITS)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_one_logit_scores_by_hand() -> None:
    one = torch.tensor([[2.0], [-1.0]])
    p = torch.tensor([1 / (1 + math.exp(2)), 1 / (1 + math.exp(1))])
    indices = torch.tensor([0, 1])
    torch.testing.assert_close(ClassTarget(indices)(one), torch.tensor([-2.0, -1.0]))
    torch.testing.assert_close(ClassTarget(indices, "probability")(one), p)
    torch.testing.assert_close(ClassTarget(indices, "log-probability")(one), p.log())


def test_log_probability_survives_a_hopeless_class() -> None:
    logits = torch.tensor([[500.0, -500.0]], requires_grad=True)
    score = ClassTarget(torch.tensor([1]), "log-probability")(logits)
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    assert score.tolist() == [-1000.0]
    assert gradient.tolist() == [[-1.0, 1.0]]


def test_the_lowest_of_equal_classes_is_predicted() -> None:
    assert predicted(torch.tensor([[1.0, 3.0, 3.0]])).tolist() == [1]
    assert make_target(None, torch.zeros(2, 5))[1].tolist() == [0, 0]


# Cost ------------------------------------------------------------------------------------------------------------


class _Counts:
    """Mixed into a layer: how often it runs, and how often a gradient goes through it."""

    forwards = backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        y: Tensor = _Counter.apply(super().forward(x), self)  # type: ignore[misc]
        return y


class _Counter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: _Counts) -> Tensor:
        ctx.owner = owner
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.owner.backwards += 1
        return g, None


class _Conv(_Counts, nn.Conv2d):
    pass


class _Linear(_Counts, nn.Linear):
    pass


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
def test_several_targets_cost_one_forward_and_one_backward_each(tracing: str) -> None:
    trunk, head = _Conv(3, 5, 3), _Linear(5, 4)
    network = nn.Sequential(trunk, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    options = opening.SessionOptions(Cut.at_layers("1"), private=False, tracing=tracing)
    with opening.open_session(network, "net", (3, 12, 16), rt.resolve("cpu"), options) as opened:
        before = trunk.forwards, head.forwards
        run = opened.forward(nets.images())
        maps = [run.gradients(run.logits[:, k])[0] for k in range(4)]
    assert (trunk.forwards - before[0], head.forwards - before[1]) == (1, 1)
    assert (trunk.backwards, head.backwards) == (0, 4)
    for k, gradient in enumerate(maps):
        expected = head.weight[k].detach()[None, :, None, None].expand_as(gradient) / gradient[0, 0].numel()
        torch.testing.assert_close(gradient, expected)


def test_below_the_layer_no_graph_is_built() -> None:
    network = nets.TOYS["residual"].build()
    options = opening.SessionOptions(Cut.at_layers("conv2"), private=False)
    with opening.open_session(network, "net", (3, 12, 16), rt.resolve("cpu"), options) as opened:
        run = opened.forward(nets.images())
    assert run.activations[0].is_leaf
    assert run.activations[0].requires_grad


# Differences -----------------------------------------------------------------------------------------------------


def _difference(network: nn.Module, images: Tensor, first: int, second: int) -> tuple[Tensor, Tensor]:
    """Activations of ``conv2`` and the gradient of the difference of two logits there, by plain autograd."""
    kept: list[Tensor] = []
    handle = network.conv2.register_forward_hook(lambda module, args, value: kept.append(value))
    logits = network(images)
    handle.remove()
    [gradient] = torch.autograd.grad((logits[:, first] - logits[:, second]).sum(), kept[0])
    return kept[0].detach(), gradient


def test_what_speaks_for_one_class_rather_than_another() -> None:
    network, images = nets.TOYS["residual"].build(), nets.images()
    found = cnnviz.explain(network, images, target="diff:2,0", layer="conv2")
    activations, gradient = _difference(network, images, 2, 0)
    expected = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).clamp_min(0)
    torch.testing.assert_close(found.raw, expected, atol=1e-6, rtol=1e-4)
    assert found.target.tolist() == [2] * len(images)
    named = DifferenceTarget(ClassTarget(torch.full((len(images),), 2)), ClassTarget(torch.zeros(len(images)).long()))
    torch.testing.assert_close(cnnviz.explain(network, images, target=named, layer="conv2").raw, found.raw)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("occlusion", {"window": 4, "stride": 4}),
        ("saliency", {}),
        ("smoothgrad", {"samples": 3}),
        ("integrated_gradients", {"steps": 4}),
        ("lrp", {}),
        ("fullgrad", {}),
        ("hirescam", {}),
        ("rise", {"masks": 20}),
        ("extremal", {"cells": 3, "steps": 1}),
        ("ablationcam", {}),
    ],
)
def test_a_difference_is_explained_as_the_function_that_computes_it(method: str, options: dict[str, Any]) -> None:
    network, images = nets.TOYS["residual"].build(), nets.images()
    if method == "rise":  # which watches probabilities

        def function(logits: Tensor) -> Tensor:
            return logits.softmax(1)[:, 2] - logits.softmax(1)[:, 0]
    else:

        def function(logits: Tensor) -> Tensor:
            return logits[:, 2] - logits[:, 0]

    found = cnnviz.explain(network, images, method, target="diff:2,0", **options)
    expected = cnnviz.explain(network, images, method, target=function, **options)
    torch.testing.assert_close(found.raw, expected.raw, atol=1e-6, rtol=1e-4)
    alone = cnnviz.explain(network, images[1:2], method, target="diff:2,0", **options)
    torch.testing.assert_close(alone.raw, found.raw[1:2], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["cam", "excitation_backprop", "finercam"])
def test_methods_that_need_a_class_refuse_a_difference(method: str) -> None:
    network, images = nets.TOYS["residual"].build(), nets.images()
    with pytest.raises(CnnvizError, match="class"):
        cnnviz.explain(network, images, method, target="diff:2,0")


def test_classes_by_name() -> None:
    model = cnnviz.load_model("efficientnet_lite0")
    batch = torch.randn((1, *model.loaded.preprocess.input_size), generator=torch.Generator().manual_seed(0))
    by_name = cnnviz.explain(model, batch, target="diff:goldfish,class:tiger cat")
    by_index = cnnviz.explain(model, batch, target=lambda logits: logits[:, 1] - logits[:, 282])
    torch.testing.assert_close(by_name.raw, by_index.raw, atol=1e-6, rtol=1e-4)
    assert cnnviz.explain(model, batch, target="class:goldfish").target.tolist() == [1]
    predicted = cnnviz.explain(model, batch)
    torch.testing.assert_close(cnnviz.explain(model, batch, target="pred").raw, predicted.raw)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("diff:2", "expected two classes"),
        ("diff:1,2,3", "expected two classes"),
        ("goldfish", "no class names"),
        ("diff:0,99", "Class 99 does not exist"),
    ],
)
def test_words_that_name_nothing(target: str, message: str) -> None:
    with pytest.raises(CnnvizError, match=message):
        cnnviz.explain(nets.TOYS["residual"].build(), nets.images(), target=target)


def test_targets_describe_themselves() -> None:
    pair = DifferenceTarget(ClassTarget(torch.tensor([1])), ClassTarget(torch.tensor([2])))
    assert pair.describe() == {
        "kind": "diff",
        "unit": "logit",
        "of": {"kind": "class", "unit": "logit", "class_index": [1]},
        "minus": {"kind": "class", "unit": "logit", "class_index": [2]},
    }
