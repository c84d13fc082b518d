"""``--executor ray``: shares of the inputs as tasks of a Ray cluster, joined when all have ended."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cnnviz import pipeline
from cnnviz.errors import CnnvizError, ImageError, counted
from cnnviz.io.digests import fingerprint
from cnnviz.io.exclusions import Exclusions
from cnnviz.io.shard_folders import folders_of_shares
from cnnviz.io.shards import Shard, parse_shard
from cnnviz.io.sources import ImageRef, SourceOptions, find_images, is_url, open_file
from cnnviz.io.store import Store
from cnnviz.io.walk import said as said_by
from cnnviz.records import parse_line
from cnnviz.run.counting import RunResult
from cnnviz.run.earlier import KILLED, RECORDS, REPORT
from cnnviz.run.images import failed
from cnnviz.run.merge import merge
from cnnviz.run.reporters import Reporter, Silent
from cnnviz.run.share import share_of
from cnnviz.schema.images import AnyImage
from cnnviz.settings import RunSettings
from cnnviz.strict_json import to_json

_SUSPECTS = 256
"""Images that may have been in flight when a worker died: decoded ahead, with the model, or being drawn."""
_DEATHS = 5
"""Workers that one share may lose without a culprit among its images."""
Told = tuple[str, str, int]


class _FirstFailure(Silent):
    """What a share has to say stands in its report; only what ends it early is told."""

    row: AnyImage | None = None

    def advance(self, record: AnyImage) -> None:
        if self.row is None and record.get("error") is not None:
            self.row = record


def explain_share(settings: RunSettings, folder: str) -> Told | None:
    """In a worker: the run of a share.

    Args:
        settings: Of the share.
        folder: Where relative paths begin; workers of a cluster that runs already stand elsewhere.

    Returns:
        Why it was not made, or not to its end, as message, hint and exit code: errors with two arguments do not travel.
    """
    first = _FirstFailure()
    try:
        _stand_in(folder, settings)
        result = pipeline.run(settings, first, None)
    except CnnvizError as error:
        return error.message, error.hint, error.exit_code
    if settings.output.fail_fast and first.row is not None:
        why: Any = first.row.get("error")
        message = f"{first.row['path']}  {why['type']}: {why['message']}"
        return message, "Go on with --resume, or leave --fail-fast out.", result.exit_code
    return None


def _stand_in(folder: str, settings: RunSettings) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        out = settings.output.out
        if is_url(out) or os.path.isabs(out):
            return
        said = f"{folder} is not there on {platform.node()}: {error.strerror}."
        raise CnnvizError(said, "Give workers the same folders, or name inputs and -o by whole paths.") from None


class Probe:
    """In a worker: explains one image after another, each in a run of its own that nobody keeps."""

    def alone(self, settings: RunSettings, uri: str, folder: str) -> None:
        """Whoever cannot be explained does no harm; whoever kills the worker is found."""
        _stand_in(folder, settings)
        with tempfile.TemporaryDirectory() as out, contextlib.suppress(CnnvizError):
            output = replace(settings.output, out=out, cache=None, resume=False, overwrite=False)
            pipeline.run(replace(settings, inputs=(uri,), shard=None, output=output), Silent(), None)


def run(settings: RunSettings, parts: int, reporter: Reporter) -> RunResult:
    """Explain every input on a Ray cluster, and write the files of one run.

    Args:
        settings: What was asked for.
        parts: Shares, each a task; 0 for one on each graphics card (``--device cuda``) or machine.
        reporter: Told about progress.

    Raises:
        CnnvizError: Ray is not installed, a share could not be made, or its workers die whatever is left out.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level="error", **local)
        except (OSError, RuntimeError) as error:  # a ConnectionError is an OSError
            where = os.environ.get("RAY_ADDRESS")
            said = f"the cluster RAY_ADDRESS={where} cannot be reached" if where else "Ray cannot be started here"
            raise CnnvizError(f"--executor ray: {said}: {said_by(error)}.", "Look at it with: ray status") from error
    try:
        cluster = Cluster(ray, settings, parts, reporter)
        cluster.check_folder()
        cluster.explain()
    finally:
        if ours:
            ray.shutdown()
    output = settings.output
    return merge([output.out], None, {"overwrite": output.overwrite or output.resume}, reporter, pipeline.run)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise CnnvizError("--executor ray needs Ray, which is not installed.", "pip install 'cnnviz[ray]'") from None
    return ray


