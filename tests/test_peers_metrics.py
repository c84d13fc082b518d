"""Metrics beside those of Quantus, captum, pytorch-grad-cam and torchcam: the same inputs give the same figures.

Where a peer measures something else, the test says what, and shows it.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnviz.engine.seeding import generator_for
from cnnviz.engine.session import ForwardPass
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap
from cnnviz.geometry.truth import TrueObject, Truth
from cnnviz.metrics import faithfulness_road
from cnnviz.metrics.contract import ExplainedImage, Map
from cnnviz.metrics.faithfulness import replacement
from cnnviz.metrics.faithfulness_road import imputed
from cnnviz.records import ClassScore
from cnnviz.registry import lookup
from tests.support.explained import SIDE, distinct_maps, explained, images, measured, metric, small

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
CLASSES = [2, 0, 3]
BOX = Box(4, 6, 12, 9)
QUIET: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False}


def scored(name: str, values: Map, boxes: tuple[Box, ...] = (BOX,)) -> dict[str, Any]:
    """The figures of a metric that looks at one map."""
    request = lookup.read_metric(name)
    side = values.shape[0]
    placed = PlacedMap(values, (0, 0, side, side), False)
    image = ExplainedImage(
        "a", "a", np.zeros((side, side, 3), np.uint8), (0, 0, side, side), ClassScore(0, "a", 1, 1), (), None,
        "gradcam", ("dog",),
    )  # fmt: skip
    truth = Truth((side, side), tuple(TrueObject("dog", box) for box in boxes))
    found: dict[str, Any] = request.spec.load()(placed, image, truth, request.params)
    return found


def mask(*boxes: Box) -> NDArray[np.bool_]:
    found = np.zeros((SIDE, SIDE), dtype=bool)
    for box in boxes:
        found[box.pixels((SIDE, SIDE))] = True
    return found


def batched(values: list[Map]) -> NDArray[np.float32]:
    return np.stack(values)[:, None]


def softmax_targets(kind: Any) -> list[Any]:
    return [kind(each) for each in CLASSES]


def test_sparseness_is_that_of_quantus() -> None:
    quantus = pytest.importorskip("quantus")
    maps, pixels = distinct_maps(3), images(3)
    theirs = quantus.Sparseness(abs=True, normalise=False, **QUIET)(
        model=None, x_batch=pixels.numpy(), y_batch=np.array(CLASSES), a_batch=batched(maps)
    )
    for values, expected in zip(maps, theirs, strict=True):
        # Quantus adds 1e-7 to every value.
        assert scored("sparseness", values)["gini"] == pytest.approx(expected, abs=1e-5)


def test_energy_inside_is_quantus_relevance_mass() -> None:
    quantus = pytest.importorskip("quantus")
    maps, boxes = [np.abs(each) for each in distinct_maps(3)], (BOX, Box(20, 18, 7, 11))
    inside = np.repeat(mask(*boxes)[None, None], 3, axis=0)
    theirs = quantus.RelevanceMassAccuracy(abs=False, normalise=False, **QUIET)(
        model=None, x_batch=images(3).numpy(), y_batch=np.array(CLASSES), a_batch=batched(maps), s_batch=inside
    )
    for values, expected in zip(maps, theirs, strict=True):
        assert scored("energy_pointing_game", values, boxes)["energy"] == pytest.approx(expected, rel=1e-5)


def test_the_pointing_game_is_that_of_quantus_without_its_ties() -> None:
    """Quantus counts a hit where *any* of several maxima lies in the mask: a map that is the same everywhere hits."""
    quantus = pytest.importorskip("quantus")
    generator = np.random.default_rng(0)
    maps = [generator.random((SIDE, SIDE)).astype(np.float32) for _ in range(12)]
    for number, values in enumerate(maps):
        if number % 2:
            values[7 + number % 3, 9] = 2
    flat, late = np.ones((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.float32)
    late[0, 0] = late[8, 8] = 1

    def theirs(every: list[Map]) -> list[bool]:
        inside = np.repeat(mask(BOX)[None, None], len(every), axis=0)
        found = quantus.PointingGame(abs=False, normalise=False, **QUIET)(
            model=None, x_batch=images(len(every)).numpy(), y_batch=np.zeros(len(every), int),
            a_batch=batched(every), s_batch=inside,
        )  # fmt: skip
        return [bool(each) for each in found]

    ours = [scored("pointing_game:tolerance=0", values)["hit"] for values in maps]
    assert ours == theirs(maps)
    assert {True, False} <= set(ours)
    assert theirs([flat, late]) == [True, True]
    assert [scored("pointing_game:tolerance=0", each)["hit"] for each in (flat, late)] == [False, False]


def test_deletion_is_the_pixel_flipping_of_quantus() -> None:
    """It begins after its first step, and counts the channels of a pixel singly: every third of its steps is whole."""
    quantus = pytest.importorskip("quantus")
    network, pixels, maps, steps = small(), images(3), distinct_maps(3), 16
    flipping = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE // steps, abs=False, normalise=False, perturb_baseline=0.0, **QUIET
    )
    theirs = flipping(
        model=network, x_batch=pixels.numpy(), y_batch=np.array(CLASSES), a_batch=batched(maps), softmax=True
    )
    ours = measured("deletion", network, pixels, maps, CLASSES, steps=steps, baselines=False)
    for row, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(row["curve"][1:], expected[2::3], atol=2e-5)


@pytest.mark.parametrize("replace", ["zero", "blur"])
def test_deletion_and_insertion_are_those_of_torchcam(replace: str) -> None:
    peer = pytest.importorskip("torchcam.metrics")
    network, pixels, maps = small(), images(3), distinct_maps(3)
    other = torch.stack([replacement(image, replace) for image in pixels])
    ours = {
        name: measured(name, network, pixels, maps, CLASSES, steps=16, replace=replace, baselines=False)
        for name in ("deletion", "insertion")
    }
    for number, (image, values) in enumerate(zip(pixels, maps, strict=True)):
        theirs = peer.DeletionInsertionMetric(
            _Maps(network, [values]), lambda logits: logits.softmax(-1), steps=16, baseline=other[number]
        )
        theirs.update(image[None], CLASSES[number])
        found = theirs.summary()
        for name, rows in ours.items():
            assert rows[number]["area"] == pytest.approx(found[f"{name}_auc"], rel=1e-5)


def test_insertion_is_the_pixel_flipping_of_quantus_turned_round() -> None:
    """It has no insertion: its steps put the image's values back into the picture that replaces it."""
    quantus = pytest.importorskip("quantus")
    network, pixels, maps, steps = small(), images(1), distinct_maps(1), 16
    original = pixels.numpy().reshape(1, -1)

    def put_back(arr: NDArray[np.float32], indices: NDArray[np.intp], **_: Any) -> NDArray[np.float32]:
        found = arr.copy()
        np.put_along_axis(found, indices, np.take_along_axis(original, indices, 1), 1)
        return found

    flipping = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE // steps, abs=False, normalise=False, perturb_func=put_back, **QUIET
    )
    [theirs] = flipping(
        model=network, x_batch=np.zeros_like(pixels.numpy()), y_batch=np.array(CLASSES[:1]), a_batch=batched(maps),
        softmax=True,
    )  # fmt: skip
    [ours] = measured("insertion", network, pixels, maps, CLASSES[:1], steps=steps, replace="zero", baselines=False)
    np.testing.assert_allclose(ours["curve"][1:], theirs[2::3], atol=2e-5)
    area = np.trapezoid([ours["curve"][0], *theirs[2::3]], dx=1 / steps)
    assert ours["area"] == pytest.approx(area, rel=1e-4)


