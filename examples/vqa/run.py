"""Questions about the pictures of easy-VQA, and whether cnnviz's map of an answer lies on the shape that it is about.

python examples/vqa/run.py             # minutes on two cores
python examples/vqa/run.py --small     # what the tests run
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import vqa_network as networks

import cnnviz
from cnnviz.cli.app import main as command_line

HERE = Path(__file__).resolve().parent
QUESTIONS = ("what color is the shape?", "what shape is in the image?", "is there a circle?", "is there a red shape?")
METHODS = ("gradcam",)
"""HiResCAM gives the same maps: a mean over the cells is the first thing behind them."""


@dataclass(frozen=True)
class Form:
    """How large the experiment is.

    Attributes:
        factory: Of the network, in ``vqa_network.py``.
        training: How it is trained.
        tested: Pictures whose questions are all asked; None for all.
        explained: Pictures that are explained.
    """

    factory: str
    training: networks.Training
    tested: int | None
    explained: int


FULL = Form("build", networks.Training(4000, 16), None, 100)
SMALL = Form("build_small", networks.Training(256, 3), 20, 3)


def trained(form: Form, folder: Path) -> tuple[networks.Answerer, float]:
    """The network, trained in a folder where it is not there yet, and how many seconds that took."""
    weights, told = folder / "vqa.pth", folder / "training.json"
    make = getattr(networks, form.factory)
    if not weights.exists():
        began = time.perf_counter()
        torch.save(networks.trained(make, form.training).state_dict(), weights)
        told.write_text(json.dumps({"seconds": round(time.perf_counter() - began, 1)}))
    network = make().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network, float(json.loads(told.read_text())["seconds"])


def report_of(form: Form, folder: Path, question: str, method: str) -> dict[str, Any]:
    """The report of ``cnnviz gradcam`` on the answers to a question.

    Raises:
        RuntimeError: It ended with an error.
    """
    out = folder / method / "-".join(networks.words_of(question))
    line = [
        *("gradcam", folder / "pictures", "--variant", method, "--question", question, "-t", "answer:pred"),
        *("--save", "overlay", "-o", out, "-q", "--overwrite"),
        *("-m", f"{HERE / 'vqa_network.py'}:{form.factory}", "--checkpoint", folder / "vqa.pth"),
        *("--input-size", 64, "--resize", 64, "--mean", networks.MEAN, "--std", networks.STD),
    ]
    code = command_line([str(word) for word in line])
    if code not in (0, 3):
        raise RuntimeError(f"cnnviz {' '.join(map(str, line))} ended with {code}")
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def peaks(report: dict[str, Any]) -> dict[str, float]:
    """The share of answers whose map has its peak on the shape, of those whose map is not flat; and chance, the mean
    share of the picture that the shape covers.
    """
    hits, areas, flat = [], [], 0
    for image in report["images"]:
        [row] = image["explanations"]
        if row["scores"]["peak"] is None:
            flat += 1
            continue
        shape = networks.shape_of(networks.picture(image["path"]))
        x, y = row["scores"]["peak"]
        hits.append(bool(shape[y, x]))
        areas.append(float(shape.mean()))
    share = float(np.mean(hits)) if hits else 0.0
    return {"maps": len(hits), "flat": flat, "own": share, "chance": float(np.mean(areas)) if areas else 0.0}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, ask, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="what the tests run: trained for seconds, so mostly wrong")
    parser.add_argument("--folder", type=Path, help="where everything is written; a temporary one otherwise")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp())
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    form = SMALL if asked.small else FULL
    network, seconds = trained(form, folder)
    files = networks.paths("test")
    for number in range(form.explained):
        shutil.copy(files[number], folder / "pictures" / f"{number:03}.png")
    found: dict[str, Any] = {
        "training_seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "accuracy": networks.accuracy(network, form.tested),
        "pictures": form.explained,
        "methods": {
            method: {question: peaks(report_of(form, folder, question, method)) for question in QUESTIONS}
            for method in METHODS
        },
        "versions": {"cnnviz": cnnviz.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()}, one thread",
    }
    print(f"{found['accuracy']:.3f} of the test's questions answered rightly after {seconds:.0f} s of training\n")
    print("| method | question | maps | peak on the shape | chance | flat |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method, rows in found["methods"].items():
        for question, row in rows.items():
            print(f"| {method} | {question} | {row['maps']} | {row['own']:.2f} | {row['chance']:.2f} | {row['flat']} |")
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
