"""What is said of an ONNX file that cannot be explained, and of what one does not say."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.loading.trained import to_bytes
from cnnviz.models.onnx_files import compare, read
from cnnviz.models.surgery import Plan, cut_at, with_head
from cnnviz.settings import ModelSpec
from tests.support.loading import refused
from tests.support.networks import images
from tests.support.onnx_files import exported, graph_file

CONV = "a = Conv(x, w)  b = GlobalAveragePool(a)  y = Flatten(b)"
WEIGHTS = {"w": (4, 3, 3, 3)}
ROUNDED_UP = """net (float[1,3,8,8] x) => (float[1,4,9,9] y) {
    a = Conv(x, w)  s = Constant<value = int64[4] {1, 4, 9, 9}>()
    y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "ceil">(a,,, s)
}"""


def _simple(folder: Path, text: str = f"net (float[1,3,8,8] x) => (float[1,4] y) {{ {CONV} }}", **more: Any) -> str:
    return str(graph_file(folder / "network.onnx", text, **WEIGHTS, **more))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net (float[1,3,8,8] x, float[1] z) => (float[1,4] y) { %s }", r"has 2 inputs \(x \[1, 3, 8, 8\], z \[1\]\)"),
        ("net (uint8[1,3,8,8] u) => (float[1,4] y) { x = Cast<to = 1>(u) %s }", "takes uint8 numbers"),
        ("net (float[1,192] u) => (float[1,4] y) { x = Reshape(u, s) %s }", r"takes u \[1, 192\]; images are"),
        ("net (float[1,3,8,8] x) => (float[1,4] y) { %s  z = Det(m) }", "cannot be made a PyTorch network: .*'Det'"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_explained_is_refused_with_the_reason(text: str, said: str, tmp_path: Path) -> None:
    if "Det" in text:
        text = text.replace("z = Det(m)", "r = Constant<value = int64[3] {-1, 2, 2}>()  c = Reshape(x, r)  d = Det(c)")
        text = text.replace("float[1,4] y", "float[1,4] y, float[48] d")
    path = _simple(tmp_path, text % CONV, s=np.array([1, 3, 8, 8]))
    with pytest.raises(CnnvizError, match=said) as caught:
        load(ModelSpec(model=path))
    assert caught.value.hint


def test_a_conversion_that_computes_something_else_is_an_error(tmp_path: Path) -> None:
    """torch has no nearest neighbour that is rounded up."""
    assert "differs from onnxruntime by" in refused(model=_simple(tmp_path, ROUNDED_UP)).message


def test_a_batch_that_cannot_be_made_free_is_an_error(tmp_path: Path) -> None:
    text = """net (float[1,3,8,8] x) => (float[1,4] y) {
        a = Conv(x, w)  b = GlobalAveragePool(a)  s = Constant<value = int64[1] {-1}>()  c = Reshape(b, s)
        i = Constant<value = int64[1, 4] {3, 2, 1, 0}>()  y = Gather<axis = 0>(c, i)
    }"""
    error = refused(model=_simple(tmp_path, text))
    assert "the batch of 1 is built into it" in error.message
    assert "dynamic_axes" in error.hint


def test_without_onnxruntime_it_is_said_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _simple(tmp_path)
    assert any(note.startswith("compared with onnxruntime") for note in load(ModelSpec(model=path)).notes)
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    assert any(note.startswith("not compared with onnxruntime") for note in load(ModelSpec(model=path)).notes)


def test_warnings_of_the_converter_are_told_as_its_own_and_those_of_other_packages_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx2torch

    path = _simple(tmp_path, ROUNDED_UP)
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    convert = onnx2torch.convert

    def chatty(model: Any) -> Any:
        warnings.warn("an array is not writable", UserWarning, stacklevel=1)
        return convert(model)

    monkeypatch.setattr(onnx2torch, "convert", chatty)
    notes = load(ModelSpec(model=path)).notes
    [warned] = [note for note in notes if "nearest_mode" in note]
    assert warned.startswith("onnx2torch warns: Pytorch's nearest neighbor")
    assert not any("writable" in note for note in notes)


def test_without_the_extra_the_command_of_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "find_spec", lambda name: None)
    error = refused(model=_simple(tmp_path))
    assert (error.message.endswith("needs onnx, which is not installed."), error.hint) == (
        True,
        "pip install 'cnnviz[onnx]'",
    )


def test_options_that_do_not_go_with_a_file(tmp_path: Path) -> None:
    path = _simple(tmp_path)
    assert "--weights does not go with" in refused(model=path, weights="none").message
    assert "--checkpoint does not go with" in refused(model=path, checkpoint="best.pth").message
    assert "has 4 classes, --num-classes asks for 9" in refused(model=path, num_classes=9).message
    assert "there is no such file" in refused(model=str(tmp_path / "other.onnx")).message
    assert "network.onnx" in refused(model=str(tmp_path / "netwrok.onnx")).hint
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf")
    assert "is no valid ONNX file" in refused(model=str(tmp_path / "broken.onnx")).message


@pytest.mark.parametrize("text", ["{0: 'cat', 1: 'dog', 2: \"cow's\", 3: 'hen'}", '["cat", "dog", "cow\'s", "hen"]'])
def test_class_names_of_the_metadata(text: str, tmp_path: Path) -> None:
    import onnx

    path = _simple(tmp_path)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", text
    onnx.save(model, path)
    loaded = load(ModelSpec(model=path))
    assert loaded.labels == ("cat", "dog", "cow's", "hen")
    assert "class names from the file's 'names': cat, dog, cow's, …" in loaded.notes
    (tmp_path / "own.txt").write_text("a\nb\nc\nd\n")
    assert load(ModelSpec(model=path, labels=str(tmp_path / "own.txt"))).labels == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("['lr', 'momentum', 'nesterov', 'eps']", "has names of settings"),
        ("['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg']", "has names of files"),
        ("{" + "9" * 5000 + ": 'a', 1: 'b'}", ""),
        ("['a', 'b']", "has 2 names for 4 classes"),
    ],
)
def test_what_is_no_class_names_in_the_metadata_is_passed_over(text: str, why: str, tmp_path: Path) -> None:
    import onnx

    path = _simple(tmp_path)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", text
    onnx.save(model, path)
    loaded = load(ModelSpec(model=path))
    assert loaded.labels == ("class 0", "class 1", "class 2", "class 3")
    (note,) = [note for note in loaded.notes if note.endswith("classes are told by number; --labels FILE names them")]
    assert why in note


def test_what_the_file_does_not_say_is_told(tmp_path: Path) -> None:
    path = _simple(tmp_path)
    assert any(
        "assumed to be ImageNet's (mean, std, channel_order)" in note for note in load(ModelSpec(model=path)).notes
    )
    told = load(ModelSpec(model=path, mean=(0.5,), std=(0.5,), channel_order="bgr"))
    assert not any("assumed" in note for note in told.notes)
    assert told.preprocess.mean == (0.5, 0.5, 0.5)
    other = load(ModelSpec(model=path, input_size=(12, 16)))
    assert other.preprocess.input_size == (3, 12, 16)
    assert any(note.startswith("network.onnx says 8 x 8 pixels") for note in other.notes)


def test_a_network_that_was_cut_and_trained_loads_with_its_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    path = str(exported(network.eval(), tmp_path / "network.onnx", images(1, (32, 40))))
    loaded = load(ModelSpec(model=path))
    trunk, cut = cut_at(loaded.module, path, None, loaded.preprocess)
    made = with_head(trunk, Plan(path, "DEFAULT", cut, "gap", 0, ("a", "b"), loaded.preprocess), 1).eval()
    (tmp_path / "trained.safetensors").write_bytes(to_bytes(made))
    again = load(ModelSpec(checkpoint=str(tmp_path / "trained.safetensors")))
    assert (again.source, again.labels) == ("onnx", ("a", "b"))
    batch = images(2, (32, 40))
    with torch.no_grad():
        torch.testing.assert_close(again.module(batch), made(batch))


def test_commands_take_a_file(sample_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    path = str(exported(network.eval(), tmp_path / "network.onnx", images(1, (32, 40))))
    out = tmp_path / "out"
    picture = str(next(sample_images.glob("*.jpg")))
    assert main(["gradcam", picture, "-m", path, "-o", str(out), "--save", "none", "-q"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["model"]["source"], report["model"]["input_size"]) == ("onnx", [3, 32, 40])
    assert any("the largest difference is" in note for note in report["model"]["notes"])
    capsys.readouterr()
    assert main(["layers", path, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["default_target"]] == report["model"]["layers"]
    assert cnnviz.load_model(path).layers()[-1].name == report["model"]["layers"][0]
