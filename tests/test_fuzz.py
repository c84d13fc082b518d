"""Files of unknown origin, changed at random: a sentence or a result, never another exception.

The same examples at each run, a second or so for each kind. ``CNNVIZ_FUZZ=60 pytest tests/test_fuzz.py`` looks for a
minute at each, at other examples every time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from cnnviz.cli.shared import shared_options
from cnnviz.cli.values import from_config
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.io.config_file import read_config
from cnnviz.io.decode import decode
from cnnviz.io.label_files import read_class_names
from cnnviz.io.label_tables import read_label_table
from cnnviz.io.names import unique_parts
from cnnviz.io.sources import ImageRef, find_images, read_bytes
from cnnviz.io.store import Store
from cnnviz.io.structured import load_json, load_yaml
from cnnviz.models.loading.checkpoint import read_checkpoint
from cnnviz.models.loading.checkpoint_fit import classes_in, load_checkpoint
from cnnviz.records import RunHeader
from cnnviz.run.folder import RunFolder
from cnnviz.settings import OutputSettings, RunSettings
from cnnviz.strict_json import to_json
from cnnviz.tasks.base import Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.class_selection import TargetSelector
from cnnviz.tasks.classification import Classification

_LONG = os.environ.get("CNNVIZ_FUZZ")
_SECONDS = float(_LONG or 0.6)
_LONGEST_MESSAGE = 5_000

fuzz = settings(
    derandomize=_LONG is None,
    max_examples=int(150 * _SECONDS) if _LONG else 60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Watch:
    """Examples after the time of their kind are passed over; the first ones are the same on every machine."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def spent(self, kind: str) -> bool:
        return time.monotonic() > self._until.setdefault(kind, time.monotonic() + _SECONDS)


WATCH = Watch()


@contextlib.contextmanager
def a_sentence_or_nothing() -> Any:
    """Our own errors are sentences of a bearable length; any other exception fails the test."""
    said: CnnvizError | None = None
    try:
        yield
    except CnnvizError as error:
        said = error
    if said is not None:
        assert said.message.strip()
        assert max(len(said.message), len(said.hint)) < _LONGEST_MESSAGE
        assert "internal" not in said.message


