"""docs/extending.md: its packages are installed as they stand there, and run."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz import extend
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.metrics.intervals import bootstrap_mean, wilson
from tests.support import tiny_model
from tests.support.report_schema import validator

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.S)
PROJECT = re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, each installed into the same folder of its own packages."""
    target = tmp_path_factory.mktemp("site")
    of_metric = PROJECT.replace("abscam", "offcentre").replace("cnnviz.methods", "cnnviz.metrics")
    # The class on the page has no entry there; the test gives it one.
    deletion = PYTHON[2] + DELETION_ENTRY
    of_deletion = PROJECT.replace("abscam", "deletion").replace("cnnviz.methods", "cnnviz.metrics")
    sources = []
    for name, code, project in (
        ("abscam", PYTHON[0], PROJECT),
        ("offcentre", PYTHON[1], of_metric),
        ("deletion", deletion, of_deletion),
    ):
        source = tmp_path_factory.mktemp(name)
        (source / f"{name}.py").write_text(code)
        # cnnviz itself is there: its own dependencies need not be found again.
        (source / "pyproject.toml").write_text(project.replace('dependencies = ["cnnviz"]\n', ""))
        sources.append(str(source))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(target), *sources], capture_output=True, text=True)
    if "Cannot import 'setuptools" in done.stderr or "No module named 'setuptools" in done.stderr:
        pytest.skip("setuptools is not installed: the example cannot be built without a network")
    assert done.returncode == 0, done.stderr
    return target


DELETION_ENTRY = """

from cnnviz.extend import Figure, MetricSpec, Param

SPEC = MetricSpec(
    name="deletion_drop", entry="deletion:Deletion", title="Deletion", summary="A drop.", paper="none",
    measures="model", direction="higher", params=(Param("share", "float", 0.25, "Of the pixels."),),
    figures=(Figure("drop", "of the probability", "mean"),),
)
"""


# What runs with the examples installed: a folder of results, and the words of the command.
COMMANDS = {
    "offcentre": ["gradcam", "{samples}", "-c", "top:2", "--metric", "offcentre:limit=0.2"],
    "deletion": ["gradcam", "{samples}/cat.jpg", "-c", "top:2", "--metric", "deletion_drop:share=0.1"],
    "abscam": ["abscam", "{samples}/cat.jpg", "--power", "2", "-c", "1"],
}
# One process for all commands, since most of the time of each would go into importing torch.
ALL = """
import json, sys
from cnnviz.cli.app import main
sys.exit(max(main(words) for words in json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def outputs(installed: Path, sample_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the commands above, run on the small network with the examples installed."""
    out = tmp_path_factory.mktemp("outputs")
    model = ["-m", f"{tiny_model.__file__}:make", "--input-size", "64", "--resize", "64", "--save", "raw", "-q"]
    asked = [
        [*(word.format(samples=sample_images) for word in words), *model, "-o", str(out / name)]
        for name, words in COMMANDS.items()
    ]
    run_with(installed, "-c", ALL, json.dumps(asked))
    return out


def run_with(installed: Path, *words: str) -> str:
    """What Python prints with the examples installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def report_of(out: Path) -> dict[str, Any]:
    """The report of a run, which follows the schema where other packages may add to it."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert not list(validator(closed=False).iter_errors(report))
    return report


def test_the_metric_lands_in_records_and_in_the_summary(outputs: Path) -> None:
    report = report_of(outputs / "offcentre")
    assert report["options"]["metric"] == ["offcentre:limit=0.2"]
    distances, images = [], []
    for image in report["images"]:
        for explanation in image["explanations"]:
            with np.load(outputs / "offcentre" / explanation["files"]["raw"]) as arrays:
                raw, rect = arrays["raw"], tuple(arrays["rect"].tolist())
            placed = place(raw, rect, (image["width"], image["height"]), signed=False)
            expected = centre_distance(placed)
            found = explanation["scores"]["offcentre"]
            assert found["distance"] == (None if expected is None else pytest.approx(expected, rel=1e-5))
            if expected is not None:
                assert found["off_centre"] is (expected > 0.2)
                assert found["baselines"]["centre_gaussian"]["distance"] == pytest.approx(0, abs=1e-5)
                distances.append(expected)
                images.append(image["path"])
    assert len(distances) > 3
    summary = report["summary"]["metrics"]["offcentre"]
    assert summary["distance"]["value"] == pytest.approx(np.mean(distances), abs=1e-5)
    assert summary["distance"]["ci95"] == pytest.approx(bootstrap_mean(distances, images), abs=1e-5)
    hits, trials = sum(each > 0.2 for each in distances), len(set(images))
    share = hits / len(distances)
    assert summary["off_centre"]["ci95"] == pytest.approx(wilson(share * trials, trials), abs=1e-6)
    assert summary["baselines"]["centre_gaussian"]["off_centre"]["value"] == 0


