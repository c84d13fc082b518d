"""docs/extending.md: its package is installed as it stands there, and runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cnnviz
from cnnviz import extend
from tests.support import tiny_model

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed into a folder of its own."""
    code, project = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("python", "toml"))
    assert code is not None
    assert project is not None
    source, target = tmp_path_factory.mktemp("abscam"), tmp_path_factory.mktemp("site")
    (source / "abscam.py").write_text(code[1])
    # cnnviz itself is there: its own dependencies need not be found again.
    (source / "pyproject.toml").write_text(project[1].replace('dependencies = ["cnnviz"]\n', ""))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-build-isolation", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    if "Cannot import 'setuptools" in done.stderr or "No module named 'setuptools" in done.stderr:
        pytest.skip("setuptools is not installed: the example cannot be built without a network")
    assert done.returncode == 0, done.stderr
    return target


def test_the_example_runs_from_the_command_line(installed: Path, sample_images: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))}
    words = ["abscam", str(sample_images / "cat.jpg"), "--power", "2", "-m", f"{tiny_model.__file__}:make"]
    words += ["--input-size", "64", "--resize", "64", "--save", "raw", "-c", "1", "-o", str(tmp_path / "out"), "-q"]
    subprocess.run([sys.executable, "-m", "cnnviz", *words], env=environment, check=True)
    [record] = json.loads((tmp_path / "out" / "report.json").read_text())["images"]
    [explanation] = record["explanations"]
    assert explanation["method"] == "abscam"

    network = tiny_model.make()
    model = cnnviz.load_model(f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
    batch = model.transform(Image.open(sample_images / "cat.jpg"))[None]
    activations = network[:5](batch).detach().requires_grad_()
    gradient = torch.autograd.grad(network[5:](activations)[0, 1], activations)[0][0]
    expected = (gradient.mean((1, 2)).abs()[:, None, None] * activations.detach()[0]).sum(0).clamp_min(0) ** 2
    with np.load(tmp_path / "out" / explanation["files"]["raw"]) as arrays:
        np.testing.assert_allclose(arrays["raw"], expected.numpy(), rtol=1e-4, atol=1e-7)


def test_its_help_says_what_it_is(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", "cnnviz", "abscam", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Exponent of the map" in " ".join(done.stdout.split())


def test_every_public_name_is_there_and_explained() -> None:
    assert sorted(extend.__all__) == sorted(extend._HOMES)
    assert all(f"`{name}`" in PAGE or f"{name}(" in PAGE or getattr(extend, name) for name in extend.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = extend.Nothing


def test_the_spec_needs_no_torch() -> None:
    code = "import sys; from cnnviz.extend import MethodSpec, Options, Param, option; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "False"
