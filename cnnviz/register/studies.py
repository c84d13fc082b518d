"""What the network learned, and images that it makes."""

from __future__ import annotations

from cnnviz.specs import MethodSpec

STUDIES: tuple[MethodSpec, ...] = ()
