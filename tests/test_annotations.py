"""Annotations of data sets: every format says the same, what could be two images is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.boxes import Box
from cnnviz.io.annotations import Annotation, Annotations
from cnnviz.io.sources import ImageRef
from tests.support.runs import tiny_options

SIZE = (80, 60)
# The pixels 10 to 29 across and 5 to 14 down, counted from 0.
CAT, DOG = Box(10, 5, 20, 10), Box(0, 0, 80, 60)


def coco(root: Path, **more: Any) -> Path:
    data = {
        "images": [{"id": 4, "file_name": "val/a.png", "width": 80, "height": 60}, {"id": 5, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 4, "category_id": 1, "bbox": [10, 5, 20, 10], "iscrowd": 0},
            {"image_id": 4, "category_id": 2, "bbox": [0, 0, 80, 60]},
        ],
    }
    (root / "coco.json").write_text(json.dumps({**data, **more}))
    return root / "coco.json"


def voc(root: Path, *, imagenet: bool = False) -> Path:
    """One file an image; ImageNet's have a file name without an ending."""
    folder = root / ("imagenet" if imagenet else "voc")
    (folder / "Annotations").mkdir(parents=True)
    name = "a" if imagenet else "a.png"
    objects = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, difficult, (x0, y0, x1, y1) in (("cat", 0, (11, 6, 30, 15)), ("dog", 1, (1, 1, 80, 60)))
    )
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
    (folder / "Annotations" / "a.xml").write_text(text)
    (folder / "Annotations" / "b.xml").write_text("<annotation><filename>%s</filename></annotation>")
    return folder


def loc(root: Path) -> Path:
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\na,cat 11 6 30 15 dog 1 1 80 60 \nb,\n", encoding="utf-8"
    )
    return root / "LOC_val_solution.csv"


def lists(root: Path) -> Path:
    folder = root / "val"
    folder.mkdir()
    (folder / "class_labels.txt").write_text("val/a.png,7\nval/b.png,8\n")
    (folder / "image_sizes.txt").write_text("val/a.png,80,60\nval/b.png,80,60\n")
    (folder / "localization.txt").write_text("val/a.png,10,5,30,15\nval/a.png,0,0,80,60\n")
    return folder


def masks(root: Path) -> Path:
    for label, box in (("cat", CAT), ("dog", DOG)):
        page = np.zeros((60, 80), np.uint8)
        page[box.pixels(SIZE)] = 255
        (root / "masks" / label).mkdir(parents=True)
        Image.fromarray(page).save(root / "masks" / label / "a.png")
    return root / "masks"


def ref(path: str) -> ImageRef:
    return ImageRef(path, path, 0)


@pytest.mark.parametrize("form", ["coco", "voc", "imagenet", "loc"])
def test_every_format_of_boxes_says_the_same(tmp_path: Path, form: str) -> None:
    make = {"coco": coco, "voc": voc, "imagenet": lambda root: voc(root, imagenet=True), "loc": loc}[form]
    known = cnnviz.load_truth(str(make(tmp_path)))
    assert known.names == ("cat", "dog")
    assert len(known) == 2
    found = known.truth(ref("photos/a.png"), SIZE)
    assert found is not None
    assert [(each.label, each.box) for each in found.objects] == [("cat", CAT), ("dog", DOG)]
    assert found.labels == ("cat", "dog")
    assert found.boxes(difficult=False) == ((CAT,) if form in ("voc", "imagenet") else (CAT, DOG))
    empty = known.truth(ref("photos/b.png"), SIZE)
    assert empty is not None
    assert not empty.knows("boxes")
    assert known.truth(ref("photos/c.png"), SIZE) is None


def test_lists_of_wsolevaluation(tmp_path: Path) -> None:
    known = cnnviz.load_truth(str(lists(tmp_path)))
    found = known.truth(ref("/data/val/a.png"), SIZE)
    assert found is not None
    assert found.boxes("7") == (CAT, DOG)
    assert found.labels == ("7",)
    labelled = known.truth(ref("/data/val/b.png"), SIZE)
    assert labelled is not None
    assert (labelled.labels, labelled.objects) == (("8",), ())


