"""Class names of a checkpoint: taken where they stand in it, asked for where they do not, never guessed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
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


BY_INDEX = dict(enumerate(ANIMALS))
BY_NAME = {name: index for index, name in reversed(list(enumerate(ANIMALS)))}


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"classes": list(ANIMALS)}, "classes"),
        ({"class_names": ANIMALS}, "class_names"),
        ({"names": BY_INDEX}, "names"),
        ({"labels": list(ANIMALS)}, "labels"),
        ({"id2label": {str(index): name for index, name in BY_INDEX.items()}}, "id2label"),
        ({"label2id": {name: str(index) for name, index in BY_NAME.items()}}, "label2id"),
        ({"class_to_idx": BY_NAME}, "class_to_idx"),
        ({"class_to_idx": {name: np.int64(index) for name, index in BY_NAME.items()}}, "class_to_idx"),
        ({"idx_to_class": {torch.tensor(index): name for index, name in BY_INDEX.items()}}, "idx_to_class"),
        ({"meta": {"CLASSES": ANIMALS}}, "meta.CLASSES"),
        ({"meta": {"dataset_meta": {"classes": ANIMALS}}}, "meta.dataset_meta.classes"),
        ({"meta": {"categories": list(ANIMALS)}}, "meta.categories"),
        ({"processing_params": {"class_names": list(ANIMALS)}}, "processing_params.class_names"),
        ({"hyper_parameters": {"classes": list(ANIMALS), "lr": 0.1}}, "hyper_parameters.classes"),
        ({"args": argparse.Namespace(classes=list(ANIMALS), epochs=3)}, "args.classes"),
        ({"classes": list(ANIMALS), "class_to_idx": BY_NAME}, "classes"),
        # A class may be called as a setting is, or as a part of the network: here two of five are neither.
        ({"names": ["head", "bee", "cat", "dog", "eel"], "meta": {}}, "names"),
    ],
)
def test_names_that_stand_in_a_checkpoint_are_taken(beside: dict[str, Any], place: str, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save({"state_dict": state(), **beside}, path)
    found = loaded(path)
    assert found.labels[1:] == ANIMALS[1:]
    told = f"class names from the checkpoint's '{place}': {found.labels[0]}, bee, cat, …"
    assert [note for note in found.notes if "names" in note] == [told]
    (tmp_path / "mine.txt").write_text("v\nw\nx\ny\nz\n")
    mine = loaded(path, labels=str(tmp_path / "mine.txt"))
    assert mine.labels == tuple("vwxyz")
    assert not any("names" in note for note in mine.notes)


def test_names_that_stand_in_a_safetensors_file_or_a_whole_module_are_taken(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "net.safetensors", metadata={"classes": json.dumps(ANIMALS)})
    assert loaded(tmp_path / "net.safetensors").labels == ANIMALS
    whole = Net()
    whole.names = BY_INDEX  # type: ignore[assignment]
    for name, content in {"whole.pt": whole, "ultralytics.pt": {"epoch": 3, "model": None, "ema": whole}}.items():
        torch.save(content, tmp_path / name)
        assert loaded(tmp_path / name, trust_checkpoint=True).labels == ANIMALS


def test_names_that_may_be_of_anything_are_no_class_names() -> None:
    from cnnviz.models.loading.carried_names import names_in

    (found,) = names_in({"args": {"names": list(ANIMALS)}})
    assert (found.place, found.fault) == ("args.names", "may be names of anything")
    (huge,) = names_in({"id2label": {10**5000: "ant", 1: "bee"}})  # a pickle that is not trusted cannot hold it
    assert (huge.names, huge.fault) == ((), "does not count its 2 names from 0 without gaps")


NUMBER = "9" * 5000


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        ({}, "no list of class names stands in best.pth"),
        (
            {"classes": 5, "names": torch.arange(5), "labels": [0, 1, 2, 3, 4], "args": {"classes": None}},
            "no list of class names stands in best.pth",
        ),
        ({"class_to_idx": {"ant": 0, "bee": 2}}, "'class_to_idx' does not count its 2 names from 0 without gaps"),
        ({"classes": ["ant", "bee"]}, "'classes' has 2 names for 5 classes"),
        ({"classes": ["ant"] * 5}, "'classes' has 'ant' for each class"),
        ({"classes": [*ANIMALS[:4], None]}, "'classes' has None for class 4, which is no text"),
        ({"classes": [name.encode() for name in ANIMALS]}, "'classes' has b'ant' for class 0, which is no text"),
        ({"categories": [{"id": 1, "name": "ant"}]}, "'categories' has {'id': 1, 'name': 'ant'} for class 0"),
        ({"id2label": {NUMBER: "ant", "1": "bee"}}, "'id2label' maps no index to each name"),
        ({"id2label": {"-1": "ant", "0": "bee"}}, "'id2label' maps no index to each name"),
        ({"id2label": {-1: "ant", 0: "bee"}}, "'id2label' does not count its 2 names from 0 without gaps"),
        ({"id2label": {0.0: "ant", 1.0: "bee"}}, "'id2label' maps no index to each name"),
        ({"id2label": {False: "ant", True: "bee"}}, "'id2label' maps no index to each name"),
        ({"id2label": {0: "ant", "0": "bee"}}, "'id2label' gives two names one index"),
        ({"id2label": {0: "ant", 1: {"name": "bee"}}}, "'id2label' has {'name': 'bee'} for class 1, which is no text"),
        ({"id2label": {index: f"LABEL_{index}" for index in range(5)}}, "'id2label' has placeholders (LABEL_0, …)"),
        ({"class_to_idx": {"ant": 0, "bee": 0}}, "'class_to_idx' gives two names one index"),
        ({"classes": {"0": "2", "1": "0", "2": "1"}}, "'classes' maps numbers to numbers, and either may be the index"),
        ({"names": list("01234")}, "'names' (0, 1, 2, …) has numbers"),
        ({"names": [*ANIMALS[:4], "ant"]}, "'names' (ant, bee, cat, …) has texts that repeat"),
        ({"names": [*ANIMALS[:4], " "]}, "'names' (ant, bee, cat, …) has ' ', which is no name"),
        ({"labels": [f"{name}.JPG" for name in ANIMALS]}, "'labels' (ant.JPG, bee.JPG, cat.JPG, …) has names of files"),
        ({"names": [f"/data/{name}" for name in ANIMALS]}, "has names of files"),
        ({"names": ["lr", "momentum", "weight-decay", "nesterov", "rho"]}, "has names of settings"),
        (
            {"names": ["tau", "chi", *ANIMALS[:3]], "config": {"tau": 1, "chi": 2}},
            "'names' (tau, chi, ant, …) has names of settings",
        ),
        ({"names": ["features.0", "head.bias", *ANIMALS[:3]]}, "has names of the network's parts"),
        ({"opt": {"names": list(ANIMALS)}}, "'opt.names' (ant, bee, cat, …) may be names of anything"),
        (
            {"args": argparse.Namespace(labels=list(ANIMALS))},
            "'args.labels' (ant, bee, cat, …) may be names of anything",
        ),
        (
            {"classes": list(ANIMALS), "names": list(reversed(ANIMALS))},
            "best.pth has class names that differ, 'classes' (ant, bee, cat, …) and 'names' (eel, dog, cat, …)",
        ),
    ],
)
def test_names_are_not_guessed_and_it_is_said_how_to_give_them(
    beside: dict[str, Any], why: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": state(), **beside}, tmp_path / "best.pth")
    found = loaded(tmp_path / "best.pth")
    assert found.labels == tuple(f"class {index}" for index in range(5))
    (note,) = [note for note in found.notes if note.endswith(": classes are told by number; --labels FILE names them")]
    assert why in note


def test_what_is_passed_over_beside_class_names_is_told_where_it_says_something_else(tmp_path: Path) -> None:
    other = list(reversed(ANIMALS))
    torch.save({"model": state(), "classes": ANIMALS, "args": {"names": other, "labels": ["x"]}}, tmp_path / "best.pth")
    found = loaded(tmp_path / "best.pth")
    assert found.labels == ANIMALS
    assert [note for note in found.notes if "names" in note] == [
        "class names from the checkpoint's 'classes': ant, bee, cat, …",
        "passed over as class names: 'args.names' (eel, dog, cat, …) may be names of anything; "
        "--labels FILE names the classes",
    ]


def test_names_of_imagenet_are_class_names_though_two_are_there_twice() -> None:
    from torchvision.models import ResNet18_Weights

    from cnnviz.models.loading.carried_names import names_in

    told_apart = list(ResNet18_Weights.DEFAULT.meta["categories"])
    for index, name in {134: "crane", 517: "crane", 638: "maillot", 639: "maillot"}.items():  # as ImageNet has them
        assert name in told_apart[index]
        told_apart[index] = name
    assert len(set(told_apart)) == 998
    (found,) = names_in({"names": told_apart})
    assert (found.names, found.fault) == (tuple(told_apart), "")


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
