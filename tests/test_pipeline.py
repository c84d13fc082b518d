"""Whole runs over folders: files, records, resume, interruption, bad input, full disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.settings import (
    DrawSettings,
    ModelSpec,
    RuntimeSettings,
    TargetSettings,
)
from tests.support import tiny_model
from tests.support.pictures import grey, photographs_in, pixels
from tests.support.runs import ONE, TINY, Quiet, files, report, settings, tiny_options


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs_in(tmp_path / "photos", 9, ("dog", "cat"))


def test_files_and_report_follow_the_contract(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = pipeline.run(
        settings(photos, out, draw=DrawSettings(save=("overlay", "heatmap", "raw", "panel"))), Quiet()
    )
    found = report(out)
    assert result.exit_code == 0
    assert found["schema"] == "cnnviz.report/1"
    assert found["summary"]["inputs"] == found["summary"]["explained"] == 9
    assert [row["path"] for row in found["images"]] == [str(p) for p in sorted(photos.rglob("*.png"))]
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert lines == found["images"]
    for row in found["images"]:
        made = row["explanations"][0]["files"]
        assert set(made) == {"overlay", "heatmap", "raw", "panel"}
        assert all((out / name).is_file() for name in made.values())
        assert made["overlay"] == f"images/{Path(row['path']).parent.name}/{Path(row['path']).name}." + (
            f"class_{row['explanations'][0]['target']['class_index']}.gradcam.overlay.png"
        )
        assert pixels(out / made["overlay"]).shape == (row["height"], row["width"], 3) == (70, 90, 3)
    assert "<html" in (out / "index.html").read_text()


def test_raw_values_and_prediction_equal_a_computation_by_hand(photos: Path, tmp_path: Path) -> None:
    """The file's Grad-CAM against one written out for this network in float64, from the file on disk."""
    out = tmp_path / "out"
    pipeline.run(settings(photos, out, draw=DrawSettings(save=("raw", "heatmap"))), Quiet())
    row = report(out)["images"][4]
    net = tiny_model.make().double()
    rgb = np.asarray(Image.fromarray(pixels(row["path"])).resize((82, 64), Image.Resampling.BILINEAR))[:, 9:73]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(((rgb / 255 - mean) / std).transpose(2, 0, 1))[None]
    features = net[:5](x).detach().requires_grad_()
    logits = net[5:](features)
    target = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[0, target], features)
    weights = gradient[0].mean(dim=(1, 2))
    expected = sum(weights[k] * features[0, k] for k in range(12)).clamp_min(0).detach().numpy()
    explanation = row["explanations"][0]
    raw = np.load(out / explanation["files"]["raw"])["raw"]
    assert explanation["target"]["class_index"] == target
    # The resize rounds to bytes, now and then by one count differently from Pillow.
    assert np.abs(raw - expected).max() < 0.02 * expected.max()
    assert explanation["scores"]["max"] == pytest.approx(expected.max(), rel=0.02)
    heatmap = grey(out / explanation["files"]["heatmap"])
    x0, _, width, height = row["seen_xywh"]
    seen = heatmap[:, x0 : x0 + width] / 255
    whole = F.interpolate(torch.from_numpy(expected)[None, None], (height, width), mode="bilinear")[0, 0].numpy()
    assert np.abs(seen - whole / whole.max()).mean() < 0.02


