"""Runs of a command as a test makes them: a small network, settings, a quiet reporter, and what the run wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cnnviz import pipeline
from cnnviz.settings import (
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RunSettings,
    RuntimeSettings,
    TargetSettings,
)
from tests.support import tiny_model

TINY = ModelSpec(model=f"{tiny_model.__file__}:make", input_size=(3, 64, 64), resize=64)
ONE = ModelSpec(model=f"{tiny_model.__file__}:make_one_logit", input_size=(3, 64, 64), resize=64)


def tiny_options(factory: str = "make") -> list[str]:
    """The tiny network (or another factory beside it) as a command line has it."""
    return ["-m", f"tests.support.tiny_model:{factory}", "--input-size", "64"]


class Quiet:
    """A reporter that remembers, and can press Ctrl-C."""

    def __init__(self, interrupt_after: int = 0) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.notes, self.said = list[str](), list[str]()
        self.interrupt_after = interrupt_after

    def start(self, total: int | None) -> None: ...

    def advance(self, record: Mapping[str, Any]) -> None:
        self.rows.append(record)
        if len(self.rows) == self.interrupt_after:
            raise KeyboardInterrupt

    def work(self, count: int, text: str) -> None: ...

    def part(self, images: float) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None: ...


def settings(inputs: Path | str, out: Path | str, **parts: Any) -> RunSettings:
    target = parts.pop("target", TargetSettings())
    output = OutputSettings(str(out), **parts.pop("output", {}))
    runtime = parts.pop("runtime", RuntimeSettings(batch_size=4))
    return RunSettings(
        "gradcam",
        (str(inputs),),
        parts.pop("model", TINY),
        target,
        runtime,
        parts.pop("draw", DrawSettings()),
        output,
        **parts,
    )


def ran(
    command: str, inputs: Sequence[Path | str], out: Path, **parts: Any
) -> tuple[dict[str, Any], pipeline.RunResult, Quiet]:
    """The report of a run, its result, and what was told.

    Args:
        parts: Fields of the settings by their names, such as ``params``, ``layers``, ``batch_size`` or ``limit``; the
            ``model``, where it is not the tiny network; and a ``reporter``.
    """

    def some(kind: Any, **own: Any) -> Any:
        return kind(**own, **{each.name: parts.pop(each.name) for each in fields(kind) if each.name in parts})

    told = parts.pop("reporter", None) or Quiet()
    target, runtime = some(TargetSettings, method=command), some(RuntimeSettings)
    model, draw, output = parts.pop("model", TINY), some(DrawSettings), some(OutputSettings, out=str(out))
    names = tuple(str(each) for each in inputs)
    result = pipeline.run(RunSettings(command, names, model, target, runtime, draw, output, **parts), told)
    return report(out), result, told


def report(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "report.json").read_text())
    return loaded


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "images").rglob("*")) if p.is_file()}
