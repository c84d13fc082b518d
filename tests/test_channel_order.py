"""A network for B, G, R with ``--channel-order bgr`` does all that its twin for R, G, B does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz.errors import CnnvizError
from cnnviz.models.preprocess import Preprocess, normalize
from cnnviz.settings import ModelSpec
from tests.support import tiny_model
from tests.support.runs import ran

UNEVEN: dict[str, Any] = {"mean": (0.2, 0.5, 0.7), "std": (0.2, 0.4, 0.3), "input_size": (3, 64, 64), "resize": 64}
RGB = ModelSpec(model=f"{tiny_model.__file__}:make", **UNEVEN)
BGR = ModelSpec(model=f"{tiny_model.__file__}:make_bgr", channel_order="bgr", **UNEVEN)
TILES = {"view": "tiles"}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other colours in every corner."""
    path = tmp_path_factory.mktemp("pictures") / "colours.png"
    y, x = np.mgrid[0:80, 0:96]
    noise = np.random.default_rng(0).integers(0, 40, (80, 96, 3))
    Image.fromarray((np.stack([x * 2, y * 2, 255 - x - y], axis=-1).clip(0, 215) + noise).astype(np.uint8)).save(path)
    return path


def _files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.suffix in (".png", ".npz")}


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("command", "options", "shown"),
    [
        ("gradcam", {"save": ("raw", "overlay")}, {}),
        ("gradcam", {"save": ("raw",)}, TILES),
        ("guided", {"save": ("raw", "gradient"), "params": {"with_gradcam": True}}, {}),
        ("occlusion", {"save": ("raw",), "params": {"window": "16", "stride": "16", "baseline": "red"}}, {}),
        ("gradient_x_input", {"save": ("raw", "gradient")}, TILES),
        ("adversarial", {"params": {"epsilon": "4/255", "steps": 5, "at": "input"}}, {}),
        ("adversarial", {"params": {"epsilon": "4/255", "steps": 5, "at": "image"}}, {}),
        ("dream", {"layers": ("3",), "params": {"octaves": 1, "steps": 3}}, {}),
        ("filters", {}, {}),
        ("top-patches", {"params": {"units": "0,1", "patch_gradient": "guided"}}, {}),
    ],
)
def test_commands_do_what_they_do_of_the_twin(
    command: str, options: dict[str, Any], shown: dict[str, str], picture: Path, tmp_path: Path
) -> None:
    inputs = [] if command == "filters" else [picture]
    found = []
    for name, spec in (("rgb", RGB), ("bgr", BGR)):
        model = ModelSpec(**{**vars(spec), **shown})
        report, _, _ = ran(command, inputs, tmp_path / name, model=model, compile="off", **options)
        assert report["model"]["preprocess"]["channel_order"] == name
        found.append(_files(tmp_path / name))
    one, two = found
    assert one.keys() == two.keys()
    assert one
    for name in one:
        if name.endswith(".npz"):
            mine, other = (np.load(io.BytesIO(each[name])) for each in (one, two))
            for key in mine:
                np.testing.assert_allclose(other[key], mine[key], rtol=1e-3, atol=1e-4 * np.abs(mine[key]).max())
        else:  # a sum in another order rounds otherwise, and a sign may turn where a gradient is nearly zero
            assert np.mean(np.abs(_pixels(one[name]) - _pixels(two[name])) > 2) < 0.01, name


def test_the_colour_of_what_is_made_is_that_of_the_picture(tmp_path: Path) -> None:
    """A network that answers to red alone is shown red, whatever order it reads."""
    for name, order in (("red_first", "rgb"), ("red_last", "bgr")):
        spec = ModelSpec(model=f"{tiny_model.__file__}:make_{name}", channel_order=order, **UNEVEN)
        ran("synthesize", [], tmp_path / name, model=spec, classes=("0",), params={"steps": 12, "param": "pixel"})
        [made] = _files(tmp_path / name).values()
        red, green, blue = _pixels(made).mean(axis=(0, 1))
        assert red > green + 20
        assert red > blue + 20


def test_normalisation_by_hand() -> None:
    spec = Preprocess((3, 2, 2), None, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "bilinear", channel_order="bgr")
    batch = torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8)
    expected = torch.stack(
        [(batch[:, i] / 255 - m) / s for i, m, s in ((2, 0.3, 0.7), (1, 0.2, 0.6), (0, 0.1, 0.5))], dim=1
    )
    torch.testing.assert_close(normalize(batch, spec), expected)


def test_python_takes_it_and_other_words_are_refused(picture: Path) -> None:
    image = Image.open(picture)
    rgb, bgr = (cnnviz.load_model(spec.model, channel_order=spec.channel_order, **UNEVEN) for spec in (RGB, BGR))
    torch.testing.assert_close(bgr.transform(image), rgb.transform(image).flip(0))
    maps = [cnnviz.explain(model, model.transform(image)[None], target=1).raw for model in (rgb, bgr)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)
    with pytest.raises(CnnvizError, match="--channel-order gbr: expected one of rgb, bgr"):
        cnnviz.load_model(RGB.model, channel_order="gbr")
    with pytest.raises(CnnvizError, match="the network's input has 1"):
        Preprocess((1, 8, 8), None, (0.5,), (0.5,), "bilinear", channel_order="bgr")
