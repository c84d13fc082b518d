"""The head run again from changed activations: what the whole network gives with the layer's output exchanged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import open_session as opening
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session, prepare
from cnnviz.errors import CnnvizError
from tests.support import networks as nets

WAYS = ("shared", "packed", "folded", "plain", "hooks")


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def _possible(toy: nets.Toy, way: str) -> bool:
    return toy.hooks if way == "hooks" else toy.traces


@pytest.mark.parametrize(("name", "way"), [(n, w) for n, toy in nets.TOYS.items() for w in WAYS if _possible(toy, w)])
def test_equals_the_whole_network_with_the_activation_exchanged(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven changed activations of three images, in mixed order; the formula runs one image at a time in float64."""
    toy = nets.TOYS[name]
    network, batch = toy.build(), nets.images()
    if way not in {"shared", "hooks"}:
        monkeypatch.setattr(opening, "usable_preparations", lambda runtime: (way,))
    layers = (toy.layer,) if toy.layer else ()
    images = torch.tensor([2, 0, 1, 1, 2, 0, 0])
    exact = copy.deepcopy(network).double().eval()
    tracing = "off" if way == "hooks" else "auto"
    options = SessionOptions(Cut.at_layers(*layers), private=way not in {"shared", "hooks"}, tracing=tracing)
    with open_session(network, "toy", (3, 12, 16), rt.resolve("cpu"), options) as opened:
        assert opened.preparation == way
        run = opened.forward(batch)
        changed = run.activations[0].detach()[images].clone()
        for place in range(len(changed)):
            changed[place, place % changed.shape[1]] = 0.3 * place
        kept = changed.clone()
        found = run.rerun(changed, images)
        assert torch.equal(changed, kept)  # a head that works in place does so on its own copy
        for i, image in enumerate(images.tolist()):
            with torch.no_grad():
                _, head = toy.split(exact, batch[image : image + 1].double())
                expected = head(changed[i : i + 1].double())
            _close(found[i : i + 1], expected)
        _close(run.rerun(run.activations[0].detach()), run.logits.detach().double())
        assert not found.requires_grad
    assert not any(m._forward_hooks for m in network.modules())


class _Counts(nets.Body):
    """A number of images, a shape and a table without images bypass the layer, beside a map that has images."""

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.stem(x))
        count, shape = x.size(0), low.shape
        table = torch.softmax(self.fc.weight[:3, :3], 1)
        a = self.conv(low)
        mixed = (a + low).view(count, shape[1], -1)
        mean = mixed.mean(2).view(shape[:2])
        return self.fc(mean) + (low.reshape(count * 2, -1).sum(1).view(count, 2) @ table[:2, :2]).sum(1, keepdim=True)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_numbers_of_images_are_counted_anew_and_tables_stay(count: int) -> None:
    network = nets.seeded(_Counts)()
    batch = nets.images(count)
    with open_session(network, "net", (3, 12, 16), rt.resolve("cpu"), SessionOptions(Cut.at_layers("conv"))) as opened:
        assert opened.graph is not None
        run = opened.forward(batch)
        images = torch.arange(5) % count
        changed = run.activations[0].detach()[images] * torch.linspace(0.5, 2, 5)[:, None, None, None]
        found = run.rerun(changed, images)

        def substitute(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return changed

        with torch.no_grad():
            handle = network.conv.register_forward_hook(substitute)
            expected = network(batch[images])
            handle.remove()
    _close(found, expected.double())


@pytest.mark.parametrize("asked", [("stem", "conv2"), ("conv2", "stem")])
def test_of_several_layers_only_the_lowest(asked: tuple[str, str]) -> None:
    network = nets.TOYS["residual"].build()
    opened = prepare(network, "net", (3, 12, 16), rt.resolve("cpu"), SessionOptions(Cut.at_layers(*asked)))
    run = opened.forward(nets.images())
    if asked[0] == "stem":
        _close(run.rerun(run.activations[0].detach()), run.logits.detach().double())
    else:
        with pytest.raises(CnnvizError, match="lowest"):
            run.rerun(run.activations[0].detach())
