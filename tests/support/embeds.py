"""Runs of ``cnnviz embed``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tests.support import digits
from tests.support.runs import Quiet, ran


def run(inputs: Path | str, out: Path, **more: Any) -> tuple[dict[str, Any], Quiet, Any]:
    """The report, what was told, and the result of a run."""
    report, result, told = ran("embed", [inputs], out, device="cpu", batch_size=more.pop("batch", 4), workers=2, **more)
    return report, told, result


def table(out: Path) -> list[dict[str, str]]:
    with (out / "embeddings.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def digit_run(base: Path) -> tuple[Path, dict[str, Any]]:
    """200 digits through a grey network that was trained here."""
    report, _, result = run(digits.write(base / "images", 200), base / "out", model=digits.trained(base), batch=32)
    assert result.exit_code == 0
    return base / "out", report
