"""In which precision maps are those of float32: measured, told, kept in float32 where needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
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
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.precision import correlation, smooth_probe
from cnnviz.engine.prepare import stretch
from cnnviz.run import precision_choice
from tests.support import networks as nets
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


class Clock:
    """A clock that only moves when somebody works."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, list[str]()

    def works(self, name: str, durations: list[float]) -> Any:
        left = iter(durations)

        def forward(batch: torch.Tensor) -> None:
            self.order.append(name)
            self.now += next(left)

        return SimpleNamespace(forward=forward, device=torch.device("cpu"), split=None)


def test_a_race_is_the_best_of_three_turns_after_a_warm_up() -> None:
    clock = Clock()
    sessions = {"a": clock.works("a", [0.5, 8, 4, 6]), "b": clock.works("b", [90, 5, 7, 9])}
    assert precision.race(sessions, torch.zeros(1), lambda: clock.now) == {"a": 4.0, "b": 5.0}
    assert "".join(clock.order) == "abababab"


def test_gradients_that_pass_convolutions_are_part_of_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    honest = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **named: (asked.append(1), honest(*given, **named))[1])
    monkeypatch.setattr(stretch, "_MANY", 1)
    network = nets.TOYS["residual"].build()
    for cut, gradients in ((Cut.at_image(), 4), (Cut.at_layers(), 0)):
        with open_session(network, "x", (3, 12, 16), rt.resolve("cpu"), SessionOptions(cut=cut)) as session:
            asked.clear()
            assert precision.seconds_a_batch(session, nets.images(1)) > 0
            assert len(asked) == gradients * rt.packable(torch.device("cpu"))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of a batch in each precision, on a machine with fast bf16; without an entry nothing may be timed."""
    seconds: dict[str, float] = {}

    def one(session: Any, batch: torch.Tensor) -> float:
        return seconds[session.runtime.precision]

    monkeypatch.setattr(rt, "_fast_bf16", lambda device: True)
    monkeypatch.setattr(precision_choice, "seconds_a_batch", one)
    monkeypatch.setattr(precision_choice, "race", lambda some, batch: {n: one(s, batch) for n, s in some.items()})
    return seconds


@pytest.mark.parametrize(
    ("seconds", "chosen", "why"),
    [
        ({"fp32": 20.0, "bf16": 10.0}, "bf16", "it is faster"),
        ({"fp32": 20.0, "bf16": 19.5}, "fp32", "bf16 is not faster"),
        ({"fp32": 2.0}, "fp32", "the run is short"),
    ],
)
def test_auto_takes_what_is_faster(
    seconds: dict[str, float],
    chosen: str,
    why: str,
    timed: dict[str, float],
    photograph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    timed.update(seconds)
    report, _ = run("gradcam", photograph, tmp_path / "o", "--precision", "auto")
    assert report["environment"]["precision"] == chosen
    assert report["options"]["precision"] == "auto"
    milliseconds = {name: 1000 * value for name, value in seconds.items()}
    assert report["precision_choice"] == {"chosen": chosen, "why": why, "milliseconds": milliseconds}
    assert f"--precision auto: {chosen}, because {why}" in capsys.readouterr().err


def test_auto_of_maps_that_need_float32(timed: dict[str, float], photograph: Path, tmp_path: Path) -> None:
    timed.update(fp32=20.0, bf16=10.0)
    report, _ = run("saliency", photograph, tmp_path / "o", "--precision", "auto", model="make_cancelling")
    assert report["precision_choice"]["chosen"] == report["environment"]["precision"] == "fp32"
    assert report["precision_choice"]["why"] == "its maps are others in bf16"
    report, _ = run("gradcam", photograph, tmp_path / "o", "--precision", "auto", model="make_scores_that_cancel")
    assert report["precision_choice"]["chosen"] == report["environment"]["precision"] == "fp32"
    assert report["precision_choice"]["why"] == "the scores in bf16 are others"


def test_a_run_that_is_continued_keeps_its_precision(timed: dict[str, float], photograph: Path, tmp_path: Path) -> None:
    timed.update(fp32=20.0, bf16=10.0)
    (tmp_path / "in").mkdir()
    shutil.copy(photograph, tmp_path / "in" / "a.png")
    begun, _ = run("gradcam", tmp_path / "in", tmp_path / "o", "--precision", "auto")
    timed.clear()
    shutil.copy(photograph, tmp_path / "in" / "b.png")
    words = ["-m", "tests.support.tiny_model:make", *SIZE, "-c", "1", "--precision", "auto", "--resume"]
    assert main(["gradcam", str(tmp_path / "in"), "-o", str(tmp_path / "o"), *words]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert [len(each["images"]) for each in (begun, report)] == [1, 2]
    for key in ("environment", "precision_choice"):
        assert report[key] == begun[key]
    assert report["options"]["precision"] == "auto"
    assert report["environment"]["precision"] == "bf16"


def test_shares_of_one_run_are_of_one_precision(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gradcam", str(photograph), "-m", "tests.support.tiny_model:make", *SIZE, "-c", "1"]
    assert main([*words, "-o", str(tmp_path / "x"), "--shard", "1/2", "--precision", "auto"]) == 2
    assert "--precision auto and --shard 1/2 exclude each other" in capsys.readouterr().err
    for number in (1, 2):
        assert main([*words, "-o", str(tmp_path / "o"), "--shard", f"{number}/2", "--precision", "bf16"]) == 0
    path = tmp_path / "o" / "shard-2-of-2" / "report.json"
    report = json.loads(path.read_text())
    assert report["environment"]["precision"] == "bf16"
    report["environment"]["precision"] = "fp32"  # as on a machine where the scores in bf16 are others
    path.write_text(json.dumps(report))
    capsys.readouterr()
    assert main(["merge", str(tmp_path / "o"), "-o", str(tmp_path / "whole")]) == 2
    assert "were computed in bf16 and fp32: maps of one run are of one precision" in capsys.readouterr().err


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


def test_a_fall_back_is_told_of_the_call_that_fell_back_alone(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network = f"{tiny_model.__file__}:make_scores_that_cancel"
    model = cnnviz.load_model(network, input_size=(3, 64, 64), resize=64, mean=(0, 0, 0), std=(1, 1, 1))

    def told(precision: str) -> list[str]:
        notes = cnnviz.explain(model, x, precision=precision, target=1).notes
        return [note for note in notes if "gives other scores than in float32" in note]

    assert told("fp32") == []
    assert len(told("bf16")) == 1
    assert told("fp32") == []
    assert len(told("bf16")) == 1
    assert [record for record in caplog.records if "gives other scores" in record.getMessage()]
