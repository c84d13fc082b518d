"""The examples of captions and questions: drawn as their sentences say; their small forms run and count right."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
MODULES = {"run", "caption_scenes", "caption_network", "vqa_network"}


def opened(name: str) -> Iterator[Any]:
    """The script of an example; the names of its modules are free again afterwards."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES / name))
        sys.modules.pop("run", None)
        import run

        yield run
    for module in MODULES - before:
        sys.modules.pop(module, None)


@pytest.fixture
def captions() -> Iterator[Any]:
    yield from opened("captions")


@pytest.fixture
def vqa() -> Iterator[Any]:
    pytest.importorskip("easy_vqa")
    yield from opened("vqa")


@pytest.mark.parametrize("seed", range(8))
def test_scenes_are_drawn_as_their_sentences_say(captions: Any, seed: int) -> None:
    scenes = sys.modules["caption_scenes"]
    scene = scenes.scene(seed)
    first, second = (thing.mask() for thing in (scene.first, scene.second))
    assert not (first * second).any()
    for thing, mask in ((scene.first, first), (scene.second, second)):
        shown = scene.picture()[mask > 0.99].mean(axis=0)
        nearest = min(scenes.COLOURS, key=lambda name: float(np.abs(shown - scenes.COLOURS[name]).sum()))
        assert nearest == thing.colour
        assert 0.03 < mask.mean() < 0.16
    (y, x), (v, u) = (np.argwhere(mask > 0.5).mean(axis=0) for mask in (first, second))
    assert (x < u) if "left" in scene.words else (y < v)
    assert abs(x - u) > abs(y - v) if "left" in scene.words else abs(x - u) < abs(y - v)
    other = scene.exchanged()
    assert other.words[1:3] == scene.words[-2:]
    assert other.words[-2:] == scene.words[1:3]
    assert other.exchanged() == scene


@pytest.mark.slow
def test_captions_in_the_small_form(captions: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    found = captions.main(["--small", "--folder", str(tmp_path / "work"), "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert "sentences exact" in capsys.readouterr().out
    # What it writes is what the network writes here.
    networks, scenes = sys.modules["caption_network"], sys.modules["caption_scenes"]
    network = networks.build_small().eval()
    network.load_state_dict(torch.load(tmp_path / "work" / "captioner.pth", weights_only=True))
    shown = [scenes.scene(captions.TESTED + number) for number in range(captions.SMALL.explained)]
    report = json.loads((tmp_path / "work" / "scenes-gradcam" / "report.json").read_text())
    for image, scene in zip(report["images"], shown, strict=True):
        pixels, _ = networks.inputs_of([scene])
        words = [scenes.VOCABULARY[token] for token in network.generate(pixels)[0].tolist()]
        assert image["text"] == " ".join(word for word in words if not word.startswith("<"))


def test_peaks_are_counted_on_the_object_of_the_word(captions: Any) -> None:
    """Of a made-up report: the colour of the first object on itself, its shape on the other object."""
    scene = sys.modules["caption_scenes"].scene(3)
    own, other = (np.argwhere(thing.mask() > 0.9)[0] for thing in (scene.first, scene.second))

    def row(word: str, place: Any) -> dict[str, Any]:
        peak = [int(place[1]), int(place[0])]
        return {"target": {"kind": "token", "label": word}, "scores": {"peak": peak}}

    rows = [row(scene.first.colour, own), row(scene.first.shape, other)]
    found = captions.peaks({"images": [{"text": " ".join(scene.words), "explanations": rows}]}, [scene])
    assert (found["colour"]["own"], found["colour"]["other"]) == (1, 0)
    assert (found["shape"]["own"], found["shape"]["other"]) == (0, 1)
    assert found["shape"]["chance"] == pytest.approx(float(scene.first.mask().mean()))
    assert captions.peaks({"images": [{"text": "something else", "explanations": rows}]}, [scene]) == {}


@pytest.mark.slow
def test_questions_in_the_small_form(vqa: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    found = vqa.main(["--small", "--folder", str(tmp_path / "work"), "--out", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert "answered rightly" in capsys.readouterr().out
    networks = sys.modules["vqa_network"]
    network = networks.build_small().eval()
    network.load_state_dict(torch.load(tmp_path / "work" / "vqa.pth", weights_only=True))
    question = vqa.QUESTIONS[0]
    folder = "-".join(networks.words_of(question))
    report = json.loads((tmp_path / "work" / "gradcam" / folder / "report.json").read_text())
    assert report["options"]["question"] == question
    pixels = networks.inputs_of([image["path"] for image in report["images"]])
    asked = torch.tensor([network.encode(question)]).expand(len(pixels), -1)
    with torch.no_grad():
        best = network(pixels, asked).argmax(1).tolist()
    assert [image["predictions"][0]["label"] for image in report["images"]] == [network.answers[k] for k in best]


def test_shapes_are_found_by_their_colour(vqa: Any) -> None:
    """The answer of the package says which colour what is found has."""
    networks, colours = sys.modules["vqa_network"], {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
    files, seen = networks.paths("test"), 0
    for question, answer, number in networks.questions("test")[:400]:
        if question == "what color is the shape?" and answer in colours:
            rgb = networks.picture(files[number])
            shape = networks.shape_of(rgb)
            assert 0.005 < shape.mean() < 0.4
            assert np.abs(np.median(rgb[shape], axis=0) - colours[answer]).max() < 30
            seen += 1
    assert seen > 3
