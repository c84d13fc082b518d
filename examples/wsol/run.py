"""GAP against GMP against a plain head, as in Zhou et al., CVPR 2016: who classifies better, who finds the object.

python examples/wsol/run.py scenes             # synthetic scenes, minutes on two cores
python examples/wsol/run.py digits             # handwritten digits on a canvas, and the map of the 9 among ten
python examples/wsol/run.py scenes --small     # what the tests run
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import digits
import scenes
import torch
from tables import BASELINE, Outcomes, figures, printed

import cnnviz
from cnnviz.cli.app import main as command_line

HEADS = ("gap", "gmp", "fc")
METRICS = "box_localization,max_box_acc,pointing_game:tolerance=0"


@dataclass(frozen=True)
class Form:
    """How large an experiment is.

    Attributes:
        counts: Pictures of each class to learn from, to choose by, and to test with.
        options: Of ``cnnviz train``.
        seeds: Of the training; the pictures are the same.
    """

    counts: dict[str, int]
    options: dict[str, str]
    seeds: int


# With a trunk that stays and pictures that are always the same, cnnviz computes what feeds the head once.
_SCENES = {"cut": "blocks.2", "freeze": "all", "units": "256", "epochs": "30", "crop-scale": "1", "flip": "0"}
# What ImageNet taught the trunk does not tell digits apart: all of it is trained.
_DIGITS = {"cut": "blocks.2", "units": "128", "epochs": "14", "crop-scale": "1", "flip": "0"}
FORMS = {
    ("scenes", False): Form({"train": 150, "val": 20, "test": 40}, _SCENES, 3),
    ("scenes", True): Form({"train": 24, "val": 4, "test": 8}, {**_SCENES, "units": "64"}, 1),
    ("digits", False): Form({"train": 80, "val": 10, "test": 20, "ten": 100}, _DIGITS, 3),
    ("digits", True): Form({"train": 16, "val": 3, "test": 3, "ten": 8}, {**_DIGITS, "units": "64", "epochs": "3"}, 1),
}
SIZES = {"scenes": scenes.SIZE, "digits": digits.SIZE}
DATA = {"scenes": scenes.write, "digits": digits.write}


def cnnviz_runs(*words: str | Path) -> None:
    """``cnnviz WORDS``, here.

    Raises:
        RuntimeError: It ended with an error.
    """
    line = [str(word) for word in words]
    code = command_line([*line, "-q", "--overwrite"])
    if code:
        raise RuntimeError(f"cnnviz {' '.join(line)} ended with {code}")


class Experiment:
    """Networks trained and explained, in a folder.

    Args:
        name: ``scenes`` or ``digits``.
        small: Whether it must be over in seconds.
        root: Where everything is written.
    """

    def __init__(self, name: str, small: bool, root: Path) -> None:
        self.name, self.root, self.form = name, root, FORMS[name, small]
        self.data, self.trained = root / "data", 0
        size = str(SIZES[name])
        self.shown = ["--input-size", size, "--resize", size]

    def run(self) -> dict[str, Any]:
        """All heads and seeds; what came of them."""
        began = time.perf_counter()
        if not self.data.exists():
            DATA[self.name](self.data, self.form.counts)
        outcomes = [self._outcomes(head, seed) for head in HEADS for seed in range(self.form.seeds)]
        found = figures([one for each in outcomes for one in each])
        if self.name == "digits":
            found["nine"] = self._nine()
        seconds = round(time.perf_counter() - began, 1)
        networks = len(HEADS) * self.form.seeds
        # In a --folder some may be there already: then the time is not that of the experiment.
        did = {"seconds": seconds if self.trained == networks else None, "networks": networks}
        return {"experiment": self.name, "form": asdict(self.form), "on": _machine(), **did, **found}

    def checkpoint(self, head: str, seed: int) -> Path:
        """The network of a head and a seed; trained if it is not there."""
        out = self.root / f"{head}-{seed}"
        path = out / "checkpoint.safetensors"
        if not path.exists():
            folder = self.root / "classes"  # train/ and val/, without the pictures that are tested with
            if not folder.exists():
                folder.mkdir()
                for part in ("train", "val"):
                    (folder / part).symlink_to(self.data / part, target_is_directory=True)
            self.trained += 1
            words = [word for name, value in self.form.options.items() for word in (f"--{name}", value)]
            cnnviz_runs("train", folder, "--head", head, "--seed", str(seed), *self.shown, *words, "-o", out)
        return path

    def _outcomes(self, head: str, seed: int) -> list[Outcomes]:
        """What each method's maps of the test pictures came to, with the threshold that is best on those of ``val``."""
        methods, out = ["saliency"] if head == "fc" else ["cam", "saliency"], self.root / f"maps-{head}-{seed}"
        words = ["--method", ",".join(methods), "--metric", METRICS, "-c", "truth", "--save", "none", "-o", out]
        asked = [self.data / "val", self.data / "test", "--truth", self.data / "truth.json"]
        cnnviz_runs("localize", *asked, "--checkpoint", self.checkpoint(head, seed), *words)
        return [Outcomes.read(_report(out), head, kind) for kind in (*methods, BASELINE)]

    def _nine(self) -> dict[str, Any]:
        """Whether the map of the 9 is largest on the 9, where all ten digits are there; by head and seed."""
        found: dict[str, Any] = {}
        for head in ("gap", "gmp"):
            rates = []
            for seed in range(self.form.seeds):
                out = self.root / f"ten-{head}-{seed}"
                size = str(digits.LARGE)  # a network that ends with pooling takes any
                words = ["--input-size", size, "--resize", size, "-c", digits.LOOKED_FOR, "--save", "none", "-o", out]
                path, truth = self.checkpoint(head, seed), self.data / "ten.json"
                asked = ["--method", "cam", "--metric", METRICS, "--truth", truth, "--checkpoint", path]
                cnnviz_runs("localize", self.data / "ten", *asked, *words)
                rates.append(_report(out)["summary"]["localization"]["cam"]["hit_rate"])
            found[head] = rates
        return found


def _report(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def _machine() -> dict[str, Any]:
    names = {"cnnviz": cnnviz.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**names, "machine": platform.machine(), "threads": torch.get_num_threads()}


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Run an experiment, print its tables, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(DATA))
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--folder", type=Path, help="keep everything there, and use what is there already")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="wsol-") as temporary:
        root = given.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        found = Experiment(given.experiment, given.small, root.resolve()).run()
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(printed(found))
    return found


if __name__ == "__main__":
    main()