def test_masks(tmp_path: Path) -> None:
    known = cnnviz.load_truth(str(masks(tmp_path)))
    found = known.truth(ref("photos/a.jpg"), SIZE)
    assert found is not None
    rows, columns = np.nonzero(found.masks["cat"])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 5, 29, 14)
    assert found.labels == ("cat", "dog")
    # Of an image without a file no class is there; with another size the mask is of another image.
    other = known.truth(ref("photos/z.jpg"), SIZE)
    assert other is not None
    assert not other.knows("masks")
    with pytest.raises(ImageError, match="has 80 x 60 pixels, its image 60 x 80"):
        known.truth(ref("photos/a.jpg"), (60, 80))


def test_a_crowd_is_no_object_to_find(tmp_path: Path) -> None:
    rows = [{"image_id": 4, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1}]
    found = cnnviz.load_truth(str(coco(tmp_path, annotations=rows))).truth(ref("a.png"), SIZE)
    assert found is not None
    assert found.boxes() == ()
    assert found.labels == ()
    assert [each.ignore for each in found.objects] == [True]


def test_annotations_of_another_size_are_not_those_of_the_image(tmp_path: Path) -> None:
    """Such as those of a picture that its EXIF data turn, or that was resized."""
    with pytest.raises(ImageError, match="annotations are of 80 x 60 pixels, the image has 60 x 80"):
        cnnviz.load_truth(str(coco(tmp_path))).truth(ref("a.png"), (60, 80))


def test_folders_decide_between_images_of_one_name() -> None:
    entries = [Annotation("train/cat/x.png", labels=("1",)), Annotation("val/cat/x.png", labels=("2",))]
    known = Annotations(entries, (), "truth")
    for path, label in (("/data/val/cat/x.png", "2"), ("train/cat/x.png", "1"), ("./train/cat/x.png", "1")):
        fresh = Annotations(entries, (), "truth")
        found = fresh.truth(ref(path), SIZE)
        assert found is not None
        assert found.labels == (label,)
    with pytest.raises(CnnvizError, match=r"test/cat/x.png could be train/cat/x.png, val/cat/x.png"):
        known.truth(ref("test/cat/x.png"), SIZE)
    with pytest.raises(CnnvizError, match="two entries of"):
        Annotations([entries[0], Annotation("./train/cat/x.png")], (), "truth")


def test_two_inputs_of_one_entry_are_refused() -> None:
    known = Annotations([Annotation("x.png")], (), "truth")
    for _ in range(2):  # the same image may be asked for again
        assert known.truth(ref("a/x.png"), SIZE) is not None
    with pytest.raises(CnnvizError, match=r"the entry x.png could be a/x.png and b/x.png"):
        known.truth(ref("b/x.png"), SIZE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "[]", "not in COCO's format"),
        ("a.json", '{"images": [], "categories": [], "annotations": [{"bbox": [1, 2]}]}', "cannot be read"),
        ("a.xml", "<annotation>", "not in Pascal VOC's format"),
        ("a.xml", "<html/>", "it is a html"),
        ("a.xml", "<annotation><object><name>x</name></object></annotation>", "without bndbox/xmin"),
        ("a.csv", "path,label\na,b\n", "no columns ImageId"),
        ("a.csv", "ImageId,PredictionString\na,cat 1 2 3\n", "a has 4 words"),
        ("a.csv", "ImageId,PredictionString\na,cat 5 5 1 1\n", "is not a box"),
        ("a.txt", "", "of an unknown kind"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CnnvizError, match=message):
        cnnviz.load_truth(str(tmp_path / name))


def test_a_run_has_the_truth_in_its_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    words = ["gradcam", str(tmp_path / "in"), *tiny_options(), "--save", "none"]
    assert main([*words, "--truth", str(coco(tmp_path)), "-o", str(tmp_path / "o")]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["summary"]["without_truth"] == 1
    assert "1 of 3 images is not among the annotations" in capsys.readouterr().err
    truths = {Path(row["path"]).stem: row["truth"] for row in report["images"]}
    assert truths["a"]["labels"] == ["cat", "dog"]
    assert truths["a"]["objects"][0] == {"label": "cat", "box_xywh": CAT.xywh}
    assert truths["b"] == {"labels": [], "objects": [], "masks": []}
    assert truths["c"] is None


def test_an_ambiguous_input_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.fromarray(page).save(tmp_path / "in" / folder / "b.png")
    words = ["gradcam", str(tmp_path / "in"), *tiny_options(), "--save", "none", "-o", str(tmp_path / "o")]
    assert main([*words, "--truth", str(coco(tmp_path))]) == 2
    assert "the entry b.png could be" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--truth", str(tmp_path / "none.json")]) == 2
    assert "there is no such file" in capsys.readouterr().err
