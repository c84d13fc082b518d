"""Maps of segments and boxes, compute only: cnnviz beside pytorch-grad-cam; D-RISE beside XAITK and a plain loop.

    python -m benchmarks.dense_speed --json benchmarks/results/dense_speed.json

Grad-CAM of the mean logit of one class over the whole output at ``backbone.layer4``, on torchvision's networks with
random weights. D-RISE of one box on a small convolutional detector of 300 candidates, as many masks for all. Figures
are seconds of processor time in one thread, which other work on the machine does not count in; the best of some rounds,
in which all take turns.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import cnnviz
from benchmarks.timing import load, machine, save
from cnnviz.engine import runtime as rt
from cnnviz.engine.region_targets import RegionTarget

MODELS = ("deeplabv3_resnet50", "fcn_resnet50")
LAYER = "backbone.layer4"
CLASS = 3


def in_turns(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least processor time in seconds of each candidate over some rounds, after one that does not count."""
    best = dict.fromkeys(candidates, float("inf"))
    for number in range(rounds + 1):
        for name, run in candidates.items():
            began = time.process_time()
            run()
            if number:
                best[name] = min(best[name], time.process_time() - began)
    return best


def network(name: str) -> nn.Module:
    """One of torchvision's, with random weights."""
    torch.manual_seed(0)
    made: nn.Module = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=21
    )
    return made.eval()


class _Out(nn.Module):
    """The tensor among what the network returns, as pytorch-grad-cam's tutorial has it."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            found: Tensor = self.inner(images)["out"]
        return found.float()


def peer(name: str, batch: Tensor, dtype: torch.dtype) -> Callable[[], Any]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    inner = network(name)
    size = tuple(batch.shape[2:])
    targets = [SemanticSegmentationTarget(CLASS, np.ones(size, np.float32)) for _ in batch]
    cam = GradCAM(model=_Out(inner, dtype), target_layers=[inner.get_submodule(LAYER)])
    return lambda: cam(input_tensor=batch, targets=targets)


def ours(model: cnnviz.Model, batch: Tensor, precision: str) -> Callable[[], Any]:
    size = tuple(int(side) for side in batch.shape[2:])
    target = RegionTarget(torch.full((len(batch),), CLASS), torch.ones(len(batch), *size), "logit", "softmax")
    return lambda: cnnviz.explain(model, batch, target=target, layer=LAYER, precision=precision)


def loaded(name: str) -> cnnviz.Model:
    torch.manual_seed(0)
    return cnnviz.load_model(name, weights=None, num_classes=21)


def segmentation(rounds: int, side: int, models: list[str], batches: list[int]) -> list[dict[str, Any]]:
    """Networks at batches of several sizes, in both precisions."""
    rows = []
    for name in models:
        for count in batches:
            batch = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
            found: dict[str, Callable[[], Any]] = {}
            model, plain = loaded(name), network(name)

            def forward(plain: nn.Module = plain, batch: Tensor = batch) -> Any:
                with torch.no_grad():
                    return plain(batch)

            found["forward fp32"] = forward
            found["cnnviz fp32"], found["cnnviz bf16"] = ours(model, batch, "fp32"), ours(model, batch, "bf16")
            found["pytorch-grad-cam fp32"] = peer(name, batch, torch.float32)
            refused = {}
            lower = peer(name, batch, torch.bfloat16)
            try:
                lower()
                found["pytorch-grad-cam bf16"] = lower
            except Exception as error:  # another package's code runs here
                refused["pytorch-grad-cam bf16"] = f"{type(error).__name__}: {error}".splitlines()[0]
            times = {key: round(value, 4) for key, value in in_turns(found, rounds).items()}
            rows.append({"model": name, "batch": count, "side": side, "seconds": times, "refused": refused})
            print(name, count, times, refused, flush=True)
    return rows


class Detector(nn.Module):
    """Convolutions that give 300 candidates of 8 classes, [N, 4 + 8, 300], as detectors of the ultralytics form do."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in itertools.pairwise(widths))
        )
        self.head = nn.Conv2d(96, 12, 1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.head(self.body(images)).flatten(2)
        found = F.interpolate(found, 300)
        boxes = found[:, :4].sigmoid() * 160
        return torch.cat([boxes, found[:, 4:].sigmoid()], dim=1)


def drise(rounds: int, masks: int) -> dict[str, Any]:
    """D-RISE of one box beside XAITK's scoring and a plain loop, on the same masks; and how alike the maps are."""
    torch.manual_seed(0)
    module, image = Detector().eval(), torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))

    def own() -> Tensor:
        return cnnviz.explain(module, image, "drise", target="box:1", task="detect", masks=masks).raw

    candidates: dict[str, Callable[[], Any]] = {"cnnviz": own}
    with torch.no_grad():
        reference = module(image)[0]
        best = int(reference[4:].max(0).values.argmax())
    grids = (torch.rand(masks, 1, 16, 16, generator=torch.Generator().manual_seed(2)) < 0.5).float()

    def through(each: Callable[[Tensor, Tensor], None]) -> None:
        for part in grids.split(16):
            seen = F.interpolate(part, (340, 340), mode="bilinear", align_corners=False)[..., 10:330, 10:330]
            with torch.no_grad():
                each(module(image * seen), seen[:, 0])

    def plain() -> Tensor:
        total, (box, shares) = torch.zeros(320, 320), (reference[:4, best], reference[4:, best])

        def add(found: Tensor, seen: Tensor) -> None:
            nonlocal total
            corners = torch.cat([found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2], 1).transpose(1, 2)
            asked = torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])[None]
            iou = torchvision.ops.box_iou(corners.flatten(0, 1), asked).reshape(len(found), -1)
            alike = F.cosine_similarity(found[:, 4:], shares[None, :, None], dim=1)
            total = total + ((iou * alike).amax(1)[:, None, None] * seen).sum(0)

        through(add)
        return total

    candidates["plain loop"] = plain
    try:
        candidates["XAITK"] = _xaitk(through, reference, best)
    except ImportError:
        print("XAITK is not installed: pip install xaitk-saliency")
    times = {key: round(value, 4) for key, value in in_turns(candidates, rounds).items()}
    print("drise", masks, times, flush=True)
    return {"model": "Detector", "masks": masks, "candidates": 300, "seconds": times}


