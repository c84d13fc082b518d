"""Every method of the register by every metric: boxes on photographs with marked objects, faithfulness on others.

    python -m benchmarks.all_methods --boxed PHOTOS --truth instances.json --labelled PHOTOS --labels labels.csv \\
        --name efficientnet_lite0 --json benchmarks/results/all_methods.json [OPTIONS OF THE NETWORK]
    python -m benchmarks.all_methods --page --json benchmarks/results/all_methods.json      # the tables of the page

Methods are run in groups that share passes. What costs many passes a map, and what has many small regions, is measured
on fewer photographs, drawn by a seed; each row says on how many. A piece that stands in the file is not run again, so
that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.maps import measure
from benchmarks.timing import load, save

PAGE = Path(__file__).with_name("all_methods.md")
SEED = 0
COMMANDS = ("localize", "evaluate")
_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Group:
    """Methods that run together.

    Attributes:
        methods: With the options that they have here.
        boxed, labelled: On how many photographs of either kind; None for all.
        classes: What ``localize`` explains.
        draws: Of max-sensitivity, which repeats each map so often; 0 for none.
        mosaics: Of the grid pointing game; 0 for none.
    """

    methods: tuple[str, ...]
    boxed: int | None
    labelled: int | None
    classes: tuple[str, ...] = ("top:5", "truth")
    draws: int = 3
    mosaics: int = 8


CELLS = Group(
    (
        "cam", "gradcam", "gradcam++", "layercam", "hirescam", "xgradcam", "eigencam", "eigengradcam", "finercam",
        "shapleycam", "ablationcam", "smoothgradcam++:samples=4",
    ),
    boxed=None,
    labelled=16,
)  # fmt: skip
MORE_CELLS = Group(("kpcacam", "fem", "reciprocam", "conductance:steps=8"), boxed=None, labelled=16)
PIXELS = Group(
    (
        "saliency", "gradient_x_input", "guided", "lrp", "deeplift", "excitation_backprop", "fullgrad",
        "smoothgrad:samples=8", "integrated_gradients:steps=16", "gradient_shap:samples=8",
    ),
    boxed=12,
    labelled=16,
    classes=("truth",),
)  # fmt: skip
DEAR = tuple(
    Group((method,), boxed=8, labelled=6, classes=("truth",), draws=0, mosaics=0)
    for method in (
        "occlusion:stride=16", "rise:masks=300", "scorecam:channels=64", "lime:samples=200", "kernelshap:samples=200",
        "shapley:samples=200",
        "iscam:steps=2,channels=32", "sscam:samples=2,channels=32", "sobol:cells=6,designs=8", "hsic:masks=300",
        "extremal",
    )
)  # fmt: skip
GROUPS = (CELLS, MORE_CELLS, *DEAR[:-1], PIXELS, DEAR[-1])
METRICS = (
    "insertion:steps=14,baselines=no", "deletion:steps=14,baselines=no", "road:baselines=no", "average_drop",
    "increase", "sensitivity_n", "infidelity", "sparseness", "occlusion_agreement", "randomization:steps=last",
)  # fmt: skip

BOXES = {
    "top1_error": "top-1 error ↓", "top5_error": "top-5 error ↓", "gt_known_accuracy": "GT-known ↑",
    "max_box_acc": "MaxBoxAcc ↑", "max_box_acc_v2": "MaxBoxAccV2 ↑", "pointing_game": "pointing game ↑",
    "energy_pointing_game": "energy inside ↑", "pxap": "PxAP ↑",
}  # fmt: skip
FAITHFULNESS = {
    "insertion": "insertion ↑", "deletion": "deletion ↓", "road": "ROAD ↑", "average_drop": "average drop ↓",
    "increase": "increase ↑", "sensitivity_n": "sensitivity-n ↑", "infidelity": "infidelity ↓",
    "max_sensitivity": "max-sensitivity ↓", "sparseness": "sparseness ↑", "grid_pointing": "grid pointing ↑",
    "occlusion_agreement": "occlusion ↑", "randomization": "randomization ↓",
}  # fmt: skip


def subset(folder: str, count: int | None) -> list[str]:
    """Photographs of a folder: all, or so many that the seed draws."""
    every = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in _SUFFIXES)
    return every if count is None or count >= len(every) else sorted(random.Random(SEED).sample(every, count))


def options(command: str, group: Group, given: argparse.Namespace) -> list[str]:
    """The command line of a piece, without its methods."""
    if command == "localize":
        found = [*subset(given.boxed, group.boxed), "--truth", given.truth, "--truth-classes", "coco"]
        return [*found, *(part for each in group.classes for part in ("--class", each))]
    metrics = [*METRICS, *([f"max_sensitivity:draws={group.draws}"] if group.draws else [])]
    found = [*subset(given.labelled, group.labelled), "--class", given.labels]
    found += [part for each in metrics for part in ("--metric", each)]
    return [*found, *(["--mosaics", str(group.mosaics)] if group.mosaics else [])]


def run(given: argparse.Namespace, network: Sequence[str]) -> None:
    """Measure what is missing of one network; the file is written after each piece."""
    rows = load(given.json)
    pieces = [(command, group) for group in GROUPS for command in COMMANDS]
    # What maps that know nothing come to is the same beside every method; blurred copies are one method's.
    pieces.append(("baselines", Group(("gradcam",), None, CELLS.labelled, draws=0, mosaics=0)))
    for command, group in pieces:
        known = {row["method"] for row in rows if (row["command"], row["network"]) == (command, given.name)}
        wanted = [method for method in group.methods if method.partition(":")[0] not in known]
        if not wanted:
            continue
        kind = "localize" if command == "localize" else "evaluate"
        further = [] if command != "evaluate" else ["--no-baselines"]
        summary = measure(kind, ",".join(wanted), [*options(kind, group, given), *further, *network])
        figures = summary["localization" if kind == "localize" else "metrics"]
        for method, own in figures.items():
            known_here = {(row["command"], row["method"]) for row in rows if row["network"] == given.name}
            if (command, method) in known_here or (command == "baselines" and method in group.methods):
                continue
            text = next((each for each in wanted if each.partition(":")[0] == method), method)
            of_row = {"network": given.name, "command": command, "method": method, "options": text.partition(":")[2]}
            rows.append({**of_row, "images": summary["explained"], "figures": own})
        save(given.json, rows)
        print(given.name, command, *wanted, f"{summary['seconds']} s", flush=True)


def page(document: Mapping[str, Any]) -> str:
    """The tables of the results, by network."""
    rows = document["rows"]
    machine = document["machine"]
    lines = [
        "# Every method by every metric",
        "",
        "Made by `python -m benchmarks.all_methods --page` of `results/all_methods.json`"
        f" ({machine['date']}, torch {machine['torch']}). In brackets the 95 % interval over images; n is the number of"
        " photographs. Rows of different n are of different photographs, and intervals of few of them are wide: compare"
        " within one n. Methods without a row have not been"
        " run yet. MaxBoxAcc: thresholds chosen on these images. Options of a method stand behind its name.",
        "",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        for title, commands, columns in (
            ("boxes", ("localize",), BOXES),
            ("faithfulness", ("evaluate", "baselines"), FAITHFULNESS),
        ):
            own = [row for row in rows if row["network"] == network and row["command"] in commands]
            if own:
                lines += [f"## {network}: {title}", "", *_table(own, columns), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    shown = {key: head for key, head in columns.items() if any(_cell(row, key) != "-" for row in rows)}
    lines = [f"| method | n | {' | '.join(shown.values())} |", "| --- " * (len(shown) + 2) + "|"]
    for row in rows:
        name = row["method"] + (f" {row['options']}" if row["options"] else "")
        lines.append(f"| {name} | {row['images']} | {' | '.join(_cell(row, key) for key in shown)} |")
    return lines


def _cell(row: Mapping[str, Any], key: str) -> str:
    figure = row["figures"].get(key) or {}
    if figure.get("value") is None:
        return "-"
    ends = figure.get("ci95")
    return f"{figure['value']:.3g}" + (f" ({ends[0]:.3g} to {ends[1]:.3g})" if ends else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True)
    parser.add_argument("--page", action="store_true", help="write the page of what the file holds, and end")
    for name in ("--boxed", "--truth", "--labelled", "--labels", "--name"):
        parser.add_argument(name, default="")
    given, network = parser.parse_known_args()
    if not given.page:
        run(given, network)
    PAGE.write_text(page(json.loads(Path(given.json).read_text())))


if __name__ == "__main__":
    main()
