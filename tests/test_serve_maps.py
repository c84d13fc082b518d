"""Maps, layers and jobs of the live explorer are those of runs."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnviz.errors import CnnvizError
from cnnviz.io.decode import decode
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec
from cnnviz.serve.engine import Explorer
from cnnviz.serve.places import cell_at
from cnnviz.serve.questions import Question
from cnnviz.settings import ModelSpec, RunSettings, TargetSettings
from tests.support.runs import TINY, ran
from tests.support.serving import Served, photo, served, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def site(photos: Path) -> Iterator[Served]:
    with served(photos, model=TINY) as running:
        yield running


def read_npz(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name] for name in stored.files}


def test_names_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9t\xe9.png")
    (tmp_path / name).write_bytes(photo(1))
    with served(tmp_path, model=TINY) as running:
        (image,) = (each["image"] for each in running.ask("/api/model").json["samples"])
        answer = running.ask("/api/explain", {"image": image, "method": "gradcam"})
        assert answer.status == 200
        assert answer.json["record"]["path"].endswith(name)


def test_a_refusal_is_remembered(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"image": "sample-0", "method": "chefer"}
    first = site.ask("/api/explain", asked)
    assert first.status == 400
    with monkeypatch.context() as patched:
        patched.setattr(site.explorer, "_explained", None)
        again = site.ask("/api/explain", asked)
        assert (again.status, again.json) == (400, first.json)
        assert site.ask("/api/explain", {**asked, "image": "no-such"}).json != first.json
    assert site.ask("/api/explain", {**asked, "method": "gradcam"}).status == 200


# Maps are those of a run.


@pytest.mark.parametrize(
    ("method", "more", "parts"),
    [
        ("gradcam", {}, {}),
        ("gradcam", {"target": "class:3", "layer": "0"}, {"classes": ("3",), "layers": ("0",)}),
        ("hirescam", {"target": "unit:3:2"}, {"classes": (), "targets": ("unit:3:2",)}),
        (
            "occlusion",
            {"options": {"window": 24, "stride": [8, 8]}},
            {"params": {"window": (24, 24), "stride": (8, 8)}},
        ),
        ("guided", {"score": "logit"}, {}),
    ],
)
def test_a_map_and_its_figures_are_those_of_a_run(
    site: Served, tmp_path: Path, method: str, more: dict[str, Any], parts: dict[str, Any]
) -> None:
    data = photo(7)
    (tmp_path / "dropped.png").write_bytes(data)
    report, _, _ = ran(method, [tmp_path / "dropped.png"], tmp_path / "out", save=("raw", "overlay"), **parts)
    expected = report["images"][0]
    image = site.drop(data)["image"]
    answer = site.ask("/api/explain", {"image": image, "method": method, **more})
    assert answer.status == 200, answer.body
    made = answer.json
    (got,), (want,) = made["record"]["explanations"], expected["explanations"]
    files, got["files"] = want["files"], {}
    stored = read_npz((tmp_path / "out" / files["raw"]).read_bytes())
    downloaded = read_npz(site.ask(f"/api/results/{made['result']}/download/raw").body)
    assert set(downloaded) == set(stored)
    for name, array in stored.items():
        np.testing.assert_allclose(downloaded[name], array, rtol=1e-5, atol=1e-7 * max(1.0, float(np.abs(array).max())))
    assert {**got, "scores": None, "drawn_limits": None, "target": None} == {
        **want, "scores": None, "drawn_limits": None, "target": None, "files": {}
    }  # fmt: skip
    assert got["scores"]["peak"] == want["scores"]["peak"]
    assert got["scores"]["max"] == pytest.approx(want["scores"]["max"], rel=1e-4)
    assert got["target"]["label"] == want["target"]["label"]
    for mine, theirs in zip(made["record"]["predictions"], expected["predictions"], strict=True):
        assert mine == pytest.approx(theirs)
    overlay = site.ask(f"/api/results/{made['result']}/download/overlay?alpha=0.5").body
    there = decode((tmp_path / "out" / files["overlay"]).read_bytes()).rgb
    assert np.abs(decode(overlay).rgb.astype(int) - there.astype(int)).max() <= 1


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_the_layer_over_the_photograph_is_the_overlay(site: Served, method: str) -> None:
    """Blended here as a browser blends it."""
    data = photo(2)
    image = site.drop(data)["image"]
    made = site.ask("/api/explain", {"image": image, "method": method}).json
    key = made["result"]
    answer = site.ask(f"/api/results/{key}/layer.png?alpha=0.6&colormap={'coolwarm' if made['signed'] else 'viridis'}")
    with Image.open(io.BytesIO(answer.body)) as picture:
        layer = np.asarray(picture).astype(float)
    rgb = decode(data).rgb.astype(float)
    weight = layer[..., 3:] / 255
    blended = rgb * (1 - weight) + layer[..., :3] * weight
    query = f"alpha=0.6&colormap={'coolwarm' if made['signed'] else 'viridis'}"
    overlay = decode(site.ask(f"/api/results/{key}/download/overlay?{query}").body).rgb.astype(float)
    left, top, width, height = made["record"]["seen_xywh"]
    inside = np.s_[top : top + height, left : left + width]
    assert np.abs(blended[inside] - overlay[inside]).max() <= 2
    assert float(np.ptp(layer[inside][..., :3])) > 100


def test_a_second_method_at_the_layer_shares_the_pass_and_nothing_else(
    site: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnviz.engine.session import Session

    for method in ("gradcam", "layercam"):  # examined
        site.ask("/api/explain", {"image": "sample-2", "method": method})
    image = site.drop(photo(11))["image"]
    seen: list[int] = []
    forward = Session.forward
    monkeypatch.setattr(Session, "forward", lambda self, pixels: seen.append(len(pixels)) or forward(self, pixels))
    first = site.ask("/api/explain", {"image": image, "method": "gradcam"}).json
    passes = len(seen)
    other = site.ask("/api/explain", {"image": image, "method": "gradcam", "target": "class:2"}).json
    third = site.ask("/api/explain", {"image": image, "method": "layercam"}).json
    assert passes == 1
    assert len(seen) == passes
    figures = [each["record"]["explanations"][0]["scores"]["max"] for each in (first, other, third)]
    assert len(set(figures)) == 3
    again = site.ask("/api/explain", {"image": image, "method": "gradcam"}).json
    assert again == first


@pytest.mark.parametrize("spec", lookup.all_methods(), ids=lambda spec: str(spec.name))
def test_every_method_gives_a_map_or_says_why_not(site: Served, spec: MethodSpec) -> None:
    few = {"steps": 4, "samples": 16, "masks": 8, "window": 32, "stride": 16, "segments": 6, "cells": 4}
    options = {param.name: few[param.name] for param in spec.params if param.name in few}
    answer = site.ask("/api/explain", {"image": "sample-0", "method": spec.name, "options": options})
    assert answer.status in (200, 400), answer.body
    if answer.status == 400:
        assert answer.json["hint"]
    else:
        (made,) = answer.json["record"]["explanations"]
        assert made["method"] == spec.name
        assert f"cnnviz {spec.command} " in answer.json["command"]


def test_the_command_is_the_one_of_the_map(site: Served) -> None:
    image = site.drop(photo(3), "a%20b.png")["image"]
    asked = {"image": image, "method": "hirescam", "target": "class:1", "layer": "0"}
    command = site.ask("/api/explain", asked).json["command"]
    assert command.startswith("cnnviz gradcam 'a b.png' ")
    for word in ("--variant hirescam", "--target class:1", "--layer 0", "--input-size 3,64,64"):
        assert word in command
    sample = site.ask("/api/explain", {"image": "sample-1", "method": "gradcam"}).json
    assert sample["record"]["path"].endswith("1.png")


# A layer, and jobs.


def test_a_click_on_a_classifier_asks_for_the_neurons_that_fire_there(site: Served) -> None:
    image = site.drop(photo(4))["image"]
    layer = site.ask(f"/api/images/{image}/layer?layer=2").json
    assert (layer["layer"], layer["channels"], layer["size"]) == ("2", 8, [16, 16])
    x, y = layer["strongest"][0]["peak"]
    asked = site.ask(f"/api/images/{image}/at?x={x}&y={y}&layer=2").json["asked"]
    assert len(asked) == 6
    kind, name, channel, row, column = asked[0]["target"].split(":")
    assert (kind, name) == ("neuron", "2")
    made = site.ask("/api/explain", {"image": image, "method": "guided", "target": asked[0]["target"]}).json
    target = made["record"]["explanations"][0]["target"]
    assert target["score"] == pytest.approx(asked[0]["activation"], rel=1e-4)
    assert target["position"] == [int(row), int(column)]
    assert site.ask(f"/api/images/{image}/layer/{channel}.png?layer=2").status == 200
    assert site.ask(f"/api/images/{image}/layer/800.png?layer=2").status == 400
    assert site.ask(f"/api/images/{image}/layer/channels.png?layer=2").body[:4] == b"\x89PNG"


def test_a_click_beside_what_the_network_saw_is_answered_in_words(site: Served) -> None:
    image = site.drop(photo(4))["image"]
    answer = site.ask(f"/api/images/{image}/at?x=1&y=35")
    assert answer.status == 400
    assert "did not see" in answer.json["error"]
    assert site.ask(f"/api/images/{image}/at?x=nan&y=35").status == 400


def test_cells_are_those_that_maps_are_drawn_with() -> None:
    rect = (10.0, 0.0, 90.0, 40.0)
    assert cell_at(10.0, 0.0, rect, (4, 8)) == (0, 0)
    assert cell_at(89.9, 39.9, rect, (4, 8)) == (3, 7)
    assert cell_at(45.0, 25.0, rect, (4, 8)) == (2, 3)
    with pytest.raises(CnnvizError, match="did not see"):
        cell_at(9.9, 5.0, rect, (4, 8))


def test_an_image_is_made_for_a_unit_and_requests_pass_meanwhile(site: Served) -> None:
    image = site.drop(photo(5))["image"]
    job = site.ask("/api/jobs", {"kind": "synthesize", "layer": "2", "unit": 3, "steps": 48}).json
    assert site.ask("/api/explain", {"image": image, "method": "gradcam", "target": "class:4"}).status == 200
    done = site.finished(job)
    assert done["state"] == "done", done
    assert done["share"] == 1.0
    (figure,) = done["result"]["figures"]
    picture = decode(site.ask(f"/api/jobs/{job['job']}/files/{figure['file']}").body)
    assert (picture.width, picture.height) == (64, 64)
    assert done["result"]["command"].startswith("cnnviz synthesize --unit 2:3 --steps 48 ")


def test_a_job_that_is_cancelled_ends_at_its_next_step(site: Served) -> None:
    job = site.ask("/api/jobs", {"kind": "synthesize", "layer": "2", "unit": 3, "steps": 400}).json
    site.ask(f"/api/jobs/{job['job']}", method="DELETE")
    assert site.finished(job)["state"] == "cancelled"


def test_top_patches_are_those_of_the_study(site: Served, photos: Path, tmp_path: Path) -> None:
    job = site.ask("/api/jobs", {"kind": "top-patches", "layer": "2", "unit": 3}).json
    done = site.finished(job)
    assert done["state"] == "done", done
    report, _, _ = ran("top-patches", [photos], tmp_path / "out", layers=("2",), params={"units": "3"})
    (mine,), (theirs,) = done["result"]["units"], report["units"]
    found = [(Path(patch["path"]).name, patch["position"]) for patch in mine["patches"]]
    assert found == [(Path(patch["path"]).name, patch["position"]) for patch in theirs["patches"]]
    assert site.ask(f"/api/jobs/{job['job']}/files/{done['files'][0]}").body[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "body", [{"kind": "train"}, {"kind": "synthesize", "unit": -1}, {"kind": "synthesize", "unit": 1, "steps": 10**6}]
)
def test_a_wrong_job_is_answered_in_words(site: Served, body: dict[str, Any]) -> None:
    assert site.ask("/api/jobs", body).status == 400


def test_a_job_that_cannot_be_says_why(site: Served) -> None:
    job = site.ask("/api/jobs", {"kind": "synthesize", "layer": "nowhere", "unit": 1}).json
    done = site.finished(job)
    assert done["state"] == "failed"
    assert "nowhere" in done["text"]


def test_npz_files_are_what_they_say(site: Served) -> None:
    made = site.ask("/api/explain", {"image": "sample-0", "method": "gradcam"}).json
    answer = site.ask(f"/api/results/{made['result']}/download/raw")
    assert "attachment" in answer.headers["content-disposition"]
    assert zipfile.ZipFile(io.BytesIO(answer.body)).namelist() == ["raw.npy", "rect.npy"]
    assert site.ask(f"/api/results/{made['result']}/download/passwd").status == 400


def test_words_are_those_of_the_image_that_is_asked_about(tmp_path: Path) -> None:
    """Also where the pass of an image is known and another one was described since."""
    write_photos(tmp_path)
    base = RunSettings(
        "serve",
        (str(tmp_path),),
        model=ModelSpec(
            model="tests.support.tiny_writers:writer", input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        target=TargetSettings(task="caption"),
    )

    def said(explorer: Explorer, image: int, method: str) -> Any:
        record = explorer.explain(Question(f"sample-{image}", method, target="token:1")).to_dict()["record"]
        (made,) = record["explanations"]
        return record["predictions"], made["target"], made["scores"]

    alone = said(Explorer(base, lambda text: None), 0, "hirescam")
    assert said(Explorer(base, lambda text: None), 1, "hirescam")[0] != alone[0]
    explorer = Explorer(base, lambda text: None)
    for image, method in ((0, "gradcam"), (1, "gradcam")):
        said(explorer, image, method)
    assert said(explorer, 0, "hirescam") == alone
