"""What ``explain`` returns, made of what a method says of a batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.examine import Examination
from cnnviz.engine.other_size import outputs_of
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target
from cnnviz.methods.heatmap import Heatmap, upsample
from cnnviz.methods.levels import levels_of, on_level
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec, Options
from cnnviz.tasks.region_words import asks_place

_VARIANTS = re.compile(r"(?:\w+ )?--variant (\w+(?:, \w+)*(?: or \w+)?)")
_NAME = re.compile(r"\b(?!or\b)\w+")


@dataclass(frozen=True, eq=False)
class Explanation:
    """Result of :func:`explain`.

    Attributes:
        raw: The method's own output, unscaled float32: [N, h, w] for CAM methods at the layer's resolution,
            [N, 3, H, W] for input gradients, [N, rows, cols] for occlusion.
        maps: [N, H, W] float32 at the input's resolution.
        target: LongTensor [N], the class explained, or the unit (for a function as target: the predicted class, -1
            where the network has none).
        logits: [N, K] float32; of a target that is a unit the units of its layer [N, C]; of a network that gives no
            class scores its first output.
        layer: The target layer's name, or None.
        facts: What the method states about this pass.
        scores: The method's own figures (for occlusion: window, stride, baseline, positions); those that differ
            between images are lists [N].
        arrays: Further arrays of the method by name, [N, ...] each.
        checks: What the examination of the network found, as ``model.checks`` of a report.
        notes: What a person should know of it; also told by the logger ``cnnviz``.
    """

    raw: Tensor
    maps: Tensor
    target: Tensor
    logits: Tensor
    layer: str | None
    facts: dict[str, Any]
    scores: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def explanation_of(run: ForwardPass, heatmap: Heatmap, indices: Tensor, found: Examination) -> Explanation:
    """What a method said of a batch, with the classes [N] that it explains and what was found of the network."""
    session, size = run.session, (int(run.pixels.shape[2]), int(run.pixels.shape[3]))
    maps = heatmap.maps if heatmap.maps is not None else upsample(heatmap.values, size)
    return Explanation(
        raw=heatmap.values.detach().float().cpu(),
        maps=maps.detach().float().cpu(),
        target=indices.clone(),
        logits=run.chosen.detach().float().cpu(),
        layer=session.layers[0].name if session.layers else None,
        facts=dict(heatmap.facts),
        scores={k: v.tolist() if isinstance(v, Tensor) else v for k, v in heatmap.scores.items()},
        arrays={name: array.detach().cpu() for name, array in heatmap.arrays.items()},
        checks=found.to_dict(),
        notes=(*session.notes, *found.notes, *heatmap.notes),
    )


def caveats(session: Session, method: tuple[MethodSpec, Options], target: Any) -> tuple[str, ...]:
    """What whoever asks a method of a network for this target should know, as a run of the command tells it.

    The command line takes another method for boxes of a detector where none is named; here the name is always given,
    and obeyed.
    """
    spec, params = method
    placed = session.boxes is None and isinstance(target, str) and asks_place(target)
    tasks = [
        task for task in lookup.all_tasks() if (task.boxes and session.boxes is not None) or (task.dense and placed)
    ]
    told = (spec.caveat_with(params), *(task.caveats.get(spec.name, "") for task in tasks))
    return tuple(_in_python(text) for text in told if text)


def _in_python(text: str) -> str:
    """Options of the command line as keywords: ``gradcam --variant odam`` is ``method='odam'``."""
    return _VARIANTS.sub(lambda found: "method=" + _NAME.sub(r"'\g<0>'", found[1]), text)


def at_shape(found: Examination, session: Session, batch: Tensor) -> Examination:
    """What was found of a network, for images [N, C, H, W] of one size: the output has the shape that it has there."""
    output = outputs_of(session).get(tuple(batch.shape[1:]))
    return found if found.output is None or output is None else replace(found, output=output)


def joined(parts: Sequence[Explanation]) -> Explanation:
    """The explanation of a batch from those of its images."""
    first = parts[0]

    def together(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    scores = {
        key: [row for part in parts for row in part.scores[key]]
        if isinstance(value, list) and len(value) == 1
        else value
        for key, value in first.scores.items()
    }
    arrays = {name: torch.cat([part.arrays[name] for part in parts]) for name in first.arrays}
    joined: dict[str, Any] = {name: together(name) for name in ("raw", "maps", "target", "logits")}
    return replace(first, **joined, scores=scores, arrays=arrays)


def explained_by(
    make: Callable[[ForwardPass], Heatmap], run: ForwardPass, chosen: Target, indices: Tensor, found: Examination
) -> Explanation:
    """The explanation of a batch by a method; of boxes of a detector with a pyramid each at the level that made it.

    Maps of other levels are enlarged to the size of the finest, so that they are one tensor.

    Args:
        make: The method, on a pass.
        run: The pass over the batch.
        chosen: What is explained.
        indices: The classes of that [N].
        found: What was found of the network.
    """
    if not run.session.has_levels:
        return explanation_of(run, make(run), indices, found)
    levels = [level or 0 for level in levels_of(run, chosen)]
    made = {}
    for level in dict.fromkeys(levels):
        own = on_level(run, level)
        made[level] = explanation_of(own, make(own), indices, found)
    facts = {"levels": [run.session.layers[level].name for level in levels]}
    first = made[levels[0]]
    if len(made) == 1:
        return replace(first, facts={**first.facts, **facts})
    height, width = max(tuple(each.raw.shape[1:]) for each in made.values())
    raw = torch.stack([upsample(made[level].raw, (height, width))[image] for image, level in enumerate(levels)])
    maps = torch.stack([made[level].maps[image] for image, level in enumerate(levels)])
    return replace(first, raw=raw, maps=maps, facts={**first.facts, **facts})
