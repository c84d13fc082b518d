"""The network sees what its weights were trained on, and every network pixel finds its place in the image."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import config as timm_config
from timm.data.transforms_factory import create_transform
from torchvision.models import get_weight

from cnnviz.errors import CnnvizError, ImageError
from cnnviz.models.loading.transforms import from_timm, from_torchvision
from cnnviz.models.preprocess import Preprocess, normalize, override, prepare, resized

# Width and height: landscape, portrait, square, larger and smaller than the crop, extreme and single pixel.
SIZES = [(500, 375), (375, 500), (300, 300), (1600, 900), (100, 80), (31, 57), (3000, 500), (1, 1)]
WEIGHTS = [
    "ResNet50_Weights.IMAGENET1K_V1",  # bilinear 256 -> 224
    "ResNet50_Weights.IMAGENET1K_V2",  # bilinear 232 -> 224
    "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",  # bilinear 236 -> 224
    "EfficientNet_B0_Weights.IMAGENET1K_V1",  # bicubic 256 -> 224
    "Inception_V3_Weights.IMAGENET1K_V1",  # bilinear 342 -> 299
]
LITE = Preprocess((3, 224, 224), 256, (0.5,) * 3, (0.5,) * 3, "bicubic")


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth colour with grain on it: large areas, edges and noise as in a photograph."""
    rng = np.random.default_rng(width * 10007 + height)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-20, 21, smooth.shape)
    noisy: NDArray[np.uint8] = np.clip(smooth.astype(np.int64) + grain, 0, 255).astype(np.uint8)
    return noisy


def resolve(pretrained: dict[str, Any]) -> dict[str, Any]:
    """timm's own reading of a model's configuration."""
    reader: Any = timm_config.resolve_data_config
    return dict(reader(pretrained_cfg=pretrained))


def assert_same(rgb: NDArray[np.uint8], spec: Preprocess, expected: torch.Tensor) -> None:
    """At most one count of 255 apart, two (bicubic enlargement) in one value in ten thousand."""
    pixels, _ = prepare(rgb, spec)
    assert pixels.dtype == torch.uint8
    got = normalize(pixels[None], spec)[0]
    assert got.shape == expected.shape
    counts = (got - expected).abs() * torch.tensor(spec.std)[:, None, None] / spec.scale
    assert counts.max() < 2.01
    assert (counts > 1.01).float().mean() <= 1e-4
    assert (counts > 0.01).float().mean() < 0.02


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_equals_torchvision(name: str, size: tuple[int, int]) -> None:
    transforms = get_weight(name).transforms()
    rgb = photograph(*size)
    assert_same(rgb, from_torchvision(transforms), transforms(Image.fromarray(rgb)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.95, "interpolation": "bilinear"},
        {"crop_pct": 0.9, "input_size": (3, 160, 288)},
        {"crop_pct": 0.95, "crop_mode": "border", "interpolation": "bilinear"},
        {"crop_pct": 1.0, "crop_mode": "border", "input_size": (3, 224, 160), "mean": (0.5, 0.3, 0.1)},
    ],
    ids=["plain", "bilinear", "wide", "border", "border tall"],
)
def test_equals_timm(changes: dict[str, object], size: tuple[int, int]) -> None:
    cfg = resolve({**vars(timm.get_pretrained_cfg("tf_efficientnet_lite0")), **changes})
    rgb = photograph(*size)
    assert_same(rgb, from_timm(cfg), create_transform(**cfg)(Image.fromarray(rgb)))


def test_equals_timm_squash() -> None:
    cfg = resolve({"crop_mode": "squash", "input_size": (3, 192, 256)})
    for size in ((500, 375), (1600, 900), (700, 500)):
        rgb = photograph(*size)
        assert_same(rgb, from_timm(cfg), create_transform(**cfg)(Image.fromarray(rgb)))


@pytest.mark.parametrize("resize", [160, 200, 223])
@pytest.mark.parametrize("size", [(500, 375), (200, 150), (91, 300)])
def test_a_crop_larger_than_the_picture_is_padded(resize: int, size: tuple[int, int]) -> None:
    transforms = get_weight("ResNet50_Weights.IMAGENET1K_V1").transforms(resize_size=resize)
    rgb = photograph(*size)
    assert_same(rgb, from_torchvision(transforms), transforms(Image.fromarray(rgb)))


