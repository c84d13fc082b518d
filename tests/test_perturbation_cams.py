"""Score-CAM, SS-CAM, IS-CAM and Ablation-CAM against loops in float64, one mask and one channel at a time."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import open_session as opening
from cnnviz.engine import perturbed_scores as perturb
from cnnviz.engine import runtime as rt
from cnnviz.engine import session
from cnnviz.engine.seeding import generator_for
from cnnviz.methods.cam import perturbed as perturbation_cams
from cnnviz.registry.cam import ScoreCAMOptions
from cnnviz.tasks.words import make_target
from tests.oracles import perturbation_cams as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness

close = closeness(2e-5, 1e-4)

CLASSES = [1, 3, 0]
WAYS = ("module", "model", "hooks")
NAMES = ("scorecam", "sscam", "iscam", "ablationcam")


def _possible(toy: nets.Toy, way: str) -> bool:
    return toy.hooks if way == "hooks" else toy.traces or way == "module"


CASES = [(n, w) for n, toy in nets.TOYS.items() for w in WAYS if _possible(toy, w)]


def _explain(network: nn.Module, way: str, **asked: Any) -> Any:
    tracing = "off" if way == "hooks" else "auto"
    model = nets.as_model(network.requires_grad_(False)) if way == "model" else network
    return cnnviz.explain(model, nets.images(), target=CLASSES, tracing=tracing, **asked)


@functools.cache
def _scorecam(name: str, score: str) -> list[oracle.Array]:
    toy = nets.TOYS[name]
    network, pairs = toy.build(), zip(nets.images(), CLASSES, strict=True)
    return [oracle.score_weighted(network, toy.split, x, c, oracle.once, score) for x, c in pairs]


@functools.cache
def _ablationcam(name: str, score: str) -> list[tuple[oracle.Array, float]]:
    toy = nets.TOYS[name]
    network, pairs = toy.build(), zip(nets.images(), CLASSES, strict=True)
    return [oracle.ablated(network, toy.split, x, c, score) for x, c in pairs]


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(("name", "way"), CASES)
def test_scorecam(name: str, way: str, score: str) -> None:
    toy = nets.TOYS[name]
    found = _explain(toy.build(), way, method="scorecam", layer=toy.layer, score=score)
    close(found.raw, _scorecam(name, score))


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize(("name", "way"), CASES)
def test_ablationcam(name: str, way: str, score: str) -> None:
    toy = nets.TOYS[name]
    found = _explain(toy.build(), way, method="ablationcam", layer=toy.layer, score=score)
    maps, clean = zip(*_ablationcam(name, score), strict=True)
    close(found.raw, maps)
    assert found.scores["negative_score"] == [y < 0 for y in clean]


@pytest.mark.parametrize("way", WAYS)
def test_iscam(way: str) -> None:
    toy = nets.TOYS["residual"]
    network = toy.build()
    found = _explain(network, way, method="iscam", steps=4)
    samples = oracle.on_the_way(4)
    close(
        found.raw,
        [oracle.score_weighted(network, toy.split, x, c, samples) for x, c in zip(nets.images(), CLASSES, strict=True)],
    )
    one = _explain(network, "module", method="iscam", steps=1)
    close(one.raw, _explain(network, "module", method="scorecam").raw)


@pytest.mark.parametrize("smooth", ["mask", "input"])
@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_sscam(smooth: str, noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws are the image's own; everything else is done by loops. Without noise it is Score-CAM."""
    toy = nets.TOYS["residual"]
    network, batch = toy.build(), nets.images()
    asked = {"samples": 3, "noise": noise, "smooth": smooth, "seed": 5}
    found = _explain(network, "module", method="sscam", **asked)
    shape = (3, 1 if smooth == "mask" else 3, *batch.shape[2:])
    expected = []
    for x, c, source in zip(batch, CLASSES, [generator_for(image, 5) for image in batch], strict=True):
        draws = noise * torch.randn(shape, generator=source).double().numpy()

        def samples(image: Any, mask: Any, draws: Any = draws) -> list[Any]:
            if smooth == "mask":
                return [image * (mask + draw) for draw in draws]
            return [(image + draw) * mask for draw in draws]

        expected.append(oracle.score_weighted(network, toy.split, x, c, samples))
    close(found.raw, expected)
    if noise == 0:
        close(found.raw, _explain(network, "module", method="scorecam").raw)
    else:
        other = _explain(network, "module", method="sscam", **{**asked, "seed": 6})
        assert not torch.allclose(other.raw, found.raw, rtol=1e-3, atol=0)


