"""What every test shares: few threads, no downloaded weights, the sample photographs."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pages import chromium, page  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from tests.support.fake_pipeline import FakePipeline

_PEERS = ("captum", "pytorch_grad_cam", "torchcam")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything imports torch or the hub's client: both read these once.

    An empty cache and no network: a test that needs weights must bring its own, or it would pass only on the
    machine of whoever downloaded them.
    """
    cache = tempfile.TemporaryDirectory(prefix="cnnviz-test-cache-", ignore_cleanup_errors=True)
    config.add_cleanup(cache.cleanup)
    os.environ["TORCH_HOME"] = cache.name
    os.environ["HF_HOME"] = cache.name
    os.environ["HF_HUB_OFFLINE"] = "1"
    # What one test computed is no answer to another, which may have changed the code.
    os.environ["CNNVIZ_CACHE_DIR"] = ""
    # Several workers share the cores: a thread that waits must not spin, and a compiler needs no pool of processes
    # that each import torch first.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing that is imported and collected becomes garbage: to look through it again and again takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Comparisons with other packages are skipped, by name, where those are not installed."""
    missing = [name for name in _PEERS if find_spec(name) is None]
    if not missing:
        return
    skip = pytest.mark.skip(reason=f"needs {', '.join(missing)}: pip install -e '.[test,bench]'")
    for item in items:
        if item.get_closest_marker("peers") is not None:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread in each worker: workers are as many as cores, sums round the same way everywhere, and most of what
    runs here is too small to share out."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _wrong_reports() -> Iterator[list[str]]:
    """What is wrong with reports of runs, as they are written."""
    from cnnviz import pipeline
    from tests.support.report_schema import problems

    found: list[str] = []
    run = pipeline.run

    def checked(*args: Any, **more: Any) -> Any:
        result = run(*args, **more)
        if result.report is not None and os.path.isfile(result.report):
            found.extend(problems(json.loads(Path(result.report).read_bytes())))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run", checked)
        yield found


@pytest.fixture(autouse=True)
def _reports_follow_the_schema(_wrong_reports: list[str]) -> Iterator[None]:
    """Every report that a run of a test writes has the keys that are documented, and no others."""
    yield
    wrong = list(_wrong_reports)
    _wrong_reports.clear()
    assert wrong == [], "see cnnviz/schema, and python docs/schema.py"


@pytest.fixture(scope="session")
def sample_images() -> Path:
    """The folder of photographs that comes with the source."""
    return Path(__file__).resolve().parent.parent / "sample_images"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, empty caches, an empty current folder."""

    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="session")
def digit_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of ``cnnviz embed`` over 200 digits; tests read it only."""
    from tests.support import embeds

    return embeds.digit_run(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """A pipeline that remembers what the command line asks of it."""
    from tests.support.fake_pipeline import FakePipeline

    pipeline = FakePipeline()
    monkeypatch.setitem(sys.modules, "cnnviz.pipeline", pipeline)
    monkeypatch.setattr("cnnviz.run.preflight.check", lambda settings, spec: None)
    return pipeline


@pytest.fixture
def rectangles(tmp_path: Path) -> Path:
    """Three pictures of a coloured rectangle each, with ``truth.json`` and ``labels.txt`` beside their folder."""
    from tests.support.colour_photos import write_photos

    return write_photos(tmp_path / "photos")
