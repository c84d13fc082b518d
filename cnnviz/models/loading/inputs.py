"""What to say when a network does not run on one batch of images."""

from __future__ import annotations

import inspect

from torch import nn

from cnnviz.errors import CnnvizError, StoppedError, first_line
from cnnviz.models.loading.given import is_answerer, is_captioner


def cannot_run(module: nn.Module, name: str, error: Exception, otherwise: CnnvizError) -> CnnvizError:
    """The error of a network whose forward failed.

    Args:
        module: The network.
        name: What to call it.
        error: What its forward raised.
        otherwise: What to say where the reason is the size of the input, as far as one can tell.
    """
    needed = _needed(module)
    if is_captioner(module) or is_answerer(module):
        hint = "Say --task caption." if is_captioner(module) else "Ask it with --question 'TEXT'."
        return CnnvizError(f"{name} takes something beside the images ({', '.join(needed[1:])}).", hint)
    if len(needed) > 1:
        return CnnvizError(
            f"{name} takes {len(needed)} inputs ({', '.join(needed)}); cnnviz gives a network one batch of images.",
            f"Wrap it in a module whose forward takes the images alone and fills in {', '.join(needed[1:])}, and name "
            "that with --model file.py:factory.",
        )
    if isinstance(error, StoppedError):
        return CnnvizError(
            f"{name} cannot run: {first_line(error)}.", "Run the network alone on one image, and mend its code."
        )
    return otherwise


def _needed(module: nn.Module) -> list[str]:
    """Names of the inputs without which ``forward`` cannot be called."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in plain]
