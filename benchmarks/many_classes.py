"""What all classes of a network cost beside one: whole processes in turns, the best of several.

    python -m benchmarks.many_classes PHOTOS --json benchmarks/results/many_classes.json

``cam`` and ``gradcam`` with ``--save none`` of the bundled network, for the predicted class and for all 1,000, of the
first photographs of a folder. Times are of the processor, with one thread: threads that wait for others spend it too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

from benchmarks.start import timed
from benchmarks.timing import save

METHODS = ("cam", "gradcam")
CLASSES = ("pred", "all")


def measured(photos: str, method: str, count: int, rounds: int) -> dict[str, Any]:
    """A row: seconds of the processor for one class and for all, best of the rounds."""
    times: dict[str, list[float]] = {each: [] for each in CLASSES}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "cnnviz", method, photos, "-o", out, "--overwrite", "-q", "--save", "none"]
        for _ in range(rounds):
            for each, own in times.items():
                own.append(timed([*command, "--limit", str(count), "--class", each], 1)[1])
    one, every = (round(min(own), 2) for own in times.values())
    return {"method": method, "photographs": count, "one_s": one, "all_s": every, "all_over_one": round(every / one, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photographs", type=int, nargs="+", default=[4, 40, 100])
    args = parser.parse_args()
    rows = []
    for count in args.photographs:
        for method in METHODS:
            rows.append(measured(args.photos, method, count, args.rounds))
            print(rows[-1], flush=True)
    save(args.json, rows)


if __name__ == "__main__":
    main()