class _ConstantChannels(nets.Body):
    """Channel 0 is dead and channel 1 is the same everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.act(x))

    def __init__(self, constant: int = 2) -> None:
        super().__init__()
        self.constant = constant
        self.act = _Fill(self)


class _Fill(nn.Module):
    def __init__(self, owner: Any) -> None:
        super().__init__()
        self.owner = [owner]

    def forward(self, x: Tensor) -> Tensor:
        owner = self.owner[0]
        a = F.relu(owner.maps(x))
        flat = torch.cat([torch.zeros_like(a[:, :1]), torch.full_like(a[:, :1], 0.37)], 1)
        flat = torch.cat([flat, flat, flat], 1)[:, : owner.constant]
        return torch.cat([flat, a[:, owner.constant :]], 1)


def _constant_split(network: Any, x: Tensor) -> tuple[Tensor, Any]:
    return network.act(x), network.pooled


@pytest.mark.parametrize("way", WAYS)
def test_constant_channels_weigh_nothing(way: str) -> None:
    network = nets.seeded(_ConstantChannels)()
    found = _explain(network, way, method="scorecam", layer="act" if way == "hooks" else None)
    expected = [
        oracle.score_weighted(network, _constant_split, x, c, oracle.once)
        for x, c in zip(nets.images(), CLASSES, strict=True)
    ]
    close(found.raw, expected)
    assert max(found.scores["masks"]) <= 4


@pytest.mark.parametrize("method", ["scorecam", "sscam", "iscam"])
def test_only_constant_channels_give_a_map_of_zeros(method: str) -> None:
    network = nets.seeded(lambda: _ConstantChannels(6))()
    found = cnnviz.explain(network, nets.images(), method=method, **({"samples": 2} if method == "sscam" else {}))
    assert torch.equal(found.raw, torch.zeros_like(found.raw))
    assert found.scores["masks"] == [0, 0, 0]


def test_masks_are_scaled_after_they_are_upsampled() -> None:
    """A peak between pixels is lower once upsampled: scaled before, its mask would not reach 1."""
    channel = torch.zeros(1, 5, 5)
    channel[0, 2, 2] = 3.0
    (mask,) = perturbation_cams.normalized_masks(channel, (8, 8))
    assert (float(mask.min()), float(mask.max())) == (0.0, 1.0)
    before = F.interpolate(channel[None] / 3, size=(8, 8), mode="bilinear", align_corners=False)
    assert float(before.max()) < 0.9


@pytest.mark.parametrize("method", NAMES)
def test_the_channels_that_vary_most(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two channels: the others are as if they were not there. All channels: as without the option."""
    toy = nets.TOYS["plain"]
    network, few = toy.build(), ({"samples": 2} if method == "sscam" else {})
    every = _explain(network, "module", method=method, **few)
    close(_explain(network, "module", method=method, channels=6, **few).raw, every.raw)
    found = _explain(network, "module", method=method, channels=2, **few)
    assert not torch.allclose(found.raw, every.raw, rtol=1e-2, atol=0)
    if method not in {"scorecam", "ablationcam"}:
        return
    exact = copy.deepcopy(network).double()
    expected = []
    for x, c in zip(nets.images(), CLASSES, strict=True):
        with torch.no_grad():
            activations, _ = toy.split(exact, x[None].double())
        spread = activations[0].flatten(1).std(1)
        kept = sorted(range(6), key=lambda k: -float(spread[k]))[:2]
        weights = _weights_of(oracle, method, network, toy, x, c, kept)
        expected.append(sum(w * activations[0, k] for k, w in weights.items()).clamp_min(0))
    close(found.raw, torch.stack(expected))


