"""What a million photographs cost on one machine and on many, from measured constants.

    python -m benchmarks.million --measure PHOTOS --json benchmarks/results/million.json    # the constants of sharing
    python -m benchmarks.million    # the tables of docs/cluster.md
    python -m benchmarks.million --images 2e6 --machines 1 16 --rate 400 --picture-kib 150    # with one's own

``--measure`` times ``cnnviz merge`` over two shares of small pictures, for two numbers of them, and takes the line
through both; lists the inputs; and explains PHOTOS with the default network for the bytes of a picture. Pace and
memory of a run are those of ``results/folder.json``, the size of the report that of ``results/scale.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale import FACTORY, pictures, watched
from benchmarks.timing import save

RESULTS = Path(__file__).parent / "results"
SIZES = (2000, 20_000)
LINES_A_PART = 100
"""Records in an object of ``records.jsonl`` while a run on an object store goes on."""
OWN_FILES = 4
"""Records, report, page and ``shard.json`` of a run."""


def command(*words: str) -> list[str]:
    """A command line of cnnviz."""
    return [sys.executable, "-m", "cnnviz", *words, "-q"]


def merged(here: Path, count: int) -> dict[str, Any]:
    """Seconds and memory of joining two shares of so many pictures, and seconds of listing them."""
    from cnnviz.io.shards import parse_shard
    from cnnviz.io.sources import SourceOptions, find_images

    here.mkdir()
    pictures(here / "photos", count)
    (here / "net.py").write_text(FACTORY)
    model = ["-m", f"{here / 'net.py'}:build", "--input-size", "3,48,64"]
    for index in (1, 2):
        words = ["gradcam", str(here / "photos"), *model, "-o", str(here / "out"), "--shard", f"{index}/2"]
        subprocess.run(command(*words), check=True)
    rows, seconds = watched(command("merge", str(here / "out")), here / "none")
    share, began = parse_shard("1/2"), time.perf_counter()
    for ref in find_images([str(here / "photos")], SourceOptions()):
        share.has(ref.name)
    return {
        "images": count,
        "merge_seconds": round(seconds, 2),
        "merge_mib": round(max(row[2] for row in rows) / 2**20, 1),
        "list_seconds": round(time.perf_counter() - began, 4),
    }


def bytes_of_pictures(here: Path, photos: str) -> dict[str, Any]:
    """How many files a photograph gets, and how large they are."""
    subprocess.run(command("gradcam", photos, "-o", str(here), "--no-cache"), check=True)
    files = [path for path in (here / "images").rglob("*") if path.is_file()]
    explained = json.loads((here / "report.json").read_text())["summary"]["explained"]
    size = sum(path.stat().st_size for path in files)
    return {
        "photographs": explained,
        "pictures_a_photograph": round(len(files) / explained, 3),
        "kib_a_picture": round(size / len(files) / 1024, 1),
    }


def constants() -> dict[str, float]:
    """What the committed measurements say."""
    folder, scale, own = (
        json.loads((RESULTS / f"{name}.json").read_text())["rows"] for name in ("folder", "scale", "million")
    )
    small, large, bytes_ = own
    more = large["images"] - small["images"]
    slope = (large["merge_seconds"] - small["merge_seconds"]) / more
    return {
        "rate": folder[0]["reached_images_per_second"],
        "memory_mib": folder[0]["peak_mib"],
        "after_seconds": scale[0]["after_seconds"] / scale[0]["inputs"],
        "report_kib": scale[0]["report_mib"] * 1024 / scale[0]["inputs"],
        "list_seconds": large["list_seconds"] / large["images"],
        "merge_seconds": slope,
        "merge_start": small["merge_seconds"] - slope * small["images"],
        "merge_mib": large["merge_mib"],
        "merge_kib": max(0.0, (large["merge_mib"] - small["merge_mib"]) * 1024 / more),
        "pictures": bytes_["pictures_a_photograph"],
        "picture_kib": bytes_["kib_a_picture"],
    }


def cost(images: int, machines: int, known: Mapping[str, float]) -> dict[str, float]:
    """What a run over ``images`` costs on ``machines``.

    Each explains its share at ``rate``, lists all inputs, and writes the report of its share; where there are several
    machines, one merges: its time grows with all images, whatever their number. A file is put once by a share; the
    merge has the server copy every picture, and writes its own files once more.
    """
    share = images / machines
    several = machines > 1
    run = share / known["rate"] + images * known["list_seconds"] + share * known["after_seconds"]
    merge = known["merge_start"] + images * known["merge_seconds"] if several else 0.0
    shown = images * known["pictures"]
    # The report holds the records once more.
    texts = 2 * images * known["report_kib"] * (2 if several else 1)
    return {
        "run_hours": run / 3600,
        "merge_hours": merge / 3600,
        "hours": (run + merge) / 3600,
        "machine_hours": (run * machines + merge) / 3600,
        "run_gib": known["memory_mib"] / 1024,
        "merge_gib": (known["merge_mib"] + known["merge_kib"] * images / 1024) / 1024 if several else 0.0,
        "files": shown + OWN_FILES * (machines + several),
        "puts": shown + images / LINES_A_PART + OWN_FILES * (machines + several),
        "copies": shown if several else 0.0,
        "disk_gib": (shown * known["picture_kib"] + texts) / 2**20,
        "store_gib": (shown * known["picture_kib"] * (2 if several else 1) + texts) / 2**20,
    }


HEADINGS = {
    "run_hours": ("explaining, hours", "{:.2f}"),
    "merge_hours": ("merging, hours", "{:.2f}"),
    "hours": ("in all, hours", "{:.2f}"),
    "machine_hours": ("machine hours", "{:.2f}"),
    "run_gib": ("memory of a machine, GiB", "{:.1f}"),
    "merge_gib": ("memory of the merge, GiB", "{:.1f}"),
    "files": ("files", "{:,.0f}"),
    "puts": ("PUTs to an object store", "{:,.0f}"),
    "copies": ("copies within it, by the merge", "{:,.0f}"),
    "disk_gib": ("on a disk with hard links, GiB", "{:.0f}"),
    "store_gib": ("in an object store until the shares are removed, GiB", "{:.0f}"),
}


def table(images: int, machines: Sequence[int], known: Mapping[str, float]) -> str:
    """The costs as Markdown, a column for each number of machines."""
    costs = [cost(images, count, known) for count in machines]
    lines = [f"| machines | {' | '.join(map(str, machines))} |", "| --- |" + " --- |" * len(machines)]
    for key, (said, form) in HEADINGS.items():
        lines.append(f"| {said} | {' | '.join(form.format(each[key]) for each in costs)} |")
    return "\n".join(lines)


def constants_table(known: Mapping[str, float]) -> str:
    """The constants as Markdown, by the option that replaces each."""
    lines = ["| constant | value |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `--{name.replace('_', '-')}` | {value:.4g} |" for name, value in known.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="PHOTOS")
    parser.add_argument("--json")
    parser.add_argument("--images", type=float, default=1e6)
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 8, 64])
    if "--measure" in sys.argv:
        given = parser.parse_args()
        with tempfile.TemporaryDirectory() as folder:
            rows = [merged(Path(folder) / str(count), count) for count in SIZES]
            rows.append(bytes_of_pictures(Path(folder) / "bytes", given.measure))
        print(rows)
        if given.json:
            save(given.json, rows)
        return
    known = constants()
    for name, value in known.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    given = parser.parse_args()
    known = {name: getattr(given, name) for name in known}
    print(table(int(given.images), given.machines, known), constants_table(known), sep="\n\n")


if __name__ == "__main__":
    main()
