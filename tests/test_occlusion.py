"""Occlusion: the grid, the windows, the fills, the map, against brute force in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnviz
from cnnviz import pipeline
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import baseline, baseline_figures
from cnnviz.methods.perturbation.incremental.windows import Windows, _idle
from cnnviz.methods.perturbation.occlusion import covering_mean, place_windows
from cnnviz.models.preprocess import Preprocess, normalize
from cnnviz.registry import lookup
from cnnviz.run.reporters import Silent
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, TargetSettings
from tests.oracles import occlusion as oracle
from tests.support import tiny_model
from tests.support.runs import tiny_options
from tests.support.written import listen

NETWORK = tiny_model.make()
TINY = f"{tiny_model.__file__}:make"


def images(count: int = 2, size: tuple[int, int] = (40, 56), seed: int = 0) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """f(x) = sum of w x, two classes."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * size[0] * size[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(torch.flatten(x, 1))
        return out


@pytest.mark.parametrize("incremental", ["auto", "off"])
def test_windows_that_change_nothing_take_nothing(incremental: str) -> None:
    batch = images()
    batch[:, :, :25, 10:] = 0
    batch[1, 2, 20, 40] = 1e-30
    raw = cnnviz.explain(
        NETWORK, batch, method="occlusion", target=[1, 3], window=(12, 16), stride=(9, 7), incremental=incremental
    ).raw
    rows, cols = (0, 9, 18, 27, 28), (0, 7, 14, 21, 28, 35, 40)
    zero = torch.tensor([[row + 12 <= 25 and col >= 10 for col in cols] for row in rows])
    assert torch.equal(raw[0] == 0, zero)
    zero[1] &= ~torch.tensor([col <= 40 < col + 16 for col in cols])
    assert torch.equal(_idle(batch[1:], Windows(rows, cols, (12, 16)), torch.zeros(1, 3, 40, 56)), zero.flatten())


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_equals_brute_force(score: str) -> None:
    batch = images()
    found = cnnviz.explain(
        NETWORK, batch, method="occlusion", target=[1, 3], window=(12, 16), stride=(9, 7), score=score
    )
    for i, target in enumerate([1, 3]):
        drops, map_, coverage = oracle.occlusion(
            NETWORK, batch[i], torch.zeros(3, 40, 56), target, (12, 16), (9, 7), score == "probability"
        )
        np.testing.assert_allclose(found.raw[i], drops, atol=1e-4 * np.abs(drops).max())
        np.testing.assert_allclose(found.maps[i], map_, atol=1e-4 * np.abs(map_).max())
        np.testing.assert_array_equal(found.arrays["coverage"][i], coverage)


def test_a_linear_model_loses_what_the_window_held() -> None:
    torch.manual_seed(1)
    network, batch = Linear((20, 30)), images(1, (20, 30))
    found = cnnviz.explain(network, batch, method="occlusion", target=1, window=8, stride=5, baseline="mean")
    weight = network.linear.weight[1].detach().reshape(3, 20, 30)
    worth = (weight * (batch[0] - batch[0].mean((1, 2), keepdim=True))).sum(0)
    tops, lefts = [0, 5, 10, 12], [0, 5, 10, 15, 20, 22]
    expected = [[float(worth[t : t + 8, x : x + 8].sum()) for x in lefts] for t in tops]
    np.testing.assert_allclose(found.raw[0], expected, atol=1e-5)


def test_a_window_over_everything_leaves_the_score_of_the_baseline() -> None:
    batch = images(2)
    for kind in ("zero", "mean", "blur", "noise"):
        found = cnnviz.explain(NETWORK, batch, method="occlusion", target=2, window=(40, 56), stride=8, baseline=kind)
        assert found.raw.shape == (2, 1, 1)
        fill = baseline(batch, kind, (40, 56), 0, None)
        with torch.no_grad():
            expected = NETWORK(batch)[:, 2] - NETWORK(fill)[:, 2]
        np.testing.assert_allclose(found.raw[:, 0, 0], expected, atol=1e-5)


def test_positive_where_the_object_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(network[0].weight)
    batch = torch.zeros(1, 3, 32, 48)
    batch[:, :, 16:24, 32:40] = 1.0  # the only thing there is; asked for class 1, the logit itself
    found = cnnviz.explain(network, batch, method="occlusion", target=1, window=8, stride=8)
    assert found.raw[0].argmax() == 2 * 6 + 4
    assert found.raw[0, 2, 4] == pytest.approx(3 * 64 / (32 * 48))
    assert float(found.raw[0].sum()) == pytest.approx(3 * 64 / (32 * 48))
    y, x = divmod(int(found.maps[0].argmax()), 48)
    assert 16 <= y < 24
    assert 32 <= x < 40


