"""``cnnviz train``: a folder of classes in; a checkpoint, its metrics and their curves out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, cast

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, counted, in_percent, of_all
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.models.loading import trained
from cnnviz.registry.training import TrainOptions
from cnnviz.run.counting import Counts, RunResult
from cnnviz.run.folder import REPORT, Extras, RunFolder
from cnnviz.run.reporters import Reporter
from cnnviz.schema.images import AnyImage
from cnnviz.settings import RunSettings
from cnnviz.training import state as states
from cnnviz.training.begin import Beginning, begin
from cnnviz.training.folder import PARTS, Folder, alone, read_folder
from cnnviz.training.pixels import KEPT_BYTES, Decoder, Looked, Pictures, Shapes
from cnnviz.training.report import CURVES, METRICS, curves_of, header_of, metrics_lines, page
from cnnviz.training.state import Epoch, Progress
from cnnviz.training.trainer import Course, Data, NotFiniteError, Trainer

CHECKPOINT = "checkpoint.safetensors"
_BATCH = 32
_FILES = (CHECKPOINT, METRICS, CURVES, states.FILE)


def train(settings: RunSettings, params: TrainOptions, reporter: Reporter) -> RunResult:
    """Train, and write the run's files.

    Args:
        settings: What was asked for.
        params: The options of training.
        reporter: Told about progress.

    Raises:
        CnnvizError: Nothing could be trained (exit code 2), or the loss became NaN or infinite.
    """
    if len(settings.inputs) != 1:
        raise CnnvizError(f"train takes one folder, got {len(settings.inputs)}.", "Put all classes into one folder.")
    if settings.output.out == "-":
        raise CnnvizError("train writes several files: -o - is for maps.", "Give -o a folder.")
    folder = read_folder(settings.inputs[0], params.val_fraction, settings.runtime.seed, reporter.note)
    classes = sorted({picture.label for picture in folder.pictures if picture.part == "train"})
    course_runtime = _runtime(settings)
    beginning = begin(settings.model, params, classes)
    preprocess = beginning.loaded.preprocess
    course = Course(params, settings.runtime.seed, settings.runtime.batch_size or _BATCH, course_runtime, preprocess)
    for text in (*folder.notes, *beginning.loaded.notes):
        reporter.note(text)
    with ExitStack() as stack:
        run_folder = stack.enter_context(RunFolder(Store(settings.output.out), settings, reporter.note))
        run_folder.begin(header_of(settings, beginning, course), _FILES)
        if not settings.output.resume:
            for name in _FILES:  # of a training that was killed, whose report lists no files
                run_folder.store.remove(name)
        decoder = stack.enter_context(Decoder(Shapes(preprocess, params.crop_scale), settings.runtime.workers))
        run = _Run(settings, folder, beginning, course, run_folder, reporter)
        return run.go(decoder)


def _runtime(settings: RunSettings) -> rt.Runtime:
    """Where it is trained.

    Raises:
        CnnvizError: The device is not there, or fp16 was asked for, which needs its losses scaled.
    """
    found = rt.resolve(settings.runtime.device, settings.runtime.precision)
    if found.precision == "fp16":
        raise CnnvizError("train --precision fp16: gradients become zero in fp16.", "Use --precision bf16 or fp32.")
    return found


class _Run:
    """One training: what it reads, keeps and concludes.

    Args:
        settings: What was asked for.
        folder: The pictures.
        beginning: The network, and what of it is learned.
        course: How.
        run_folder: Where it is written.
        reporter: Told about progress.
    """

    def __init__(
        self,
        settings: RunSettings,
        folder: Folder,
        beginning: Beginning,
        course: Course,
        run_folder: RunFolder,
        reporter: Reporter,
    ) -> None:
        self._settings, self._folder, self._beginning, self._course = settings, folder, beginning, course
        self._run_folder, self._reporter, self._store = run_folder, reporter, run_folder.store
        self._counts = Counts()
        self._failures: list[AnyImage] = []
        self._of: Counter[tuple[str, str]] = Counter()
        self._remarks: list[str] = []

    def go(self, decoder: Decoder) -> RunResult:
        """Read the pictures, train, and conclude."""
        try:
            data, digest = self._read(decoder)
            progress = self._earlier(digest)
        except CnnvizError:
            self._run_folder.abandon()
            raise
        self._reporter.note(self._divided(data))
        self._beginning.network.to(self._course.runtime.device)
        trainer = Trainer(self._beginning.regime, data, self._course, self._reporter.work)
        if progress.tensors:
            trainer.restore(progress.tensors)
        is_over = bool(progress.epochs) and not progress.tensors
        facts = self._facts(data, trainer)
        self._reporter.start(len(data.train) * (self._course.params.epochs - len(progress.epochs)))
        ended = "" if is_over else self._epochs(trainer, progress)
        self._reporter.finish()
        return self._conclude(progress, facts, ended)

    # Reading.

    def _divided(self, data: Data) -> str:
        """How many pictures are for what, and what says so."""
        how = "by its folders train and val"
        if self._folder.split == "fraction":
            share, seed = self._course.params.val_fraction, self._settings.runtime.seed
            how = f"{100 * share:g} % of each class drawn by --seed {seed}"
        classes = len(self._beginning.loaded.labels)
        learned = f"{counted(len(data.train), 'picture')} to learn from"
        return f"{counted(classes, 'class')}: {learned}, {len(data.val)} to validate with ({how})"

    def _read(self, decoder: Decoder) -> tuple[Data, str]:
        """The pictures that can be read, and a digest of them and of what they are for."""
        places = {label: place for place, label in enumerate(self._beginning.loaded.labels)}
        parts = {part: Pictures(decoder) for part in PARTS}
        digest, left = hashlib.sha256(), KEPT_BYTES
        self._reporter.start(len(self._folder.pictures))
        for looked in decoder.look(self._folder.pictures):
            if looked.passed_over:
                self._counts.passed_over += 1
                continue
            self._reporter.work(1, "reading")
            sha256 = self._record(looked)
            if looked.pixels is None:
                continue
            picture = looked.picture
            path = os.path.relpath(picture.ref.uri, self._settings.inputs[0])
            digest.update(f"{picture.part} {path} {sha256}\n".encode("utf-8", "surrogateescape"))
            left -= looked.pixels.nbytes
            parts[picture.part].add(picture, places[picture.label], looked.pixels if left >= 0 else None)
            self._of[picture.part, picture.label] += 1
        self._reporter.finish()
        self._check()
        return Data(parts["train"], parts["val"]), digest.hexdigest()

    def _record(self, looked: Looked) -> str | None:
        """Write what was found of a picture. Returns the digest of its file."""
        ref, earlier = self._run_folder.claim(looked.picture.ref)
        row = cast("AnyImage", {**looked.record.to_dict(ref.name, looked.source), "split": looked.picture.part})
        if earlier is not None:
            self._run_folder.keep(earlier)
        else:
            self._run_folder.append(row)
        self._counts.inputs += 1
        self._counts.count(row)
        if looked.pixels is None:
            self._failures.append(row)
            self._reporter.advance(row)
        return None if looked.source is None else looked.source["sha256"]

    def _check(self) -> None:
        """Whether every class has pictures that can be read.

        Raises:
            CnnvizError: One has none to learn from, or nothing validates.
        """
        labels = self._beginning.loaded.labels
        for label in labels:
            learned, validating = self._of["train", label], self._of["val", label]
            if self._folder.split == "fraction" and learned + validating == 1:
                raise alone(label)
            if not learned:
                raise CnnvizError(f"class {label!r} has no picture to learn from that can be read.", "Add pictures.")
        missing = [label for label in labels if not self._of["val", label]]
        if len(missing) == len(labels):
            raise CnnvizError("no picture to validate with can be read.", "Add pictures.")
        if missing:
            self._remarks = [f"classes without pictures to validate with: {', '.join(missing)}"]
            self._reporter.note(self._remarks[0])

    def _earlier(self, digest: str) -> Progress:
        found = states.read(self._store, digest) if self._settings.output.resume else None
        return found or Progress(digest)

    # Training.

    def _epochs(self, trainer: Trainer, progress: Progress) -> str:
        """All that are left. Returns why they ended early: ``interrupted``, or that the loss is NaN or infinite."""
        try:
            trainer.keep_maps(self._beginning.shape, KEPT_BYTES)
            for epoch in trainer.run(progress):
                self._keep(epoch, trainer, progress)
        except KeyboardInterrupt:
            return "interrupted"
        except NotFiniteError as error:
            return error.message
        progress.tensors = {}
        self._run_folder.check()
        states.write(self._store, progress)
        return ""

    def _keep(self, epoch: Epoch, trainer: Trainer, progress: Progress) -> None:
        """An epoch is over. The state comes after the checkpoint: between them, the epoch is done again."""
        self._run_folder.check()
        better = epoch.better_than(progress.best)
        if better:
            self._store.write(CHECKPOINT, trained.to_bytes(self._beginning.network))
        progress.epochs.append(epoch)
        progress.tensors = trainer.state()
        states.write(self._store, progress)
        self._store.write(METRICS, metrics_lines(progress.epochs))
        of = f"epoch {epoch.epoch} of {self._course.params.epochs}"
        val = f"validation loss {epoch.val_loss:.3f}, accuracy {in_percent(epoch.val_accuracy)}"
        best = ", the best so far" if better else ""
        train = f"loss {epoch.train_loss:.3f}, accuracy {in_percent(epoch.train_accuracy)}"
        self._reporter.say(f"{of}: {train}; {val}{best}")

    # Concluding.

    def _facts(self, data: Data, trainer: Trainer) -> dict[str, Any]:
        plan, course = self._beginning.network.plan, self._course
        return {
            "cut": plan.cut,
            "map": list(self._beginning.shape),
            "head": plan.head,
            "classes": list(plan.classes),
            "split": self._folder.split,
            "pictures": {"train": len(data.train), "val": len(data.val)},
            **self._beginning.regime.facts(),
            "batch_size": course.batch_size,
            "steps_per_epoch": trainer.steps,
            "learning_rate": course.rate,
        }

    def _conclude(self, progress: Progress, facts: dict[str, Any], ended: str) -> RunResult:
        """Write curves, report and page.

        Raises:
            CnnvizError: The loss became NaN or infinite; everything is written.
        """
        best, stopped = progress.best, ended not in ("", "interrupted")
        seconds = sum(epoch.seconds for epoch in progress.epochs)
        training = {
            **facts,
            "epochs": len(progress.epochs),
            "early": not ended and len(progress.epochs) < self._course.params.epochs,
            "best": None if best is None else asdict(best),
        }
        summary: dict[str, Any] = {**self._counts.summary(seconds, ended == "interrupted"), "images_per_second": None}
        summary |= {"model": self._beginning.loaded.name, "study": "train", "training": training}
        if stopped:
            summary["stopped"] = ended
        if self._remarks:
            summary["remarks"] = self._remarks
        if progress.epochs:
            self._store.write(METRICS, metrics_lines(progress.epochs))
            self._store.write(CURVES, encode(curves_of(progress.epochs), ImageFormat(png_level=6)))
        name = f"{self._beginning.loaded.name} cut at {facts['cut']}, head {facts['head']}"
        index = page(self._settings, summary, name, self._failures)
        files = tuple(name for name in _FILES if self._store.exists(name))
        summary = self._run_folder.close(summary, "cnnviz train", Extras(index=index, files=files))
        if stopped:
            raise self._diverged(ended, best)
        code = self._counts.exit_code(ended == "interrupted")
        report = os.path.join(self._settings.output.out, REPORT)
        sentences = self._sentences(best)
        if ended:
            over = f"{of_all(len(progress.epochs), self._course.params.epochs, 'epoch')} over"
            sentences = (*sentences, f"interrupted: {over}; --resume goes on from there")
        return RunResult(summary, report, code, sentences=sentences)

    def _diverged(self, reason: str, best: Epoch | None) -> CnnvizError:
        kept = f"{CHECKPOINT} is that of epoch {best.epoch}" if best is not None else "there is no checkpoint"
        return CnnvizError(f"{reason}: {kept}.", f"Try a --learning-rate below {self._course.rate:g}.")

    def _sentences(self, best: Epoch | None) -> tuple[str, ...]:
        if best is None:
            return ()
        path = os.path.join(self._settings.output.out, CHECKPOINT)
        return (
            f"best epoch {best.epoch}: validation accuracy {in_percent(best.val_accuracy)}, loss {best.val_loss:.3f}",
            f"{path} needs no other option: cnnviz cam IMAGE --checkpoint {path}",
        )
