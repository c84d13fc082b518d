"""A small U-Net on drawn roads, and what cnnviz says of it: regions, evidence by class, attacks, synthesized inputs.

python examples/roads/run.py             # minutes on two cores
python examples/roads/run.py --small     # what the tests run
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import road_network as networks
import road_scenes as scenes
import torch
from PIL import Image

import cnnviz
from cnnviz.cli.app import main as command_line

HERE = Path(__file__).resolve().parent
TESTED = 10_000
"""Seed of the first picture to test with; training begins at 0."""
MAPS = {
    "Grad-CAM": ("--variant", "gradcam"),
    "HiResCAM": ("--variant", "hirescam"),
    "Grad-CAM at up.0": ("--variant", "gradcam", "-l", "up.0"),
    "HiResCAM at up.0": ("--variant", "hirescam", "-l", "up.0"),
}
"""Maps whose evidence is counted; where no layer is named, it is the end of the encoder."""


@dataclass(frozen=True)
class Form:
    """How large the experiment is.

    Attributes:
        factory: Of the network, in ``road_network.py``.
        training: How it is trained.
        size: Rows and columns of a picture.
        tested: Pictures for the IoU.
        shown: Pictures that cnnviz explains and attacks.
        epsilons: Of the attacks, in 1/255.
        steps: Of the synthesis.
    """

    factory: str
    training: networks.Training
    size: tuple[int, int]
    tested: int
    shown: int
    epsilons: tuple[int, ...]
    steps: int


FULL = Form("build", networks.Training(320, 16), scenes.SIZE, 60, 24, (1, 2, 4, 8), 128)
SMALL = Form("build_small", networks.Training(72, 16), (48, 64), 12, 5, (4,), 40)


class Experiment:
    """The network, trained in a folder where it is not there yet, and runs of cnnviz on it.

    Args:
        form: How large.
        folder: Where everything is written.
    """

    def __init__(self, form: Form, folder: Path) -> None:
        self.form, self.folder = form, folder
        folder.mkdir(parents=True, exist_ok=True)
        scenes.write(folder / "test", range(TESTED, TESTED + form.shown), form.size)
        weights, told = folder / "unet.pth", folder / "training.json"
        make = getattr(networks, form.factory)
        if not weights.exists():
            began = time.perf_counter()
            network = networks.trained(make, form.training, form.size)
            torch.save(network.state_dict(), weights)
            told.write_text(json.dumps({"seconds": round(time.perf_counter() - began, 1)}))
        self.network = make().eval()
        self.network.load_state_dict(torch.load(weights, weights_only=True))
        self.seconds: float = json.loads(told.read_text())["seconds"]
        self._model = [
            *("-m", f"{HERE / 'road_network.py'}:{form.factory}", "--checkpoint", weights),
            *("--labels", folder / "test" / "labels.json", "--input-size", f"{form.size[0]},{form.size[1]}"),
            *("--resize", form.size[0], "--mean", networks.MEAN, "--std", networks.STD, "--task", "segment"),
        ]

    def run(self, command: str, name: str, *words: object) -> dict[str, Any]:
        """The report of ``cnnviz COMMAND`` in a folder of this name.

        Raises:
            RuntimeError: It ended with an error; images without what was asked for are none.
        """
        line = [command, *words, *self._model, "-o", self.folder / name, "-q", "--overwrite"]
        code = command_line([str(word) for word in line])
        if code not in (0, 3):
            raise RuntimeError(f"cnnviz {' '.join(map(str, line))} ended with {code}")
        found: dict[str, Any] = json.loads((self.folder / name / "report.json").read_text())
        return found

    @property
    def pictures(self) -> Path:
        return self.folder / "test" / "images"

    def evidence(self, name: str) -> dict[str, dict[str, float]]:
        """By class, where the evidence of its region lies: mean shares of the positive part of a map on the predicted
        classes. ``own area`` is the mean share of the picture that the class has.

        Args:
            name: Of ``MAPS``.
        """
        words = [*MAPS[name], "-c", "all", "--save", "segments"]
        report = self.run("gradcam", name.replace(" ", "-"), self.pictures, *words)
        shares: dict[str, list[dict[str, float]]] = defaultdict(list)
        for record in report["images"]:
            for row in record["explanations"]:
                if row["evidence"]:
                    of_class = {each["label"]: each["share"] for each in row["evidence"]}
                    shares[row["target"]["label"]].append({**of_class, "own area": row["target"]["region_area"]})
        keys = ("own area", *scenes.CLASSES)
        return {
            label: {
                "regions": len(rows),
                **{key: round(float(np.mean([row.get(key, 0.0) for row in rows])), 4) for key in keys},
            }
            for label, rows in shares.items()
        }

    def attacks(self) -> list[dict[str, Any]]:
        """What FGSM and PGD change beside noise of the same size, and how many potholes are hidden."""
        found = []
        for epsilon in self.form.epsilons:
            for attack in ("fgsm", "pgd"):
                told = self._attacked(f"{attack}-{epsilon}", "--attack", attack, "--epsilon", f"{epsilon}/255")
                row = {"attack": attack, "epsilon": epsilon, "changed": told["mean_pixels_changed"]}
                found.append({**row, "iou_lost": told["mean_mean_iou_lost"]})
            hidden = self._attacked(
                f"hidden-{epsilon}", "--epsilon", f"{epsilon}/255", "-t", "class:pothole", "--target-class", "asphalt"
            )
            row = {"attack": "pothole to asphalt", "epsilon": epsilon, "changed": hidden["mean_pixels_changed"]}
            row["by_surface"] = self.by_surface(f"hidden-{epsilon}")
            found.append({**row, "iou_lost": hidden["mean_mean_iou_lost"], "reached": hidden["mean_target_share"]})
            found.append({"attack": "noise", "epsilon": epsilon, "changed": self.noise(epsilon), "iou_lost": None})
        return found

    def _attacked(self, name: str, *words: str) -> dict[str, Any]:
        report = self.run("adversarial", name, self.pictures, *words, "--amplify", "20")
        figures: dict[str, Any] = report["summary"]["adversarial"]
        return figures

    def by_surface(self, name: str) -> dict[str, list[float]]:
        """What share of an attacked region reached its class in each picture, by the largest surface in that."""
        shares: dict[str, list[float]] = defaultdict(list)
        for record in json.loads((self.folder / name / "report.json").read_text())["images"]:
            if record["error"] is None:
                area = {row["label"]: row["area"] for row in record["predictions"]}
                surface = max(("asphalt", "paved", "unpaved"), key=lambda label: area.get(label, 0.0))
                shares[surface].append(round(record["target_share"], 4))
        return dict(shares)

    def noise(self, epsilon: int) -> float:
        """The share of the pixels whose class changes by noise of -epsilon or epsilon in each channel."""
        inputs, _ = networks.pictures(range(TESTED, TESTED + self.form.shown), self.form.size)
        signs = torch.randint(0, 2, inputs.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        levels = (inputs * networks.STD + networks.MEAN) * 255
        changed = ((levels + epsilon * signs).clamp(0, 255) / 255 - networks.MEAN) / networks.STD
        with torch.no_grad():
            before, after = (self.network(each).argmax(1) for each in (inputs, changed))
        return float((before != after).float().mean())

    def synthesized(self) -> dict[str, float]:
        """By class the share of an input made for it that the network predicts as it; and of a pothole in a box."""
        asked = [word for label in scenes.CLASSES for word in ("-c", label)]
        asked += ["-t", "class:pothole@box:30%,50%,30%,30%"]
        report = self.run("synthesize", "synthesize", *asked, "--each", "--steps", self.form.steps)
        rows = [region for image in report["synthesized"] for region in image["regions"]]
        return {row["label"]: round(row["predicted_share"], 4) for row in rows}

    def write_pictures(self, folder: Path) -> None:
        """The pictures of the README, after :meth:`found`."""
        folder.mkdir(parents=True, exist_ok=True)
        shown, words = self.pictures / f"{TESTED + 2}.png", ["-c", "asphalt", "-c", "pothole", "--save", "segments"]
        for name in ("Grad-CAM", "HiResCAM at up.0"):
            self.run("gradcam", f"shown {name}", shown, *MAPS[name], *words)
        last = self.form.epsilons[-1]
        box = "pothole-at-box-30pc-50pc-30pc-30pc"
        sources = {
            "gradcam": f"shown Grad-CAM/images/{TESTED + 2}.png.segments.png",
            "hirescam": f"shown HiResCAM at up.0/images/{TESTED + 2}.png.segments.png",
            "attack": f"pgd-{last}/images/{TESTED + 2}.png.figure.png",
            "hidden": f"hidden-{last}/images/{TESTED + 21}.png.figure.png",
            "synthesized": f"synthesize/{box}.prediction.png",
        }
        for name, source in sources.items():
            with Image.open(self.folder / source) as picture:
                picture.convert("RGB").save(folder / f"{name}.jpg", quality=80, optimize=True)

    def found(self) -> dict[str, Any]:
        """Everything."""
        tested = range(TESTED, TESTED + self.form.tested)
        return {
            "machine": {"system": platform.platform(), "threads": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "cnnviz": cnnviz.__version__},
            "form": asdict(self.form),
            "training_seconds": self.seconds,
            "iou": networks.intersection_over_union(self.network, tested, self.form.size),
            "evidence": {name: self.evidence(name) for name in MAPS},
            "attacks": self.attacks(),
            "synthesized": self.synthesized(),
        }  # fmt: skip


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    first, *others = MAPS
    lines = [f"| class | IoU | regions | own area | {' | '.join(MAPS)} | most of {first} on another |"]
    lines.append("| --- |" + " --- |" * (4 + len(MAPS)))
    for label in scenes.CLASSES:
        line = [label, f"{found['iou'][label]:.2f}"]
        row = found["evidence"][first].get(label)
        if row is not None:
            elsewhere = {name: row[name] for name in scenes.CLASSES if name != label}
            most = max(elsewhere, key=lambda name: elsewhere[name])
            own = [f"{found['evidence'][name].get(label, {label: 0.0})[label]:.2f}" for name in (first, *others)]
            line += [str(row["regions"]), f"{row['own area']:.3f}", *own, f"{most} {elsewhere[most]:.2f}"]
        lines.append(f"| {' | '.join([*line, *[''] * (5 + len(MAPS) - len(line))])} |")
    lines += ["", "| attack | epsilon | pixels changed | mean IoU lost | became asphalt |", "| --- |" + " --- |" * 4]
    for row in found["attacks"]:
        lost, reached = row["iou_lost"], row.get("reached")
        cells = ["" if value is None else f"{value:.3f}" for value in (row["changed"], lost, reached)]
        lines.append(f"| {row['attack']} | {row['epsilon']}/255 | {' | '.join(cells)} |")
    *_, last = (row["by_surface"] for row in found["attacks"] if "by_surface" in row)
    lines += ["", "| potholes on | pictures | became asphalt |", "| --- | --- | --- |"]
    lines += [f"| {surface} | {len(shares)} | {np.mean(shares):.2f} |" for surface, shares in last.items()]
    lines += ["", "| made for | predicted as it |", "| --- | --- |"]
    lines += [f"| {label} | {share:.3f} |" for label, share in found["synthesized"].items()]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, run, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--small", action="store_true", help="The form that the tests run.")
    parser.add_argument("--folder", type=Path, help="Where to work; what is trained there already is used.")
    parser.add_argument("--out", type=Path, help="JSON with the figures.")
    parser.add_argument("--pictures", type=Path, help="Folder for the pictures of the README, of the full form.")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        experiment = Experiment(SMALL if given.small else FULL, given.folder or Path(temporary))
        found = experiment.found()
        if given.pictures is not None:
            experiment.write_pictures(given.pictures)
    print(tables(found))
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