def _xaitk(
    through: Callable[[Callable[[Tensor, Tensor], None]], None], reference: Tensor, best: int
) -> Callable[[], Any]:
    from xaitk_saliency.impls.gen_detector_prop_sal.drise_scoring import DRISEScoring

    def rows(found: Tensor) -> np.ndarray[Any, Any]:
        corners = torch.cat([found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2], 1)
        every = torch.cat([corners, torch.ones_like(found[:, :1]), found[:, 4:]], 1)
        return np.asarray(every.transpose(1, 2))

    def run() -> Any:
        seen_all: list[np.ndarray[Any, Any]] = []
        found_all: list[np.ndarray[Any, Any]] = []

        def keep(found: Tensor, seen: Tensor) -> None:
            found_all.append(rows(found))
            seen_all.append(np.asarray(seen))

        through(keep)
        asked = rows(reference[None])[0, best : best + 1]
        return DRISEScoring().generate(asked, np.concatenate(found_all), np.concatenate(seen_all))

    return run


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--only", choices=("segmentation", "drise"))
    parser.add_argument("--json")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    rt.use_threads(1)
    torch.set_num_threads(1)
    print(machine())
    rows = load(given.json)
    if given.only != "drise":
        rows += segmentation(given.rounds, given.side, given.models, given.batch)
    if given.only != "segmentation":
        rows.append(drise(given.rounds, given.masks))
    save(given.json, rows)


if __name__ == "__main__":
    main()
