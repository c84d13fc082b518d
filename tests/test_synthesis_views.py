"""Images as coefficients, views of a canvas, and penalties with their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cnnviz.engine import runtime as rt
from cnnviz.models.blur import blurred
from cnnviz.synthesis import augmentation as regularise
from cnnviz.synthesis.ascent import as_levels
from cnnviz.synthesis.augmentation import Augmentation, Views, mirrored
from cnnviz.synthesis.canvas import Fourier, noise

DEVICE = rt.resolve("cpu", "fp32").device


# Parametrisations.


@pytest.mark.parametrize(("height", "width"), [(12, 16), (9, 15), (7, 10)])
def test_fourier_is_the_inverse_transform_of_scaled_coefficients(height: int, width: int) -> None:
    leaf = noise((3, height, width // 2 + 1, 2), [4, 5]).double()
    canvas = Fourier(leaf, width)
    z = leaf[..., 0].numpy() + 1j * leaf[..., 1].numpy()
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    scale = math.sqrt(height * width) / np.maximum(f, 1 / max(height, width))
    plain = np.fft.irfft2(z * scale, s=(height, width)) / 4
    root = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]])
    mixing = root / np.sqrt((root**2).sum(axis=0)).max()
    expected = 1 / (1 + np.exp(-np.einsum("cd,ndhw->nchw", mixing, plain)))
    np.testing.assert_allclose(canvas.image().detach().numpy(), expected, atol=1e-7)


def test_grey_has_no_colours_to_correlate() -> None:
    leaf = noise((1, 8, 5, 2), [1]).double()
    z = leaf[..., 0].numpy() + 1j * leaf[..., 1].numpy()
    f = np.hypot(np.fft.fftfreq(8)[:, None], np.fft.rfftfreq(8)[None])
    plain = np.fft.irfft2(z * 8.0 / np.maximum(f, 1 / 8), s=(8, 8)) / 4
    np.testing.assert_allclose(Fourier(leaf, 8).image().detach().numpy(), 1 / (1 + np.exp(-plain)), atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(10, 12), (11, 13)])
def test_an_image_becomes_coefficients_and_an_image_again(channels: int, height: int, width: int) -> None:
    images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    torch.testing.assert_close(Fourier.of_images(images).image().detach(), images, atol=2e-5, rtol=0)
    ends = as_levels(Fourier.of_images(torch.tensor([0.0, 1.0]).expand(1, channels, 4, 2)).image())
    assert set(ends.flatten().tolist()) <= {0, 1, 254, 255}


def test_blurring_coefficients_is_blurring_what_they_are_the_transform_of() -> None:
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    canvas = Fourier.of_images(images)
    canvas.blur(1.3)
    around = F.pad(torch.logit(images), (8, 8, 8, 8), mode="circular")
    expected = blurred(around, 1.3)[..., 8:-8, 8:-8]
    torch.testing.assert_close(torch.logit(canvas.image().detach()), expected, atol=5e-3, rtol=0)


def test_gaussian_blur_against_its_definition() -> None:
    spot = torch.zeros(1, 2, 21, 21, dtype=torch.float64)
    spot[:, 1, 10, 10] = 1.0
    found = blurred(spot, 1.5)
    at = torch.arange(-10, 11, dtype=torch.float64)
    bell = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    bell[at.abs() > 5] = 0
    bell[:, at.abs() > 5] = 0
    torch.testing.assert_close(found[0, 1], bell / bell.sum())
    assert not found[0, 0].any()
    flat = torch.full((1, 1, 5, 5), 0.3)
    torch.testing.assert_close(blurred(flat, 2.0), flat)  # nothing darkens at the edges


# Views.


def test_jitter_shows_every_window_of_the_canvas_and_never_wraps() -> None:
    height, width, margin = 6, 5, 3
    canvas = torch.arange(12 * 11, dtype=torch.float32).reshape(1, 1, 12, 11).expand(2, -1, -1, -1)
    views = Views((height, width), Augmentation(margin, 0.0, 0.0), [1, 2], 400, DEVICE)
    seen = set()
    for step in range(400):
        for window in views(canvas, step):
            corner = int(window[0, 0, 0])
            y, x = divmod(corner, 11)
            assert y + height <= 12
            assert x + width <= 11
            torch.testing.assert_close(window, canvas[0, :, y : y + height, x : x + width], rtol=0, atol=0)
            seen.add((y, x))
    assert seen == {(y, x) for y in range(7) for x in range(7)}
    torch.testing.assert_close(views.centre(canvas)[0, 0], canvas[0, 0, 3:9, 3:8])


@pytest.mark.parametrize(("rotate", "scale"), [(20.0, 0.0), (0.0, 0.3), (15.0, 0.2)])
def test_views_are_affine_and_sample_where_they_say(rotate: float, scale: float) -> None:
    """On a canvas that is linear in x and y, bilinear sampling returns the positions sampled."""
    size, margin, steps = (20, 30), 12, 50
    tall, wide = size[0] + 2 * margin, size[1] + 2 * margin
    y, x = torch.meshgrid(torch.arange(tall) + 0.5, torch.arange(wide) + 0.5, indexing="ij")
    canvas = torch.stack([y - tall / 2, x - wide / 2])[None].repeat(2, 1, 1, 1)
    views = Views(size, Augmentation(margin, rotate, scale), [5, 6], steps, DEVICE)
    angles, spans, differ = [], [], False
    for step in range(steps):
        seen = views(canvas, step)[:, :, 7:13, 10:20]  # the middle, which no rotation brings outside
        down = seen[:, :, 1:] - seen[:, :, :-1]
        across = seen[:, :, :, 1:] - seen[:, :, :, :-1]
        torch.testing.assert_close(down, down[:, :, :1, :1].expand_as(down), atol=1e-3, rtol=0)
        (sin, cos) = across[0, :, 0, 0].tolist()
        angles.append(math.degrees(math.atan2(sin, cos)))
        spans.append(math.hypot(sin, cos))
        torch.testing.assert_close(down[0, :, 0, 0], torch.tensor([cos, -sin]), atol=1e-3, rtol=0)
        differ = differ or not torch.allclose(seen[0], seen[1])
    assert differ
    assert max(map(abs, angles)) <= rotate + 0.01
    assert 1 / (1 + scale) - 1e-3 <= min(spans) <= max(spans) <= 1 + scale + 1e-3
    assert max(angles) - min(angles) >= 1.2 * rotate
    assert max(spans) / min(spans) >= 1 + scale


def test_noise_on_views_is_normal_and_the_same_whatever_else_is_in_the_batch() -> None:
    canvas = torch.full((2, 3, 12, 11), 0.5)
    noisy = Augmentation(3, 0.0, 0.0, noise=0.2)
    both, alone = Views((6, 5), noisy, [7, 8], 200, DEVICE), Views((6, 5), noisy, [8], 200, DEVICE)
    falling = (0.2 * (1.0 - 1.5 * torch.arange(200) / 200)).clamp_min(0)
    drawn = torch.stack([both(canvas, step) for step in range(200)]) - 0.5
    scaled = drawn[:120] / falling[:120, None, None, None, None]
    assert abs(float(scaled.mean())) < 4 / scaled.numel() ** 0.5
    assert abs(float(scaled.std()) - 1) < 0.02
    assert not drawn[134:].any()
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    assert not torch.equal(drawn[0, 0], drawn[1, 0])
    torch.testing.assert_close(alone(canvas[1:], 100)[0] - 0.5, drawn[100, 1], rtol=0, atol=0)


def test_mirrored_is_reflection_and_goes_on_beyond_one_width() -> None:
    image = torch.rand(1, 2, 5, 6)
    torch.testing.assert_close(mirrored(image, (3, 2, 4, 1)), F.pad(image, (3, 2, 4, 1), mode="reflect"))
    row = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 1, 3)
    assert mirrored(row, (5, 6, 0, 0)).flatten().tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert mirrored(torch.ones(1, 1, 1, 1), (2, 2, 1, 0)).shape == (1, 1, 2, 5)


# Penalties, with their gradients, in float64.


def test_total_variation_and_its_gradient() -> None:
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    a = x.detach().numpy()
    expected = (np.diff(a, axis=2) ** 2).sum((1, 2, 3)) + (np.diff(a, axis=3) ** 2).sum((1, 2, 3))
    found = regularise.total_variation(x)
    np.testing.assert_allclose(found.detach().numpy(), expected / 60, rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    # The discrete Laplacian with free edges: 2 (sum over neighbours of x - neighbour) / 60.
    p = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    laplacian = 4 * a - p[:, :, :-2, 1:-1] - p[:, :, 2:, 1:-1] - p[:, :, 1:-1, :-2] - p[:, :, 1:-1, 2:]
    np.testing.assert_allclose(gradient.numpy(), 2 * laplacian / 60, rtol=1e-10, atol=1e-14)


def test_l2_and_its_gradient() -> None:
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    a = x.detach().numpy()
    found = regularise.l2(x)
    np.testing.assert_allclose(found.detach().numpy(), ((a - 0.5) ** 2).mean((1, 2, 3)), rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    np.testing.assert_allclose(gradient.numpy(), 2 * (a - 0.5) / 60, rtol=1e-12)
