"""``cnnviz embed``: vectors, tables, pictures, and the page in a browser."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.io.sources import ImageRef
from cnnviz.io.write_tables import Spool, VectorFile, write_csv
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.run.named_folders import FOLDERS_AS_LABELS
from cnnviz.settings import ModelSpec, RunSettings
from cnnviz.studies.embed import embedding, layout, study
from tests.support import digits, tiny_model
from tests.support.embeds import run, table
from tests.support.pictures import photograph
from tests.support.runs import TINY

pytest.importorskip("sklearn", reason="needs pip install 'cnnviz[embed]'")
pytest.importorskip("scipy", reason="needs pip install 'cnnviz[embed]'")


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
    for name in ("embeddings.csv", "embeddings.npy", "scatter.png", "grid.png", "neighbours.png"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "nine" / name).read_bytes()
    again, nine = ((tmp_path / name / "index.html").read_text() for name in ("again", "nine"))
    assert again.replace(f"--out {tmp_path / 'again'}", f"--out {tmp_path / 'nine'}") == nine


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


@pytest.mark.parametrize(
    ("most", "begin"), [(9, "each picture, then its nearest"), (4, "4 of 9 pictures, each before its")]
)
def test_a_sheet_of_neighbours_says_how_many_pictures_it_has(
    most: int, begin: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings: list[str] = []
    sheet = study.drawing.neighbour_sheet
    monkeypatch.setattr(study, "_SHEET_ROWS", most)
    monkeypatch.setattr(
        study.drawing, "neighbour_sheet", lambda rows, heading: (headings.append(heading), sheet(rows, heading))[1]
    )
    run(photos, tmp_path / "out")
    [heading] = headings
    assert heading.startswith(begin)


def test_labels_come_from_tables_lists_and_folders(photos: Path, tmp_path: Path) -> None:
    lines = tmp_path / "labels.csv"
    lines.write_text("path,label\n" + "".join(f"{path},L{path.stem}\n" for path in sorted(photos.rglob("*.png"))))
    report, said, _ = run(photos, tmp_path / "table", classes=(str(lines),))
    assert FOLDERS_AS_LABELS not in said.notes
    assert [row["label"] for row in table(tmp_path / "table")] == [f"L{i}" for i in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
    assert report["summary"]["embedding"]["labels"] == "given"
    assert [row["label"] for row in report["images"]] == [row["label"] for row in table(tmp_path / "table")]
    report, said, _ = run(photos, tmp_path / "folders")
    assert said.notes.count(FOLDERS_AS_LABELS) == 1
    assert [row["label"] for row in table(tmp_path / "folders")] == ["a"] * 5 + ["b"] * 4
    assert [row["label"] for row in report["images"]] == ["a"] * 5 + ["b"] * 4
    assert report["summary"]["embedding"]["labels"] == "folder"
    # What is called a and b is no class: that no prediction is one of them says nothing of the network.
    assert "accuracy" not in report["summary"]
    report, _, _ = run(photos / "a", tmp_path / "none")
    assert {row["label"] for row in table(tmp_path / "none")} == {""}
    assert {row["label"] for row in report["images"]} == {None}


def test_what_the_network_was_not_shown_is_told(photos: Path, tmp_path: Path) -> None:
    report, told, _ = run(photos, tmp_path / "out")
    share = report["summary"]["outside_view"]["mean_share"]
    assert share > 0
    said = f"{100 * share:.1f} % of 9 pictures, on average"
    [note] = [text for text in told.notes if "centre crop" in text]
    assert note == f"the network's centre crop left out {said}; with --view whole it sees the whole picture"
    assert f"<dt>not shown to the network</dt><dd>{said}</dd>" in (tmp_path / "out" / "index.html").read_text()


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


def test_a_second_folder_settles_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of a million images is not listed twice: without a table no image has a label."""
    seen: list[str] = []

    def listed(*_: Any) -> Any:
        for number, folder in enumerate(("a", "a", "b", "c")):
            seen.append(folder)
            yield ImageRef(f"{folder}/{number}.png", f"{number}.png", number, None, folder)

    monkeypatch.setattr(layout, "find_images", listed)
    settings = RunSettings("embed", (str(tmp_path),))
    assert layout.takes_folders(settings, ("pred",))
    assert seen == ["a", "a", "b"]
    seen.clear()
    assert layout.takes_folders(replace(settings, inputs=("images.csv",)), ("pred",))
    assert seen == ["a", "a", "b", "c"]
