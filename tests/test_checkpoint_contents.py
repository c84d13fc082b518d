"""What stands in a checkpoint: numbers that are no weights, tensors in other layouts, several networks, other names."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.checkpoint_fit import classes_in, load_checkpoint
from tests.support.checkpoints import fills, net, prefixed, state
from tests.support.library import torchvision_network


def weights(kind: torch.dtype) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(
        (key, (value * 10).to(kind) if key == "head.weight" else value) for key, value in state().items()
    )


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save(weights(kind), tmp_path / "net.pth")
    module = net(2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    name = str(kind).removeprefix("torch.")
    with pytest.raises(CnnvizError, match=f"1 of another type: head.weight {name} instead of float32"):
        load_checkpoint(read_checkpoint(tmp_path / "net.pth"), module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_floats_of_another_precision_are_weights(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save(weights(kind), tmp_path / "net.pth")
    module = net(2)
    load_checkpoint(read_checkpoint(tmp_path / "net.pth"), module)
    assert torch.equal(module.head.weight, (state()["head.weight"] * 10).to(kind).float())


def test_indices_of_a_network_take_whole_numbers_only(tmp_path: Path) -> None:
    module = net(2)
    module.register_buffer("order", torch.arange(4))
    for values, fits in ((torch.tensor([3.0, 2.0, 1.0, 0.0]), True), (torch.tensor([0.5, 1.0, 2.0, 3.0]), False)):
        torch.save({**state(), "order": values}, tmp_path / "net.pth")
        if fits:
            load_checkpoint(read_checkpoint(tmp_path / "net.pth"), module)
            assert module.order.tolist() == [3, 2, 1, 0]
        else:
            with pytest.raises(CnnvizError, match="order float32 instead of int64"):
                load_checkpoint(read_checkpoint(tmp_path / "net.pth"), module)


def test_tensors_without_values_and_in_other_layouts(tmp_path: Path) -> None:
    path, module = tmp_path / "net.pth", net(2)
    torch.save({**state(), "head.weight": torch.empty(5, 4, device="meta")}, path)
    with pytest.raises(CnnvizError, match=r"1 without values \(saved from the meta device\): head.weight"):
        load_checkpoint(read_checkpoint(path), module)
    torch.save({**state(), "head.weight": state()["head.weight"].to_sparse()}, path)
    load_checkpoint(read_checkpoint(path), module)
    assert torch.equal(module.head.weight, state()["head.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that quantised tensors are deprecated
        rough = torch.quantize_per_tensor(state()["head.weight"], 0.01, 0, torch.qint8)
        torch.save({**state(), "head.weight": rough}, path)
        notes = load_checkpoint(read_checkpoint(path), module)
    assert "1 quantised tensors were turned into floats" in notes
    assert (module.head.weight - state()["head.weight"]).abs().max() <= 0.0051
    torch.save({**state(), "head.weight": torch.ones(3, 3).to_sparse()}, path)
    with pytest.raises(CnnvizError, match=r"head.weight \(3, 3\) instead of \(5, 4\)"):
        load_checkpoint(read_checkpoint(path), module)


@pytest.mark.parametrize(
    ("meant", "other", "word"),
    [
        ("module.encoder_q.", "module.encoder_k.", "momentum copy"),  # MoCo
        ("ema_model.", "model.", "averaged weights"),
        ("ema.module.", "module.", "averaged weights"),
        ("teacher.backbone.", "student.backbone.", "averaged weights"),  # DINO
        ("online_encoder.", "target_encoder.", "momentum copy"),  # BYOL
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_networks_the_one_that_is_evaluated_is_taken(
    tmp_path: Path, meant: str, other: str, word: str, turned: bool
) -> None:
    sets = [prefixed(meant, state()), prefixed(other, state(7))]
    tensors = {key: value for part in (sets[::-1] if turned else sets) for key, value in part.items()}
    # Averages often come without the counters of batch normalisation.
    tensors.pop(f"{meant}features.1.num_batches_tracked", None)
    torch.save({"state_dict": tensors}, tmp_path / "net.pth")
    notes = " ".join(fills(tmp_path / "net.pth"))
    assert f"{meant!r} was taken" in notes
    assert word in notes
    assert repr(other) in notes


def test_of_two_networks_none_is_taken_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({**prefixed("net_a.", state()), **prefixed("net_b.", state(7))}, path)
    with pytest.raises(CnnvizError, match=r"several networks that fit: 'net_a\.' and 'net_b\.'") as caught:
        load_checkpoint(read_checkpoint(path), net(2))
    # The hint is Python that works.
    tensors = torch.load(path)
    wanted = eval(caught.value.hint.partition(": ")[2], {"tensors": tensors})
    torch.save(wanted, path)
    fills(path)
    torch.save({**prefixed("net_a.", state()), **prefixed("net_b.", state())}, path)
    fills(path)  # the same weights twice


def test_a_forgotten_model_is_recognised_by_the_names(tmp_path: Path) -> None:
    """Both have ``bn1.weight``, of 64 and 32 values; that is not a number of classes."""
    path = tmp_path / "net.pth"
    resnet = models.resnet18(num_classes=7)
    torch.save({"state_dict": prefixed("module.", dict(resnet.state_dict()))}, path)
    other = timm.create_model("tf_efficientnet_lite0")
    assert classes_in(read_checkpoint(path), other) is None
    with pytest.raises(CnnvizError, match="look like those of a ResNet") as caught:
        load_checkpoint(read_checkpoint(path), other)
    assert caught.value.hint == "give --model resnet18"
    torch.save({"state_dict": timm.create_model("resnet10t").state_dict()}, path)
    with pytest.raises(CnnvizError, match="look like those of a ResNet") as caught:
        load_checkpoint(read_checkpoint(path), net(2))
    assert "factory" in caught.value.hint


def test_auxiliary_heads_with_another_number_of_classes_do_not_matter(tmp_path: Path) -> None:
    """A GoogLeNet that was fine-tuned to 7 classes at its classifier, its auxiliary heads as they were."""
    path = tmp_path / "net.pth"
    tuned = torchvision_network("googlenet", 12)
    tuned.fc = nn.Linear(1024, 7)
    torch.save(tuned.state_dict(), path)
    checkpoint = read_checkpoint(path)
    assert classes_in(checkpoint, torchvision_network("googlenet", 12)) == 7
    module = torchvision_network("googlenet", 7)
    notes = load_checkpoint(checkpoint, module)
    assert notes == ("auxiliary heads left out, which evaluation does not run: aux1, aux2",)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(module.eval()(image), tuned.eval()(image))
