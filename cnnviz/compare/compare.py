"""``compare``: two runs over the same images, made for it or finished before: maps, predictions, what changed most.

What is made for it lies in ``a/`` and ``b/`` of the output folder, two runs as any others, which ``--resume``
continues; the comparison itself is made anew each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, BinaryIO, cast

import cnnviz
from cnnviz.compare.figures import ImageChange, Tally, held_to, rightness
from cnnviz.compare.likeness import ComparedMaps, Likeness, likeness
from cnnviz.compare.pairing import Paired, Row, Targets, methods_of, pair_images
from cnnviz.compare.panels import compared_panel
from cnnviz.compare.sides import A, B, differences, explaining, in_words, of_b, sides_of
from cnnviz.compare.tell import MOST_NAMED, sentences
from cnnviz.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_POLICY_VIOLATED,
    EXIT_SOME_FAILED,
    CnnvizError,
    counted,
    of_all,
)
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.finished_runs import FinishedRun
from cnnviz.io.store import Store
from cnnviz.records import RunHeader
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import CompareOptions
from cnnviz.render.overlay import Style
from cnnviz.run.counting import RunResult, rate
from cnnviz.run.earlier import EarlierRun, precision_in
from cnnviz.run.folder import REPORT, Extras, RunFolder
from cnnviz.run.reporters import Reporter, Told
from cnnviz.schema.images import AnyImage
from cnnviz.settings import AUTO_PRECISION, RunSettings

Run = Callable[[RunSettings, Reporter, "BinaryIO | None"], RunResult]


def compare(settings: RunSettings, params: CompareOptions, reporter: Reporter, run: Run) -> RunResult:
    """Make the runs that are missing, and compare.

    Args:
        settings: What was asked for.
        params: The options of the comparison.
        reporter: Told about progress.
        run: Makes a run.

    Raises:
        CnnvizError: One side cannot be had, or the output folder cannot be written.
    """
    sides = sides_of(settings, params)
    _check_folder(settings)
    began, code, noted = time.perf_counter(), EXIT_DONE, list[str]()
    for number, side in enumerate(sides):
        own = side.settings
        if own is None:
            continue
        if number:
            with FinishedRun(sides[0].folder, "--against") as before:
                own = explaining(own, params, sides[0], before.report)
                if own.runtime.precision == AUTO_PRECISION:  # or the two would differ by their precision
                    own = replace(own, runtime=replace(own.runtime, precision=precision_in(before.report)))
        reporter.say(f"making {'AB'[number]}, {own.target.method} of {own.model.checkpoint or own.model.model}")
        told = Told(reporter, noted)
        try:
            made = run(own, told, None)
        except CnnvizError as error:
            if not number:
                raise
            raise of_b(error, params) from error
        if made.exit_code == EXIT_INTERRUPTED:
            return RunResult(made.summary, None, EXIT_INTERRUPTED)
        code = max(code, made.exit_code)
        if again := [text for text in told.notes if text in noted]:
            reporter.say(f"{of_all(len(again), len(noted), 'note', 'holds', 'hold')} for B too")
        noted = told.notes
    with ExitStack() as stack:
        a, b = (stack.enter_context(FinishedRun(side.folder, "INPUT")) for side in sides)
        output = replace(settings.output, resume=False, overwrite=settings.output.overwrite or settings.output.resume)
        if any(side.settings is not None for side in sides):
            output = replace(output, overwrite=True)  # a/ and b/ are there, and what else there was is checked
        own = replace(settings, output=output)
        run_folder = stack.enter_context(RunFolder(Store(output.out), own, reporter.note))
        found = _Comparison(own, params, run_folder, (a, b))
        return found.go(in_words(settings, params, sides), began, code)


def _check_folder(settings: RunSettings) -> None:
    """Whether the folder is free, or holds an earlier comparison that is continued or replaced."""
    output = settings.output
    if not os.path.isdir(output.out):
        return
    earlier = EarlierRun(Store(output.out))
    if output.overwrite:
        earlier.check_overwrite()
    elif output.resume and earlier.report is not None:
        earlier.check_options(settings.command, settings.options())
    elif not (output.resume and set(earlier.entries) <= {"a", "b"}):
        earlier.check_plain(True)


class _Comparison:
    """One comparison of two runs that have ended.

    Args:
        settings: What was asked for.
        params: The options of the comparison.
        run_folder: Where it is written.
        runs: A and B.
    """

    def __init__(
        self,
        settings: RunSettings,
        params: CompareOptions,
        run_folder: RunFolder,
        runs: tuple[FinishedRun, FinishedRun],
    ) -> None:
        self._settings, self._params, self._folder = settings, params, run_folder
        self._a, self._b = runs
        self._targets = Targets(self._a.report, self._b.report)
        methods = [methods_of(each) for each in runs]
        self._methods = methods
        self._by_method = any(len(own) > 1 for own in methods)
        self._unread = 0
        self._remarks: list[str] = []

    def go(self, explained: str, began: float, code: int) -> RunResult:
        """Measure all images, draw those that changed most, conclude."""
        for run, own in zip((self._a, self._b), self._methods, strict=True):
            if not own:
                failed = "every image failed" if run.report["summary"].get("failed") == len(run) else ""
                why = failed or f"it was made by cnnviz {run.report['command']}"
                raise CnnvizError(f"{run.folder} has no maps: {why}.", "Compare runs that made maps.")
        self._folder.begin(self._header())
        paired = pair_images(self._a, self._b)
        tally = Tally(self._targets, self._params.explained == "each")
        for pair in paired.both:
            a, b = self._a.record(pair[0]), self._b.record(pair[1])
            tally.count(pair, a, b, self._maps(a, b))
        order = sorted(tally.changes, key=lambda each: each.order)
        for place, change in enumerate(order):
            self._folder.append(self._record(change, drawn=place < self._params.panels))
        for pair in paired.failed:
            self._folder.append(self._failure(pair))
        if self._unread:
            are, them = ("is", "it") if self._unread == 1 else ("are", "them")
            unread = f"{counted(self._unread, 'photograph')} {are} not where the run of A read {them}"
            self._remarks = [f"{unread}, and {are} drawn grey: run this where that was run"]
            self._folder.note(self._remarks[0])
        compared = {**self._identity(explained), **_images(paired), **tally.summary(), **self._most(order)}
        passed, wrong = held_to(compared, self._params)
        compared |= {"passed": passed, "wrong": wrong}
        summary = {**_counted(paired, time.perf_counter() - began), "model": self._a.report["summary"]["model"]}
        summary |= {"study": "compare", "compare": compared}
        if self._remarks:
            summary["remarks"] = self._remarks
        summary = self._folder.close(summary, "cnnviz compare", Extras(files=()))
        if paired.failed and code == EXIT_DONE:
            code = EXIT_SOME_FAILED
        report = os.path.join(self._settings.output.out, REPORT)
        return RunResult(
            summary, report, EXIT_POLICY_VIOLATED if passed is False else code, sentences=tuple(sentences(compared))
        )

    def _header(self) -> RunHeader:
        """That of A, whose network the report describes; B's stands among the figures."""
        report = self._a.report
        return RunHeader(
            cnnviz=cnnviz.__version__,
            command=self._settings.command,
            options=self._settings.options(),
            model=report["model"],
            environment=report["environment"],
            summary={"inputs": 0, "explained": 0, "failed": 0, "finished": False},
            extra={"option_files_sha256": {}},
        )

    def _maps(self, a: Row, b: Row) -> list[ComparedMaps]:
        """The maps of an image that belong together."""
        size = int(a["width"]), int(a["height"])
        found = []
        for maps in self._targets.pairs(a, b, by_method=self._by_method):
            kept = self._a.map_of(maps.a, size, _signed(maps.a)), self._b.map_of(maps.b, size, _signed(maps.b))
            alike = None if kept[0] is None or kept[1] is None else likeness(kept[0], kept[1], size)
            found.append(ComparedMaps(maps, kept[0], kept[1], alike))
        return found

    def _record(self, change: ImageChange, *, drawn: bool) -> AnyImage:
        a, b = self._a.record(change.pair[0]), self._b.record(change.pair[1])
        maps = self._maps(a, b)
        file = self._draw(a, [each for each in maps if each.found is not None]) if drawn else None
        rows: list[Any] = []
        for each in maps:
            for run, row in (("a", each.maps.a), ("b", each.maps.b)):
                files = {} if file is None or each.found is None else {"panel": file}
                rows.append({**row, "files": files, "scores": _scores(row, each.found), "run": run})
        return cast(
            "AnyImage",
            {
                **a,
                "explanations": rows,
                "predictions_b": b.get("predictions") or [],
                "changed_prediction": change.changed,
                "change": change.change,
                "right": rightness(a, b),
                "pairs": [_pair(each) for each in maps],
            },
        )

    def _draw(self, record: Row, maps: Sequence[ComparedMaps]) -> str | None:
        """Writes the panel of an image."""
        if not maps:
            return None
        draws = self._settings.draw
        picture, is_there = compared_panel(record, maps, self._called(), Style(draws.colormap, draws.alpha))
        self._unread += not is_there
        if picture is None:
            return None
        file = f"images/{record['name']}.compare.panel.{draws.image_format}"
        self._folder.store.write(file, encode(picture, ImageFormat(draws.image_format, draws.png_level)))
        return file

    def _called(self) -> tuple[str, str]:
        """What A and B are called: by what tells them apart."""
        found = []
        for run, methods in zip((self._a, self._b), self._methods, strict=True):
            weights = run.report["model"].get("weights")
            # Of the path of a file its name is enough.
            found.append((os.path.basename(str(run.report["model"]["name"])), ", ".join(methods), str(weights or "")))
        differing = [len({each[part] for each in found}) > 1 for part in range(3)]
        if not any(differing):
            own = os.path.basename(self._a.folder.rstrip("/")), os.path.basename(self._b.folder.rstrip("/"))
            return ("", "") if own == (A, B) else own
        first, second = (
            " ".join(part for part, differs in zip(each, differing, strict=True) if differs) for each in found
        )
        return first, second

    def _failure(self, pair: tuple[int, int]) -> AnyImage:
        """The record of an image that one of the runs could not explain."""
        for run, record in (("A", self._a.record(pair[0])), ("B", self._b.record(pair[1]))):
            if error := record.get("error"):
                said = {"type": error["type"], "message": f"{run}: {error['message']}"}
                return cast("AnyImage", {**record, "predictions": [], "explanations": [], "error": said})
        raise AssertionError("neither failed")

    def _identity(self, explained: str) -> dict[str, Any]:
        found: dict[str, Any] = {"explained": explained}
        for name, run, methods in (("a", self._a, self._methods[0]), ("b", self._b, self._methods[1])):
            model = run.report["model"]
            found[name] = {
                "run": run.folder,
                "command": run.report["command"],
                "methods": list(methods),
                "model": model["name"],
                "weights": model.get("weights"),
                "weights_sha256": model.get("weights_sha256"),
                "layers": model.get("layers", []),
                "images": len(run),
            }
        found["same_network"] = found["a"]["weights_sha256"] == found["b"]["weights_sha256"]
        found["differs"] = differences(self._a.report, self._b.report)
        return found

    def _most(self, order: Sequence[ImageChange]) -> dict[str, Any]:
        rows = []
        for each in order[:MOST_NAMED]:
            a, b = self._a.record(each.pair[0]), self._b.record(each.pair[1])
            rows.append(
                {
                    "name": a["name"],
                    "path": a["path"],
                    "change": each.change,
                    "why": each.why,
                    "one_is_flat": each.one_is_flat,
                    "changed_prediction": each.changed,
                    "label_a": _first(a).get("label"),
                    "label_b": _first(b).get("label"),
                }
            )
        return {"most_changed": rows}


