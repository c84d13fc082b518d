"""What is read of something else than the network's scores, whatever the network is for: units and neurons, vectors,
functions of the whole output, and differences of two of a kind.
"""

from __future__ import annotations

from cnnviz.errors import CnnvizError, shown
from cnnviz.tasks.base import DifferenceRequest, Request, Vectors
from cnnviz.tasks.functions import FunctionRequest, parse_function
from cnnviz.tasks.pairs import two_names
from cnnviz.tasks.units import KINDS as UNITS
from cnnviz.tasks.units import UnitRequest, parse_unit
from cnnviz.tasks.vectors import KINDS as VECTORS
from cnnviz.tasks.vectors import parse_vector

KINDS = (*UNITS, *VECTORS)


def other_request(spec: str, vectors: Vectors | None, where: str = "--target") -> Request | None:
    """The request that a spec means; None where it is of the network's own scores.

    Args:
        spec: As it was asked for.
        vectors: Of pictures, for ``similar:FILE``.
        where: What to call it in messages.

    Raises:
        CnnvizError: It is of one of these kinds, but not of the form that is expected.
    """
    text = spec.strip()
    kind, _, rest = text.partition(":")
    if kind != "diff":
        return _one(text, vectors, where)
    sides = two_names(rest)
    found = [] if sides is None else [_one(side, vectors, where) for side in sides]
    first, second = found or (None, None)
    if first is None and second is None:
        return None
    if first is None or second is None:
        noun = noun_of(first or second)
        raise CnnvizError(
            f"{where} {shown(spec)}: a class and a {noun} have no common scale.",
            f"Compare two classes, or two {plural(noun)}" + (" of one layer." if noun == "unit" else "."),
        )
    if first == second:
        raise CnnvizError(f"{where} {shown(spec)}: both are the same {noun_of(first)}.", "Name two.")
    if isinstance(first, FunctionRequest) and isinstance(second, FunctionRequest):
        return first.minus(second, text)
    if noun_of(first) != noun_of(second):
        raise CnnvizError(
            f"{where} {shown(spec)}: a {noun_of(first)} and a {noun_of(second)} have no common scale.",
            "Compare two of a kind.",
        )
    return DifferenceRequest(first, second, text)


def _one(text: str, vectors: Vectors | None, where: str) -> Request | None:
    return parse_unit(text, where) or parse_vector(text, vectors) or parse_function(text, where)


def noun_of(request: Request | None) -> str:
    """What a request is, in a word; of a difference what its sides are."""
    if isinstance(request, DifferenceRequest):
        return noun_of(request.first)
    if isinstance(request, UnitRequest):
        return "unit"
    if isinstance(request, FunctionRequest):
        return "function"
    return {"similar": "similarity", "embedding": "component"}.get(str(getattr(request, "key", "")), "class")


def plural(noun: str) -> str:
    """Several of :func:`noun_of`."""
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
