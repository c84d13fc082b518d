"""``localize --threshold-from``: thresholds that were chosen on the images of another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnnviz.errors import CnnvizError, shown
from cnnviz.io.reports import read_report

_FLAG = "--threshold-from"
_ONE, _SEVERAL = "max_box_acc", "max_box_acc_v2"


class OtherThresholds:
    """The best thresholds of each method, and baseline, of a run of ``localize``.

    Args:
        path: Its folder or ``report.json``.
        protocol: Of this run: thresholds of another protocol mean something else.

    Attributes:
        path: As it was named.

    Raises:
        CnnvizError: It is no such report, or of another protocol.
    """

    def __init__(self, path: str, protocol: str) -> None:
        report = read_report(path, _FLAG)
        self.path = path
        hint = "Name the folder of a run of cnnviz localize --truth."
        if report.get("command") != "localize":
            raise CnnvizError(f"{_FLAG} {path}: a run of cnnviz {report.get('command')} chooses no thresholds.", hint)
        table = report["summary"].get("localization")
        self._table: Mapping[str, Any] = table if isinstance(table, dict) else {}
        if not self._table:
            raise CnnvizError(f"{_FLAG} {path}: nothing was measured there, so no threshold was chosen.", hint)
        before = report["options"].get("protocol")
        if before != protocol:
            raise CnnvizError(
                f"{_FLAG} {path}: its thresholds are of --protocol {before}, those of this run of {protocol}.",
                f"Use --protocol {before}, or choose them again.",
            )
        self._model = report["model"]
        self._images = {_digest(record) for record in report["images"]} - {None}

    def remarks_on(self, model: Mapping[str, Any]) -> tuple[str, ...]:
        """That the thresholds were chosen with another network, where they were."""
        if self._model.get("weights_sha256") == model.get("weights_sha256"):
            return ()
        return (f"{_FLAG} {self.path}: its thresholds are of another network, {self._model.get('name')}",)

    def best(self, method: str) -> float:
        """The threshold at which most boxes of a method fit.

        Raises:
            CnnvizError: The run did not measure it.
        """
        own = self._table.get(method)
        value = None if own is None else (own.get(_ONE) or {}).get("threshold")
        if value is None:
            has = ", ".join(self._table)
            raise CnnvizError(
                f"{_FLAG} {self.path}: it has no best threshold of {shown(method)}; it has {has}.",
                f"Measure it there: --method {method} --truth PATH",
            )
        return float(value)

    def of(self, row: str, metric: str) -> list[float] | None:
        """The thresholds of a row of the table, one for each IoU; None where it has none."""
        own = (self._table.get(row) or {}).get(metric) or {}
        values = [own.get("threshold")] if metric == _ONE else list((own.get("thresholds") or {}).values())
        known = [float(value) for value in values if value is not None]
        return known if values and len(known) == len(values) else None

    def has(self, record: Mapping[str, Any]) -> bool:
        """Whether the thresholds were chosen on this very image too."""
        return _digest(record) in self._images


def _digest(record: Mapping[str, Any]) -> str | None:
    found = (record.get("input") or {}).get("sha256")
    return found if isinstance(found, str) else None
