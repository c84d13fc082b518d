"""Adversarial images in a ball of the maximum norm: FGSM, iterative FGSM, PGD.

Images are in 0–1 before normalisation, [N, C, H, W], and so is epsilon. Every image of a batch is attacked, stopped and
judged as if it were alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cnnviz.engine.session import Session
from cnnviz.engine.targets import class_logits
from cnnviz.models.preprocess import Preprocess, in_order

LEVELS = 255
"""Steps of a channel in a file of 8 bits."""

Back = Callable[[Tensor], Tensor]
Network = Callable[[Tensor], tuple[Tensor, Back]]
"""Images [N, C, H, W] in 0–1 to (logits by class [N, K, ...], scores [N] -> d(sum of scores)/d images)."""


class Aim(Protocol):
    """What an attack is after, as it asks: of logits by class, for each image."""

    @property
    def classes(self) -> Tensor:
        """A tensor with a row for each image, on the device of the network."""

    def of(self, rows: Tensor) -> Any:
        """The aim of some of the images."""

    def loss(self, logits: Tensor) -> Tensor:
        """[N] what is climbed."""

    def excess(self, logits: Tensor) -> Tensor:
        """[N] how near it is: the more, the nearer."""

    def met(self, logits: Tensor, tolerance: float) -> Tensor:
        """[N] whether it is met, beyond what rounding may undo."""


def of_function(function: Callable[[Tensor], Tensor]) -> Network:
    """The network that a differentiable function of images in 0–1 is; one logit counts as two classes."""

    def network(images: Tensor) -> tuple[Tensor, Back]:
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = class_logits(function(leaf))

        def back(scores: Tensor) -> Tensor:
            return torch.autograd.grad(scores.sum(), leaf, retain_graph=True)[0]

        return logits, back

    return network


def of_session(session: Session, preprocess: Preprocess) -> Network:
    """A session cut at the image (``Cut.at_image()``), with the normalisation in front of it.

    Images are pixels as the network sees them, after resize and crop.
    """

    def constant(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=session.device)[:, None, None]

    pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
    factor = constant([LEVELS * preprocess.scale / std for _, std in pairs])
    offset = constant([-mean / std for mean, std in pairs])

    def network(images: Tensor) -> tuple[Tensor, Back]:
        run = session.forward(in_order(images.detach().float() * factor + offset, preprocess))
        return class_logits(run.chosen.float()), lambda scores: in_order(run.gradients(scores)[0], preprocess) * factor

    return network


@dataclass(frozen=True, eq=False)
class Goal:
    """What an attack is after.

    Attributes:
        classes: [N] the class of each image to leave, or to reach.
        targeted: Whether it is to be reached.
    """

    classes: Tensor
    targeted: bool = False

    def of(self, rows: Tensor) -> Goal:
        """The goal of some of the images."""
        return Goal(self.classes[rows], self.targeted)

    def excess(self, logits: Tensor) -> Tensor:
        """[N] above zero where the goal is met: max_{j != y} z_j - z_y, or z_t - max_{j != t} z_j."""
        own, others = self._apart(logits)
        margin = own - others.amax(dim=1)
        return margin if self.targeted else -margin

    def loss(self, logits: Tensor) -> Tensor:
        """[N] what a sign attack climbs: L = log sum_{j != y} exp z_j - z_y; its negative at y = t when targeted.

        Cross-entropy is log(1 + exp L): the sign of its gradient is that of L, which stays where the network is so sure
        that the gradient of cross-entropy is zero in float32.
        """
        own, others = self._apart(logits)
        margin = own - others.logsumexp(dim=1)
        return margin if self.targeted else -margin

    def met(self, logits: Tensor, tolerance: float) -> Tensor:
        """[N] whether the excess is above ``tolerance`` times the largest logit: beyond what rounding may undo."""
        return self.excess(logits) > tolerance * logits.abs().amax(dim=1)

    def _apart(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        index = self.classes.to(logits.device)[:, None]
        return logits.gather(1, index).squeeze(1), logits.scatter(1, index, float("-inf"))


def without_gradient(network: Network, images: Tensor, goal: Aim) -> Tensor:
    """[N] whether the gradient of the loss is zero at every pixel of an image: no attack that follows it can move."""
    logits, back = network(images)
    return back(goal.loss(logits)).flatten(1).abs().amax(dim=1) == 0


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack came to.

    Attributes:
        images: [N, C, H, W] in 0–1; where it failed, the image that came nearest to the goal.
        met: [N] whether the network was fooled by exactly these images.
        steps: [N] backward steps that each image took.
    """

    images: Tensor
    met: Tensor
    steps: Tensor


def nothing_found(clean: Tensor) -> AttackResult:
    """The clean images, before an attack."""
    count = len(clean)
    return AttackResult(clean.clone(), torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long))


@dataclass(frozen=True, eq=False)
class SignAttack:
    """How a sign attack goes.

    Attributes:
        epsilon: Largest change of a channel, in 0–1.
        steps: At most so many.
        step_size: Of each, in 0–1.
        start: Where it starts, [N, C, H, W] in -1 to 1 times epsilon from the image; None at the image.
        levels: Images are rounded to this many steps before the network sees them; None for real values.
        tolerance: See :meth:`Goal.met`.
    """

    epsilon: float
    steps: int
    step_size: float
    start: Tensor | None = None
    levels: int | None = LEVELS
    tolerance: float = 0.0


