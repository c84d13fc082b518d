"""What a unit of a layer is: the patches that it responds to most, and an image that is made for it. Both are jobs."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.records import files_of
from cnnviz.registry import lookup
from cnnviz.registry.specs import StudySpec
from cnnviz.run.command_line import command_line
from cnnviz.run.folder import REPORT
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.schema.images import AnyImage
from cnnviz.serve.worker import Job
from cnnviz.settings import DrawSettings, OutputSettings, RunSettings
from cnnviz.strict_json import finite
from cnnviz.studies.base import Study
from cnnviz.studies.run import run_study

_STEP = re.compile(r"step (\d+) of (\d+)")
Prepares = Callable[..., PreparedModel]


class _Telling:
    """A reporter of a run that tells a job."""

    def __init__(self, job: Job) -> None:
        self._job, self._total, self._done = job, 0, 0

    def start(self, total: int | None) -> None:
        self._total = total or 0

    def advance(self, record: AnyImage) -> None:
        self._done += 1
        self._tell("images")

    def part(self, images: float) -> None: ...

    def work(self, count: int, text: str) -> None:
        self._tell(text)

    def say(self, text: str) -> None:
        self.note(text)

    def note(self, text: str) -> None:
        self._job.tell(self._job.text, self._job.share)

    def finish(self) -> None: ...

    def _tell(self, what: str) -> None:
        share = self._done / self._total if self._total else None
        self._job.tell(f"{self._done} of {self._total} {what}", share)


def study_settings(base: RunSettings, name: str, params: Mapping[str, Any], **target: Any) -> RunSettings:
    """The settings of a run of a study.

    Args:
        base: Model, task and runtime of the explorer.
        name: Of the study.
        params: Its options.
        target: Fields of what is explained, such as ``layers``.
    """
    spec = lookup.find_entry(name)
    for package in spec.packages:
        package.check(spec.command, spec.resolve_params(params))
    made = replace(base.target, method=name, params=spec.resolve_params(params).to_dict(), classes=("pred",), **target)
    return replace(base, command=spec.command, target=made, draw=DrawSettings(save=spec.default_save))


def synthesize(
    job: Job, wanted: Mapping[str, Any], base: RunSettings, prepares: Prepares, store: Store
) -> dict[str, Any]:
    """An image that a class or a unit responds to most, by the study of ``cnnviz synthesize``.

    Args:
        job: Told how far it is.
        wanted: ``unit`` LAYER:K or ``class`` (an index), and ``steps``.
        base: Model, task and runtime of the explorer.
        prepares: Prepares the network.
        store: Where pictures go, and are taken from.

    Raises:
        CnnvizError: There is no such unit.
    """
    params: dict[str, Any] = {"steps": wanted["steps"]}
    if "unit" in wanted:
        params["unit"] = (wanted["unit"],)
    settings = replace(study_settings(base, "synthesize", params), inputs=())
    if "class" in wanted:
        settings = replace(settings, target=replace(settings.target, classes=(str(wanted["class"]),)))
    spec = lookup.find_entry("synthesize")
    kind = cast("type[Study[Any]]", spec.load())
    options = spec.resolve_params(settings.target.params)

    def say(text: str) -> None:
        found = _STEP.search(text)
        share = int(found[1]) / int(found[2]) if found else None
        job.tell(text, share)

    prepared = prepares(settings, kind.cut(settings, options), None, lambda text: None)
    prepared.say = say
    study = kind.of_task(prepared.task)(prepared, options, store)
    with rt.threads(prepared.lanes.one.threads):
        found = study.finish()
    for figure in found.figures:
        job.files[os.path.basename(figure["file"])] = store.read(figure["file"]) or b""
    rows = found.report.get("synthesized", [])
    for row in rows:
        for name in row["files"].values():
            store.remove(name)
    figures = [{"file": os.path.basename(figure["file"]), "caption": figure["caption"]} for figure in found.figures]
    return finite({"figures": figures, "command": command_line(settings)})  # type: ignore[no-any-return]


def top_patches(
    job: Job, wanted: Mapping[str, Any], base: RunSettings, prepares: Prepares, scratch: str | None
) -> dict[str, Any]:
    """The patches of the named images that a unit responds to most, by the study of ``cnnviz top-patches``.

    Args:
        job: Told how far it is.
        wanted: ``layer`` and ``unit``.
        base: Inputs, model, task and runtime of the explorer.
        prepares: Prepares the network.
        scratch: Where the run's folder lies for a moment.

    Raises:
        CnnvizError: No images were named, or there is no such unit.
    """
    if not base.inputs:
        raise CnnvizError("Top patches are looked for among images.", "Start with a folder: cnnviz serve photos/")
    layers = (wanted["layer"],) if wanted.get("layer") else ()
    settings = study_settings(base, "top-patches", {"units": str(wanted["unit"])}, layers=layers)
    spec = cast(StudySpec, lookup.find_entry("top-patches"))
    with tempfile.TemporaryDirectory(prefix="cnnviz-serve-", dir=scratch) as folder:
        out = os.path.join(folder, "out")
        run_study(spec, replace(settings, output=OutputSettings(out)), _Telling(job), None, prepares)
        return _gathered(job, Store(out), settings)


def _gathered(job: Job, store: Store, settings: RunSettings) -> dict[str, Any]:
    """The pictures of a run of top patches, and what its report says of the unit."""
    report = json.loads(store.read(REPORT) or b"{}")
    units = report.get("units", [])
    names = list(dict.fromkeys(files_of(units))) or ["sheet.png"]
    for name in names:
        job.files[os.path.basename(name)] = store.read(name) or b""
    figures = [{"file": os.path.basename(name), "caption": ""} for name in names]
    return {"figures": figures, "units": units, "command": command_line(settings)}
