"""What training makes of a folder: classes, what pictures are for, and what it refuses or leaves out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.models.preprocess import Preprocess, prepare
from cnnviz.registry.training import TrainOptions
from cnnviz.training.folder import Folder, Picture, read_folder
from cnnviz.training.pixels import Shapes, augmentation
from tests.support.training import trained, write_classes

SHOWN = Preprocess((3, 32, 32), 37, (0.5,) * 3, (0.2,) * 3, "bilinear")


def _folder(root: Path, fraction: float = 0.2, seed: int = 0) -> Folder:
    return read_folder(str(root), fraction, seed, lambda text: None)


def _empty(root: Path, **counts: int) -> Path:
    """Files whose content nobody looks at yet."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number}.png").touch()
    return root


def _for(folder: Folder, part: str) -> set[tuple[str, str]]:
    return {(each.label, Path(each.ref.uri).name) for each in folder.pictures if each.part == part}


def test_a_share_of_each_class_validates(tmp_path: Path) -> None:
    folder = _folder(_empty(tmp_path, few=2, some=10, many=31))
    found = Counter(each.label for each in folder.pictures if each.part == "val")
    assert found == {"few": 1, "some": 2, "many": 6}
    assert Counter(each.label for each in folder.pictures) == {"few": 2, "some": 10, "many": 31}
    assert _for(_folder(tmp_path), "val") == _for(folder, "val")
    assert _for(_folder(tmp_path, seed=1), "val") != _for(folder, "val")
    assert Counter(each.label for each in _folder(tmp_path, 0.9).pictures if each.part == "train")["few"] == 1


def test_another_class_changes_no_choice_within_the_others(tmp_path: Path) -> None:
    before = _for(_folder(_empty(tmp_path, some=10, many=31)), "val")
    after = _for(_folder(_empty(tmp_path, another=7)), "val")
    assert {each for each in after if each[0] != "another"} == before


