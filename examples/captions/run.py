"""A captioner of drawn scenes, and whether cnnviz's map of a word lies on what the word is about.

python examples/captions/run.py             # minutes on two cores
python examples/captions/run.py --small     # what the tests run
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import caption_network as networks
import caption_scenes as scenes
import numpy as np
import torch
from PIL import Image

import cnnviz
from cnnviz.cli.app import main as command_line

HERE = Path(__file__).resolve().parent
TESTED = 1_000_000
"""Seed of the first scene to test with; training begins at 0."""
METHODS = ("gradcam", "hirescam")


@dataclass(frozen=True)
class Form:
    """How large the experiment is.

    Attributes:
        factory: Of the network, in ``caption_network.py``.
        training: How it is trained.
        tested: Scenes whose sentences are compared.
        explained: Scenes whose words are explained, and as many with their objects exchanged.
    """

    factory: str
    training: networks.Training
    tested: int
    explained: int


FULL = Form("build", networks.Training(700), 400, 100)
SMALL = Form("build_small", networks.Training(15, 16), 16, 2)


def trained(form: Form, folder: Path) -> tuple[networks.Captioner, float]:
    """The network, trained in a folder where it is not there yet, and how many seconds that took."""
    weights, told = folder / "captioner.pth", folder / "training.json"
    make = getattr(networks, form.factory)
    if not weights.exists():
        began = time.perf_counter()
        torch.save(networks.trained(make, form.training).state_dict(), weights)
        told.write_text(json.dumps({"seconds": round(time.perf_counter() - began, 1)}))
    network = make().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network, float(json.loads(told.read_text())["seconds"])


def report_of(form: Form, folder: Path, pictures: Path, method: str) -> dict[str, Any]:
    """The report of ``cnnviz gradcam`` on all words of the sentences under some pictures.

    Raises:
        RuntimeError: It ended with an error.
    """
    out = folder / f"{pictures.name}-{method}"
    line = [
        *("gradcam", pictures, "--variant", method, "-t", "caption", "--save", "words", "-o", out, "-q", "--overwrite"),
        *("-m", f"{HERE / 'caption_network.py'}:{form.factory}", "--checkpoint", folder / "captioner.pth"),
        *("--task", "caption", "--input-size", scenes.SIDE, "--resize", scenes.SIDE),
        *("--mean", networks.MEAN, "--std", networks.STD),
    ]
    code = command_line([str(word) for word in line])
    if code not in (0, 3):
        raise RuntimeError(f"cnnviz {' '.join(map(str, line))} ended with {code}")
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def drawn(folder: Path, shown: Sequence[scenes.Scene]) -> Path:
    """The folder, with a picture of each scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(shown):
        Image.fromarray(scene.picture()).save(folder / f"{number:03}.png")
    return folder


def peaks(report: dict[str, Any], shown: Sequence[scenes.Scene]) -> dict[str, dict[str, float]]:
    """By kind of word, of sentences that are right: the shares of maps whose peak lies on the word's own object, and on
    the other one; and the mean share of the picture that the own object covers, which is chance.
    """
    rows = defaultdict[str, list[tuple[bool, bool, float]]](list)
    for image, scene in zip(report["images"], shown, strict=True):
        if image.get("text") != " ".join(scene.words):
            continue
        things = {scene.first.colour: ("colour", scene.first, scene.second)}
        things |= {scene.first.shape: ("shape", scene.first, scene.second)}
        things |= {scene.second.colour: ("colour", scene.second, scene.first)}
        things |= {scene.second.shape: ("shape", scene.second, scene.first)}
        for row in image["explanations"]:
            if row["target"]["kind"] != "token" or row["target"]["label"] not in things or not row["scores"]["peak"]:
                continue
            kind, own, other = things[row["target"]["label"]]
            x, y = row["scores"]["peak"]
            masks = own.mask(), other.mask()
            rows[kind].append((masks[0][y, x] > 0.5, masks[1][y, x] > 0.5, float(masks[0].mean())))
    found = {}
    for kind, values in sorted(rows.items()):
        own, other, area = np.mean(np.array(values, dtype=float), axis=0)
        found[kind] = {"words": len(values), "own": float(own), "other": float(other), "chance": float(area)}
    return found


def moved(before: dict[str, Any], after: dict[str, Any], shown: Sequence[scenes.Scene]) -> dict[str, float]:
    """Of words that stand under a scene and under the same with its objects exchanged: the share of maps whose peak
    lies on the one place before and on the other after.
    """
    hits = []
    for first, second, scene in zip(before["images"], after["images"], shown, strict=True):
        for thing, other in ((scene.first, scene.second), (scene.second, scene.first)):
            there = thing.mask(), replace(other, shape=thing.shape).mask()
            for word in (thing.colour, thing.shape):
                places = [_peak_of(image, word) for image in (first, second)]
                if None not in places:
                    (x, y), (u, v) = places  # type: ignore[misc]
                    hits.append(bool(there[0][y, x] > 0.5 and there[1][v, u] > 0.5))
    return {"words": len(hits), "moved": float(np.mean(hits)) if hits else 0.0}


def _peak_of(image: dict[str, Any], word: str) -> tuple[int, int] | None:
    for row in image["explanations"]:
        if row["target"]["label"] == word and row["scores"]["peak"]:
            return tuple(row["scores"]["peak"])
    return None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, explain, measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="what the tests run: trained for seconds, so mostly wrong")
    parser.add_argument("--folder", type=Path, help="where everything is written; a temporary one otherwise")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = asked.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    form = SMALL if asked.small else FULL
    network, seconds = trained(form, folder)
    shown = [scenes.scene(TESTED + number) for number in range(form.explained)]
    exchanged = [scene.exchanged() for scene in shown]
    pictures, others = drawn(folder / "scenes", shown), drawn(folder / "exchanged", exchanged)
    found: dict[str, Any] = {
        "training_seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "exact": networks.exact(network, range(TESTED, TESTED + form.tested)),
        "tested": form.tested,
        "methods": {},
        "versions": {"cnnviz": cnnviz.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()}, one thread",
    }
    for method in METHODS:
        before, after = (report_of(form, folder, each, method) for each in (pictures, others))
        found["methods"][method] = {
            "peaks": peaks(before, shown),
            "exchanged": peaks(after, exchanged),
            "moved": moved(before, after, shown),
        }
    print(f"{found['exact']:.3f} of {form.tested} sentences exact after {seconds:.0f} s of training\n")
    print("| method | words | maps | peak on its object | on the other | chance | moved with the objects |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for method, rows in found["methods"].items():
        for kind, row in rows["peaks"].items():
            print(
                f"| {method} | {kind} | {row['words']} | {row['own']:.2f} | {row['other']:.2f} | {row['chance']:.2f} | "
                f"{rows['moved']['moved']:.2f} |"
            )
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
