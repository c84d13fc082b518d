"""One table of images and labels, read the same as INPUT and as ``--class``; cells that spreadsheets do not run."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.cells import guarded, without_guard
from cnnviz.io.label_tables import read_label_table
from cnnviz.io.sources import ImageRef, find_images
from cnnviz.io.write_tables import write_csv
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from cnnviz.tasks.base import Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_selection import TargetSelector
from cnnviz.tasks.classification import Classification
from tests.support.pictures import photograph
from tests.support.runs import TINY, Quiet

LABELS = ("cat", "dog", "10", "fish")
# Every form says: a.png is a dog, sub/b.png a fish.
FORMS = {
    "plain": "a.png,dog\nsub/b.png,fish\n",
    "path, label": "path,label\na.png,dog\nsub/b.png,fish\n",
    "label, filename": "label,filename\ndog,a.png\nfish,sub/b.png\n",
    "label first, no known path column": "class,photo\ndog,a.png\nfish,sub/b.png\n",
    "more columns": "id,Class,Image\n7,dog,a.png\n8,fish,sub/b.png\n",
    "indices": "path,label,class_index\na.png,10,1\nsub/b.png,cat,3\n",
    "semicolons": "filename;label\na.png;dog\nsub/b.png;fish\n",
    "tabs": "filename\tlabel\na.png\tdog\nsub/b.png\tfish\n",
    "mark and quotes": '\ufeff"path","label"\r\n"a.png","dog"\r\n"sub/b.png","fish"\r\n',
    "numbers that are no labels": "path,label\na.png,1\nsub/b.png,3\n",
    "guarded": "path,label\n'=a.png,dog\na.png,dog\nsub/b.png,fish\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_says_the_same_as_input_and_as_class(tmp_path: Path, form: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(FORMS[form].encode())
    classes = ClassNames(LABELS, False)
    target_selector = TargetSelector(Words([str(table)]), Classification(classes))
    for name, label in (("a.png", "dog"), ("sub/b.png", "fish")):
        ref = ImageRef(str(tmp_path / name), name, 0)
        assert target_selector.truth(ref) == label
        assert target_selector.select(ref, torch.zeros(len(LABELS))) == [LABELS.index(label)]
    listed = [ref for ref in find_images([str(table)]) if not Path(ref.uri).name.startswith("=")]
    assert [ref.uri for ref in listed] == [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")]
    assert [TargetSelector(Words(), Classification(classes)).truth(ref) for ref in listed] == ["dog", "fish"]


def test_a_label_column_of_numbers_names_labels_and_an_index_column_outputs(tmp_path: Path) -> None:
    """The label ``10`` is output 2; ``class_index`` 10 does not exist."""
    table = tmp_path / "labels.csv"
    ref = ImageRef(str(tmp_path / "a.png"), "a.png", 0)
    table.write_text("path,label\na.png,10\n")
    assert TargetSelector(Words([str(table)]), Classification(ClassNames(LABELS, False))).truth(ref) == "10"
    table.write_text("path,class_index\na.png,10\n")
    target_selector = TargetSelector(Words([str(table)]), Classification(ClassNames(LABELS, False)))
    assert target_selector.truth(ref) == "10"  # as the table says it: it is no class
    with pytest.raises(ImageError, match="class 10 does not exist; the network has 4"):
        target_selector.select(ref, torch.zeros(4))


@pytest.mark.parametrize("content", ["", "path,label\n", "a.png\nb.png\n", "label,filename\n,a.png\n"])
def test_a_table_without_labels_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(CnnvizError, match="has no labels"):
        read_label_table(str(tmp_path / "labels.csv"))


def test_a_first_row_that_is_an_image_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("x.jpg,category\ny.jpg,dog\n")
    assert [(ref.name, ref.label) for ref in find_images([str(tmp_path / "list.csv")])] == [
        ("x.jpg", "category"),
        ("y.jpg", "dog"),
    ]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(st.sampled_from("=+-@'\t\ra1 ,\"")) | st.text())
@example("=HYPERLINK(1)")
@example("'=1")
@example("''=1")
@example("'tis")
def test_no_text_of_a_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    assert without_guard(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert guarded(text) == text or text.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r"))


def test_tables_that_are_written_guard_texts_and_leave_numbers(tmp_path: Path) -> None:
    stream = io.BytesIO()
    rows = [("=cmd|'/C calc'!A0", -0.5, None), ("-1", -3, "+x"), ("@a,b", 2.0, "it's")]
    write_csv(stream, ("path", "x", "label"), rows)
    cells = list(csv.reader(io.StringIO(stream.getvalue().decode(), newline="")))
    assert cells[1:] == [
        ["'=cmd|'/C calc'!A0", "-0.5", ""],
        ["'-1", "-3", "'+x"],
        ["'@a,b", "2.0", "it's"],
    ]
    (tmp_path / "out.csv").write_bytes(stream.getvalue())
    listed = list(find_images([str(tmp_path / "out.csv")]))
    assert [(Path(ref.uri).name if "/" not in ref.name else ref.name, ref.label) for ref in listed][1:] == [
        ("-1", "+x"),
        ("@a,b", "it's"),
    ]


def test_folders_name_whole_labels_and_what_was_guessed_is_in_the_report(tmp_path: Path) -> None:
    for index, name in enumerate(("cat", "catamaran", "2")):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(photograph(index)).save(tmp_path / "in" / name / "x.png")
    (tmp_path / "labels.txt").write_text("catamaran\ntiger cat\ndog\nfish\nbird\n")
    model = ModelSpec(TINY.model, labels=str(tmp_path / "labels.txt"), input_size=TINY.input_size)
    told = Quiet()
    run = RunSettings(
        "gradcam",
        (str(tmp_path / "in"),),
        model,
        TargetSettings("gradcam", {}, (), ("folder",)),
        RuntimeSettings(device="cpu", workers=2),
        DrawSettings(save=()),
        OutputSettings(str(tmp_path / "out")),
    )
    pipeline.run(run, told)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {Path(row["path"]).parent.name: row for row in report["images"]}
    assert "no class is called 'cat'" in rows["cat"]["error"]["message"]
    assert rows["catamaran"]["label"] == "catamaran"
    assert rows["2"]["label"] == "dog"
    assert rows["2"]["explanations"][0]["target"]["class_index"] == 2
    guess = "labels of images: numbers that are no labels are taken as indices: '2' is 'dog'"
    assert told.notes.count(guess) == 1
    assert report["summary"]["class_guesses"] == [guess]