def test_folders_say_what_a_picture_is_for(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        _empty(tmp_path / part, cat=count, dog=count)
    (tmp_path / "train" / "readme.txt").touch()
    folder = _folder(tmp_path)
    assert folder.split == "folders"
    assert Counter((each.part, each.label) for each in folder.pictures) == {
        ("train", "cat"): 3, ("train", "dog"): 3, ("val", "cat"): 2, ("val", "dog"): 2,
    }  # fmt: skip
    assert folder.notes == ("left out, beside train/ and val/: test",)


def test_train_alone_has_the_classes(tmp_path: Path) -> None:
    folder = _folder(_empty(tmp_path / "train", cat=4, dog=4).parent)
    assert {each.label for each in folder.pictures} == {"cat", "dog"}
    assert folder.split == "fraction"


def test_a_class_may_have_folders_of_its_own(tmp_path: Path) -> None:
    _empty(tmp_path, dog=2)
    _empty(tmp_path / "cat", indoors=1, outdoors=1)
    assert Counter(each.label for each in _folder(tmp_path).pictures) == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("counts", "message", "hint"),
    [
        ({}, "has no class folders", "Put pictures into a folder for each class"),
        ({"cat": 3}, "has one class, 'cat'", "a folder for each class"),
        ({"cat": 3, "dog": 1}, "class 'dog' has a single picture", "train/ and val/"),
        ({"train/cat": 2, "train/dog": 2, "val/dogs": 1}, "val/ has the class 'dogs'", "Did you mean dog?"),
    ],
)
def test_folders_that_cannot_be_learned_from(counts: dict[str, int], message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lost.png").touch()
    with pytest.raises(CnnvizError, match=message) as raised:
        _folder(_empty(tmp_path / "in", **counts))
    assert hint in raised.value.hint


def test_what_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.touch()
    for root in (str(file), "https://example.org/pictures"):
        with pytest.raises(CnnvizError, match="is no local folder"):
            read_folder(root, 0.2, 0, lambda text: None)


def test_what_cannot_be_read_is_recorded_and_left_out(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in")
    (folder / "amber" / "broken.png").write_bytes((folder / "amber" / "0.png").read_bytes()[:3000])
    (folder / "amber" / "notes.txt").write_text("no picture")
    found, result, told = trained(folder, tmp_path / "o")
    assert result.exit_code == 3
    summary = found["summary"]
    assert (summary["explained"], summary["failed"], summary["passed_over"]) == (15, 1, 1)
    assert summary["failures"] == {"truncated": 1}
    assert sum(summary["training"]["pictures"].values()) == 15
    failed = [row for row in found["images"] if row["error"]]
    assert [row["path"] for row in failed] == [str(folder / "amber" / "broken.png")]
    assert told.rows == failed
    assert "truncated" in (tmp_path / "o" / "index.html").read_text()


def test_a_class_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in")
    for path in (folder / "jade").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CnnvizError, match="class 'jade' has no picture to learn from that can be read"):
        trained(folder, tmp_path / "o")
    assert not (tmp_path / "o" / "report.json").exists()
    shutil.rmtree(folder / "jade")
    for path in list((folder / "plum").iterdir())[1:]:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CnnvizError, match="'plum' has"):
        trained(folder, tmp_path / "o")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "resnet19"], "Did you mean resnet18"),
        (["--arch", "tests.support.tiny_model:make"], "no model called 'tests.support.tiny_model:make'"),
        (["--cut", "stage22"], "Did you mean stage2"),
        (["--cut", "-9"], "--cut -9: "),
        (["--freeze", "stage33"], "Did you mean stage3"),
        (["--freeze", "al"], "Did you mean all?"),
        (["-m", "resnet18"], "named by --arch"),
        (["--head", "gab"], "Did you mean gap"),
        (["--epochs", "0"], "--epochs 0"),
        (["--view", "tiles"], "trains at one input size"),
        (["--precision", "fp16"], "fp16"),
        (["-o", "-"], "writes several files"),
        (["--class", "1"], "No such option"),
    ],
)
def test_what_cannot_be_asked_for(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_classes(tmp_path / "in", 2)
    given = ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--input-size", "32", "-o", str(tmp_path / "o")]
    assert main(["train", str(folder), *given, *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_two_folders_are_one_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_classes(tmp_path / "in", 2))
    assert main(["train", folder, folder, "-o", str(tmp_path / "o")]) == 2
    assert "takes one folder, got 2" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in", 2)
    trained(folder, tmp_path / "o", epochs=1)
    with pytest.raises(CnnvizError, match="holds a run of cnnviz train") as raised:
        trained(folder, tmp_path / "o", epochs=1)
    assert "--resume" in raised.value.hint
    trained(folder, tmp_path / "o", epochs=1, overwrite=True, seed=5)
    assert json.loads((tmp_path / "o" / "report.json").read_text())["options"]["seed"] == 5


def _picture(part: str) -> Picture:
    return Picture(None, "cat", part)  # type: ignore[arg-type]


@pytest.mark.parametrize("view", ["crop", "squash"])
def test_what_validates_is_what_the_network_will_be_shown(view: str) -> None:
    shown = Preprocess((3, 32, 32), 37, (0.5,) * 3, (0.2,) * 3, "bilinear", view=view)
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    expected = prepare(rgb, shown)[0]
    assert torch.equal(Shapes(shown, 0.3).of(rgb, _picture("val")), expected)
    assert torch.equal(Shapes(shown, 1.0).of(rgb, _picture("train")), expected)


def test_pictures_to_crop_are_kept_as_large_as_crops_need() -> None:
    rgb = np.zeros((200, 300, 3), np.uint8)
    assert Shapes(SHOWN, 0.25).of(rgb, _picture("train")).shape == (3, 64, 96)
    assert Shapes(SHOWN, 0.25).of(rgb[:40], _picture("train")).shape == (3, 40, 300)
    squashed = Preprocess((3, 32, 48), 37, (0.5,) * 3, (0.2,) * 3, "bilinear", view="squash")
    assert Shapes(squashed, 0.25).of(rgb, _picture("train")).shape == (3, 64, 96)


def test_augmentation_crops_and_mirrors_as_often_as_it_says() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).contiguous()
    torch.manual_seed(0)
    plain = augmentation(SHOWN, TrainOptions(crop_scale=1.0, flip=0.0))
    assert torch.equal(plain(ramp), ramp)
    mirrored = augmentation(SHOWN, TrainOptions(crop_scale=1.0, flip=0.25))
    share = sum(bool(mirrored(ramp)[0, 0, 0] == 63) for _ in range(400)) / 400
    assert abs(share - 0.25) < 0.07
    cropped = augmentation(SHOWN, TrainOptions(crop_scale=0.25, flip=0.0))
    seen = [cropped(ramp).float() for _ in range(200)]
    assert {tuple(each.shape) for each in seen} == {(3, 32, 32)}
    # Of a square picture a crop of a quarter to the whole area, 3:4 to 4:3: 0.43 to 1 of its width.
    widths = [float(each[0, 0, -1] - each[0, 0, 0]) / 63 for each in seen]
    assert 0.40 < min(widths) < 0.55
    assert max(widths) > 0.9
    jittered = augmentation(SHOWN, TrainOptions(crop_scale=1.0, flip=0.0, jitter=0.5))
    assert len({int(jittered(ramp).sum()) for _ in range(5)}) == 5
