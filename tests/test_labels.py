"""Every common form of a labels file gives the same names, and a typed class finds its index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.models.labels import numbered, read_labels, resolve_class

NAMES = ("tench, Tinca tinca", "no", "Käse", "golden retriever")
FORMS = {
    "lines.txt": "tench, Tinca tinca\nno\r\nKäse  \ngolden retriever\n\n",
    "no newline.names": "tench, Tinca tinca\nno\nKäse\ngolden retriever",
    "synset_words.txt": "".join(f"n{i:08d} {name}\n" for i, name in enumerate(NAMES)),
    "list.json": json.dumps(NAMES),
    "index.json": json.dumps({str(index): name for index, name in enumerate(NAMES)}),
    "backwards.json": json.dumps({str(index): NAMES[index] for index in (3, 1, 0, 2)}),
    "torchvision.json": json.dumps({str(i): [f"n{i:08d}", name] for i, name in enumerate(NAMES)}),
    "class_to_idx.json": json.dumps({name: index for index, name in enumerate(NAMES)}),
    "config.json": json.dumps({"model_type": "resnet", "id2label": dict(enumerate(NAMES))}),
    "objects.json": json.dumps([{"id": index, "name": name} for index, name in enumerate(NAMES)]),
    "list.yaml": "- tench, Tinca tinca\n- no\n- Käse\n- golden retriever\n",
    "index.yaml": "0: tench, Tinca tinca\n1: no\n2: Käse\n3: golden retriever\n",
    "data.yml": "train: images\nnames:\n  0: tench, Tinca tinca\n  1: no\n  2: Käse\n  3: golden retriever\n",
    "python dict.txt": "{0: 'tench, Tinca tinca',\n 1: 'no',\n 2: 'Käse',\n 3: 'golden retriever'}",
    "index.csv": 'index,name\n0,"tench, Tinca tinca"\n1,no\n2,Käse\n3,golden retriever\n',
    "bare.csv": '2,Käse\n0,"tench, Tinca tinca"\n3,golden retriever\n1,no\n',
    "turned.csv": '"tench, Tinca tinca",0\nno,1\nKäse,2\ngolden retriever,3\n',
    "column.csv": 'name\n"tench, Tinca tinca"\nno\nKäse\ngolden retriever\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_names(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name].encode(encoding))
    assert read_labels(path, 4) == NAMES


@pytest.mark.parametrize("name", FORMS)
def test_the_count_is_checked(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], encoding="utf-8")
    with pytest.raises(CnnvizError) as caught:
        read_labels(path, 7)
    assert caught.value.exit_code == 2
    assert "names 4 classes, the network has 7" in caught.value.message or name == "column.csv"
    assert "has 7" in caught.value.message


def test_gaps_of_a_mapping_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text('{"1": "person", "3": "car"}')
    assert read_labels(path, 4) == ("class 0", "person", "class 2", "car")
    assert numbered(2) == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no names"),
        ("a.txt", b"caf\xe9\n", r"not UTF-8 text \(byte 3\)"),
        ("a.json", b'["cat", ', "is no JSON"),
        ("a.yaml", b"names: [cat", "is no YAML"),
        ("a.json", b"17", "holds int, not a list"),
        ("a.json", b'{"cat": "felis"}', "'cat', which is no class index"),
        ("a.json", b"[[[]]]", "no text"),
        ("a.csv", b"0,cat\n0,dog\n", "class 0 twice: 'cat' and 'dog'"),
        ("a.json", b'{"cat": 0, "dog": 0}', "index twice"),
        ("a.json", b'{"1440764": "tench"}', "counts up to 1440764"),
    ],
)
def test_what_is_no_labels_file_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CnnvizError, match=message) as caught:
        read_labels(path)
    assert caught.value.hint


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(CnnvizError, match="No such file") as caught:
        read_labels(tmp_path / "clases.txt")
    assert caught.value.hint == "Did you mean classes.txt?"


LABELS = (
    "tench, Tinca tinca",
    "Cardigan",
    "cardigan",
    "crane",
    "crane",
    "golden retriever",
    "golden-crowned kinglet",
    "crane fly",
    "tiger cat",
)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0),
        (" 8 ", 8),
        ("Cardigan", 1),  # the exact label wins over the one that only differs in case
        ("cardigan", 2),
        ("Golden_Retriever", 5),  # as a folder would be called
        ("GOLDEN RETRIEVER", 5),
        ("tinca TINCA", 0),
        ("tench", 0),
        ("crane fly", 7),
        ("golden r", 5),
        ("golden crowned", 6),
        ("tig", 8),
    ],
)
def test_a_class_is_found_by_index_label_synonym_and_beginning(text: str, index: int) -> None:
    assert resolve_class(text, LABELS) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"'crane' fits 2 classes: 3 \(crane\), 4 \(crane\)"),
        ("CARDIGAN", r"fits 2 classes: 1 \(Cardigan\), 2 \(cardigan\)"),
        ("golden", r"fits 2 classes: 5 \(golden retriever\), 6 \(golden-crowned kinglet\)"),
        ("9", "class 9 does not exist; the network has 9 classes"),
        ("-1", "class -1 does not exist"),
        (" ", "is empty"),
        ("tiger kat", "no class is called 'tiger kat'"),
    ],
)
def test_what_fits_none_or_several_is_said(text: str, message: str) -> None:
    with pytest.raises(CnnvizError, match=message) as caught:
        resolve_class(text, LABELS)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_near_matches_are_named() -> None:
    with pytest.raises(CnnvizError) as caught:
        resolve_class("tiger kat", LABELS)
    assert caught.value.hint == "Did you mean tiger cat?"
    with pytest.raises(CnnvizError) as caught:
        resolve_class("zebra", [f"class {index}" for index in range(3)])
    assert "index from 0 to 2" in caught.value.hint
