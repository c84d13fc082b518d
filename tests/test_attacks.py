"""Attacks on toys: closed forms, balls, batches, and an oracle in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.attacks.l2 import CarliniWagner, DeepFool, carlini_wagner, deepfool, norms, rounded
from cnnviz.attacks.linf import (
    LEVELS,
    Goal,
    SignAttack,
    fgsm,
    of_function,
    random_start,
    sign_attack,
    smallest_epsilon,
    snap,
)
from tests.oracles import attacks as oracle

SHAPE = (3, 4, 5)
SIZE = 60


def affine(classes: int, seed: int = 0, scale: float = 1.0) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn((classes, SIZE), generator=source, dtype=torch.float64) * scale
    bias = torch.randn((classes,), generator=source, dtype=torch.float64)
    return (lambda x: x.double().flatten(1) @ weight.T + bias), weight, bias


def curved(seed: int = 1, classes: int = 4) -> Callable[[Tensor], Tensor]:
    """Two smooth layers, so that differences and gradients agree to many digits."""
    source = torch.Generator().manual_seed(seed)
    a = torch.randn((12, SIZE), generator=source, dtype=torch.float64) / 3
    b = torch.randn((classes, 12), generator=source, dtype=torch.float64)
    return lambda x: torch.tanh(x.double().flatten(1) @ a.T) @ b.T


def images(count: int, seed: int = 2, low: float = 0.3, high: float = 0.7) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand((count, *SHAPE), generator=source, dtype=torch.float64)


def eight_bits(x: Tensor) -> Tensor:
    return (x * LEVELS).round() / LEVELS


def left(function: Callable[[Tensor], Tensor], clean: Tensor) -> Goal:
    return Goal(function(clean).argmax(dim=1))


# FGSM


def test_fgsm_on_two_affine_classes_is_the_sign_of_the_weights() -> None:
    function, weight, _ = affine(2)
    clean = images(6)
    goal = left(function, clean)
    got = sign_attack(of_function(function), clean, goal, fgsm(0.1, levels=None))
    for image, x, own in zip(got.images, clean, goal.classes.tolist(), strict=True):
        expected = x + 0.1 * (weight[1 - own] - weight[own]).sign().reshape(SHAPE)
        assert torch.equal(image, expected)
    assert got.steps.tolist() == [1] * 6


def test_fgsm_goes_down_to_a_target_and_keeps_to_the_box() -> None:
    function, weight, _ = affine(2)
    clean = images(5, low=0.0, high=1.0)
    before = function(clean).argmax(dim=1)
    got = sign_attack(of_function(function), clean, Goal(1 - before, True), fgsm(0.3, levels=None))
    for image, x, own in zip(got.images, clean, before.tolist(), strict=True):
        expected = (x + 0.3 * (weight[1 - own] - weight[own]).sign().reshape(SHAPE)).clamp(0, 1)
        assert torch.equal(image, expected)


def test_fgsm_of_one_logit_moves_along_its_only_weights() -> None:
    weight = torch.linspace(-1, 1, SIZE, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight[:, None] - 0.1

    clean = images(4)
    said = (function(clean)[:, 0] > 0).long()
    got = sign_attack(of_function(function), clean, Goal(said), fgsm(0.05, levels=None))
    for image, x, own in zip(got.images, clean, said.tolist(), strict=True):
        expected = x + (0.05 if own == 0 else -0.05) * weight.sign().reshape(SHAPE)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-15)


def test_the_gradient_survives_a_network_that_is_sure() -> None:
    """Cross-entropy in float32 has the gradient zero here; its sign is known all the same."""
    weight = torch.linspace(-1, 1, SIZE)

    def sure(x: Tensor) -> Tensor:
        z = x.flatten(1) @ weight * 1e4
        return torch.stack([z, -z], dim=1)

    clean = images(1).float() * (weight > 0).reshape(SHAPE)
    leaf = clean.clone().requires_grad_()
    [plain] = torch.autograd.grad(F.cross_entropy(sure(leaf), torch.tensor([0])), leaf)
    assert not plain.any()
    got = sign_attack(of_function(sure), clean, Goal(torch.tensor([0])), fgsm(0.1, levels=None))
    assert torch.equal(got.images, (clean - 0.1 * weight.sign().reshape(SHAPE)).clamp(0, 1))


# Iterated


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("seeded", [False, True])
def test_pgd_equals_the_oracle(targeted: bool, seeded: bool) -> None:
    function, clean = curved(), images(4)
    logits = function(clean)
    goal = Goal(logits.argsort(dim=1)[:, -2] if targeted else logits.argmax(dim=1), targeted)
    start = random_start(clean, 7) if seeded else None
    got = sign_attack(of_function(function), clean, goal, SignAttack(0.03, 6, 0.008, start, None))

    def one(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(x)[None])[0].numpy()

    for number, x in enumerate(clean.numpy()):
        begin = np.zeros(SHAPE) if start is None else start[number].numpy()
        label = int(goal.classes[number])
        expected = oracle.pgd(one, x, label, begin, (0.03, 0.008, 6), targeted)
        if bool(got.met[number]):
            np.testing.assert_allclose(got.images[number].numpy(), expected, rtol=0, atol=1e-12)
            assert (int(one(expected).argmax()) == label) == targeted
        else:
            assert (int(one(expected).argmax()) == label) != targeted
    assert got.met.any()


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_pgd_stays_in_the_ball_and_the_range_and_on_the_levels(levels: int | None) -> None:
    function = curved(5)
    clean = eight_bits(images(8, low=0.0, high=1.0))
    how = SignAttack(5.5 / 255, 12, 3 / 255, random_start(clean, 0), levels)
    got = sign_attack(of_function(function), clean, left(function, clean), how)
    assert float((got.images - clean).abs().max()) <= (5.5 if levels is None else 5.0) / 255 + 1e-12
    assert float(got.images.min()) >= 0
    assert float(got.images.max()) <= 1
    said = function(got.images).argmax(dim=1) != function(clean).argmax(dim=1)
    assert torch.equal(said, got.met)
    if levels is not None:
        assert torch.equal(eight_bits(got.images), got.images)


def test_pgd_is_at_least_as_strong_as_fgsm() -> None:
    fooled = {"fgsm": 0, "pgd": 0}
    for seed in range(8):
        function, clean = curved(seed, classes=5), images(16, seed)
        goal, network = left(function, clean), of_function(curved(seed, classes=5))
        fooled["fgsm"] += int(sign_attack(network, clean, goal, fgsm(0.03, None)).met.sum())
        how = SignAttack(0.03, 20, 0.005, random_start(clean, 1), None)
        fooled["pgd"] += int(sign_attack(network, clean, goal, how).met.sum())
    assert 0 < fooled["fgsm"] < 128
    assert fooled["pgd"] >= fooled["fgsm"]


def test_steps_smaller_than_a_level_add_up() -> None:
    function, weight, _ = affine(2)
    clean = eight_bits(images(3))
    goal = left(function, clean)
    how = SignAttack(2 / 255, 10, 0.2 / 255, None, tolerance=1e9)  # never content: it goes to the end
    got = sign_attack(of_function(function), clean, goal, how)
    for image, x, own in zip(got.images, clean, goal.classes.tolist(), strict=True):
        towards = (weight[1 - own] - weight[own]).sign().reshape(SHAPE)
        torch.testing.assert_close(image, x + 2 / 255 * towards, rtol=0, atol=1e-12)
    assert got.steps.tolist() == [10] * 3
    assert not got.met.any()


def test_what_meets_the_goal_already_stays_as_it_is() -> None:
    function, clean = curved(), images(3)
    goal = Goal(function(clean).argmax(dim=1), targeted=True)
    for start in (None, random_start(clean, 0)):
        got = sign_attack(of_function(function), clean, goal, SignAttack(0.1, 5, 0.05, start, None))
        assert torch.equal(got.images, clean)
        assert got.met.all()
        assert got.steps.tolist() == [0, 0, 0]


ATTACKS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Goal], object]] = {
    "fgsm": lambda f, x, g: sign_attack(of_function(f), x, g, fgsm(0.02)),
    "pgd": lambda f, x, g: sign_attack(of_function(f), x, g, SignAttack(0.02, 8, 0.006, random_start(x, 3))),
    "deepfool": lambda f, x, g: deepfool(of_function(f), x, g),
    "cw": lambda f, x, g: carlini_wagner(of_function(f), x, g, CarliniWagner(steps=8, searches=2)),
    "rounded": lambda f, x, g: rounded(of_function(f), x, deepfool(of_function(f), x, g), g),
}


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_batch_is_what_its_images_are_alone(name: str, targeted: bool) -> None:
    function, clean = curved(9), eight_bits(images(7))
    goal = Goal((function(clean).argmax(dim=1) + targeted) % 4, targeted)
    whole = ATTACKS[name](function, clean, goal)
    for number in range(len(clean)):
        one = torch.tensor([number])
        alone = ATTACKS[name](function, clean[one], goal.of(one))
        for key in ("images", "met", "steps"):
            got, expected = getattr(whole, key)[number].double(), getattr(alone, key)[0].double()
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10, msg=f"{key} of image {number}")
    again = ATTACKS[name](function, clean, goal)
    assert torch.equal(whole.images, again.images)  # type: ignore[attr-defined]


def test_random_starts_depend_on_the_seed_and_the_image_alone() -> None:
    clean = images(4)
    torch.manual_seed(1)
    first = random_start(clean, 5)
    torch.manual_seed(2)
    assert torch.equal(first[[2, 0]], random_start(clean[[2, 0]], 5))
    assert not torch.equal(first, random_start(clean, 6))
    assert not torch.equal(first[0], first[1])
    assert -1 <= float(first.min()) < -0.9
    assert 0.9 < float(first.max()) <= 1


def test_snap_is_the_nearest_level_within_epsilon() -> None:
    source = np.random.default_rng(0)
    clean = source.integers(0, 256, 200) / 255
    moved = np.clip(clean + source.uniform(-3.4, 3.4, 200) / 255, 0, 1)
    got = snap(torch.from_numpy(moved), torch.from_numpy(clean), 2.5 / 255).numpy()
    for value, x, found in zip(moved, clean, got, strict=True):
        allowed = [k / 255 for k in range(256) if abs(k / 255 - x) <= 2.5 / 255 + 1e-9]
        assert abs(found - value) <= min(abs(level - value) for level in allowed) + 1e-9
        assert min(abs(found - level) for level in allowed) < 1e-12


def test_the_smallest_epsilon_is_where_the_attack_alone_first_succeeds() -> None:
    function, clean = curved(3), images(20)
    network, goal = of_function(function), left(function, clean)
    grid = [0.0, 0.004, 0.01, 0.02, 0.05]
    got = smallest_epsilon(network, clean, goal, grid, lambda e, x: fgsm(e, None))
    for number in range(len(clean)):
        one = torch.tensor([number])
        met = [bool(sign_attack(network, clean[one], goal.of(one), fgsm(e, None)).met) for e in grid[1:]]
        assert int(got[number]) == (met.index(True) + 1 if any(met) else len(grid))
    assert len(set(got.tolist())) > 2


# L2


@pytest.mark.parametrize("classes", [2, 5])
def test_deepfool_on_an_affine_network_is_the_distance_to_the_nearest_boundary(classes: int) -> None:
    function, weight, _ = affine(classes, seed=4, scale=3.0)
    clean = images(10, low=0.45, high=0.55)
    goal = left(function, clean)
    got = deepfool(of_function(function), clean, goal, DeepFool(overshoot=1e-3))
    assert got.met.all()
    assert got.steps.tolist() == [1] * 10
    _, lengths = norms(got.images, clean)
    for z, own, length in zip(function(clean), goal.classes.tolist(), lengths.tolist(), strict=True):
        nearest = min(
            float((z[own] - z[k]) / (weight[own] - weight[k]).norm()) for k in range(classes) if k != own
        )  # fmt: skip
        assert length == pytest.approx(1.001 * nearest, rel=1e-9)


def test_targeted_deepfool_on_two_affine_classes_is_exact_and_on_more_reaches_the_target() -> None:
    function, weight, _ = affine(2, seed=4)
    clean = images(5, low=0.45, high=0.55)
    goal = Goal(1 - function(clean).argmax(dim=1), targeted=True)
    got = deepfool(of_function(function), clean, goal, DeepFool(overshoot=1e-3))
    gaps = (function(clean)[:, 0] - function(clean)[:, 1]).abs() / (weight[0] - weight[1]).norm()
    torch.testing.assert_close(norms(got.images, clean)[1], 1.001 * gaps, rtol=1e-9, atol=0)
    more, _, _ = affine(6, seed=5)
    goal = Goal((more(clean).argmax(dim=1) + 3) % 6, targeted=True)
    got = deepfool(of_function(more), clean, goal)
    assert got.met.all()
    assert torch.equal(more(got.images).argmax(dim=1), goal.classes)


def test_deepfool_equals_the_oracle() -> None:
    function, clean = curved(6), images(4, low=0.4, high=0.6)
    got = deepfool(of_function(function), clean, left(function, clean), DeepFool(steps=20))

    def one(x: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(x)[None])[0].numpy()

    for image, x in zip(got.images.numpy(), clean.numpy(), strict=True):
        expected = oracle.deepfool(one, x, 0.02, 20)
        assert 0 < expected.min() < expected.max() < 1  # the oracle has no box
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-7)
    assert got.met.all()


def test_carlini_wagner_comes_near_the_distance_of_an_affine_network() -> None:
    function, _, _ = affine(3, seed=8)
    clean = images(2, low=0.45, high=0.55)
    goal = left(function, clean)
    how = CarliniWagner(steps=120, searches=6)
    got = carlini_wagner(of_function(function), clean, goal, how)
    assert got.met.all()
    assert (function(got.images).argmax(dim=1) != goal.classes).all()
    exact = norms(deepfool(of_function(function), clean, goal, DeepFool(overshoot=0.0, tolerance=1e-9)).images, clean)
    ratio = norms(got.images, clean)[1] / exact[1]
    assert float(ratio.min()) >= 1 - 1e-6
    assert float(ratio.max()) < 1.1


def test_rounding_keeps_the_network_fooled_where_plain_rounding_undoes_it() -> None:
    function, _, _ = affine(2, seed=11, scale=0.05)
    clean = eight_bits(images(30, low=0.2, high=0.8))
    z = function(clean)
    middle = (z[:, 0] - z[:, 1]).sort().values[14:16].mean()

    def shifted(x: Tensor) -> Tensor:  # boundary through the midst of the images
        return function(x) - torch.stack([middle, torch.zeros_like(middle)])

    goal = left(shifted, clean)
    found = deepfool(of_function(shifted), clean, goal)
    near = norms(found.images, clean)[0] < 0.5 / 255
    assert near.any()
    plain = shifted(eight_bits(found.images)).argmax(dim=1)
    assert torch.equal(plain[near], goal.classes[near])
    got = rounded(of_function(shifted), clean, found, goal)
    assert got.met.all()
    assert torch.equal(eight_bits(got.images), got.images)
    assert (shifted(got.images).argmax(dim=1) != goal.classes).all()


def test_what_was_never_fooled_is_not_said_to_be() -> None:
    def constant(x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1).mean(dim=1) * 0 + 1, x.flatten(1).mean(dim=1) * 0], dim=1)

    clean, goal = eight_bits(images(2)), Goal(torch.tensor([0, 0]))
    found = deepfool(of_function(constant), clean, goal, DeepFool(steps=3))
    assert torch.equal(found.images, clean)
    assert not rounded(of_function(constant), clean, found, goal).met.any()
    assert not carlini_wagner(of_function(constant), clean, goal, CarliniWagner(steps=3, searches=2)).met.any()
    assert not sign_attack(of_function(constant), clean, goal, fgsm(0.1)).met.any()