def _first(record: Row) -> Row:
    """The first prediction of a record; empty where it has none."""
    found: Row = next(iter(record.get("predictions") or ()), {})
    return found


def _images(paired: Paired) -> dict[str, Any]:
    return {
        "images": len(paired.both),
        "only_a": paired.only_a,
        "only_b": paired.only_b,
        "other_files": paired.others,
    }


def _counted(paired: Paired, seconds: float) -> dict[str, Any]:
    done, failed = len(paired.both), len(paired.failed)
    return {
        "inputs": done + failed,
        "explained": done,
        "failed": failed,
        "passed_over": 0,
        "seconds": round(seconds, 3),
        "images_per_second": rate(done, seconds),
    }


def _signed(row: Row) -> bool:
    return lookup.find_method(row["method"]).signed


def _scores(row: Row, found: Likeness | None) -> Mapping[str, Any]:
    return {**row["scores"], **({} if found is None else {"similarity": found.spearman})}


def _pair(pair: ComparedMaps) -> dict[str, Any]:
    maps, found = pair.maps, pair.found
    return {
        "label_a": maps.a["target"].get("label"),
        "label_b": maps.b["target"].get("label"),
        "method_a": maps.a["method"],
        "method_b": maps.b["method"],
        "same_target": maps.same,
        "spearman": None if found is None else found.spearman,
        "pearson": None if found is None else found.pearson,
        "ssim": None if found is None else found.ssim,
        "resampled": None if found is None else found.resampled,
        "exact": None if found is None else found.exact,
        "why": pair.why,
    }
