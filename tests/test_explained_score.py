"""What is no class has no probability: pages and pictures say the score that its map explains, by its name."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.render.overlay import UNSEEN
from cnnviz.report import record_words as words
from tests.support.pictures import photograph, pixels
from tests.support.runs import ran
from tests.support.written import listen


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"kind": "diff", "score": 3.24, "unit": "logit"}, "difference of logits 3.24"),
        ({"kind": "diff", "score": -0.5, "unit": "probability"}, "difference of probabilities -0.5"),
        ({"kind": "diff", "score": 1.0, "unit": "activation"}, "difference of activations 1"),
        ({"kind": "diff", "score": 1.0}, "difference of values 1"),
        ({"kind": "unit", "score": 12.345, "reduction": "sum"}, "sum of activations 12.3"),
        ({"kind": "unit", "score": 1.7, "reduction": "strongest"}, "strongest activation 1.7"),
        ({"kind": "neuron", "score": 1.7, "reduction": None}, "activation 1.7"),
        ({"kind": "similar", "score": 0.831}, "cosine 0.831"),
        ({"kind": "embedding", "score": 0.2}, "value 0.2"),
        ({"kind": "output", "score": 31.0, "sign": 1}, "value 31"),
        ({"kind": "output", "score": -31.0, "sign": -1}, "negative value -31"),
        ({"kind": "caption", "score": -7.5}, "sum of its words' scores -7.5"),
        ({"kind": "unit", "score": None}, ""),
        ({"label": "cat", "probability": 0.5, "logit": 2.0}, ""),
        (None, ""),
    ],
)
def test_a_score_is_called_what_it_is(target: Any, said: str) -> None:
    assert words.target_value({"probability": None, **target} if target else target) == said


def _asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, **parts: Any) -> tuple[Any, list[str], str]:
    """The record of a photograph, what is written in its pictures, and its page."""
    photo = tmp_path / "0.png"  # wide enough for words
    Image.fromarray(np.tile(photograph(0), (4, 8, 1))).save(photo)
    written = listen(monkeypatch)
    report, _, _ = ran(command, [photo], tmp_path / "out", **parts)
    page = html.unescape((tmp_path / "out" / "index.html").read_text())
    return report["images"][0], [text for text, _ in written], page


def test_panel_legend_and_page_have_the_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ("diff:0,1", "unit:4:1", "unit:4:1/strongest", "neuron:4:1:3:3")
    record, written, page = _asked(
        tmp_path, monkeypatch, "saliency", targets=targets, classes=(), save=("panel", "overlay"), legend=True
    )
    names = ("difference of logits", "sum of activations", "strongest activation", "activation")
    for row, name in zip(record["explanations"], names, strict=True):
        target = row["target"]
        said = f"{name} {target['score']:.3g}"
        assert written.count(said) == 1  # of the panel
        assert f"<strong>{target['label']}</strong> {said}<p" in page
        assert sum(text == f"{target['label']}, {said}" for text in written) == 1  # of the legend
    first = record["explanations"][0]["target"]
    assert first["unit"] == "logit"
    assert first["score"] == pytest.approx(first["first"]["logit"] - first["second"]["logit"], abs=1e-5)


def test_the_panel_of_several_methods_has_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"params": {"method": ("gradcam", "saliency")}, "targets": ("diff:0,1",), "classes": (), "save": ("panel",)}
    record, written, _ = _asked(tmp_path, monkeypatch, "grid", **more)
    target = record["explanations"][0]["target"]
    assert f"{target['label']}, difference of logits {target['score']:.3g}" in written


def test_a_gradient_that_starts_at_a_unit_is_of_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page had the predicted class and its probability, and said that the map depends on it."""
    more = {"params": {"unit": 1}, "layers": ("2",), "save": ("panel",)}
    record, written, page = _asked(tmp_path, monkeypatch, "guided", **more)
    [row] = record["explanations"]
    said = f"activation {row['scores']['unit_activation']:.3g}"
    assert written.count("unit 1 of 2, its strongest position") == written.count(said) == 1
    assert f"<strong>unit 1 of 2, its strongest position</strong> {said}<p" in page
    assert "<dt>depends on the class</dt><dd>no</dd>" in page
    assert row["target"]["label"] not in written


def test_the_panel_of_a_gradient_frames_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, written, _ = _asked(tmp_path, monkeypatch, "guided", save=("panel",))
    assert record["seen_xywh"][2] < record["width"]
    assert written.count(UNSEEN) == 1
    panel = pixels(tmp_path / "out" / record["explanations"][0]["files"]["panel"])
    half = panel[:, panel.shape[1] // 2 :]
    # The frame around what was seen: a column of its grey, between light grey and the gradient.
    assert (np.abs(half.astype(int) - 64).max(axis=2) <= 24).sum(axis=0).max() > 0.5 * half.shape[0]
