"""In which precision a method's maps are those of float32: measured on a probe, not assumed.

Scores that agree do not make maps that agree: the gradient at the image of a deep network in bf16 may correlate 0.4
with that in float32. So the map itself is compared, and what needs float32 is kept in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import PrecisionError
from cnnviz.engine.session import Session

AGREEMENT = 0.99
"""Correlation of a map with that in float32 from which on they are taken for the same."""
_SCALES = (4, 8, 16, 32, 64)
_TURNS = 3

Clock = Callable[[], float]
Opens = Callable[[rt.Runtime], Session]
Maps = Callable[[Session], Tensor]


def smooth_probe(shape: tuple[int, ...]) -> Tensor:
    """A fixed random image [1, C, H, W] that is smooth at several scales, as photographs are.

    White noise overstates how well a precision does: on the bundled network Grad-CAM three stages before the last
    agrees by 0.995 on noise, by 0.94 to 0.98 on photographs and by 0.95 on this.
    """
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    parts = [
        F.interpolate(torch.randn((1, channels, side, side), generator=generator), (height, width), mode="bilinear")
        for side in _SCALES
    ]
    image = torch.stack(parts).sum(0)
    deviation = image.std(dim=(2, 3), keepdim=True).clamp_min(1e-6)
    return (image - image.mean(dim=(2, 3), keepdim=True)) / deviation


@dataclass(frozen=True, eq=False)
class Settled:
    """What a run computes in.

    Attributes:
        session: The network so prepared.
        agreement: Correlation of its map with that in float32; None where it was not measured.
        why_not: Why it was not.
        notes: What a person should be told.
    """

    session: Session
    agreement: float | None
    why_not: str = ""
    notes: tuple[str, ...] = ()


def opened(opens: Opens, asked: rt.Runtime) -> tuple[Session, tuple[str, ...]]:
    """The network in the precision that was asked for, or in float32 where its scores are not right in that."""
    try:
        return opens(asked), ()
    except PrecisionError:
        session = opens(rt.Runtime(asked.device, "fp32"))
    note = f"in {asked.precision} {session.name} gives other scores than in float32: float32 is used"
    return session, (note,)


def settle(session: Session, opens: Opens, maps: Maps) -> Settled:
    """Compare a session's map with that in float32, and keep in float32 what needs it.

    Tried in turn: the precision as it is; float32 above the explained layer, where the gradients are taken; float32.

    Args:
        session: The network in the precision that was asked for.
        opens: Prepares it in another.
        maps: The method's map of a probe.
    """
    asked = session.runtime
    if asked.precision == "fp32":
        return Settled(session, None, "the network runs in float32")
    exact = opens(rt.Runtime(asked.device, "fp32"))
    wanted = maps(exact)
    found = correlation(maps(session), wanted)
    if found >= AGREEMENT:
        return Settled(session, found)
    said = f"in {asked.precision} the map of a probe correlates only {found:.3g} with that in float32"
    if _has_convolutions_below(session):
        mixed = opens(replace(asked, head="fp32"))
        better = correlation(maps(mixed), wanted)
        if better >= AGREEMENT:
            above = mixed.layers[0].name if mixed.layers else "the image"
            return Settled(mixed, better, "", (f"{said}: what lies above {above} is kept in float32 ({better:.4f})",))
    return Settled(exact, 1.0, "", (f"{said}: float32 is used (--skip-check precision_agreement to have it anyway)",))


def _has_convolutions_below(session: Session) -> bool:
    """Whether anything that costs time would stay in the lower precision, and something above would not."""
    split = session.split
    if split is None or not isinstance(split.trunk, nn.Module):
        return False
    if split.head_dtype == torch.float32 and split.gradient_dtype is None:
        return False
    return sum(1 for module in split.trunk.modules() if not list(module.children())) > 1


def race(sessions: Mapping[str, Session], batch: Tensor, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Seconds of a pass over a batch by each session: the best of three, in turns, after a warm-up.

    Where gradients pass convolutions, which take as long as the forward pass, they are part of it.

    Taking turns spreads what else the machine does over all of them.
    """
    best = dict.fromkeys(sessions, float("inf"))
    for turn in range(_TURNS + 1):
        for name, session in sessions.items():
            began = clock()
            _work(session, batch)
            rt.wait(session.device)
            if turn:
                best[name] = min(best[name], clock() - began)
    return best


def _work(session: Session, batch: Tensor) -> None:
    run, split = session.forward(batch), session.split
    if split is not None and split.head is not split.readable and run.chosen.requires_grad:
        torch.autograd.grad(run.chosen.float().sum(), run.activations, allow_unused=True)


def seconds_a_batch(session: Session, batch: Tensor) -> float:
    """Time of a pass: the best of three after a warm-up."""
    return race({"": session}, batch)[""]


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two maps of the same shape; 1 for equal ones, 0 where one of two is constant."""
    x, y = (t.detach().cpu().double().flatten() for t in (a, b))
    if torch.equal(x, y):
        return 1.0
    if not bool(torch.isfinite(x).all()):
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size > 0 else 0.0
