"""What is said before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnviz.cli.app import main

SAMPLE = str(Path(__file__).parent.parent / "sample_images" / "cat.jpg")


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["gradcam", "nowhere/"], "INPUT 'nowhere/' does not exist", ""),
        (["gradcam", SAMPLE, "-c", "1000"], "--class 1000: the network has 1000 classes, 0 to 999.", "label"),
        (["gradcam", SAMPLE, "-c", "5, 1001"], "--class 1001: the network has 1000 classes, 0 to 999.", "label"),
        (
            ["gradcam", SAMPLE, "--num-classes", "7", "-m", "resnet18", "-c", "7"],
            "--class 7: the network has 7 classes, 0 to 6.",
            "label",
        ),
        (["gradcam", SAMPLE, "--checkpoint", "no.pth"], "--checkpoint no.pth: there is no such file.", "Check"),
        (["gradcam", SAMPLE, "--labels", "no.txt"], "--labels no.txt: there is no such file.", "Check"),
        (["dream", SAMPLE, "--guide", "no/file.jpg"], "--guide no/file.jpg: there is no such file. The folder no", ""),
        (["top-patches", SAMPLE, "--boxes", "no.json"], "--boxes no.json: there is no such file.", "Check"),
    ],
)
def test_what_needs_no_network(capsys: pytest.CaptureFixture[str], args: list[str], message: str, hint: str) -> None:
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cnnviz: {message}")
    assert hint in error


def test_it_is_said_without_torch(tmp_path: Path) -> None:
    """A class that does not exist, and a folder that holds something."""
    (tmp_path / "notes.txt").write_text("mine")
    code = (
        "import sys; from cnnviz.cli.app import main; "
        f"assert main(['gradcam', {SAMPLE!r}, '-o', {str(tmp_path)!r}]) == 2; "
        f"code = main(['gradcam', {SAMPLE!r}, '-c', '1000']); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2, done.stderr
    assert "is not empty" in done.stderr
    assert "the network has 1000 classes" in done.stderr


@pytest.mark.parametrize(
    ("args", "module", "message", "hint"),
    [
        (["superpixels", SAMPLE], "skimage", "superpixels needs scikit-image, which is not installed.", "superpixels"),
        (["superpixels", SAMPLE, "--variant", "lime"], "skimage", "superpixels needs scikit-image", "superpixels"),
        (["embed", SAMPLE], "sklearn", "embed needs scikit-learn, which is not installed.", "embed"),
        (["embed", SAMPLE, "--umap"], "umap", "embed --umap needs umap-learn, which is not installed.", "umap"),
        (["embed", SAMPLE, "--table", "parquet"], "pyarrow", "embed --table parquet needs pyarrow, which", "parquet"),
    ],
)
def test_missing_packages_are_said_with_the_command_that_installs_them(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    module: str,
    message: str,
    hint: str,
) -> None:
    def without(name: str) -> object:
        return None if name == module else True

    monkeypatch.setattr("cnnviz.registry.specs.find_spec", without)
    monkeypatch.setattr("cnnviz.pipeline.run", lambda *_: pytest.fail("it was not said before the run"))
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cnnviz: {message}")
    assert error.endswith(f"pip install 'cnnviz[{hint}]'\n")


@pytest.mark.parametrize(
    "args", [["gradcam", "s3://bucket/x.png"], ["gradcam", SAMPLE, "-o", "s3://bucket/out"], ["gradcam", "LIST"]]
)
def test_missing_packages_of_urls_are_said_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str]
) -> None:
    """Also of the entries of a list, each of which would fail for the same reason."""
    import fsspec.core

    from cnnviz.io import walk

    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    (tmp_path / "list.txt").write_text("s3://bucket/x.png\n")
    monkeypatch.setattr(walk, "_filesystem", refuse)
    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    monkeypatch.setattr("cnnviz.pipeline.run", lambda *_: pytest.fail("it was not said before the run"))
    assert main([str(tmp_path / "list.txt") if arg == "LIST" else arg for arg in args]) == 2
    error = capsys.readouterr().err
    assert "needs a package that is not installed: Install s3fs to access S3" in error
    assert error.endswith("pip install 'cnnviz[remote]'\n")
