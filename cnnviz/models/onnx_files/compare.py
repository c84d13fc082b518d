"""Whether a converted network computes what onnxruntime computes from the file."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnviz.errors import CnnvizError, first_line

# Of the largest value of the output: float32 with sums in another order stays far below.
_TOLERANCE = 1e-3
FREE_BATCH = "Export it with a free batch: torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})."


def comparison(path: Path, network: nn.Module, images: Tensor, wanted: tuple[int, bool]) -> str:
    """What to tell of the largest difference from onnxruntime; images are run in one batch here, and as the file has it
    there.

    Args:
        path: The file.
        network: What was made of it.
        images: Float tensor [N, C, H, W].
        wanted: How many images the file takes at once, and whether it takes [N, H, W, C].

    Raises:
        CnnvizError: The two do not agree.
    """
    if find_spec("onnxruntime") is None:
        return "not compared with onnxruntime, which is not installed (pip install onnxruntime)"
    batch, channels_last = wanted
    with torch.no_grad():
        value = network(images)
    found = {"": value} if isinstance(value, Tensor) else dict(value)
    expected = _by_onnxruntime(path, images.permute(0, 2, 3, 1) if channels_last else images, batch)
    worst, largest, where = 0.0, 0.0, ""
    for (name, mine), theirs in zip(found.items(), expected, strict=True):
        if tuple(mine.shape) != theirs.shape:
            raise CnnvizError(
                f"{path}: for {len(images)} images the network made of it gives {name or 'an output'} "
                f"{list(mine.shape)}, and the file {list(theirs.shape)}: the batch of {batch} is built into it.",
                FREE_BATCH,
            )
        difference, size = _difference(mine.numpy(), theirs)
        if difference / max(size, 1e-6) >= worst / max(largest, 1e-6):
            worst, largest, where = difference, size, name
    named = f" of {where}" if where else ""
    if not worst <= _TOLERANCE * max(largest, 1e-3):
        raise CnnvizError(
            f"{path}: made a PyTorch network, it differs from onnxruntime by {worst:.3g}{named} (values up to "
            f"{largest:.3g}).",
            "An operator is converted otherwise than it is meant. Export the network again with another opset, or give "
            "its PyTorch code with --model file.py:factory.",
        )
    figures = f"the largest difference is {worst:.2g} (values up to {largest:.2g})"
    return f"compared with onnxruntime {version('onnxruntime')}: {figures}"


def _difference(mine: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Largest difference and largest value; infinite where one is finite and the other not."""
    if not np.array_equal(np.isfinite(mine), np.isfinite(theirs)):
        return np.inf, 0.0
    known = np.isfinite(theirs)
    apart = np.abs(mine[known].astype(np.float64) - theirs[known].astype(np.float64))
    return float(apart.max(initial=0.0)), float(np.abs(theirs[known].astype(np.float64)).max(initial=0.0))


def _by_onnxruntime(path: Path, images: Tensor, batch: int) -> list[NDArray[Any]]:
    """Outputs for the images, in the order of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    # As it is written: fused operators would be another computation to compare with.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        kind = np.float16 if entry.type == "tensor(float16)" else np.float32
        parts = [
            session.run(None, {entry.name: np.ascontiguousarray(part.numpy().astype(kind))})
            for part in images.split(batch)
        ]
    except Exception as error:  # onnxruntime has classes of its own, one for each kind of failure
        raise CnnvizError(
            f"{path}: onnxruntime does not run it: {first_line(error)}",
            "Check the file: python -m onnx.checker, or export it again.",
        ) from error
    # An output without rows for the images is the same for each.
    return [np.concatenate(each) if each[0].ndim and len(parts) > 1 else each[0] for each in zip(*parts, strict=True)]
