"""Networks cut at a layer and given another head, and the file that is all one needs to load one again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.loading.trained import KEY, to_bytes
from cnnviz.models.preprocess import Preprocess
from cnnviz.models.surgery import CutNetwork, Head, Plan, cut_at, with_head
from cnnviz.settings import ModelSpec

SHOWN = Preprocess((3, 64, 64), 72, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")
CLASSES = ("cat", "dog", "9")


def _cut(
    arch: str = "shufflenet_v2_x0_5", layer: str | None = "stage3", head: Head = "gap", units: int = 8
) -> CutNetwork:
    loaded = load(ModelSpec(model=arch, weights="none", input_size=(3, 64, 64), seed=3))
    trunk, cut = cut_at(loaded.module, arch, layer, loaded.preprocess)
    return with_head(trunk, Plan(arch, "none", cut, head, units, CLASSES, SHOWN), 5)


def _saved(network: CutNetwork, folder: Path) -> Path:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(to_bytes(network))
    return path


def _batch() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _squeezenet(network: nn.Module, x: Tensor) -> Tensor:
    for index in range(7):
        x = network.features[index](x)  # type: ignore[index, union-attr, operator]
    return x


def _resnet(network: nn.Module, x: Tensor) -> Tensor:
    part: Callable[[str, Tensor], Tensor] = lambda name, value: network.get_submodule(name)(value)  # noqa: E731
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2.0", "layer2.1.conv1"):
        x = part(name, x)
    return x


@pytest.mark.parametrize(
    ("arch", "layer", "by_hand"),
    [("squeezenet1_1", "features.6", _squeezenet), ("resnet18", "layer2.1.conv1", _resnet)],
)
def test_the_trunk_is_the_network_up_to_the_layer(
    arch: str, layer: str, by_hand: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    original = get_model(arch, weights=None, num_classes=2).eval()
    trunk, cut = cut_at(original, arch, layer, SHOWN)
    assert cut == layer
    with torch.no_grad():
        torch.testing.assert_close(trunk(_batch()), by_hand(original, _batch()), rtol=0, atol=0)
    kept = {name for name, _ in trunk.named_parameters()}
    assert kept < {name for name, _ in original.named_parameters()}


@pytest.mark.parametrize("head", ["gap", "gmp"])
@pytest.mark.parametrize("units", [0, 8])
def test_logits_are_the_pooled_maps_weighted(head: Head, units: int) -> None:
    network = _cut(head=head, units=units).eval()
    state, x = network.state_dict(), _batch()
    with torch.no_grad():
        maps = network.trunk(x)
        if units:
            maps = F.conv2d(maps, state["conv.weight"], state["conv.bias"], padding=1).clamp(min=0)
        pooled = maps.mean((2, 3)) if head == "gap" else maps.amax((2, 3))
        expected = pooled @ state["classifier.weight"].T + state["classifier.bias"]
        torch.testing.assert_close(network(x), expected)


def test_the_plain_head_reads_every_position() -> None:
    network = _cut(head="fc", units=8).eval()
    state, x = network.state_dict(), _batch()
    with torch.no_grad():
        hidden = (network.trunk(x).reshape(2, -1) @ state["hidden.weight"].T + state["hidden.bias"]).clamp(min=0)
        torch.testing.assert_close(network(x), hidden @ state["classifier.weight"].T + state["classifier.bias"])
        with pytest.raises(CnnvizError, match="CAM"):
            cnnviz.explain(network, x, method="cam")


def test_the_class_activation_map_of_a_cut_network_sums_to_the_logit() -> None:
    network = _cut(units=8)
    result = cnnviz.explain(network, _batch(), method="cam", target=[0, 2])
    bias = network.state_dict()["classifier.bias"][[0, 2]]
    assert result.raw.shape == (2, 4, 4)
    torch.testing.assert_close(result.raw.mean((1, 2)), result.logits[[0, 1], [0, 2]] - bias, rtol=1e-4, atol=1e-5)


def test_parts_beside_the_way_stay_modules_that_know_training() -> None:
    network = _cut("timm/resnet10t", "layer2")
    assert type(network.trunk.layer1).__name__ == "Sequential"
    before = network.trunk.layer1[0].bn1.running_mean.clone()  # type: ignore[index, union-attr]
    network.train()(_batch())
    assert not torch.equal(network.trunk.layer1[0].bn1.running_mean, before)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("head", ["gap", "gmp", "fc"])
def test_a_file_loads_with_nothing_else(tmp_path: Path, head: Head) -> None:
    network = _cut(head=head)
    loaded = load(ModelSpec(checkpoint=str(_saved(network, tmp_path))))
    assert torch.equal(loaded.module(_batch()), network.eval()(_batch()))
    assert (loaded.labels, loaded.preprocess, loaded.num_classes) == (CLASSES, SHOWN, 3)
    assert (loaded.name, loaded.source) == (f"shufflenet_v2_x0_5-{head}", "torchvision")
    assert loaded.notes == ()
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


def test_other_words_for_the_model_are_told_to_be_unused(tmp_path: Path) -> None:
    path = str(_saved(_cut(), tmp_path))
    assert load(ModelSpec(model="shufflenet_v2_x0_5", checkpoint=path)).notes == ()
    loaded = load(ModelSpec(model="resnet50", checkpoint=path, input_size=(96, 96)))
    assert "--model is not used" in loaded.notes[0]
    assert loaded.preprocess == replace(SHOWN, input_size=(3, 96, 96), resize=108)
    with pytest.raises(CnnvizError, match="has 3 classes, --num-classes asks for 5"):
        load(ModelSpec(checkpoint=path, num_classes=5))


def test_cam_with_a_checkpoint_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["cam", "sample_images/cat.jpg", "--checkpoint", str(_saved(_cut(), tmp_path)), "-c", "9", "-q"]
    assert main([*words, "-o", str(out), "--save", "none"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["input_size"] == [3, 64, 64]
    assert report["images"][0]["explanations"][0]["target"]["label"] == "9"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "written in format 2"),
        ({"head": "gapp"}, "ValueError head 'gapp'"),
        ({"preprocess": {}}, "TypeError"),
        ({"preprocess": None}, "AttributeError"),
        ({"arch": "resnet19"}, "no model called 'resnet19'"),
        ({"cut": "stage9"}, "cannot be cut at 'stage9'"),
        ({"classes": ["a", "b"]}, "does not fit|was trained for 3 classes"),
    ],
)
def test_metadata_that_do_not_describe_the_weights(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = _saved(_cut(), tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata[KEY] = json.dumps({**json.loads(metadata[KEY]), **change})
    save_file(load_file(path), path, metadata)
    with pytest.raises(CnnvizError, match=said):
        load(ModelSpec(checkpoint=str(path)))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("stage33", "Did you mean stage3"),
        ("fc", "Use --cut conv5, the last one that has a map"),
        ("-9", "convolutional stages"),
    ],
)
def test_layers_where_a_network_cannot_be_cut(layer: str, said: str) -> None:
    with pytest.raises(CnnvizError) as raised:
        _cut(layer=layer)
    assert said in str(raised.value)


def test_an_input_that_is_too_small() -> None:
    loaded = load(ModelSpec(model="alexnet", weights="none", input_size=(3, 16, 16)))
    with pytest.raises(CnnvizError, match="cannot be traced at 16 x 16"):
        cut_at(loaded.module, "alexnet", None, loaded.preprocess)
