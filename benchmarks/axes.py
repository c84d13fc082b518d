"""Walk one small member of every timm family: the map's axes follow the image's, or the network is refused.

    python -m benchmarks.axes [FAMILY ...] [--json FILE]

Random weights, an image that is not square. The check is independent of how the layer was found: the gradient of a
row of the map lies where that row is in the image, so its centre of mass moves down the image from row to row, and
likewise for columns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.prepare.split import quietly
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError

SIZE = (128, 192)
_SMALL = "test_ atto femto pico nano zepto xxs xxt _xs tiny _xt small mini lite micro 18 b0 050 _s 10 14 26 34".split()
_LARGE = re.compile("384|512|in22k|_dlv3|huge|giant|gigantic|xlarge")


def smallest(family: str) -> str | None:
    """A small member, told by its name; None for a module that registers no classifier."""
    names = timm.list_models(module=family)
    names = [name for name in names if not _LARGE.search(name)] or names

    def rank(name: str) -> tuple[int, int, str]:
        return next((i for i, mark in enumerate(_SMALL) if mark in name), len(_SMALL)), len(name), name

    return min(names, key=rank, default=None)


def built(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network and the input size that it takes: :data:`SIZE` where it does."""
    torch.manual_seed(0)
    for options in ({}, {"img_size": SIZE}):
        try:
            module = timm.create_model(name, pretrained=False, num_classes=10, **options).eval()
            with torch.no_grad():
                module(torch.randn(1, 3, *SIZE))
            return module, (3, *SIZE)
        except Exception:  # a network of one fixed size
            continue
    module = timm.create_model(name, pretrained=False, num_classes=10).eval()
    return module, tuple(module.pretrained_cfg["input_size"])


def activation(session: Session, module: nn.Module, pixels: Tensor) -> Tensor:
    """The explained tensor, connected to the pixels."""
    if session.split is not None:
        found: Tensor = quietly(session.split.trunk)(pixels)[0]
        return found
    caught: list[Tensor] = []
    handle = module.get_submodule(session.layers[0].name.partition(":")[0]).register_forward_hook(
        lambda part, args, output: caught.append(output)
    )
    module(pixels)
    handle.remove()
    return caught[session.layers[0].call]


def wrong_axes(a: Tensor, pixels: Tensor) -> list[str]:
    """Which axes of a map [1, C, h, w] do not follow the image's."""
    found = []
    a = a - a.mean((2, 3), keepdim=True)  # what attention adds to all places alike has no place
    sign = torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    for axis, what in ((2, "rows"), (3, "columns")):
        length = a.shape[axis]
        if length < 2:
            continue
        centres = []
        for cell in sorted({0, length // 2, length - 1}):
            score = (a * sign).select(axis, cell).sum()
            energy = torch.autograd.grad(score, pixels, retain_graph=True)[0].square().sum((0, 1))
            along = energy.sum(1) if axis == 2 else energy.sum(0)
            centres.append(float((along * torch.arange(len(along))).sum() / along.sum().clamp_min(1e-30)))
        if any(later <= earlier for earlier, later in itertools.pairwise(centres)):
            found.append(f"{what}: centres at {[round(c, 1) for c in centres]}")
    return found


def examined(family: str) -> dict[str, Any]:
    """What cnnviz makes of a family's small member."""
    name = smallest(family)
    row: dict[str, Any] = {"family": family, "model": name}
    if name is None:
        return row
    began = time.perf_counter()
    try:
        module, size = built(name)
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {str(error)[:100]}"}
    row["input"] = list(size[1:])
    try:
        session = prepare(module, name, size, rt.resolve("cpu"), SessionOptions(private=False))
    except CnnvizError as error:
        return {**row, "refused": error.message}
    layer = session.layers[0]
    row |= {"layer": layer.name, "map": list(layer.size), "channels": layer.channels, "hooks": session.graph is None}
    pixels = torch.randn((1, *size), generator=torch.Generator().manual_seed(1)).requires_grad_()
    row["wrong"] = wrong_axes(activation(session, module, pixels), pixels)
    if session.graph is not None:
        axes: Any = session.graph.axes
        row["asked"] = axes is not None and axes.asked
    return {**row, "seconds": round(time.perf_counter() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--json")
    given = parser.parse_args()
    rows = []
    for family in given.families or timm.list_modules():
        row = examined(family)
        rows.append(row)
        print(" | ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if given.json:
            with open(given.json, "w", encoding="utf-8") as stream:
                json.dump(rows, stream, indent=1)
    wrong = [row for row in rows if row.get("wrong")]
    print(f"{len(rows)} families, {sum('map' in row for row in rows)} explained, {len(wrong)} with wrong axes")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
