"""Runs over what is broken, empty, unreadable, too large, or written to a full disk."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.maps.flat_maps import flat_reason
from cnnviz.run.counting import Counts
from cnnviz.settings import (
    RuntimeSettings,
    TargetSettings,
)
from tests.support.pictures import photograph, photographs_in
from tests.support.runs import TINY, Quiet, files, report, settings


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs_in(tmp_path / "photos", 9, ("dog", "cat"))


def _png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def bad_folder(folder: Path) -> dict[str, str | None]:
    """One of each kind of trouble; the expected error by name, None for those that can be explained."""
    folder.mkdir()
    rgb = Image.fromarray(photograph(1))
    good: dict[str, Image.Image] = {
        "grey.png": rgb.convert("L"),
        "palette.png": rgb.convert("P", palette=Image.Palette.ADAPTIVE),
        "rgba.png": rgb.convert("RGBA"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "one-pixel.png": rgb.resize((1, 1)),
        "sixteen.png": Image.fromarray((np.arange(6300, dtype=np.uint16) * 10).reshape(70, 90)),
        "with space 'quote\" & ümlaut.png": rgb,
        "new\nline.png": rgb,
        "<script>alert(1)<.png": rgb,
        "same.png": rgb,
        "same.jpg": rgb,
        "no-suffix": rgb,
    }
    for name, image in good.items():
        image.save(folder / name, format="JPEG" if name.endswith("jpg") else "PNG")
    rgb.convert("P").save(folder / "transparent.png", transparency=3)
    rgb.save(folder / "animated.gif", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save(folder / "animated.webp", save_all=True, append_images=[rgb.rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=exif)
    rgb.save(os.fsencode(folder) + b"/not-utf8-\xff.png", format="PNG")
    expected: dict[str, str | None] = dict.fromkeys(
        [*good, "transparent.png", "animated.gif", "animated.webp", "turned.jpg", "not-utf8-\udcff.png"], None
    )
    whole = (folder / "same.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    (folder / "bomb.png").write_bytes(_png_of_size(30000, 30000))
    (folder / "broken-link.png").symlink_to(folder / "nowhere.png")
    (folder / "loop").symlink_to(folder)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "README.txt").write_text("passed over")
    (folder / ".DS_Store").write_bytes(b"\0\1")
    expected.update(
        {
            "truncated.jpg": "truncated",
            "empty.jpg": "empty",
            "text.png": "not-an-image",
            "bomb.png": "too-large",
            "broken-link.png": "broken-symlink",
            "loop.png": "",
        }
    )
    return expected


def test_bad_input_is_a_row_with_its_reason_or_a_right_result(tmp_path: Path) -> None:
    folder, out = tmp_path / "bad", tmp_path / "out"
    expected = bad_folder(folder)
    before = {str(p) for p in tmp_path.rglob("*")}
    result = pipeline.run(settings(folder, out), Quiet())
    rows = {os.path.basename(row["path"]): row for row in report(out)["images"]}
    assert result.exit_code == 3
    assert set(rows) == set(expected)
    for name, kind in expected.items():
        error = rows[name]["error"]
        if kind is None:
            assert error is None, (name, error)
            assert all((out / path).is_file() for path in rows[name]["explanations"][0]["files"].values())
        else:
            assert error, name
            assert error["message"]
            assert kind in error["type"], (name, error)
    assert report(out)["summary"]["passed_over"] >= 1
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (70, 90)
    page = (out / "index.html").read_text()
    assert "<script>alert" not in page
    grown = {str(p) for p in tmp_path.rglob("*")} - before
    assert all(p.startswith(str(out)) for p in grown), "nothing outside the output folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_file_is_a_row(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "1.png").chmod(0)
    assert pipeline.run(settings(photos, tmp_path / "out"), Quiet()).exit_code == 3


def test_empty_folder_and_folder_without_images(tmp_path: Path) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    with pytest.raises(CnnvizError, match="No images") as caught:
        pipeline.run(settings(empty, out), Quiet())
    assert caught.value.exit_code == 2
    (empty / "notes.txt").write_text("hello")
    with pytest.raises(CnnvizError, match="1 file is not an image"):
        pipeline.run(settings(empty, out), Quiet())
    assert not [p for p in out.rglob("*") if p.is_file()]


def test_that_there_are_no_inputs_is_known_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Explainer", None)
    with pytest.raises(CnnvizError, match="No images"):
        pipeline.run(settings(tmp_path, tmp_path / "out"), Quiet())


def test_maps_that_are_zero_everywhere_are_told(photos: Path, tmp_path: Path) -> None:
    reporter = Quiet()
    opposed = replace(TINY, model=TINY.model.replace(":make", ":make_opposed"))
    asked = settings(photos, tmp_path / "out", model=opposed, target=TargetSettings(classes=("0", "1")))
    pipeline.run(asked, reporter)
    rows = [row for record in report(tmp_path / "out")["images"] for row in record["explanations"]]
    flat = sum(bool(row["scores"].get("flat")) for row in rows)
    told = [text for text in reporter.notes if "flat" in text]
    assert 2 * flat == len(rows) > 0
    reason = "the map is zero everywhere: no position of this layer speaks for the class"
    assert told == [f"{flat} of {len(rows)} maps are flat: {reason}"]


@pytest.mark.parametrize(
    ("layer", "where"), [(None, "no part of the image"), ("features", "no position of this layer")]
)
def test_a_map_of_pixels_has_no_layer_to_name(layer: str | None, where: str) -> None:
    values, target = np.zeros((4, 4), dtype=np.float32), SimpleNamespace(kind="class")
    method = SimpleNamespace(class_specific=True)
    item: Any = SimpleNamespace(values=values, layer=layer, scores={}, target=target, facts={}, method=method)
    assert flat_reason(item) == f"the map is zero everywhere: {where} speaks for the class"


def test_flat_and_trivial_maps_are_told_by_their_reasons() -> None:
    counts = Counts()
    flat = [{"target": {}, "scores": {"flat": True}, "flat_reason": reason} for reason in ("one", "other", "one")]
    trivial = {"target": {}, "scores": {}, "trivial": True, "trivial_reason": "correlation 0.999"}
    counts.count(cast(Any, {"explanations": [*flat, trivial]}))
    assert counts.what_explains_nothing()[:2] == ["2 of 4 maps are flat: one", "1 of 4 maps is flat: other"]
    assert "1 of 4 maps is the score map of its class and explains nothing" in counts.what_explains_nothing()[2]
    assert "name an earlier --layer" in counts.what_explains_nothing()[2]


@pytest.mark.parametrize(("method", "reason"), [("eigencam", "does not look at the class"), ("gradcam", "speaks for")])
def test_a_map_of_zeros_says_what_is_missing(photos: Path, tmp_path: Path, method: str, reason: str) -> None:
    dead = replace(TINY, model=TINY.model.replace(":make", ":make_dead"))
    target = TargetSettings(method=method, classes=("1",))
    pipeline.run(settings(photos, tmp_path / "out", model=dead, target=target), Quiet())
    rows = [row for record in report(tmp_path / "out")["images"] for row in record["explanations"]]
    assert rows
    for row in rows:
        assert row["scores"]["flat"] is True
        assert reason in row["flat_reason"]
        assert ("speaks for" in row["flat_reason"]) is (method == "gradcam")


def test_output_that_is_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(CnnvizError) as caught:
        pipeline.run(settings(photos, tmp_path / "out"), Quiet())
    assert caught.value.exit_code == 2


def test_full_disk_keeps_what_is_done(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write, written = Store.write, []

    def filling(self: Store, name: str, data: bytes) -> None:
        if name.startswith("images/"):
            written.append(name)
            if len(written) > 6:
                raise CnnvizError("the disk is full", "free some") from OSError(errno.ENOSPC, "full")
        write(self, name, data)

    monkeypatch.setattr(Store, "write", filling)
    with pytest.raises(CnnvizError, match="full"):
        pipeline.run(settings(photos, out, runtime=RuntimeSettings(batch_size=1, workers=1)), Quiet())
    lines = (out / "records.jsonl").read_bytes().splitlines()
    assert len(lines) == 3
    monkeypatch.undo()
    assert pipeline.run(settings(photos, out, output={"resume": True}), Quiet()).exit_code == 0
    assert report(out)["summary"]["explained"] == 9


def test_fail_fast_stops(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "0.png").write_bytes(b"no picture")
    result = pipeline.run(settings(photos, tmp_path / "out", runtime=RuntimeSettings(batch_size=1, workers=1),
                                   output={"fail_fast": True}), Quiet())  # fmt: skip
    assert result.exit_code == 3
    assert (result.summary["explained"], result.summary["failed"], result.summary["inputs"]) == (0, 1, 10)
    assert len(report(tmp_path / "out")["images"]) == 1
    assert files(tmp_path / "out") == {}


def test_limit_counts_images(photos: Path, tmp_path: Path) -> None:
    (photos / "a.txt").write_text("no image")
    pipeline.run(settings(photos, tmp_path / "out", limit=3), Quiet())
    assert len(report(tmp_path / "out")["images"]) == 3


def test_out_of_memory_halves_the_batch(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnviz.engine.session import Session

    forward = Session.forward

    def small(self: Session, pixels: torch.Tensor) -> Any:
        if pixels.shape[0] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")
        return forward(self, pixels)

    monkeypatch.setattr(Session, "forward", small)
    told = Quiet()
    result = pipeline.run(settings(photos, tmp_path / "out", runtime=RuntimeSettings(batch_size=8)), told)
    assert result.exit_code == 0
    assert any("halved" in text for text in told.notes)
    plain = tmp_path / "plain"
    monkeypatch.undo()
    pipeline.run(settings(photos, plain, runtime=RuntimeSettings(batch_size=2)), Quiet())
    assert report(plain)["images"] == report(tmp_path / "out")["images"]


def test_batches_that_fail_where_their_images_do_not_are_told_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnviz.engine.session import Session

    forward = Session.forward

    def of_few(self: Session, pixels: torch.Tensor) -> Any:
        if pixels.shape[0] > 2:
            raise AttributeError("no such part")
        return forward(self, pixels)

    monkeypatch.setattr(Session, "forward", of_few)
    told = Quiet()
    result = pipeline.run(settings(photos, tmp_path / "out", runtime=RuntimeSettings(batch_size=4)), told)
    assert (result.exit_code, result.summary["failed"]) == (0, 0)
    said = [text for text in told.notes if "no such part" in text]
    assert said == ["a batch of 4 failed though none of its images did, and ran in parts: no such part"]


def test_a_model_that_fails_on_one_image_loses_only_that(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnviz.engine.session import Session

    forward = Session.forward
    shutil.copy(photos / "cat" / "1.png", photos / "cat" / "white.png")
    Image.new("RGB", (90, 70), "white").save(photos / "cat" / "white.png")

    def allergic(self: Session, pixels: torch.Tensor) -> Any:
        if bool((pixels.flatten(1).std(dim=1) < 0.3).any()):
            raise RuntimeError("cannot stand white")
        return forward(self, pixels)

    monkeypatch.setattr(Session, "forward", allergic)
    result = pipeline.run(settings(photos, tmp_path / "out"), Quiet())
    bad = [row for row in report(tmp_path / "out")["images"] if row["error"]]
    assert result.exit_code == 3
    assert [os.path.basename(row["path"]) for row in bad] == ["white.png"]
    assert bad[0]["error"] == {"type": "model", "message": "cannot stand white"}


@pytest.mark.parametrize(("null", "way"), [(False, "one a line"), (True, "ended in NUL")])
def test_standard_input_without_a_path_is_told_apart(tmp_path: Path, null: bool, way: str) -> None:
    asked = settings("-", tmp_path / "out", null=null)
    with pytest.raises(CnnvizError, match=rf"standard input ended without a path \({way}\)") as caught:
        pipeline.run(asked, Quiet(), io.BytesIO(b"\n\n" if not null else b""))
    assert "-print0 | cnnviz gradcam - -0" in caught.value.hint
