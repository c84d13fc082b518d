"""``tracing="off"``: the network's own code runs, its layers are read by hooks, and the numbers are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cnnviz
from cnnviz.cli.app import main
from cnnviz.engine.layer_table import layer_table
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.trace import Graph
from tests.support import networks as nets
from tests.support import tiny_model
from tests.support.runs import tiny_options

MODEL = tiny_options()


@pytest.mark.parametrize("kind", ["module", "model"])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "scorecam"])
def test_the_same_numbers_as_by_the_trace(method: str, kind: str) -> None:
    network = nets.TOYS["residual"].build()
    model = nets.as_model(network.requires_grad_(False)) if kind == "model" else network
    layer = None if method == "saliency" else "conv2"
    traced, hooked = (
        cnnviz.explain(model, nets.images(), method, target=[0, 1, 2], layer=layer, tracing=how)
        for how in ("auto", "off")
    )
    assert traced.raw.abs().max() > 1e-3
    torch.testing.assert_close(hooked.raw, traced.raw, rtol=1e-4, atol=1e-6)
    told = "the network is not traced (tracing is off): hooks are used, without folding or compilation"
    assert told in hooked.notes
    assert not [note for note in traced.notes if "hooks" in note]


def test_a_trace_that_is_wrong_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case that it is for: with it, nobody asks the tracer."""

    def wrong(module: nn.Module, *args: Any) -> Graph | None:
        raise AssertionError("it was asked")

    network = tiny_model.make()
    expected = cnnviz.explain(network, nets.images(1, (64, 64)), target=1, layer="3").raw
    monkeypatch.setattr("cnnviz.engine.open_session.trace", wrong)
    found = cnnviz.explain(network, nets.images(1, (64, 64)), target=1, layer="3", tracing="off").raw
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError, match="it was asked"):
        cnnviz.explain(network, nets.images(1, (64, 64)), target=1, layer="3")


def test_the_report_says_so(sample_images: Path, tmp_path: Path) -> None:
    reports = {}
    for how in ("auto", "off"):
        words = ["gradcam", str(sample_images / "cat.jpg"), *MODEL, "-l", "3", "-c", "2", "-o", str(tmp_path / how)]
        assert main([*words, "--save", "none", "--tracing", how]) == 0
        reports[how] = json.loads((tmp_path / how / "report.json").read_text())
    assert {how: report["options"]["tracing"] for how, report in reports.items()} == {"auto": "auto", "off": "off"}
    assert reports["off"]["environment"]["preparation"] == "hooks"
    assert reports["auto"]["environment"]["preparation"] != "hooks"
    first, second = (report["images"][0]["explanations"][0]["scores"]["max"] for report in reports.values())
    assert second == pytest.approx(first, rel=1e-4)


def test_another_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcam", "a.jpg", "--tracing", "of"]) == 2
    assert "--tracing of: expected one of auto, off" in capsys.readouterr().err
    with pytest.raises(CnnvizError, match="tracing no: expected one of auto, off"):
        cnnviz.explain(tiny_model.make(), nets.images(1, (64, 64)), tracing="no")


def test_what_reads_the_trace_is_refused(
    sample_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("cam", "lrp", "classmap"):
        words = [command, str(sample_images / "cat.jpg"), *MODEL, "--tracing", "off", "-o", str(tmp_path / command)]
        assert main(words) == 2
        assert "tracing is off" in capsys.readouterr().err


def test_layers_are_only_watched(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["layers", "tests.support.tiny_model:make", "--input-size", "3,64,64", "--json"]
    assert main([*words, "--tracing", "off"]) == 0
    watched = json.loads(capsys.readouterr().out)
    assert {row["no_receptive_field"] for row in watched if len(row["output_shape"]) == 3} >= {
        "tracing is off: the network is only watched while it runs"
    }
    assert main(words) == 0
    traced = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in traced] == [row["name"] for row in watched]
    assert [row["output_shape"] for row in traced] == [row["output_shape"] for row in watched]
    assert any(row["receptive_field"] for row in traced)
    assert layer_table(tiny_model.make(), "tiny", (3, 64, 64), tracing="off")[0].receptive_field is None