def test_the_rectangle_reaches_outside_the_image_where_the_crop_is_padded() -> None:
    spec = Preprocess((3, 224, 224), None, (0.0,) * 3, (1.0,) * 3, "bilinear", fill=(7,))
    pixels, geometry = prepare(np.full((100, 301, 3), 200, np.uint8), spec)
    assert geometry.image_size == (301, 100)
    # 224 rows over 100: 62 above; 301 columns, the crop begins at round(77 / 2) = 38 (half to even).
    assert geometry.rect == (38, -62, 262, 162)
    assert (pixels[:, :62] == 7).all()
    assert (pixels[:, 62:162] == 200).all()
    assert (pixels[:, 162:] == 7).all()


@pytest.mark.parametrize("interpolation", ["lanczos", "nearest"])
def test_the_other_filters_are_pillows(interpolation: str) -> None:
    rgb = photograph(500, 375)
    spec = dataclasses.replace(LITE, interpolation=interpolation)
    filter_ = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(rgb).resize((341, 256), filter_))[16:240, 58:282]
    assert np.array_equal(prepare(rgb, spec)[0].permute(1, 2, 0).numpy(), expected)


def test_grey_networks_get_the_luminance() -> None:
    rgb = photograph(300, 300)
    spec = Preprocess((1, 300, 300), None, (0.0,), (1.0,), "bilinear")
    exact = rgb.astype(np.float64) @ [0.299, 0.587, 0.114]
    pixels, _ = prepare(rgb, spec)
    assert pixels.shape == (1, 300, 300)
    assert np.abs(pixels[0].numpy() - exact).max() <= 0.51
    small = prepare(rgb, dataclasses.replace(spec, input_size=(1, 28, 28), resize=28))[0]
    expected = np.asarray(Image.fromarray(rgb).convert("L").resize((28, 28), Image.Resampling.BILINEAR))
    assert np.array_equal(small[0].numpy(), expected)


def test_an_extreme_strip_is_not_blown_up() -> None:
    # The plain way would enlarge this to 256 x 7,680,000 pixels, 6 GB.
    rgb = np.zeros((1, 30000, 3), np.uint8)
    rgb[0, 15000:] = 255
    pixels, geometry = prepare(rgb, LITE)
    assert geometry.rect == pytest.approx((15000 - 0.4375, 0.0625, 15000 + 0.4375, 0.9375), abs=1e-3)
    # A step at the middle of the crop, blurred over one image pixel, 256 network pixels.
    row = pixels[0, 112].double()
    assert row[0] < 40
    assert row[-1] > 215
    assert row[111:113].mean() == pytest.approx(127.5, abs=2)
    assert (row.diff() >= 0).all()


def test_the_strip_of_the_large_path_equals_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = photograph(900, 223)
    plain = prepare(rgb, LITE)[0].to(torch.int16)
    monkeypatch.setattr("cnnviz.models.preprocess._LARGEST_RESIZED", 0)
    boxed = prepare(rgb, LITE)[0].to(torch.int16)
    assert (plain - boxed).abs().max() <= 2
    assert ((plain - boxed) != 0).float().mean() < 0.01


MARKED = [
    (400, 640, LITE),  # portrait
    (640, 400, LITE),  # landscape
    (500, 500, LITE),
    (3000, 500, LITE),
    (640, 400, override(LITE, view="squash")),
    (400, 640, override(LITE, view="squash", input_size=(160, 288))),
    (640, 400, override(LITE, input_size=(288, 160))),
    (500, 375, override(LITE, resize=180)),
    (501, 333, dataclasses.replace(LITE, interpolation="bilinear", resize=224)),
]


