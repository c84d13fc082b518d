"""A pipeline that remembers what it was asked and does what it is told, for tests of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cnnviz.settings import RunSettings

SUMMARY = {"inputs": 7, "explained": 6, "failed": 1, "seconds": 1.204, "images_per_second": 4.98}


@dataclass
class FakePipeline:
    """Stands in for ``cnnviz.pipeline``."""

    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    report: str | None = "cnnviz-out/gradcam/report.json"
    exit_code: int = 0
    picture: bytes | None = None
    sentences: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    again: None = None
    once: None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: BaseException | None = None
    runs: list[RunSettings] = field(default_factory=list)
    stdin: Any = None

    def run(self, settings: RunSettings, reporter: Any, stdin: Any = None) -> FakePipeline:
        self.runs.append(settings)
        self.stdin = stdin
        reporter.start(len(self.records))
        for text in self.notes:
            reporter.note(text)
        for record in self.records:
            reporter.advance(record)
        if self.error is not None:
            raise self.error
        reporter.finish()
        return self


def record(path: str, label: str = "tiger cat", probability: float = 0.375) -> dict[str, Any]:
    return {"path": path, "predictions": [{"label": label, "probability": probability}], "error": None}


def failed(path: str) -> dict[str, Any]:
    return {"path": path, "predictions": [], "error": {"type": "truncated", "message": "the file ends early"}}
