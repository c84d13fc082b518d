"""What every study gets from the run: order, records, figures, overwriting, interruption, errors."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.specs import Options, StudySpec, option
from cnnviz.studies.base import Findings, Observed, Study
from tests.support.runs import TINY, Quiet, ran


class BrightnessOptions(Options):
    times: int | None = option(None, "A number.", minimum=1)
    own_page: bool = option(False, "A page of its own.")
    names: tuple[str, ...] = option((), "Names; repeatable.")


class Brightness(Study[BrightnessOptions]):
    """A study of the tests: the brightness of every image and, of the run, the first of the brightest."""

    best: tuple[float, str] = (-1.0, "")
    order: tuple[str, ...] = ()

    def observe(self, run: Any, items: Sequence[Any]) -> Sequence[Any]:
        return [float(item.pixels.float().mean()) for item in items]

    def draw(self, done: Observed) -> Mapping[str, Any]:
        name = f"images/{done.ref.name}.grey.png"
        buffer = io.BytesIO()
        Image.fromarray(done.rgb[:, :, 0]).save(buffer, "PNG")
        self.store.write(name, buffer.getvalue())
        return {"brightness": done.seen, "figures": [{"file": name, "caption": "red <channel>"}]}

    def fold(self, done: Observed) -> None:
        self.order = (*self.order, Path(done.ref.uri).name)
        if done.seen > self.best[0]:
            self.best = (done.seen, done.ref.uri)

    def finish(self) -> Findings:
        self.store.write("best.txt", self.best[1].encode())
        index = iter([b"own ", b"page"]) if self.params.own_page else None
        return Findings(
            {"brightest": self.best[1], "times": self.params.times},
            {"order": list(self.order)},
            [{"file": "best.txt", "caption": "the best"}],
            index,
        )


class Nothing(Study):
    """A study that takes no images."""

    def finish(self) -> Findings:
        return Findings({"classes": len(self.prepared.classes)}, {"seed": self.prepared.settings.runtime.seed})


SPECS = (
    StudySpec(
        name="brightness",
        command="brightness",
        family="tests",
        entry="tests.test_studies:Brightness",
        title="Brightness",
        summary="Finds the brightest image.",
        paper="Nobody, 2020",
        options=BrightnessOptions,
        caveat="only a test",
    ),
    StudySpec(
        name="nothing",
        command="nothing",
        family="tests",
        entry="tests.test_studies:Nothing",
        title="Nothing",
        summary="Takes no images.",
        paper="Nobody, 2020",
        inputs="none",
    ),
)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lookup, "STUDIES", SPECS)
    lookup.all_entries.cache_clear()
    yield
    lookup.all_entries.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for index, grey in enumerate((10, 200, 30, 200, 50, 60, 70)):
        Image.fromarray(np.full((40, 50, 3), grey, np.uint8)).save(root / f"{index}.png")
    (root / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return root


def run(
    folder: Path | None, out: Path, batch: int = 3, reporter: Quiet | None = None, **params: Any
) -> tuple[Any, dict[str, Any]]:
    asked: dict[str, Any] = {"batch_size": batch, "reporter": reporter, "params": params}
    command, inputs = ("brightness", [folder]) if folder else ("nothing", [])
    report, result, _ = ran(command, inputs, out, seed=7, overwrite=True, **asked)
    return result, report


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_images_are_folded_in_input_order_at_any_batch_size(folder: Path, tmp_path: Path, batch: int) -> None:
    result, report = run(folder, tmp_path, batch)
    assert report["order"] == [f"{i}.png" for i in range(7)]
    assert report["summary"]["brightest"].endswith("1.png")  # the first of two equals
    assert report["summary"]["study"] == "brightness"
    assert result.exit_code == 3  # bad.png
    assert report["summary"]["failed"] == 1


def test_records_hold_what_was_seen(folder: Path, tmp_path: Path) -> None:
    _, report = run(folder, tmp_path)
    good = [row for row in report["images"] if row["error"] is None]
    assert [row["brightness"] for row in good] == [10, 200, 30, 200, 50, 60, 70]
    assert all(len(row["predictions"]) == 5 for row in good)
    [bad] = [row for row in report["images"] if row["error"]]
    assert bad["path"].endswith("bad.png")


def test_the_page_shows_the_figures_and_escapes_their_captions(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.index("best.txt") < page.index("images/0.png.grey.png")
    assert "red &lt;channel&gt;" in page
    assert "<channel>" not in page
    assert page.count("<img") == 8


def test_a_page_of_its_own(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, own_page=True)
    assert (tmp_path / "index.html").read_bytes() == b"own page"


def test_overwrite_clears_what_the_study_wrote_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    _, report = run(folder, tmp_path)
    assert "best.txt" in report["files"]
    for name in ("0", "6"):
        assert any(file.startswith(f"images/{name}") for file in report["files"])
    (tmp_path / "mine.txt").write_text("keep")
    smaller = tmp_path / "in"
    smaller.mkdir()
    Image.new("RGB", (40, 40)).save(smaller / "x.png")
    run(smaller, tmp_path)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["x.png.grey.png"]
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_interrupted_study_says_so_and_finds_nothing(folder: Path, tmp_path: Path) -> None:
    result, report = run(folder, tmp_path, 1, Quiet(interrupt_after=3))
    assert result.exit_code == 130
    assert report["summary"]["interrupted"] is True
    assert "brightest" not in report["summary"]
    assert not (tmp_path / "best.txt").exists()


def test_a_study_without_images(tmp_path: Path) -> None:
    result, report = run(None, tmp_path)
    assert result.exit_code == 0
    assert report["summary"]["classes"] == 5
    assert report["seed"] == 7
    assert "inputs" not in report["summary"]
    assert report["images"] == []


def test_no_images_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CnnvizError, match="No images in"):
        run(empty, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command(*words: str) -> int:
    resize = [] if words[0] == "nothing" else ["--resize", "64"]
    return app.main([*words, "-m", TINY.model, "--input-size", "64", *resize])


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = command("brightness", str(folder), "--times", "4", "--names", "a", "--names", "b", "-o", str(tmp_path))
    said = capsys.readouterr().err
    assert code == 3
    assert "went through 7 of 8 images" in said
    assert "only a test" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"]["times"] == 4
    assert report["options"]["names"] == ["a", "b"]


def test_the_command_line_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("nothing", "-o", str(tmp_path)) == 0
    assert "done in" in capsys.readouterr().err
    assert command("nothing", str(tmp_path)) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume"], "No such option: --resume"),
        (["--alpha", "0.3"], "No such option: --alpha"),
        (["-o", "-"], "brightness writes several files"),
        (["--times", "0"], "--times 0 is out of range"),
    ],
)
def test_options_that_a_study_does_not_take(
    words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("brightness", str(folder), *(words if "-o" in words else ["-o", str(tmp_path), *words])) == 2
    assert said in capsys.readouterr().err


def test_inputs_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("brightness") == 2
    assert "cnnviz brightness photos/" in capsys.readouterr().err


def test_studies_are_no_methods() -> None:
    assert "brightness" not in {spec.name for spec in lookup.all_methods()}
    with pytest.raises(CnnvizError, match="Unknown method 'brightness'"):
        lookup.find_method("brightness")
    assert lookup.find_entry("brightness") is SPECS[0]
