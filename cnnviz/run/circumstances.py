"""All that a run depends on beside its images and the files of its network, known before PyTorch is imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnviz.errors import CnnvizError
from cnnviz.io.archives import is_archive
from cnnviz.io.cache import FOLDER, SIZE
from cnnviz.io.digests import file_sha256, folder_sha256, installed_packages
from cnnviz.io.sources import find_images, is_url
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, ComparisonSpec, MethodSpec
from cnnviz.settings import RunSettings, files_named

# Where results go, and what is there already, changes none of them; the images are looked at one by one.
_FREE = frozenset(("inputs", "out", "resume", "overwrite", "cache"))
# Variables of which a library may make something else, or find something else.
_VARIABLES = (
    "ATEN", "CNNVIZ", "CUBLAS", "CUDA", "CUDNN", "DNNL", "HF_", "HIP", "HOME", "HUGGINGFACE", "HSA", "KMP", "MKL",
    "NVIDIA", "OMP", "ONEDNN", "ONNX", "PYTHON", "PYTORCH", "ROCR", "TIMM", "TORCH", "TRANSFORMERS", "XDG",
)  # fmt: skip
_NOT_OF_RESULTS = frozenset((FOLDER, SIZE))
# Options that may name a folder, beside those of entries that say so. Of words such as a method's a folder that is
# called like it, as that of the run's results may be, is another thing.
_PATHS = frozenset(("truth", "truth_classes", "checkpoint", "labels", "exclude"))
# Files of a folder that an option names, such as masks; beyond that a network is faster loaded than all are read.
_MOST_FILES = 20_000
_PROCESSORS = "/proc/cpuinfo"
_CARDS = "/proc/driver/nvidia"


def circumstances(settings: RunSettings, spec: CommandSpec, environment: Mapping[str, str]) -> str | None:
    """The digest of options and the files that they name, code, packages, machine and environment.

    None where not all of it can be known without running what was asked for (:func:`unknown`), or a file that an
    option names is out of reach.

    Args:
        settings: What was asked for.
        spec: The entry that runs.
        environment: The variables with which the program was started: libraries set some themselves.
    """
    if not isinstance(spec, (MethodSpec, ComparisonSpec)) or unknown(settings) is not None:
        return None
    options, further = settings.options(), list[str]()
    if isinstance(spec, ComparisonSpec) and spec.reads:
        read = spec.load_reads()(spec.resolve_params(settings.target.params))
        if read is None:
            return None
        further = list(read)
    given = {name: list(_texts(value)) for name, value in options.items() if name not in _FREE}
    paths = _PATHS | {param.name for param in spec.params if param.type == "file"}
    folders = [text for name, texts in given.items() for text in texts if name in paths or os.sep in text]
    pictures = lookup.pictures_named(spec, spec.resolve_params(settings.target.params))
    texts = [text for own in given.values() for text in own]
    files = _files([*texts, *further, *pictures], [*folders, *further, *pictures])
    shown = [image for text in pictures if not os.path.isdir(text) and not is_archive(text) for image in _images(text)]
    if files is None or None in shown:
        return None
    code = folder_sha256(str(Path(__file__).parents[1]), _MOST_FILES)
    found = {
        "code": code,
        "command": [settings.command, type(spec).__name__, spec.name, settings.null, settings.target.method_named],
        "options": {name: value for name, value in options.items() if name not in _FREE},
        "inputs": list(settings.inputs),
        "files": files,
        "pictures": shown,
        "further": further,
        "folder": os.getcwd(),
        "python": [sys.version, sys.prefix, list(sys.flags)],
        "packages": installed_packages(),
        "machine": _machine(),
        "environment": {name: value for name, value in environment.items() if _counts(name)},
    }
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def unknown(settings: RunSettings) -> str | None:
    """What of a run cannot be known before it is made, in words: inputs behind URLs or on standard input, networks that
    are made by code or run from ONNX files, runs that go on, are shares, or do more than write their folder.
    """
    model, output = settings.model, settings.output
    reasons = {
        f"{model.model} is made by code": ":" in model.model,
        f"{model.model} is an ONNX file": model.model.lower().endswith(".onnx"),
        "--trust-checkpoint runs what the file brings": model.trust_checkpoint,
        "--resume goes on with what is there": output.resume,
        "--shard makes a share of it": settings.shard is not None,
        "--limit may leave images out": settings.limit is not None,
        "the picture goes to standard output": output.out == "-",
        "an image comes on standard input": "-" in settings.inputs,
        "images behind URLs may have changed": any(map(is_url, settings.inputs)),
    }
    return next((text for text, applies in reasons.items() if applies), None)


def _files(texts: Iterable[str], folders: Iterable[str]) -> dict[str, str | None] | None:
    """Digests of the files among texts, and of the folders among some of them, by path; None where one is out of
    reach.
    """
    found: dict[str, str | None] = {}
    for text in dict.fromkeys(texts):
        if is_url(text):
            return None
        found |= {path: file_sha256(path) for path in files_named(text)}
    for text in dict.fromkeys(folders):
        if os.path.isdir(text):
            found[text] = folder_sha256(text, _MOST_FILES)
    return None if None in found.values() else found


def _images(text: str) -> Iterator[str | None]:
    """Digests of the images an INPUT stands for, such as those in a list; None for one that is not a local file."""
    with contextlib.suppress(CnnvizError):  # which the run itself will tell
        for ref in find_images([text]):
            yield None if is_url(ref.uri) else file_sha256(ref.uri)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _counts(name: str) -> bool:
    return name.upper().startswith(_VARIABLES) and name not in _NOT_OF_RESULTS


def _machine() -> list[Any]:
    """What computes here: kind and features of the processor, graphics cards and their driver."""
    found: list[Any] = [platform.machine(), platform.system()]
    try:
        with open(_PROCESSORS, encoding="utf-8", errors="replace") as stream:
            first = stream.read().partition("\n\n")[0].splitlines()
        found += [line for line in first if line.startswith(("model name", "flags", "Features", "CPU part"))]
    except OSError:
        found.append(platform.processor())
    for root, folders, names in os.walk(_CARDS):
        folders.sort()
        if "information" in names or "version" in names:
            found += [[name, file_sha256(os.path.join(root, name))] for name in sorted(names)]
    for folder in ("/dev/dri", "/dev/kfd"):
        found.append(sorted(os.listdir(folder)) if os.path.isdir(folder) else os.path.exists(folder))
    return found
