"""One run of a study: through the inputs, if it takes any, and to its findings."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, cast

from cnnviz.engine import runtime as rt
from cnnviz.errors import EXIT_DONE, EXIT_SOME_FAILED, CnnvizError
from cnnviz.io.encode import encode_npz
from cnnviz.io.line_log import LineLog
from cnnviz.io.store import Store
from cnnviz.models.preprocess import normalize
from cnnviz.records import Record
from cnnviz.registry import lookup
from cnnviz.registry.specs import StudySpec
from cnnviz.run.counting import RunResult, count_inputs, told_of_nothing
from cnnviz.run.folder import REPORT, Extras, RunFolder
from cnnviz.run.images import DecodedImage, failed, view_facts
from cnnviz.run.loop import Fold, Loop
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.run.reporters import Reporter, Told
from cnnviz.run.share import STATE
from cnnviz.schema.images import AnyImage
from cnnviz.settings import RunSettings
from cnnviz.studies.base import Findings, Observed, Study


def run_study(
    spec: StudySpec,
    settings: RunSettings,
    reporter: Reporter,
    stdin: BinaryIO | None,
    prepares: type[PreparedModel] | Callable[..., PreparedModel] = PreparedModel,
) -> RunResult:
    """Go through the inputs and write what the study found.

    Args:
        spec: Entry of the study in the register.
        settings: What was asked for.
        reporter: Told about progress.
        stdin: What ``-`` reads.
        prepares: Makes the prepared network; another than the usual one where runs share what was prepared.

    Raises:
        CnnvizError: Nothing could be run (exit code 2), or the output folder became unusable.
    """
    if settings.output.out == "-":
        raise CnnvizError(f"{settings.command} writes several files: -o - is for maps.", "Give -o a folder.")
    kind = cast("type[Study[Any]]", spec.load())
    params = spec.resolve_params(settings.target.params)
    total = count_inputs(settings) if settings.inputs else 0
    resumes = "resume" not in spec.unavailable_options()
    store = _Noting(settings.output.out, "--resume" if resumes else "--overwrite")
    with RunFolder(store, settings, reporter.note, resumes=resumes) as run_folder:
        settings = run_folder.computed
        prepared = prepares(
            settings,
            kind.cut(settings, params),
            total or None,
            reporter.note,
            lambda loaded: kind.adapt(loaded, settings, params),
        )
        prepared.say = reporter.say
        study = kind.of_task(prepared.task)(prepared, params, store)
        if spec.caveat:
            reporter.note(spec.caveat)
        run_folder.begin(prepared.header(), study.writes())
        if states := run_folder.states():
            study.take_up(states)
        store.names.clear()
        reporter.start(total if settings.inputs else None)
        loop = loop_of(study, reporter)
        loop.counts.total, loop.counts.classes = total, frozenset(prepared.classes.labels)
        return _through(study, loop, run_folder, reporter, stdin)


def _through(
    study: Study[Any], loop: Loop, run_folder: RunFolder, reporter: Reporter, stdin: BinaryIO | None
) -> RunResult:
    """Show it all inputs, and write what it found."""
    settings = loop.settings
    began = time.perf_counter()
    interrupted = bool(settings.inputs) and loop.run(run_folder, stdin)
    counts = loop.counts
    if settings.inputs and not counts.inputs and not interrupted and settings.shard is None:
        reporter.finish()
        run_folder.abandon()
        raise counts.no_images(settings)
    told = Told(reporter)
    study.prepared.note = told.note
    findings, interrupted = _findings(study, interrupted)
    reporter.finish()
    spec = lookup.find_entry(settings.target.method)
    for said in filter(None, (counts.what_was_excluded(), counts.what_was_outside(spec.views, drawn=""))):
        reporter.note(said)
    if settings.shard is not None and not interrupted and (state := study.state()):
        study.store.write(STATE, encode_npz(state))
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = {"seconds": round(seconds, 3)}
    if settings.inputs:
        figures = {**counts.summary(seconds, interrupted)}
    if interrupted:
        figures["interrupted"] = True
    facts: dict[str, Any] = {"model": study.prepared.loaded.name, "study": settings.target.method}
    if not counts.explained and not interrupted:
        findings = _of_no_image(settings, findings)
    if findings.unmeasured:
        figures["unmeasured"] = findings.unmeasured
    if remarks := [*filter(None, (spec.caveat,)), *counts.remarks(), *told.notes]:
        facts["remarks"] = remarks
    summary = {**figures, **facts, **findings.summary}
    page = findings.index(summary) if callable(findings.index) else findings.index
    names = cast(_Noting, study.store).names
    confusion = counts.confusion.to_dict()
    more = {**findings.report, **({} if confusion is None else {"confusion": confusion})}
    extras = Extras(more, findings.figures, page, tuple(sorted(set(names))))
    summary = run_folder.close(summary, f"cnnviz {settings.command}", extras)
    report = os.path.join(settings.output.out, REPORT)
    code = counts.exit_code(interrupted)
    # A share of the images may have nothing by chance: all of them together decide.
    if findings.unmeasured and code == EXIT_DONE and settings.shard is None:
        code = EXIT_SOME_FAILED
    return RunResult(summary, report, code, sentences=(*told_of_nothing(findings.unmeasured), *findings.sentences))


def _of_no_image(settings: RunSettings, findings: Findings) -> Findings:
    """What a study came to that saw none of its images: what it says of them all is said of nothing."""
    if not settings.inputs:
        return findings
    return replace(findings, sentences=(), unmeasured=findings.unmeasured or "no image could be used")


def _recalling(study: Study[Any]) -> Callable[[AnyImage], None]:
    """The study's ``recall``, which may not find what it looks for in a record of another version."""

    def recall(record: AnyImage) -> None:
        try:
            study.recall(record)
        except KeyError as error:
            raise CnnvizError(
                f"--resume: the record of {record['path']!r} has no {error}: it is of another version of cnnviz.",
                "Use --overwrite to begin again, or -o for another folder.",
            ) from error

    return recall