def smooth_holes() -> tuple[Tensor, Tensor]:
    """An image and pixels that are missing: some alone, some in a hole."""
    [image] = images(1)
    missing = torch.rand((SIDE, SIDE), generator=torch.Generator().manual_seed(0)) < 0.3
    missing[10:18, 5:16] = True
    return image, missing


def test_road_imputes_as_quantus_and_pytorch_grad_cam() -> None:
    """Both solve the system exactly; ours is an approximation to a hundredth of the image's spread."""
    image, missing = smooth_holes()
    [ours] = imputed(image[None], missing[None])
    spread = float(image.max() - image.min())
    found: list[Any] = []
    with contextlib.suppress(ImportError):
        quantus: Any = importlib.import_module("quantus.functions.perturb_func")
        holes = np.flatnonzero(missing.numpy())
        found.append(quantus.noisy_linear_imputation(image.double().numpy(), holes, noise=0.0))
    with contextlib.suppress(ImportError):
        road: Any = importlib.import_module("pytorch_grad_cam.metrics.road")
        found.append(road.NoisyLinearImputer(noise=0.0)(image, (~missing).float()).numpy())
    if not found:
        pytest.skip("neither is installed")
    for theirs in found:
        assert np.abs(ours.numpy() - theirs).max() < 0.01 * spread


# Whole numbers of the 32 x 32 pixels: its percentile of values takes the same ones away.
PERCENTAGES = (25, 50, 75)


