"""``cnnviz embed``: vectors, tables, pictures, and the page in a browser."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from cnnviz import pipeline
from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.io.write_tables import Spool, VectorFile, write_csv
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.render import embedding as drawing
from cnnviz.render.embedding import categorize, colour_heading, placed, scatter
from cnnviz.report.embedding_page import Key, Plot, Point, page
from cnnviz.report.gallery import Gallery
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from cnnviz.studies.embed import embedding
from tests.support import digits, tiny_model
from tests.support.chromium import Browser, browser
from tests.support.names import HOSTILE
from tests.support.pictures import photograph
from tests.support.runs import TINY, Quiet

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
pytest.importorskip("scipy", reason="needs pip install 'cnnviz[embed]'")


def run(inputs: Path | str, out: Path, **more: Any) -> tuple[dict[str, Any], Quiet, Any]:
    """The report, what was told, and the result of a run."""
    target = TargetSettings("embed", more.pop("params", {}), more.pop("layers", ()), more.pop("classes", ("pred",)))
    model = more.pop("model", TINY)
    runtime = RuntimeSettings(device="cpu", batch_size=more.pop("batch", 4), workers=2)
    settings = RunSettings("embed", (str(inputs),), model, target, runtime, output=OutputSettings(str(out), **more))
    told = Quiet()
    result = pipeline.run(settings, told)
    return json.loads((out / "report.json").read_text("utf-8")), told, result


def table(out: Path) -> list[dict[str, str]]:
    with (out / "embeddings.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def digit_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """200 digits through a grey network that was trained here."""
    base = tmp_path_factory.mktemp("digits")
    report, _, result = run(digits.write(base / "images", 200), base / "out", model=digits.trained(base), batch=32)
    assert result.exit_code == 0
    return base / "out", report


def test_digits_lie_with_their_like(digit_run: tuple[Path, dict[str, Any]]) -> None:
    out, report = digit_run
    found = report["summary"]["embedding"]
    assert found["images"] == 200
    assert found["dimensions"] == 48
    assert found["labels"] == "folder"
    assert found["purity"]["label"]["value"] > 0.85 > 0.2 > found["purity"]["label"]["chance"]
    rows = table(out)
    points = np.array([[float(row["tsne_x"]), float(row["tsne_y"])] for row in rows])
    near = embedding.neighbours(points, 5, "euclidean")
    assert np.mean(embedding.purity(near.index, [row["label"] for row in rows])) > 0.85
    cells = np.array([[int(row["grid_row"]), int(row["grid_col"])] for row in rows], dtype=float)
    next_to = embedding.neighbours(cells, 4, "euclidean")
    assert np.mean(embedding.purity(next_to.index, [row["label"] for row in rows])) > 0.65
    for name in ("scatter.png", "grid.png", "neighbours.png", "thumbs/000199.jpg"):
        assert cv2.imread(str(out / name)) is not None


def test_vectors_are_what_the_classifier_reads(digit_run: tuple[Path, dict[str, Any]]) -> None:
    out, _ = digit_run
    module = digits._trained()
    vectors, rows = np.load(out / "embeddings.npy"), table(out)
    assert vectors.dtype == np.float32
    for place in (0, 57, 199):
        grey = np.array(Image.open(rows[place]["path"]))
        pixels = torch.from_numpy(grey).float().div(255.0)[None, None]
        with torch.no_grad():
            expected = module[:8](pixels)[0].numpy()
            said = int(module(pixels).argmax())
        np.testing.assert_allclose(vectors[place], expected, rtol=1e-4, atol=1e-4)
        assert rows[place]["prediction"] == f"class {said}"
        assert rows[place]["label"] == f"class {Path(rows[place]['path']).parent.name}"


def test_tables_and_report_say_what_the_vectors_say(digit_run: tuple[Path, dict[str, Any]]) -> None:
    out, report = digit_run
    vectors, rows = np.load(out / "embeddings.npy").astype(np.float64), table(out)
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    written = np.array([[float(row["pca_x"]), float(row["pca_y"])] for row in rows])
    np.testing.assert_allclose(np.abs(written), np.abs(centred @ directions[:2].T), atol=1e-6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T - 2 * np.eye(200)
    for place in (0, 99):
        best = np.argsort(-similar[place], kind="stable")[:5]
        entry = report["neighbours"][place]
        assert [near["path"] for near in entry["neighbours"]] == [rows[other]["path"] for other in best]
        assert [near["similarity"] for near in entry["neighbours"]] == pytest.approx(similar[place, best], abs=1e-8)
        same = np.mean([rows[other]["label"] == rows[place]["label"] for other in best])
        assert entry["label_purity"] == pytest.approx(same)
    shares = [entry["prediction_purity"] for entry in report["neighbours"]]
    assert report["summary"]["embedding"]["purity"]["prediction"]["value"] == pytest.approx(np.mean(shares))
    cells = {(row["grid_row"], row["grid_col"]) for row in rows}
    assert len(cells) == 200


def test_the_grid_shows_every_image_in_its_cell(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (11, 3))
    for place, colour in enumerate(colours):
        Image.new("RGB", (64, 48), tuple(map(int, colour))).save(folder / f"{place:02}.png")
    run(folder, tmp_path / "out")
    grid = np.array(Image.open(tmp_path / "out" / "grid.png"))
    side = grid.shape[1] // 4
    for colour, row in zip(colours, table(tmp_path / "out"), strict=True):
        middle = grid[int(row["grid_row"]) * side + side // 2, int(row["grid_col"]) * side + side // 2]
        assert np.abs(middle.astype(int) - colour).max() <= 4  # the thumbnail is a JPEG
    filled = (grid[side // 2 :: side, side // 2 :: side] != 255).any(axis=2)
    assert filled.sum() == 11


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for place in range(9):
        (folder / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(place)).save(folder / "ab"[place % 2] / f"{place}.png")
    return folder


def test_a_layer_is_averaged_over_its_positions(photos: Path, tmp_path: Path) -> None:
    report, _, _ = run(photos, tmp_path / "out", layers=("2",))
    vectors, module = np.load(tmp_path / "out" / "embeddings.npy"), tiny_model.make()
    assert vectors.shape == (9, 8)
    assert report["summary"]["embedding"]["source"] == "2"
    from cnnviz.models.loading.load import load

    spec = load(TINY).preprocess
    for vector, row in zip(vectors, table(tmp_path / "out"), strict=True):
        pixels, _ = prepare(np.array(Image.open(row["path"])), spec)
        with torch.no_grad():
            expected = module[:3](normalize(pixels[None], spec)).mean(dim=(2, 3))[0]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_batches_and_repetition_change_nothing(photos: Path, tmp_path: Path) -> None:
    for name, batch in (("one", 1), ("three", 3), ("nine", 9)):
        run(photos, tmp_path / name, batch=batch)
    one, three = (np.load(tmp_path / name / "embeddings.npy") for name in ("one", "three"))
    np.testing.assert_allclose(one, three, atol=1e-6)
    run(photos, tmp_path / "again", batch=9)
    for name in ("embeddings.csv", "embeddings.npy", "scatter.png", "grid.png", "neighbours.png", "index.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "nine" / name).read_bytes()


class OneConvolution(nn.Module):
    """Its classifier is a convolution: no linear layer reads a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 5, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu()).mean(dim=(2, 3))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 5, 3), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).relu()
        if float(x.detach().mean()) > 1e9:
            x = x * 2
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["OneConvolution", "Untraceable"])
def test_networks_without_a_vector_before_the_classifier(name: str, photos: Path, tmp_path: Path) -> None:
    model = ModelSpec(model=f"{Path(__file__)}:{name}", input_size=(3, 64, 64), resize=64)
    report, told, result = run(photos, tmp_path / "out", model=model)
    assert result.exit_code == 0
    assert any("no linear layer" in note for note in told.notes)
    vectors = np.load(tmp_path / "out" / "embeddings.npy")
    assert vectors.shape == (9, report["summary"]["embedding"]["dimensions"])
    assert vectors.std(axis=0).max() > 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_images(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for place in range(count):
        Image.fromarray(photograph(place)).save(folder / f"{place}.png")
    report, told, result = run(folder, tmp_path / "out")
    assert result.exit_code == 0
    rows, found = table(tmp_path / "out"), report["summary"]["embedding"]
    assert found["neighbours"] == min(5, count - 1)
    assert (tmp_path / "out" / "neighbours.png").exists() == (count > 1)
    if count < 4:
        assert found["tsne"] is None
        assert found["grid"]["of"] == "pca"
        assert {row["tsne_x"] for row in rows} == {""}
        assert any("too few for t-SNE" in note for note in told.notes)
    else:
        assert found["tsne"]["perplexity"] < count
        assert all(math.isfinite(float(row["tsne_x"])) for row in rows)


def test_labels_come_from_tables_lists_and_folders(photos: Path, tmp_path: Path) -> None:
    lines = tmp_path / "labels.csv"
    lines.write_text("path,label\n" + "".join(f"{path},L{path.stem}\n" for path in sorted(photos.rglob("*.png"))))
    report, _, _ = run(photos, tmp_path / "table", classes=(str(lines),))
    assert [row["label"] for row in table(tmp_path / "table")] == [f"L{i}" for i in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    assert report["summary"]["embedding"]["labels"] == "given"
    run(photos, tmp_path / "folders")
    assert [row["label"] for row in table(tmp_path / "folders")] == ["a"] * 5 + ["b"] * 4
    run(photos / "a", tmp_path / "none")
    assert {row["label"] for row in table(tmp_path / "none")} == {""}


def test_bad_images_are_left_out_and_old_files_cleared(photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    _, _, result = run(photos, tmp_path / "out")
    assert result.exit_code == 3
    assert len(np.load(tmp_path / "out" / "embeddings.npy")) == 9 == len(table(tmp_path / "out"))
    run(photos / "b", tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out" / "thumbs").iterdir())) == 4


def test_what_cannot_be_asked(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CnnvizError, match="explains no class"):
        run(photos, tmp_path / "out", classes=("3",))
    with pytest.raises(CnnvizError, match="one layer"):
        run(photos, tmp_path / "out", layers=("2", "4"))
    for params, missing, extra in (
        ({}, "sklearn.manifold", "embed"),
        ({}, "scipy.optimize", "embed"),
        ({"umap": True}, "umap", "umap"),
        ({"table": "parquet"}, "pyarrow.parquet", "parquet"),
    ):

        def without(name: str, missing: str = missing) -> object:
            if name == missing:
                raise ImportError(f"No module named {name!r}")
            return object()

        with monkeypatch.context() as patch:
            patch.setattr(embedding.importlib, "import_module", without)
            with pytest.raises(CnnvizError) as caught:
                run(photos, tmp_path / "out", params=params)
        assert caught.value.hint == f"pip install 'cnnviz[{extra}]'"
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_parquet_has_what_the_csv_has(photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install 'cnnviz[parquet]'")
    run(photos, tmp_path / "out", params={"table": "parquet"})
    rows = parquet.read_table(tmp_path / "out" / "embeddings.parquet").to_pylist()
    written = table(tmp_path / "out")
    assert [{key: str(value) for key, value in row.items()} for row in rows] == written


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", str(photos), "-m", TINY.model, "--input-size", "3,64,64", "--resize", "64", "-o"]
    assert app.main([*words, str(tmp_path / "out"), "--neighbours", "2", "--metric", "euclidean", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["embedding"]["neighbours"] == 2
    assert summary["embedding"]["metric"] == "euclidean"
    assert app.main([*words, str(tmp_path / "more"), "--perplexity", "0.5"]) == 2


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("wb") as stream:
        write_csv(stream, ("path", "n"), [('caf\udce9,\n"x"', 1), ("plain", None)])
    assert path.read_bytes() == b'path,n\n"caf\xe9,\n""x""",1\nplain,\n'


def test_what_is_kept_on_disk_comes_back() -> None:
    spool, vectors = Spool(), VectorFile()
    for text in (b"one", b"", b"three"):
        spool.append(text)
    assert [spool[2], spool[0], spool[1], len(spool)] == [b"three", b"one", b"", 3]
    with pytest.raises(IndexError):
        spool[3]
    spool.append(b"four")
    assert spool[3] == b"four"
    for row in ([1.0, 2.0], [3.0, 4.5]):
        vectors.append(np.array(row))
    assert vectors.rows().tolist() == [[1.0, 2.0], [3.0, 4.5]]
    with pytest.raises(CnnvizError, match="length"):
        vectors.append(np.zeros(3))


def test_categories_are_the_frequent_labels_in_natural_order() -> None:
    few = categorize(["c10", "c9", None, "c9", "C2"])
    assert few.names == ("C2", "c9", "c10")
    assert few.counts == (1, 2, 1)
    assert few.of.tolist() == [2, 1, -1, 1, 0]
    assert few.rest == "no label"
    labels = [f"k{i}" for i in range(30) for _ in range(2 + (i % 3 == 0))] + ["once"]
    many = categorize(labels)
    assert len(many.names) == 20
    assert set(many.names) >= {f"k{i}" for i in range(0, 30, 3)}
    assert many.rest == "11 other labels"
    assert categorize([f"only {i}" for i in range(40)]).names == ()


def test_a_grey_plot_says_why() -> None:
    alone = categorize([f"only {i}" for i in range(22)])
    said = colour_heading("prediction", alone)
    assert said == "no colours: 22 different predictions, of one image each, are more than the 20 colours"
    assert colour_heading("label", categorize(["a", "b"])) == "colour: label"


def test_names_in_the_scatter_cover_neither_each_other_nor_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 points in a heap, by the ink of what is written: some names are left out, none is overprinted."""
    boxes: list[tuple[str, float, float, float, float]] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **more: Any) -> None:
        boxes.append((text, *self.textbbox(xy, text, font=more["font"])))
        draw(self, xy, text, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    points = np.random.default_rng(0).normal(size=(60, 2)) ** 3
    names = [f"quite a long name {i}" for i in range(60)]
    scatter([drawing.View("a", points), drawing.View("b", points)], categorize(names), "h")
    written = [box for box in boxes if box[0].startswith("quite")]
    assert 20 < len(written) < 120
    centres = placed(points) * 759 + (28, 68)
    for n, (_, x0, y0, x1, y1) in enumerate(written):
        for _, a0, b0, a1, b1 in written[:n]:
            assert x1 <= a0 or x0 >= a1 or y1 <= b0 or y0 >= b1
        left = 0 if x0 < 28 + 760 else 788
        for x, y in np.add(centres, (left, 0)):
            nearest = (min(max(x, x0), x1), min(max(y, y0), y1))
            assert max(abs(x - nearest[0]), abs(y - nearest[1])) > 5  # outside of the point's disc


def test_purity_is_undefined_where_no_two_images_share_a_label() -> None:
    index = np.array([[1], [0], [0]])
    for labels in (["a", "b", "c"], ["a", None, None]):
        found = embedding.mean_purity(embedding.purity(index, labels), labels)
        assert (found["value"], found["chance"]) == (None, None)
    found = embedding.mean_purity(embedding.purity(index, ["a", "b", "a"]), ["a", "b", "a"])
    assert found == {"value": pytest.approx(1 / 3), "chance": pytest.approx(1 / 3), "n": 3}


def test_points_are_placed_with_one_scale_and_the_second_axis_up() -> None:
    found = placed(np.array([[0.0, 0.0], [10.0, 5.0], [5.0, 2.5]]), room=0.1)
    np.testing.assert_allclose(found, [[0.1, 0.7], [0.9, 0.3], [0.5, 0.5]])
    assert placed(np.ones((3, 2))).tolist() == [[0.5, 0.5]] * 3


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(name: str) -> None:
    head = Gallery(name, name, name, [(name, name)])
    plot = Plot(head, [name, "grid"], (1, "grid.png", (1, 1)), [Key(name, [(name, 1, "#123456", True)], name)],
                [("grid.png", name)], name, 8.0)  # fmt: skip
    point = Point(name, "thumbs/000000.jpg", [name], [(0.5, 0.5), (0.1, 0.2)], [0], ["thumbs/000001.jpg"])
    tags = _Page(b"".join(page(plot, [point])).decode("utf-8")).tags
    allowed = "html head meta title style body header h1 p code br dl div dt dd main input label span img a b i ul li s"
    assert {tag for tag, _ in tags} <= set(f"{allowed} h2 small".split())
    attributes = {key for _, given in tags for key in given}
    assert not any(key.startswith("on") for key in attributes)
    links = {str(given.get(key)) for _, given in tags for key in ("src", "href") if key in given}
    assert links == {"grid.png", "thumbs/000000.jpg", "thumbs/000001.jpg"}
    policy = next(given["content"] for tag, given in tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "script-src 'none'" in policy
    assert "default-src 'none'" in policy


@pytest.fixture(scope="module")
def shown(digit_run: tuple[Path, dict[str, Any]]) -> Iterator[tuple[Browser, Path]]:
    with browser() as opened:
        opened.open(digit_run[0] / "index.html")
        yield opened, digit_run[0]


def _choose(opened: Browser, name: str) -> None:
    place = "r => [r.x + 8, r.y + 8]"
    labels = f"[...document.querySelectorAll('.choice')].find(l => l.innerText.startsWith('{name}'))"
    x, y = opened.ask(f"({place})({labels}.getBoundingClientRect())")
    opened.point(x, y, click=True)


def _middles(opened: Browser) -> list[list[float]]:
    middle = "r => [r.x + r.width / 2, r.y + r.height / 2]"
    found: list[list[float]] = opened.ask(
        f"[...document.querySelectorAll('.p')].map(p => ({middle})(p.getBoundingClientRect()))"
    )
    return found


_SHOWN = "[...document.querySelectorAll('.card')].filter(c => getComputedStyle(c).display != 'none')"


def test_the_pointer_shows_the_picture_of_the_point(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    for view in ("t-SNE", "PCA", "grid"):
        _choose(opened, view)
        opened.point(2, 2)
        assert opened.ask(f"{_SHOWN}.length") == 0
        middles = _middles(opened)
        assert len(middles) == len(rows) == 200
        # Where points lie over each other only the uppermost is under the pointer.
        others = (((x, y), middles[i + 1 :]) for i, (x, y) in enumerate(middles))
        clear = [all(math.hypot(x - a, y - b) > 14 for a, b in above) for (x, y), above in others]
        alone = [place for place, free in enumerate(clear) if free]
        for place in (alone[0], alone[len(alone) // 2], alone[-1]):
            opened.point(*middles[place])
            opened.wait(f"{_SHOWN}.length == 1")
            assert opened.ask(f"{_SHOWN}[0].querySelector('b').textContent") == rows[place]["path"]
            opened.wait(f"[...{_SHOWN}[0].querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 0)")
            source = opened.ask(f"{_SHOWN}[0].querySelector('img').src")
            assert source == (out / f"thumbs/{place:06d}.jpg").resolve().as_uri()
            left, top, right, bottom = opened.ask(
                f"(r => [r.left, r.top, r.right, r.bottom])({_SHOWN}[0].getBoundingClientRect())"
            )
            plot = opened.ask("(r => [r.left, r.right])(document.querySelector('.plot').getBoundingClientRect())")
            assert plot[0] - 1 <= left < right <= plot[1] + 1
            x, y = middles[place]
            assert not (left < x < right and top < y < bottom), "the card hides its own point"


def test_points_stand_where_the_tables_say(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    box = "(r => [r.left, r.top, r.width, r.height])(document.querySelector('.plot').getBoundingClientRect())"
    for view, columns in (("t-SNE", ("tsne_x", "tsne_y")), ("PCA", ("pca_x", "pca_y"))):
        _choose(opened, view)
        middles = np.array(_middles(opened))
        points = np.array([[float(row[columns[0]]), -float(row[columns[1]])] for row in rows])
        gaps = np.ptp(middles, axis=0) / np.ptp(points, axis=0)
        assert gaps[0] == pytest.approx(gaps[1], rel=0.02)
        np.testing.assert_allclose(middles - middles[0], (points - points[0]) * gaps[0], atol=1.0)
    _choose(opened, "grid")
    left, top, width, height = opened.ask(box)
    cells = np.array([[int(row["grid_col"]), int(row["grid_row"])] for row in rows])
    shape = np.array([15, 14])  # 200 images: 14 rows of 15
    expected = (cells + 0.5) / shape * (width - 2, height - 2) + (left + 1, top + 1)
    np.testing.assert_allclose(np.array(_middles(opened)), expected, atol=1.0)


def test_colours_and_legend(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    rows = table(out)
    _choose(opened, "t-SNE")
    seen: dict[str, dict[str, set[str]]] = {}
    for key in ("label", "prediction"):
        _choose(opened, key)
        colours = opened.ask(
            "[...document.querySelectorAll('.p')].map(p => getComputedStyle(p, '::before').backgroundColor)"
        )
        by_class = seen.setdefault(key, {})
        for row, colour in zip(rows, colours, strict=True):
            by_class.setdefault(row[key], set()).add(colour)
        assert len(by_class) == 10
        assert all(len(found) == 1 for found in by_class.values())
        assert len(set.union(*by_class.values())) == 10
    _choose(opened, "label")
    entry = "[...document.querySelectorAll('.legend li')].find(l => l.innerText.startsWith('class 3'))"
    opened.point(*opened.ask(f"(r => [r.x + 30, r.y + 8])({entry}.getBoundingClientRect())"))
    dimmed = opened.ask("[...document.querySelectorAll('.p')].map(p => getComputedStyle(p).opacity < 0.5)")
    assert dimmed == [row["label"] != "class 3" for row in rows]


def test_the_keyboard_reaches_the_points(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    opened.point(2, 2, click=True)
    for _ in range(2 + 4 + 1):  # the two groups of choices, the links to other files, the first point
        opened.press("Tab")
    opened.wait(f"{_SHOWN}.length == 1")
    assert opened.ask(f"{_SHOWN}[0].querySelector('b').textContent") == table(out)[0]["path"]


def test_the_page_asks_for_its_own_files_only(shown: tuple[Browser, Path]) -> None:
    opened, out = shown
    opened.ask("0")
    assert opened.complaints() == []
    base = out.resolve().as_uri() + "/"
    asked = {address for address in opened.requested() if address != "about:blank"}
    assert base + "index.html" in asked
    own = re.compile(re.escape(base) + r"(index\.html|grid\.png|thumbs/\d{6}\.jpg)")
    assert [one for one in asked if not own.fullmatch(one)] == []
    # Pictures come when their card shows, not before.
    assert len(asked) < 80


def test_thumbnails_are_small_pictures_of_their_inputs(digit_run: tuple[Path, dict[str, Any]]) -> None:
    out, report = digit_run
    for place in (0, 120):
        small = cv2.imread(str(out / report["images"][place]["thumbnail"]), cv2.IMREAD_GRAYSCALE)
        original = np.array(Image.open(report["images"][place]["path"]))
        assert small is not None
        assert small.shape == (160, 160)  # each of the 8 x 8 pixels is a square
        assert np.abs(small[10::20, 10::20].astype(int) - original).mean() < 4
