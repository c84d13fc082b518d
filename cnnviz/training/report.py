"""What the files of a training say: its header, the curves, the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import in_percent
from cnnviz.models.loading.digests import labels_sha256, weights_sha256
from cnnviz.records import RunHeader
from cnnviz.render.curves import Curve, curves
from cnnviz.report import gallery
from cnnviz.report.headline import headline
from cnnviz.run.command_line import command_line
from cnnviz.run.header import run_header
from cnnviz.settings import CHECKS, RunSettings
from cnnviz.strict_json import to_json
from cnnviz.training.begin import Beginning
from cnnviz.training.state import Epoch
from cnnviz.training.trainer import Course

METRICS, CURVES = "metrics.jsonl", "curves.png"


def header_of(settings: RunSettings, beginning: Beginning, course: Course) -> RunHeader:
    """What is known before the first epoch: the digest of the weights is that of those that it begins with."""
    loaded = beginning.loaded
    nothing = {**dict.fromkeys(CHECKS), "not_run": dict.fromkeys(CHECKS, "training examines no network")}
    model = {
        "weights_sha256": weights_sha256(loaded.module),
        "labels_sha256": labels_sha256(loaded.labels),
        "task": "classify",
        "layers": [beginning.network.plan.cut],
        "boxes": None,
        "notes": list(loaded.notes),
        "checks": nothing,
    }
    where = {
        "device": str(course.runtime.device),
        "precision": course.runtime.precision,
        "preparation": "plain",
        "compiled_kernels": [],
    }
    return run_header(settings, loaded, model, where)


def metrics_lines(epochs: Sequence[Epoch]) -> bytes:
    """``metrics.jsonl``: a line for each epoch."""
    return "".join(f"{to_json(asdict(epoch))}\n" for epoch in epochs).encode()


def curves_of(epochs: Sequence[Epoch]) -> NDArray[np.uint8]:
    """Accuracy above, loss below, of what was learned from and of what validates."""
    shares = [_line(epochs, name, f"{name}_accuracy") for name in ("val", "train")]
    losses = [_line(epochs, name, f"{name}_loss") for name in ("val", "train")]
    most = _round_top(max(y for line in losses for _, y in line.points))
    return np.concatenate(
        [
            curves(shares, "Accuracy", "epoch", whole=True),
            curves(losses, "Loss (cross-entropy)", "epoch", (0.0, most), whole=True),
        ]
    )


def _round_top(value: float) -> float:
    """The next number whose quarters are short ones: 1.2 for 1.12."""
    step = 0.4 * 10 ** math.floor(math.log10(max(value, 1e-6)))
    return float(step * math.ceil(value / step or 1))


def _line(epochs: Sequence[Epoch], name: str, key: str) -> Curve:
    words = {"train": "training", "val": "validation"}
    return Curve(words[name], [(epoch.epoch, float(getattr(epoch, key))) for epoch in epochs], beside=name == "train")


def page(
    settings: RunSettings, summary: Mapping[str, Any], name: str, failures: Sequence[Mapping[str, Any]]
) -> Iterator[bytes]:
    """``index.html``: the curves, and pictures that could not be read."""
    training = summary["training"]
    best = training["best"]
    pairs = headline(summary)
    if training["pictures"]["train"]:
        how = "by the folders train and val" if training["split"] == "folders" else "drawn by the seed"
        counts = training["pictures"]
        pairs.append(("learned from / validated with", f"{counts['train']} / {counts['val']} pictures, {how}"))
    if best is not None:
        pairs += [
            ("best epoch", f"{best['epoch']} of {training['epochs']}"),
            ("validation accuracy", in_percent(best["val_accuracy"])),
        ]
    head = gallery.Gallery(f"cnnviz {settings.command}", command_line(settings, out=True), name, pairs)
    yield gallery.begin(head).encode("utf-8", "replace")
    if best is not None:
        yield gallery.picture({"file": CURVES, "caption": "Accuracy and loss of each epoch"}).encode()
    for record in failures:
        yield gallery.card(record).encode("utf-8", "replace")
    yield gallery.end().encode()
