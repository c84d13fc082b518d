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
import torch
from safetensors.torch import save_file
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.checkpoint_fit import classes_in, load_checkpoint
from tests.support.checkpoints import fills, net, prefixed, state

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


def test_a_file_without_permission_is_no_misspelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")

    def refuse(self: Path, *_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CnnvizError, match=r"weights\.pth: Permission denied") as caught:
        read_checkpoint(path)
    assert caught.value.hint == "its permissions do not let you read it"


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
    torch.save(state(), tmp_path / "weights.pt")
    with pytest.raises(CnnvizError, match="No such file") as caught:
        read_checkpoint(tmp_path / "wieghts.pt")
    assert caught.value.hint == "Did you mean weights.pt?"
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
