"""Maps of an image that are equal are placed once; what is measured and drawn of each is what it is alone."""

from __future__ import annotations

import numpy as np
import pytest

from cnnviz.io.sources import ImageRef
from cnnviz.maps import placing
from cnnviz.maps.placing import Placing, on_photograph
from cnnviz.maps.write_image import ImageResult, TargetMap
from cnnviz.metrics.map_statistics import map_scores
from cnnviz.models.preprocess import Geometry
from cnnviz.records import ClassScore
from cnnviz.registry import lookup
from cnnviz.render.overlay import Style

SIZE = (40, 30)


def explained(*maps: np.ndarray, methods: str = "gradcam") -> ImageResult:
    score = ClassScore(1, "dog", 0.5, 1.0)
    made = [
        TargetMap(score, "dog", lookup.find_method(name), None, np.asarray(values, np.float32), np.float32(values))
        for values, name in zip(maps, methods.split(",") * len(maps), strict=False)
    ]
    rgb = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    return ImageResult(ImageRef("a.png", "a.png", 0), rgb, Geometry(SIZE, (2.0, 1.0, 38.0, 29.0)), None, (), made)


def test_each_map_is_placed_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (np.random.default_rng(seed).random((3, 4)) for seed in (0, 1))
    done = explained(one, two, one, two, one, np.zeros((3, 4)), one.T.copy(), np.zeros((3, 4)))
    counted = []
    monkeypatch.setattr(placing, "on_photograph", lambda *given: counted.append(given[1]) or on_photograph(*given))
    places = Placing(done)
    for number, item in enumerate(done.maps):
        placed, shown = places.at(number, Style())
        alone, drawn = on_photograph(done, item, Style())
        assert np.array_equal(placed.values, alone.values)
        assert np.array_equal(shown.values, drawn.values)
        assert placed.raw is item.raw
        assert map_scores(item.raw, placed) == map_scores(item.raw, alone)
    assert len(counted) == 4


def test_maps_with_a_sign_are_others() -> None:
    values = np.random.default_rng(0).random((3, 4))
    places = Placing(explained(values, values, methods="gradcam,cam"))
    assert [places.at(number, Style())[0].signed for number in range(2)] == [False, True]