def centre_distance(placed: PlacedMap) -> float | None:
    """Pixel by pixel."""
    x0, y0, x1, y1 = placed.seen
    total = across = down = 0.0
    for y in range(y0, y1):
        for x in range(x0, x1):
            value = max(0.0, float(placed.values[y, x]))
            total, across, down = total + value, across + value * (x + 0.5), down + value * (y + 0.5)
    if total == 0:
        return None
    away = math.dist((across / total, down / total), ((x0 + x1) / 2, (y0 + y1) / 2))
    return away / (math.dist((x0, y0), (x1, y1)) / 2)


def test_a_metric_that_runs_the_network_again(outputs: Path, sample_images: Path) -> None:
    report = report_of(outputs / "deletion")
    network = tiny_model.make()
    model = cnnviz.load_model(f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
    pixels = model.transform(Image.open(sample_images / "cat.jpg"))
    [record] = report["images"]
    for explanation in record["explanations"]:
        index = explanation["target"]["class_index"]
        with np.load(outputs / "deletion" / explanation["files"]["raw"]) as arrays:
            values = place(arrays["raw"], (0, 0, 64, 64), (64, 64), signed=False).values
        order = sorted(range(64 * 64), key=lambda at: -float(values.flat[at]))[: round(0.1 * 64 * 64)]
        changed = pixels.clone()
        for at in order:
            changed[:, at // 64, at % 64] = 0
        with torch.no_grad():
            before, after = (network(image[None]).softmax(1)[0, index] for image in (pixels, changed))
        drop = explanation["scores"]["deletion_drop"]["drop"]
        assert drop == pytest.approx(float(before - after), abs=2e-5)
        assert abs(drop) > 1e-4
    assert report["summary"]["metrics"]["deletion_drop"]["drop"]["n"] == 2


def test_the_example_runs_from_the_command_line(outputs: Path, sample_images: Path) -> None:
    [record] = json.loads((outputs / "abscam" / "report.json").read_text())["images"]
    [explanation] = record["explanations"]
    assert explanation["method"] == "abscam"

    network = tiny_model.make()
    model = cnnviz.load_model(f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
    batch = model.transform(Image.open(sample_images / "cat.jpg"))[None]
    activations = network[:5](batch).detach().requires_grad_()
    gradient = torch.autograd.grad(network[5:](activations)[0, 1], activations)[0][0]
    expected = (gradient.mean((1, 2)).abs()[:, None, None] * activations.detach()[0]).sum(0).clamp_min(0) ** 2
    with np.load(outputs / "abscam" / explanation["files"]["raw"]) as arrays:
        np.testing.assert_allclose(arrays["raw"], expected.numpy(), rtol=1e-4, atol=1e-7)


def test_its_help_says_what_it_is(installed: Path) -> None:
    printed = run_with(installed, "-m", "cnnviz", "abscam", "--help")
    assert "Exponent of the map" in " ".join(printed.split())


def test_every_public_name_is_there_and_explained() -> None:
    assert sorted(extend.__all__) == sorted(extend._HOMES)
    assert all(f"`{name}`" in PAGE or f"{name}(" in PAGE or getattr(extend, name) for name in extend.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = extend.Nothing


def test_the_spec_needs_no_torch() -> None:
    names = "MethodSpec, MetricSpec, Options, Param, option"
    code = f"import sys; from cnnviz.extend import {names}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "False"
