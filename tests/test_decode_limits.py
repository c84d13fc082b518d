"""Decoding within limits: bombs, strips, memory, disks that fail, random damage, threads."""

from __future__ import annotations

import errno
import io
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.errors import ImageError
from cnnviz.io.decode import Decoded, decode, open_image
from tests.support.image_files import Pixels, kind_of, photo, png, saved

pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.(Jpeg|Png|Tiff)ImagePlugin")


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(saved(np.zeros((8, 8, 3), np.uint8), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 30000, 30000)
    gif = bytearray(saved(np.zeros((8, 8), np.uint8), "GIF"))
    gif[6:10] = struct.pack("<HH", 30000, 30000)
    bmp = bytearray(saved(np.zeros((8, 8, 3), np.uint8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 30000, 30000)
    ppm = b"P6\n30000 30000\n255\n"
    lying = png(30000, 30000, 8, 2, b"\0" * 1000)
    return {"png": lying, "jpeg": bytes(jpeg), "gif": bytes(gif), "bmp": bytes(bmp), "ppm": ppm}


@pytest.mark.parametrize("limit", [None, 100, 10**12])
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "ppm"])
def test_bombs_are_refused_by_their_header(kind: str, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever limit Pillow has been given, which stays as it is. Decoding would need 2.7 GB."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.Image.core.new", never)
    assert kind_of(bombs()[kind]) == "too-large"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillow_does_not_warn_of_what_we_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 960 pixels: Image.open would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode(saved(photo(), "PNG")).rgb, photo())
    assert kind_of(saved(photo(), "PNG"), max_pixels=959) == "too-large"
    assert decode(saved(photo(), "PNG"), max_pixels=960).width == 40


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "JPEG2000"])
def test_the_limit_is_our_own_not_pillows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Pillow's own, TIFFs and animations of 179 to 200 megapixels were refused."""
    frames = [Image.fromarray(255 - photo())]
    more: dict[str, Any] = {"save_all": True, "append_images": frames} if kind in ("GIF", "WEBP") else {}
    data = saved(photo(), kind, **more)
    before = decode(data).rgb
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 960 pixels are more than twice that: an error, not a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode(data, max_pixels=960).rgb, before)
    assert kind_of(data, max_pixels=959) == "too-large"
    assert Image.MAX_IMAGE_PIXELS == 400


def every_mode() -> dict[str, bytes]:
    """One picture in every form that is converted, and with every orientation that transposes."""
    image = Image.fromarray(photo(50, 40))
    grey = image.convert("L")
    deep = np.asarray(grey, dtype=np.uint16) * 200 + 13
    alpha = image.convert("RGBA")
    alpha.putalpha(grey)
    palette = image.quantize(64)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb": saved(image, "PNG"), "jpeg": saved(image, "JPEG", quality=95), "turned": saved(image, "JPEG", exif=exif),
        "l": saved(grey, "PNG"), "1": saved(image.convert("1"), "PNG"), "rgba": saved(alpha, "PNG"),
        "la": saved(alpha.convert("LA"), "PNG"), "p": saved(palette, "PNG"),
        "p-key": saved(palette, "PNG", transparency=3), "rgb-key": saved(image, "PNG", transparency=(0, 0, 40)),
        "i16": saved(Image.fromarray(deep), "PNG"), "i": saved(Image.fromarray(deep.astype(np.int32) * 70), "TIFF"),
        "f": saved(Image.fromarray(deep.astype(np.float32) / 60000), "TIFF"), "ycbcr": saved(image, "TIFF"),
        "cmyk": saved(image.convert("CMYK"), "JPEG", quality=95), "lab": saved(image.convert("LAB"), "TIFF"),
    }  # fmt: skip


@pytest.mark.parametrize("mode", sorted(every_mode()))
def test_strips_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = every_mode()[mode]
    whole = decode(data).rgb
    for rows in (1, 7, 49):
        monkeypatch.setattr("cnnviz.io.pixels.STRIP_BYTES", rows * 48 * 40)
        np.testing.assert_array_equal(decode(data).rgb, whole)


