"""What a forward writes to the network's own attributes while it is traced: taken back.

Some networks keep what they computed once (the attention biases of LeViT and EfficientFormer). In a symbolic run that
is a stand-in for a tensor, which no later run can use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import fx, nn


@contextlib.contextmanager
def left_as_found(module: nn.Module) -> Iterator[None]:
    """Attributes, and dictionaries among them, as before once the body has ended, also after an exception."""
    own = [(part, _plain(part)) for part in module.modules()]
    held = [(value, dict(value)) for _, values in own for value in values.values() if type(value) is dict]
    try:
        yield
    finally:
        for kept, before in held:
            if any(kept.get(key) is not value for key, value in before.items()) or len(kept) != len(before):
                kept.clear()
                kept.update(before)
        for part, values in own:
            for name, value in _plain(part).items():
                if isinstance(value, fx.Proxy):
                    if name in values:
                        part.__dict__[name] = values[name]
                    else:
                        del part.__dict__[name]


def _plain(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}
