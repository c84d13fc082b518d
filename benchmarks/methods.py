"""Every method that another tool has too, beside that tool, in one process.

    python -m benchmarks.methods --json benchmarks/results/methods.json

Both sides compute the map of the same classes of the same batch at the input's size, with the same number of samples,
steps or masks; cnnviz in float32 as ``cnnviz.explain`` runs it. Figures are seconds; ``times`` is the best of the
others over cnnviz: above 1, cnnviz is ahead. Methods that run the network hundreds of times run once, on one image.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import cnnviz
from benchmarks.timing import load, machine, save
from cnnviz.registry import lookup

MODELS = ("resnet50", "efficientnet_lite0")
LAYERS = {"resnet50": "layer4", "efficientnet_lite0": "bn2"}
Maker = Callable[[nn.Module, str, Tensor], Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """A method with its options, and the same in other tools.

    Attributes:
        method: Name in the register.
        peers: For each tool what makes the call; ``(module, layer, batch) -> call``.
        options: Of the method.
        heavy: Timed once, on one image.
    """

    method: str
    peers: Mapping[str, Maker]
    options: Mapping[str, Any] = field(default_factory=dict)
    heavy: bool = False

    @property
    def name(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def grad_cam(kind: str, **more: Any) -> Maker:
    """A class of pytorch-grad-cam."""

    def make(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        cam = getattr(pytorch_grad_cam, kind)(model=module, target_layers=[module.get_submodule(layer)], **more)
        # Its FinerCAM finds the classes to compare with by itself.
        targets = None if kind == "FinerCAM" else [ClassifierOutputTarget(i) for i in range(len(batch))]
        return lambda: cam(input_tensor=batch, targets=targets)

    return make


def torchcam(kind: str, **more: Any) -> Maker:
    """A class of torchcam, its map brought to the input's size."""

    def make(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
        import torchcam.methods

        def run() -> Any:
            with getattr(torchcam.methods, kind)(module, target_layer=layer, **more) as extractor:
                [maps] = extractor(list(range(len(batch))), module(batch))
                return nn.functional.interpolate(maps[:, None], tuple(batch.shape[2:]), mode="bilinear")

        return run

    return make


def captum(kind: str, **options: Any) -> Maker:
    """An attribution of captum."""

    def make(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
        import captum.attr

        more = (module.get_submodule(layer),) if kind == "GuidedGradCam" else ()
        method = getattr(captum.attr, kind)(module, *more)
        return lambda: method.attribute(batch, target=list(range(len(batch))), **options)

    return make


def noise_tunnel(samples: int) -> Maker:
    def make(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
        from captum.attr import NoiseTunnel, Saliency

        tunnel = NoiseTunnel(Saliency(module))
        targets = torch.arange(len(batch))

        def run() -> Any:
            return tunnel.attribute(
                batch, target=targets, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=1, stdevs=0.5
            )

        return run

    return make


def guided_model(module: nn.Module, layer: str, batch: Tensor) -> Callable[[], Any]:
    """Guided backpropagation of pytorch-grad-cam, which takes one image at a time."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    model = GuidedBackpropReLUModel(model=module, device=torch.device("cpu"))
    return lambda: [model(image[None], target_category=i) for i, image in enumerate(batch)]


CASES = (
    Case("gradcam", {"pytorch-grad-cam": grad_cam("GradCAM"), "torchcam": torchcam("GradCAM")}),
    Case("cam", {"torchcam": torchcam("CAM")}),
    Case("gradcam++", {"pytorch-grad-cam": grad_cam("GradCAMPlusPlus"), "torchcam": torchcam("GradCAMpp")}),
    Case("smoothgradcam++", {"torchcam": torchcam("SmoothGradCAMpp", num_samples=4)}, {"samples": 4}),
    Case("xgradcam", {"pytorch-grad-cam": grad_cam("XGradCAM"), "torchcam": torchcam("XGradCAM")}),
    Case("layercam", {"pytorch-grad-cam": grad_cam("LayerCAM"), "torchcam": torchcam("LayerCAM")}),
    Case("hirescam", {"pytorch-grad-cam": grad_cam("HiResCAM")}),
    Case("eigencam", {"pytorch-grad-cam": grad_cam("EigenCAM")}),
    Case("eigengradcam", {"pytorch-grad-cam": grad_cam("EigenGradCAM")}),
    Case("fullgrad", {"pytorch-grad-cam": grad_cam("FullGrad")}),
    Case("finercam", {"pytorch-grad-cam": grad_cam("FinerCAM"), "torchcam": torchcam("FinerCAM")}),
    Case("shapleycam", {"pytorch-grad-cam": grad_cam("ShapleyCAM")}),
    Case("saliency", {"captum": captum("Saliency")}),
    Case("gradient_x_input", {"captum": captum("InputXGradient")}),
    Case("smoothgrad", {"captum": noise_tunnel(5)}, {"samples": 5}),
    Case("integrated_gradients", {"captum": captum("IntegratedGradients", n_steps=10)}, {"steps": 10}),
    Case("guided", {"captum": captum("GuidedBackprop"), "pytorch-grad-cam": guided_model}),
    Case("guided", {"captum": captum("Deconvolution")}, {"rule": "deconvnet"}),
    Case("guided", {"captum": captum("GuidedGradCam")}, {"with_gradcam": True}),
    Case("lrp", {"captum": captum("LRP")}, {"rule": "epsilon"}),
    Case("ablationcam", {"pytorch-grad-cam": grad_cam("AblationCAM")}, heavy=True),
    Case("scorecam", {"pytorch-grad-cam": grad_cam("ScoreCAM"), "torchcam": torchcam("ScoreCAM")}, heavy=True),
    Case("sscam", {"torchcam": torchcam("SSCAM", num_samples=2)}, {"samples": 2}, heavy=True),
    Case("iscam", {"torchcam": torchcam("ISCAM", num_samples=2)}, {"steps": 2}, heavy=True),
)


def network(name: str) -> cnnviz.Model:
    """The bundled network with its weights, others with random ones."""
    if name == "efficientnet_lite0":
        return cnnviz.load_model(name)
    model = cnnviz.load_model(name, weights=None)
    # Fresh normalisations add nothing, which a method that counts constants could skip.
    generator = torch.Generator().manual_seed(0)
    for module in model.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model


def peer_call(make: Maker, name: str, batch: Tensor) -> Callable[[], Any]:
    """The others want gradients enabled and may leave traces: each gets its own network."""
    return make(network(name).module.requires_grad_(True), LAYERS[name], batch)


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float | str]:
    """Best seconds of each, in turns; of one that fails, why. More than one round has a warm-up."""
    found: dict[str, float | str] = {}
    for round_ in range(rounds if rounds == 1 else rounds + 1):
        for name, call in calls.items():
            if isinstance(found.get(name), str):
                continue
            began = time.perf_counter()
            try:
                call()
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
                continue
            if round_ or rounds == 1:
                found[name] = min(float(found.get(name, float("inf"))), time.perf_counter() - began)
    return found


def measure(case: Case, name: str, model: cnnviz.Model, batch: Tensor, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    targets = list(range(len(batch)))
    calls: dict[str, Callable[[], Any]] = {
        "cnnviz": functools.partial(cnnviz.explain, model, batch, case.method, targets, **case.options)
    }
    if case.heavy:
        calls["cnnviz"]()  # packs the weights; the others have nothing to prepare
    for peer, make in case.peers.items():
        try:
            calls[peer] = peer_call(make, name, batch)
        except Exception as error:
            calls[peer] = functools.partial(_raise, error)
    times = timed(calls, 1 if case.heavy else rounds)
    numbers = [value for peer, value in times.items() if peer != "cnnviz" and isinstance(value, float)]
    own = times["cnnviz"]
    ahead = round(min(numbers) / own, 2) if numbers and isinstance(own, float) else None
    shown = {peer: round(value, 5) if isinstance(value, float) else value for peer, value in times.items()}
    return {"model": name, "batch": len(batch), "method": case.name, "seconds": shown, "times": ahead}


def _raise(error: Exception) -> None:
    raise error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--methods", nargs="+", default=None, help="names in the register; all when left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(machine())
    known = {spec.name for spec in lookup.all_methods()}
    cases = [case for case in CASES if case.method in (given.methods or known) and case.method in known]
    rows = load(given.json)
    for name, count in itertools.product(given.models, given.batch):
        model = network(name)
        batch = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        for case in cases:
            if case.heavy and count > 1:
                continue
            row = measure(case, name, model, batch, given.rounds)
            rows = [r for r in rows if (r["model"], r["batch"], r["method"]) != (name, count, case.name)] + [row]
            print(f"{name:20s} {count:3d} {case.name:40s} {row['times']}  {row['seconds']}", flush=True)
            save(given.json, rows)


if __name__ == "__main__":
    main()
