"""Every way to name a network gives it frozen, with the right weights, or a sentence that helps."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading import bundled, zoo
from cnnviz.models.loading.labels import LabelLookup
from cnnviz.models.loading.load import LoadedModel, ModelSpec, load
from cnnviz.models.preprocess import normalize, prepare
from tests.support.loading import SMALL, assert_ready, refused

pytestmark = pytest.mark.usefixtures("nowhere")


# --- the bundled network ---


def test_the_default_model_knows_what_it_sees() -> None:
    model = load(ModelSpec())
    assert_ready(model)
    assert (model.name, model.source, model.weights) == ("efficientnet_lite0", "bundled", "IMAGENET1K")
    assert (model.num_classes, model.parameters) == (1000, 4652008)
    assert model.labels[281] == "tabby"
    # A drawing that no untrained or wrongly fed network names among 1000 classes.
    assert "traffic light" in _seen(model, _traffic_light())


def _traffic_light() -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows, columns = np.indices((300, 300))
    rgb = np.full((300, 300, 3), (150, 190, 235), np.uint8)
    rgb[20:280, 100:200] = (20, 22, 20)
    for row, colour in ((65, (255, 40, 30)), (150, (70, 60, 20)), (235, (20, 70, 40))):
        rgb[(rows - row) ** 2 + (columns - 150) ** 2 < 34**2] = colour
    return rgb


def _seen(model: LoadedModel, rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> list[str]:
    pixels, _ = prepare(rgb, model.preprocess)
    with torch.no_grad():
        logits = model.module(normalize(pixels[None], model.preprocess))
    return [model.labels[int(index)] for index in logits[0].topk(3).indices]


def test_the_bundled_weights_must_fit() -> None:
    other: Any = timm.create_model
    with pytest.raises(CnnvizError, match=r"does not fit efficientnet_lite0: 296 tensors for 386"):
        bundled.load_weights(other("tf_efficientnet_lite2", pretrained=False))
    with pytest.raises(CnnvizError, match=r"_fc.weight for classifier.weight"):
        bundled.load_weights(bundled.build(num_classes=10))


def test_imagenet_labels_lead_back_to_their_index() -> None:
    labels = zoo.imagenet_labels()
    assert len(labels) == 1000
    lookup = LabelLookup(labels)
    assert [lookup.typed(label).index for label in labels] == list(range(1000))
    with pytest.raises(CnnvizError, match=r"264 \(Cardigan\), 474 \(cardigan\)"):
        lookup.typed("CARDIGAN")


# --- random weights ---


def test_random_weights_come_from_the_seed_and_leave_the_callers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = load(ModelSpec(model=SMALL, weights="none", num_classes=7, seed=1))
    assert torch.equal(torch.rand(3), expected)
    again = load(ModelSpec(model=SMALL, weights="None", num_classes=7, seed=1))
    other = load(ModelSpec(model=SMALL, weights="none", num_classes=7, seed=2))
    first = [model.module.state_dict()["features.0.weight"] for model in (one, again, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert_ready(one)
    assert (one.weights, one.num_classes, one.labels[6]) == ("none", 7, "class 6")
    assert one.notes == ("the weights are random: predictions mean nothing",)


@pytest.mark.parametrize("name", ["ResNet18", "mobilenet_v3_small", "timm/resnet10t"])
def test_networks_by_name(name: str) -> None:
    model = load(ModelSpec(model=name, weights="none", num_classes=3))
    assert model.num_classes == 3
    assert_ready(model)


def test_preprocessing_comes_from_the_weights_and_gives_way_to_options() -> None:
    model = load(ModelSpec(model="efficientnet_b0", weights="none"))
    assert (model.preprocess.resize, model.preprocess.interpolation) == (256, "bicubic")
    spec = ModelSpec(model=SMALL, weights="none", input_size=(64,), mean=(0.5,), std=(0.25,), no_crop=True)
    model = load(spec)
    assert model.preprocess.input_size == (3, 64, 64)
    assert (model.preprocess.view, model.preprocess.resize, model.preprocess.stride) == ("whole", 64, 16)
    assert model.preprocess.std == (0.25, 0.25, 0.25)
    grey = load(ModelSpec(model="timm/resnet10t", weights="none", input_size=(1, 64, 64)))
    assert_ready(grey)
    assert "takes 3 channels" in refused(model=SMALL, weights="none", input_size=(1, 64, 64)).message


# --- weights on disk, and none ---


def _cache(name: str, weights: Any) -> tuple[nn.Module, Path]:
    """Put a random network where torch keeps the weights of this entry."""
    torch.manual_seed(3)
    module = torchvision.models.get_model(name, weights=None)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    path.parent.mkdir(parents=True)
    torch.save(module.state_dict(), path)
    return module, path


def test_weights_on_disk_need_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    expected, path = _cache(SMALL, entry)
    for weights in ("DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "imagenet1k_v1"):
        model = load(ModelSpec(model=SMALL, weights=weights))
        assert model.weights == "IMAGENET1K_V1"
        assert model.labels == tuple(entry.meta["categories"])
        state = model.module.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in expected.state_dict().items())
    assert "has 1000 classes, --num-classes asks for 7" in refused(model=SMALL, num_classes=7).message
    path.write_bytes(path.read_bytes()[:5000])
    error = refused(model=SMALL)
    assert f"in {path} cannot be used" in error.message
    assert "delete that file" in error.hint
    assert capsys.readouterr().out == ""


def test_missing_torchvision_weights_say_where_to_put_them() -> None:
    start = time.perf_counter()
    error = refused(model="resnet50")
    assert time.perf_counter() - start < 4
    assert "resnet50 (IMAGENET1K_V2)" in error.message
    assert "download.pytorch.org cannot be reached: resnet50-11ad3fa6.pth" in error.message
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert f"put resnet50-11ad3fa6.pth into {folder} (TORCH_HOME" in error.hint
    for way in ("--weights none", "--checkpoint FILE", "efficientnet_lite0"):
        assert way in error.hint


def test_missing_timm_weights_name_the_repository_and_the_cache(tmp_path: Path) -> None:
    start = time.perf_counter()
    error = refused(model="timm/resnet18")
    assert time.perf_counter() - start < 4
    assert "model.safetensors of the Hugging Face repository timm/resnet18.a1_in1k" in error.message
    assert str(tmp_path / "hub") in error.hint
    assert "--weights none" in error.hint


def test_timm_weights_in_the_hugging_face_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create: Any = timm.create_model
    torch.manual_seed(4)
    expected = create("resnet10t", pretrained=False)
    path = tmp_path / "pytorch_model.bin"
    torch.save(expected.state_dict(), path)

    def cached(repo_id: str, filename: str) -> str | None:
        return str(path) if (repo_id, filename) == ("timm/resnet10t.c3_in1k", "pytorch_model.bin") else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    model = load(ModelSpec(model="timm/resnet10t", weights="c3_in1k"))
    state = model.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in expected.state_dict().items())
    assert (model.name, model.weights, model.labels[281]) == ("timm/resnet10t.c3_in1k", "c3_in1k", "tabby")


def test_a_slow_name_server_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        time.sleep(2.5)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", slow)
    monkeypatch.setattr(zoo, "_PROBE_SECONDS", 0.1)
    start = time.perf_counter()
    assert not zoo.reachable("example.org")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"model": "resnet51"}, "no model called 'resnet51'", "Did you mean resnet50"),
        ({"model": "efficientnet-lite0"}, "no model called", "Did you mean efficientnet_lite0"),
        ({"model": "timm/resnet51"}, "no model called 'resnet51'", "timm/resnet50"),
        ({"model": "timm/resnet50.a9_in1k"}, "no weights called 'a9_in1k'", "a3_in1k"),
        ({"model": "resnet34d"}, "one of timm", "give --model timm/resnet34d"),
        ({"model": "r3d_18"}, "no classes, segments or boxes", "give a classifier"),
        ({"model": "best.pth"}, "is a file of weights", "give --checkpoint best.pth"),
        ({"model": "net.py"}, "names no function", "give --model net.py:FUNCTION"),
        ({"model": "vgg16", "weights": "IMAGENET1K_V7"}, "no weights called", "Did you mean IMAGENET1K_V1"),
        ({"weights": "IMAGENET1K_V7"}, "efficientnet_lite0 has no weights called", "DEFAULT, or none"),
        ({"model": "vgg16", "weights": "IMAGENET1K_FEATURES"}, "no classifier", "--weights IMAGENET1K_V1"),
        ({"num_classes": 0}, "less than 1", "--num-classes 10"),
        ({"num_classes": 7}, "has 1000 classes, --num-classes asks for 7", "--checkpoint FILE"),
    ],
)
def test_what_does_not_exist_is_said(options: dict[str, Any], message: str, hint: str) -> None:
    error = refused(**options)
    assert message in error.message
    assert hint in error.hint


# --- checkpoints ---


@pytest.mark.parametrize("name", [SMALL, "resnet18", "timm/resnet10t", "efficientnet_lite0"])
def test_a_checkpoint_tells_the_number_of_classes(name: str) -> None:
    source = load(ModelSpec(model=name, weights="none", num_classes=7, seed=9))
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.module.state_dict().items()}}, "best.pth")
    model = load(ModelSpec(model=name, checkpoint="best.pth"))
    assert_ready(model)
    assert (model.num_classes, model.weights, model.labels[6]) == (7, "best.pth", "class 6")
    assert "built with 7 classes, as best.pth has" in model.notes
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.module(image), source.module(image), rtol=1e-5, atol=1e-6)
    error = refused(model=name, checkpoint="best.pth", num_classes=5)
    assert "best.pth was trained for 7 classes" in error.message
    assert "the network has 5" in error.message
    Path("names.txt").write_text("a\nb\nc\n")
    assert (
        "names 3 classes, the network has 7" in refused(model=name, checkpoint="best.pth", labels="names.txt").message
    )
    Path("names.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert load(ModelSpec(model=name, checkpoint="best.pth", labels="names.txt")).labels[6] == "g"


def test_auxiliary_heads_of_a_checkpoint_are_no_difference() -> None:
    torch.manual_seed(0)
    trained = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=True, num_classes=4)
    torch.save(trained.state_dict(), "best.pth")
    model = load(ModelSpec(model="googlenet", checkpoint="best.pth"))
    assert model.num_classes == 4
    trained.eval().transform_input = True
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.module(image), trained(image), rtol=1e-5, atol=1e-6)
    plain = load(ModelSpec(model="googlenet", checkpoint="best.pth", weights="none"))
    assert not plain.module.transform_input


def test_imagenet_names_are_assumed_for_a_thousand_classes_and_said_so() -> None:
    torch.save(load(ModelSpec(model=SMALL, weights="none")).module.state_dict(), "a.pth")
    model = load(ModelSpec(model=SMALL, checkpoint="a.pth"))
    assert model.labels[281] == "tabby"
    assert model.notes == ("class names assumed to be those of IMAGENET1K_V1 (1000 classes)",)
    assert load(ModelSpec(model=SMALL, checkpoint="a.pth", weights="none")).labels[281] == "class 281"