MEASURE = """
import ctypes, io, numpy as np
from PIL import Image, features
from cnnviz.io.decode import open_image

def now(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

tile = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
base = Image.fromarray(np.kron(tile, np.ones((100, 100, 1), np.uint8)))
turned = Image.Exif()
turned[0x0112] = 6
forms = [
    ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"exif": turned}), ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "CMYK", {}), ("TIFF", "RGB", {"compression": "tiff_lzw", "exif": turned}), ("TIFF", "F", {}),
    ("BMP", "RGB", {}), ("WEBP", "RGB", {"lossless": True, "method": 0, "quality": 0}), ("GIF", "L", {}),
    ("PPM", "RGB", {}), ("JPEG2000", "RGB", {}),
] + [("AVIF", "RGB", {"speed": 10})] * features.check("avif")
for kind, mode, more in forms:
    stream = io.BytesIO()
    base.convert("L" if mode == "I;16" else mode).convert(mode).save(stream, kind, **more)
    stream.seek(0)
    image = open_image(stream)
    announced = round(image.peak_bytes / 2**20)
    rgb = None
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = now("VmRSS")
    rgb = image.decode().rgb
    print(kind, mode, round(now("VmHWM") - before), announced, sep=",")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's peak from /proc")
def test_decoding_stays_within_what_the_header_announces() -> None:
    """Peak memory of a fresh process over decoding alone, for 4 megapixels in every form and format."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=100, check=True)
    rows = [line.split(",") for line in done.stdout.split()]
    assert len(rows) >= 14
    for kind, mode, used, announced in rows:
        assert int(used) <= int(announced) + 4, (kind, mode, used, announced)


@pytest.mark.parametrize("after", [0, 3])
def test_a_disk_that_fails_is_not_called_damage(after: int) -> None:
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            if self.reads > after + 1:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    with pytest.raises(ImageError) as caught:
        open_image(Failing(saved(photo(400, 600), "PNG"))).decode()
    assert (caught.value.kind, caught.value.message) == ("unreadable", "cannot be read: Input/output error")


def fuzz_seeds() -> dict[str, bytes]:
    small = photo(12, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    second = [Image.fromarray(255 - small)]
    animated: dict[str, Any] = {"save_all": True, "append_images": second, "duration": 20}
    return {
        "jpeg": saved(small, "JPEG", exif=exif), "progressive": saved(small, "JPEG", progressive=True),
        "png": saved(small, "PNG", exif=exif), "apng": saved(small, "PNG", **animated),
        "gif": saved(small, "GIF", **animated), "webp": saved(small, "WEBP", exif=exif),
        "tiff": saved(small, "TIFF", compression="tiff_lzw"), "bmp": saved(small, "BMP"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(fuzz_seeds()))
def test_fuzz_never_raises_anything_else(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = fuzz_seeds()[kind]
    rng = np.random.default_rng(7)
    refused: list[ImageError] = []
    for turn in range(250):
        broken = bytearray(data[: rng.integers(1, len(data))] if turn % 3 == 0 else data)
        for _ in range(int(rng.integers(0, 6))):
            broken[rng.integers(0, len(broken))] = int(rng.integers(0, 256))
        try:
            result = decode(bytes(broken), max_pixels=10**6)
        except ImageError as error:
            refused.append(error)
        else:
            assert result.rgb.ndim == 3
            assert result.rgb.shape[2] == 3
    assert 50 < len(refused) < 250
    kinds = {"not-an-image", "truncated", "corrupt", "too-large", "unsupported"}
    assert {error.kind for error in refused} <= kinds
    assert not any("\n" in error.message for error in refused)
    assert capfd.readouterr() == ("", "")


def test_threads_agree() -> None:
    datas = list(fuzz_seeds().values()) * 8
    alone: list[Callable[[], Decoded] | Pixels] = [decode(data).rgb for data in datas]
    with ThreadPoolExecutor(4) as pool:
        together = [result.rgb for result in pool.map(decode, datas)]
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_array_equal(left, right)


def test_nothing_is_said_about_damaged_metadata() -> None:
    """In a fresh process, where the module's own filter holds: Pillow would warn about this EXIF block."""
    code = (
        "import io, logging, struct\nfrom PIL import Image\nfrom cnnviz.io.decode import decode\n"
        "entry = struct.pack('<HHII', 0x011A, 5, 1, 9999) + struct.pack('<HHII', 0x0128, 3, 1, 2)\n"
        "exif = b'Exif\\0\\0II*\\0\\x08\\0\\0\\0\\x05\\0' + entry\n"
        "b = io.BytesIO(); Image.new('RGB', (8, 8), 'red').save(b, 'JPEG', exif=exif)\n"
        "d = b.getvalue(); at = d.index(b'JFIF'); d = d[: at + 7] + b'\\0' + d[at + 8 :]\n"
        "logging.getLogger('PIL.TiffImagePlugin').error('said by a logger')\n"
        "print(decode(d).rgb[0, 0].tolist())\n"
        "import warnings; warnings.resetwarnings()\n"
        "Image.open(io.BytesIO(d)).getexif()\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[254, 0, 0]\n"
    assert done.stderr.count("Warning") == 1  # the last line of the program, which asks Pillow itself
    assert "logger" not in done.stderr
