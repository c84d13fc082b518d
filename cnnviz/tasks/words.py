"""What ``explain`` is asked to explain: words, indices, functions and targets made into one target of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine.readout import Readout
from cnnviz.engine.shared_outputs import check_reads_rows
from cnnviz.engine.targets import (
    ByImage,
    CallableTarget,
    ClassTarget,
    DifferenceTarget,
    OutputTarget,
    Target,
    UnitTarget,
    class_count,
    predicted,
)
from cnnviz.errors import CnnvizError, nearest
from cnnviz.settings import SCORES
from cnnviz.tasks.base import Vectors
from cnnviz.tasks.class_names import check_class
from cnnviz.tasks.elsewhere import noun_of, other_request
from cnnviz.tasks.functions import parse_function
from cnnviz.tasks.pairs import two_names
from cnnviz.tasks.units import parse_unit
from cnnviz.tasks.vectors import KINDS as VECTORS

TargetLike = int | str | Sequence[int] | Tensor | Target | Callable[[Any], Tensor] | None


def readout_of(target: TargetLike, vectors: Readout) -> Readout:
    """What of the network a target reads.

    Args:
        target: What is to be explained.
        vectors: Where the network's vector of an image is read.

    Raises:
        CnnvizError: A spec that is of no known form.
    """
    if isinstance(target, str):
        parts = two_names(target.partition(":")[2]) if target.partition(":")[0].strip() == "diff" else None
        first = (parts[0] if parts else target).strip()
        if first.partition(":")[0] in VECTORS:
            return vectors
        found = parse_unit(first, "target") or parse_function(first, "target")
        return Readout.scores() if found is None else found.readout
    if isinstance(target, Target):
        return target.readout
    return Readout.everything() if callable(target) and not isinstance(target, Tensor) else Readout.scores()


def read_elsewhere(target: TargetLike, vectors: Vectors, images: int) -> Target | None:
    """The target of a batch that a word of :mod:`cnnviz.tasks.elsewhere` means; None for others, units among them.

    Raises:
        CnnvizError: It means one, but not in the form that is expected.
    """
    made = other_request(target, vectors, "target") if isinstance(target, str) else None
    if made is None or noun_of(made) == "unit":
        return None
    return made.target([made] * images)


def make_target(
    target: TargetLike,
    scores: Tensor,
    score: str = "logit",
    activation: str = "softmax",
    resolve: Callable[[str], int] = int,
) -> tuple[Target, Tensor]:
    """The target of ``explain`` and the indices [N] that it explains: classes or units (of a difference the first; of
    a function the predicted classes, -1 where the network has none).

    Args:
        target: None for the predicted class; an index for all images; one index an image; ``class:NAME``, ``pred``,
            ``unit:LAYER:K``, ``neuron:LAYER:K:y:x``, ``output:K``, ``-output:K`` or ``diff:A,B``; a
            :class:`Target`; or a function.
        scores: The class scores [N, K], or what stands in their place.
        score: One of :data:`SCORES`.
        activation: How logits become probabilities.
        resolve: The index of a class that is named.

    Raises:
        CnnvizError: As many targets as images are needed, each a class of this network.
    """
    _check_score(score)
    guess = predicted(scores.detach()) if scores.dim() == 2 else torch.full((len(scores),), -1)
    if isinstance(target, Target):
        return target, _indices_of(target, guess).cpu()
    if isinstance(target, str):
        made = _of_spec(target, scores, ClassTarget(guess, score, activation), resolve)
        return made, _indices_of(made, guess).cpu()
    if callable(target) and not isinstance(target, Tensor):
        return CallableTarget(target), guess.cpu()
    indices = guess if target is None else _indices(target, scores)
    return ClassTarget(indices, score, activation), indices.cpu()


def check_target(target: Target, output: Any, images: int) -> None:
    """Refuse a target that was handed in and does not fit: what it reads of an image would silently be another's.

    Args:
        target: Made by anybody.
        output: What it reads of a batch.
        images: How many the batch has.

    Raises:
        CnnvizError: It has not one score for each image, names classes that the network does not have, or reads what
            the images of a batch share.
    """
    if isinstance(target, CallableTarget):
        check_reads_rows(target.function, output)
    for part in (target.first, target.second) if isinstance(target, DifferenceTarget) else (target,):
        if isinstance(part, ClassTarget):
            _check_score(part.score)
            _indices(part.indices.reshape(-1), output)
        elif isinstance(part, UnitTarget) and len(part.indices) != images:
            raise CnnvizError(f"{len(part.indices)} targets for {images} images.", "Pass one unit for each image.")
    scores = target(output)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (images,):
        what = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise CnnvizError(
            f"{type(target).__name__} returned {what}; expected one score an image, shape [{images}].",
            "Return for example output[:, 3] - output[:, 5].",
        )


def check_unit(target: Target, score: str) -> None:
    """Raises a CnnvizError where a score of classes was asked for, and the target is explained in another unit."""
    if score != "logit" and target.unit != score:
        raise CnnvizError(
            f"score={score!r} is a score of classes; this target is explained as its {target.unit}.",
            "Leave out score, or ask for a class.",
        )


def _check_score(score: str) -> None:
    if score not in SCORES:
        raise CnnvizError(f"Unknown score {score!r}; expected one of {', '.join(SCORES)}.", nearest(score, SCORES))


def _indices_of(target: Target, guess: Tensor) -> Tensor:
    first = target.first if isinstance(target, DifferenceTarget) else target
    return first.indices if isinstance(first, (ClassTarget, UnitTarget, OutputTarget)) else guess


def _of_spec(spec: str, scores: Tensor, guess: ClassTarget, resolve: Callable[[str], int]) -> Target:
    """The target that a word asks for: ``pred``, ``class:NAME``, ``unit:…``, ``neuron:…`` or ``diff:A,B``."""

    def one(text: str) -> ByImage:
        unit = parse_unit(text, "target")
        if unit is not None:
            return unit.target([unit] * len(scores))
        output, _, number = text.strip().partition(":")
        if output in ("output", "-output"):
            return _output(number.strip(), -1.0 if output.startswith("-") else 1.0, scores)
        name = text.strip().removeprefix("class:").removeprefix("answer:").strip()
        if name == "pred":
            return guess
        try:
            index = int(name) if name.isascii() and name.isdecimal() else resolve(name)
        except ValueError:
            raise CnnvizError(
                f"target={spec!r}: {name!r} is not a class index, and this network has no class names.",
                "Load it with cnnviz.load_model(...), or give an index, such as target='diff:281,282'.",
            ) from None
        return replace(guess, indices=_indices(index, scores))

    kind, _, rest = spec.partition(":")
    if kind.strip() == "diff":
        parts = two_names(rest)
        if parts is None:
            raise CnnvizError(
                f"target={spec!r}: expected two classes, or two units of a layer.",
                "For example diff:281,282, diff:pred,281 or diff:unit:layer4:5,unit:layer4:7.",
            )
        difference = DifferenceTarget(one(parts[0]), one(parts[1]))
        same = _indices_of(difference.first, guess.indices) == _indices_of(difference.second, guess.indices)
        if bool(same.any()):
            image = int(same.nonzero()[0])
            raise CnnvizError(
                f"target={spec!r}: for image {image} both are the same, so there is no difference to explain.",
                "Name two classes or units; of a batch explain those images for which pred is another class.",
            )
        return difference
    return one(spec)


def _output(number: str, sign: float, scores: Tensor) -> OutputTarget:
    if not (number.isascii() and number.isdecimal()):
        raise CnnvizError(f"target='output:{number}': expected the index of an output.", "Such as 'output:0'.")
    return OutputTarget(_indices(int(number), scores), scores.new_full((len(scores),), sign))


def _indices(target: Any, scores: Tensor) -> Tensor:
    count, classes = scores.shape[0], class_count(scores)
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise CnnvizError(
            f"target={target!r} is not a class index.", "Pass for example target=281, or one index for each image."
        ) from None
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise CnnvizError(f"Class indices are integers; got {indices.dtype}.", "Pass for example target=281.")
    indices = indices.long().expand(count) if indices.dim() == 0 else indices.long().reshape(-1)
    if indices.numel() != count:
        raise CnnvizError(
            f"{indices.numel()} targets for {count} images.", "Pass one class index, or one for each image."
        )
    for index in indices.tolist():
        check_class(index, classes)
    return indices.to(scores.device)
