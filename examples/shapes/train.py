"""Trains the transformer of network.py and writes its weights: python examples/shapes/train.py (minutes on a CPU)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from network import WEIGHTS, ShapeTransformer, draw

BATCH, HIGHEST_RATE, WARM_UP = 128, 1.5e-3, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    asked = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = ShapeTransformer()
    print(f"{sum(p.numel() for p in module.parameters()) / 1e6:.3f} million weights", flush=True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=HIGHEST_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, HIGHEST_RATE, asked.steps, pct_start=WARM_UP / asked.steps
    )
    for step in range(asked.steps):
        pictures, classes, _ = draw(BATCH, generator)
        loss = F.cross_entropy(module(2 * pictures - 1), classes)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 249:
            print(step + 1, f"loss {float(loss):.3f}, accuracy {accuracy(module):.3f}", flush=True)
    torch.save({name: value.half() for name, value in module.state_dict().items()}, WEIGHTS)


@torch.no_grad()
def accuracy(module: torch.nn.Module) -> float:
    """Share of a thousand new pictures whose red shape is named."""
    pictures, classes, _ = draw(1000, torch.Generator().manual_seed(1))
    return float((module(2 * pictures - 1).argmax(1) == classes).float().mean())


if __name__ == "__main__":
    main()
