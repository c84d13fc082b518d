"""Photographs in the place of a baseline: DeepSHAP, GradientSHAP and expected gradients against other computations."""

from __future__ import annotations

import itertools
import json
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnviz
from cnnviz import pipeline
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.methods.relevance import deeplift
from cnnviz.models.background import Background
from cnnviz.models.preprocess import Preprocess
from cnnviz.registry import lookup
from cnnviz.run.background import MOST, read_background
from tests.support import networks as nets
from tests.support.pictures import photograph
from tests.support.report_schema import problems
from tests.support.runs import tiny_options

METHODS = ["deeplift", "gradient_shap", "integrated_gradients"]
SPEC = Preprocess((3, 32, 32), 36, (0.4, 0.45, 0.5), (0.2, 0.25, 0.3), "bilinear")


def several(count: int, images: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(count, *images.shape[1:], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["deeplift", "integrated_gradients"])
def test_it_is_the_mean_over_the_photographs(method: str) -> None:
    """A background of several is the mean of the maps of each alone; its shares sum to what the scores differ by."""
    network, images = nets.TOYS["plain"].build(), nets.images()
    pictures = several(3, images)
    found = cnnviz.explain(network, images, method=method, target=[1, 3, 0], background=pictures)
    alone = [
        cnnviz.explain(network, images, method=method, target=[1, 3, 0], background=each[None]).raw for each in pictures
    ]
    torch.testing.assert_close(found.raw, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        ours, theirs = network(images), network(pictures).mean(0)
    for place, target in enumerate([1, 3, 0]):
        difference = float(ours[place, target] - theirs[target])
        assert found.scores["score_difference"][place] == pytest.approx(difference, rel=1e-4, abs=1e-6)
        assert float(found.raw[place].sum()) == pytest.approx(difference, rel=2e-2, abs=1e-3)


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(120, 4)
    )


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_deepshap_is_captums() -> None:
    captum = pytest.importorskip("captum.attr")
    network, images = nets.seeded(_convolutions)(), nets.images()
    pictures = several(4, images)
    found = cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0], background=pictures)
    peer = captum.DeepLiftShap(network.requires_grad_(True))
    theirs = peer.attribute(images, pictures, target=torch.tensor([1, 3, 0]))
    torch.testing.assert_close(found.raw, theirs.detach(), atol=1e-5, rtol=1e-3)