class Cluster:
    """The shares of a run on a Ray cluster that is connected.

    Args:
        ray: The module.
        settings: Of the whole run.
        parts: Shares; 0 for one on each graphics card or machine.
        reporter: Told which workers died.
    """

    def __init__(self, ray: Any, settings: RunSettings, parts: int, reporter: Reporter) -> None:
        self._ray, self._settings, self._note = ray, settings, reporter.note
        machines = [each for each in ray.nodes() if each["Alive"]]
        resources = ray.cluster_resources()
        cards = int(resources.get("GPU", 0))
        on_cards = str(settings.runtime.device).startswith("cuda")
        if on_cards and not cards:
            raise CnnvizError("--device cuda: the Ray cluster has no graphics card.", "Add one, or use --device cpu.")
        self.parts = parts or (cards if on_cards else len(machines))
        cores = min(int(each["Resources"].get("CPU", 1)) for each in machines)
        shared_by = -(-self.parts // len(machines))
        needs = {"num_cpus": 1 if on_cards else max(1, cores // shared_by), "num_gpus": 1 if on_cards else 0}
        self._task = ray.remote(max_retries=0, max_calls=1, scheduling_strategy="SPREAD", **needs)(explain_share)
        self._probe = ray.remote(max_restarts=0, **needs)(Probe)
        known = ray.exceptions
        self._deaths = (known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError)
        self._actor_deaths = (known.RayActorError, known.OutOfMemoryError)

    def check_folder(self) -> None:
        """Raises a CnnvizError where what is in the output folder could not be joined with the shares."""
        output = self._settings.output
        store = Store(output.out)
        own = {shard.folder for shard in self._shards()}
        below = {os.path.basename(each.rstrip("/")) for each in folders_of_shares(output.out)} - {""}
        others = sorted(name for name in below if name.startswith("shard-") and name not in own)
        if others:
            raise CnnvizError(
                f"{output.out} has shares of another number: {others[0]}.",
                f"Name their number, as in --executor ray:{others[0].rpartition('-')[2]}, or another folder with -o.",
            )
        if store.open(REPORT) is not None and not (output.overwrite or (output.resume and below & own)):
            raise CnnvizError(f"{output.out} holds a run.", "Use --overwrite to replace it, or -o for another folder.")

    def explain(self) -> None:
        """Have all shares explained; those whose worker dies go on in another one."""
        here = os.getcwd()
        running = {self._task.remote(each, here): each for each in map(self._of, self._shards())}
        without_culprit: Counter[str | None] = Counter()
        self._note(f"Ray: {counted(len(running), 'share')} on {counted(len(self._ray.nodes()), 'machine')}")
        while running:
            (ended, *_), _ = self._ray.wait(list(running), num_returns=1)
            settings = running.pop(ended)
            try:
                told = self._ray.get(ended)
            except self._deaths as error:
                self._note(f"share {settings.shard}: its worker died ({type(error).__name__}); another one goes on")
                if not self._give_up_culprits(settings):
                    without_culprit[settings.shard] += 1
                if without_culprit[settings.shard] >= _DEATHS:
                    raise CnnvizError(
                        f"Share {settings.shard}: {_DEATHS} workers died, and no image of it kills one alone.",
                        "Give the workers more memory, or use a smaller --batch-size.",
                    ) from error
                output = replace(settings.output, resume=True, overwrite=False)
                running[self._task.remote(replace(settings, output=output), here)] = replace(settings, output=output)
                continue
            if told is not None:
                message, hint, code = told
                raise CnnvizError(f"share {settings.shard}: {message}", hint, exit_code=code)

    def _shards(self) -> Sequence[Shard]:
        return [Shard(index, self.parts) for index in range(1, self.parts + 1)]

    def _of(self, shard: Shard) -> RunSettings:
        output = replace(self._settings.output, out=f"{self._settings.output.out.rstrip('/')}/{shard.folder}")
        settings = replace(self._settings, shard=str(shard), output=output)
        share_of(settings)
        return settings

    def _give_up_culprits(self, settings: RunSettings) -> int:
        """Explain what may have been in flight one by one; what kills two workers alone becomes a row. Returns how many
        did."""
        store, found = Store(settings.output.out), 0
        if store.open(REPORT) is None:
            return 0
        probe = self._probe.remote()
        for ref in list(self._in_flight(settings, store)):
            for death in (1, 2):
                try:
                    self._ray.get(probe.alone.remote(settings, ref.uri, os.getcwd()))
                except self._actor_deaths:
                    probe = self._probe.remote()
                    if death == 2:
                        found += 1
                        self._give_up(ref, store)
                except self._ray.exceptions.RayTaskError:
                    break
                else:
                    break
        self._ray.kill(probe)
        return found

    def _in_flight(self, settings: RunSettings, store: Store) -> Iterator[ImageRef]:
        store.gather(RECORDS)
        done: set[str] = set()
        stream = store.open(RECORDS)
        with stream or contextlib.nullcontext(()) as lines:
            done.update(str(record["path"]) for record in map(parse_line, lines) if record is not None)
        left_out = None if settings.exclude is None else Exclusions(settings.exclude, settings.inputs).leaves_out
        shard, count = parse_shard(str(settings.shard)), 0
        for ref in find_images(settings.inputs, SourceOptions(null=settings.null, left_out=left_out)):
            if shard.has(ref.name) and ref.uri not in done:
                yield ref
                count += 1
            if count == _SUSPECTS:
                return

    def _give_up(self, ref: ImageRef, store: Store) -> None:
        self._note(f"{ref.uri} killed two workers: it is given up")
        try:
            with open_file(ref) as stream:
                source = fingerprint(ref, stream)
        except ImageError:
            return
        lines = store.open_lines(RECORDS)
        lines.append(to_json(failed(ref, KILLED, "two worker processes died of it").to_dict(ref.name, source)))
        lines.close()
