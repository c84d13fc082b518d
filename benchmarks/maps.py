"""Which maps are right: ``localize`` and ``evaluate`` on a folder of photographs, as a table of methods and figures.

    python -m benchmarks.maps localize PHOTOS --truth instances.json --truth-classes coco --json FILE
    python -m benchmarks.maps evaluate PHOTOS --json FILE --limit 40

Methods are run some at a time, so that a run that ends early keeps what it has: with ``--json FILE`` rows of methods
that are there already are not made again. Figures have their 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.timing import load, save
from cnnviz.cli.app import main as cnnviz

METHODS = (
    "cam,gradcam,gradcam++,layercam,hirescam,xgradcam,eigencam,eigengradcam", "finercam,shapleycam,fullgrad",
    "saliency,gradient_x_input,guided", "excitation_backprop,lrp", "smoothgrad:samples=8,integrated_gradients:steps=16",
)  # fmt: skip
"""Those that share passes run together. What costs hundreds of passes a map is left out."""


def measure(command: str, methods: str, options: list[str]) -> dict[str, Any]:
    """The report's summary of one run."""
    with tempfile.TemporaryDirectory() as folder:
        code = cnnviz([command, *options, "--method", methods, "-o", folder, "--save", "none", "-q"])
        if code not in (0, 3):
            raise SystemExit(f"{command} {methods}: exit code {code}")
        summary: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())["summary"]
        return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("localize", "evaluate"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="groups of methods, with commas")
    parser.add_argument("--json", required=True)
    parser.add_argument("--name", default="", help="what the rows are of: the network and the photographs")
    given, options = parser.parse_known_args()
    key = "localization" if given.command == "localize" else "metrics"
    rows = load(given.json)
    for group in given.methods:
        known = {row["method"] for row in rows if (row["command"], row["name"]) == (given.command, given.name)}
        wanted = [part for part in group.split(",") if part.partition(":")[0] not in known]
        if not wanted:
            continue
        summary = measure(given.command, ",".join(wanted), options)
        for method, figures in summary[key].items():
            if method not in known:
                seconds = summary["seconds_per_map"].get(method)
                of_run = {"images": summary["explained"], "seconds_per_map": seconds}
                rows.append(
                    {"command": given.command, "name": given.name, "method": method, **of_run, "figures": figures}
                )
        save(given.json, rows)
        print(given.command, group, f"{summary['seconds']} s")


if __name__ == "__main__":
    main()