@pytest.mark.parametrize(("width", "height", "spec"), MARKED)
@pytest.mark.parametrize("where", [(0.5, 0.5), (0.45, 0.3), (0.55, 0.7)])
def test_a_marker_comes_back_to_its_place(
    width: int, height: int, spec: Preprocess, where: tuple[float, float]
) -> None:
    """A bright square in the dark: its centre of mass in network pixels, taken back, is its centre."""
    half = max(2, min(width, height) // 60)
    x, y = int(where[0] * width), int(where[1] * height)
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[y - half : y + half, x - half : x + half] = 255
    pixels, geometry = prepare(rgb, spec)
    light = pixels.double().mean(0).numpy()
    rows, columns = np.indices(light.shape)
    net_x = float(((columns + 0.5) * light).sum() / light.sum())
    net_y = float(((rows + 0.5) * light).sum() / light.sum())
    size = (spec.input_size[2], spec.input_size[1])
    back = geometry.to_image(net_x, net_y, size)
    x0, y0, x1, y1 = geometry.rect
    # Far better than one network pixel's width: the marker is symmetric.
    assert abs(back[0] - x) < 0.25 * (x1 - x0) / size[0]
    assert abs(back[1] - y) < 0.25 * (y1 - y0) / size[1]


def test_one_pixel_fills_everything() -> None:
    pixels, geometry = prepare(np.array([[[10, 20, 30]]], np.uint8), LITE)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert (pixels == pixels[:, :1, :1]).all()
    assert geometry.rect == (0.0625, 0.0625, 0.9375, 0.9375)
    assert geometry.to_image(112, 112, (224, 224)) == (0.5, 0.5)


def test_squash_shows_the_whole_image() -> None:
    rgb = photograph(500, 375)
    pixels, geometry = prepare(rgb, override(LITE, view="squash"))
    assert geometry.rect == (0, 0, 500, 375)
    expected = np.asarray(Image.fromarray(rgb).resize((224, 224), Image.Resampling.BICUBIC)).astype(np.int16)
    assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_arrays_that_cannot_be_shared_give_the_same_pixels() -> None:
    rgb = photograph(300, 200)
    expected = prepare(rgb, LITE)[0]
    locked = rgb.copy()
    locked.flags.writeable = False
    assert torch.equal(prepare(locked, LITE)[0], expected)
    assert torch.equal(prepare(rgb[..., ::-1].copy()[..., ::-1], LITE)[0], expected)


def test_normalize_is_the_formula_and_keeps_the_memory_format() -> None:
    batch = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    batch = batch.to(memory_format=torch.channels_last)
    spec = Preprocess((3, 16, 16), None, (0.1, 0.2, 0.3), (0.5, 1.0, 0.25), "bilinear", scale=1 / 128)
    got = normalize(batch, spec)
    mean, std = np.array(spec.mean)[:, None, None], np.array(spec.std)[:, None, None]
    assert np.abs(got.numpy() - (batch.numpy() / 128 - mean) / std).max() < 1e-6
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert batch.dtype == torch.uint8  # the batch itself is left alone


def test_overrides() -> None:
    larger = override(LITE, input_size=(448,))
    assert (larger.input_size, larger.resize) == ((3, 448, 448), 512)
    wide = override(LITE, input_size=(224, 448))
    assert (wide.resize, wide.fit) == ((256, 512), "cover")
    assert override(LITE, resize=230).resize == 230
    assert override(LITE, mean=(0.1,), std=(0.2, 0.3, 0.4)).std == (0.2, 0.3, 0.4)
    assert override(LITE, mean=(0.1,)).mean == (0.1, 0.1, 0.1)
    grey = override(dataclasses.replace(LITE, mean=(0.2, 0.4, 0.6)), input_size=(1, 28, 28))
    assert grey.mean == pytest.approx((0.4,))
    assert (grey.input_size, grey.resize) == ((1, 28, 28), 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 256, "view": "squash"}, "exclude each other"),
        ({"input_size": (1, 2, 3, 4)}, "1 to 3 numbers"),
        ({"input_size": (4, 224, 224)}, "4 channels"),
        ({"input_size": (0,)}, "at least 1 pixel"),
        ({"mean": (0.1, 0.2)}, "1 or 3 values"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"std": (0.2, -0.2, 0.2)}, "--std 0.2,-0.2,0.2: a deviation must be above 0"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"mean": "0.5"}, "finite numbers, got '0.5'"),
        ({"mean": ()}, "1 or 3 finite numbers"),
        ({"mean": (123.7, 116.3, 103.5)}, "of pixels from 0 to 255"),
        ({"std": 58}, "--std 58,58,58 is of pixels from 0 to 255"),
        ({"mean": (-0.03, -0.09, -0.19)}, "--mean -0.03,-0.09,-0.19 is negative"),
    ],
)
def test_values_that_do_not_fit_together(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CnnvizError, match=message) as caught:
        override(LITE, **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "sees"),
    [
        # What a network sees of a byte, as those who trained it wrote it, and as the hint says it.
        ({"mean": (123.7, 116.3, 103.5), "std": (58.0, 57.0, 56.0)}, lambda x, m, s: (x - m) / s),
        ({"mean": (103.9, 116.8, 123.7), "std": (1.0, 1.0, 1.0)}, lambda x, m, s: x - m),
        ({"mean": (-0.04, -0.1, -0.2), "std": (0.45, 0.44, 0.45)}, lambda x, m, s: (x / 127.5 - 1 - m) / s),
    ],
)
def test_the_hint_for_another_range_gives_the_network_the_same_values(
    given: dict[str, tuple[float, ...]], sees: Callable[..., Any]
) -> None:
    with pytest.raises(CnnvizError) as caught:
        override(LITE, **given)  # type: ignore[arg-type]
    found = dict(re.findall(r"--(mean|std) ([-0-9.,]+)", caught.value.hint))
    spec = override(LITE, **{name: [float(v) for v in text.split(",")] for name, text in found.items()})  # type: ignore[arg-type]
    byte = torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)
    expected = torch.tensor([sees(200.0, m, s) for m, s in zip(given["mean"], given["std"], strict=True)])
    # The hint has four digits.
    torch.testing.assert_close(normalize(byte, spec).flatten(), expected, rtol=3e-3, atol=3e-3)