@pytest.mark.parametrize(("length", "window", "stride"), [(7, 3, 3), (7, 3, 2), (224, 32, 8), (9, 9, 4), (10, 3, 20)])
def test_the_last_window_ends_at_the_border_and_none_is_cut(length: int, window: int, stride: int) -> None:
    grid = place_windows((length, length), (window, window), (stride, stride))
    assert list(grid.rows) == oracle.starts(length, window, stride)
    assert grid.rows[0] == 0
    assert grid.rows[-1] + window == length
    assert len(set(grid.rows)) == len(grid.rows)


def test_a_constant_image_has_a_constant_map() -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(network[0].weight)
    found = cnnviz.explain(network, torch.ones(1, 3, 7, 11), method="occlusion", target=1, window=3, stride=3)
    np.testing.assert_allclose(found.raw, 27 / 77, rtol=1e-5)
    np.testing.assert_allclose(found.maps, 27 / 77, rtol=1e-5)


def test_gaps_take_the_nearest_window_and_say_so() -> None:
    drops = torch.tensor([[[1.0, 2.0, 4.0]]])
    maps, coverage = covering_mean(drops, Windows((0,), (0, 5, 10), (2, 2)), (2, 12))
    assert maps[0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4]
    assert coverage[0].tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]


def test_a_batch_gives_what_its_images_give_alone() -> None:
    batch = images(3)
    options = {"method": "occlusion", "target": 1, "window": 16, "stride": 12, "baseline": "noise", "seed": 7}
    together = cnnviz.explain(NETWORK, batch, **options).raw
    alone = torch.cat([cnnviz.explain(NETWORK, batch[i : i + 1], **options).raw for i in range(3)])
    assert torch.equal(together, alone)
    other = cnnviz.explain(NETWORK, batch, **{**options, "seed": 8}).raw
    assert not torch.allclose(together, other)


PIXELS = Preprocess((3, 8, 8), None, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), "bilinear", view="squash")


@pytest.mark.parametrize(
    ("kind", "colour"),
    [("black", (0, 0, 0)), ("gray", (127.5, 127.5, 127.5)), ("#ff8000", (255, 128, 0)), ("10,20,30", (10, 20, 30)),
     ("Red", (255, 0, 0))],
)  # fmt: skip
def test_colours_are_filled_in_before_normalisation(kind: str, colour: tuple[float, ...]) -> None:
    fill = baseline(images(2, (8, 8)), kind, (4, 4), 0, PIXELS)
    expected = (np.array(colour) / 255 - PIXELS.mean) / PIXELS.std
    np.testing.assert_allclose(fill[1, :, 3, 5], expected, atol=1e-6)
    assert (fill == fill[:1, :, :1, :1]).all()


