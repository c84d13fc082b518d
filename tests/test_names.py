"""File names of classes: no two explanations of a run share a file."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnviz import pipeline
from cnnviz.io.names import unique_parts
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from tests.support.pictures import photograph
from tests.support.runs import TINY, Quiet

# Letters that meet again when case is folded or Unicode normalised, and what separates the parts of a name.
_TEXTS = st.text(st.sampled_from("aAbäÄßẞsſKK-01~_.·/é é"), max_size=5) | st.text(max_size=80)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(_TEXTS, max_size=8))
@example(["a", "a", "a-0"])
@example(["a", "A", "a-1", "a-1~2"])
@example(["ä", unicodedata.normalize("NFD", "ä"), "Ä"])
@example(["x" * 200, "x" * 300])
def test_every_text_gets_a_part_of_its_own(texts: list[str]) -> None:
    parts = unique_parts(texts)
    alike = {unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold()) for part in parts}
    assert len(alike) == len(texts) == len(parts)
    for text, part in zip(texts, parts, strict=True):
        assert part
        assert len(part.encode()) <= 80
        assert not set(part) & set("./\\ \0\n")
        if text.isascii() and text.isalnum() and sum(text.casefold() == other.casefold() for other in texts) == 1:
            assert part.startswith(text[:58])


def test_parts_are_the_labels_where_these_allow_it() -> None:
    labels = ["tabby", "crane", "St. Bernard", "crane", "jack-o'-lantern", "Käse"]
    assert unique_parts(labels) == ("tabby", "crane-1", "St_Bernard", "crane-3", "jack-o_-lantern", "Käse")


def test_an_image_and_a_class_are_told_apart_by_the_last_dots(tmp_path: Path) -> None:
    """The files ``x`` and ``x.a`` with the classes ``a.b`` and ``b``, and labels that differ by an index only."""
    photographs = tmp_path / "in"
    photographs.mkdir()
    for name in ("x", "x.a"):
        Image.fromarray(photograph(0)).save(photographs / name, "png")
    labels = tmp_path / "labels.txt"
    labels.write_text("a.b\nb\nsame\nsame\nsame-2\n")
    model = ModelSpec(model=TINY.model, labels=str(labels), input_size=TINY.input_size)
    out = tmp_path / "out"
    settings = RunSettings(
        "gradcam",
        (str(photographs),),
        model,
        TargetSettings("gradcam", {}, (), ("all",)),
        RuntimeSettings(device="cpu", workers=2),
        DrawSettings(save=("heatmap",)),
        OutputSettings(str(out)),
    )
    pipeline.run(settings, Quiet())
    report = json.loads((out / "report.json").read_text())
    named = [row["files"]["heatmap"] for image in report["images"] for row in image["explanations"]]
    assert len(named) == 10
    assert sorted(set(named)) == sorted(str(path.relative_to(out)) for path in out.rglob("*.heatmap.png"))
    assert len(set(named)) == 10
