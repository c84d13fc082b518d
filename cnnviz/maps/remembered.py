"""What earlier runs found of the same images, by the same network, asked the same: taken from a cache.

A record and its pictures are kept by the digest of all that they depend on: the image's bytes and name, what is known
of it, and what the run is (:func:`run_key`): the network's weights and code, every option that changes a number or a
pixel, the methods and metrics with their options and code, this package's code, versions, device and precision. No
path is part of a key, so a cache may move to another machine; a change anywhere is another key, so nothing is ever out
of date. Answers to questions that an audit asks of images at its end are kept likewise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from cnnviz.engine.runtime import device_name
from cnnviz.errors import out_of
from cnnviz.io.annotations import Annotations
from cnnviz.io.cache import ContentCache
from cnnviz.io.digests import file_sha256, package_sha256, running_code
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.models.background import Background
from cnnviz.records import Record, RunHeader, files_of
from cnnviz.registry.specs import EntrySpec
from cnnviz.run.kept_records import RestoredRecord, packed, record_of, restored
from cnnviz.schema.images import InputFile
from cnnviz.settings import RunSettings, files_named
from cnnviz.strict_json import to_json

_OF_NETWORK = (
    "weights_sha256", "source_sha256", "labels_sha256", "parameters", "num_classes", "task", "boxes", "input_size",
    "layers", "preprocess", "weights",
)  # fmt: skip
# What the network's digests stand for; paths, which differ from machine to machine; and what changes no result.
_NOT_OPTIONS = frozenset({"model", "checkpoint", "labels", "trust_checkpoint", "truth", "params", "method_named"})


@dataclass
class Uses:
    """How much was there, and how much was not."""

    hits: int = 0
    misses: int = 0


class Remembered:
    """The cache of a run. Safe in threads.

    Args:
        cache: Where things are kept.
        key: Of the run.
        store: The output folder.
        annotations: What is known of the images; None where nobody asked.
        label: What the run's labels say of an image, as JSON.
    """

    def __init__(
        self,
        cache: ContentCache,
        key: str,
        store: Store,
        annotations: Annotations | None,
        label: Callable[[ImageRef], Any],
    ) -> None:
        self.cache, self.key, self.store = cache, key, store
        self._annotations, self._label = annotations, label
        self._keys: dict[str, str] = {}
        self._turn = threading.Lock()
        self.images, self.answers = Uses(), Uses()

    def recall(self, ref: ImageRef, source: InputFile) -> Callable[[], RestoredRecord] | None:
        """What brings back the record and the files of an image; None where nothing is kept of it.

        Args:
            ref: The image.
            source: Its file.

        Raises:
            CnnvizError: As :meth:`Annotations.truth`.
        """
        known = {
            "sha256": source["sha256"],
            "name": ref.name,
            "label": self._label(ref),
            "given": [ref.label, ref.label_index],
            "truth": None if self._annotations is None else [self._annotations.digest(ref)],
        }
        key = _sha256([self.key, "image", known])
        with self._turn:
            self._keys[ref.name] = key
        content = self.cache.get(key)
        kept = None if content is None else record_of(content)
        if kept is None:
            return None

        def bring_back() -> RestoredRecord:
            # Counted here: beyond --limit images are looked up ahead that the run has no use for.
            with self._turn:
                self.images.hits += 1
            return restored(ref.uri, *kept, self.store)

        return bring_back

    def keys(self) -> dict[str, str]:
        """Under what is kept what is known of each image, by name."""
        with self._turn:
            return dict(self._keys)

    def keep(self, ref: ImageRef, record: Record) -> Record:
        """Keep what was found of an image, unless that it failed. Returns the record."""
        key = self._keys.get(ref.name)
        if key is not None:
            with self._turn:
                self.images.misses += 1
        if record.error is not None or key is None:
            return record
        row: Any = record.to_dict(ref.name, None)
        files = []
        for name in dict.fromkeys(files_of(row)):
            data = self.store.read(name)
            if data is None:
                return record
            files.append((name, data))
        self.cache.put(key, packed({"row": row}, files))
        return record

    def answered(self, what: Mapping[str, Any], names: Sequence[str], ask: Callable[[], Any]) -> Any:
        """The answer to a question about some images, as plain JSON.

        Args:
            what: The question, with all that the answer depends on beside the run and the images.
            names: Of the records.
            ask: Finds it out.
        """
        keys = [self._keys.get(name) for name in names]
        if None in keys:  # of a run that is continued
            return ask()
        key = _sha256([self.key, "answer", what, keys])
        content = self.cache.get(key)
        with contextlib.suppress(ValueError, RecursionError):  # no JSON: as good as none
            if content is not None:
                known = json.loads(content)
                self.answers.hits += 1
                return known
        self.answers.misses += 1
        answer = ask()
        self.cache.put(key, to_json(answer).encode())
        return answer

    def sentences(self) -> list[str]:
        """The same for people, where anything was there."""
        images, answers = self.images, self.answers
        if not images.hits + answers.hits:
            return []
        text = f"from the cache {self.cache.folder}: {out_of(images.hits, images.hits + images.misses, 'image')}"
        if answers.hits + answers.misses:
            text += f", {out_of(answers.hits, answers.hits + answers.misses, 'answer')} of checks"
        return [text]

    def facts(self) -> dict[str, Any]:
        """What the summary says of it."""
        return {
            "cache": {
                "images": self.images.hits,
                "of_images": self.images.hits + self.images.misses,
                "answers": self.answers.hits,
                "of_answers": self.answers.hits + self.answers.misses,
                "run": False,
            }
        }


def run_key(
    settings: RunSettings, header: RunHeader, entries: Sequence[tuple[EntrySpec, Mapping[str, Any]]], more: Any
) -> str:
    """The digest of all that results depend on beside the image.

    Args:
        settings: What was asked for.
        header: What the report says of the network and of where it runs.
        entries: Methods and metrics with their options.
        more: What else changes a result, such as limits of the run's colours.
    """
    options = {
        f"{type(part).__name__}.{each.name}": _content(getattr(part, each.name))
        for part in (settings.model, settings.target, settings.draw)
        for each in fields(part)
        if each.name not in _NOT_OPTIONS
    }
    runtime = settings.runtime
    options["runtime"] = [runtime.seed, runtime.precision, runtime.tracing, list(runtime.skip_check)]
    return _sha256(
        {
            "code": package_sha256(),
            "running": running_code(_modules(settings, entries)),
            "network": {name: header.model.get(name) for name in _OF_NETWORK},
            "environment": {**header.environment, "machine": device_name(str(header.environment["device"]))},
            "options": options,
            "entries": [
                [type(spec).__name__, spec.name, spec.entry, {k: _content(v) for k, v in params.items()}]
                for spec, params in entries
            ],
            "more": more,
        }
    )


def _modules(settings: RunSettings, entries: Iterable[tuple[EntrySpec, Any]]) -> list[str]:
    """Modules whose functions are called by name: methods, metrics, the network, targets."""
    asked = (settings.model.model, *settings.target.classes, *settings.target.targets)
    sides = (side.strip() for text in asked for side in text.removeprefix("diff:").split(","))
    return [spec.entry.partition(":")[0] for spec, _ in entries] + [side.rpartition(":")[0] for side in sides]


def _content(value: Any) -> Any:
    """An option; of the files that it names the content, not the path."""
    if isinstance(value, (list, tuple)):
        return [_content(each) for each in value]
    if isinstance(value, Background):
        return value.digest
    if not isinstance(value, str):
        return value
    written, apart = {}, []
    for path in files_named(value):
        # Of the records of a run the text has the folder, or the report in it.
        folder = os.path.dirname(path)
        texts = (path, os.path.join(folder, "report.json"), folder)
        named = next((text for text in texts if text and text in value), None)
        if named is None:
            apart.append(file_sha256(path))
        else:
            written[named] = f"<{file_sha256(path)}>"
    longest = "|".join(map(re.escape, sorted(written, key=len, reverse=True)))
    text = re.sub(longest, lambda found: written[found[0]], value) if written else value
    return [text, *apart] if written or apart else value


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
