"""The README's picture of all methods: it is up to date, and what it is made of is what the methods say."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnviz
from cnnviz.registry import lookup

ROOT = Path(__file__).parent.parent
# The picture's layout is tested, not the methods: a few repetitions are enough.
QUICK: dict[str, dict[str, Any]] = {
    "smoothgrad": {"samples": 2},
    "integrated_gradients": {"steps": 3},
    "smoothgradcam++": {"samples": 1},
    "occlusion": {"window": 96, "stride": 64},
    "scorecam": {"channels": 4},
    "sscam": {"channels": 2, "samples": 1},
    "iscam": {"channels": 2, "steps": 1},
    "ablationcam": {"channels": 16},
    "conductance": {"steps": 2},
    "opticam": {"iterations": 2},
    "neuron_conductance": {"steps": 2},
    "gradient_shap": {"samples": 2},
    "sobol": {"designs": 2, "cells": 3},
    "hsic": {"masks": 16, "cells": 3},
    "rise": {"masks": 16},
    "extremal": {"steps": 0, "cells": 4},
    "shapley": {"samples": 8},
    "kernelshap": {"samples": 8},
    "lime": {"samples": 8},
}
# Where the head is average pooling and one linear layer, as here, these are one map, because gradients are constant.
LINEAR_HEAD = ({"Grad-CAM", "HiResCAM", "XGrad-CAM", "ShapleyCAM"}, {"Grad-CAM++", "Smooth Grad-CAM++"})


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "montage.py"))


@pytest.fixture(scope="module")
def families(script: dict[str, Any]) -> dict[str, list[tuple[str, list[np.ndarray]]]]:
    found: dict[str, list[tuple[str, list[np.ndarray]]]] = script["tiles"](cnnviz.load_model(), QUICK)
    return found


def test_the_committed_picture_shows_every_method(script: dict[str, Any]) -> None:
    with Image.open(script["PICTURE"]) as picture:
        assert picture.info["comment"].decode() == script["names"](), "run: python docs/montage.py"
    assert f"docs/images/{script['PICTURE'].name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_method_has_its_place_and_no_two_are_alike(
    script: dict[str, Any], families: dict[str, list[tuple[str, list[np.ndarray]]]]
) -> None:
    titles = [title for methods in families.values() for title, _ in methods]
    assert len(titles) == len(set(titles)) == 1 + len(script["METHODS"]) + len(script["FURTHER"])
    assert {spec.title for spec in script["METHODS"]} <= set(titles)
    left_out = {spec.name for spec in lookup.BUILT_IN if spec not in script["METHODS"]}
    assert left_out == {"chefer", "gradient_rollout", "legrad", "rollout", "drise"}
    assert {spec.family for spec in lookup.BUILT_IN} - {"attention"} < set(families)
    by_title = {title: pictures for methods in families.values() for title, pictures in methods}
    for title, pictures in by_title.items():
        assert len(pictures) == 2
        assert all(picture.std() > 3 for picture in pictures), title  # none is blank
    for a, b in itertools.combinations(by_title, 2):
        same = np.array_equal(by_title[a][0], by_title[b][0])
        assert not same or any({a, b} <= group for group in LINEAR_HEAD), (a, b)


def test_a_tile_is_the_map_over_what_the_network_saw(script: dict[str, Any], families: dict[str, Any]) -> None:
    """Grad-CAM's hottest pixel is where the layer's hottest cell is, and cold pixels keep the photograph."""
    model = cnnviz.load_model()
    pictures, batch = script["views"](model)
    spec = model.loaded.preprocess
    by_hand = (pictures[0] / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(batch[0].numpy(), by_hand.transpose(2, 0, 1), atol=1e-5)
    found = cnnviz.explain(model, batch)
    [tile, _] = dict(families["class activation maps"])["Grad-CAM"]
    row, col = divmod(int(found.raw[0].argmax()), found.raw.shape[2])
    cell = 224 // found.raw.shape[1]
    red = (tile[..., 0].astype(int) - tile[..., 2]) - 0.4 * (pictures[0][..., 0].astype(int) - pictures[0][..., 2])
    hot = np.array(np.unravel_index(red.argmax(), red.shape))
    assert np.abs(hot - np.array([row + 0.5, col + 0.5]) * cell).max() <= 1.5 * cell


def test_the_montage_has_the_tiles_at_their_places(script: dict[str, Any], families: dict[str, Any]) -> None:
    picture = np.asarray(script["montage"](families))
    side, gap, heading = script["CELL"], script["GAP"], script["HEADING"]
    photograph = families["photographs"][0][1][0]
    expected = np.asarray(Image.fromarray(photograph).resize((side, side), Image.Resampling.LANCZOS))
    top = gap + heading
    assert np.array_equal(picture[top : top + side, gap : gap + side], expected)
    assert (picture[:, -gap:] == 255).all()
    rows = sum(-(-len(methods) // script["PAIRS"]) for methods in families.values())
    assert picture.shape[0] == gap + len(families) * heading + rows * (side + script["CAPTION"] + gap)
