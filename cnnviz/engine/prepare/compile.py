"""The trunk through inductor with frozen weights.

Below the target layer nothing needs a gradient, so the weights are constants: inductor folds and packs them. The
program is compiled for one batch size; smaller batches are padded, never compiled again.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.runtime import Runtime, compiler_here, is_out_of_memory
from cnnviz.errors import first_line

Trunk = Callable[[Tensor], tuple[Any, ...]]


def compile_trunk(trunk: Trunk, image: Tensor, runtime: Runtime, batch_size: int) -> tuple[Trunk | None, str]:
    """Compile a trunk for batches of ``batch_size``.

    Args:
        trunk: The folded trunk.
        image: A probe [1, C, H, W].
        runtime: Device and precision.
        batch_size: Batches of this size run without padding.

    Returns:
        The compiled trunk and an empty string, or None and why it was left as it is.
    """
    if not compiler_here(runtime.device):
        return None, "no C++ compiler was found"
    example = image.to(runtime.device, runtime.dtype).expand(batch_size, -1, -1, -1)
    example = example.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            expected = trunk(example)
            if not all(isinstance(value, Tensor) and value.shape[:1] == (batch_size,) for value in expected):
                return None, "values that are no batches cross the cut"
            import torch._inductor.config as inductor

            with inductor.patch(freezing=True):
                compiled = torch.compile(trunk, dynamic=False, fullgraph=True)
                compiled(example)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None, first_line(error)[:200]
    return _padded(compiled, batch_size), ""


def _padded(compiled: Trunk, batch_size: int) -> Trunk:
    def run(pixels: Tensor) -> tuple[Any, ...]:
        found: list[tuple[Any, ...]] = []
        for chunk in pixels.split(batch_size):
            count = chunk.shape[0]
            if count < batch_size:
                rest = chunk[-1:].expand(batch_size - count, -1, -1, -1)
                chunk = torch.cat([chunk, rest]).contiguous(memory_format=torch.channels_last)
            found.append(tuple(value[:count] for value in compiled(chunk)))
        if len(found) == 1:
            return found[0]
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))

    return run


class _quiet:
    """Inductor and dynamo log to standard error; a fallback is no news to the user."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("torch", "torch._dynamo", "torch._inductor")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.CRITICAL)

    def __exit__(self, *exc: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
