"""Grad-CAM on transformers: cnnviz, pytorch-grad-cam and torchcam on the same networks with random weights.

    python -m benchmarks.transformers --json benchmarks/results/transformers.json

ViT-B/16 (class token) and Swin-T of torchvision, one thread, batches of 1 and 8, random weights. All explain the same
tensor: the last block's first normalisation of ViT, the last normalisation of Swin. In the rows of bfloat16 the peers
get a network and pixels in it, cnnviz ``precision="bf16"``. Seconds, best of several rounds, taken in turns.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import cnnviz
from benchmarks.family_networks import offer
from benchmarks.timing import in_turns, save

LAYERS = {"vit_b_16": "encoder.layers.encoder_layer_11.ln_1", "swin_t": "norm"}


def network(name: str) -> nn.Module:
    """With a head that lets gradients through: torchvision's starts at zero."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    head: Any = module.heads if name == "vit_b_16" else module.head
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    return module


def ours(module: nn.Module, batch: Tensor, precision: str) -> Callable[[], Any]:
    model = cnnviz.load_model(offer(module), input_size=(3, 224, 224))
    return lambda: cnnviz.explain(model, batch, target=list(range(len(batch))), precision=precision)


def grad_cam(module: nn.Module, name: str, batch: Tensor) -> Callable[[], Any]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def as_map(value: Tensor) -> Tensor:
        if name == "swin_t":
            return value.permute(0, 3, 1, 2)
        return value[:, 1:].transpose(1, 2).unflatten(2, (14, 14))

    layer = module.get_submodule(LAYERS[name])
    # Its maps leave PyTorch as numpy arrays, which have no bfloat16.
    cam = GradCAM(model=module, target_layers=[layer], reshape_transform=lambda value: as_map(value).float())
    targets = [ClassifierOutputTarget(i) for i in range(len(batch))]
    return lambda: cam(input_tensor=batch, targets=targets)


def torchcam(module: nn.Module, batch: Tensor) -> Callable[[], Any]:
    from torchcam.methods import GradCAM

    targets, source = list(range(len(batch))), batch.clone().requires_grad_()

    def run() -> Any:
        with GradCAM(module, target_layer="permute") as extractor:
            return extractor(targets, module(source))

    return run


def rows(rounds: int) -> list[dict[str, Any]]:
    found = []
    for name in LAYERS:
        for size in (1, 8):
            batch = torch.randn((size, 3, 224, 224), generator=torch.Generator().manual_seed(0))
            for precision in ("fp32", "bf16"):
                module = network(name)
                theirs, given = copy.deepcopy(module).requires_grad_(True), batch
                if precision == "bf16":
                    theirs, given = theirs.bfloat16(), batch.bfloat16()
                candidates = {
                    "forward": lambda theirs=theirs, given=given: theirs(given),
                    "cnnviz": ours(module, batch, precision),
                    "pytorch-grad-cam": grad_cam(theirs, name, given),
                }
                if name == "swin_t":  # torchcam reads maps [N, C, h, w] alone, which ViT has none of
                    candidates["torchcam"] = torchcam(theirs, given)
                seconds = {key: round(value, 4) for key, value in in_turns(candidates, rounds).items()}
                row = {"network": name, "batch": size, "precision": precision, "seconds": seconds}
                print(row, flush=True)
                found.append(row)
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="benchmarks/results/transformers.json")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    save(asked.json, rows(asked.rounds))


if __name__ == "__main__":
    main()
