"""Which attack is run, with what: the options of ``cnnviz adversarial`` read and checked."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cnnviz.attacks import l2 as minimal
from cnnviz.attacks import linf as attacks
from cnnviz.attacks.linf import LEVELS, Aim, AttackResult, Goal, Network, SignAttack
from cnnviz.attacks.picture_view import View
from cnnviz.errors import CnnvizError
from cnnviz.registry.studies import AdversarialOptions

TITLES = {"fgsm": "FGSM", "ifgsm": "iterative FGSM", "pgd": "PGD", "deepfool": "DeepFool", "cw": "Carlini-Wagner"}
CURVES = {"linf": "0,0.5,1,2,4,8", "l2": "0,0.1,0.25,0.5,1,2"}
L2 = ("deepfool", "cw")
_STEPS = {"fgsm": 1, "ifgsm": 10, "pgd": 10, "deepfool": 50, "cw": 100}
_EPSILON = "4/255"
_PGD_STEPS_ACROSS = 2.5
_HAIR = 1e-4
"""Share of the largest logit by which real-valued images must be across: at 0 float32 may creep up to it forever."""


class Choice:
    """The attack of a run.

    Args:
        params: The study's options.
        tolerance: Margin that written images must have, see :meth:`Goal.met`.
        seed: Of random starts.

    Attributes:
        name: As ``--attack`` has it.
        norm: ``linf`` or ``l2``.
        epsilon: In 0–1; None for L2.
        epsilon_text: The same as it was typed, such as ``2/255``; empty for L2.

    Raises:
        CnnvizError: Options that do not go together, or out of range.
    """

    def __init__(self, params: AdversarialOptions, tolerance: float, seed: int) -> None:
        self.name: str = params.attack
        self.norm: Literal["linf", "l2"] = "l2" if self.name in L2 else "linf"
        self.steps = params.steps or _STEPS[self.name]
        self.tolerance, self.seed = tolerance, seed
        self._refuse(params)
        self.epsilon: float | None = None
        self.epsilon_text = ""
        self._step_size: float | None = None
        if self.norm == "l2":
            return
        self.epsilon_text = (params.epsilon or _EPSILON).strip()
        self.epsilon = amount(self.epsilon_text, "--epsilon")
        if self.epsilon * LEVELS < 1 - 1e-6:
            raise CnnvizError(
                f"--epsilon {params.epsilon}: a file of 8 bits holds no change of less than 1/255.",
                "Use 1/255 or more; --curve tries smaller ones on real values.",
            )
        if params.step_size is not None:
            self._step_size = amount(params.step_size, "--step-size")

    def _refuse(self, params: AdversarialOptions) -> None:
        idle = {"fgsm": ("step_size",), "deepfool": ("epsilon", "step_size"), "cw": ("epsilon", "step_size")}
        for name in idle.get(self.name, ()):
            if getattr(params, name) is not None:
                raise CnnvizError(
                    f"--{name.replace('_', '-')} means nothing to --attack {self.name}.",
                    "FGSM makes one step of epsilon; DeepFool and Carlini-Wagner look for the smallest change.",
                )
        if self.name == "fgsm" and self.steps != 1:
            raise CnnvizError(f"--steps {self.steps}: FGSM makes one step.", "Use --attack ifgsm for several.")

    def run(
        self, smooth: Network, exact: Network, clean: Tensor, goal: Aim, seeing: View | None = None
    ) -> AttackResult:
        """The attack, ending in images of 8 bits.

        Args:
            smooth: The network of real values.
            exact: The network of images of 8 bits, as files are seen.
            clean: [N, C, H, W] in 0–1.
            goal: What is wanted.
            seeing: What the network sees of a picture; None for all of it.
        """
        if self.norm == "l2":
            found = self._nearest(smooth, clean, goal, self.tolerance)
            assert isinstance(goal, Goal)
            return minimal.rounded(exact, clean, found, goal, self.tolerance)
        assert self.epsilon is not None
        start = self._start(clean)
        if start is not None and seeing is not None:
            # Nothing where the network does not look, no colours for one that sees none.
            start = (start[:, :1] if seeing.grey else start).expand_as(clean) * seeing.seen()
        how = SignAttack(self.epsilon, self.steps, self._step(self.epsilon), start, LEVELS, self.tolerance)
        return attacks.sign_attack(exact, clean, goal, how)

    def falls(self, network: Network, clean: Tensor, goal: Goal, curve: tuple[float, ...]) -> Tensor:
        """[N] place of the first epsilon at which each image falls, with real values; else their number."""
        if self.norm == "l2":
            found = self._nearest(network, clean, goal, _HAIR)
            distance = minimal.norms(found.images, clean)[1]
            distance[~found.met] = math.inf
            return (distance[:, None] > torch.tensor(curve, dtype=torch.float64)).sum(dim=1)
        return attacks.smallest_epsilon(
            network, clean, goal, curve,
            lambda epsilon, some: SignAttack(epsilon, self.steps, self._step(epsilon), self._start(some), None),
        )  # fmt: skip

    def _start(self, clean: Tensor) -> Tensor | None:
        return attacks.random_start(clean, self.seed) if self.name == "pgd" else None

    def _step(self, epsilon: float) -> float:
        """As asked, for the ball it was asked for; else what gets to the border, and from a random start across."""
        if self._step_size is not None and self.epsilon is not None:
            return self._step_size * epsilon / self.epsilon
        return epsilon / self.steps * (_PGD_STEPS_ACROSS if self.name == "pgd" else 1.0)

    def _nearest(self, network: Network, clean: Tensor, goal: Aim, tolerance: float) -> AttackResult:
        assert isinstance(goal, Goal)
        if self.name == "deepfool":
            return minimal.deepfool(network, clean, goal, minimal.DeepFool(steps=self.steps, tolerance=tolerance))
        how = minimal.CarliniWagner(steps=self.steps, tolerance=tolerance)
        return minimal.carlini_wagner(network, clean, goal, how)


def amount(text: str, flag: str) -> float:
    """``8/255`` or ``0.03`` as a share of a channel's range.

    Raises:
        CnnvizError: No number, or not above 0 and at most 1.
    """
    parts = text.split("/")
    try:
        value = float(parts[0]) / (float(parts[1]) if len(parts) == 2 else 1.0) if len(parts) < 3 else math.nan
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 < value <= 1:
        hint = f"Write {text}/255 for {text} of 255 levels." if 1 < value <= LEVELS else "For example 8/255, or 0.03."
        raise CnnvizError(f"{flag} {text}: expected more than 0 and at most 1, of a channel's range.", hint)
    return value


def epsilons(text: str, norm: str) -> tuple[float, ...]:
    """``0,0.5,1`` as growing epsilons in 0–1: in 1/255 for the maximum norm, as they are for L2.

    Raises:
        CnnvizError: No numbers, or such as no image can be changed by.
    """
    try:
        values = sorted({float(part) for part in text.split(",")})
    except ValueError:
        values = []
    most = LEVELS if norm == "linf" else 1e6
    if not values or not all(0 <= value <= most for value in values):
        raise CnnvizError(
            f"--curve {text}: expected numbers of 0 or more with commas between them, or none.",
            f"For example --curve {CURVES[norm]}",
        )
    return tuple(value / LEVELS if norm == "linf" else value for value in values)