def test_on_a_linear_network_all_are_the_shapley_values_counted_out() -> None:
    """A player is a pixel in all its channels; without it stands the photograph's. Mean over all orders."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
        image, pictures = torch.randn(1, 3, 2, 2), torch.randn(3, 3, 2, 2)

    def score(shown: set[int]) -> float:
        mask = torch.tensor([float(player in shown) for player in range(4)]).reshape(1, 1, 2, 2)
        with torch.no_grad():
            return float(network(mask * image + (1 - mask) * pictures)[:, 1].mean())

    values = np.zeros(4)
    for order in itertools.permutations(range(4)):
        for place, player in enumerate(order):
            values[player] += score(set(order[: place + 1])) - score(set(order[:place]))
    values /= math.factorial(4)
    for method, more in (("deeplift", {}), ("integrated_gradients", {}), ("gradient_shap", {"samples": 3})):
        found = cnnviz.explain(network, image, method=method, target=1, background=pictures, **more)
        np.testing.assert_allclose(found.maps[0].numpy().reshape(-1), values, atol=1e-5)


def test_the_largest_of_two_is_shared_as_shapley_values_say() -> None:
    """Of max(a, b) between an image and a photograph whose order is the same, DeepLIFT is exact."""

    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.flatten(1).amax(1, keepdim=True), x.flatten(1)[:, :1]], 1)

    image = torch.tensor([[[[3.0, 1.0]]]])
    pictures = torch.tensor([[[[1.0, 0.5]]], [[[2.0, 0.0]]]])
    found = cnnviz.explain(Largest(), image, method="deeplift", target=0, background=pictures)

    def score(a: Tensor, b: Tensor) -> float:
        return float(torch.maximum(a, b).mean())

    a, b = image[0, 0, 0]
    c, d = pictures[:, 0, 0, 0], pictures[:, 0, 0, 1]
    first = ((score(a, d) - score(c, d)) + (score(a, b) - score(c, b))) / 2
    second = ((score(c, b) - score(c, d)) + (score(a, b) - score(a, d))) / 2
    assert found.maps[0, 0].tolist() == pytest.approx([first, second], abs=1e-6)


def test_in_python_a_path_is_one_too() -> None:
    spec = lookup.find_method("deeplift")
    assert spec.resolve_params({"background": Path("photos")}).to_dict()["background"] == "photos"
    with pytest.raises(CnnvizError, match="expected a word") as refused:
        spec.resolve_params({"background": [torch.zeros(3, 50, 50)]})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_beside_photographs_is_refused(method: str) -> None:
    spec = lookup.find_method(method)
    for given in ({"baseline": "black"}, {"background": "photos"}):
        assert given.items() <= spec.resolve_params(given).to_dict().items()
    for said in ("black", "zero", "random"):
        with pytest.raises(CnnvizError, match=f"background takes the place of baseline: {method} cannot have both"):
            spec.resolve_params({"baseline": said, "background": "photos"})
    both = spec.resolve_params({"background": "photos"}).to_dict()
    assert spec.resolve_params(both).to_dict() == both  # options of a run, all of them, are those of a run again


def test_what_is_no_background() -> None:
    network, images = nets.TOYS["plain"].build(), nets.images()
    for wrong, said in (
        (torch.zeros(3, 8, 8), "expected a float tensor"),
        (torch.zeros(2, 3, 5, 5), r"its photographs are \[3, 5, 5\]"),
        ("photos", "nobody knows how files become inputs"),
    ):
        with pytest.raises(CnnvizError, match=said):
            cnnviz.explain(network, images, method="deeplift", background=wrong)


def _folder(path: Path, count: int = 5) -> Path:
    path.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(photograph(number + 10, (70, 60))).save(path / f"{number}.png")
    return path


def test_photographs_are_read_as_the_network_is_shown_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = _folder(tmp_path / "b"), list[str]()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "labels.csv").write_text("path,label")
    (folder / "empty").write_bytes(b"")
    found = read_background(str(folder), SPEC, told.append)
    assert (str(found), found.found, len(found.pixels)) == (str(folder), 6, 5)
    assert any("broken.png" in text and "left out" in text for text in told)
    assert told[0] == f"--background {folder}: photographs are read"
    assert told[-1].startswith(f"--background {folder}: 5 of 6 photographs were read; the network runs on them")
    shorter = 36
    for number in range(5):
        with Image.open(folder / f"{number}.png") as image:
            scale = shorter / min(image.size)
            small = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BILINEAR)
        left, top = (round((side - 32) / 2) for side in small.size)
        shown = np.asarray(small.crop((left, top, left + 32, top + 32)), np.float32) / 255
        expected = torch.from_numpy((shown - SPEC.mean) / SPEC.std).permute(2, 0, 1).float()
        assert min(float((each - expected).abs().mean()) for each in found.pixels) < 0.05
    monkeypatch.setattr("cnnviz.run.background.MOST", 2)
    assert len(read_background(str(folder), SPEC).pixels) == 2
    assert MOST == 64
    with pytest.raises(CnnvizError, match=r"broken[.]png: the PNG data ends too early"):
        read_background(str(folder / "broken.png"), SPEC)


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = _folder(tmp_path / "photos", 2)
    folder = _folder(tmp_path / "b")
    words = [str(photos), *tiny_options(), "-o", str(tmp_path / "o"), "--overwrite", "--background", str(folder)]

    def run(*more: str) -> dict[str, Any]:
        assert main(["deeplift", *words, *more]) == 0
        report: dict[str, Any] = json.loads((tmp_path / "o" / "report.json").read_text())
        assert problems(report) == []
        return report

    first = run("--cache", str(tmp_path / "cache"))
    assert f"--background {folder}: 5 of 5 photographs were read" in capsys.readouterr().err
    row = first["images"][0]["explanations"][0]
    assert (row["scores"]["baseline"], row["scores"]["trials"]) == ("photographs", 5)
    assert (row["background"]["photographs"], row["background"]["of"]) == (5, 5)
    assert abs(row["scores"]["completeness_gap"]) < 1e-3
    assert first["options"]["background"] == str(folder)
    assert run("--cache", str(tmp_path / "cache"))["summary"]["cache"]["images"] == 2
    assert run("--no-cache", "--trials", "2")["images"][0]["explanations"][0]["scores"]["trials"] == 2
    # Other photographs of the same names are another background.
    Image.fromarray(photograph(99, (70, 60))).save(folder / "0.png")
    changed = run("--cache", str(tmp_path / "cache"))
    assert changed["summary"]["cache"]["images"] == 0
    assert changed["images"][0]["explanations"][0]["background"]["sha256"] != row["background"]["sha256"]
    assert main(["deeplift", *words[:-1], str(tmp_path / "nowhere")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_it_stays_the_path_that_was_typed() -> None:
    made = Background("photos/", torch.zeros(2, 3, 4, 4), 7)
    assert json.dumps({"background": made}) == '{"background": "photos/"}'
    assert made.facts(2)["photographs"] == 2
    assert made.digest != Background("photos/", torch.ones(2, 3, 4, 4), 7).digest


def test_a_run_goes_on_with_the_photographs_with_which_it_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = _folder(tmp_path / "photos", 1), _folder(tmp_path / "b", 2)
    words = ["deeplift", str(photos), *tiny_options(), "-o", str(tmp_path / "o"), "--background", str(folder)]
    assert main(words) == 0
    assert set(json.loads((tmp_path / "o" / "report.json").read_text())["option_files_sha256"]) == {str(folder)}
    _folder(photos, 2)
    assert main([*words, "--resume"]) == 0
    _folder(folder, 3)
    _folder(photos, 3)
    assert main([*words, "--resume"]) == 2
    assert f"{folder} changed since the run" in " ".join(capsys.readouterr().err.split())


def test_an_image_of_another_size_than_the_photographs_is_its_row(tmp_path: Path) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "b"
    for place, name, size in ((photos, "0", (64, 64)), (photos, "1", (64, 96)), (folder, "0", (64, 64))):
        place.mkdir(exist_ok=True)
        Image.fromarray(photograph(3, size)).save(place / f"{name}.png")
    words = [str(photos), *tiny_options(), "--resize", "64", "--view", "whole", "--background", str(folder)]
    assert main(["deeplift", *words, "-o", str(tmp_path / "o")]) == 3
    first, second = json.loads((tmp_path / "o" / "report.json").read_text())["images"]
    assert first["explanations"]
    assert second["error"]["type"] == "other-size"


def test_passes_of_many_photographs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds the activations of a batch and its baselines: as many as photographs would fill the memory."""
    network, images, alive, most = nets.TOYS["plain"].build(), nets.images(), set[int](), [0]
    made = deeplift._pass

    def counted(*given: Any) -> tuple[Tensor, Any]:
        both, output = made(*given)
        alive.add(id(both))
        weakref.finalize(both, alive.discard, id(both))
        most[0] = max(most[0], len(alive))
        return both, output

    monkeypatch.setattr(deeplift, "_pass", counted)
    cnnviz.explain(network, images, method="deeplift", target=[1, 3, 0], background=several(6, images))
    assert 1 <= most[0] <= 2


@pytest.mark.parametrize("named", ["folder", "list"])
def test_other_photographs_are_another_run(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of a comparison names them within its options, and a list is the same when its images are others."""
    monkeypatch.setattr(pipeline, "own_code", list)
    photos, folder = _folder(tmp_path / "photos", 1), _folder(tmp_path / "b", 1)
    (tmp_path / "b.txt").write_text("b/0.png\n")
    network = "timm/test_efficientnet --weights none --input-size 48 --num-classes 2".split()
    words = ["grid", str(photos), "-m", *network, "-o", str(tmp_path / "o"), "--cache", str(tmp_path / "cache")]
    words += ["--method", f"deeplift:background={folder if named == 'folder' else tmp_path / 'b.txt'}", "--overwrite"]

    def taken() -> bool:
        assert main(words) == 0
        return bool(json.loads((tmp_path / "o" / "report.json").read_text())["summary"]["cache"]["run"])

    assert [taken(), taken()] == [False, True]
    Image.fromarray(photograph(99, (70, 60))).save(folder / "0.png")
    assert not taken()