def _findings(study: Study[Any], interrupted: bool) -> tuple[Findings, bool]:
    """What it found, or, after Ctrl-C, what it has; and whether there was one."""
    # Alone with the machine: all threads of all lanes are its own.
    with rt.threads(study.prepared.lanes.one.threads):
        if not interrupted:
            try:
                return study.finish(), False
            except KeyboardInterrupt:
                pass
        return study.interrupted(), True


def loop_of(study: Study[Any], reporter: Reporter | None) -> Loop:
    """What shows a study all inputs of its run."""

    def explain(items: Sequence[DecodedImage]) -> list[Observed | Record]:
        return study.prepared.guarded(items, lambda some: observed(study, some))

    gathering = Fold(study.fold, _recalling(study), study.sees_again)
    return Loop(study.prepared, explain, lambda done: _record(study, done), reporter, gathering)


def observed(study: Study[Any], items: Sequence[DecodedImage]) -> list[Observed | Record]:
    """What a study sees in a batch; images that fail become records."""
    prepared = study.prepared
    with rt.scope():
        run = prepared.session.forward(normalize(prepared.batch(items), prepared.preprocess))
        said = prepared.predict(run.chosen.detach())
        seen = study.observe(run, items)
    rows: list[Observed | Record] = []
    for place, (item, each) in enumerate(zip(items, seen, strict=True)):
        if isinstance(each, Record):
            rows.append(each)
        elif not said.usable[place]:
            reason = f"the network's output is not finite in {prepared.runtime.precision}"
            rows.append(failed(item, "not-finite", reason))
        else:
            rows.append(Observed(item, study.known_label(item.ref), prepared.top_predictions(said, place), each))
    return rows


def _record(study: Study[Any], done: Observed) -> Record:
    facts = {**view_facts(done.item, study.prepared.preprocess), **study.draw(done)}
    height, width = done.rgb.shape[:2]
    return Record(done.ref.uri, width, height, done.label, done.predictions, facts=facts)


class _Noting(Store):
    """A folder that notes what is written to it, so that ``--overwrite`` can clear it away again."""

    def __init__(self, root: str, again: str) -> None:
        self.names: list[str] = []
        super().__init__(root, again)

    def open_lines(self, name: str) -> LineLog:
        self.names.append(name)
        return super().open_lines(name)

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        self.names.append(name)
        with super().stream(name) as stream:
            yield stream
