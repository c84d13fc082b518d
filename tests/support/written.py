"""What is written in a figure, and where."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from PIL import ImageDraw


class Written(NamedTuple):
    """A text, and the box that it fills: left, top, right, bottom."""

    text: str
    box: tuple[float, float, float, float]


def listen(monkeypatch: pytest.MonkeyPatch) -> list[Written]:
    """A list to which every text that is drawn from now on is added."""
    found: list[Written] = []
    draw_text = ImageDraw.ImageDraw.text

    def text(draw: ImageDraw.ImageDraw, corner: tuple[float, float], said: str, **how: Any) -> None:
        if said:
            found.append(Written(said, draw.textbbox(corner, said, font=how["font"], anchor=how.get("anchor"))))
        draw_text(draw, corner, said, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return found
