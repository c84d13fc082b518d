"""``--precision auto``: the precision that is faster here for this run, found out by timing both, told and recorded.

A run has one precision. One that is continued keeps that with which it began, whatever is faster now; runs over shares
must name theirs, because each would find out for itself. In a cache results of two precisions have different keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.precision import race, seconds_a_batch
from cnnviz.engine.session import Session
from cnnviz.schema.header import PrecisionChoice
from cnnviz.settings import AUTO_PRECISION

if TYPE_CHECKING:
    from cnnviz.run.prepared_model import PreparedModel

EXACT = "fp32"
# Preparing and timing the network once more takes a second or two, and may halve the time of the run.
_WORTH_TRYING_SECONDS = 10.0
# What a lower precision must save to be chosen.
_WORTHWHILE = 0.95


def opened_as_asked(prepared: PreparedModel, cut: Cut, total: int | None) -> tuple[Session, PrecisionChoice | None]:
    """The session of a run, and what was chosen, where that was left to us.

    Args:
        prepared: The network of the run.
        cut: Where it is cut.
        total: Number of inputs if known; where it is not, both precisions are timed.
    """
    if prepared.settings.runtime.precision != AUTO_PRECISION:
        return prepared.open(cut), None
    asked = prepared.runtime
    if asked.precision == EXACT:
        return prepared.open(cut), _told(prepared, EXACT, "no other is fast here", {})
    prepared.runtime = rt.Runtime(asked.device, EXACT)
    exact = prepared.open(cut)
    with rt.threads(prepared.lanes.threads):
        batch = prepared.probe(min(prepared.batch_size, rt.default_batch_size(asked.device)))
        if total is not None:
            seconds = seconds_a_batch(exact, batch) / len(batch)
            if seconds * total < _WORTH_TRYING_SECONDS:
                return exact, _told(prepared, EXACT, "the run is short", {EXACT: seconds})
        prepared.runtime = asked
        lower = prepared.open(cut)
        if lower.runtime.precision == EXACT:
            return lower, _told(prepared, EXACT, f"the scores in {asked.precision} are others", {})
        found = race({EXACT: exact, asked.precision: lower}, batch)
    seconds_an_image = {name: seconds / len(batch) for name, seconds in found.items()}
    if found[asked.precision] < _WORTHWHILE * found[EXACT]:
        return lower, _told(prepared, asked.precision, "it is faster", seconds_an_image)
    prepared.runtime = exact.runtime
    return exact, _told(prepared, EXACT, f"{asked.precision} is not faster", seconds_an_image)


def _told(prepared: PreparedModel, chosen: str, why: str, seconds: dict[str, float]) -> PrecisionChoice:
    milliseconds = {name: round(1000 * value, 3) for name, value in seconds.items()}
    timed = ", ".join(f"{value:.3g} ms an image in {name}" for name, value in milliseconds.items())
    prepared.note(f"--precision auto: {chosen}, because {why}" + f" ({timed})" * bool(timed))
    return {"chosen": chosen, "why": why, "milliseconds": milliseconds}
