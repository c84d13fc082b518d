"""Grad-CAM against float64 central differences, through every way in which the network can be run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.api import Model
from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import upsample
from tests.oracles import gradcam as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(1e-5, 1e-4)

CLASSES = [1, 3, 0]
WAYS = ("module", "packed", "folded", "plain", "hooks")


def model_of(network: nn.Module, size: tuple[int, int] = (12, 16), classes: int = 4) -> Model:
    """The network as ``load_model`` would hand it over."""
    return nets.as_model(network, size, classes)


def explained_by(way: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch, **asked: Any) -> Any:
    """``explain`` by one way of running the network; makes sure that it is that way."""
    return explainer(way, network, monkeypatch)(**asked)


def explainer(way: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``explain`` by one way of running the network, to be asked several things; prepared ones are prepared once."""
    if way in {"module", "hooks"}:
        tracing = "off" if way == "hooks" else "auto"
        return partial(cnnviz.explain, network, nets.images(), target=CLASSES, tracing=tracing)
    model = model_of(network.requires_grad_(False))

    def explain(**asked: Any) -> Any:
        monkeypatch.setattr(opening, "usable_preparations", lambda runtime: (way,))
        found = cnnviz.explain(model, nets.images(), target=CLASSES, **asked)
        (opened,) = model._sessions.all()
        assert opened.preparation == way
        return found

    return explain


@cache
def _expected(name: str) -> tuple[oracle.Array, oracle.Array]:
    toy = nets.TOYS[name]
    return oracle.signed_maps(toy.build(), toy.split, nets.images(), CLASSES)


def _possible(toy: nets.Toy, way: str) -> bool:
    return toy.hooks if way == "hooks" else toy.traces or way == "module"


