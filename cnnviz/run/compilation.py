"""Whether compiling a network pays for a run, found out by timing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.precision import seconds_a_batch
from cnnviz.engine.session import Session

if TYPE_CHECKING:
    from cnnviz.run.prepared_model import PreparedModel

# Compilation takes about half a minute and saves about a tenth of the time of the packed network on a CPU.
_WORTH_COMPILING_SECONDS = 300.0
_WORTH_MEASURING_INPUTS = 500
_CLEARLY_FASTER = 0.98


def compiled_if_faster(prepared: PreparedModel, cut: Cut, total: int | None) -> Session:
    """The session that a run should use: compiled as ``--compile`` says, or as it is. What was decided is told.

    Args:
        prepared: The network of the run.
        cut: Where it is cut.
        total: Number of inputs if known.
    """
    session, mode = prepared.session, prepared.settings.runtime.compile
    if mode == "off" or not session.graph:
        return session
    if prepared.preprocess.view == "whole":
        if mode == "on":
            prepared.note("not compiled: a compiled network takes one input size, and --view whole shows it many")
        return session
    batch, inputs = prepared.probe(prepared.batch_size), total or 0
    if mode == "auto":
        if not rt.compiler_here(prepared.runtime.device) or inputs < _WORTH_MEASURING_INPUTS:
            return session
        expected = seconds_a_batch(session, batch) / len(batch) * inputs
        if expected < _WORTH_COMPILING_SECONDS:
            return session
        prepared.note(f"compiling the network: {total} images would take about {expected:.0f} s without")
    compiled = prepared.open(cut, compile_it=True)
    if not compiled.compiled:
        session.notes.extend(compiled.notes)
        return session
    if mode == "on" or seconds_a_batch(compiled, batch) < _CLEARLY_FASTER * seconds_a_batch(session, batch):
        return compiled
    prepared.note("the compiled network is not faster here: the packed one is used")
    return session
