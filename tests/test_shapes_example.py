"""``examples/shapes``: a transformer that names the shape of the red object, and what maps of it say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnviz
from cnnviz.errors import CnnvizError

HERE = Path(__file__).parent.parent / "examples" / "shapes"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(HERE))
    return runpy.run_path(str(HERE / "network.py"))


def test_the_red_object_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    found = runpy.run_path(str(HERE / "run.py"))["figures"](60)
    assert found["network"]["accuracy"] > 0.98
    chefer = found["chefer"]
    assert chefer["peak"] >= 0.8
    assert chefer["own"] >= 3 * chefer["other"]
    assert found["chance"]["peak"] < 0.25
    assert found["lrp"]["own"] >= 3 * found["lrp"]["other"]
    # The recipe that everybody copies: at the last block's first normalisation, a mean gradient for each channel.
    assert found["gradcam"]["own"] < found["hirescam"]["own"]


def test_rollout_is_marked_and_the_dead_layer_refused(network: dict[str, Any], tmp_path: Path) -> None:
    module = network["network"]()
    pixels = 2 * network["draw"](2, torch.Generator().manual_seed(0))[0] - 1
    assert {m["name"]: m["class_specific"] for m in cnnviz.list_methods()}["rollout"] is False
    blind = [cnnviz.explain(module, pixels, method="rollout", target=target).raw for target in (0, 1)]
    assert torch.equal(*blind)
    with pytest.raises(CnnvizError, match=r"64 patch tokens of layer 'blocks.3': what follows reads its class token"):
        cnnviz.explain(module, pixels, target=0, layer="blocks.3")


def test_the_weights_are_small(network: dict[str, Any]) -> None:
    assert network["WEIGHTS"].stat().st_size <= 300_000
    assert sum(p.numel() for p in network["network"]().parameters()) < 130_000
    weights = torch.load(network["WEIGHTS"], weights_only=True)
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_pictures_have_two_objects_of_a_tenth_each(network: dict[str, Any]) -> None:
    pictures, classes, masks = network["draw"](200, torch.Generator().manual_seed(3))
    assert not bool((masks[:, 0] & masks[:, 1]).any())
    share = masks.float().mean((2, 3))
    assert bool(((share > 0.07) & (share < 0.11)).all())
    red = (pictures[:, 0] - pictures[:, 1:].amax(1)) > 0.4
    assert float((red == masks[:, 0]).float().mean()) > 0.99
    assert set(classes.tolist()) == {0, 1, 2, 3}
