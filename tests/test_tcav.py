"""``cnnviz tcav``: a planted concept is found, one that does not matter is not, and derivatives are autograd's."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz.errors import CnnvizError
from cnnviz.settings import ModelSpec
from cnnviz.studies.tcav import pictures
from cnnviz.studies.tcav.directions import cav, compared
from cnnviz.studies.tcav.study import names_of
from tests.support.runs import ran

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
stats = pytest.importorskip("scipy.stats", reason="needs pip install 'cnnviz[embed]'")

FACTORY = """
import torch
from torch import nn

class Planted(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 16, stride=16, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        with torch.no_grad():
            self.features.weight.zero_()
            for channel in range(3):
                self.features.weight[channel, channel] = 1 / 256

    def forward(self, x):
        x = self.pool(self.features(x)).flatten(1)
        return torch.stack([torch.exp(2 * x[:, 0]), (x[:, 1] - x[:, 2]) ** 2], dim=1)

def make():
    return Planted().eval()
"""


@pytest.fixture
def model(tmp_path: Path) -> ModelSpec:
    """Class 0 grows with red, faster where there is more of it; green and blue do not matter to it."""
    (tmp_path / "planted.py").write_text(FACTORY)
    return ModelSpec(
        model=f"{tmp_path / 'planted.py'}:make", input_size=(3, 64, 64), resize=64, mean=(0, 0, 0), std=(1, 1, 1)
    )


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Noise; the same with red, or with green, added."""
    rng = np.random.default_rng(0)
    found = {}
    for name, count, added in (("in", 5, None), ("random", 40, None), ("red", 15, 0), ("green", 15, 1)):
        found[name] = tmp_path / name
        found[name].mkdir()
        for number in range(count):
            page = rng.integers(0, 120, (4, 4, 3)).repeat(16, 0).repeat(16, 1)
            if added is not None:
                page[..., added] += 130
            Image.fromarray(page.astype(np.uint8)).save(found[name] / f"{number}.png")
    return found


@pytest.mark.parametrize("pool", ["none", "mean"])
def test_the_concept_that_matters_is_significant(
    model: ModelSpec, folders: dict[str, Path], tmp_path: Path, pool: str
) -> None:
    params = {"concept": (str(folders["red"]), str(folders["green"])), "random": str(folders["random"]), "pool": pool}
    report, result, _ = ran(
        "tcav", [folders["in"]], tmp_path / "out", model=model, classes=("0",), layers=("features",), params=params
    )
    assert result.exit_code == 0
    red, green = report["concepts"]
    assert (red["significant"], red["score"]) == (True, 1.0)
    assert not green["significant"]
    assert 0.1 < green["score"] < 0.9
    for each in (red, green):
        assert each["accuracy"] == 1
        assert 0.2 < each["random"]["accuracy"] < 0.8
        sides = [(np.mean(own), np.std(own, ddof=1), 10) for own in (each["scores"], each["random"]["scores"])]
        assert each["p"] == pytest.approx(stats.ttest_ind_from_stats(*sides[0], *sides[1]).pvalue)
        assert each["p_adjusted"] == pytest.approx(min(1, 2 * each["p"]))
    raw = np.load(tmp_path / "out" / "cavs.npz")
    np.testing.assert_allclose(np.linalg.norm(raw["cavs"], axis=2), 1)
    for place, each in enumerate(report["concepts"]):
        np.testing.assert_allclose((raw["derivatives"][:, place] > 0).mean(axis=0), each["scores"])
    for number, record in enumerate(report["images"]):
        pixels = torch.from_numpy(np.array(Image.open(record["path"]))).double().permute(2, 0, 1) / 255
        maps = pixels.reshape(3, 4, 16, 4, 16).mean(dim=(2, 4)).requires_grad_()
        [gradient] = torch.autograd.grad(torch.exp(2 * maps[0].mean()), maps)
        flat = gradient.sum(dim=(1, 2)) if pool == "mean" else gradient.flatten()
        expected = raw["cavs"] @ flat.numpy()
        np.testing.assert_allclose(raw["derivatives"][number], expected, rtol=1e-4, atol=1e-6)
        means = [each["mean"] for each in record["derivatives"]]
        np.testing.assert_allclose(means, expected.mean(axis=1), rtol=1e-4, atol=1e-6)
    for name in ("tcav.png", record["figures"][0]["file"]):
        assert np.asarray(Image.open(tmp_path / "out" / name)).std() > 3


@pytest.mark.parametrize(
    ("images", "told"), [(1, "of 1 image it can only be 0 or 1,"), (2, "a multiple of 1/2,"), (10, "")]
)
def test_what_scores_of_few_images_can_be_is_told(
    model: ModelSpec, folders: dict[str, Path], tmp_path: Path, images: int, told: str
) -> None:
    pictures = sorted(folders["random"].iterdir())[:images]
    params = {"concept": (str(folders["green"]),), "random": str(folders["random"])}
    report, _, console = ran(
        "tcav", pictures, tmp_path / "out", model=model, classes=("0",), layers=("features",), params=params
    )
    [concept] = report["concepts"]
    assert (np.array(concept["scores"]) * images % 1 == 0).all()
    notes = [note for note in console.notes if "the score of a vector is a share of images" in note]
    assert len(notes) == bool(told)
    assert all(told in note for note in notes)


@pytest.mark.parametrize(
    ("others", "own", "told"),
    [
        (4, 0, "0 of 4 images are predicted as class 0: derivatives and scores are of other images"),
        (4, 1, "1 of 5 images is predicted as class 0: derivatives and scores are mostly of other images"),
        (1, 2, ""),
    ],
)
def test_images_that_are_not_of_the_class_are_told(
    model: ModelSpec, folders: dict[str, Path], tmp_path: Path, others: int, own: int, told: str
) -> None:
    """With pixels up to 2 green is of class 1, 4 against 1, and red of class 0."""
    pictures = []
    for number in range(others + own):
        colour = (0, 255, 0) if number < others else (200, 30, 30)
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{number}.png")
        pictures.append(tmp_path / f"{number}.png")
    params = {"concept": (str(folders["green"]),), "random": str(folders["random"])}
    doubled = replace(model, std=(0.5, 0.5, 0.5))
    report, _, console = ran(
        "tcav", pictures, tmp_path / "out", model=doubled, classes=("0",), layers=("features",), params=params
    )
    by_records = sum(record["predictions"][0]["class_index"] == 0 for record in report["images"])
    assert report["summary"]["tcav"]["of_class"] == by_records == own
    notes = [note for note in console.notes if "predicted as" in note]
    assert len(notes) == bool(told)
    assert all(note.startswith(told) for note in notes)


def test_the_normal_is_that_of_the_classifier_on_all_activations() -> None:
    """The penalised loss of the direction in all dimensions, minimised by Newton's method in float64."""
    rng = np.random.default_rng(1)
    ones, others = rng.normal(0.4, 1, (12, 30)), rng.normal(0, 1, (12, 30))
    found, accuracy = cav(ones, others)
    rows = np.concatenate([ones[4:], others[4:]])
    centre = rows.mean(axis=0)
    scale = np.sqrt(((rows - centre) ** 2).mean())
    design = np.column_stack([(rows - centre) / scale, np.ones(16)])
    truth, ridge, weights = np.repeat([1.0, 0.0], 8), np.diag([1.0] * 30 + [0.0]), np.zeros(31)
    for _ in range(50):
        said = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (said - truth) + ridge @ weights
        weights -= np.linalg.solve(design.T @ (design * (said * (1 - said))[:, None]) + ridge, slope)
    np.testing.assert_allclose(found, weights[:30] / np.linalg.norm(weights[:30]), atol=1e-4)
    held = np.concatenate([ones[:4], others[:4]])
    right = (((held - centre) / scale @ weights[:30] + weights[30]) > 0) == np.repeat([True, False], 4)
    assert accuracy == right.mean()


def test_scores_that_do_not_vary_and_pictures_that_do_not_differ() -> None:
    assert compared(np.ones(3), np.ones(3)).p == 1
    assert compared(np.ones(3), np.zeros(3)).p == 0
    assert compared(np.ones(3), np.zeros(3)).interval == (1, 1)
    direction, accuracy = cav(np.ones((3, 5)), np.ones((3, 5)))
    assert (direction.tolist(), accuracy) == ([0] * 5, 0.5)


def test_each_folder_is_listed_once(
    model: ModelSpec, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing tells the pictures apart, which shows after they were looked at."""
    listed, find = Counter[str](), pictures.find_images
    monkeypatch.setattr(pictures, "find_images", lambda paths: (listed.update(paths), find(paths))[1])
    (tmp_path / "same").mkdir()
    for number in range(6):
        shutil.copy(folders["random"] / "0.png", tmp_path / "same" / f"{number}.png")
    params = {"concept": (str(folders["red"]),), "random": str(tmp_path / "same")}
    with pytest.raises(CnnvizError, match="nothing at features tells"):
        ran("tcav", [folders["in"]], tmp_path / "out", model=model, classes=("0",), params=params)
    assert listed == {params["concept"][0]: 1, params["random"]: 1}


def test_names_of_folders() -> None:
    assert names_of(["a/red/", "b/green"]) == ["red", "green"]
    assert names_of(["a/red", "b/red"]) == ["a/red", "b/red"]


def test_what_is_refused(model: ModelSpec, folders: dict[str, Path], tmp_path: Path) -> None:
    red, random = str(folders["red"]), str(folders["random"])
    both = {"concept": (red,), "random": random}
    same = folders["random"].parent / "same"
    same.mkdir()
    (tmp_path / "link").symlink_to(red)
    (tmp_path / "some.txt").write_text("".join(f"{name}\n" for name in ("random/0.png", "red/3.png", "red/1.png")))
    for number in range(6):
        shutil.copy(folders["random"] / "0.png", same / f"{number}.png")
    for number, (params, classes, words) in enumerate(
        [
            (both, ("pred",), "asks about one class"),
            ({"random": random}, ("0",), "name a folder of each"),
            ({"concept": (red, red), "random": random}, ("0",), "given twice"),
            ({"concept": (red, f"{random}/../red/"), "random": random}, ("0",), "given twice"),
            ({"concept": (red,), "random": red}, ("0",), "15 of its 15 pictures are among those of --random"),
            ({"concept": (f"{random}/../red",), "random": str(tmp_path / "link")}, ("0",), "15 of its 15 pictures"),
            ({"concept": (red,), "random": str(tmp_path / "some.txt")}, ("0",), "2 of its 15 pictures"),
            ({"concept": (red,), "random": str(folders["in"])}, ("0",), "too few"),
            ({"concept": (f"{red}x",), "random": random}, ("0",), "--concept"),
            ({"concept": (red,), "random": str(same)}, ("0",), "in 10 of 10 partitions nothing at features tells"),
        ]
    ):
        with pytest.raises(CnnvizError, match=words):
            ran("tcav", [folders["in"]], tmp_path / f"o{number}", model=model, classes=classes, params=params)
