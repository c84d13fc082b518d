"""The README's shell blocks, run line by line on small copies of the sample images, without a network."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnviz.cli.app import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What is not run here, and why. Each must be the beginning of a line of the README.
SKIPPED = {
    "cnnviz serve photos/": "serves until Ctrl-C; tests/test_serve_page.py clicks through it",
    "pip install": "changes the environment; .ci/run runs it",
    "cnnviz merge maps": "of eight shares; tests/test_shards.py",
    "cnnviz gradcam photos/ -m resnet50": "downloads weights",
    "cnnviz audit policy.yaml": "the reader's policy; tests/test_audit.py has one",
    "cnnviz compare data/val --checkpoint new.pth": "the reader's weights; tests/test_compare.py",
    "cnnviz gradcam photos/ -m timm/convnext_tiny.fb_in1k": "downloads weights",
    "cnnviz gradcam photos/ -m resnet18 --checkpoint best.pth": "the reader's weights",
    "cnnviz gradcam photos/ -m model.py:build": "the reader's network",
    "cnnviz gradcam cat.jpg -t scores.py:depth": "the reader's function; tests/test_elsewhere_targets.py",
    "cnnviz gradcam photos/ -m model.onnx": "the reader's network",
    "cnnviz gradcam data/val --precision bf16 --compile on": "needs a C++ compiler, and a minute of it",
    "cnnviz top-patches photos/ --boxes instances.json": "the reader's boxes",
    "cnnviz cam photos/ --checkpoint trained/checkpoint.safetensors": "tests/test_surgery.py runs it",
}
# Fewer steps, units, images and pixels than a reader would wait for, added to what the README says.
SHORTENED = {
    "cnnviz synthesize": "--steps 2",
    "cnnviz dream": "--octaves 1 --steps 1",
    "cnnviz invert": "--steps 1 --layer -1",
    "cnnviz top-patches photos/ --units all": "--layer blocks.1 --limit 1 --input-size 64",
    "cnnviz evaluate": "--limit 1 --input-size 64",
    "cnnviz compare photos/ --method gradcam": "--limit 1 --input-size 64",
    "cnnviz classmap street.jpg --size 896": "--size 320",
    "cnnviz train": "--epochs 1 --units 8 --input-size 64",
}


def lines() -> list[str]:
    """Every line of a shell block that runs something, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.S)
    found = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in found if line]


def run_here() -> list[str]:
    return [line for line in lines() if not line.startswith(tuple(SKIPPED))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README speaks of."""
    samples = {path.name: path for path in sorted((ROOT / "sample_images").glob("*.jpg"))}
    copies = {
        "cat.jpg": ["cat.jpg", "photos/tiger cat/cat.jpg", "data/val/tiger cat/cat.jpg", *_learned("cat")],
        "espresso.jpg": [
            "street.jpg",
            "flowers.jpg",
            "photos/espresso/cup.jpg",
            "data/val/espresso/cup.jpg",
            *_learned("cup"),
        ],
        "camera_on_tripod.jpg": ["sample_images/camera_on_tripod.jpg"],
    }
    for name, targets in copies.items():
        with Image.open(samples[name]) as picture:
            picture.thumbnail((256, 256))
            for target in targets:
                path = tmp_path / target
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
    annotate(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _learned(label: str) -> list[str]:
    """Two pictures, of which one validates."""
    return [f"classes/{label}/{number}.jpg" for number in range(2)]


def annotate(folder: Path) -> None:
    """A box in the middle of each photograph, as COCO, Pascal VOC and ImageNet write it."""
    (folder / "voc" / "Annotations").mkdir(parents=True)
    coco: dict[str, list[dict[str, object]]] = {
        "images": [], "annotations": [], "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "cup"}],
    }  # fmt: skip
    lines = ["ImageId,PredictionString"]
    known = (("cat", "tiger cat", "n02123159"), ("cup", "espresso", "n07920052"))
    for number, (stem, label, synset) in enumerate(known):
        with Image.open(folder / "photos" / label / f"{stem}.jpg") as picture:
            width, height = picture.size
        x0, y0, x1, y1 = width // 4, height // 4, 3 * width // 4, 3 * height // 4
        coco["images"].append({"id": number, "file_name": f"{stem}.jpg", "width": width, "height": height})
        box = [x0, y0, x1 - x0, y1 - y0]
        coco["annotations"].append({"id": number, "image_id": number, "category_id": number, "bbox": box})
        lines.append(f"{stem},{synset} {x0} {y0} {x1} {y1}")
        (folder / "voc" / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><size><width>{width}</width><height>{height}</height></size>"
            f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object></annotation>"
        )
    (folder / "instances.json").write_text(json.dumps(coco))
    (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


class Shell:
    """Runs lines word for word with a ``cnnviz`` on the path that notes what it is given and prints what it is told."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        script = self.bin / "cnnviz"
        here = shlex.quote(str(self.bin))
        script.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" > {here}/words\ncat > {here}/given\ncat {here}/answer\n")
        script.chmod(0o755)

    def run(self, line: str, answer: bytes = b"") -> tuple[list[str], bytes]:
        """The words and the standard input that the command got."""
        (self.bin / "answer").write_bytes(answer)
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        subprocess.run(["sh", "-ec", line], env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, check=True)
        return (self.bin / "words").read_text().split("\0")[:-1], (self.bin / "given").read_bytes()


def in_a_shell(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> int:
    """The line word for word; the command runs here, so that nobody waits for another process to import torch."""
    shell = Shell(folder)
    words, given = shell.run(line)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    capsysbinary.readouterr()
    code = main(words)
    printed = capsysbinary.readouterr().out
    assert printed
    assert shell.run(line, printed) == (words, given)
    return code


@pytest.mark.parametrize("line", run_here())
def test_a_line_of_the_readme_runs(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    before = set(folder.rglob("*"))
    more = next((options for start, options in SHORTENED.items() if line.startswith(start)), "")
    if re.search(r"[|>]", line):
        if os.name == "nt" or shutil.which("sh") is None:
            pytest.skip("needs a POSIX shell")
        assert in_a_shell(line, folder, monkeypatch, capsysbinary) == 0
    else:
        assert not main(shlex.split(f"{line} {more}")[1:])
    command = shlex.split(line[line.index("cnnviz ") :])[1]
    written = [path for path in set(folder.rglob("*")) - before if path.is_file() and path.parent.name != "bin"]
    if command not in {"layers", "models", "methods", "targets"}:
        assert written
        assert all(path.stat().st_size for path in written if path.suffix in {".png", ".json", ".npz", ".npy", ".gif"})


def test_the_lists_are_not_stale() -> None:
    for start in SKIPPED:
        assert any(line.startswith(start) for line in lines()), f"not in the README any more: {start}"
    for start in SHORTENED:
        assert any(line.startswith(start) for line in run_here()), f"not run any more: {start}"
    assert len(run_here()) > 2 * len(SKIPPED)
