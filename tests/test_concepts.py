"""``cnnviz concepts``: planted concepts are found, and the one that the class depends on is the important one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.errors import CnnvizError
from cnnviz.io.budget import Budget
from cnnviz.run import loop, reading
from cnnviz.settings import ModelSpec
from cnnviz.studies.concepts.importance import total_indices
from cnnviz.studies.concepts.study import crop_starts
from tests.support.runs import ran

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
pytest.importorskip("scipy", reason="needs pip install 'cnnviz[embed]'")

FACTORY = """
import torch
from torch import nn

def make():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.zero_()
        for channel, colour in enumerate((0, 0, 1, 1)):
            network[0].weight[channel, colour] = (1.0 + channel) / 64
        network[4].weight.copy_(torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        network[4].bias.copy_(torch.tensor([0.0, 0.01]))
    return network.eval()
"""


@pytest.fixture
def model(tmp_path: Path) -> ModelSpec:
    """Class 0 is how much red there is; green has channels of its own, which no class reads."""
    (tmp_path / "planted.py").write_text(FACTORY)
    return ModelSpec(
        model=f"{tmp_path / 'planted.py'}:make", input_size=(3, 64, 64), resize=64, mean=(0, 0, 0), std=(1, 1, 1)
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red and green squares on black at different places; the last has green alone, and is not of the class."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        page = np.zeros((64, 64, 3), dtype=np.uint8)
        for colour in (0, 1):
            y, x = rng.integers(0, 40), 32 * colour + rng.integers(0, 8)
            if colour == 1 or number < 5:
                page[y : y + 24, x : x + 24, colour] = rng.integers(150, 255)
        Image.fromarray(page).save(folder / f"{number}.png")
    return folder


def test_the_concept_that_the_class_depends_on_is_the_important_one(
    model: ModelSpec, photos: Path, tmp_path: Path
) -> None:
    params = {"of": "0", "components": 2, "iterations": 2000}
    report, result, _ = ran("concepts", [photos], tmp_path / "out", model=model, params=params)
    assert result.exit_code == 0
    assert report["summary"]["concepts"]["images"] == 5
    assert report["summary"]["concepts"]["error"] < 0.05
    found = np.load(tmp_path / "out" / "concepts.npz")["concepts"]
    red, green = np.array([1, 2, 0, 0]) / 5**0.5, np.array([0, 0, 3, 4]) / 5
    likeness = np.array([red, green]) @ found.T
    assert likeness.max(axis=1).min() > 0.95
    important, idle = likeness.argmax(axis=1)
    assert important != idle
    assert report["concepts"][important]["importance"] == pytest.approx(1, abs=0.03)
    # A score of one concept is m_k times a number: by one design all images would have the very same error.
    assert len({round(each["indices"][important], 6) for each in report["maps"]}) == 5
    assert report["concepts"][idle]["importance"] < 0.02
    for crop in report["concepts"][important]["crops"]:
        x, y, w, h = (round(value) for value in crop["crop_xywh"])
        part = np.asarray(Image.open(crop["path"]))[y : y + h, x : x + w]
        assert part[..., 0].mean() > part[..., 1].mean()
    for each in report["maps"]:
        weights = np.load(tmp_path / "out" / each["raw"])["weights"][important]
        reds = np.asarray(Image.open(each["path"]))[..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)).astype(float)
        assert np.corrcoef(weights.ravel(), reds.ravel())[0, 1] > 0.99
    for name in ("concepts.png", "importance.png"):
        assert np.asarray(Image.open(tmp_path / "out" / name)).std() > 3


def test_every_image_or_those_of_the_class(model: ModelSpec, photos: Path, tmp_path: Path) -> None:
    params = {"of": "0", "components": 2, "iterations": 2}
    report, _, told = ran("concepts", [photos], tmp_path / "a", model=model, params={**params, "images": "all"})
    assert report["summary"]["concepts"]["images"] == 6
    assert any("are parts of 6 images alone" in note for note in told.notes)
    assert any("did not settle in 2 iterations" in note for note in told.notes)
    report, result, _ = ran("concepts", [photos / "5.png"], tmp_path / "b", model=model, params=params)
    assert report["summary"]["concepts"] is None
    assert result.exit_code == 3, "there was nothing to measure"
    assert result.sentences[0].startswith("nothing was measured: no image is predicted as class 0")
    assert "--images all" in result.sentences[0]


def test_images_of_other_classes_give_their_memory_back(
    model: ModelSpec, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second pass waits for ever for room that nobody holds."""
    budgets: list[Budget] = []

    def small(_size: int) -> Budget:
        budgets.append(Budget(1 << 30))
        return budgets[-1]

    for room in (loop, reading):
        monkeypatch.setattr(room, "Budget", small)
    report, _, _ = ran("concepts", [photos], tmp_path / "out", model=model, params={"of": "0", "components": 2})
    assert report["summary"]["concepts"]["images"] == 5
    assert [budget.used for budget in budgets] == [0] * 4


def test_indices_are_those_of_known_functions() -> None:
    """Of a sum a_k^2 / sum a^2; of the product m_0 m_1 both 4/7, by its variances in closed form."""
    scale = torch.tensor([3.0, 1.0, 0.0])
    indices, variance = total_indices(lambda masks: masks @ scale, 3, 4096, 0)
    np.testing.assert_allclose(indices.numpy(), [0.9, 0.1, 0.0], atol=0.01)
    assert variance == pytest.approx(10 / 12, rel=0.01)
    indices, variance = total_indices(lambda masks: masks[:, 0] * masks[:, 1], 2, 4096, 0)
    np.testing.assert_allclose(indices.numpy(), [4 / 7, 4 / 7], atol=0.01)
    assert variance == pytest.approx(1 / 9 - 1 / 16, rel=0.01)
    indices, variance = total_indices(lambda masks: torch.ones(len(masks)), 2, 8, 0)
    assert indices.tolist() == [0, 0]
    assert variance == 0


def test_crops_reach_from_edge_to_edge() -> None:
    assert crop_starts(224, 224) == [0]
    for side, crop in ((224, 78), (64, 22), (100, 99)):
        starts = crop_starts(side, crop)
        assert (starts[0], starts[-1]) == (0, side - crop)
        assert max(np.diff(starts)) <= 0.8 * crop + 1


def test_what_is_refused(model: ModelSpec, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CnnvizError, match="explains one class"):
        ran("concepts", [photos], tmp_path / "a", model=model)
    with pytest.raises(CnnvizError, match="one layer, not 2"):
        ran("concepts", [photos], tmp_path / "b", model=model, params={"of": "0"}, layers=("0", "1"))
    with pytest.raises(CnnvizError, match="not from standard input"):
        ran("concepts", ["-"], tmp_path / "c", model=model, params={"of": "0"})
