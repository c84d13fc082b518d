"""The network's scores of changed images, or of changed activations, made and run in bounded chunks.

    scores(run, target, Changes(count, make))      # [N, count]

Images are run one at a time, many changes of one image at once: what an image gets does not depend on its batch, nor on
the size of the chunks but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.memory import in_halves
from cnnviz.engine.session import ForwardPass, concatenated
from cnnviz.engine.targets import Target
from cnnviz.models.graph.structures import map_tensors, tensors_of

# On a CPU few copies at a time, so that a map is still in the cache when the next layer reads it.
_CPU_COPIES = 8
_MOST_COPIES = 256
_CPU_BYTES, _DEVICE_BYTES = 16 << 20, 256 << 20
# Logits that several targets share are kept up to this size; beyond it each target runs the network again.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Changes:
    """Changed copies of every image of a batch.

    Attributes:
        count: Copies of each image.
        make: (image, positions) -> the copies at these positions: images [B, C, H, W] in the network's input, or
            activations [B, C, h, w] of the first target layer.
        of_layer: Whether the copies are activations, so that only the head runs.
        key: What names them among those of this pass; with a key, several targets share the logits.
    """

    count: int
    make: Callable[[int, range], Tensor]
    of_layer: bool = False
    key: Any = None


def scores(run: ForwardPass, target: Target, changes: Changes) -> Tensor:
    """The target's score of every changed copy.

    Args:
        run: The pass whose images were changed.
        target: Score [N] of logits [N, K].
        changes: What was changed.

    Returns:
        [N, count], float32, without gradients.
    """
    values = sum(tensor.numel() for tensor in tensors_of(run.output))
    shared = changes.key is not None and values * changes.count * 4 <= _KEPT_BYTES
    parts: Any = _outputs(run, changes)
    if shared:
        parts = run.remember(("changes", changes.key), lambda: list(_outputs(run, changes)))
    return torch.cat([by_position(target, part) for part in parts], dim=1)


def by_position(target: Target, output: Any) -> Tensor:
    """Scores [N, B] of an output [N, B, ...], B copies of each image."""
    return target.of_copies(output).detach().float()


def chunks(count: int, size: int) -> Iterator[range]:
    """Ranges of at most ``size`` that cover ``range(count)``."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def chunk_size(run: ForwardPass, of_layer: bool = False) -> int:
    """Copies that go through the network (or the head) at once."""
    on_cpu = run.session.device.type == "cpu"
    if not of_layer:
        return _CPU_COPIES if on_cpu else 2 * rt.default_batch_size(run.session.device)
    each = run.activations[0][0].numel() * 4
    return min(_MOST_COPIES, max(1, (_CPU_BYTES if on_cpu else _DEVICE_BYTES) // each))


def _outputs(run: ForwardPass, changes: Changes) -> Iterator[Any]:
    """[N, B, ...] for one chunk of positions after the other."""
    for part in chunks(changes.count, chunk_size(run, changes.of_layer)):
        found = []
        for image in range(len(run.pixels)):
            with torch.no_grad():
                made = changes.make(image, part)
            found.append(answers(run, image, made, changes.of_layer))
        yield map_tensors(lambda *each: torch.stack(each), *found)


def answers(run: ForwardPass, image: int, made: Tensor, of_layer: bool = False) -> Any:
    """The output [B, ...] for changed copies of one image, without gradients; where memory runs out, in halves.

    Args:
        run: The pass whose image was changed.
        image: Its place in the batch.
        made: The copies, as :attr:`Changes.make` returns them.
        of_layer: Whether they are activations of the first target layer.
    """

    def ran(part: Tensor) -> Any:
        if of_layer:
            return run.rerun(part, torch.full((len(part),), image, device=part.device))
        return run.session.output_of(part.to(run.session.device))

    return concatenated(in_halves(ran, made, run.session.device))
