"""The command filters: weights as pixels, at their places, and figures of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.render.colormap import colormap
from cnnviz.settings import ModelSpec
from cnnviz.studies.filters.figures import filter_figures
from tests.support import digits
from tests.support.runs import TINY, ran


def run(out: Path, model: ModelSpec = TINY, layers: tuple[str, ...] = (), **params: Any) -> dict[str, Any]:
    return ran("filters", [], out, model=model, layers=layers, params=params, overwrite=True)[0]


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def cells(picture: NDArray[np.int64], kernel: NDArray[Any]) -> list[tuple[int, int]]:
    """Corners (x, y) at which a kernel [h, w, 3] of single colours stands in a picture, each colour a square."""
    side = next(s for s in range(80, 0, -1) if _matches(picture, kernel, s))
    return _matches(picture, kernel, side)


def _matches(picture: NDArray[np.int64], kernel: NDArray[Any], side: int) -> list[tuple[int, int]]:
    big = kernel.repeat(side, 0).repeat(side, 1)
    h, w = big.shape[:2]
    if h > picture.shape[0] or w > picture.shape[1]:
        return []
    rows, cols = (picture[: picture.shape[0] - h + 1, : picture.shape[1] - w + 1] == big[0, 0]).all(2).nonzero()
    return [
        (x, y)
        for y, x in zip(rows.tolist(), cols.tolist(), strict=True)
        if (picture[y : y + h, x : x + w] == big).all()
    ]


@pytest.mark.parametrize("per_filter", [False, True])
def test_filters_of_three_channels_are_colour_pictures_around_grey(per_filter: bool, tmp_path: Path) -> None:
    report = run(tmp_path, per_filter=per_filter)
    weight = load(TINY).module.get_parameter("0.weight").detach().numpy()
    [layer] = report["layers"]
    assert layer["layer"] == "0"
    assert layer["shape"] == [8, 3, 5, 5]
    picture = pixels(tmp_path / layer["file"])
    corners = []
    for one in weight:
        limit = np.abs(one if per_filter else weight).max()
        wanted = np.rint(127.5 + 127.5 * one / limit).transpose(1, 2, 0)
        [corner] = cells(picture, wanted)
        corners.append(corner)
    assert corners == sorted(corners, key=lambda corner: (corner[1], corner[0])), "in rows, by index"
    assert layer["file"] in (tmp_path / "index.html").read_text()


def test_named_filters_only(tmp_path: Path) -> None:
    report = run(tmp_path, filters="5,1-2")
    assert report["layers"][0]["shown"]["filters"] == [5, 1, 2]
    picture = pixels(tmp_path / report["layers"][0]["file"])
    weight = load(TINY).module.get_parameter("0.weight").detach().numpy()[[5, 1, 2]]
    found = [cells(picture, np.rint(127.5 + 127.5 * one / np.abs(weight).max()).transpose(1, 2, 0)) for one in weight]
    assert [len(corners) for corners in found] == [1, 1, 1]
    # Five is first; two rows at most.
    assert found[0][0][0] < found[1][0][0]


def test_deeper_layers_are_tables_of_filters_and_channels(tmp_path: Path) -> None:
    report = run(tmp_path, layers=("3",), filters="0-3", channels="1,6")
    picture = pixels(tmp_path / report["layers"][0]["file"])
    weight = load(TINY).module.get_parameter("3.weight").detach().numpy()[:4][:, [1, 6]]
    limit, colours = np.abs(weight).max(), colormap("coolwarm").astype(np.int64)
    corners = [
        [cells(picture, colours[np.rint(128 + 127 * kernel / limit).astype(int)])[0] for kernel in row]
        for row in weight
    ]
    assert all(row[0][1] == row[1][1] and row[0][0] < row[1][0] for row in corners), "a row a filter"
    assert all(above[0][1] < below[0][1] for above, below in pairwise(corners))


def test_a_grey_network(tmp_path: Path) -> None:
    report = run(tmp_path / "out", digits.trained(tmp_path), ("0", "3"))
    first, second = report["layers"]
    assert first["shape"] == [16, 1, 3, 3]
    assert second["shown"] == {"filters": list(range(16)), "channels": list(range(16))}
    weight = torch.load(tmp_path / "digits.pt")["0.weight"].numpy()
    grey = np.rint(127.5 + 127.5 * weight[3, 0] / np.abs(weight).max())
    assert len(cells(pixels(tmp_path / "out" / first["file"]), np.repeat(grey[..., None], 3, 2))) == 1
    assert report["summary"]["filters"] == {"0": {"filters": 16, "dead": 0}, "3": {"filters": 32, "dead": 0}}


class Mixed(nn.Module):
    """Registered in another order than it runs; one filter of zeros, one that the normalisation switches off."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early, self.norm = nn.Conv2d(6, 4, 1), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.fc = nn.Linear(4, 2)
        with torch.no_grad():
            self.early.weight[2] = 0
            self.norm.weight[4] = 0
            self.norm.weight[1] = -2.0
            self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.late(torch.relu(self.norm(self.early(x)))).mean((2, 3)))
        return found


def make_mixed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Mixed().eval()


MIXED = ModelSpec(model=f"{__file__}:make_mixed", input_size=(3, 32, 32))


def test_the_first_is_the_one_that_runs_first_and_dead_filters_are_named(tmp_path: Path) -> None:
    [layer] = run(tmp_path, MIXED)["layers"]
    assert layer["layer"] == "early"
    assert layer["dead"] == [2, 4]
    assert [row["dead"] for row in layer["filters"]] == [False, False, True, False, True, False]
    weight = make_mixed().get_parameter("early.weight").detach().double().numpy()
    for row, one in zip(layer["filters"], weight, strict=True):
        assert row["l2"] == pytest.approx(np.linalg.norm(one))
        assert row["l1"] == pytest.approx(np.abs(one).sum())
        assert row["mean"] == pytest.approx(one.mean())
        assert row["max_abs"] == pytest.approx(np.abs(one).max())
    assert [row["gain"] for row in layer["filters"]] == pytest.approx([0.5, 1, 0.5, 0.5, 0, 0.5], rel=1e-5)
    assert "2 of 6 filters dead (2, 4)" in (tmp_path / "index.html").read_text()


def test_without_a_normalisation_the_weights_alone_count() -> None:
    weight = np.ones((3, 2, 1, 1), np.float32)
    weight[1] = 1e-4
    assert filter_figures(weight).dead == [1]
    assert filter_figures(np.zeros((3, 2, 1, 1), np.float32)).dead == [0, 1, 2]


@pytest.mark.parametrize(
    ("layers", "params", "said"),
    [
        (("1",), {}, "--layer 1: that is no 2-D convolution"),
        (("nosuch",), {}, "The network has no layer 'nosuch'."),
        ((), {"filters": "8"}, "--filters 8: 8 does not exist: there are 8 filters of 0"),
        ((), {"filters": "one"}, "--filters one: 'one' is not a number"),
        ((), {"channels": "0"}, "--channels 0: the filters of 0 are drawn whole"),
    ],
)
def test_requests_that_cannot_be_met(
    layers: tuple[str, ...], params: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CnnvizError, match=said):
        run(tmp_path, layers=layers, **params)
