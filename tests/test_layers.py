"""Which tensor is explained: the default of every torchvision and many timm networks, names, indices, refusals."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as zoo

import cnnviz
from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError
from tests.support import networks as nets

# Above 100 million parameters; smaller siblings of each are walked.
LARGE = frozenset(
    "convnext_large efficientnet_v2_l regnet_x_32gf regnet_y_32gf regnet_y_128gf wide_resnet101_2".split()
)
TRANSFORMERS = r"vit_|swin_|maxvit"
ALL = [name for name in zoo.list_models(module=zoo) if name not in LARGE]

# By family: the default layer, the module that the head begins with, and what happens to the map on the way there.
FAMILIES: dict[str, tuple[str, str, str]] = {
    r"resnet|resnext|wide_resnet": ("layer4", "fc", "mean"),
    r"vgg11$": ("features.19", "classifier.0", "pooled"),
    r"vgg13$": ("features.23", "classifier.0", "pooled"),
    r"vgg16$": ("features.29", "classifier.0", "pooled"),
    r"vgg19$": ("features.35", "classifier.0", "pooled"),
    r"vgg11_bn": ("features.27", "classifier.0", "pooled"),
    r"vgg13_bn": ("features.33", "classifier.0", "pooled"),
    r"vgg16_bn": ("features.42", "classifier.0", "pooled"),
    r"vgg19_bn": ("features.51", "classifier.0", "pooled"),
    r"alexnet": ("features.11", "classifier.1", "pooled"),
    r"squeezenet": ("features", "classifier.1", "itself"),
    r"densenet": ("features", "classifier", "mean"),
    r"inception_v3": ("Mixed_7c", "fc", "mean"),
    r"googlenet": ("inception5b", "fc", "mean"),
    r"mnasnet": ("layers", "classifier.1", "mean"),
    r"shufflenet": ("conv5", "fc", "mean"),
    r"mobilenet_v2": ("features", "classifier.1", "mean"),
    r"mobilenet_v3": ("features", "classifier.0", "mean"),
    r"efficientnet": ("features", "classifier.1", "mean"),
    r"convnext": ("features", "classifier.0", "kept mean"),
    r"regnet": ("trunk_output", "fc", "mean"),
}


def _on_the_way(kind: str, a: Tensor) -> Tensor:
    """What the head reads of the map, computed here."""
    if kind == "mean":
        return a.mean((2, 3))
    if kind == "kept mean":
        return a.mean((2, 3), keepdim=True)
    if kind == "pooled":
        size = 6 if a.shape[1] == 256 else 7
        pool = F.max_pool2d(a, 3, 2) if a.shape[1] == 256 else F.max_pool2d(a, 2)
        return F.adaptive_avg_pool2d(pool, size).flatten(1)
    return a


def _explained(network: nn.Module, name: str, x: Tensor, layer: str = "") -> tuple[Any, Tensor]:
    """The layer that is found, and the tensor."""
    options = opening.SessionOptions(Cut.at_layers(layer), private=False)
    with opening.open_session(network, name, tuple(x.shape[1:]), rt.resolve("cpu"), options) as opened:
        assert opened.graph is not None, "it should trace"
        return opened.layers[0], opened.forward(x).activations[0].detach()


def _watched(network: nn.Module, x: Tensor, name: str, head: str) -> tuple[Tensor, Tensor]:
    """By hooks of our own: the last output of the named module, and the first input of the head."""
    outputs: list[Tensor] = []
    inputs: list[Tensor] = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda m, args, out: outputs.append(out.clone())),
        network.get_submodule(head).register_forward_pre_hook(lambda m, args: inputs.append(args[0].clone())),
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return outputs[-1], inputs[-1]


@pytest.mark.parametrize("name", [n for n in ALL if not re.match(TRANSFORMERS, n)])
def test_default_layer_of_torchvision_networks(name: str) -> None:
    layer, head, way = next(entry for pattern, entry in FAMILIES.items() if re.match(pattern, name))
    network = nets.torchvision_network(name)
    side = {"alexnet": 96, "inception_v3": 128}.get(name, 64)  # so that the last map has positions
    x = nets.images(1, (side, side))
    found, a = _explained(network, name, x)
    out, into = _watched(network, x, layer, head)
    assert (found.name, found.pre_activation) == (layer, False)
    assert (found.channels, *found.size) == tuple(a.shape[1:])
    assert found.stride == (side / a.shape[2], side / a.shape[3])
    scale = float(a.abs().max())
    assert torch.isfinite(a).all()
    assert scale > 1e-3
    expected = out.clamp_min(0) if name.startswith("densenet") else out
    torch.testing.assert_close(a, expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(_on_the_way(way, a), into, rtol=0, atol=1e-5 * scale)


def test_every_torchvision_network_is_walked_or_refused() -> None:
    walked = {name for name in ALL if any(re.match(pattern, name) for pattern in FAMILIES)}
    refused = {name for name in ALL if re.match(TRANSFORMERS, name)}
    assert walked | refused == set(ALL)
    assert not walked & refused
    for name in LARGE:
        family = next(pattern for pattern in FAMILIES if re.match(pattern, name))
        assert any(re.match(family, sibling) for sibling in walked)


# timm ------------------------------------------------------------------------------------------------------------

# A path that ends in a normalisation of timm's (BatchNormAct2d) has the activation inside.
TIMM: dict[str, str] = {
    "resnet10t": "layer4", "seresnet33ts": "final_conv", "seresnext26ts": "stages", "resnest14d": "layer4",
    "ecaresnet26t": "layer4", "gcresnet33ts": "final_conv", "skresnet18": "layer4", "res2next50": "layer4",
    "resnetv2_50": "norm", "nf_regnet_b0": "final_act", "nfnet_l0": "final_act", "repvgg_a0": "stages",
    "regnety_002": "s4", "regnetz_005": "final_conv", "gernet_s": "final_conv", "tresnet_m": "body",
    "tf_efficientnet_lite0": "bn2", "tinynet_e": "bn2", "mixnet_s": "bn2", "fbnetc_100": "bn2", "semnasnet_075": "bn2",
    "mobilenetv2_035": "bn2", "mobilenetv3_small_050": "blocks.5.0.bn1", "lcnet_035": "blocks",
    "tf_mobilenetv3_small_minimal_100": "blocks.5.0.bn1", "mobilenetv4_conv_small_035": "blocks.4.0.bn1",
    "ghostnet_050": "blocks.9.0.bn1", "repghostnet_050": "blocks.9.0.bn1", "hardcorenas_a": "blocks.6.0.bn1",
    "rexnet_100": "features", "dla46_c": "level5", "hrnet_w18_small": "final_layer", "selecsls42b": "head",
    "cspresnet50": "stages", "cs3darknet_s": "stages", "darknet17": "stages", "ese_vovnet19b_dw": "stages",
    "xception41": "blocks", "dpn48b": "features", "hgnetv2_b0": "stages", "densenetblur121d": "features",
    "convnext_atto": "stages", "convnextv2_atto": "stages", "inception_next_atto": "stages",
    "poolformer_s12": "stages", "efficientvit_b0": "head.in_conv",
    "starnet_s1": "norm", "fasternet_t0": "stages", "mobileone_s0": "stages", "repvit_m0_9": "stages",
    "rdnet_tiny": "dense_stages", "convmixer_768_32": "blocks", "focalnet_tiny_srf": "norm",
    "inception_v4": "features", "convformer_s18": "stages",
}  # fmt: skip


def _head_inputs(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """``forward_features`` by timm itself, and the inputs of every weighted module that runs after it."""
    inputs: list[Tensor] = []
    with torch.no_grad():
        features = network.forward_features(x).clone()
        handles = [
            m.register_forward_pre_hook(lambda m, args: inputs.append(args[0].clone()))
            for m in network.modules()
            if isinstance(m, (nn.Linear, nn.Conv2d, nn.LayerNorm))
        ]
        network.forward_head(features.clone())
    for handle in handles:
        handle.remove()
    return features, inputs


@pytest.mark.parametrize("name", TIMM)
def test_default_layer_of_timm_networks(name: str) -> None:
    network = nets.timm_network(name)
    side = 128 if name in {"inception_v4", "selecsls42b"} else 64  # so that the last map has positions
    x = nets.images(1, (side, side))
    found, a = _explained(network, name, x)
    features, inputs = _head_inputs(network, x)
    assert found.name == TIMM[name]
    assert not found.pre_activation
    assert (found.channels, *found.size) == tuple(a.shape[1:])
    assert torch.isfinite(a).all()
    scale = float(a.abs().max())
    assert scale > 1e-4

    def same(found: Tensor, expected: Tensor) -> bool:
        return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-5 * scale)

    pooled = a.mean((2, 3))
    read = any(same(pooled, value.flatten(1)) for value in inputs if value.dim() in (2, 4))
    assert same(a, features) or read
    assert read or not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in network.modules())


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mixer_s32_224", "resmlp_12_224"])
def test_mixers_are_refused(name: str) -> None:
    with pytest.raises(CnnvizError, match="no spatial feature map") as raised:
        cnnviz.explain(nets.timm_network(name), nets.images(1, (224, 224)))
    assert raised.value.exit_code == 2
    assert "--layer" in raised.value.hint


def test_a_convolution_of_a_hybrid_may_be_named() -> None:
    network = nets.timm_network("mobilevit_xxs")
    found = cnnviz.explain(network, nets.images(1, (64, 64)), target=1, layer="stem.conv")
    assert found.layer == "stem.conv"
    assert found.raw.shape == (1, 32, 32)


# Names and indices -----------------------------------------------------------------------------------------------


@functools.cache
def resnet18() -> nn.Module:
    """Nobody writes to it."""
    return nets.torchvision_network("resnet18")


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("index", [-1, "-1", -2, -3, -4])
def test_negative_indices_count_stages_from_the_end(index: int | str, tracing: str) -> None:
    network, x = resnet18(), nets.images(1, (64, 64))
    name = f"layer{5 + int(index)}"
    found, named = (cnnviz.explain(network, x, target=1, layer=layer, tracing=tracing) for layer in (index, name))
    assert found.layer == name
    assert torch.equal(found.raw, named.raw)


def test_stages_of_a_model() -> None:
    model = nets.as_model(resnet18(), (64, 64), 12)
    assert [(layer.name, layer.size, layer.stride) for layer in model.layers()] == [
        ("relu", (32, 32), (2.0, 2.0)),
        ("layer1", (16, 16), (4.0, 4.0)),
        ("layer2", (8, 8), (8.0, 8.0)),
        ("layer3", (4, 4), (16.0, 16.0)),
        ("layer4", (2, 2), (32.0, 32.0)),
    ]


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize(
    ("layer", "message", "hint"),
    [
        ("layer44", "The network has no layer 'layer44'", "layer4"),
        ("layer4.1.conv3", "The network has no layer", "layer4.1.conv2"),
        ("zzz", "The network has no layer 'zzz'", "layer4.1, layer4."),
        ("avgpooool", "The network has no layer", ""),
        (
            "layer3,layer4",
            "'layer3,layer4', which looks like 2 layers",
            "has its own: --layer layer3 --layer layer4",
        ),
        ("-2, -1", "'-2, -1', which looks like 2 layers", "each has its own: --layer -2 --layer -1"),
        ("layer3,layer44", "looks like 2 layers", "--layer layer3 --layer layer44 (Did you mean layer4"),
        ("fc", r"Layer 'fc' has output \[1, 12\], which is no map", "Use --layer layer4, the last one that has a map."),
        ("-7", "resnet18|ResNet has 5 convolutional stages", "-1 (the default) to -5"),
        ("0", "ResNet has 5 convolutional stages", "Count from the end"),
        ("relu:9", "relu runs once", "Use relu."),
        ("layer1.0.relu:x", "no layer|no call", ""),
    ],
)
def test_wrong_names(layer: str, message: str, hint: str, tracing: str) -> None:
    with pytest.raises(CnnvizError, match=message) as raised:
        cnnviz.explain(resnet18(), nets.images(1, (64, 64)), layer=layer, tracing=tracing)
    assert hint in raised.value.hint
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
def test_names_that_are_numbers(tracing: str) -> None:
    """The parts of a Sequential are called "0", "1", ..."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), _Mean(), nn.Linear(5, 3))
    for layer in ("0", "2"):
        assert cnnviz.explain(network, nets.images(), layer=layer, tracing=tracing).layer == layer
    assert cnnviz.explain(network, nets.images(), tracing=tracing).layer == "3"
    with pytest.raises(CnnvizError, match=r"Layer '5' has output") as refused:
        cnnviz.explain(network, nets.images(), layer="5", tracing=tracing)
    assert refused.value.hint == "Use --layer 3, the last one that has a map."


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_pooled_single_cell_is_no_default() -> None:
    """Global pooling as a module is not the layer, whatever its name and order of registration."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)
            self.last_registered_first_used = nn.Conv2d(3, 5, 3)
            self.body = nn.AdaptiveAvgPool2d(1)
            self.never_used = nn.Conv2d(5, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(torch.relu(self.last_registered_first_used(x))).flatten(1))

    found = cnnviz.explain(Odd(), nets.images())
    assert found.layer == "last_registered_first_used"
    with pytest.raises(CnnvizError, match="The network has no layer 'never_used'"):
        cnnviz.explain(Odd(), nets.images(), layer="never_used")


def test_a_network_without_a_map() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))
    with pytest.raises(CnnvizError, match="no spatial feature map") as raised:
        cnnviz.explain(network, nets.images())
    assert "--layer" in raised.value.hint


@pytest.mark.parametrize("sealed", [False, True])
def test_a_fully_connected_layer_as_a_convolution_is_no_map(sealed: bool) -> None:
    """timm's VGG: 7x7 without padding, whose 12 x 6 cells lie in the middle of a map of 18 x 12."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Conv2d(6, 16, 7)

        def forward(self, x: Tensor) -> Tensor:
            if sealed and float(x.detach().mean()) > 1e9:
                return x
            return torch.relu(self.fc1(x))

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    network = nn.Sequential(body, Dense(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    found = cnnviz.explain(network, torch.randn(1, 3, 36, 24), target=1)
    assert (found.layer, tuple(found.raw.shape)) == ("0.1", (1, 36, 24))


@pytest.mark.parametrize("tracing", ["auto", "off"])
def test_a_call_of_a_layer_that_is_not_there(tracing: str) -> None:
    """Said as people say it, with a name that works."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(CnnvizError, match="0 runs once; there is no call 2") as refused:
        cnnviz.explain(network.eval(), torch.randn(1, 3, 12, 12), target=1, layer="0:2", tracing=tracing)
    assert refused.value.hint == "Use 0."
    assert cnnviz.explain(network, torch.randn(1, 3, 12, 12), target=1, layer="0", tracing=tracing).layer == "0"
