"""What every command gives, written down, so that two states of the code can be compared number by number.

    python -m benchmarks.snapshot write BEFORE        # runs every method and study: minutes
    python -m benchmarks.snapshot compare BEFORE AFTER

Runs the command line only, on the bundled network with sample images and on small seeded networks, and keeps the raw
arrays and the records. ``compare`` prints what differs by more than 1e-5 of the largest magnitude, what is missing and
what is new, and fails if an array or a figure differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cnnviz
from cnnviz.cli import app

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-5
# Keys that tell of a run and not of its result: times, places, versions, texts.
TELLING = frozenset(
    "seconds images_per_second timed cnnviz options environment notes remarks finished resumed option_files_sha256 "
    "path command seconds_arranging steps_per_second input source_sha256 caveat files model sha256 gallery "
    "class_guesses".split()
)
# Fewer repetitions than the defaults, by method or study.
CHEAP: dict[str, tuple[str, ...]] = {
    "occlusion": ("--stride", "32"), "rise": ("--masks", "64"), "extremal": ("--cells", "4", "--steps", "1"),
    "kernelshap": ("--samples", "64"), "shapley": ("--samples", "64"), "lime": ("--samples", "64"),
    "smoothgrad": ("--samples", "4"),
    "smoothgradcam++": ("--samples", "4"), "scorecam": ("--channels", "16"),
    "sscam": ("--channels", "8", "--samples", "2"), "iscam": ("--channels", "8", "--steps", "2"),
    "integrated_gradients": ("--steps", "8"), "synthesize": ("--steps", "6"), "dream": ("--steps", "3"),
    "adversarial": ("--steps", "4"), "top-patches": ("--units", "0,3,5"), "embed": ("--perplexity", "2"),
}  # fmt: skip
STUDIES = ("embed", "top-patches", "adversarial", "classmap", "dream", "activations", "synthesize", "filters")
# Studies that make their images or need none, with what they must be told.
WITHOUT_INPUT: dict[str, tuple[str, ...]] = {"synthesize": ("-c", "1"), "filters": ()}


@dataclass(frozen=True)
class Network:
    """Options that choose a network, those of its images beside them, and how many images it gets."""

    model: tuple[str, ...]
    images: tuple[str, ...]
    limit: int


def networks() -> dict[str, Network]:
    tiny = str(ROOT / "tests" / "support" / "tiny_model.py")
    size, resize = ("--input-size", "64"), ("--resize", "64")
    return {
        "bundled": Network((), (), 2),
        "tiny": Network(("-m", f"{tiny}:make", *size), resize, 3),
        "one_logit": Network(("-m", f"{tiny}:make_one_logit", *size), resize, 3),
        "resnet18": Network(("-m", "resnet18", "--weights", "none", "--input-size", "96"), ("--resize", "96"), 2),
    }


def runs() -> Iterator[tuple[str, list[str]]]:
    """Name of a run, and its command line."""
    listed = cnnviz.list_methods()
    methods = [(str(entry["name"]), str(entry["command"])) for entry in listed]
    variants = Counter(command for _, command in methods)
    for label, network in networks().items():
        images = [str(ROOT / "sample_images"), *network.images, "--limit", str(network.limit), "-j", "1"]
        for name, command in [*methods, *((study, study) for study in STUDIES)]:
            asked = [command, *network.model, *CHEAP.get(name, ()), *WITHOUT_INPUT.get(name, images)]
            if variants[command] > 1:
                asked += ["--variant", name]
            if name not in STUDIES:
                asked += ["--save", "raw", "-c", "top:2"]
            yield f"{label}/{name}", asked


def write(out: Path) -> None:
    """Run everything into ``out``."""
    for name, arguments in runs():
        folder, began = out / name, time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        code: Any = 0
        try:
            code = app.main([*arguments, "-o", str(folder), "-q"])
        except SystemExit as ended:
            code = ended.code
        print(f"{name}: exit code {code}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "exit_code.json").write_text(json.dumps({"code": code}))


def kept(folder: Path) -> dict[str, Any]:
    """Arrays and figures of a snapshot by file and key."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found.update({f"{name}:{key}": arrays[key] for key in arrays.files})
        elif path.suffix == ".npy":
            found[name] = np.load(path)
        elif path.name in ("report.json", "exit_code.json"):
            found.update({f"{name}:{key}": value for key, value in _leaves(json.loads(path.read_text()))})
    return found


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in TELLING:
                yield from _leaves(item, f"{at}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{at}[{number}]")
    else:
        yield at, value


def difference(before: Any, after: Any) -> float:
    """Largest difference as a share of the largest magnitude; infinite where the values cannot be compared."""
    if isinstance(before, str) or before is None or after is None or isinstance(after, str):
        return 0.0 if before == after else float("inf")
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if old.shape != new.shape:
        return float("inf")
    if old.size == 0:
        return 0.0
    scale = max(float(np.abs(old).max()), 1e-12)
    return float(np.abs(old - new).max()) / scale


def compare(before: Path, after: Path) -> int:
    """Print the differences; their number."""
    old, new = kept(before), kept(after)
    wrong = 0
    for key in sorted(old.keys() | new.keys()):
        if key not in new:
            print(f"missing: {key}")
            wrong += 1
        elif key not in old:
            print(f"new: {key}")
        elif (far := difference(old[key], new[key])) > TOLERANCE:
            print(f"differs by {far:.2g}: {key}")
            wrong += 1
    print(f"{len(old)} arrays and figures compared: {wrong} missing or different, {len(new.keys() - old.keys())} new")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write").add_argument("out", type=Path)
    both = commands.add_parser("compare")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    asked = parser.parse_args()
    if asked.command == "write":
        write(asked.out)
    elif compare(asked.before, asked.after):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
