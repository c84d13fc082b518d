"""``cnnviz report``: runs as one gallery that can be moved, or as one file."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cnnviz.cli.app import main
from cnnviz.records import SCHEMA
from cnnviz.run.gallery import CARDS
from tests.support.galleries import failed, record, write_run
from tests.test_gallery_page import AUDIT, names


def _run(folder: Path, count: int = 6, methods: tuple[str, ...] = ("gradcam",), **more: Any) -> Path:
    """A run whose photographs lie beside it."""
    photos = folder.parent / f"{folder.name}-photos"
    photos.mkdir(parents=True)
    rows = []
    for number in range(count):
        path = photos / f"{number:05d}.png"
        cv2.imwrite(str(path), np.full((1100, 1400, 3), (0, 0, 255), np.uint8))
        rows.append({**record(number, methods), "path": str(path)})
    return write_run(folder, [*rows, failed("gone.png")], **more)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["report", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_two_runs_are_one_folder_that_can_be_moved(page: Any, tmp_path: Path, capsys: Any) -> None:
    first, second = _run(tmp_path / "a" / "run"), _run(tmp_path / "b" / "run", 3, ("saliency",))
    code, out, err = said(capsys, str(first), str(second), "-o", str(tmp_path / "both"))
    assert (code, out) == (0, f"11 images of 2 runs; open {tmp_path}/both/index.html\n")
    assert "2 of 11 photographs were not found" in err
    for folder in (tmp_path / "a", tmp_path / "b"):
        shutil.rmtree(folder)
    moved = tmp_path / "elsewhere"
    (tmp_path / "both").rename(moved)
    page.goto((moved / "index.html").as_uri())
    page.wait_for_selector(".cards")
    assert len(names(page)) == 11
    page.get_by_label("run", exact=True).select_option("run-2")
    assert names(page) == ["00000.png", "00001.png", "00002.png", "gone.png"]
    assert page.locator("section.run:visible h1").all_inner_texts() == ["run-2: cnnviz gradcam"]
    page.locator(".card .open").first.click()
    page.get_by_role("dialog").get_by_role("tab", name="photograph").click()
    page.until("document.querySelector('.picture img').naturalWidth === 1024")
    page.get_by_role("dialog").get_by_text("cnnviz gradcam photos").wait_for()


def test_one_file_has_everything_and_a_policy_of_digests(page: Any, tmp_path: Path, capsys: Any) -> None:
    run = _run(tmp_path / "run", summary={"inputs": 7, **AUDIT})
    code, _, _ = said(capsys, str(run), "-o", str(tmp_path / "one"), "--single-file", "--size", "128")
    assert code == 0
    assert os.listdir(tmp_path / "one") == ["index.html"]
    text = (tmp_path / "one" / "index.html").read_text()
    addresses = re.findall(r"data:image/jpeg;base64,[\w+/=]+", text)
    assert len(addresses) == len(set(addresses)) > 1
    shutil.rmtree(run)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "one" / "index.html").as_uri())
    page.wait_for_selector(".cards")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [(tmp_path / "one" / "index.html").as_uri()]
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert "unsafe" not in policy
    assert "'self'" not in policy
    assert policy.count("'sha256-") >= 5
    page.locator(".card .open").first.click()
    page.get_by_role("dialog").get_by_role("tab", name="photograph").click()
    page.until("document.querySelector('.picture img').naturalWidth === 128")


def test_relative_photographs_are_found_from_elsewhere(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was made in one folder, with relative paths, and the gallery is made in another."""
    run = _run(tmp_path / "first" / "out" / "run", 1, options={"out": "out/run"})
    line = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    (run / "records.jsonl").write_text(json.dumps({**line, "path": "out/run-photos/00000.png"}) + "\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert said(capsys, "../first/out/run", "-o", "o") == (0, "1 image of 1 run; open o/index.html\n", "")


def test_pictures_take_no_room_on_the_same_disk(tmp_path: Path, capsys: Any) -> None:
    run = _run(tmp_path / "run")
    assert said(capsys, str(run), "-o", str(tmp_path / "o"))[0] == 0
    place = tmp_path / "o" / "runs" / "run" / "images" / "0.gradcam.0.png"
    assert place.samefile(run / "images" / "0.gradcam.0.png")


def test_a_small_copy_has_no_camera_and_no_place(tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    run = _run(tmp_path / "run", 1)
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6  # turned by a quarter
    photo = tmp_path / "run-photos" / "00000.jpg"
    Image.new("RGB", (60, 40), "red").save(photo, exif=exif)
    line = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    (run / "records.jsonl").write_text(json.dumps({**line, "path": str(photo)}) + "\n")
    assert said(capsys, str(run), "-o", str(tmp_path / "o"))[0] == 0
    with Image.open(tmp_path / "o" / "runs" / "run" / "photographs" / "00000.png.jpg") as copy:
        assert copy.size == (40, 60)
        assert not copy.getexif()


def test_overwrite_replaces_a_gallery_and_nothing_else(tmp_path: Path, capsys: Any) -> None:
    run, out = _run(tmp_path / "run"), tmp_path / "o"
    assert said(capsys, str(run), "-o", str(out))[0] == 0
    before = {path.relative_to(out) for path in out.rglob("*")}
    code, _, err = said(capsys, str(run), "-o", str(out))
    assert (code, "Use --overwrite" in err) == (2, True)
    smaller = _run(tmp_path / "smaller", 2)
    assert said(capsys, str(smaller), "-o", str(out), "--overwrite")[0] == 0
    assert not [path for path in out.rglob("*") if path.is_file() and "runs/run/" in str(path)]
    assert said(capsys, str(run), "-o", str(out), "--overwrite", "--single-file")[0] == 0
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["index.html"]
    assert said(capsys, str(run), "-o", str(out), "--overwrite")[0] == 0
    assert {path.relative_to(out) for path in out.rglob("*") if path.is_file()} <= before
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "index.html").write_text("<p>mine")
    assert said(capsys, str(run), "-o", str(theirs), "--overwrite")[0] == 2
    assert (theirs / "index.html").read_text() == "<p>mine"
    (out / "mine.txt").write_text("mine")
    assert said(capsys, str(run), "-o", str(out), "--overwrite")[0] == 2
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "No DIR was given."),
        (["nowhere"], "DIR 'nowhere' is not a folder."),
        (["s3://bucket/run"], "is not a folder on this machine"),
        (["empty"], "no report.json can be read there"),
        (["other"], "its report.json is none of cnnviz"),
        (["run", "-o", "run"], "is also a DIR"),
        (["run", "--size", "100"], "--size is of --single-file"),
        (["run", "--single-file", "--size", "9"], "--size 9: expected 64 to 4096"),
    ],
)
def test_what_cannot_be_is_said(
    argv: list[str], message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "run", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text('{"schema": "other/1"}')
    code, out, err = said(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "cnnviz-out").exists()


def test_a_report_takes_nothing_from_outside_the_run(tmp_path: Path, capsys: Any) -> None:
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), np.zeros((4, 4, 3), np.uint8))
    run = _run(tmp_path / "run", 1)
    line = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    line["explanations"][0]["files"] = {"overlay": "../secret.png", "heatmap": str(secret)}
    (run / "images" / "link.png").symlink_to(secret)
    line["explanations"][1]["files"] = {"overlay": "images/link.png"}
    (run / "records.jsonl").write_text(json.dumps(line) + "\n")
    code, _, err = said(capsys, str(run), "-o", str(tmp_path / "o"))
    assert code == 0
    assert "3 pictures that the runs list are not in" in err
    assert not list((tmp_path / "o").rglob("*.png"))


