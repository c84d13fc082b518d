"""The Python interface: what goes in, what comes out, what is kept."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.support import networks as nets


def test_everything_a_result_says() -> None:
    network, x = nets.TOYS["residual"].build(), nets.images()
    found = cnnviz.explain(network, x, target=[2, 0, 1])
    assert found.raw.shape == (3, 6, 8)
    assert found.maps.shape == (3, 12, 16)
    assert found.target.tolist() == [2, 0, 1]
    torch.testing.assert_close(found.logits, network(x).detach(), rtol=1e-5, atol=1e-5)
    assert found.layer == "relu:2"
    assert (found.facts, found.scores, found.arrays) == ({}, {}, {})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 12, 16), r"\[3, 12, 16\]"),
        (torch.zeros(1, 3, 12, 16, dtype=torch.uint8), "uint8"),
        (np.zeros((1, 3, 12, 16), dtype=np.float32), "ndarray"),
        (torch.zeros(0, 3, 12, 16), "empty"),
        (torch.zeros(1, 4, 12, 16), "cannot run on an input of shape"),
    ],
)
def test_wrong_batches(batch: Any, message: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        cnnviz.explain(nets.TOYS["plain"].build(), batch)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"precision": "fp8"}, "fp8", "fp16"),
        ({"precision": "fp16"}, "fp16", "bf16"),
        ({"device": "cpuu"}, "cpuu", "cpu"),
        ({"device": "cuda:99"}, "cuda:99", "cpu"),
        ({"compile": "yes"}, "yes", "auto"),
        ({"countefactual": True}, "countefactual", "counterfactual"),
        ({"method": "grad-cam"}, "grad-cam", "gradcam"),
        ({"layer": "convv"}, "convv", "conv"),
    ],
)
def test_wrong_options(asked: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        cnnviz.explain(nets.TOYS["plain"].build(), nets.images(), **asked)
    assert hint in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batches_in_other_floats(dtype: torch.dtype) -> None:
    network = nets.TOYS["plain"].build()
    expected = cnnviz.explain(network, nets.images().to(dtype).float(), target=1)
    assert torch.equal(cnnviz.explain(network, nets.images().to(dtype), target=1).raw, expected.raw)


@pytest.mark.parametrize("memory", ["channels last", "every second", "expanded"])
def test_batches_of_any_memory_layout(memory: str) -> None:
    network = nets.TOYS["plain"].build()
    x = {
        "channels last": lambda: nets.images().contiguous(memory_format=torch.channels_last),
        "every second": lambda: nets.images(6)[::2],
        "expanded": lambda: nets.images(1).expand(3, -1, -1, -1),
    }[memory]()
    expected = cnnviz.explain(network, x.clone(memory_format=torch.contiguous_format), target=1)
    torch.testing.assert_close(cnnviz.explain(network, x, target=1).raw, expected.raw, rtol=1e-5, atol=1e-6)


def test_a_model_keeps_what_it_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnviz.engine import kept_sessions

    made: list[Any] = []
    honest = kept_sessions.prepare
    monkeypatch.setattr(kept_sessions, "prepare", lambda *args: made.append(args) or honest(*args))
    model = nets.as_model(nets.TOYS["residual"].build().requires_grad_(False))
    for asked in ({}, {}, {"target": 2}, {"method": "cam"}, {"counterfactual": True}, {"score": "probability"}):
        cnnviz.explain(model, nets.images(), **asked)
    cnnviz.explain(model, nets.images(1))
    assert len(made) == 1
    cnnviz.explain(model, nets.images(), layer="conv2")
    cnnviz.explain(model, nets.images(), precision="bf16")
    assert len(made) == 3
    cnnviz.explain(model, nets.images(), layer="conv2")
    for side in range(20, 32):  # one session serves all sizes
        cnnviz.explain(model, nets.images(2, (side, side)))
    assert len(made) == 3
    # The last ones are kept, each with its copy of the weights: of three layers more the first is prepared anew.
    monkeypatch.setattr(kept_sessions, "_MOST", 3)
    for layer in ("stem", "conv", "norm", "conv", "norm", "conv2"):
        cnnviz.explain(model, nets.images(), layer=layer)
    assert len(made) == 3 + 3 + 1
    assert len(model._sessions.all()) == 3


def test_a_module_is_read_anew_at_every_call() -> None:
    """Training goes on between two calls: nothing old may be kept."""
    network = nets.TOYS["plain"].build()
    before = cnnviz.explain(network, nets.images(), target=1)
    with torch.no_grad():
        network.conv.weight.mul_(2)
    after = cnnviz.explain(network, nets.images(), target=1)
    expected = cnnviz.explain(copy.deepcopy(network), nets.images(), target=1)
    assert torch.equal(after.raw, expected.raw)
    assert not torch.allclose(after.raw, before.raw)


def test_training_goes_on_after_an_explanation() -> None:
    """The gradient of a training step is the same with and without an explanation in between."""
    steps = []
    for explains in (False, True):
        network = nets.TOYS["residual"].build().train()
        if explains:
            cnnviz.explain(network, nets.images())
        network(nets.images()).square().sum().backward()
        if explains:
            cnnviz.explain(network, nets.images())
        steps.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_methods_lists_the_register() -> None:
    """Also after the package of the same name was imported."""
    import cnnviz.methods.cam.gradcam as module

    assert callable(module.gradcam)
    listed = {method["name"]: method for method in cnnviz.list_methods()}
    assert listed["gradcam"]["options"]["counterfactual"]["default"] is False
    assert "2017" in listed["gradcam"]["paper"]
    assert listed["cam"]["signed"] is True
    for method in listed.values():
        assert set(method) >= {"name", "summary", "family", "paper", "options"}


def test_transform_of_the_bundled_model(sample_images: Any) -> None:
    """A photograph through ``transform`` and ``explain`` gives the class that it shows."""
    model = cnnviz.load_model()
    with Image.open(sample_images / "cat.jpg") as picture:
        pixels = model.transform(picture)
        again = model.transform(np.asarray(picture.convert("RGB")))
    assert torch.equal(pixels, again)
    found = cnnviz.explain(model, pixels[None])
    assert "cat" in model.labels[int(found.target[0])]
    assert found.layer == "bn2"
    assert found.raw.shape == (1, 7, 7)
    assert [layer.name for layer in model.layers()][-1] == "bn2"
    for wrong in (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 4), dtype=np.uint8)):
        with pytest.raises(CnnvizError, match=r"\[H, W, 3\]"):
            model.transform(wrong)


def test_load_model_options() -> None:
    with pytest.raises(CnnvizError, match="no option 'num_clases'") as raised:
        cnnviz.load_model("resnet18", weights=None, num_clases=3)
    assert "num_classes" in raised.value.hint
    model = cnnviz.load_model("squeezenet1_1", weights=None, num_classes=3)
    assert len(cnnviz.explain(model, nets.images(1, (64, 64))).logits[0]) == 3
    assert "squeezenet1_1" in repr(model)


def test_a_network_without_parameters() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)

    found = cnnviz.explain(Fixed(), nets.images(), method="saliency", target=0)
    torch.testing.assert_close(found.maps, torch.full((3, 12, 16), 1 / (3 * 12 * 16)))


def _doubled_buffers(network: nn.Module) -> nn.Module:
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean, part.running_var = part.running_mean.double(), part.running_var.double()
    return network


@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "lrp"])
@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (lambda network: network.double(), "float64"),
        (lambda network: network.half(), "float16"),
        (lambda network: network.bfloat16(), "bfloat16"),
        (_doubled_buffers, "float64"),
    ],
    ids=["double", "half", "bfloat16", "buffers"],
)
def test_networks_of_other_floats(method: str, convert: Any, kind: str) -> None:
    options = {"window": 4, "stride": 4} if method == "occlusion" else {}
    rounded = convert(nets.TOYS["residual"].build()).float()
    expected = cnnviz.explain(rounded, nets.images(), method=method, target=1, **options)
    assert expected.notes == ()
    network = convert(nets.TOYS["residual"].build())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = cnnviz.explain(network, nets.images().double(), method=method, target=1, **options)
    assert found.raw.dtype == torch.float32
    assert float((found.raw - expected.raw).abs().max()) <= 1e-5 * float(expected.raw.abs().max())
    assert any(f"holds {kind} values: a copy in float32 is explained" in note for note in found.notes)
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
