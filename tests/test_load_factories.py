"""Networks from factories, from trusted files and inside wrappers."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import ModelSpec, load, unwrap
from tests.support.loading import assert_ready, refused, written

pytestmark = pytest.mark.usefixtures("nowhere")


def test_a_whole_module_from_a_trusted_file() -> None:
    layers = (nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    module = nn.Sequential(*layers).double()
    torch.save(module, "whole.pt")
    assert "--trust-checkpoint" in refused(checkpoint="whole.pt").hint
    model = load(ModelSpec(checkpoint="whole.pt", trust_checkpoint=True))
    assert_ready(model)
    assert (model.source, model.name, model.num_classes) == ("file", "whole", 6)
    assert model.preprocess.input_size == (1, 224, 224)
    assert model.notes[:2] == ("whole.pt holds a whole Sequential module", "--model is not used")


# --- factories ---


def test_a_file_is_read_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that leaves its length and its second as they were: Python's compiled code would be that of before."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for classes in (2, 3):
        name = written(
            f"def make():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, {classes}))"
        )
        os.utime(name, (1e9, 1e9))
        assert load(ModelSpec(model="nets.py:make")).num_classes == classes


def test_a_factory_in_a_file_of_the_current_folder() -> None:
    Path("blocks.py").write_text("WIDTH = 4\n")
    written(
        """
        from blocks import WIDTH  # beside it
        def make(num_classes=5):
            pool = nn.AdaptiveAvgPool2d(1)
            return nn.Sequential(nn.Conv2d(3, WIDTH, 3), pool, nn.Flatten(), nn.Linear(WIDTH, num_classes))
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(*make(3))
        one = make(2)
        """
    )
    for name, classes in (("nets.py:make", 5), ("nets:make", 5), ("nets.py:Net", 3), ("nets.py:one", 2)):
        model = load(ModelSpec(model=name))
        assert_ready(model)
        assert (model.name, model.source, model.weights) == (name, "factory", None)
        assert model.num_classes == classes
        assert model.notes == ("preprocessing assumed to be ImageNet's (input_size, mean, std)",)
    assert load(ModelSpec(model="nets.py:make", num_classes=9)).num_classes == 9
    assert "has 3 classes, --num-classes asks for 9" in refused(model="nets.py:Net", num_classes=9).message
    first = load(ModelSpec(model="nets.py:make", seed=1)).module.state_dict()["0.weight"]
    assert torch.equal(first, load(ModelSpec(model="nets.py:make", seed=1)).module.state_dict()["0.weight"])
    torch.save(load(ModelSpec(model="nets.py:make", num_classes=8)).module.state_dict(), "best.pth")
    filled = load(ModelSpec(model="nets.py:make", checkpoint="best.pth"))
    assert (filled.num_classes, filled.weights) == (8, "best.pth")


def test_a_factory_of_an_installed_package() -> None:
    model = load(ModelSpec(model="torchvision.models:resnet18", num_classes=4, input_size=(64,)))
    assert_ready(model)
    assert model.num_classes == 4


@pytest.mark.parametrize(
    ("body", "classes"),
    [
        ("return {'features': x, 'logits': self.fc(x)}", 6),
        ("return self.fc(x), x", 6),
        ("return self.fc(x)[:, 0]", 1),
        ("return self.fc(x)[:, :, None, None]", 6),
    ],
)
def test_the_number_of_classes_is_found_in_outputs_of_every_shape(body: str, classes: int) -> None:
    written(
        f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(3, 6)
            def forward(self, x):
                x = x.mean((2, 3))
                {body}
        """
    )
    assert load(ModelSpec(model="nets.py:Net")).num_classes == classes


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("def make(): return 17", "nets.py:make", "returned int; expected a torch.nn.Module"),
        ("def make(): return nn.ReLU", "nets.py:make", "returned ReLU, a class; expected"),
        ("def make(): raise KeyError('depth')", "nets.py:make", "raised KeyError: 'depth'"),
        ("def make(depth): return nn.ReLU()", "nets.py:make", "raised TypeError: make() missing 1 required"),
        ("def make(): exit(3)", "nets.py:make", "raised SystemExit: 3"),
        ("import no_such_module", "nets.py:make", "importing nets.py raised ModuleNotFoundError"),
        ("def", "nets.py:make", "importing nets.py raised SyntaxError"),
        ("make = 3", "nets.py:make", "is int, not a function"),
        ("def make(): pass", "nets.py:maker", "there is no 'maker' in it"),
        ("def make(): pass", "timm:convnext_atto", "timm has no function 'convnext_atto'"),
        ("def make(): pass", "net.py:make", "net.py does not exist"),
        ("def make(): pass", "no_package.models:make", "importing no_package.models raised Module"),
        ("def make(): return nn.Linear(3, 5)", "nets.py:make", "an input of 3x224x224: RuntimeError"),
        ("def make(): return torch.jit.script(nn.Conv2d(3, 2, 1))", "nets.py:make", "TorchScript"),
    ],
)
def test_what_factories_do_wrong_is_said(code: str, name: str, message: str) -> None:
    written(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        assert message in refused(model=name).message


def test_what_a_file_imports_is_not_offered() -> None:
    """Of all names that stand in the file, its two functions and the class that it imports by name."""
    written("from torch.nn import ReLU\nfrom math import pi\nimport os.path\ndef make(): pass\ndef other(): pass")
    assert refused(model="nets.py:zzz").hint.startswith("it has ReLU, make, other")
    assert "Did you mean" not in refused(model="nets.py:torche").hint


def test_the_folders_leave_the_import_path_again() -> None:
    import sys

    before = list(sys.path)
    written("def make(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())")
    load(ModelSpec(model="nets.py:make"))
    refused(model="nets.py:other")
    assert sys.path == before


# --- wrappers ---


def test_wrappers_are_taken_off_and_left_as_they_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    compiled: Any = torch.compile(net)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    assert unwrap(net) is net
    assert unwrap(compiled) is net
    assert unwrap(nn.DataParallel(compiled)) is net
    assert unwrap(torch.compile(nn.DataParallel(nn.DataParallel(net)))) is net  # type: ignore[arg-type]
    assert unwrap(averaged) is averaged.module
    assert compiled._orig_mod is net


def test_wrappers_inside_are_taken_off_when_loading() -> None:
    written(
        """
        def make():
            body = torch.compile(nn.DataParallel(nn.Conv2d(3, 5, 1)))
            net = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
            net.compile()
            return nn.DataParallel(net)
        """
    )
    model = load(ModelSpec(model="nets.py:make"))
    assert isinstance(model.module, nn.Sequential)
    assert type(model.module[0]) is nn.Conv2d
    assert model.module._compiled_call_impl is None
    assert "unwrapped Sequential from DataParallel" in model.notes
    assert_ready(model)


def test_scripted_networks_are_refused_with_the_remedy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted: Any = torch.jit.script(nn.Conv2d(3, 2, 1))
    with pytest.raises(CnnvizError, match="the network is TorchScript") as caught:
        unwrap(scripted)
    assert "load_state_dict" in caught.value.hint
    with pytest.raises(CnnvizError, match="its part '1' is TorchScript"):
        unwrap(nn.Sequential(nn.ReLU(), scripted))
