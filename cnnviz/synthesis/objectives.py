"""What an image is made to maximise: sums and differences of classes, units, neurons and layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cnnviz.engine.targets import class_logits
from cnnviz.errors import CnnvizError
from cnnviz.geometry.regions import Region, box_weights
from cnnviz.schema.studies import synthesize as schema
from cnnviz.synthesis.reader import GradientReader, Reading

REDUCTIONS = ("mean", "max")
LEAK = 0.01
"""Slope below zero of what is squared for a whole layer."""

_WEIGHTED = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """One thing to look at, and its weight.

    Attributes:
        kind: ``class``: the logit z_k, never the probability, whose gradient vanishes where the network is sure;
            ``unit``: the mean (or maximum) over a channel's positions; ``neuron``: one position of a channel;
            ``layer``: the mean of all squared values (DeepDream).
        index: Class or channel; -1 for a whole layer.
        layer: Name of the layer; empty for a class.
        place: Row and column of a neuron; None for the middle of the layer.
        weight: Factor.
        label: What people call it.
        region: Of a class of a network with scores at positions: the box or point of the input over which its logit is
            averaged; None for all of it.
    """

    kind: Literal["class", "unit", "neuron", "layer"]
    index: int = -1
    layer: str = ""
    place: tuple[int, int] | None = None
    weight: float = 1.0
    label: str = ""
    region: Region | None = None

    def to_dict(self) -> schema.Term:
        """As the report has it."""
        place = None if self.place is None else list(self.place)
        region: schema.TermRegion = {} if self.region is None else {"region": self.label.rpartition("@")[2]}
        return {
            **region,
            "kind": self.kind,
            "index": self.index,
            "layer": self.layer,
            "place": place,
            "weight": self.weight,
            "label": self.label,
        }

    def times(self, factor: float) -> Term:
        return replace(self, weight=self.weight * factor)

    @property
    def text(self) -> str:
        """The term in words, with its weight where that is not 1."""
        sign = "" if self.weight == 1.0 else "-" if self.weight == -1.0 else f"{self.weight:g}*"
        return f"{sign}{self.label}"


def weighted(text: str) -> tuple[float, str]:
    """``0.5*layer4:12`` as (0.5, "layer4:12"); the weight is 1 where none is given."""
    match = _WEIGHTED.fullmatch(text.strip())
    return (float(match[1]), match[2].strip()) if match else (1.0, text.strip())


def unit_term(text: str, flag: str = "--unit") -> Term:
    """``[W*]LAYER:K``.

    Raises:
        CnnvizError: Another form.
    """
    weight, name = weighted(text)
    layer, _, channel = name.rpartition(":")
    if not layer or not channel.isdigit():
        raise CnnvizError(f"{flag} {text}: expected LAYER:K.", f"For example {flag} layer4:12 or {flag} 0.5*layer4:12")
    return Term("unit", int(channel), layer, weight=weight, label=name)


def neuron_term(text: str, flag: str = "--neuron") -> Term:
    """``[W*]LAYER:K:y:x``, or ``LAYER:K`` for the neuron in the middle.

    Raises:
        CnnvizError: Another form.
    """
    weight, name = weighted(text)
    parts = name.rsplit(":", 3)
    if len(parts) == 4 and all(part.isdigit() for part in parts[1:]):
        channel, row, column = map(int, parts[1:])
        return Term("neuron", channel, parts[0], (row, column), weight, name)
    layer, _, last = name.rpartition(":")
    if layer and last.isdigit():
        return Term("neuron", int(last), layer, None, weight, f"neuron {name}")
    raise CnnvizError(f"{flag} {text}: expected LAYER:K:y:x.", f"For example {flag} layer4:12:3:3")


def any_term(text: str, class_index: Callable[[str], int], class_label: Callable[[int], str], flag: str) -> Term:
    """``[W*]`` and LAYER:K, LAYER:K:y:x, class:NAME or NAME, as ``--plus`` and ``--minus`` take.

    Raises:
        CnnvizError: None of these.
    """
    weight, name = weighted(text)
    numbers = len(re.findall(r":(?=\d+(?::|$))", name))
    if name.startswith("class:") or ":" not in name or not numbers:
        index = class_index(name.removeprefix("class:"))
        return Term("class", index, weight=weight, label=class_label(index))
    # layer:K, layer:call:K, layer:K:y:x, layer:call:K:y:x
    return (neuron_term(name, flag) if numbers >= 3 else unit_term(name, flag)).times(weight)


def objective_text(terms: Sequence[Term]) -> str:
    """``goldfish + 0.5*layer4:12 - hen``."""
    text = ""
    for term in terms:
        sign = (" - " if text else "-") if term.weight < 0 else " + " if text else ""
        text += sign + term.times(-1.0 if term.weight < 0 else 1.0).text
    return text


def layers_of(terms: Sequence[Term]) -> tuple[str, ...]:
    """The layers that the terms look at, each once."""
    return tuple(dict.fromkeys(term.layer for term in terms if term.layer))


def check(terms: Sequence[Term], reader: GradientReader, names: Sequence[str]) -> None:
    """Whether all units and neurons exist.

    Args:
        terms: The terms.
        reader: Reads their layers.
        names: What the reader's layers were asked for as.

    Raises:
        CnnvizError: One does not.
    """
    for term in terms:
        if term.kind not in {"unit", "neuron"}:
            continue
        layer = reader.layers[list(names).index(term.layer)]
        if term.index >= layer.channels:
            raise CnnvizError(
                f"Unit {term.index} does not exist: layer {layer.name} has {layer.channels}.",
                f"Use 0 to {layer.channels - 1}.",
            )
        if term.place is not None and not (term.place[0] < layer.size[0] and term.place[1] < layer.size[1]):
            height, width = layer.size
            raise CnnvizError(
                f"Neuron {term.label}: layer {layer.name} has {height}x{width} positions.",
                f"Use rows 0 to {height - 1} and columns 0 to {width - 1}.",
            )


class Objective:
    """Scores of a batch: s_n = sum over terms t of W[n, t] v_t(image n).

    Args:
        terms: What is looked at.
        weights: W [N, T]; None for the terms' own weights for every image.
        names: What the reader's layers were asked for as, in its order.
        reduction: ``mean`` or ``max`` over the positions of a unit.
    """

    def __init__(
        self, terms: Sequence[Term], weights: Tensor | None, names: Sequence[str], reduction: str = "mean"
    ) -> None:
        self.terms = tuple(terms)
        self.weights = torch.tensor([[term.weight for term in terms]]) if weights is None else weights
        self._places = {name: place for place, name in enumerate(names)}
        self._reduction = reduction

    def __call__(self, reading: Reading, moved: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """[N].

        Args:
            reading: A pass over what the network is shown.
            moved: A mask of the input [1, 1, H, W] as it lies in what is shown [N, 1, H, W]; None where that is the
                input itself.
        """
        values = torch.stack([self._value(term, reading, moved) for term in self.terms], dim=1)
        return (values * self.weights.to(values)).sum(dim=1)

    def of(self, rows: slice) -> Objective:
        """The objective of some of the images."""
        found = Objective(self.terms, None, list(self._places), self._reduction)
        found.weights = self.weights if len(self.weights) == 1 else self.weights[rows]
        return found

    def _value(self, term: Term, reading: Reading, moved: Callable[[Tensor], Tensor] | None) -> Tensor:
        if term.kind == "class":
            assert reading.logits is not None
            scores = class_logits(reading.logits)[:, term.index]
            return scores if scores.dim() == 1 else _mean_in(term.region, scores, reading.leaf, moved)
        values = reading.layers[self._places[term.layer]]
        if term.kind == "layer":
            return mean_square(values)
        channel = values[:, term.index]
        if term.kind == "neuron":
            height, width = channel.shape[1:]
            row, column = term.place if term.place is not None else (height // 2, width // 2)
            return channel[:, row, column]
        return channel.amax(dim=(1, 2)) if self._reduction == "max" else channel.mean(dim=(1, 2))


def _mean_in(region: Region | None, scores: Tensor, shown: Tensor, moved: Callable[[Tensor], Tensor] | None) -> Tensor:
    """[N]: the mean of scores at positions [N, h, w] over a region of the input, each by the share that lies in it.

    0 where the region lies outside what is shown.
    """
    if region is None:
        return scores.mean((1, 2))
    height, width = int(shown.shape[2]), int(shown.shape[3])
    rect = (0.0, 0.0, float(width), float(height))
    box = box_weights(region.box((width, height)), (width, height), rect, (height, width))
    mask = torch.from_numpy(box).to(scores)[None, None]
    weights = torch.nn.functional.interpolate(mask if moved is None else moved(mask), scores.shape[1:], mode="area")
    return (scores * weights[:, 0]).sum((1, 2)) / weights[:, 0].sum((1, 2)).clamp_min(1e-6)


def leaky_square(values: Tensor) -> Tensor:
    """v^2 above zero, LEAK * v below: what is off is pulled up, never made stronger downwards."""
    return torch.where(values > 0, values.square(), LEAK * values)


def mean_square(values: Tensor) -> Tensor:
    """[N]: mean of :func:`leaky_square` over a layer [N, C, h, w]: DeepDream's objective up to a factor."""
    return leaky_square(values).flatten(1).mean(dim=1)


def likeness(values: Tensor) -> Tensor:
    """Mean over pairs of images of the cosine of their Gram matrices, a scalar in 0–1 (zero for one image).

    With G_n = F_n F_n^T the Gram matrix of the features relu(v) of image n as [C, h w]; its negative is the diversity
    term of Olah et al., Feature Visualization, Distill 2017.

    Args:
        values: A layer [N, C, h, w].
    """
    count = len(values)
    if count < 2:
        return values.new_zeros(())
    features = values.relu().flatten(2)
    grams = torch.nn.functional.normalize((features @ features.transpose(1, 2)).flatten(1), dim=1)
    cosines = grams @ grams.T
    return (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
