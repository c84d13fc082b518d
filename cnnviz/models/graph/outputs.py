"""Finding the logits in whatever a network returns: a tensor, a tuple, a mapping, an object with ``.logits``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnviz.errors import CnnvizError, nearest

_COMMON_KEYS = ("logits", "out", "output", "pred", "prediction")


_DEEPEST, _SHOWN = 5, 8
# Autograd nodes between logits and the probabilities that a network returns beside them.
_TO_PROBABILITIES = ("Softmax", "LogSoftmax", "Sigmoid", "View", "UnsafeView", "Squeeze", "Reshape", "Clone")


@dataclass(frozen=True)
class OutputChoice:
    """Which tensor of what a network returns is explained, and why.

    Attributes:
        key: Dotted path to it; None where the network returns nothing else.
        shape: Its shape for one image.
        why: The reason, in words.
        guessed: Whether nobody said so: a person should be told.
        others: Paths and shapes of the other floating-point tensors.
    """

    key: str | None
    shape: tuple[int, ...]
    why: str
    guessed: bool = False
    others: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def classes(self) -> int:
        """Number of scores for an image."""
        if len(self.shape) < 2:
            return 1
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]

    def note(self) -> str | None:
        """What a person should be told; None where nothing was guessed."""
        if not self.guessed:
            return None
        rest = ", ".join(f"--logits-key {key} for {_as_batch(shape)}" for key, shape in self.others[:_SHOWN])
        return f"output {self.key} {_as_batch(self.shape)} is explained because {self.why}; choose another with {rest}"


def choose_output(value: Any, key: str | None, classes: Sequence[int], again: Callable[[], Any]) -> OutputChoice:
    """The tensor of class scores among everything that a network returned for one image.

    In this order: what was asked for; the only floating-point tensor; the one as wide as there are classes; the one
    with a customary name; the only one of shape [N, K]; the one that the others feed, as a classifier that also
    returns its features. Probabilities beside the logits they are made of do not count.

    Args:
        value: What the network returned.
        key: What was asked for with ``--logits-key``, or None.
        classes: Numbers of classes that would fit, as ``--labels`` or ``--num-classes`` say; empty if nobody said.
        again: Runs the network once more, with gradients, to see which output feeds which.

    Raises:
        CnnvizError: No tensor, or several that could be meant; the message lists them with their shapes.
    """
    if key is not None:
        key = str(key)  # Python may say 0
        asked = select_output(value, key)
        others = [(name, tuple(t.shape)) for name, t in _tensors(value) if t is not asked]
        return OutputChoice(key, tuple(asked.shape), "it was asked for", False, tuple(others))
    found = _tensors(value)
    if not found:
        select_output(value)  # says what is wrong
    if len(found) < 2:
        shape = tuple(found[0][1].shape) if found else ()
        return OutputChoice(found[0][0] or None if found else None, shape, "it is the only output")
    name, why, guessed = _settled(found, classes, again)
    shapes = {other: tuple(t.shape) for other, t in found}
    return OutputChoice(name, shapes.pop(name), why, guessed, tuple(shapes.items()))


def _settled(
    found: Sequence[tuple[str, Tensor]], classes: Sequence[int], again: Callable[[], Any]
) -> tuple[str, str, bool]:
    """Key, reason, and whether it is a guess."""
    scores = {name: width for name, t in found if (width := _width(t)) is not None}
    fitting = [name for name, width in scores.items() if width in classes]
    if len(fitting) == 1:
        return fitting[0], "it has as many values as there are classes", False
    for common in _COMMON_KEYS:
        if any(name == common for name, _ in found) and common in (fitting or scores or [common]):
            return common, f"it is called {common}", len(scores) > 1
    if len(scores) == 1:
        return next(iter(scores)), "it is the only one with one row of scores for each image", True
    if not scores:
        return found[0][0], "it is the first", True
    last = _fed_by_the_others(again, fitting or list(scores))
    if len(last) == 1:
        return last[0], "the others are computed on the way to it", True
    listed = ", ".join(f"{name} {_as_batch(tuple(t.shape))}" for name, t in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    flags = " or ".join(f"--logits-key {name}" for name in list(scores)[:_SHOWN])
    raise CnnvizError(
        f"The network returns several tensors that may be class scores: {listed}{more}.",
        f"Say which is explained with {flags}, or how many classes there are with --num-classes or --labels.",
    )


def _width(tensor: Tensor) -> int | None:
    """Number of class scores if a tensor of one image may hold them: [1], [1, K], [1, K, 1, 1]."""
    shape = tuple(tensor.shape)
    if shape[:1] != (1,) or any(size != 1 for size in shape[2:]) or 0 in shape:
        return None
    return shape[1] if len(shape) > 1 else 1


def _tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Every floating-point tensor of a structure with the path to it, each tensor once."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for path, tensor in _walk(value, (), _DEEPEST):
        seen.setdefault(id(tensor), (".".join(path), tensor))
    return list(seen.values())


def _walk(value: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield path, value
        return
    if depth == 0 or value is None or isinstance(value, (str, bytes)):
        return
    if isinstance(value, Mapping):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None) or [str(index) for index in range(len(value))]
        items = list(zip(names, value, strict=True))
    else:
        items = [(name, item) for name, item in getattr(value, "__dict__", {}).items() if name[0] != "_"]
    for name, item in items:
        yield from _walk(item, (*path, name), depth - 1)


def _fed_by_the_others(again: Callable[[], Any], names: Sequence[str]) -> list[str]:
    """Of several outputs those that feed none of the others, probabilities left out."""
    with torch.enable_grad():
        value = again()
    ends = {name: select_output(value, name).grad_fn for name in names}
    if any(node is None for node in ends.values()):
        return list(names)
    logits = [n for n in names if not any(_reaches(ends[n], ends[other], _TO_PROBABILITIES) for other in names)]
    return [n for n in logits if not any(_reaches(ends[other], ends[n]) for other in logits if other != n)]


def _reaches(start: Any, goal: Any, through: tuple[str, ...] | None = None) -> bool:
    """Whether the value of node ``goal`` was used for that of ``start``, by operations ``through`` alone if given."""
    stack, seen = [start], {start}
    while stack:
        node = stack.pop()
        if through is not None and not node.name().startswith(through):
            continue
        for source, _ in node.next_functions:
            if source is goal:
                return True
            if source is not None and source not in seen:
                seen.add(source)
                stack.append(source)
    return False


def _as_batch(shape: tuple[int, ...]) -> str:
    """The shape for people: N for the images."""
    sizes = [str(size) for size in shape]
    return f"[{', '.join(['N', *sizes[1:]] if shape[:1] == (1,) else sizes)}]"


def is_tensor_like(value: Any) -> bool:
    """A tensor, or a node that stands for one while a network is traced."""
    return hasattr(value, "all_input_nodes") or (hasattr(value, "dim") and hasattr(value, "shape"))


def select_output(value: Any, key: str | None = None) -> Any:
    """The tensor of class scores in a network's return value.

    Args:
        value: What the network returned (or the same structure of graph nodes).
        key: Dotted path such as ``logits``, ``0`` or ``heads.0.scores``; None looks for the usual places:
            the tensor itself, ``.logits``, a mapping's ``logits`` or ``out``, else the first tensor.

    Raises:
        CnnvizError: The path does not exist, or no tensor is there.
    """
    if key is not None:
        for part in str(key).split("."):
            value = _step(value, part, key)
    found = _first_tensor(value)
    if found is None:
        raise CnnvizError(
            f"The network returned {type(value).__name__}, in which no tensor of class scores was found.",
            "Name it with --logits-key KEY, such as --logits-key logits or --logits-key 0.",
        )
    return found


def selector(key: str | None) -> Callable[[Any], Any]:
    return lambda value: select_output(value, key)


def _step(value: Any, part: str, key: str) -> Any:
    if isinstance(value, Mapping):
        for name in value:
            if str(name) == part:
                return value[name]
        names = [str(name) for name in value]
    elif isinstance(value, (tuple, list)) and part.lstrip("-").isdigit():
        if -len(value) <= int(part) < len(value):
            return value[int(part)]
        names = [str(i) for i in range(len(value))]
    elif hasattr(value, part):
        return getattr(value, part)
    else:
        names = list(getattr(value, "_fields", ())) or [n for n in getattr(value, "__dict__", {}) if n[0] != "_"]
    hint = nearest(part, names) or f"Available: {', '.join(names) or 'nothing to choose from'}."
    raise CnnvizError(f"--logits-key {key}: {type(value).__name__} has no {part!r}.", hint)


def _first_tensor(value: Any) -> Any:
    if is_tensor_like(value):
        return value
    logits = getattr(value, "logits", None)
    if logits is not None and is_tensor_like(logits):
        return logits
    if isinstance(value, Mapping):
        ordered = [value[k] for k in _COMMON_KEYS if k in value] + list(value.values())
    elif isinstance(value, (tuple, list)):
        ordered = list(value)
    else:
        ordered = list(getattr(value, "__dict__", {}).values())
    for item in ordered:
        found = _first_tensor(item) if isinstance(item, (tuple, list, Mapping)) else item
        if found is not None and is_tensor_like(found):
            return found
    return None


def as_rows(value: Any) -> Any:
    """Class scores [N, K] in float32 where a tensor holds such (also as [N] or [N, K, 1, 1]); all else as it is."""
    if isinstance(value, Tensor) and (value.dim() < 3 or all(size == 1 for size in value.shape[2:])):
        return two_dim(value)
    return value


def two_dim(logits: Tensor) -> Tensor:
    """[N, K] float32, also for networks that return [N] or [N, K, 1, 1]."""
    flat = logits.float()
    if flat.dim() == 1:
        return flat.unsqueeze(1)
    if flat.dim() > 2 and all(size == 1 for size in flat.shape[2:]):
        return flat.flatten(1)
    if flat.dim() != 2:
        raise CnnvizError(
            f"The explained output has shape {list(flat.shape)}; a classifier's is [N, K].",
            "Choose the class scores with --logits-key KEY.",
        )
    return flat