def test_fills_commute_with_normalisation() -> None:
    raw = torch.rand(1, 3, 24, 30, generator=torch.Generator().manual_seed(5))
    mean = torch.tensor(PIXELS.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(PIXELS.std).reshape(1, 3, 1, 1)
    for kind in ("mean", "blur"):
        in_pixels = (baseline(raw, kind, (6, 6), 0, None) - mean) / std
        np.testing.assert_allclose(baseline((raw - mean) / std, kind, (6, 6), 0, None), in_pixels, atol=1e-5)


def test_the_blur_is_gaussian_and_the_noise_has_the_images_statistics() -> None:
    dot = torch.zeros(1, 1, 41, 41)
    dot[0, 0, 20, 20] = 1.0
    blurred = baseline(dot, "blur", (6, 8), 0, None)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert float(blurred[20, 23] / blurred[20, 20]) == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert float(blurred[23, 20] / blurred[20, 20]) == pytest.approx(np.exp(-0.5), rel=1e-4)
    image = images(1, (64, 64)) * 2 + 5
    noise = baseline(image, "noise", (6, 6), 0, None)
    np.testing.assert_allclose(noise.mean((2, 3)), image.mean((2, 3)), atol=0.1)
    np.testing.assert_allclose(noise.std((2, 3)), image.std((2, 3)), atol=0.1)
    assert noise.amax() <= image.amax()


def test_what_cannot_be_filled_in_is_refused() -> None:
    with pytest.raises(CnnvizError, match="how pixels become"):
        cnnviz.explain(NETWORK, images(1), method="occlusion", baseline="black")
    with pytest.raises(CnnvizError, match="Did you mean blur"):
        cnnviz.explain(NETWORK, images(1), method="occlusion", baseline="blurr")
    with pytest.raises(CnnvizError, match="0 to 255"):
        cnnviz.explain(NETWORK, images(1), method="occlusion", baseline="300,0,0")
    for bad in (0, "a", (1, 2, 3), 1.5):
        with pytest.raises(CnnvizError, match="window"):
            cnnviz.explain(NETWORK, images(1), method="occlusion", window=bad)


def test_the_most_probable_class_of_each_position() -> None:
    batch = images(1)
    found = cnnviz.explain(NETWORK, batch, method="occlusion", window=20, stride=12, classes_map=True)
    hidden = batch.clone()
    hidden[:, :, 12:32, 24:44] = 0
    with torch.no_grad():
        shares = NETWORK(hidden).softmax(1)[0]
    assert int(found.arrays["classes"][0, 1, 2]) == int(shares.argmax())
    assert float(found.arrays["class_probability"][0, 1, 2]) == pytest.approx(float(shares.max()), abs=1e-6)


def test_a_function_as_target() -> None:
    batch = images(2)
    one = cnnviz.explain(NETWORK, batch, method="occlusion", target=0, window=16, stride=16).raw
    two = cnnviz.explain(NETWORK, batch, method="occlusion", target=4, window=16, stride=16).raw
    both = cnnviz.explain(
        NETWORK, batch, method="occlusion", target=lambda z: z[torch.arange(2), [0, 0]] - z[:, 4], window=16, stride=16
    ).raw
    np.testing.assert_allclose(both, one - two, atol=1e-5)


def test_records_say_how(tmp_path: Path) -> None:
    picture = tmp_path / "wide.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(picture)
    spec = lookup.find_method("occlusion")
    params = spec.resolve_params({"window": "24,16", "stride": 12, "classes_map": True}).to_dict()
    run = RunSettings(
        command="occlusion",
        inputs=(str(picture),),
        model=ModelSpec(model=TINY, input_size=(3, 48, 64), view="squash"),
        target=TargetSettings(method="occlusion", params=params, classes=("top:2",)),
        draw=DrawSettings(save=("raw", "overlay")),
        output=OutputSettings(str(tmp_path / "out")),
    )

    pipeline.run(run, Silent())
    row = json.loads((tmp_path / "out" / "records.jsonl").read_text())
    assert len(row["explanations"]) == 2
    for each in row["explanations"]:
        raw = np.load(tmp_path / "out" / each["files"]["raw"])
        assert raw["raw"].shape == (3, 5)
        assert raw["coverage"].shape == (48, 64)
        assert raw["classes"].shape == (3, 5)
        scores = each["scores"]
        assert (scores["window"], scores["stride"], scores["positions"]) == ([24, 16], 12, [3, 5])
        assert scores["baseline"] == "zero"
        assert scores["max"] == pytest.approx(float(raw["raw"].max()))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_levels_of_a_baseline_of_one_colour_are_known(order: Literal["rgb", "bgr"]) -> None:
    """By the pixels of the pictures: the greys of zero, mean and gray are three."""
    spec = replace(PIXELS, channel_order=order)
    pictures = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8))
    batch = normalize(pictures, spec)
    expected = {
        "zero": [[0.5 * 255, 0.4 * 255, 0.3 * 255]] * 2,
        "mean": pictures.double().mean((2, 3)).tolist(),
        "gray": [[127.5] * 3] * 2,
        "black": [[0.0] * 3] * 2,
        "10,20,30": [[10.0, 20.0, 30.0]] * 2,
    }
    for kind, levels in expected.items():
        found = baseline_figures(kind, batch, spec)
        assert found["baseline"] == kind
        np.testing.assert_allclose(found["baseline_pixel"], levels, atol=0.06)
    for kind in ("blur", "noise", "random"):
        assert baseline_figures(kind, batch, spec) == {"baseline": kind}
    assert baseline_figures("mean", batch, None) == {"baseline": "mean"}


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("occlusion", ["--window", "32", "--stride", "32"]),
        ("superpixels", ["--samples", "4"]),
        ("sensitivity", ["--cells", "2", "--designs", "2"]),
        ("saliency", ["--variant", "integrated_gradients", "--steps", "2"]),
    ],
)
def test_a_panel_says_the_levels_of_a_baseline(
    command: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.random.default_rng(1).integers(0, 200, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    mean = ",".join(f"{value:.3g}" for value in rgb.reshape(-1, 3).mean(0).round(1))
    how = [*tiny_options(), "--mean", "0.5,0.4,0.3", "--std", "1", "--view", "squash", "--save", "panel", *more, "-q"]
    written = listen(monkeypatch)
    levels = {"gray": " (128)", "zero": " (128,102,76.5)", "mean": f" ({mean})", "blur": "", "#102030": " (16,32,48)"}
    for kind, said in levels.items():
        out = tmp_path / kind.strip("#")
        assert main([command, str(tmp_path / "a.png"), *how, "--baseline", kind, "-o", str(out)]) == 0
        assert any(each.text.endswith(f", baseline {kind}{said}") for each in written), written
        written.clear()
