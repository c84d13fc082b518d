"""Every common form of a labels file gives the same names, and a typed class finds its index."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

from cnnviz.errors import CnnvizError
from cnnviz.io.label_files import read_class_names
from cnnviz.models.loading import zoo
from cnnviz.models.loading.labels import LabelLookup, numbered
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_words import ClassWords

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
    assert read_class_names(path, 4).names == NAMES


@pytest.mark.parametrize("name", FORMS)
def test_the_count_is_checked(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], encoding="utf-8")
    with pytest.raises(CnnvizError) as caught:
        read_class_names(path, 7)
    assert caught.value.exit_code == 2
    assert "names 4 classes, the network has 7" in caught.value.message or name == "column.csv"
    assert "has 7" in caught.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("some.csv", "path,class_index,name\na.png,7,cock\nb.png,17,jay\n"),
        ("some.json", '{"7": "cock", "17": "jay"}'),
        ("to.json", '{"cock": 7, "jay": 17}'),
    ],
)
def test_names_of_some_classes_are_counted_without_the_gaps(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(CnnvizError) as caught:
        read_class_names(path, 20)
    assert caught.value.message.endswith("names 2 classes with indices up to 17, those of the network end at 19")
    assert "give 19 a name in it too" in caught.value.hint
    with pytest.raises(CnnvizError) as caught:
        read_class_names(path, 10)
    assert "give a file with indices from 0 to 9" in caught.value.hint
    # What the hint says helps.
    last = {"csv": "c.png,19,ox\n"}.get(name[-3:])
    path.write_text(content + last if last else json.dumps({**json.loads(content), **_another(content)}))
    names = read_class_names(path, 20).names
    assert (names[7], names[17], names[19], names[18]) == ("cock", "jay", "ox", "class 18")


def _another(content: str) -> dict[str, object]:
    return {"ox": 19} if content.startswith('{"cock"') else {"19": "ox"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no names"),
        ("a.txt", b"caf\xe9\n", r"not UTF-8 text \(byte 3\)"),
        ("a.json", b'["cat", ', "is not JSON"),
        ("a.yaml", b"names: [cat", "is not YAML"),
        ("a.json", b"17", "holds int, not a list"),
        ("a.json", b'{"cat": "felis"}', "'cat', which is not a class index"),
        ("a.json", b"[[[]]]", "not text"),
        ("a.csv", b"0,cat\n0,dog\n", "class 0 twice: 'cat' and 'dog'"),
        ("a.json", b'{"cat": 0, "dog": 0}', "index twice"),
        ("a.json", b'{"1440764": "tench"}', "counts up to 1440764"),
    ],
)
def test_what_is_no_labels_file_is_said(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CnnvizError, match=message) as caught:
        read_class_names(path)
    assert caught.value.hint


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(CnnvizError, match="No such file") as caught:
        read_class_names(tmp_path / "clases.txt")
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
    ],
)
def test_a_class_is_found_by_index_label_and_synonym(text: str, index: int) -> None:
    lookup = LabelLookup(LABELS)
    assert (lookup.typed(text).index, lookup.typed(text).guess) == (index, "")
    assert lookup.exact(text).index == index


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
        ("golden r", "no class is called 'golden r'"),  # parts of words say nothing
        ("tig", "no class is called 'tig'"),
        ("9" * 5000, r"class 99999999999999999999… \(5000 characters\) does not exist"),
        ("x" * 100_000, "no class is called 'xxx"),
    ],
)
def test_what_fits_none_or_several_is_said(text: str, message: str) -> None:
    with pytest.raises(CnnvizError, match=message) as caught:
        LabelLookup(LABELS).typed(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert len(caught.value.message) < 400


def test_near_matches_are_named() -> None:
    with pytest.raises(CnnvizError) as caught:
        LabelLookup(LABELS).typed("tiger kat")
    assert caught.value.hint == "Did you mean tiger cat?"
    with pytest.raises(CnnvizError) as caught:
        LabelLookup(numbered(3)).typed("zebra")
    assert "index from 0 to 2" in caught.value.hint


def test_whole_words_are_a_guess_that_is_told_to_persons_only() -> None:
    lookup = LabelLookup(("catamaran", "tiger cat", "golden-crowned kinglet", "cattle dog"))
    for typed, index in (("cat", 1), ("golden crowned", 2), ("Dog", 3)):
        found = lookup.typed(typed)
        assert found.index == index
        assert repr(lookup.labels[index]) in found.guess
        with pytest.raises(CnnvizError, match=f"no class is called '{typed}'"):
            lookup.exact(typed)  # a folder called cat/ has no tiger cats in it, and no catamarans
    with pytest.raises(CnnvizError, match=r"fits 2 classes: 0 \(tiger cat\), 1 \(Persian cat\)"):
        LabelLookup(("tiger cat", "Persian cat", "catamaran")).typed("cat")
    with pytest.raises(CnnvizError, match="no class is called 'cat'"):
        LabelLookup(("catamaran", "dog")).typed("cat")


def test_an_exact_label_wins_over_an_index() -> None:
    """Folders 0 … 11 in the order in which ImageFolder sorts them."""
    lookup = LabelLookup(tuple(sorted(map(str, range(12)))))
    for text in map(str, range(12)):
        assert lookup.labels[lookup.typed(text).index] == text
        assert lookup.labels[lookup.exact(text).index] == text
    assert "'10' is the class of that name, which is output 2" in lookup.typed("10").guess


@pytest.mark.parametrize(("text", "index"), [("0", 0), ("1", 1), ("7", None), ("10", None), ("07", 7), ("11", None)])
def test_numbered_folders_without_labels_are_read_where_that_is_safe(text: str, index: int | None) -> None:
    names = sorted(map(str, range(12)))
    lookup = LabelLookup(numbered(12))
    if index is None:
        with pytest.raises(CnnvizError, match=f"'{text}' may be output {text} or, .* output {names.index(text)}"):
            lookup.exact(text)
    else:
        assert lookup.exact(text).index == index
    assert lookup.typed(text).index == int(text)


def test_wordnet_ids_name_the_classes_of_imagenet() -> None:
    labels = zoo.imagenet_labels()
    lookup = LabelLookup(labels, zoo.synsets_of(labels))
    # From the labels of the ILSVRC 2012 validation set.
    for wnid, index, name in (
        ("n01440764", 0, "tench"),
        ("n01514668", 7, "cock"),
        ("n02012849", 134, "crane"),
        ("n03126707", 517, "crane"),
        ("n15075141", 999, "toilet tissue"),
    ):
        for text in (wnid, f"{wnid}_{name}", f"{wnid}-{name}"):
            assert lookup.typed(text).index == lookup.exact(text).index == index
        assert labels[index].startswith(name) or name == "crane"
        assert name.split()[0] in lookup.exact(wnid).guess
    with pytest.raises(CnnvizError, match="no class is called 'n99999999'"):
        lookup.exact("n99999999")
    assert zoo.synsets_of(labels[:999]) == ()
    assert zoo.synsets_of(tuple(reversed(labels))) == ()
    assert zoo.synsets_of(tuple(f"{name}, something" for name in labels))[7] == "n01514668"


# What other tools write, with the order of the outputs that their authors mean.
KINDS = ("kit fox", "English setter", "Siberian husky")
ORDERED = {
    # map_clsloc.txt of the ImageNet kit: the number is that of the challenge, outputs are sorted by WordNet id.
    "map_clsloc.txt": ("n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185 3 Siberian_husky\n", (1, 2, 0)),
    "loc.csv": ("n02119789,1,kit fox\nn02100735,2,English setter\nn02110185,3,Siberian husky\n", (1, 2, 0)),
    "table.csv": (
        "class_index,wnid,name\n2,n02119789,kit fox\n0,n02110185,Siberian husky\n1,n02100735,English setter\n",
        (2, 1, 0),
    ),
    "wnid.json": ('{"n02119789": "kit fox", "n02110185": "Siberian husky", "n02100735": "English setter"}', (1, 2, 0)),
    "semicolon.csv": ("0;kit fox\n1;English setter\n2;Siberian husky\n", (0, 1, 2)),
    "semicolon.txt": ("0;kit fox\n1;English setter\n2;Siberian husky\n", (0, 1, 2)),
    "tabs.tsv": ("id\tname\n2\tkit fox\n1\tEnglish setter\n0\tSiberian husky\n", (2, 1, 0)),
    "colon.txt": ("1: kit fox\n0: English setter\n2: Siberian husky\n", (1, 0, 2)),
    "one-based.txt": ("1 kit fox\n2 English setter\n3 Siberian husky\n", (0, 1, 2)),
    "one-based.json": ('{"1": "kit fox", "3": "English setter", "2": "Siberian husky"}', (0, 2, 1)),
    "one-based.csv": ("id,name\n1,kit fox\n2,English setter\n3,Siberian husky\n", (0, 1, 2)),
    "one-based to.json": ('{"kit fox": 1, "English setter": 2, "Siberian husky": 3}', (0, 1, 2)),
    "behind.txt": ("kit fox 2\nEnglish setter 1\nSiberian husky 0\n", (2, 1, 0)),
    "described.csv": ("name,comment\nkit fox,small\nEnglish setter,wags\nSiberian husky,howls\n", (0, 1, 2)),
}


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_of_the_outputs_follows_from_the_columns(tmp_path: Path, name: str) -> None:
    content, order = ORDERED[name]
    (tmp_path / name).write_text(content)
    found = read_class_names(tmp_path / name, 3)
    assert tuple(text.replace("_", " ") for text in found.names) == tuple(KINDS[i] for i in order)
    if "one-based" in name:
        assert any("counts from 1" in note and name in note for note in found.notes)
    if "n02119789" in content:
        ids = ("n02119789", "n02100735", "n02110185")
        assert found.synsets in ((), tuple(ids[i] for i in order))


SORTED = sorted(map(str, range(12)))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        # A class_to_idx of folders 0 … 11, as Python writes it: the values are the indices.
        (json.dumps({name: index for index, name in enumerate(SORTED)}), SORTED),
        (json.dumps({"8": 0, "10": 1, "9": 2}), ["8", "10", "9"]),
        (json.dumps({"0": "8", "1": "10", "2": "9"}), ["8", "10", "9"]),
        (json.dumps({"0": 3, "1": 7, "2": 5}), ["3", "7", "5"]),
        (json.dumps({"id2label": {"0": "2", "1": "0", "2": "1"}}), ["2", "0", "1"]),
        (json.dumps({"label2id": {"0": "2", "1": "0", "2": "1"}}), ["1", "2", "0"]),
        (json.dumps({"1": 0, "2": 1, "10": 2}), ["1", "2", "10"]),
    ],
)
def test_the_direction_of_a_mapping_follows_from_the_side_that_counts(
    tmp_path: Path, content: str, names: list[str]
) -> None:
    (tmp_path / "map.json").write_text(content)
    assert list(read_class_names(tmp_path / "map.json", len(names)).names) == names


def test_a_mapping_that_counts_on_both_sides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("0: 2\n1: 0\n2: 1\n")
    with pytest.raises(CnnvizError, match="either side could be the class index"):
        read_class_names(tmp_path / "map.yaml", 3)


def test_names_that_have_numbers_in_them_stay_whole(tmp_path: Path) -> None:
    for lines in (["class 0", "class 1"], ["3 of hearts", "4 of hearts"], ["7up 1", "7up 2"], ["a; b", "c; d"]):
        for name in ("a.txt", "a.csv"):
            (tmp_path / name).write_text("\n".join(lines))
            assert list(read_class_names(tmp_path / name, 2).names) == lines


@pytest.mark.parametrize("name", ["bomb.yaml", "bomb.json", "bomb.txt"])
def test_what_would_unfold_is_refused_at_once(tmp_path: Path, name: str) -> None:
    letters = "abcdefghij"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(letters)
    )
    nested = "[" * 100_000
    for content in (f"{{names: {bomb}", bomb, nested, "names: &a [*a]", f"names: {'[' * 70}{']' * 70}"):
        (tmp_path / name).write_text(content)
        began, said = time.perf_counter(), ""
        try:
            read_class_names(tmp_path / name)
        except CnnvizError as error:
            said = str(error)
        assert time.perf_counter() - began < 2
        assert len(said) < 3000
        assert said or not name.endswith("json")


def test_a_table_of_another_ending_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a.png,cat\n")
    names = ClassNames(["cat", "dog"], one_logit=False)
    with pytest.raises(CnnvizError, match="no class is called that, but a file is") as caught:
        ClassWords([str(tmp_path / "t.txt")], names)
    assert ".csv or .tsv" in caught.value.hint
    with pytest.raises(CnnvizError, match="no class is called"):
        ClassWords(["nope.txt"], names)


WITH_COMMAS = ("tabby, tabby cat", "tiger cat", "Egyptian cat", "car, 2", "tench, Tinca tinca")


@pytest.mark.parametrize(
    ("spec", "words", "told"),
    [
        ("1,4", ("1", "4"), 0),
        ("1, 99", ("1", "99"), 0),  # an index beyond the classes is told as one, where it is looked up
        ("tabby, tabby cat", ("tabby, tabby cat",), 0),
        ("Tabby,  tabby_cat", ("Tabby,  tabby_cat",), 0),
        ("tabby cat, tabby", ("tabby cat",), 0),  # two names of one class
        ("car, 2", ("car, 2",), 0),
        ("tiger cat,2", ("tiger cat", "2"), 1),
        ('"tabby, tabby cat",1', ("tabby, tabby cat", "1"), 1),
        ("pred,top:2", ("pred", "top:2"), 1),
        ("a,b.csv", ("a,b.csv",), 0),
        ("tiger cat@box:1,2,3,4", ("tiger cat@box:1,2,3,4",), 0),
        ("no, such", ("no, such",), 0),
    ],
)
def test_a_list_of_classes_is_taken_apart_and_a_label_with_commas_is_not(
    spec: str, words: tuple[str, ...], told: int
) -> None:
    notes: list[str] = []
    names = ClassNames(WITH_COMMAS, False, tell=notes.append)
    assert names.each([spec]) == words
    assert names.each_target([f"class:{spec}"]) == tuple(f"class:{word}" for word in words)
    assert len(notes) == 2 * told


def test_one_of_a_list_that_is_no_class_is_named() -> None:
    with pytest.raises(CnnvizError, match="read as a list: no class is called 'tiger kat'") as caught:
        ClassNames(WITH_COMMAS, False).each(["2,tiger kat"])
    assert caught.value.hint == "Did you mean tiger cat?"
    assert ClassNames(WITH_COMMAS, False).each_target(["diff:1,2", "box:1,2,3,4"]) == ("diff:1,2", "box:1,2,3,4")
