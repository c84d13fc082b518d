"""Bytes to pixels: every kind of image a folder may hold, and every way it may be broken."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.io.decode import Decoded, decode, sniff
from tests.support.image_files import Pixels, apart, kind_of, photo, png, saved

# The filter that the module sets when it is imported; pytest puts its own in place for each test.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.(Jpeg|Png|Tiff)ImagePlugin")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    result = decode(saved(photo(), kind))
    assert isinstance(result, Decoded)
    assert (result.width, result.height) == (40, 24)
    assert result.rgb.flags.c_contiguous
    assert result.rgb.dtype == np.uint8
    np.testing.assert_array_equal(result.rgb, photo())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_formats_are_near(kind: str) -> None:
    options = {} if kind == "JPEG2000" else {"quality": 95}
    assert apart(decode(saved(photo(), kind, **options)).rgb, photo()) <= 12


def test_progressive_jpeg_equals_pillow() -> None:
    data = saved(photo(), "JPEG", quality=90, progressive=True)
    np.testing.assert_array_equal(decode(data).rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_one_pixel_grey_bilevel() -> None:
    dot = np.array([[[7, 8, 9]]], np.uint8)
    np.testing.assert_array_equal(decode(saved(dot, "PNG")).rgb, dot)
    grey = photo()[:, :, 0]
    np.testing.assert_array_equal(decode(saved(grey, "PNG")).rgb, np.stack([grey] * 3, axis=2))
    assert apart(decode(saved(grey, "JPEG", quality=95)).rgb, np.stack([grey] * 3, axis=2)) <= 6
    bits = Image.fromarray(grey > 100)
    np.testing.assert_array_equal(decode(saved(bits, "PNG")).rgb[:, :, 1], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_composited_on_white(mode: str, kind: str) -> None:
    image = Image.fromarray(photo()).convert(mode)
    alpha = np.linspace(0, 255, 24 * 40).reshape(24, 40).round().astype(np.uint8)
    image.putalpha(Image.fromarray(alpha))
    colour = np.asarray(image.convert("RGB"), dtype=np.float64)
    share = alpha[:, :, None] / 255.0
    expected = np.rint(colour * share + 255.0 * (1 - share)).astype(np.uint8)
    result = decode(saved(image, kind)).rgb
    assert apart(result, expected) <= 1  # halves may round either way
    np.testing.assert_array_equal(result[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(result[-1, -1], expected[-1, -1])


def test_palettes() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(saved(image, "PNG")).rgb, [[[10, 20, 30], [200, 100, 50]]])
    clear = decode(saved(image, "PNG", transparency=0)).rgb
    np.testing.assert_array_equal(clear, [[[255, 255, 255], [200, 100, 50]]])
    half = decode(saved(image, "PNG", transparency=bytes([255, 51]))).rgb  # alpha 0.2 for the second entry
    np.testing.assert_array_equal(half, [[[10, 20, 30], [244, 224, 214]]])


def test_colour_key_of_an_rgb_png() -> None:
    pixels = np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8)
    result = decode(saved(pixels, "PNG", transparency=(1, 2, 3))).rgb
    np.testing.assert_array_equal(result, [[[255, 255, 255], [9, 9, 9]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 300, 32768, 65407, 65535]], np.uint16)
    expected = np.rint(values / 257.0).astype(np.uint8)
    result = decode(saved(Image.fromarray(values), kind)).rgb
    np.testing.assert_array_equal(result, np.stack([expected] * 3, axis=2))
    assert result[0, 4, 0] == 1  # Pillow's own convert("L") makes 255 of it


def test_a_dark_16_bit_picture_stays_dark() -> None:
    for kind in ("PNG", "PPM"):
        assert decode(saved(Image.fromarray(np.full((2, 2), 200, np.uint16)), kind)).rgb.max() == 1


def test_colour_of_16_bits() -> None:
    values = np.array([[[0, 300, 65535], [257, 32768, 1000]]], np.uint16)
    rows = b"\0" + values.astype(">u2").tobytes()
    expected = np.rint(values / 257.0).astype(np.uint8)
    assert apart(decode(png(2, 1, 16, 2, rows)).rgb, expected) <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e12])
def test_float_tiff_spans_the_usual_range(top: float) -> None:
    share = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    result = decode(saved(Image.fromarray(share * np.float32(top)), "TIFF")).rgb[:, :, 2]
    assert apart(result, np.array([[0, 64, 128, 255]], np.uint8)) <= 1


def test_float_tiff_with_undefined_and_negative_values() -> None:
    values = np.array([[np.nan, -3.0, np.inf, 0.5, 1.0]], np.float32)
    result = decode(saved(Image.fromarray(values), "TIFF")).rgb
    np.testing.assert_array_equal(result[0, :, 0], [0, 0, 0, 128, 255])


def test_tiff_of_32_bit_integers() -> None:
    for span in (255, 65535, 2**31 - 1):
        values = np.array([[0, span // 4, span]], np.int32)
        reached = decode(saved(Image.fromarray(values), "TIFF")).rgb[0, :, 0].astype(float)
        # The largest signed value is half of the 32-bit range.
        scale = 255 / span if span <= 65535 else 255 / (2**32 - 1)
        np.testing.assert_allclose(reached, values[0] * scale, atol=0.51)


def test_cmyk_jpeg_as_adobe_writes_it() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # full magenta and yellow: red
    data = saved(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data[:200]
    assert apart(decode(data).rgb, np.full((16, 16, 3), (255, 0, 0), np.uint8)) <= 3
    assert apart(decode(saved(cmyk, "TIFF")).rgb, np.full((16, 16, 3), (255, 0, 0), np.uint8)) == 0


def test_ycck_jpeg() -> None:
    """The Adobe marker's transform 2: the first three inks are stored as their YCbCr, the fourth inverted."""
    cyan, magenta, yellow, key_stored = 55.0, 175.0, 215.0, 255.0
    luma = 0.299 * cyan + 0.587 * magenta + 0.114 * yellow
    ycck = [luma, 128 + 0.564 * (yellow - luma), 128 + 0.713 * (cyan - luma), key_stored]
    # Pillow inverts on writing, so the complement is handed over; only the marker is changed afterwards.
    stored = Image.new("CMYK", (16, 16), tuple(round(255 - value) for value in ycck))
    data = bytearray(saved(stored, "JPEG", quality=100, subsampling=0))
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    assert apart(decode(bytes(data)).rgb, np.full((16, 16, 3), (200, 80, 40), np.uint8)) <= 4


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """EXIF 2.32, tag 0x0112: where the stored row 0 and column 0 belong, looked up pixel by pixel."""
    height, width = pixels.shape[:2]
    out_shape = (width, height, 3) if orientation >= 5 else (height, width, 3)
    out = np.empty(out_shape, np.uint8)
    for y in range(height):
        for x in range(width):
            top, bottom, left, right = y, height - 1 - y, x, width - 1 - x
            place = {
                1: (top, left), 2: (top, right), 3: (bottom, right), 4: (bottom, left),
                5: (left, top), 6: (left, bottom), 7: (right, bottom), 8: (right, top),
            }[orientation]  # fmt: skip
            out[place] = pixels[y, x]
    return out


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF", "TIFF-LZW"])
def test_every_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    if kind.startswith("TIFF"):
        compression = "tiff_lzw" if kind.endswith("LZW") else "raw"
        data = saved(photo(), "TIFF", compression=compression, tiffinfo={274: orientation})
    else:
        data = saved(photo(), kind, exif=exif, lossless=True, quality=95)
    stored = photo() if kind != "JPEG" else decode(saved(photo(), "JPEG", quality=95)).rgb
    result = decode(data).rgb
    np.testing.assert_array_equal(result, turned(stored, orientation))
    assert result.flags.c_contiguous