def test_batch_size_and_workers_change_nothing(photos: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    pipeline.run(settings(photos, one, runtime=RuntimeSettings(batch_size=1, workers=1)), Quiet())
    pipeline.run(settings(photos, many, runtime=RuntimeSettings(batch_size=7, workers=5)), Quiet())
    for a, b in zip(report(one)["images"], report(many)["images"], strict=True):
        assert a["path"] == b["path"]
        assert a["explanations"][0]["scores"]["max"] == pytest.approx(b["explanations"][0]["scores"]["max"], rel=1e-5)
        assert a["explanations"][0]["scores"]["peak"] == b["explanations"][0]["scores"]["peak"]


def test_interrupted_and_resumed_equals_uninterrupted(photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    one_at_a_time = RuntimeSettings(batch_size=1, workers=1)
    pipeline.run(settings(photos, whole, runtime=one_at_a_time), Quiet())
    result = pipeline.run(settings(photos, parts, runtime=one_at_a_time), Quiet(interrupt_after=3))
    assert result.exit_code == 130
    lines = (parts / "records.jsonl").read_bytes().splitlines()
    assert 3 <= len(lines) < 9
    assert all(json.loads(line)["error"] is None for line in lines)
    with (parts / "records.jsonl").open("ab") as stream:
        stream.write(b'{"path": "cut off in the mid')
    result = pipeline.run(settings(photos, parts, runtime=one_at_a_time, output={"resume": True}), Quiet())
    assert result.exit_code == 0
    assert report(whole)["images"] == report(parts)["images"]
    assert files(whole) == files(parts)
    timing = {"seconds", "images_per_second", "resumed", "timed"}
    first, second = report(whole)["summary"], report(parts)["summary"]
    assert {k: v for k, v in first.items() if k not in timing} == {k: v for k, v in second.items() if k not in timing}


def test_resume_computes_only_what_is_missing_and_failed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = photos / "dog" / "4.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    assert pipeline.run(settings(photos, out), Quiet()).exit_code == 3
    broken.write_bytes(good)
    again = Quiet()
    assert pipeline.run(settings(photos, out, output={"resume": True}), again).exit_code == 0
    assert [row["path"] for row in again.rows] == [str(broken)]
    assert [row["error"] for row in report(out)["images"]] == [None] * 9


def test_another_run_in_the_folder_is_an_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(settings(photos, out), Quiet())
    with pytest.raises(CnnvizError, match="not empty") as caught:
        pipeline.run(settings(photos, out), Quiet())
    assert caught.value.exit_code == 2
    with pytest.raises(CnnvizError, match="begun otherwise: --score logit then, --score "):
        pipeline.run(
            settings(photos, out, target=TargetSettings(score="probability"), output={"resume": True}),
            Quiet(),
        )
    before = set(files(out))
    pipeline.run(settings(photos, out, target=TargetSettings(classes=("2",)), output={"overwrite": True}), Quiet())
    after = set(files(out))
    assert all(".class_2." in name for name in after)
    assert before - after, "what the other run had drawn is gone"


def test_every_class_form(photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nfish\ncrane\ncrane\n")
    table = tmp_path / "table.csv"
    table.write_text("path,label\n" + "".join(f"photos/{'cat' if i % 2 else 'dog'}/{i}.png,fish\n" for i in range(8)))
    model = ModelSpec(model=TINY.model, input_size=(3, 64, 64), resize=64, labels=str(labels))

    def explained(*classes: str) -> list[list[int]]:
        out = tmp_path / f"out-{'-'.join(classes).replace('/', '_').replace(':', '')[-30:]}"
        pipeline.run(settings(photos, out, model=model, target=TargetSettings(classes=classes)), Quiet())
        rows = report(out)["images"]
        for row in rows:
            names = [n for e in row["explanations"] for n in e["files"].values()]
            assert len(set(names)) == len(names), "two classes never share a file"
        return [[e["target"]["class_index"] for e in row["explanations"]] for row in rows]

    ranked = explained("top:5")
    assert explained("pred") == [row[:1] for row in ranked]
    assert explained("top:2") == [row[:2] for row in ranked]
    assert explained("all") == [[0, 1, 2, 3, 4]] * 9
    assert explained("1") == explained("dog") == [[1]] * 9
    assert explained("dog", "0", "1") == [[1, 0]] * 9
    assert explained("folder") == [[0]] * 4 + [[1]] * 5
    assert explained(str(table)) == [[2]] * 8 + [[]]
    with pytest.raises(CnnvizError, match="crane"):
        explained("crane")
    with pytest.raises(CnnvizError, match="dgo") as caught:
        explained("dgo")
    assert "dog" in caught.value.hint


def test_a_class_map_is_the_same_alone_or_among_others(photos: Path, tmp_path: Path) -> None:
    alone, among = tmp_path / "alone", tmp_path / "among"
    pipeline.run(settings(photos, alone, target=TargetSettings(classes=("3",))), Quiet())
    pipeline.run(settings(photos, among, target=TargetSettings(classes=("all",))), Quiet())
    for a, b in zip(report(alone)["images"], report(among)["images"], strict=True):
        assert a["explanations"][0] == b["explanations"][3]


def test_one_logit_is_two_classes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(settings(photos, out, model=ONE, target=TargetSettings(classes=("0", "1"))), Quiet())
    for row in report(out)["images"]:
        zero, one = row["explanations"]
        assert zero["target"]["logit"] == -one["target"]["logit"]
        assert zero["target"]["probability"] + one["target"]["probability"] == pytest.approx(1)
        assert zero["one_logit"]
        assert zero["scores"]["max"] != one["scores"]["max"]


def test_run_scale_makes_pictures_comparable(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(settings(photos, out, draw=DrawSettings(scale="run", save=("heatmap", "raw"))), Quiet())
    rows = report(out)["images"]
    maxima = [row["explanations"][0]["scores"]["max"] for row in rows]
    for row, own in zip(rows, maxima, strict=True):
        peak = grey(out / row["explanations"][0]["files"]["heatmap"]).max()
        # Between cell centres and pixel centres the largest value may shrink a little.
        assert peak == pytest.approx(255 * own / max(maxima), abs=8)


def test_picture_on_standard_output_is_the_file(photos: Path, tmp_path: Path) -> None:
    one = photos / "cat" / "1.png"
    pipeline.run(settings(one, tmp_path / "out"), Quiet())
    result = pipeline.run(settings(one, "-", draw=DrawSettings(save=("overlay",))), Quiet())
    assert result.picture == next(data for name, data in files(tmp_path / "out").items() if "overlay" in name)
    with pytest.raises(CnnvizError, match="one input"):
        pipeline.run(settings(photos, "-", draw=DrawSettings(save=("overlay",))), Quiet())


def test_a_gap_is_told_with_how_many_maps_have_one(photos: Path, tmp_path: Path) -> None:
    target = TargetSettings(method="lrp", params={"rule": "epsilon"})
    reporter = Quiet()
    pipeline.run(settings(photos, tmp_path / "o", target=target), reporter)
    rows = report(tmp_path / "o")["images"]
    shares = [
        abs(e["scores"]["conservation_gap"]) / abs(e["target"]["logit"]) for row in rows for e in row["explanations"]
    ]
    above = sum(share > 0.01 for share in shares)
    assert above > 0
    told = [text for text in reporter.notes if "of the score" in text]
    assert len(told) == 1
    assert told[0].startswith(f"{above} of {len(shares)} maps leave out more than 1 % of the score")
    assert f"the largest share: {100 * max(shares):.1f} %" in told[0]
    assert report(tmp_path / "o")["summary"]["left_out"]["above_tolerance"] == above
    # FullGrad accounts for all of it.
    quiet = Quiet()
    pipeline.run(settings(photos, tmp_path / "f", target=TargetSettings(method="fullgrad")), quiet)
    assert not [text for text in quiet.notes if "of the score" in text]
    assert report(tmp_path / "f")["summary"]["left_out"]["above_tolerance"] == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["occlusion", "--window", "500", "--input-size", "64"], "one window covers all that the network sees"),
        (["gradcam", "--input-size", "8", "--layer", "4"], "a single cell at this input size"),
    ],
)
def test_a_map_that_is_the_same_everywhere_is_flat(
    words: list[str], reason: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = words
    out = tmp_path / "o"
    tiny = ["-m", "tests.support.tiny_model:make", "-c", "all", "-o", str(out)]
    assert main([command, str(photos), *options, *tiny]) == 0
    rows = [row for record in report(out)["images"] for row in record["explanations"]]
    assert rows
    for row in rows:
        assert row["scores"]["flat"] is True
        assert row["scores"]["peak"] is None
        assert reason in row["flat_reason"]
        assert np.ptp(pixels(out / row["files"]["overlay"]), axis=-1).max() == 0  # grey: nowhere is hot
    assert f"{len(rows)} of {len(rows)} maps are flat: {rows[0]['flat_reason']}" in capsys.readouterr().err


def test_a_counterfactual_says_so_everywhere(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    words = [*tiny_options("make_opposed"), "-c", "all", "--save", "overlay,panel"]
    assert main(["gradcam", str(photos), "--counterfactual", *words, "-o", str(out)]) == 0
    rows = [row for record in report(out)["images"] for row in record["explanations"]]
    assert all(row["counterfactual"] is True for row in rows)
    assert all(".gradcam-counterfactual." in name for row in rows for name in row["files"].values())
    assert all((out / name).is_file() for row in rows for name in row["files"].values())
    flat = [row["flat_reason"] for row in rows if row["scores"].get("flat")]
    assert flat
    assert all("speaks against the class" in reason for reason in flat)
    page = (out / "index.html").read_text()
    assert "gradcam (counterfactual) at" in page
    assert "against <strong>" in page
    assert main(["gradcam", str(photos), *words, "-o", str(tmp_path / "plain")]) == 0
    assert "(counterfactual)" not in (tmp_path / "plain" / "index.html").read_text()
    assert all("counterfactual" not in row for row in report(tmp_path / "plain")["images"][0]["explanations"])


def test_a_map_at_the_image_names_no_layer(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert main(["guided", str(photos), *tiny_options(), "-o", str(out)]) == 0
    assert " at None" not in (out / "index.html").read_text()
