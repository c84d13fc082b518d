"""In which precision maps are those of float32: measured, told, kept in float32 where needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cnnviz
from cnnviz.cli.app import main
from cnnviz.engine import precision
from cnnviz.engine import runtime as rt
from cnnviz.engine.precision import correlation, smooth_probe
from tests.support import tiny_model

SIZE = ["--input-size", "64", "--mean", "0.5", "--std", "0.25", "--save", "raw"]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def run(method: str, photograph: Path, out: Path, *words: str, model: str = "make") -> tuple[dict[str, Any], Any]:
    names = ["-m", f"tests.support.tiny_model:{model}", *SIZE, "-c", "1", "-o", str(out), "--overwrite", *words]
    assert main([method, str(photograph), *names]) == 0
    report = json.loads((out / "report.json").read_text())
    return report, np.load(out / report["images"][0]["explanations"][0]["files"]["raw"])["raw"]


def test_correlation_is_pearsons() -> None:
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    assert correlation(a, b) == pytest.approx(float(np.corrcoef(a.flatten(), b.flatten())[0, 1]), abs=1e-6)
    assert correlation(a, 3 * a + 1) == pytest.approx(1.0)
    assert correlation(a, -a) == pytest.approx(-1.0)
    assert correlation(a, torch.ones(5, 7)) == 0.0
    assert correlation(torch.full((2,), torch.nan), torch.ones(2)) == 0.0


def test_the_probe_is_smooth_where_noise_is_not() -> None:
    probe = smooth_probe((3, 96, 96))
    assert probe.std(dim=(2, 3)).flatten().tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    neighbours = [np.corrcoef(channel[:, 1:].flatten(), channel[:, :-1].flatten())[0, 1] for channel in probe[0]]
    assert min(neighbours) > 0.7


def test_the_agreement_with_float32_is_recorded(photograph: Path, tmp_path: Path) -> None:
    report, map_ = run("gradcam", photograph, tmp_path / "o", "--precision", "bf16")
    checks = report["model"]["checks"]
    assert 0.99 <= checks["precision_agreement"] <= 1.0
    assert report["environment"]["precision"] == "bf16"
    _, exact = run("gradcam", photograph, tmp_path / "exact")
    assert np.corrcoef(map_.ravel(), exact.ravel())[0, 1] > 0.98
    report, _ = run("gradcam", photograph, tmp_path / "o", "--precision", "bf16", "--skip-check", "precision-agreement")
    assert report["model"]["checks"]["precision_agreement"] is None
    assert "skip" in report["model"]["checks"]["not_run"]["precision_agreement"]
    report, _ = run("gradcam", photograph, tmp_path / "o")
    assert report["model"]["checks"]["not_run"]["precision_agreement"] == "the network runs in float32"


def test_a_map_that_needs_float32_gets_it(photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two large terms cancel in this network's gradient: bf16 leaves nothing of it, though the scores agree."""
    report, map_ = run("saliency", photograph, tmp_path / "o", "--precision", "bf16", model="make_cancelling")
    told = capsys.readouterr().err
    assert "in bf16 the map of a probe correlates only" in told
    assert "float32" in report["environment"]["precision"] or report["environment"]["precision"] == "fp32"
    _, exact = run("saliency", photograph, tmp_path / "exact", model="make_cancelling")
    assert np.corrcoef(map_.ravel(), exact.ravel())[0, 1] > 0.99
    words = ["--precision", "bf16", "--skip-check", "precision_agreement"]
    _, rough = run("saliency", photograph, tmp_path / "rough", *words, model="make_cancelling")
    assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] < 0.99


def test_a_network_whose_scores_need_float32_runs_in_it(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, map_ = run("gradcam", photograph, tmp_path / "o", "--precision", "bf16", model="make_scores_that_cancel")
    assert "gives other scores than in float32: float32 is used" in capsys.readouterr().err
    assert report["environment"]["precision"] == "fp32"
    _, exact = run("gradcam", photograph, tmp_path / "exact", model="make_scores_that_cancel")
    np.testing.assert_allclose(map_, exact, rtol=1e-5)


@pytest.mark.parametrize("is_faster", [False, True])
def test_auto_takes_what_is_faster(
    is_faster: bool,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = {"bf16": 1.0, "fp32": 1.5 if is_faster else 0.5}
    monkeypatch.setattr(rt, "_fast_bf16", lambda device: True)
    monkeypatch.setattr(precision, "seconds_a_batch", lambda session, batch: seconds[session.runtime.precision])
    report, _ = run("gradcam", photograph, tmp_path / "o", "--precision", "auto")
    assert report["environment"]["precision"] == ("bf16" if is_faster else "fp32")
    assert ("is not faster than float32 here" in capsys.readouterr().err) is not is_faster


def test_from_python() -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = cnnviz.explain(tiny_model.make(), x, precision="bf16", target=1)
    assert found.checks["precision_agreement"] > 0.99
    found = cnnviz.explain(tiny_model.make_cancelling(), x, method="saliency", precision="bf16", target=1)
    assert found.checks["precision_agreement"] < 0.99
    assert any("use precision='fp32'" in note for note in found.notes)
    network: nn.Module = tiny_model.make_scores_that_cancel()
    found = cnnviz.explain(network, x, precision="bf16", target=1)
    torch.testing.assert_close(found.raw, cnnviz.explain(network, x, target=1).raw, rtol=1e-5, atol=1e-7)
    assert any("gives other scores than in float32" in note for note in found.notes)