@pytest.mark.parametrize(("name", "way"), [(n, w) for n, toy in nets.TOYS.items() for w in WAYS if _possible(toy, w)])
def test_equals_central_differences(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = nets.TOYS[name]
    network = toy.build()
    signed, logits = _expected(name)
    explain = explainer(way, network, monkeypatch)
    found = explain(layer=toy.layer)
    close(found.logits, logits)
    close(found.raw, oracle.rectified(signed))
    against = explain(layer=toy.layer, counterfactual=True)
    close(against.raw, oracle.rectified(-signed))
    assert found.layer == toy.name
    assert found.target.tolist() == CLASSES


@pytest.mark.parametrize("name", [name for name, toy in nets.TOYS.items() if not toy.hooks])
def test_hooks_take_the_last_module_where_a_function_makes_the_tensor(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions have no hooks: the tensor before the function is explained, and named."""
    network = nets.TOYS[name].build()
    found = explained_by("hooks", network, monkeypatch)
    named = cnnviz.explain(network, nets.images(), target=CLASSES, layer=found.layer)
    close(found.raw, named.raw)


@pytest.mark.parametrize("kept", [False, True], ids=["module", "model"])
@pytest.mark.parametrize("name", nets.TOYS)
def test_a_batch_gives_what_its_images_give_alone(name: str, kept: bool) -> None:
    toy = nets.TOYS[name]
    network = toy.build().requires_grad_(False)
    asked = model_of(network) if kept else network
    whole = cnnviz.explain(asked, nets.images(), target=CLASSES, layer=toy.layer)
    signed, _ = _expected(name)
    for i, index in enumerate(CLASSES):
        single = cnnviz.explain(asked, nets.images()[i : i + 1], target=index, layer=toy.layer)
        np.testing.assert_allclose(whole.raw[i], single.raw[0], rtol=0, atol=1e-5 * np.abs(signed[i]).max())


@pytest.mark.parametrize("name", ["residual", "conv and norm", "deep head, last conv", "+= after", "silu"])
def test_bf16_is_close(name: str) -> None:
    """Eight bits of mantissa: within 5 % of the largest value, correlation above 0.999."""
    toy = nets.TOYS[name]
    network = toy.build()
    signed, _ = _expected(name)
    for model in (network, model_of(network.requires_grad_(False))):
        up = cnnviz.explain(model, nets.images(), target=CLASSES, layer=toy.layer, precision="bf16")
        down = cnnviz.explain(
            model, nets.images(), target=CLASSES, layer=toy.layer, precision="bf16", counterfactual=True
        )
        found = (up.raw - down.raw).double().numpy()
        assert np.abs(found - signed).max() < 0.05 * np.abs(signed).max()
        assert np.corrcoef(found.ravel(), signed.ravel())[0, 1] > 0.999
        assert up.raw.dtype == torch.float32
        assert not np.allclose(found, signed, rtol=0, atol=1e-6 * np.abs(signed).max())  # it was bf16


# The score -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["logit", "probability", "log-probability"])
@pytest.mark.parametrize("way", ["module", "packed", "hooks"])
def test_scores(score: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = nets.TOYS["residual"]
    network = toy.build()
    expected = oracle.gradcam(network, toy.split, nets.images(), CLASSES, score)
    close(explained_by(way, network, monkeypatch, score=score).raw, expected)


def test_the_logit_is_explained_not_the_probability() -> None:
    """With a sure network dp = p (dz - sum p dz) vanishes; dz does not."""
    toy = nets.TOYS["plain"]
    network = toy.build()
    best = cnnviz.explain(network, nets.images(1)).target.tolist()
    with torch.no_grad():
        network.fc.bias[best[0]] += 100.0
    by_default = cnnviz.explain(network, nets.images(1), counterfactual=False)
    assert by_default.target.tolist() == best
    signed, _ = oracle.signed_maps(network, toy.split, nets.images(1), best)
    sides = [cnnviz.explain(network, nets.images(1), counterfactual=flag).raw for flag in (False, True)]
    close(sides[0] - sides[1], signed)
    assert cnnviz.explain(network, nets.images(1), score="probability").raw.abs().max() == 0


def test_probability_and_logit_maps_differ() -> None:
    network = nets.TOYS["plain"].build()
    logit = cnnviz.explain(network, nets.images(), target=CLASSES).raw
    probability = cnnviz.explain(network, nets.images(), target=CLASSES, score="probability").raw
    scaled = [m / m.abs().max() for m in (logit, probability)]
    assert (scaled[0] - scaled[1]).abs().max() > 0.05


def test_the_runner_up_has_another_map_and_target() -> None:
    network = nets.TOYS["residual"].build()
    best = cnnviz.explain(network, nets.images())
    second = best.logits.topk(2).indices[:, 1]
    other = cnnviz.explain(network, nets.images(), target=second)
    assert best.target.tolist() == best.logits.argmax(1).tolist()
    assert other.target.tolist() == second.tolist()
    assert ((best.raw - other.raw).abs().amax((1, 2)) > 0.01 * best.raw.abs().max()).all()


@pytest.mark.parametrize("way", ["module", "folded", "hooks"])
def test_one_logit_has_two_classes(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 1 is z, class 0 is -z: the two signed maps are each other's negative, never the same."""
    network = nets.with_pack(lambda z, a: z, 1)

    def split(n: Any, x: Tensor) -> tuple[Tensor, Any]:
        return n.conv(F.relu(n.stem(x))), lambda a: n.pooled(F.relu(a))

    maps = {}
    for index in (0, 1):
        monkeypatch.setattr("tests.test_gradcam.CLASSES", [index] * 3)
        maps[index] = explained_by(way, network, monkeypatch, layer="conv").raw
        close(maps[index], oracle.gradcam(network, split, nets.images(), [index] * 3))
    assert (maps[0] - maps[1]).abs().max() > 1e-3
    assert (torch.minimum(maps[0], maps[1]) == 0).all()
    guess = cnnviz.explain(network, nets.images())
    assert guess.target.tolist() == (guess.logits[:, 0] > 0).long().tolist()


@pytest.mark.parametrize("kind", ["softmax", "log_softmax", "sigmoid"])
@pytest.mark.parametrize("spelling", ["module", "function", "squeezed"])
def test_a_final_activation_is_taken_off(kind: str, spelling: str) -> None:
    """Networks that return probabilities: the logit before is explained all the same."""
    layer = {"softmax": nn.Softmax(1), "log_softmax": nn.LogSoftmax(1), "sigmoid": nn.Sigmoid()}[kind]
    if spelling == "function":
        network = nets.with_pack(lambda z, a: layer.forward(z))
    elif spelling == "squeezed":
        network = nets.with_pack(lambda z, a: layer.forward(z[:, :, None, None]).flatten(1))
    else:
        network = nets.with_pack(lambda z, a: z)
        network = nn.Sequential(network, layer)
    bare = nets.with_pack(lambda z, a: z)
    expected = cnnviz.explain(bare, nets.images(), target=CLASSES)
    found = cnnviz.explain(network.eval(), nets.images(), target=CLASSES)
    close(found.logits, expected.logits)
    close(found.raw, expected.raw)
    chance = cnnviz.explain(network, nets.images(), target=CLASSES, score="probability")
    activation = "sigmoid" if kind == "sigmoid" else "softmax"
    close(
        chance.raw,
        cnnviz.explain(bare, nets.images(), target=CLASSES, score="probability", activation=activation).raw,
    )


def test_a_binary_network_that_squeezes_its_probability() -> None:
    """``sigmoid(z).squeeze(1)`` returns [N]: the logit is found, both classes can be predicted."""
    network = nets.with_pack(lambda z, a: torch.sigmoid(z).squeeze(1), 1)
    bare = nets.with_pack(lambda z, a: z, 1)
    with torch.no_grad():
        middle = bare(nets.images(8)).median()
        for one in (network, bare):
            one.fc.bias -= middle
    found, expected = (cnnviz.explain(n, nets.images(8)) for n in (network, bare))
    close(found.logits, expected.logits)
    close(found.raw, expected.raw)
    assert found.target.tolist() == expected.target.tolist()
    assert set(found.target.tolist()) == {0, 1}


# The formula -----------------------------------------------------------------------------------------------------


def test_weights_are_means_not_sums() -> None:
    """On a network with global average pooling w_k = w_ck / (h w)."""
    network = nets.TOYS["plain"].build()
    found = cnnviz.explain(network, nets.images(1), target=2, counterfactual=False)
    with torch.no_grad():
        a = F.relu(network.maps(nets.images(1)))
    h, w = a.shape[2:]
    expected = (network.fc.weight[2].detach()[None, :, None, None] * a).sum(1) / (h * w)
    close(found.raw, expected.clamp_min(0))


def test_rectified_before_it_is_enlarged() -> None:
    """On random 7x7 maps 0.88 of the pixels are positive with ReLU first, about half with ReLU last."""

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 1), nn.Linear(1, 2)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.zero_()
                self.conv.weight.fill_(1)
                self.fc.weight[1] = 1

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(F.avg_pool2d(x, 32)).mean((2, 3)))

    cells = torch.randn(40, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    batch = cells.repeat_interleave(32, 2).repeat_interleave(32, 3)
    found = cnnviz.explain(Maps(), batch, target=1, layer="conv")
    torch.testing.assert_close(found.raw, cells[:, 0].clamp_min(0) / 49, rtol=1e-4, atol=1e-7)
    share = float((found.maps > 0).float().mean())
    last = F.interpolate(cells, size=224, mode="bilinear", align_corners=False)
    assert share == pytest.approx(0.88, abs=0.02)
    assert float((last > 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_enlarged_with_cell_centres_in_place() -> None:
    """The peak of cell (0, 1) of a 7-grid lies at x = 47.5 of 224 (with aligned corners it would be at 37)."""
    cells = torch.zeros(1, 7, 7)
    cells[0, 0, 1] = 1
    row = upsample(cells, (224, 224))[0, 0]
    peak = (row == row.max()).nonzero().flatten().tolist()
    assert sum(peak) / len(peak) == pytest.approx(47.5)
    weighed = float((row * (torch.arange(224))).sum() / row.sum())
    assert weighed == pytest.approx(47.5, abs=0.01)


def test_enlarging_is_bilinear_interpolation() -> None:
    cells = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    found = upsample(cells, (10, 9))
    for i in range(2):
        close(found[i], oracle.upsampled(cells[i].double().numpy(), (10, 9)), 1e-6)


@pytest.mark.parametrize("name", ["plain", "residual", "dense"])
def test_maps_are_the_enlarged_raw_values(name: str) -> None:
    """Nothing subtracted, nothing divided, nothing quantised."""
    found = cnnviz.explain(nets.TOYS[name].build(), nets.images(), target=CLASSES)
    close(found.maps, np.stack([oracle.upsampled(raw.double().numpy(), (12, 16)) for raw in found.raw]))


def test_a_map_that_is_positive_everywhere_keeps_its_floor() -> None:
    network = nets.TOYS["plain"].build()
    with torch.no_grad():
        network.fc.weight.abs_()
        network.conv.bias.add_(20)
    found = cnnviz.explain(network, nets.images(), target=2)
    assert found.raw.min() > 0.5 * found.raw.max()
    assert found.maps.min() >= 0.999 * found.raw.min()


def test_raw_values_are_not_quantised() -> None:
    """More distinct values than eight bits hold."""
    found = cnnviz.explain(nets.TOYS["plain"].build(), nets.images(2, (96, 96)), target=1)
    scaled = found.raw / found.raw.max() * 255
    positive = scaled[scaled > 0]
    assert len(positive.unique()) > 256
    assert float((positive - positive.round()).abs().mean()) > 0.1


def test_a_score_that_ignores_the_class_gives_a_flat_map() -> None:
    network = nets.TOYS["plain"].build()
    with torch.no_grad():
        network.fc.weight[2].zero_()
    assert cnnviz.explain(network, nets.images(), target=2).raw.abs().max() == 0


# The layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "features"])
def test_densenet_before_and_after_its_activation(layer: str | None) -> None:
    """By default the tensor that feeds the head, ReLU included; by name the module's own output."""
    zoo = pytest.importorskip("torchvision.models")
    small = zoo.DenseNet(growth_rate=8, block_config=(2, 2, 3, 2), num_init_features=16, num_classes=12)
    network = nets.fill(small).double()
    x = nets.images(1, (64, 64))
    with torch.no_grad():
        pre = network.features(x.double()).clone()
    a = (pre if layer else pre.clamp_min(0)).requires_grad_()
    logits = network.classifier((F.relu(a) if layer else a).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[0, 3], a)
    expected = (gradient.mean((2, 3))[:, :, None, None] * a).sum(1).detach()
    network.float()
    model = model_of(network, (64, 64), 12)
    for way in (network, model):
        found = cnnviz.explain(way, x, target=3, layer=layer)
        against = cnnviz.explain(way, x, target=3, layer=layer, counterfactual=True)
        close(found.raw - against.raw, expected, 2e-5)
        assert found.layer == "features"
    flags = [opened.layers[0].pre_activation for opened in model._sessions.all()]
    assert flags == [layer is not None]


def test_a_layer_without_influence_is_an_error() -> None:
    with pytest.raises(CnnvizError, match="does not influence"):
        cnnviz.explain(_WithSideBranch(), nets.images(), layer="side", target=0)


class _WithSideBranch(nets.Body):
    """An auxiliary output beside the explained one."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(6, 3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = F.relu(self.maps(x))
        return self.pooled(a), self.side(a)


@pytest.mark.slow
def test_compiled_gives_the_same_map() -> None:
    if not rt.compiler_here(torch.device("cpu")):
        pytest.skip("no C++ compiler")
    toy = nets.TOYS["residual, middle"]
    network = toy.build().requires_grad_(False)
    expected = oracle.gradcam(network, toy.split, nets.images(), CLASSES)
    model = model_of(network)
    for batch in (nets.images(), nets.images()[:1]):
        found = cnnviz.explain(model, batch, target=CLASSES[: len(batch)], layer="conv", compile="on")
        close(found.raw, expected[: len(batch)], 1e-3)
    assert all(opened.compiled and opened.preparation == "compiled" for opened in model._sessions.all())