def test_road_is_that_of_pytorch_grad_cam_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the change of the score, and of both orders half the difference that we and the paper's authors give.
    With our system solved to the end, as theirs is."""
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(faithfulness_road, "_TOLERANCE", 1e-6)
    network, pixels, maps = small(), images(3), distinct_maps(3)
    chosen = softmax_targets(targets.ClassifierOutputSoftmaxTarget)
    before = network(pixels).softmax(1)[range(3), CLASSES].detach().numpy()
    listed = "+".join(map(str, PERCENTAGES))
    rows = measured("road", network, pixels, maps, CLASSES, percentages=listed, noise=0.0, baselines=False)
    stacked = np.stack(maps)
    curves = {"most_relevant_first": road.ROADMostRelevantFirst, "least_relevant_first": road.ROADLeastRelevantFirst}
    for name, kind in curves.items():
        # Both are given the percentage that stays.
        theirs = np.stack([kind(100 - each)(pixels, stacked, chosen, network) + before for each in PERCENTAGES], axis=1)
        ours = np.array([row[f"{name}_curve"] for row in rows])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    both = road.ROADCombined([100 - each for each in PERCENTAGES])(pixels, stacked, chosen, network)
    assert [row["difference"] for row in rows] == pytest.approx((2 * both).tolist(), abs=5e-5)


def test_road_of_quantus_is_another_figure() -> None:
    """It says how many images of a batch keep their class, of one order alone; of pictures in colour its places are
    those of single channels, which its imputation does not know."""
    quantus = pytest.importorskip("quantus")
    road = quantus.ROAD(noise=0.0, percentages=[30], abs=False, normalise=False, **QUIET)
    given = {"model": small(), "y_batch": np.array(CLASSES), "a_batch": batched(distinct_maps(3))}
    with pytest.raises(IndexError):
        road(x_batch=images(3).numpy(), **given)


def test_infidelity_is_that_of_captum() -> None:
    """With ``normalize=True`` captum scales too; of a map that speaks against its class its scale is below zero."""
    captum = pytest.importorskip("captum.metrics")
    network, pixels, maps, draws, window = small(), images(2), distinct_maps(2), 9, 10
    rows = measured("infidelity", network, pixels, maps, CLASSES[:2], window=window, draws=draws)
    turned = measured("infidelity", network, pixels, [-each for each in maps], CLASSES[:2], window=window, draws=draws)
    for image, values, wanted, row, other in zip(pixels, maps, CLASSES, rows, turned, strict=False):
        generator = generator_for(image, 0)
        corners = [torch.randint(SIDE - window + 1, (draws,), generator=generator).tolist() for _ in range(2)]
        squares = torch.zeros((draws, 1, SIDE, SIDE))
        for square, top, left in zip(squares, *corners, strict=True):
            square[:, top : top + window, left : left + window] = 1

        def hide(inputs: Tensor, hidden: Tensor = squares) -> tuple[Tensor, Tensor]:
            return hidden.expand(-1, 3, -1, -1), inputs * (1 - hidden)

        attributions = torch.zeros((1, 3, SIDE, SIDE))
        attributions[0, 0] = torch.from_numpy(values)
        for scaled, figure in ((True, max(row["infidelity"], 0)), (False, row["unscaled"])):
            theirs = float(
                captum.infidelity(
                    network, hide, image[None], attributions, target=wanted, n_perturb_samples=draws, normalize=scaled
                )
            )
            if not scaled:
                assert figure == pytest.approx(theirs, rel=1e-3)
                continue
            # Of the map and its negative one has a scale above zero: that one is captum's figure, for both of them.
            assert max(row["scale"], other["scale"]) > 0
            assert min(figure, other["infidelity"]) == pytest.approx(theirs, rel=1e-3)


def test_max_sensitivity_is_that_of_captum() -> None:
    """Of each draw alone: with n draws at once captum 0.9 gives the square root of n times the largest of them."""
    captum = pytest.importorskip("captum.metrics")
    network, pixels, draws, radius = small(), images(2), 4, 0.1

    def explain(run: ForwardPass) -> list[list[Map]]:
        return [[(image[0] * image[1]).numpy()] for image in run.pixels.detach()]

    maps = [[(image[0] * image[1]).numpy()] for image in pixels]
    with explained(network, pixels, maps, CLASSES[:2], explain) as batch:
        rows: Any = metric("max_sensitivity", radius=radius, draws=draws).score(batch)
    for image, [row] in zip(pixels, rows, strict=True):
        source = generator_for(image, 0)
        theirs = []
        for _ in range(draws):
            noise = 2 * torch.rand(image.shape, generator=source) - 1

            def change(inputs: Tensor, reach: float, noise: Tensor = noise) -> Tensor:
                return inputs + reach * noise

            theirs.append(float(captum.sensitivity_max(product, image[None], change, radius, n_perturb_samples=1)))
        assert row["max_sensitivity"] == pytest.approx(max(theirs), rel=1e-4)


def product(inputs: Any) -> Any:
    """The map that is explained: of the first two channels."""
    [given] = inputs if isinstance(inputs, tuple) else (inputs,)
    return given[:, :1] * given[:, 1:2]


class Weighted(nn.Module):
    """Two logits, the weighted sum of all pixels and nothing."""

    def __init__(self) -> None:
        super().__init__()
        weights = np.random.default_rng(3).normal(size=(3, SIDE, SIDE)) / 50
        self.weights = nn.Parameter(torch.from_numpy(weights.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        found = (self.weights * x).sum((1, 2, 3))
        return torch.stack([found, 0 * found], dim=1)


def test_sensitivity_n_of_quantus_is_another_figure() -> None:
    """Ancona et al. correlate over random subsets of n pixels of an image. Quantus takes the best pixels away one after
    the other and correlates at each step over the images of the batch: a figure for each step and none of an image."""
    quantus = pytest.importorskip("quantus")
    pixels = images(3)
    network, noise = Weighted().eval(), distinct_maps(3)
    exact = [(network.weights.detach() * image).sum(0).numpy() for image in pixels]
    every = measured("sensitivity_n", network, pixels, exact, [0, 0, 0], patch=1)
    assert [row["correlation"] for row in every] == pytest.approx([1, 1, 1], abs=1e-3)
    others = measured("sensitivity_n", network, pixels, noise, [0, 0, 0], patch=1)
    assert max(abs(row["correlation"]) for row in others) < 0.3
    theirs = quantus.SensitivityN(
        features_in_step=SIDE, n_max_percentage=0.5, abs=False, normalise=False, perturb_baseline=0.0,
        return_aggregate=False, **QUIET,
    )(
        model=network, x_batch=pixels.numpy(), y_batch=np.zeros(3, int), a_batch=batched(exact), softmax=False
    )  # fmt: skip
    assert len(np.ravel(theirs)) == SIDE // 2


def masked_maps() -> list[Map]:
    """Maps from 0 to 1, as masks."""
    return [np.clip(each, 0, None) / each.max() for each in distinct_maps(3)]


def test_drop_and_increase_are_those_of_pytorch_grad_cam() -> None:
    """It gives the difference of the scores; the paper, and we, in percent of the whole image's."""
    peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    network, pixels, maps = small(), images(3), masked_maps()
    before = network(pixels).softmax(1)[range(3), CLASSES].detach().numpy()
    chosen = softmax_targets(targets.ClassifierOutputSoftmaxTarget)
    kinds = (peer.DropInConfidence, peer.IncreaseInConfidence)
    drop, rise = (kind()(pixels, np.stack(maps), chosen, network) for kind in kinds)
    ours = measured("average_drop", network, pixels, maps, CLASSES)
    for row, difference, whole in zip(ours, drop, before, strict=True):
        assert row["drop"] == pytest.approx(100 * float(difference) / float(whole), abs=1e-3)
    risen = [row["increase"] for row in measured("increase", network, pixels, maps, CLASSES)]
    assert risen == [bool(each) for each in rise]


class _Maps:
    """Stands for an extractor of torchcam's: maps that are there already."""

    def __init__(self, model: nn.Module, maps: list[Map]) -> None:
        self.model, self._maps = model, torch.from_numpy(np.stack(maps))

    def __call__(self, *given: Any, **options: Any) -> list[Tensor]:
        return [self._maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return torch.no_grad()


def test_drop_and_increase_are_those_of_torchcam() -> None:
    peer = pytest.importorskip("torchcam.metrics")
    network, pixels, maps = small(), images(3), masked_maps()
    with torch.no_grad():
        theirs = peer.ClassificationMetric(_Maps(network, maps), lambda logits: logits.softmax(-1))
        theirs.update(pixels, CLASSES)
        found = theirs.summary()
    drops = [row["drop"] for row in measured("average_drop", network, pixels, maps, CLASSES)]
    rises = [row["increase"] for row in measured("increase", network, pixels, maps, CLASSES)]
    assert found["avg_drop"] == pytest.approx(np.mean(drops) / 100, abs=1e-4)
    assert found["conf_increase"] == pytest.approx(np.mean(rises), abs=1e-6)
