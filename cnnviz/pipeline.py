"""A run: maps of every input, a study of all of them, or a training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from cnnviz.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_POLICY_VIOLATED, EXIT_SOME_FAILED, CnnvizError
from cnnviz.io.cache import ContentCache, cache_limit
from cnnviz.io.digests import own_code
from cnnviz.io.encode import ImageFormat
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Conclusion
from cnnviz.maps.expected_time import ExpectedTime
from cnnviz.maps.explainer import Explainer
from cnnviz.maps.remembered import Remembered, run_key
from cnnviz.maps.unplaced import on_cells
from cnnviz.maps.write_image import ImageResult, OutputStyle, draw
from cnnviz.metrics.chosen import MapMetrics
from cnnviz.records import Record, RunHeader
from cnnviz.registry import lookup
from cnnviz.registry.specs import EntrySpec, PairSpec, StudySpec, TrainingSpec
from cnnviz.render.overlay import Style
from cnnviz.run.counting import Counts, RunResult, count_inputs, told_of_nothing
from cnnviz.run.folder import REPORT, Extras, RunFolder
from cnnviz.run.loop import Loop
from cnnviz.run.reading import Recall
from cnnviz.run.reporters import Reporter, Silent, Told
from cnnviz.schema.images import AnyImage
from cnnviz.settings import RunSettings
from cnnviz.studies.run import run_study

_FIGURES = {"segments": "dense", "detections": "boxes", "words": "words"}
"""Pictures that several maps of an image share, by the property of the tasks that have them."""
_TOO_EARLY = "interrupted before the first image was finished: there is nothing to compare"


def run(settings: RunSettings, reporter: Reporter, stdin: BinaryIO | None = None) -> RunResult:
    """Explain or study every input and write the run's files.

    Args:
        settings: What was asked for.
        reporter: Told about progress.
        stdin: What ``-`` reads.

    Raises:
        CnnvizError: Nothing could be run (exit code 2), or the output folder became unusable.
    """
    spec = lookup.find_entry(settings.target.method)
    spec.check_view(settings.model.view, spec.resolve_params(settings.target.params))
    if isinstance(spec, StudySpec):
        return run_study(spec, settings, reporter, stdin)
    if isinstance(spec, PairSpec):
        compared: RunResult = spec.load()(settings, spec.resolve_params(settings.target.params), reporter, run)
        return compared
    if isinstance(spec, TrainingSpec):
        # Not at the top: it brings torchvision's transforms and timm's optimizers, which other commands do not need.
        trained: RunResult = spec.load()(settings, spec.resolve_params(settings.target.params), reporter)
        return trained
    total = count_inputs(settings)
    if settings.output.out == "-":
        return _picture(settings, Explainer(settings, total, reporter.note), stdin)
    store = Store(settings.output.out)
    with RunFolder(store, settings, reporter.note) as run_folder:
        told, settings = Told(reporter), run_folder.computed
        explainer = Explainer(settings, total, told.note)
        explainer.part, explainer.expected = told.part, _expected(explainer, total, reporter)
        limits, extra = settings.draw.limits, {}
        if settings.draw.scale == "run":
            limits = _run_limits(settings, explainer, stdin)
            extra = {"scale_limits": limits}
        how = output_style(settings, explainer, store, limits)
        header = explainer.header()
        header = replace(header, extra={**header.extra, **extra})
        run_folder.begin(header, explainer.writes())
        explainer.remembered = remembered = _remembered(settings, explainer, store, header, limits)

        def drawn(done: ImageResult) -> Record:
            if explainer.kept is not None:
                explainer.kept.add(done.ref.name, done.rgb, done.truth)
            record = draw(done, how)
            return record if remembered is None else remembered.keep(done.ref, record)

        loop = _loop(explainer, drawn, told, None if remembered is None else remembered.recall)
        loop.counts.total, loop.first_alone = total, any(maker.metrics for maker in explainer.makers)
        result, concluded = _through(loop, explainer, run_folder, told, stdin)
        if remembered is None:
            return result
        if (once := _once(explainer, result)) is not None:
            return replace(result, once=once)
        return replace(
            result, again=_again(explainer, header, {**concluded, "exit_code": result.exit_code}, told.notes)
        )


def _expected(explainer: Explainer, total: int | None, reporter: Reporter) -> ExpectedTime | None:
    """What tells how long the run takes, where it has metrics that run the network, or several methods.

    It is told to whoever waits, and to nobody who repeats the run from its cache: not by what remembers notes.
    """
    if len(explainer.makers) < 2 and not any(maker.metrics for maker in explainer.makers):
        return None
    asked = explainer.settings

    def to_do() -> int | None:
        kept = explainer.remembered is not None and explainer.remembered.images.hits
        return None if kept or asked.output.resume or asked.target.only is not None else total

    return ExpectedTime(explainer.makers, to_do, explainer.prepared.lanes.count, reporter.note)


def _loop(
    explainer: Explainer,
    draw: Callable[[ImageResult], Record],
    reporter: Reporter | None,
    recall: Recall | None = None,
) -> Loop:
    loop = Loop(explainer.prepared, explainer.explain, draw, reporter, annotations=explainer.annotations, recall=recall)
    if any(maker.spec.singly for maker in explainer.makers):
        # Each is written as soon as it is finished.
        loop.together = 1
    return loop


def _remembered(
    settings: RunSettings, explainer: Explainer, store: Store, header: RunHeader, limits: tuple[float, float] | None
) -> Remembered | None:
    """The cache of the run, where it has one."""
    folder = settings.output.cache
    if folder is None:
        return None
    entries: list[tuple[EntrySpec, Mapping[str, Any]]]
    entries = [(each.spec, each.params.to_dict()) for each in explainer.makers]
    entries += [(each.spec, each.params.to_dict()) for own in explainer.requests for each in own]
    key = run_key(settings, header, entries, [limits, _labels(explainer), explainer.judges])
    selector, known = explainer.prepared.target_selector, settings.target
    by_folder = any("folder" in text for text in (*known.classes, *known.targets))

    def label(ref: ImageRef) -> list[str | None]:
        return [selector.truth(ref), ref.folder if by_folder else None]

    cache = ContentCache(folder, cache_limit(), explainer.prepared.note)
    return Remembered(cache, key, store, explainer.annotations, label)


def _labels(explainer: Explainer) -> Any:
    """What the annotations say of all images together, as JSON."""
    annotations, meant = explainer.annotations, explainer.prepared.truth_classes
    if annotations is None:
        return None
    indices = {} if meant is None else {name: list(found) for name, found in meant.indices.items()}
    return [annotations.others, list(annotations.names), indices]


def _through(
    loop: Loop, explainer: Explainer, run_folder: RunFolder, reporter: Reporter, stdin: BinaryIO | None
) -> tuple[RunResult, dict[str, Any]]:
    """Explain all inputs and conclude. Returns also what the report is made of beside the records."""
    settings = loop.settings
    reporter.start(loop.counts.total)
    began = time.perf_counter()
    interrupted = loop.run(run_folder, stdin)
    seconds = time.perf_counter() - began
    reporter.finish()
    counts = loop.counts
    if not counts.inputs and not interrupted and settings.shard is None:
        run_folder.abandon()
        raise counts.no_images(settings)
    _tell(counts, explainer.spec.views, reporter)
    if explainer.comparison is not None:
        explainer.comparison.unfinished = counts.unfinished(interrupted)
    with run_folder.store.noting() as written:
        found = explainer.conclude(run_folder.records, run_folder.store, unfinished=interrupted or counts.stopped)
    if interrupted and not counts.explained and explainer.comparison is not None:
        found = replace(found, sentences=(_TOO_EARLY,), unmeasured="")
    model = explainer.prepared.loaded.name
    summary = {**counts.summary(seconds, interrupted), "model": model, **explainer.facts(), **found.summary}
    if found.unmeasured:
        summary["unmeasured"] = found.unmeasured
    if remarks := [*counts.remarks(explainer.spec.views), *found.remarks]:
        summary["remarks"] = remarks
    sentences = [*told_of_nothing(found.unmeasured), *found.sentences, *found.spent]
    if (remembered := explainer.remembered) is not None:
        summary.update(remembered.facts())
        remembered.cache.tidy()
        sentences += remembered.sentences()
    files = None if explainer.comparison is None else tuple(figure["file"] for figure in found.figures)
    confusion = counts.confusion.to_dict()
    further = {**({} if confusion is None else {"confusion": confusion}), **found.report}
    extras = Extras(further, found.figures, files=files)
    concluded = {**asdict(extras), "summary": summary, "written": sorted(written), "sentences": list(found.sentences)}
    summary = run_folder.close(summary, f"cnnviz {settings.command}", extras)
    report = os.path.join(settings.output.out, REPORT)
    code = _exit_code(found, counts.exit_code(interrupted), shared=settings.shard is not None)
    annotations = tuple(found.annotations)
    return RunResult(summary, report, code, sentences=tuple(sentences), annotations=annotations), concluded


def _exit_code(found: Conclusion, of_images: int, *, shared: bool) -> int:
    """That of a run that was concluded.

    Args:
        found: What it came to.
        of_images: The exit code by what became of its images.
        shared: Whether these are a share of the images, which may have none with truth by chance.
    """
    if found.violated and of_images != EXIT_INTERRUPTED:
        return EXIT_POLICY_VIOLATED
    if found.unmeasured and of_images == EXIT_DONE and not shared:
        return EXIT_SOME_FAILED
    return of_images


def _tell(counts: Counts, views: Sequence[str], reporter: Reporter) -> None:
    """What people should know of all images together."""
    for said in filter(
        None,
        (
            counts.what_was_excluded(),
            counts.what_was_outside(views),
            *counts.what_was_hidden(views),
            counts.what_was_unknown(),
            counts.what_was_not_found(),
            *counts.what_explains_nothing(),
        ),
    ):
        reporter.note(said)


def _once(explainer: Explainer, result: RunResult) -> str | None:
    """Why a run cannot be repeated without its network: it did not end well, or also depends on what is not known."""
    if (failed := result.summary["failed"]) or result.exit_code not in (EXIT_DONE, EXIT_POLICY_VIOLATED):
        ended = result.exit_code == EXIT_SOME_FAILED
        return f"{failed} of its images failed" if failed else "it measured nothing" if ended else "it did not end"
    if explainer.prepared.loaded.files is None:
        return f"the files of {explainer.prepared.loaded.name} are not known"
    code = own_code()
    more = f" and {len(code) - 1} more are" if len(code) > 1 else " is"
    return f"{code[0]}{more} code of no installed package" if code else None


def _again(
    explainer: Explainer, header: RunHeader, concluded: Mapping[str, Any], notes: Sequence[str]
) -> Mapping[str, Any]:
    """What a repeat of the run needs beside its records."""
    remembered, files = explainer.remembered, explainer.prepared.loaded.files
    assert remembered is not None
    assert files is not None
    return {
        **concluded,
        "header": {"model": header.model, "environment": header.environment, "extra": header.extra},
        "writes": list(explainer.writes()),
        "read": list(files),
        "keys": remembered.keys(),
        "notes": list(notes),
    }


def output_style(
    settings: RunSettings, explainer: Explainer, store: Store, limits: tuple[float, float] | None
) -> OutputStyle:
    """How the maps of a run are drawn and named.

    Args:
        settings: What was asked for.
        explainer: The methods of the run.
        store: Where pictures go.
        limits: The values in the first and the last colour; None for those of each map.
    """
    draws = settings.draw
    usual = set(draws.save) == set(explainer.spec.default_save) and settings.output.out != "-"
    prepared, task = explainer.prepared, explainer.prepared.task_spec
    more = {kind for kind, there in _FIGURES.items() if getattr(task, there) and usual}
    save = (frozenset(draws.save) | more) - (set() if task.boxes else {"detections"})
    return OutputStyle(
        store=store,
        save=save,
        style=Style(draws.colormap, draws.alpha, limits),
        picture=ImageFormat(draws.image_format, draws.png_level),
        labels=prepared.classes.labels,
        metrics=MapMetrics(explainer.requests[0]),
        of_method={
            method.spec.name: MapMetrics(requests)
            for method, requests in zip(explainer.methods, explainer.requests, strict=True)
        },
        columns=explainer.columns(),
        marks=frozenset(mark for mark, asked in (("legend", draws.legend), ("box", draws.draw_box)) if asked),
        on_cells=on_cells(prepared, explainer.requests, save),
    )


def _run_limits(settings: RunSettings, explainer: Explainer, stdin: BinaryIO | None) -> tuple[float, float]:
    """Limits of ``--scale run``: a first pass over all inputs that computes maps and draws none."""
    if "-" in settings.inputs:
        raise CnnvizError("--scale run reads the inputs twice; standard input can be read once.", "Use a list file.")
    low, high = 0.0, 0.0

    def widen(done: ImageResult) -> Record:
        nonlocal low, high
        for item in done.maps:
            low, high = min(low, float(item.values.min())), max(high, float(item.values.max()))
        return Record(done.ref.uri, None, None, None)

    if _loop(explainer, widen, None).run(None, stdin):
        raise KeyboardInterrupt
    return (low, high) if low < high else (0.0, 1.0)


def _picture(settings: RunSettings, explainer: Explainer, stdin: BinaryIO | None) -> RunResult:
    """``-o -``: one input and one map, as the bytes of a picture."""
    if len(settings.draw.save) != 1:
        raise CnnvizError("-o - writes one picture.", "Say which with --save overlay, panel, boxes, heatmap or raw.")
    store = Store(f"memory://cnnviz-{os.getpid()}")
    record: dict[str, Any] = {}

    class Only(Silent):
        def advance(self, row: AnyImage) -> None:
            if record:
                raise CnnvizError("-o - takes one input.", "Give one image, or -o FOLDER.")
            record.update(row)

    how = output_style(settings, explainer, store, settings.draw.limits)
    loop = _loop(explainer, lambda done: draw(done, how), Only())
    if loop.run(None, stdin):
        raise KeyboardInterrupt
    if not record:
        raise CnnvizError(f"No images in {', '.join(settings.inputs)}.", "Name one image file.")
    if record["error"]:
        raise CnnvizError(f"{record['path']}: {record['error']['message']}", "Give an image that can be read.")
    if record.get("skipped"):
        found = "right" if settings.target.only == "wrong" else "wrong"
        raise CnnvizError(
            f"{record['path']}: the network gets it {found}, so --only {settings.target.only} leaves it out.",
            "Leave out --only.",
        )
    kind = settings.draw.save[0]
    names = {row["files"][kind] for row in record["explanations"] if kind in row["files"]}
    if len(names) != 1:
        hint = "Ask for one class with --class, or for one picture of all maps with --save panel."
        raise CnnvizError(f"-o - writes one picture; {len(names)} were asked for.", hint)
    summary = {**loop.counts.summary(0.0, False), **explainer.facts()}
    return RunResult(summary, None, EXIT_DONE, store.read(names.pop()))