def _weights_of(oracle: Any, method: str, network: Any, toy: Any, x: Tensor, c: int, kept: list[int]) -> dict[int, Any]:
    found: dict[int, float] = {}

    def note(activations: Any, weights: dict[int, float]) -> Any:
        found.update(weights)
        return np.zeros(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "_weighed", note)
        if method == "ablationcam":
            oracle.ablated(network, toy.split, x, c)
        else:
            oracle.score_weighted(network, toy.split, x, c, oracle.once)
    total = 1.0 if method == "ablationcam" else sum(found[k] for k in kept if k in found)
    return {k: found[k] / total for k in kept if k in found}


@pytest.mark.parametrize("method", NAMES)
def test_chunks_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, few = nets.TOYS["residual"].build(), ({"samples": 3} if method == "sscam" else {})
    expected = _explain(network, "module", method=method, **few)
    for size in (1, 4, 1000):
        monkeypatch.setattr(perturb, "chunk_size", lambda run, of_layer=False, size=size: size)
        close(_explain(network, "module", method=method, **few).raw, expected.raw, 1e-6)


@pytest.mark.parametrize("method", NAMES)
def test_half_a_chunk_when_memory_runs_out(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, few = nets.TOYS["residual"].build(), ({"samples": 3} if method == "sscam" else {})
    expected = _explain(network, "module", method=method, **few)
    logits, rerun, refused = session.Session.output_of, session.ForwardPass.rerun, []

    def check(made: Tensor) -> None:
        if len(made) > 2:
            refused.append(len(made))
            raise torch.OutOfMemoryError

    def small(self: Any, pixels: Tensor) -> Tensor:
        check(pixels)
        return logits(self, pixels)

    def small_head(self: Any, activations: Tensor, images: Tensor) -> Tensor:
        check(activations)
        return rerun(self, activations, images)

    monkeypatch.setattr(session.Session, "output_of", small)
    monkeypatch.setattr(session.ForwardPass, "rerun", small_head)
    close(_explain(network, "module", method=method, **few).raw, expected.raw, 1e-6)
    assert refused


@pytest.mark.parametrize("method", NAMES)
def test_a_function_as_target_sees_whole_batches(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, few = nets.TOYS["residual"].build(), ({"samples": 2} if method == "sscam" else {})
    expected = _explain(network, "module", method=method, **few)
    index = torch.tensor(CLASSES)
    found = cnnviz.explain(
        network, nets.images(), method=method, target=lambda z: z.gather(1, index[:, None])[:, 0], **few
    )
    close(found.raw, expected.raw, 1e-6)


def test_targets_share_the_passes_unless_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images()
    opened = opening.prepare(network, "net", (3, 12, 16), rt.resolve("cpu"), opening.SessionOptions())
    logits, ran = opened.output_of, []
    monkeypatch.setattr(opened, "output_of", lambda pixels: ran.append(len(pixels)) or logits(pixels))
    for kept, factor in ((1 << 20, 1), (0, 2)):
        monkeypatch.setattr(perturb, "_KEPT_BYTES", kept)
        run = opened.forward(batch)
        maps = []
        for index in (0, 2):
            target, _ = make_target(index, run.logits)
            ran_before = sum(ran)
            maps.append(perturbation_cams.scorecam(run, target, ScoreCAMOptions()).values)
            once = sum(ran) - ran_before
            assert once == (18 if factor == 2 or index == 0 else 0)
        assert not torch.allclose(maps[0], maps[1], rtol=1e-2, atol=0)


def test_a_negative_score_turns_the_weights_over() -> None:
    """The paper's formula as it stands; with a score of zero the map is zero and not NaN."""
    network = nets.TOYS["plain"].build()
    index = torch.tensor(CLASSES)[:, None]

    def ablation(shift: float, negative: bool) -> Any:
        found = cnnviz.explain(
            network, nets.images(), method="ablationcam", target=lambda z: z.gather(1, index)[:, 0] * 0.01 + shift
        )
        assert found.scores["negative_score"] == [negative] * 3
        return found.raw

    above, below = ablation(10.0, False), ablation(-10.0, True)
    assert float(above.max()) > 1e-4
    assert float(below.max()) > 1e-4
    assert float((above * below).max()) < 1e-9  # what one shows the other does not
    flat = cnnviz.explain(network, nets.images(), method="ablationcam", target=lambda z: z[:, 0] * 0)
    assert torch.equal(flat.raw, torch.zeros_like(flat.raw))
