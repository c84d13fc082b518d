"""Class names of a checkpoint: taken where they stand in it, asked for where they do not, never guessed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cnnviz.models.loading.load import LoadedModel, load
from cnnviz.settings import ModelSpec
from tests.support.checkpoints import Net, state

ANIMALS = ("ant", "bee", "cat", "dog", "eel")
FACTORY = "tests.support.checkpoints:Net"


def loaded(path: Path, **more: Any) -> LoadedModel:
    return load(ModelSpec(model=FACTORY, checkpoint=str(path), **more))


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": list(ANIMALS)},
        {"class_names": ANIMALS},
        {"names": dict(enumerate(ANIMALS))},
        {"id2label": {str(index): name for index, name in enumerate(ANIMALS)}},
        {"class_to_idx": {name: index for index, name in reversed(list(enumerate(ANIMALS)))}},
        {"meta": {"CLASSES": ANIMALS}},
        {"hyper_parameters": {"classes": list(ANIMALS), "lr": 0.1}},
        {"args": argparse.Namespace(classes=list(ANIMALS), epochs=3)},
        {"classes": list(ANIMALS), "class_to_idx": {name: index for index, name in enumerate(ANIMALS)}},
    ],
)
def test_names_that_stand_in_a_checkpoint_are_taken(beside: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save({"state_dict": state(), **beside}, path)
    found = loaded(path)
    assert found.labels == ANIMALS
    assert [note for note in found.notes if "names" in note] == ["5 class names stand in best.pth"]
    (tmp_path / "mine.txt").write_text("v\nw\nx\ny\nz\n")
    mine = loaded(path, labels=str(tmp_path / "mine.txt"))
    assert mine.labels == tuple("vwxyz")
    assert not any("names" in note for note in mine.notes)


def test_names_that_stand_in_a_safetensors_file_or_a_whole_module_are_taken(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "net.safetensors", metadata={"classes": json.dumps(ANIMALS)})
    assert loaded(tmp_path / "net.safetensors").labels == ANIMALS
    whole = Net()
    whole.names = dict(enumerate(ANIMALS))  # type: ignore[assignment]
    torch.save(whole, tmp_path / "whole.pt")
    assert loaded(tmp_path / "whole.pt", trust_checkpoint=True).labels == ANIMALS


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        ({}, "no list of class names stands in best.pth"),
        (
            {"classes": 5, "names": torch.arange(5), "labels": [0, 1, 2, 3, 4]},
            "no list of class names stands in best.pth",
        ),
        ({"class_to_idx": {"ant": 0, "bee": 2}}, "no list of class names stands in best.pth"),
        ({"classes": ["ant", "bee"]}, "best.pth has lists of 2 names, and the network 5 classes"),
        (
            {"classes": list(ANIMALS), "names": list(reversed(ANIMALS))},
            "best.pth has 2 lists of 5 class names that differ",
        ),
    ],
)
def test_names_are_not_guessed_and_it_is_said_how_to_give_them(
    beside: dict[str, Any], why: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": state(), **beside}, tmp_path / "best.pth")
    found = loaded(tmp_path / "best.pth")
    assert found.labels == tuple(f"class {index}" for index in range(5))
    assert f"{why}: classes are told by number; --labels FILE names them" in found.notes


def test_names_of_published_weights_are_assumed_unless_the_checkpoint_has_its_own(tmp_path: Path) -> None:
    network = "shufflenet_v2_x0_5"
    weights = load(ModelSpec(model=network, weights="none")).module.state_dict()
    torch.save(weights, tmp_path / "plain.pth")
    plain = load(ModelSpec(model=network, weights="none", checkpoint=str(tmp_path / "plain.pth")))
    assert plain.labels[281] == "class 281"
    assert any("plain.pth: classes are told by number; --labels FILE" in note for note in plain.notes)
    own = [f"thing {index}" for index in range(1000)]
    torch.save({"model": weights, "classes": own}, tmp_path / "own.pth")
    for words in ({}, {"weights": "none"}):
        found = load(ModelSpec(model=network, checkpoint=str(tmp_path / "own.pth"), **words))
        assert found.labels[281] == "thing 281"
        assert not any("assumed" in note for note in found.notes)


def test_a_network_with_one_logit_has_two_names(tmp_path: Path) -> None:
    torch.save({"state_dict": state(num_classes=1), "classes": ["cat", "dog"]}, tmp_path / "best.pth")
    assert loaded(tmp_path / "best.pth").labels == ("cat", "dog")


def test_a_network_without_classes_is_asked_for_no_names(tmp_path: Path) -> None:
    from cnnviz.registry.lookup import read_task

    torch.save(state(), tmp_path / "best.pth")
    found = load(ModelSpec(model=FACTORY, checkpoint=str(tmp_path / "best.pth")), None, read_task("regress"))
    assert isinstance(found.module, nn.Module)
    assert not any("--labels" in note for note in found.notes)