@pytest.mark.parametrize("value", [0, 9, 77])
def test_a_senseless_orientation_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(decode(saved(photo(), "PNG", exif=exif)).rgb, photo())


def test_orientation_in_xmp_and_damaged_exif() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    plain = decode(saved(photo(), "JPEG", quality=95)).rgb
    np.testing.assert_array_equal(decode(saved(photo(), "JPEG", quality=95, xmp=xmp)).rgb, turned(plain, 6))
    for exif in (b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"Exif\0\0II*\0\xff\xff\xff\xff", b"rubbish"):
        np.testing.assert_array_equal(decode(saved(photo(), "JPEG", quality=95, exif=exif)).rgb, plain)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    first, second = np.full((9, 7, 3), (255, 0, 0), np.uint8), np.full((9, 7, 3), (0, 0, 255), np.uint8)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(first, kind, save_all=True, append_images=[Image.fromarray(second)], duration=50, **options)
    np.testing.assert_array_equal(decode(data).rgb, first)


def test_gif_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    result = decode(saved(image, "GIF", transparency=0)).rgb
    np.testing.assert_array_equal(result, [[[255, 255, 255], [200, 100, 50]]])


def test_mpo_gives_its_first_picture() -> None:
    data = saved(photo(), "MPO", save_all=True, append_images=[Image.fromarray(255 - photo())], quality=95)
    assert sniff(data) == "jpeg"
    assert apart(decode(data).rgb, photo()) <= 12


def test_icc_profiles_change_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(decode(saved(photo(), "PNG", icc_profile=profile)).rgb, photo())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated(kind: str, keep: float) -> None:
    rng = np.random.default_rng(1)
    data = saved(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), kind)
    assert kind_of(data[: int(len(data) * keep)]) == "truncated"


def test_damaged_in_the_middle_is_not_called_truncated() -> None:
    data = bytearray(saved(photo(), "PNG"))
    at = data.index(b"IDAT") + 4
    data[at : at + 8] = b"\xff" * 8
    assert kind_of(bytes(data)) == "corrupt"


def test_what_is_no_image() -> None:
    assert kind_of(b"") == "empty"
    assert kind_of(b"this is text, whatever its name") == "not-an-image"
    texts = (b"BMW and other makers of cars and so on", b"P1 is a planet", b"GIF", b"RIFFxxxxWAVEfmt ")
    for text in (*texts, b"\xff\xd8"):
        assert sniff(text) is None, text


def test_sniff_knows_each_format() -> None:
    names = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tiff"}
    names |= {"PPM": "ppm", "JPEG2000": "jp2"}
    for pillow, ours in names.items():
        assert sniff(saved(photo(), pillow)[:4096]) == ours
    assert sniff(b"P5\n# a comment\n12 7\n255\n...") == "ppm"


def test_heic_is_known_but_unsupported() -> None:
    data = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 40
    assert sniff(data) == "heic"
    assert kind_of(data) == "unsupported"


def test_avif() -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = saved(photo(), "AVIF", quality=95)
    assert sniff(data) == "avif"
    assert apart(decode(data).rgb, photo()) <= 12
