"""Checkpoints of every wrapping fill the network; what is none, or needs code, is refused and named."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.checkpoint_fit import classes_in, load_checkpoint
from tests.support.library import torchvision_network


class Net(nn.Module):
    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return out


def net(seed: int, num_classes: int = 5) -> Net:
    torch.manual_seed(seed)
    module = Net(num_classes)
    torch.nn.init.normal_(module.features[1].running_mean)  # type: ignore[arg-type]
    return module.eval()


def state(seed: int = 1, num_classes: int = 5) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(net(seed, num_classes).state_dict())


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((prefix + key, value) for key, value in tensors.items())


def fills(path: Path) -> tuple[str, ...]:
    """Load into a network with other weights; every tensor must be the saved one. Returns the notes."""
    module = net(2)
    notes = load_checkpoint(read_checkpoint(path), module)
    expected = state()
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())
    return notes


WRAPPED: dict[str, Callable[[], Any]] = {
    "plain": state,
    "state_dict": lambda: {"epoch": 3, "state_dict": state(), "optimizer": {"state": {}}},
    "model": lambda: {"model": state(), "epoch": torch.tensor(3)},
    "model_state_dict": lambda: {"model_state_dict": state(), "loss": 0.1},
    "ema": lambda: {"model": state(7), "ema": state()},
    "timm": lambda: {"state_dict": state(7), "state_dict_ema": state(), "arch": "net"},
    "torchvision": lambda: {
        "model": prefixed("module.", state(7)),
        "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", state())},
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
    },
    "ema that holds no weights": lambda: {"ema": {"decay": 0.9}, "model": state()},
    "nested": lambda: {"model": {"state_dict": state()}},
    "module.": lambda: prefixed("module.", state()),
    "_orig_mod.": lambda: prefixed("_orig_mod.", state()),
    "model.": lambda: prefixed("model.", state()),
    "repeated": lambda: prefixed("model._orig_mod.module.model.", state()),
    "inside": lambda: OrderedDict(
        (key.replace("features.", "features.module._orig_mod."), value) for key, value in state().items()
    ),
    "lightning": lambda: {
        "pytorch-lightning_version": "2.0",
        "state_dict": {**prefixed("backbone.net.", state()), "loss.weight": torch.ones(5)},
    },
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", WRAPPED)
def test_every_wrapping_fills_the_network(tmp_path: Path, form: str, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save(WRAPPED[form](), path, _use_new_zipfile_serialization=zipped)
    fills(path)


def test_the_notes_say_what_was_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(WRAPPED["timm"](), path)
    assert fills(path) == ("weights taken from 'state_dict_ema' of net.pth (the averaged weights)",)
    torch.save(WRAPPED["lightning"](), path)
    assert fills(path) == (
        "weights taken from 'state_dict' of net.pth",
        "taken off the names in net.pth: prefix 'backbone.net.'",
        "left out of net.pth: 1 tensors: loss.weight",
    )
    torch.save(state(), path)
    assert fills(path) == ()


def test_half_precision_files_give_float_networks(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({key: value.half() for key, value in state().items()}, path)
    module = net(2)
    load_checkpoint(read_checkpoint(path), module)
    assert module.head.weight.dtype == torch.float32
    assert torch.equal(module.head.weight, state()["head.weight"].half().float())


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(prefixed("model.", state()), path)
    assert fills(path) == ("taken off the names in net.safetensors: prefix 'model.'",)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CnnvizError, match="damaged or cut short at"):
        read_checkpoint(path)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {self.trace}",)


@pytest.mark.parametrize("place", ["in a state dict", "alone"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, form: str, place: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content: Any = Malicious(trace)
    if place == "in a state dict":
        content = {"state_dict": {**state(), "head.bias": content}}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CnnvizError, match="needs code: it wants") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    assert "--trust-checkpoint" in caught.value.hint
    if form in ("zip", "legacy"):
        assert f"{os.name if os.name == 'nt' else 'posix'}.system" in caught.value.message
    assert not trace.exists()
    # The file is able to do harm: trusted, it does.
    with contextlib.suppress(CnnvizError):
        read_checkpoint(path, trust=True)
    assert trace.exists()


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"epoch": 1, "model": nn.Sequential(nn.Linear(2, 3))}, path)
    with pytest.raises(CnnvizError, match=r"wants torch\.nn\.modules\.container\.Sequential"):
        read_checkpoint(path)
    found = read_checkpoint(path, trust=True)
    assert isinstance(found.module, nn.Sequential)
    assert found.module[0].weight.shape == (3, 2)
    assert found.notes == ("whole.pt holds a whole Sequential module",)


def test_torchscript_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        script: Any = torch.jit.script(nn.Linear(2, 2))
        script.save(str(path))
    for trust in (False, True):
        with pytest.raises(CnnvizError, match="TorchScript archive") as caught:
            read_checkpoint(path, trust=trust)
        assert "state dict" in caught.value.hint


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "net.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CnnvizError, match=f"damaged or cut short at {int(len(data) * share)} bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n0000", "not a PyTorch or safetensors file"),
        (b"just some text that is long enough", "not a PyTorch or safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(CnnvizError, match=message) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_files_without_weights(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(CnnvizError, match=r"without PyTorch weights \(x.npy\)"):
        read_checkpoint(tmp_path / "a.npz")
    torch.save({"epoch": 1, "loss": [0.5]}, tmp_path / "a.pt")
    with pytest.raises(CnnvizError, match="holds dict with the keys epoch, loss, but no weights"):
        read_checkpoint(tmp_path / "a.pt")
    torch.save([1], tmp_path / "a.pt")
    with pytest.raises(CnnvizError, match="holds list, but no weights"):
        read_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CnnvizError, match="No such file") as caught:
        read_checkpoint(tmp_path / "b.pt")
    assert caught.value.hint == "Did you mean a.pt?"
    with pytest.raises(CnnvizError, match="cannot read"):
        read_checkpoint(tmp_path)


def test_differences_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    tensors = state()
    del tensors["features.1.running_mean"]
    tensors |= {f"extra.{index:02d}": torch.ones(1) for index in range(13)}
    tensors["features.0.weight"] = torch.ones(4, 3, 5, 5)
    torch.save(tensors, path)
    with pytest.raises(CnnvizError) as caught:
        load_checkpoint(read_checkpoint(path), net(2))
    said = caught.value.message
    assert "1 missing: features.1.running_mean" in said
    assert "13 unexpected: extra.00, extra.01" in said
    assert "extra.09 and 3 more" in said
    assert "1 of another shape: features.0.weight (4, 3, 5, 5) instead of (4, 3, 3, 3)" in said


def test_a_refused_checkpoint_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    tensors = state()
    tensors["head.weight"] = torch.ones(7, 4)
    torch.save(tensors, path)
    module = net(2)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(CnnvizError):
        load_checkpoint(read_checkpoint(path), module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_counters_of_tools_are_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    tensors = state()
    del tensors["features.1.num_batches_tracked"]
    torch.save({**tensors, "total_ops": torch.ones(1), "head.total_params": torch.ones(1)}, path)
    fills(path)


def test_the_wrong_number_of_classes_says_both(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(prefixed("module.", state(1, num_classes=9)), path)
    checkpoint = read_checkpoint(path)
    with pytest.raises(CnnvizError, match=r"9 classes \(head.weight\), the network has 5") as caught:
        load_checkpoint(checkpoint, net(2))
    assert caught.value.hint == "give --num-classes 9"
    assert classes_in(checkpoint, net(2)) == 9
    assert classes_in(checkpoint, net(2, 9)) is None
    torch.save({**state(), "features.0.weight": torch.ones(4, 3, 5, 5)}, path)
    assert classes_in(read_checkpoint(path), net(2)) is None


def test_another_network_is_said(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"conv.weight": torch.ones(3)}, path)
    with pytest.raises(CnnvizError, match=r"none of the 1 tensors .* \(conv.weight, …\) is one of Net"):
        load_checkpoint(read_checkpoint(path), net(2))


def test_the_older_names_of_densenet(tmp_path: Path) -> None:
    layer = nn.ModuleDict({"norm1": nn.BatchNorm2d(2), "conv2": nn.Conv2d(2, 2, 1)})
    module = nn.ModuleDict({"denselayer1": layer})
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value + 1
        for key, value in module.state_dict().items()
    }
    torch.save(old, tmp_path / "densenet.pth")
    expected = {key: value + 1 for key, value in module.state_dict().items()}
    load_checkpoint(read_checkpoint(tmp_path / "densenet.pth"), module)
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())


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
