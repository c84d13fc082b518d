"""What networks that draw random numbers draw from."""

from __future__ import annotations

import torch


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a network on ``device`` draws from.

    ``torch.manual_seed`` also notes down, with the stack of its caller, how to seed every kind of accelerator once it
    is used, which takes longer than a pass of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.manual_seed(seed)
