"""Networks taken out of what wraps them: ``torch.compile``, parallel training, weight averages."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cnnviz.errors import CnnvizError


def unwrap(module: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, DataParallel, DistributedDataParallel or a weight average, nested
    or not. The module itself is left as it is.

    Raises:
        CnnvizError: if the module is, or contains, TorchScript.
    """
    module = _inside(module)
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        where = f"its part {scripted[0]!r}" if scripted[0] else "the network"
        raise CnnvizError(
            f"{where} is TorchScript (scripted or traced), whose inside cannot be watched",
            "load the eager model and its state dict: model.load_state_dict(scripted.state_dict())",
        )
    return module


def _inside(module: nn.Module) -> nn.Module:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
    while True:
        if isinstance(module, parallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):  # torch.compile
            module = inner
        else:
            return module


def unwrap_parts(module: nn.Module) -> None:
    """Take wrappers off inner modules as well; only for networks that nobody else holds."""
    for part in list(module.modules()):
        part._compiled_call_impl = None  # what module.compile() leaves
        for name, child in list(part.named_children()):
            if (inner := _inside(child)) is not child:
                setattr(part, name, inner)
