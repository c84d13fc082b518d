"""What each method is asked of a network of any family: a map along the image's axes, or a refusal with its reason."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from benchmarks.family_networks import SAMPLES, images, offer
from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings

Figures = dict[str, Any]


class Checks:
    """The checks of one network at one size.

    Args:
        module: The network.
        size: (height, width) of its input.
    """

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        self.module, self.size = module, size
        self.batch = images(size, 2)
        # Keeps what it prepared, so that the methods share it.
        self.model = cnnviz.load_model(offer(module), input_size=(3, *size))
        with torch.no_grad():
            self.logits = first_output(module(self.batch))
        self.target = self.logits.argmax(1)
        self.score = self.logits.gather(1, self.target[:, None])[:, 0]

    def run(self, method: str, **options: Any) -> cnnviz.Explanation:
        found = cnnviz.explain(self.model, self.batch, method=method, target=self.target, **options)
        assert bool(torch.isfinite(found.raw).all()), "not finite"
        assert tuple(found.maps.shape[1:]) == self.size, "size of the map"
        assert float(relative(found.logits, self.logits)) < 1e-3, "other logits than the network's"
        if not bool(found.raw.any()) and method == "gradcam":  # what speaks against the class is cut off
            return self.run(method, **options, counterfactual=True)
        assert bool(found.raw.any()), "zero everywhere"
        return found

    def share(self, gap: Any) -> float:
        """The largest gap as a share of its image's score."""
        return float((torch.as_tensor(gap).abs() / self.score.abs()).max())

    def gradcam(self) -> Figures:
        found = self.run("gradcam")
        height, width = found.raw.shape[1:]
        tall, wide = self.size
        assert abs(height * wide - width * tall) < tall + wide, f"a map of {height} x {width}"
        figures: Figures = {"layer": found.layer, "map": [height, width]}
        if min(height, width) > 1:
            figures["follows"] = self._follows(str(found.layer), (height, width))
            assert figures["follows"] is not False, "the map's axes are not the image's"
        return figures

    def _follows(self, layer: str, shape: tuple[int, int]) -> bool | None:
        """Whether changes at the upper right and at the lower left of images are found there in the layer.

        On images of three times the size, where the network takes them: where every cell sees nearly all of the image
        it cannot be told. None where that is so, or where the layer's output cannot be had as a map of this shape.
        """
        path = layer.partition(":")[0]
        if path not in dict(self.module.named_modules()):
            return None
        times = 3 if runs(self.module, (3 * self.size[0], 3 * self.size[1])) else 1
        clean = images((times * self.size[0], times * self.size[1]), 3)
        tall, wide = clean.shape[2] // 3, clean.shape[3] // 3
        right, left = clean.clone(), clean.clone()
        right[:, :, :tall, -wide:] = clean.roll(1, 0)[:, :, :tall, -wide:] + 1
        left[:, :, -tall:, :wide] = clean.roll(1, 0)[:, :, -tall:, :wide] + 1
        maps = [self._output_of(path, batch) for batch in (clean, right, left)]
        if not all(isinstance(m, Tensor) and m.dim() == 4 for m in maps):
            return None
        # [N, h, w, C] or [N, C, h, w]: three times the image may have more than three times the cells (no padding).
        far = [sum(abs(maps[0].shape[at + i] - times * shape[i]) for i in (0, 1)) for at in (1, 2)]
        if far[0] < far[1]:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        upper, lower = (centre((changed - maps[0]).abs().mean((0, 1))) for changed in maps[1:])
        steps = (lower[0] - upper[0], upper[1] - lower[1])
        return True if min(steps) > 0 else False if min(steps) < -0.2 else None

    def _output_of(self, path: str, batch: Tensor) -> Any:
        caught: list[Any] = []
        handle = self.module.get_submodule(path).register_forward_hook(lambda *args: caught.append(args[2]))
        try:
            with torch.no_grad():
                self.module(batch)
        finally:
            handle.remove()
        return caught[-1]

    def guided(self) -> Figures:
        plain = self.run("guided", rule="backprop")
        leaf = self.batch.clone().requires_grad_()
        score = first_output(self.module(leaf)).gather(1, self.target[:, None]).sum()
        own = torch.autograd.grad(score, leaf)[0]
        # As a whole: single pixels change where a rectifier's input is zero but for rounding.
        gap = float((plain.raw - own).norm() / own.norm())
        assert gap < 0.1, f"differs by {gap:.2g} from the gradient"
        return {"gap": gap, "rectified": self.run("guided").facts.get("rectified")}

    def lrp(self) -> Figures:
        found = self.run("lrp")
        return {"lost": self.share(found.scores["conservation_gap"])}

    def excitation(self) -> Figures:
        found = self.run("excitation_backprop")
        total = float(found.raw.sum((1, 2)).max())
        assert 0 < total < 1.001, f"probabilities sum to {total:.4g}"
        return {"lost": max(found.scores["conservation_gap"])}

    def fullgrad(self) -> Figures:
        found = self.run("fullgrad")
        gap = self.share(found.scores["completeness_gap"])
        assert gap < 0.01, f"{gap:.2g} of the score is not accounted for"
        return {"gap": gap, "layers": found.facts["bias_layers"]}

    def occlusion(self) -> Figures:
        window = (self.size[0] // 4, self.size[1] // 4)
        found = self.run("occlusion", window=window, stride=window)
        rows, cols = found.raw.shape[1:]
        hidden = [self.batch.clone(), self.batch.clone()]
        hidden[0][:, :, : window[0], -window[1] :] = 0
        hidden[1][:, :, -window[0] :, window[1] : 2 * window[1]] = 0
        with torch.no_grad():
            scores = [first_output(self.module(b)).gather(1, self.target[:, None])[:, 0] for b in hidden]
        drops = torch.stack([self.score - score for score in scores])
        got = torch.stack([found.raw[:, 0, cols - 1], found.raw[:, rows - 1, 1]])
        gap = float((got - drops).abs().max() / found.raw.abs().max())
        assert gap < 1e-2, f"differs by {gap:.2g} from hiding the windows one by one"
        return {"gap": gap, "positions": [rows, cols]}

    def top_patches(self) -> Figures:
        del self.model  # what it prepared takes memory
        with tempfile.TemporaryDirectory() as folder:
            settings = RunSettings(
                command="top-patches",
                inputs=(str(SAMPLES),),
                model=ModelSpec(offer(self.module), input_size=(3, *self.size), resize=min(self.size)),
                target=TargetSettings("top-patches", params={"patch_gradient": "none", "units": "top:2", "patches": 2}),
                runtime=RuntimeSettings(device="cpu", compile="off", workers=1, batch_size=2),
                output=OutputSettings(out=folder, overwrite=True),
                limit=3,
            )
            pipeline.run(settings, _Silent())
            report = json.loads((Path(folder) / "report.json").read_text())
        errors = [image["error"]["message"] for image in report["images"] if image["error"]]
        assert not errors, errors[0]
        units = report["units"]
        assert len(units) == 2, f"{len(units)} units"
        assert all(unit["patches"] for unit in units), "units without patches"
        return {"layer": units[0]["layer"]}

    def all(self) -> Iterator[tuple[str, Callable[[], Figures]]]:
        """Each method with its check."""
        yield "gradcam", self.gradcam
        yield "guided", self.guided
        yield "lrp", self.lrp
        yield "excitation_backprop", self.excitation
        yield "fullgrad", self.fullgrad
        yield "occlusion", self.occlusion
        yield "top-patches", self.top_patches


class _Silent:
    def start(self, total: int | None) -> None: ...

    def advance(self, record: Any) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


def first_output(value: Any) -> Tensor:
    """Class scores of what a network returns."""
    while not isinstance(value, Tensor):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return value


def centre(weights: Tensor) -> tuple[float, float]:
    """Centre of gravity (row, column) of [h, w]."""
    shares = weights.double() / weights.double().sum()
    rows, cols = torch.arange(len(shares)).double(), torch.arange(shares.shape[1]).double()
    return float(shares.sum(1) @ rows), float(shares.sum(0) @ cols)


def relative(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference, as a share of the largest value."""
    return (a - b).abs().max() / b.abs().max()


def outcome(check: Callable[[], Figures]) -> Figures:
    """What a check came to: ``map``, ``refused``, ``wrong`` or ``crash``."""
    try:
        return {"outcome": "map", **check()}
    except CnnvizError as error:
        return {"outcome": "refused", "reason": str(error).partition("\n")[0]}
    except AssertionError as error:
        if "MemoryError" in str(error):
            return {"outcome": "memory"}
        return {"outcome": "wrong", "reason": str(error)}
    except MemoryError:
        return {"outcome": "memory"}
    except Exception as error:
        if "can't allocate memory" in str(error):
            return {"outcome": "memory"}
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-4:]
        where = " > ".join(frames)
        return {"outcome": "crash", "reason": f"{type(error).__name__}: {str(error)[:200]} ({where})"}


def usable_size(module: nn.Module, own: int) -> tuple[int, int, bool]:
    """The side of a small square that a network takes, a larger side to go with it, and whether it takes that."""
    for side in dict.fromkeys((96, 160, own)):
        if runs(module, (side, side)) and (side == own or last_map(module, side) >= 3):
            wider = -(-side * 4 // 3 // 32) * 32
            return side, wider if runs(module, (wider, side)) else side, runs(module, (wider, side))
    raise RuntimeError(f"does not run at {own} x {own}")


def runs(module: nn.Module, size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            module(images(size, 1))
    except Exception:
        return False
    return True


def last_map(module: nn.Module, side: int) -> int:
    """Side of the last square map that a convolution of a network returns on an image of this side."""
    sides = [0]

    def note(_: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and min(args[0].shape[2:]) > 1:
            sides.append(min(output.shape[2:]))

    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            module(F.pad(images((side, side), 1), (0, 0)))
    finally:
        for handle in handles:
            handle.remove()
    return sides[-1]