def fgsm(epsilon: float, levels: int | None = LEVELS, tolerance: float = 0.0) -> SignAttack:
    """The fast gradient sign method: x + epsilon sign(dJ/dx) (Goodfellow et al. 2015)."""
    return SignAttack(epsilon, 1, epsilon, None, levels, tolerance)


def random_start(clean: Tensor, seed: int) -> Tensor:
    """Uniform in -1 to 1, the shape of ``clean``; drawn from the seed and each image's content, whatever its batch."""
    drawn = []
    for image in clean:
        content = zlib.crc32((image * LEVELS).round().to(torch.uint8).cpu().contiguous().numpy().tobytes())
        source = torch.Generator().manual_seed(zlib.crc32(str(seed).encode(), content))
        drawn.append(torch.rand(image.shape, generator=source).mul_(2).sub_(1))
    return torch.stack(drawn).to(clean)


def snap(images: Tensor, clean: Tensor, epsilon: float, levels: int | None = LEVELS) -> Tensor:
    """The nearest images of ``levels`` steps that are within epsilon of the clean ones and in 0–1.

    With ``levels`` None the images as they are.
    """
    if levels is None:
        return images
    # A hair more than epsilon: 8/255 * 255 may be 7.9999999.
    low = torch.ceil((clean - epsilon) * levels - 1e-3).clamp_min(0)
    high = torch.floor((clean + epsilon) * levels + 1e-3).clamp_max(levels)
    return torch.minimum(torch.maximum((images * levels).round(), low), high) / levels


def sign_attack(network: Network, clean: Tensor, goal: Aim, how: SignAttack) -> AttackResult:
    """Steps along the sign of the gradient, kept in the ball and in 0–1, until the goal is met.

        x_{k+1} = clip(x_k + step_size sign(dL/dx), x_0 - epsilon, x_0 + epsilon, 0, 1)

    One step of epsilon is FGSM (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015);
    several, iterative FGSM (Kurakin et al., "Adversarial Examples in the Physical World", 2017); with a random start,
    PGD (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018). With ``levels``
    the network sees, and is judged by, the rounded image, while the iterate keeps its fractions: its gradient is
    passed straight through the rounding, so that steps of less than half a level are not lost.

    Args:
        network: What is attacked.
        clean: [N, C, H, W] in 0–1.
        goal: What is wanted of each image.
        how: Ball, steps, rounding.

    Returns:
        Images that are within epsilon of the clean ones; those that meet the goal as they are stay as they are.
    """
    found = nothing_found(clean)
    low, high = (clean - how.epsilon).clamp_min(0), (clean + how.epsilon).clamp_max(1)
    best = torch.full((len(clean),), float("-inf"), dtype=torch.float64)
    iterate = clean.clone() if how.start is None else (clean + how.epsilon * how.start).clamp(0, 1)
    rows = torch.arange(len(clean))
    if how.start is not None:
        logits, _ = network(clean)
        found.met[:] = goal.met(logits.detach(), how.tolerance).cpu()
        rows = rows[~found.met]
    for step in range(how.steps + 1):
        if not len(rows):
            break
        shown = snap(iterate[rows], clean[rows], how.epsilon, how.levels)
        logits, back = network(shown)
        mine = goal.of(rows.to(goal.classes.device))
        excess = mine.excess(logits.detach()).cpu().double()
        met = mine.met(logits.detach(), how.tolerance).cpu()
        if step == 0 and how.start is not None:
            met[:] = False  # an attack is a step along the gradient, not its random start
        # Nor is the clean image one, however near to the goal it is.
        nearest = met | (excess > best[rows]) if step else met
        found.images[rows[nearest]] = shown[nearest]
        best[rows[nearest]] = excess[nearest]
        found.met[rows[met]], found.steps[rows] = True, step
        if step == how.steps or bool(met.all()):
            break
        direction = back(mine.loss(logits)).sign()[~met]
        rows = rows[~met]
        moved = iterate[rows] + how.step_size * direction.to(iterate.dtype)
        iterate[rows] = torch.minimum(torch.maximum(moved, low[rows]), high[rows])
    return found


def smallest_epsilon(
    network: Network, clean: Tensor, goal: Aim, epsilons: Sequence[float], how: Callable[[float, Tensor], SignAttack]
) -> Tensor:
    """[N] place of the first of the growing ``epsilons`` at which the attack succeeds; their number where none does.

    An image that falls at one epsilon lies in every larger ball too, so the larger ones are not tried.

    Args:
        network: What is attacked.
        clean: [N, C, H, W] in 0–1.
        goal: What is wanted of each image.
        epsilons: Growing; 0 asks whether the goal is met without an attack.
        how: The attack for an epsilon above 0 and some of the images.
    """
    first = torch.full((len(clean),), len(epsilons), dtype=torch.long)
    rows = torch.arange(len(clean))
    for place, epsilon in enumerate(epsilons):
        if not len(rows):
            break
        some, mine = clean[rows], goal.of(rows.to(goal.classes.device))
        attack = how(epsilon, some) if epsilon > 0 else SignAttack(0.0, 0, 0.0, levels=None)
        met = sign_attack(network, some, mine, attack).met
        first[rows[met]] = place
        rows = rows[~met]
    return first