def test_a_run_that_goes_on_or_was_killed_shows_what_it_has(tmp_path: Path, capsys: Any) -> None:
    run = _run(tmp_path / "run", 3, summary={"inputs": 0, "explained": 0, "failed": 0, "finished": False})
    with (run / "records.jsonl").open("a") as stream:
        stream.write('{"path": "cut off')
    code, out, _ = said(capsys, str(run), "-o", str(tmp_path / "o"))
    assert (code, out[:8]) == (0, "4 images")
    assert "not finished" in (tmp_path / "o" / "index.html").read_text()


def test_the_page_stays_small_whatever_the_number_of_images(tmp_path: Path, capsys: Any) -> None:
    rows = [record(number) for number in range(CARDS + 20)]
    assert said(capsys, str(write_run(tmp_path / "run", rows)), "-o", str(tmp_path / "o"))[0] == 0
    page = (tmp_path / "o" / "index.html").read_text()
    assert page.count("<article id=") == CARDS
    assert f"The first {CARDS} of each run; all {CARDS + 20} are shown where scripts run." in page


def test_what_a_command_wrote_is_shown(tmp_path: Path, sample_images: Path, page: Any, capsys: Any) -> None:
    """From the run to the picture: the run's own page, and that of ``report``; whatever the photograph is called."""
    photo = tmp_path / "a #1 100%41 'b'.jpg"
    shutil.copy(sample_images / "cat.jpg", photo)
    words = ["-m", "tests.support.tiny_model:make", "--input-size", "64", "-c", "top:2"]
    assert main(["gradcam", str(photo), *words, "-o", str(tmp_path / "run")]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["schema"] == SCHEMA
    assert said(capsys, str(tmp_path / "run"), "-o", str(tmp_path / "o"))[0] == 0
    for folder in (tmp_path / "run", tmp_path / "o"):
        page.goto((folder / "index.html").as_uri() + "#look=slider")
        page.locator(".card .open").click()
        page.wait_for_selector("img-comparison-slider.rendered")
        page.until("[...document.querySelectorAll('img-comparison-slider img')].every((i) => i.naturalWidth === 451)")
        assert page.locator("dialog code").inner_text() == report["command_line"]
