"""Runs over shares of the inputs, joined to what one run over all of them would have written.

Records and pictures are put into one folder, as those of a run that was killed before its end; then that run goes on,
finds every input done, and concludes: figures, report and gallery are made as always.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from cnnviz.errors import CnnvizError, of_all
from cnnviz.io.exclusions import Exclusions
from cnnviz.io.locks import FolderLock
from cnnviz.io.shard_folders import file_of, folders_of_shares, has, lies_in, open_in, same_folder
from cnnviz.io.shards import Shard
from cnnviz.io.store import Store
from cnnviz.records import files_of, parse_line
from cnnviz.registry import lookup
from cnnviz.run.counting import RunResult, rate
from cnnviz.run.earlier import DIGESTS, RECORDS, REPORT, EarlierRun, precision_in
from cnnviz.run.gallery import remove_gallery
from cnnviz.run.option_differences import differences
from cnnviz.run.reporters import Reporter
from cnnviz.run.share import FILE, SCHEMA, STATE, listing_of, settings_from
from cnnviz.settings import FREE_OPTIONS, RunSettings
from cnnviz.strict_json import to_json

Run = Callable[[RunSettings, Reporter, "BinaryIO | None"], RunResult]
_AGAIN = "Run that share again with --resume."
_UNKNOWN = 3


@dataclass(frozen=True)
class SharedRun:
    """The run of one share, which has ended.

    Attributes:
        folder: Its folder.
        shard: Which share it is.
        inputs: How many all inputs were, and the digest of their names.
        settings: What it was asked to do.
        report: Its report without the records.
    """

    folder: str
    shard: Shard
    inputs: Mapping[str, Any]
    settings: RunSettings
    report: Mapping[str, Any]


def merge(outs: Sequence[str], out: str | None, changes: Mapping[str, Any], reporter: Reporter, run: Run) -> RunResult:
    """Join the runs of all shares.

    Args:
        outs: Their folders, or folders that hold these.
        out: Where the whole goes; None: into the one folder that holds all shares.
        changes: ``overwrite``, whether a run that is there is replaced; ``device``, where the rest is computed.
        reporter: Told about progress.
        run: Makes a run.

    Raises:
        CnnvizError: A share is missing, twice or unfinished; they are not of one run; the inputs or the network are not
            what they were.
    """
    runs = read_runs(outs)
    check(runs)
    if out is None and (len(outs) > 1 or has(outs[0], FILE)):
        raise CnnvizError("Nothing says where the whole run goes.", "Give -o DIR.")
    out = out or outs[0]
    first = runs[0]
    runtime = first.settings.runtime
    if changes.get("device") is not None:
        runtime = replace(runtime, device=str(changes["device"]))
    settings = replace(
        first.settings,
        shard=None,
        runtime=runtime,
        output=replace(first.settings.output, out=out, resume=True, overwrite=False),
    )
    _check_inputs(settings, first)
    differing = [each for each in runs if each.report["environment"] != first.report["environment"]]
    if differing:
        reporter.note(
            f"{differing[0].folder} was computed elsewhere than {first.folder} (environment in their reports): last "
            "digits may differ from those of one run"
        )
    try:
        count = _assemble(runs, settings, bool(changes.get("overwrite")))
    except FileNotFoundError as error:
        raise CnnvizError(f"A file of a share is missing: {error}", "Run that share again with --overwrite.") from None
    if not count:
        raise CnnvizError("The shares have no image.", "Look at their reports.")
    reporter.say(f"{len(runs)} shares: everything is there; the run is concluded")
    result = run(settings, reporter, None)
    store = Store(out)
    for name in _states(runs):
        store.remove(name)
    return result


def read_runs(outs: Sequence[str]) -> list[SharedRun]:
    """The runs in these folders, or in those that they hold, by their share.

    Raises:
        CnnvizError: There is none, or one has not ended.
    """
    found: dict[str, SharedRun] = {}
    for out in outs:
        for folder in folders_of_shares(out):
            found[same_folder(folder)] = _read(folder)
    return sorted(found.values(), key=lambda each: each.shard.index)


def _read(folder: str) -> SharedRun:
    try:
        with open_in(folder, REPORT) as stream:
            report = json.load(stream)
    except (OSError, ValueError):
        raise CnnvizError(f"{folder} holds no run.", "Name the output folders of the shares.") from None
    try:
        with open_in(folder, FILE) as stream:
            data = json.load(stream)
    except (OSError, ValueError):
        shard = (report.get("options") or {}).get("shard")
        if shard is None:
            raise CnnvizError(f"{folder} is the run of no share.", "Shares are made with --shard I/N.") from None
        raise CnnvizError(f"{folder}: share {shard} has not ended.", _AGAIN) from None
    try:
        if data["schema"] != SCHEMA:
            raise KeyError(data["schema"])
        shard = Shard(int(data["index"]), int(data["count"]))
        return SharedRun(folder, shard, data["inputs"], settings_from(data["settings"]), {**report, "images": []})
    except (KeyError, TypeError, ValueError, CnnvizError) as error:
        raise CnnvizError(f"{folder}: its {FILE} is of another version ({error}).", _AGAIN) from error


def check(runs: Sequence[SharedRun]) -> None:
    """Whether these are all shares of one run, each once.

    Raises:
        CnnvizError: They are not.
    """
    first = runs[0]
    spec = lookup.find_entry(first.settings.target.method)
    if not spec.takes_shares():
        raise CnnvizError(f"{first.folder}: runs of {spec.command} cannot be joined.", "Run it over all inputs.")
    for other in runs[1:]:
        _check_alike(first, other)
    by_index: dict[int, str] = {}
    for each in runs:
        if (before := by_index.setdefault(each.shard.index, each.folder)) is not each.folder:
            raise CnnvizError(f"Share {each.shard} is there twice: {before} and {each.folder}.", "Leave one out.")
    missing = [str(index) for index in range(1, first.shard.count + 1) if index not in by_index]
    if missing:
        some = ", ".join(missing[:_UNKNOWN]) + (", ..." if len(missing) > _UNKNOWN else "")
        raise CnnvizError(
            f"{of_all(len(missing), first.shard.count, 'share')} missing: {some}.",
            f"Run {'it, and name its folder' if len(missing) == 1 else 'them, and name their folders'} too.",
        )


def _check_alike(first: SharedRun, other: SharedRun) -> None:
    both = f"{first.folder} and {other.folder}"
    if first.shard.count != other.shard.count:
        raise CnnvizError(
            f"{both}: shares of {first.shard.count} and of {other.shard.count}.", "Name the shares of one run."
        )
    a, b = ({"command": each.settings.command, **each.report["options"]} for each in (first, other))
    where = "in the one", "in the other"
    if others := differences(a, {**dict.fromkeys(a), **b}, {*FREE_OPTIONS, "shard"}, where):
        raise CnnvizError(f"{both} were begun otherwise: {others}.", "Name the shares of one run.")
    if a["inputs"] != b["inputs"]:
        named = [shlex.join(each["inputs"]) for each in (a, b)]
        raise CnnvizError(f"{both}: inputs are {named[0]} and {named[1]}.", "Name the shares of one run.")
    precisions = [precision_in(each.report) for each in (first, other)]
    if precisions[0] != precisions[1]:
        raise CnnvizError(
            f"{both} were computed in {' and '.join(precisions)}: maps of one run are of one precision.",
            "Run the shares again with --overwrite and --precision fp32.",
        )
    for key, said in DIGESTS.items():
        if first.report["model"].get(key) != other.report["model"].get(key):
            raise CnnvizError(f"{both}: {said} differ.", "Name the shares of one run.")
    if first.report.get("option_files_sha256") != other.report.get("option_files_sha256"):
        raise CnnvizError(f"{both}: files that options name differ.", "Name the shares of one run.")
    if first.inputs != other.inputs:
        counts = f"{first.inputs['files']} and {other.inputs['files']} files"
        raise CnnvizError(f"{both}: the inputs were others ({counts}).", "Run the older one again with --resume.")


def _check_inputs(settings: RunSettings, first: SharedRun) -> None:
    """Whether the inputs are what the shares saw: what came since belongs to one of them."""
    left_out = None if settings.exclude is None else Exclusions(settings.exclude, settings.inputs).leaves_out
    now = listing_of(settings, left_out).to_dict()
    if now != first.inputs:
        raise CnnvizError(
            f"The inputs are not what the shares saw: {first.inputs['files']} files then, {now['files']} now.",
            "Run the shares again with --resume.",
        )


def _assemble(runs: Sequence[SharedRun], settings: RunSettings, overwrite: bool) -> int:
    """Put records and files of all shares into one folder. Returns how many records there are.

    Raises:
        CnnvizError: An image is there twice, a file is missing, or the folder is not free.
    """
    store = Store(settings.output.out)
    with ExitStack() as stack:
        lock = FolderLock(store, "merge")
        stack.callback(lock.release)
        store.gather(RECORDS)
        _clear(store, runs, overwrite)
        store.write(REPORT, _begun(runs, settings))
        for name, path in _states(runs).items():
            store.adopt(name, path)
        lines = stack.enter_context(store.stream(RECORDS))
        stack.enter_context(store.sending())
        names: set[str] = set()
        for each in runs:
            for line, record in _records(each.folder):
                name = str(record.get("name"))
                if name in names:
                    raise CnnvizError(f"{name} is in two shares, the second is {each.folder}.", "Run it again.")
                names.add(name)
                lines.write(line)
                for file in files_of(record):
                    _take(store, each.folder, file)
    return len(names)


def _clear(store: Store, runs: Sequence[SharedRun], overwrite: bool) -> None:
    own = {os.path.basename(same_folder(each.folder)) for each in runs if lies_in(each.folder, store.root)}
    earlier = EarlierRun(store)
    rest = [name for name in earlier.entries if name not in own]
    if not rest:
        return
    if not overwrite:
        raise CnnvizError(
            f"The output folder {store.root} is not empty: it has {rest[0]}.",
            "Use --overwrite to replace the run that is there, or -o for another folder.",
        )
    earlier.check_overwrite()
    earlier.clear(store.remove)
    for name in (RECORDS, REPORT, *_states(runs)):
        store.remove(name)
    remove_gallery(store)


def _begun(runs: Sequence[SharedRun], settings: RunSettings) -> bytes:
    """The report of the whole run as if it had been killed: that is continued. Its time is that of all shares."""
    first = runs[0].report
    of_shares = [each.report["summary"] for each in runs]
    seconds = sum(float(each.get("seconds") or 0) for each in of_shares)
    done = [sum(int(each.get(name) or 0) for name in ("explained", "failed", "skipped")) for each in of_shares]
    # Of a share that was continued the time of its last part is known.
    timed = [int(each.get("timed") or count) for each, count in zip(of_shares, done, strict=True)]
    summary = {
        "inputs": 0, "explained": 0, "failed": 0, "finished": False, "seconds": round(seconds, 3),
        "images_per_second": rate(sum(timed), seconds), **({"timed": sum(timed)} if timed != done else {}),
    }  # fmt: skip
    head = {**first, "options": settings.options(), "summary": summary, "images": []}
    merged = {"environment": first["environment"], "states": list(_states(runs))}
    return to_json({**head, "merged": merged}, indent=2).encode()


def _states(runs: Sequence[SharedRun]) -> dict[str, str]:
    """Where what studies gathered of each share lies, by its name in the folder of the whole run, for a while."""
    return {f"{each.shard.folder}.npz": file_of(each.folder, STATE) for each in runs if has(each.folder, STATE)}


def _records(folder: str) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    with open_in(folder, RECORDS) as stream:
        for line in stream:
            record = parse_line(line)
            if record is None or not line.endswith(b"\n"):
                raise CnnvizError(f"{folder}: a line of {RECORDS} cannot be read.", _AGAIN)
            yield line, record


def _take(store: Store, folder: str, name: str) -> None:
    try:
        store.adopt(name, file_of(folder, name))
    except FileNotFoundError:
        raise CnnvizError(f"{folder}: {name} is missing.", "Run that share again with --overwrite.") from None


__all__ = ["SharedRun", "check", "merge", "read_runs"]
