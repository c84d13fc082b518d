"""Walks one small network of every torchvision and timm family through the methods.

    python -m benchmarks.families --json benchmarks/results/families.json
    python docs/networks.py                                                    # writes docs/networks.md and the README

Each network has a process of its own, with a time limit and a memory limit: a crash, a hang or a network that is too
large ends only its own row. Rows are appended to a file of the working folder as they are found, and those that are
there, or in the JSON, are not computed again: the walk can be interrupted, and goes on where it was.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import resource
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.family_checks import Checks, outcome, usable_size
from benchmarks.family_networks import build, calibrate, families
from benchmarks.timing import machine

Row = dict[str, Any]
METHODS = ("gradcam", "guided", "lrp", "excitation_backprop", "fullgrad", "occlusion", "top-patches")
# In the order in which they are walked: the taller first, which tells more.
SHAPES = ("tall", "square")
GIGABYTE = 2**30


def walk(library: str, name: str, shape: str) -> Iterator[Row]:
    """What is found out about one network at a square size, or at a taller one (nothing where it takes none)."""
    module, own = build(library, name)
    calibrate(module, (own, own))
    side, taller, any_size = usable_size(module, own)
    calibrate(module, (side, side))
    size = (side, side) if shape == "square" else (taller, side)
    yield {"sizes": [[side, side], *([[taller, side]] if any_size else [])]}
    if shape == "tall" and not any_size:
        return
    checks = Checks(module, size)
    spread = (checks.logits[0] - checks.logits[1]).abs().max() / checks.logits.abs().max()
    key = f"{size[0]}x{size[1]}"
    yield {"size": key, "method": None, "figures": {"answers_to_its_input": float(spread)}}
    for method, check in checks.all():
        yield {"size": key, "method": method, "figures": outcome(check)}


def _child(network: tuple[str, str, str], memory: int, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        for piece in walk(*network):
            sender.send(piece)
    except Exception as error:
        sender.send({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    sender.send(None)


def in_own_process(network: tuple[str, str, str], seconds: float, memory: int) -> Row:
    """The row of a network (library, name, shape), with what was found before it crashed or ran out of its limits."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(network, memory, sender), daemon=True)
    process.start()
    sender.close()
    row: Row = {"results": {}}
    deadline = time.monotonic() + seconds
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            piece = receiver.recv()
            if piece is None:
                return row
            _take(row, piece)
        row["ended"] = f"after {seconds:.0f} seconds"
    except EOFError:
        row["ended"] = "the process ended"
    finally:
        process.kill()
        process.join()
    return row


def _take(row: Row, piece: Row) -> None:
    if "size" not in piece:
        row.update(piece)
    elif piece["method"] is None:
        row["results"][piece["size"]] = dict(piece["figures"])
    else:
        row["results"][piece["size"]][piece["method"]] = piece["figures"]


def counted(rows: list[Row]) -> dict[str, dict[str, int]]:
    """For each method how many networks gave maps, were refused, and so on; the worst outcome of its sizes counts."""
    order = ("not reached", "crash", "wrong", "memory", "refused", "map")
    found: dict[str, dict[str, int]] = {}
    for method in METHODS:
        outcomes: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            for results in row["results"].values():
                came_to = results.get(method, {"outcome": "not reached"})["outcome"]
                outcomes.setdefault((row["library"], row["network"]), []).append(came_to)
        counts = Counter(min(each, key=order.index) for each in outcomes.values())
        found[method] = {name: counts[name] for name in reversed(order) if counts[name] or name in {"map", "refused"}}
    return found


def rounded(value: Any) -> Any:
    """Figures with three digits: the others are noise."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def choices(earlier: Row, work: Path) -> list[Row]:
    """The networks to walk: those of earlier results with the same versions. To find them takes minutes."""
    kept = work / "choices.json"
    if "choices" in earlier and all(earlier["machine"][name] == version(name) for name in ("timm", "torchvision")):
        return list(earlier["choices"])
    if not kept.exists():
        names = ("library", "family", "network", "parameters")
        kept.write_text(json.dumps([dict(zip(names, choice, strict=True)) for choice in families()], indent=1))
    found: list[Row] = json.loads(kept.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/families.json"))
    parser.add_argument("--work", type=Path, default=Path("cnnviz-out/families"), help="Folder of what is found.")
    parser.add_argument("--only", default="*", help="Networks or families by a pattern, such as 'mobile*'.")
    parser.add_argument("--seconds", type=float, default=180, help="For each network.")
    parser.add_argument("--gigabytes", type=float, default=10, help="Of memory, for each network.")
    parser.add_argument("--largest", type=float, default=135e6, help="Parameters of the largest network to walk.")
    parser.add_argument("--limit", type=int, help="Walk at most so many that are not there yet.")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="Also networks whose rows are there.")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    rows_file = asked.work / "rows.jsonl"
    if asked.again:
        rows_file.unlink(missing_ok=True)
    earlier: Row = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    lines = rows_file.read_text().splitlines() if rows_file.exists() else []
    there = [*([] if asked.again else earlier.get("rows", [])), *map(json.loads, lines)]
    done = {(row["library"], row["network"], row["shape"]): row for row in there}
    every = choices(earlier, asked.work)
    wanted = [c for c in every if any(fnmatch.fnmatch(c[key], asked.only) for key in ("family", "network"))]
    pieces = [{**c, "shape": shape} for shape in SHAPES for c in wanted if c["parameters"] <= asked.largest]
    todo = [c for c in pieces if (c["library"], c["network"], c["shape"]) not in done][: asked.limit]

    def one(choice: Row) -> None:
        began, key = time.monotonic(), (choice["library"], choice["network"], choice["shape"])
        row = rounded({**choice, **in_own_process(key, asked.seconds, int(asked.gigabytes * GIGABYTE))})
        done[key] = row
        with rows_file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(choice["network"], f"{time.monotonic() - began:.0f} s", _in_short(row), flush=True)

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(one, todo))
    rows = [done[key] for c in every for shape in SHAPES if (key := (c["library"], c["network"], shape)) in done]
    found = {"machine": machine(), "counts": counted(rows), "choices": every, "rows": rows}
    asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _in_short(row: Row) -> str:
    parts = []
    for size, results in row["results"].items():
        words = [f"{m}: {results[m]['outcome'] if m in results else 'not reached'}" for m in METHODS]
        parts.append(f"{size} " + ", ".join(words))
    return "; ".join([*parts, *(str(row[key]) for key in ("error", "ended") if key in row)])


if __name__ == "__main__":
    main()
