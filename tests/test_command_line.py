"""The page of a run: the command that made it, and its figures in words."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from cnnviz.cli.app import main
from cnnviz.report import compare_words
from cnnviz.report.headline import headline
from cnnviz.run.command_line import command_line
from cnnviz.run.counting import Counts
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, TargetSettings
from tests.support.pictures import photograph
from tests.support.runs import tiny_options

MODEL = tiny_options()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["gradcam"], []),
        (
            ["gradcam", "-c", "2", "-c", "top:3", "-l", "-1", "--save", "none", "--alpha", "0.25", "--legend"],
            ["--layer", "-1", "--class", "2", "--class", "top:3", "--save", "none", "--alpha", "0.25", "--legend"],
        ),
        (["gradcam", "--variant", "layercam", "--resume", "--no-crop"], ["--variant", "layercam", "--view", "whole"]),
        (["gradcam", "--metric", "sparseness", "-t", "diff:0,1"], ["--metric", "sparseness", "--target", "diff:0,1"]),
        (["evaluate", "--method", "gradcam,layercam", "--metric", "sparseness", "--no-baselines", "--save", "none"],
         ["--method", "gradcam,layercam", "--metric", "sparseness", "--no-baselines", "--save", "none"]),
        (["occlusion", "--window", "24", "--stride", "24,12"], ["--window", "24,24", "--stride", "24,12"]),
        (["saliency", "--variant", "smoothgrad", "--samples", "2", "--seed", "5", "--limit", "1"],
         ["--variant", "smoothgrad", "--samples", "2", "--seed", "5", "--limit", "1"]),
    ],
)  # fmt: skip
def test_the_page_shows_the_command_that_made_it(typed: list[str], told: list[str], tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "<b> & 'c'.png"
    Image.fromarray(photograph(0)).save(path)
    command, *options = typed
    out = tmp_path / "o"
    assert main([command, str(path), *MODEL, "-o", str(out), *options]) == 0
    page = (out / "index.html").read_text()
    line = page.partition('<p><code class="command">')[2].partition("</code>")[0]
    assert "<" not in line
    words, where = shlex.split(html.unescape(line)), ["--out", str(out)]
    assert words[:3] == ["cnnviz", command, str(path)]
    network = ["--model", "tests.support.tiny_model:make", "--input-size", "64,64"]
    assert sorted(words[3:]) == sorted([*network, *told, *where])
    # Typed again, it is the same run; the report, which has the folder among its options, leaves it out.
    assert "--out" not in json.loads((out / "report.json").read_text())["command_line"]
    again = tmp_path / "again"
    assert main([*words[1:], "-o", str(again)]) == 0
    options_of: list[dict[str, Any]] = [json.loads((f / "report.json").read_text())["options"] for f in (out, again)]
    for each in options_of:
        each.pop("out")
        each.pop("resume")
    assert options_of[0] == options_of[1]


def test_that_of_an_audit_has_its_policy_first(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(photograph(0)).save(tmp_path / "a.png")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nmodel: {name: 'tests.support.tiny_model:make', input_size: 64}\nimages: a.png\nonly: all\n"
        "min_images: 1\nchecks:\n  - {kind: stable, min_similarity: 0}\n"
    )
    told: list[dict[str, Any]] = []
    words = ["audit", str(policy)]
    for _ in range(2):
        assert main([*words, "-o", str(tmp_path / "o"), "--overwrite", "--no-cache"]) in (0, 1)
        told.append(json.loads((tmp_path / "o" / "report.json").read_text())["options"])
        page = (tmp_path / "o" / "index.html").read_text()
        line = page.partition('<p><code class="command">')[2].partition("</code>")[0]
        words = shlex.split(html.unescape(line))[1:]
        assert words[:3] == ["audit", str(policy), str(tmp_path / "a.png")]
        assert "--policy" not in words
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("out", "shard", "told"),
    [
        ("maps", None, " --out maps"),
        ("my maps", None, " --out 'my maps'"),
        ("maps/shard-1-of-2", "1/2", " --shard 1/2 --out maps"),
        ("cnnviz-out/cam", None, ""),
        ("cnnviz-out/cam/shard-1-of-2", "1/2", " --shard 1/2"),
        ("", None, ""),
    ],
)
def test_where_it_lies_is_told_where_the_command_is_copied(out: str, shard: str | None, told: str) -> None:
    asked = RunSettings("cam", ("a.jpg",), target=TargetSettings("cam"), output=OutputSettings(out), shard=shard)
    assert command_line(asked, out=True) == f"cnnviz cam a.jpg{told}"
    assert "--out" not in command_line(asked)


def test_thousands_of_inputs_are_counted() -> None:
    inputs = tuple(f"{number}.jpg" for number in range(5000))
    line = command_line(RunSettings("cam", inputs, ModelSpec(mean=(0.5, 0.5, 1.0)), TargetSettings("cam")))
    assert line == "cnnviz cam 0.jpg 1.jpg 2.jpg 3.jpg … (4996 more) --mean 0.5,0.5,1"


def test_the_figures_of_a_run_are_told_in_words() -> None:
    summary = {
        "inputs": 3, "explained": 2, "failed": 1, "passed_over": 0, "seconds": 4.232, "images_per_second": 0.714,
        "failures": {"truncated": 1}, "accuracy": 0.5, "model": "resnet50", "method": "gradcam", "class_specific": True,
    }  # fmt: skip
    measured = {"metrics": {"pointing_game": {"maps": 3, "hit_rate": {"value": 0.5, "ci95": [0.25, 0.75], "n": 3}}}}
    assert headline(measured) == [("pointing game", "hit rate 0.5 (0.25 to 0.75)")]
    assert headline(summary) == [
        ("images", "3"), ("explained", "2"), ("failed", "1"), ("time", "4.2 s"), ("images per second", "0.7"),
        ("accuracy", "50.0 %"), ("method", "gradcam"),
    ]  # fmt: skip
    assert headline({"class_specific": False}) == [("depends on the class", "no")]
    assert headline({"images_per_second": 0.0135}) == [("images per minute", "0.8")]


def test_an_accuracy_is_one_figure_wherever_it_is_told() -> None:
    """86 of 131 are 65.65 % to four digits of the share, and 65.649 % exactly."""
    counts = Counts()
    for number in range(131):
        prediction = {"class_index": 0, "label": "cat", "probability": 0.9, "logit": 1.0}
        counts.count({"label": "cat" if number < 86 else "dog", "predictions": [prediction]})  # type: ignore[arg-type]
    summary = counts.summary(1.0, False)
    assert summary["accuracy"] == round(86 / 131, 6)
    figure = {"value": round(86 / 131, 6), "ci95": None, "n": 131}
    names = ("both", "only_a", "only_b", "neither", "mcnemar_p")
    said = compare_words.right({**dict.fromkeys(names, 0), "accuracy_a": figure, "accuracy_b": figure, "n": 131})
    assert ("accuracy", "65.6 %") in headline(summary)
    assert "A 65.6 %, B 65.6 % of 131" in said