def test_networks_that_take_bytes_or_their_own_range_are_no_mix_up() -> None:
    assert override(LITE, mean=0, std=1).std == (1.0,) * 3
    byte = torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)
    assert normalize(byte, override(LITE, mean=0.0, std=1 / 255)).flatten().tolist() == pytest.approx([200.0] * 3)


def test_what_is_no_image_or_no_preset_is_said() -> None:
    with pytest.raises(ImageError, match="pixels in it"):
        prepare(np.zeros((0, 5, 3), np.uint8), LITE)
    with pytest.raises(CnnvizError, match="unknown interpolation 'bicubix'") as caught:
        dataclasses.replace(LITE, interpolation="bicubix")
    assert caught.value.hint == "Did you mean bicubic?"
    with pytest.raises(CnnvizError, match="cannot read the preprocessing of str"):
        from_torchvision("resize")


@pytest.mark.parametrize("size", [(120, 160), (97, 301), (64, 64), (31, 40), (500, 375)])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"interpolation": "bicubic"}, {"interpolation": "lanczos"}, {"resize": 65}, {"resize": None},
        {"resize": (60, 70)}, {"resize": (60, 70), "fit": "cover"}, {"resize": (60, 70), "fit": "contain"},
        {"view": "whole", "stride": 16}, {"view": "squash", "resize": (56, 48)}, {"channel_order": "bgr"},
        {"view": "whole", "stride": 32, "resize": 42},
    ],
)  # fmt: skip
def test_of_a_resized_image_the_same_is_shown(size: tuple[int, int], options: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"resize": 64, "interpolation": "bilinear", **options}
    spec = Preprocess((3, 56, 48), mean=(0.5,) * 3, std=(0.5,) * 3, **usual)
    rgb = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    smaller = resized(rgb, spec)
    assert torch.equal(prepare(smaller, spec)[0], prepare(rgb, spec)[0])
    assert np.array_equal(resized(smaller, spec), smaller)


def test_an_image_for_a_network_that_sees_grey_stays_as_it_is() -> None:
    rgb = np.zeros((90, 120, 3), dtype=np.uint8)
    assert resized(rgb, Preprocess((1, 56, 56), 64, (0.5,), (0.5,), "bilinear")) is rgb