_TOKENS = (
    *(b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud800"),
    *(b"\n", b"\r", b"\t", b",", b";", b":", b'"', b"'", b"- ", b"[", b"]", b"{", b"}", b"../", b"/", b"=cmd"),
    *(b"&a ", b"*a", b"!!", b"<<: ", b"null", b"true", b"NaN", b"1e999", b"-1", b"0", b"9" * 400, b"9" * 5000),
    *(b"n01440764 ", b'"path"', b'"explanations":[1],', b"[" * 5000),
)


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few bytes replaced, removed, repeated or put in; now and then cut off, or noise."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data), 1)))
        size = draw(st.integers(0, 8) | st.integers(0, max(len(data), 1)))
        new = draw(st.sampled_from(_TOKENS) | st.binary(max_size=8))
        kind = draw(st.sampled_from("replace insert remove repeat cut".split()))
        if kind == "replace":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + size :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + size] * draw(st.integers(2, 40)) + data[at:]
        else:
            data = data[:at]
    return data[: 1 << 18]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# Images.


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8))
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (rgb.convert("RGBA"), "PNG", {}),
        (rgb.convert("I;16") if hasattr(Image, "I16") else rgb.convert("L"), "PNG", {}),
        (rgb, "JPEG", {"exif": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00"}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("L"), "JPEG", {"progressive": True}),
        (rgb.convert("P"), "GIF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb, "WEBP", {"lossless": True}),
        (rgb.convert("RGBA"), "WEBP", {}),
        (rgb, "BMP", {}),
        (rgb, "PPM", {}),
    ]
    found = []
    for image, kind, options in kinds:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())
    return found


@pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.(Jpeg|Png|Tiff)ImagePlugin")
@fuzz
@given(changed(_pictures()))
def test_images(data: bytes) -> None:
    if WATCH.spent("images"):
        return
    with a_sentence_or_nothing():
        found = decode(data, max_pixels=1_000_000)
        assert found.rgb.dtype == np.uint8
        assert found.rgb.shape == (found.height, found.width, 3)
        assert found.rgb.size > 0


# Labels, classes and tables.

LABELS = (
    b"tench\ngoldfish\ngreat white shark\n",
    b"n02119789 1 kit_fox\nn02100735 2 English_setter\nn02110185 3 Siberian_husky\n",
    b"0;cat\n1;dog\n2;fish\n",
    b"index,name\n0,cat\n1,dog\n2,fish\n",
    b"name\tid\ncat\t1\ndog\t2\nfish\t3\n",
    b'{"0": "cat", "1": "dog", "2": "fish"}',
    b'{"cat": 0, "dog": 1, "fish": 2}',
    b'{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "2": [1, 2]}',
    b'{"id2label": {"0": "2", "1": "0", "2": "1"}}',
    b'["cat", {"name": "dog"}, ["n1", "fish"]]',
    b"names:\n  0: cat\n  1: dog\n  2: fish\n",
    b"names: &a [cat, dog, fish]\nother: *a\n",
    b"- cat\n- 1\n- no\n",
)


@fuzz
@given(changed(LABELS), st.sampled_from(["txt", "csv", "tsv", "json", "yaml", "names"]), st.sampled_from([None, 1, 3]))
def test_label_files(folder: Path, data: bytes, suffix: str, count: int | None) -> None:
    if WATCH.spent("labels"):
        return
    path = folder / f"labels.{suffix}"
    path.write_bytes(data)
    with a_sentence_or_nothing():
        found = read_class_names(path, count)
        assert found.names
        assert all(isinstance(name, str) for name in found.names)
        assert count is None or len(found.names) in (count, 2)
        assert found.synsets == () or len(found.synsets) == len(found.names)
        classes = ClassNames(found.names, count == 1, found.synsets)
        assert len(set(unique_parts(classes.labels))) == len(classes)
        for index, label in enumerate(classes.labels):
            if classes.labels.count(label) == 1 and label.strip():
                assert classes.exact(label) == classes.resolve(label) == index or label != label.strip()


_SPECS = st.text() | st.sampled_from(["top:", "pred", "n01440764", "crane", "0", "cat", "x.csv"]).flatmap(
    lambda start: st.text(st.sampled_from("0123456789²٣:-_ .,catn/\x00\ud800")).map(lambda end: start + end)
)


@fuzz
@given(_SPECS, st.sampled_from([("cat", "tiger cat", "crane", "crane"), ("class 0", "class 1"), ("0", "1", "10")]))
def test_class_specs(folder: Path, spec: str, labels: tuple[str, ...]) -> None:
    if WATCH.spent("classes"):
        return
    classes = ClassNames(labels, False)
    with a_sentence_or_nothing():
        found = TargetSelector(Words([spec]), Classification(classes)).select(
            ImageRef("a/b.png", "b.png", 0, folder="cat"), torch.zeros(len(labels))
        )
        assert all(0 <= index < len(labels) for index in found)
        assert found
    with a_sentence_or_nothing():
        assert 0 <= classes.exact(spec) < len(labels)


TABLES = (
    b"path,label\na.png,cat\nsub/b.png,dog\n",
    b"label;filename\ncat;a.png\ndog;b.png\n",
    b"a.png,cat\nb.png,1\nhttps://example.invalid/x.png,dog\n",
    b'\xef\xbb\xbfpath,class_index\n"a.png",0\n"b,c.png",99\n',
    b"a.png\nsub/b.png\n\n../c.png\n",
)


@fuzz
@given(changed(TABLES), st.sampled_from(["csv", "txt"]))
def test_lists_and_tables(folder: Path, data: bytes, suffix: str) -> None:
    if WATCH.spent("tables"):
        return
    path = folder / f"list.{suffix}"
    path.write_bytes(data)
    with a_sentence_or_nothing():
        target_selector = TargetSelector(Words(), Classification(ClassNames(("cat", "dog"), False)))
        for ref in find_images([str(path)]):
            target_selector.truth(ref)
            assert ".." not in ref.name.split("/")
            if "://" not in ref.uri and "::" not in ref.uri:
                with contextlib.suppress(ImageError):
                    read_bytes(ref)
    with a_sentence_or_nothing():
        read_label_table(str(path))


# Configurations and structured text.

CONFIGS = (
    b"alpha: 0.4\nclass: [cat, 1]\nmean: [0.5, 0.5, 0.5]\nseed: 3\n",
    b"layer: -1\nsave: overlay,heatmap\ncompile: off\nresume: true\n",
    b"a: &a [1, 2]\nalpha: *a\n? [x]\n: 1\n",
    b"input-size: 224\nbatch_size: 4\nout: 2024-01-01\nlimit: !!int 3\n",
)


@fuzz
@given(changed(CONFIGS))
def test_configurations(folder: Path, data: bytes) -> None:
    if WATCH.spent("config"):
        return
    path = folder / "config.yaml"
    path.write_bytes(data)
    options = dict(shared_options())
    with a_sentence_or_nothing():
        assert set(from_config(read_config(str(path)), options, lambda key: str(path))) <= set(options)


@fuzz
@given(changed((*CONFIGS, *LABELS)), st.booleans())
def test_structured_text(data: bytes, plain: bool) -> None:
    if WATCH.spent("structured"):
        return
    text = data.decode("utf-8", "replace")
    for load in (load_json, lambda text: load_yaml(text, plain=plain)):
        with contextlib.suppress(ValueError):
            load(text)


# Checkpoints.


def _net() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), head=nn.Linear(2, 3)))


