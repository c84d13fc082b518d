"""Neuron conductance against float64 autograd over explicit points, and against what all units together are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from tests.oracles import gradients as oracle
from tests.support import networks as nets
from tests.support.comparisons import closeness
from tests.support.toy_maps import CLASSES, explained

close = closeness(2e-4, 1e-6)
NAMES = ["plain", "residual", "deep head", "silu"]
# All paths from the image to the score pass these layers.
WHOLE = ["plain", "deep head", "silu"]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_by_its_formula(name: str, alone: bool) -> None:
    toy, images, steps = nets.TOYS[name], nets.images(), 5
    # A neuron that is active in all images.
    activations = toy.split(toy.build().double(), images.double())[0].detach().numpy()
    unit, row, column = (int(i) for i in np.unravel_index(activations.min(0).argmax(), activations.shape[1:]))
    place = (row, column) if alone else None
    where = {"row": row, "column": column} if alone else {}
    found = explained(name, "neuron_conductance", unit=unit, steps=steps, baseline="mean", **where)
    start = images.mean((2, 3), keepdim=True).expand_as(images)
    for image, class_index in enumerate(CLASSES):
        expected = oracle.neuron_conductance(
            (toy.build(), toy.split), (images[image], start[image]), class_index, (unit, place), steps
        )
        close(found.raw[image], expected)
        close(found.maps[image], expected.sum(0))
        assert found.scores["conductance"][image] == pytest.approx(float(expected.sum()), rel=1e-3, abs=1e-5)
    assert found.scores["unit"] == [unit] * 3


@pytest.mark.parametrize("name", WHOLE)
def test_all_units_together_are_integrated_gradients(name: str) -> None:
    steps = 8
    channels = nets.TOYS[name].split(nets.TOYS[name].build(), nets.images())[0].shape[1]
    together = sum(
        explained(name, "neuron_conductance", unit=unit, steps=steps).raw.double() for unit in range(channels)
    )
    whole = cnnviz.explain(
        nets.TOYS[name].build(), nets.images(), method="integrated_gradients", target=CLASSES, steps=steps
    )
    close(together, whole.raw.double().numpy())


@pytest.mark.parametrize("name", WHOLE)
def test_the_conductances_of_all_units_sum_to_the_difference_in_score(name: str) -> None:
    toy = nets.TOYS[name]
    channels = toy.split(toy.build(), nets.images())[0].shape[1]
    found = [explained(name, "neuron_conductance", unit=unit, steps=200) for unit in range(channels)]
    with torch.no_grad():
        network, images = toy.build().double(), nets.images().double()
        difference = (network(images) - network(torch.zeros_like(images)))[torch.arange(3), CLASSES].numpy()
    sums = np.sum([each.scores["conductance"] for each in found], axis=0)
    size = np.sum(np.abs([each.scores["conductance"] for each in found]))
    np.testing.assert_allclose(sums, difference, atol=0.01 * size)
    np.testing.assert_allclose(found[0].scores["score_difference"], difference, rtol=1e-4, atol=1e-5)


def test_the_unit_that_counts_most_is_taken_where_none_is_named() -> None:
    toy, images = nets.TOYS["plain"], nets.images()
    found = explained("plain", "neuron_conductance", steps=3)
    activations, head = toy.split(toy.build().double(), images.double())
    activations = activations.detach().requires_grad_()
    scores = head(activations)[torch.arange(3), CLASSES]
    shares = (torch.autograd.grad(scores.sum(), activations)[0] * activations).sum((2, 3))
    assert found.scores["unit"] == shares.argmax(1).tolist()
    for image, unit in enumerate(found.scores["unit"]):
        close(found.raw[image], explained("plain", "neuron_conductance", steps=3, unit=unit).raw[image].numpy())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"unit": 99}, "Unit 99 does not exist"), ({"row": 1}, "a column"), ({"row": 99, "column": 0}, "has . rows")],
)
def test_what_does_not_exist_is_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(CnnvizError, match=words):
        explained("plain", "neuron_conductance", **options)


def test_tiles_show_one_unit() -> None:
    """Each tile has its own strongest unit, and its own cell of a row and a column."""
    spec = lookup.find_method("neuron_conductance")
    spec.check_view("tiles", spec.resolve_params({"unit": 3}))
    spec.check_view("whole", spec.resolve_params({}))
    for options in ({}, {"unit": 3, "row": 0, "column": 0}):
        with pytest.raises(CnnvizError, match=r"--view tiles: .* another in each picture"):
            spec.check_view("tiles", spec.resolve_params(options))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    network = nets.torchvision_network("resnet18").requires_grad_(True)
    for module in list(network.modules()):
        if hasattr(module, "relu"):
            module.relu = nn.SiLU()  # a rectifier near zero is on or off as the processor rounds
    images, neuron = nets.images(2, (64, 64)), (5, 1, 0)
    theirs = captum.NeuronConductance(network, network.layer4).attribute(
        images, neuron, baselines=0, target=[3, 7], n_steps=6, method="gausslegendre"
    )
    ours = cnnviz.explain(
        network, images, method="neuron_conductance", target=[3, 7], layer="layer4", unit=5, row=1, column=0, steps=6
    )
    closeness(1e-4)(ours.raw, theirs.detach())
