"""Files of class names that leave some without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnnviz.io.label_files import read_class_names
from cnnviz.models.loading.labels import numbered


def test_gaps_of_a_mapping_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text('{"1": "person", "3": "car"}')
    assert read_class_names(path, 4).names == ("class 0", "person", "class 2", "car")
    assert numbered(2) == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("name", "content", "gaps"),
    [
        ("a.json", '{"1": "person", "3": "car"}', "2 classes, which are told by number: 0, 2"),
        ("a.json", '{"person": 1, "car": 3}', "2 classes, which are told by number: 0, 2"),
        ("a.csv", "name,code\ncat,x\n,y\ndog,z\n ,w\n", "2 classes, which are told by number: 1, 3"),
        (
            "a.csv",
            "wnid,name\nn01440764,tench\nn01443537,\nn01484850,shark\nn01491361,x\n",
            "1 class, which is told by number: 1",
        ),
        ("a.json", '["cat", null, "dog", ""]', "2 classes, which are told by number: 1, 3"),
        (
            "a.json",
            '{"0": "cat", "1": {"name": ""}, "2": ["n01440764", "tench"], "3": "ox"}',
            "1 class, which is told by number: 1",
        ),
        ("a.yaml", "names:\n  0: cat\n  3: dog\n", "2 classes, which are told by number: 1, 2"),
        ("a.csv", "index,name\n0,cat\n3,dog\n", "2 classes, which are told by number: 1, 2"),
        ("a.txt", "cat\n\ndog\nox\n", "1 class, which is told by number: 1"),
        ("a.txt", "label\ncat\n\ndog\nox\n", "1 class, which is told by number: 1"),
    ],
)
def test_gaps_are_told(tmp_path: Path, name: str, content: str, gaps: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    found = read_class_names(path, 4)
    assert f"{name}: it has no name for {gaps}" in found.notes
    # The numbers that are told are those that stand in the place of names.
    assert [index for index, label in enumerate(found.names) if label == f"class {index}"] == list(found.unnamed)


def test_of_many_gaps_some_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({str(index): "odd" for index in [*range(1, 30, 2), 39]}))
    assert read_class_names(path, 40).notes == (
        "a.json: it has no name for 24 classes, which are told by number: 0, 2, 4, 6, 8, ...",
    )
    path.write_text(json.dumps({"0": "first", "39": "last"}))
    assert read_class_names(path, 40).notes == (
        "a.json: it has no name for 38 classes, which are told by number: 1 to 38",
    )
    path.write_text(json.dumps({str(index): "each" for index in range(40)}))
    assert read_class_names(path, 40).notes == ()