def _checkpoints() -> list[bytes]:
    from safetensors.torch import save

    tensors = dict(_net().state_dict())
    odd = {**tensors, "head.weight": torch.ones(3, 2, dtype=torch.int64), "head.bias": torch.ones(3).to_sparse()}
    found = []
    for content in (tensors, {"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "epoch": 1}, odd):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=zipped)
            found.append(stream.getvalue())
    return [*found, save(tensors)]


@fuzz
@given(changed(_checkpoints()))
def test_checkpoints(folder: Path, data: bytes) -> None:
    if WATCH.spent("checkpoints"):
        return
    path = folder / "net.pth"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with a_sentence_or_nothing():
            checkpoint = read_checkpoint(path)
            classes_in(checkpoint, _net())
            load_checkpoint(checkpoint, _net())


# The files of a run.

_HEADER = RunHeader("0", "gradcam", RunSettings("gradcam", ("a.png",)).options(), {"name": "net"}, {}, {})
_RECORD = {
    "path": "a.png",
    "width": 4,
    "height": 3,
    "label": None,
    "predictions": [{"class_index": 0, "label": "cat", "probability": 0.5, "logit": 1.0}],
    "explanations": [
        {
            "method": "gradcam",
            "layer": "x",
            "target": {"class_index": 0, "label": "cat", "probability": 0.5, "logit": 1.0},
            "files": {"overlay": "images/a.png.cat.gradcam.overlay.png"},
            "scores": {"min": 0.0, "max": 1.0, "peak": [1, 2], "box_xywh": [0, 0, 1, 1], "flat": False},
        }
    ],
    "error": None,
}
RECORDS = (
    "".join(to_json({**_RECORD, "path": name}) + "\n" for name in ("a.png", "b.png")).encode(),
    (to_json({**_RECORD, "error": {"type": "x", "message": "y"}}) + "\n" + to_json(_RECORD)).encode(),
    b'{"path":["x"]}\n{"path":"a.png","explanations":{"files":1},"predictions":3}\n',
    b'{"path":"a.png","explanations":[{"files":["x"]},{"files":{"overlay":3}}],"error":[]}\n',
)
REPORTS = (to_json(_HEADER.to_dict()).encode(), b"[1]", b'{"options": 3}', b'{"files": {"a": 1}, "options": {}}')


@fuzz
@given(changed(RECORDS), changed(REPORTS) | st.just(REPORTS[0]), st.booleans())
def test_the_files_of_an_earlier_run(folder: Path, records: bytes, report: bytes, resume: bool) -> None:
    if WATCH.spent("records"):
        return
    out = folder / "out"
    out.mkdir(exist_ok=True)
    for old in out.rglob("*"):
        if old.is_file():
            old.unlink()
    (out / "records.jsonl").write_bytes(records)
    (out / "report.json").write_bytes(report)
    _run_again(out, OutputSettings(str(out), resume=resume, overwrite=not resume))


@pytest.mark.parametrize("records", RECORDS)
def test_records_as_they_are(tmp_path: Path, records: bytes) -> None:
    """None of those that are changed above ends with a crash as it is."""
    (tmp_path / "records.jsonl").write_bytes(records)
    (tmp_path / "report.json").write_bytes(REPORTS[0])
    _run_again(tmp_path, OutputSettings(str(tmp_path), resume=True))


def _run_again(out: Path, output: OutputSettings) -> None:
    settings = RunSettings("gradcam", ("a.png",), output=output)
    with a_sentence_or_nothing(), RunFolder(Store(str(out)), settings, lambda text: None) as run_folder:
        run_folder.begin(_HEADER)
        ref, earlier = run_folder.claim(ImageRef("a.png", "a.png", 0))
        if earlier is not None:
            assert earlier.input is not None
            run_folder.keep(earlier)
        else:
            run_folder.append({**_RECORD, "path": "a.png", "name": ref.name})
        run_folder.close({"inputs": 1}, "again")
        strict: Callable[[str], Any] = lambda text: pytest.fail(f"{text} in JSON")  # noqa: E731
        written = json.loads((out / "report.json").read_bytes(), parse_constant=strict)
        assert "a.png" in [image["path"] for image in written["images"]]
        assert (out / "index.html").read_bytes().endswith(b"</html>\n")
