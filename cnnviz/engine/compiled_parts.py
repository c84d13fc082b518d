"""What is computed by C that was compiled on this machine: its last digits are not those of PyTorch's operations."""

from __future__ import annotations

from collections.abc import Iterable

from cnnviz.engine.session import Session

CONVOLUTIONS, OCCLUSION = "convolutions", "occlusion"
_KEY = "compiled parts"


def note_compiled(session: Session, part: str) -> None:
    """Keep that a part of what a session does was computed so."""
    session.remember(_KEY, set[str]).add(part)


def compiled_parts(sessions: Iterable[Session]) -> list[str]:
    """What of the passes that were made so far was computed so, in alphabetical order."""
    found: set[str] = set()
    for session in sessions:
        found |= session.remember(_KEY, set[str])
        if session.split is not None and session.split.by_tiles:
            found.add(CONVOLUTIONS)
    return sorted(found)
