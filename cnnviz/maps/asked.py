"""What is explained of one image, what the network says of it, and what its maps are to the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.engine.readout import Readout
from cnnviz.engine.session import ForwardPass
from cnnviz.errors import CnnvizError
from cnnviz.io.annotations import Annotations
from cnnviz.maps.write_image import TargetMap
from cnnviz.metrics.localization_boxes import GUESSES
from cnnviz.models.graph.structures import map_tensors
from cnnviz.records import BoxScore, ClassScore, PredictionScore, RegionScore, TargetScore
from cnnviz.registry import lookup
from cnnviz.registry.metrics import RANDOMIZATION, MetricRequest
from cnnviz.registry.specs import MethodSpec, Options
from cnnviz.run.images import DecodedImage
from cnnviz.run.named_folders import check_folders
from cnnviz.run.outcomes import Verdict
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.run.truth_classes import TruthClasses
from cnnviz.tasks.base import Predictions, Request
from cnnviz.tasks.class_names import descending
from cnnviz.tasks.classification import Classification
from cnnviz.tasks.elsewhere import noun_of, plural
from cnnviz.tasks.region_words import asks_place


@dataclass(frozen=True, eq=False)
class Asked:
    """What is explained of one image, and what the network says of it.

    Attributes:
        requests, targets: What was asked for, and its scores.
        predictions: The first classes.
        verdict: Whether they are right; None where that is not known.
        facts: Of the record, beside those of all images.
        shown: The class at each position of a dense output [h, w]; None for others.
        guesses: The first classes, five at least; none of a network without classes for the whole image; None without
            annotations.
        meant_labels: Of the labels of what is marked on it those that mean a class; None without annotations.
    """

    requests: Sequence[Request]
    targets: Sequence[TargetScore]
    predictions: tuple[PredictionScore, ...]
    verdict: Verdict | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    shown: NDArray[np.int64] | None = None
    guesses: tuple[int, ...] | None = None
    meant_labels: tuple[str, ...] | None = None

    def of_image(self, judges: bool) -> Mapping[str, Any]:
        """All that the record says of the image because of what was asked.

        Args:
            judges: Whether what is known of the image says that the network is right or wrong.
        """
        known = {} if self.verdict is None else dict(self.verdict.facts())
        if not judges:
            known.pop("outcome", None)
        return {**known, **self.facts}


def answered(
    prepared: PreparedModel,
    of: tuple[DecodedImage, Predictions, int],
    requests: Sequence[Request],
    targets: Sequence[TargetScore],
    facts: Mapping[str, Any],
) -> Asked:
    """What the network says of an image beside what was asked of it.

    Args:
        prepared: The network of the run.
        of: The image, the predictions for its batch, and its place there.
        requests, targets, facts: As :class:`Asked` has them.
    """
    item, said, place = of
    task, known = prepared.task, prepared.truth_classes
    guesses = None if known is None else _guesses(prepared, said, place)
    return Asked(
        requests,
        targets,
        prepared.top_predictions(said, place, item),
        prepared.verdict(item, said, place),
        facts,
        task.shown(said, place),
        guesses,
        None if known is None else known.meant_of(item.truth),
    )


def _guesses(prepared: PreparedModel, said: Predictions, place: int) -> tuple[int, ...]:
    """The first classes. However few --top lists: the errors of ILSVRC are of five guesses."""
    if not isinstance(prepared.task, Classification):
        return ()
    return tuple(descending(said.scores[place])[: max(GUESSES, prepared.settings.target.top)])


def with_role(item: TargetMap, verdict: Verdict | None) -> TargetMap:
    """The map with what its class is to an image that the network gets wrong, where it is anything."""
    if verdict is None or not isinstance(item.target, ClassScore):
        return item
    role = verdict.role(item.target.class_index)
    return replace(item, facts={**item.facts, "role": role}) if role else item


def truth_facts(annotations: Annotations | None, item: DecodedImage) -> dict[str, Any]:
    """What the record says of the annotations of an image, where there are any."""
    if annotations is None:
        return {}
    return {"truth": None if item.truth is None else item.truth.to_dict()}


def scored(
    requests: Sequence[Request], said: Predictions, image: int, pass_for: Callable[[Request], ForwardPass]
) -> list[TargetScore]:
    """What the record of an image says of each thing that was asked for.

    Args:
        requests: What was asked for.
        said: The predictions for its batch.
        image: Its place there.
        pass_for: The pass over the batch that a request reads.
    """
    outputs: dict[Readout, Any] = {}
    for each in requests:
        if each.readout not in outputs:
            outputs[each.readout] = map_tensors(lambda t: t[image : image + 1].detach(), pass_for(each).output)
    return [each.scored(said, image, outputs[each.readout]) for each in requests]


def truth_labels(
    known: TruthClasses | None, targets: Sequence[TargetScore]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each target the labels of the annotations that mean it, and those of which it is the likeliest class."""
    classes = [target if isinstance(target, (ClassScore, RegionScore, BoxScore)) else None for target in targets]
    labels = [() if known is None or each is None else known.labels_of(each.class_index) for each in classes]
    best: dict[str, int] = {}
    for place, (each, own) in enumerate(zip(classes, labels, strict=True)):
        for label in own:
            first = classes[best[label]] if label in best else None
            if each is not None and (first is None or each.logit > first.logit):
                best[label] = place
    return [(own, tuple(label for label in own if best[label] == place)) for place, own in enumerate(labels)]


def check_targets(prepared: PreparedModel, requests: Sequence[Sequence[MetricRequest]]) -> None:
    """Refuse what only classes can be asked for, and folders that name none.

    Args:
        prepared: The network of the run, and what is asked of it.
        requests: The metrics of each method.

    Raises:
        CnnvizError: ``--view tiles``, ``--sanity`` or ``--score`` with a target that has no such thing; ``--class
            folder`` where no folder is called like a class.
    """
    check_folders(prepared.settings, prepared.target_selector)
    if prepared.preprocess.view == "tiles" and not prepared.task_spec.tiled:
        raise CnnvizError(
            f"--view tiles joins maps of whole crops; --task {prepared.task_spec.name} explains their parts.",
            "Use --view whole, crop or squash.",
        )
    if not prepared.target_selector.beyond_classes:
        return
    if prepared.settings.model.view == "tiles":
        raise CnnvizError(
            "--view tiles: only classes are explained by tiles; of all else no tile is the decisive one.",
            "Use --view crop, whole or squash.",
        )
    randomized = any(each.spec is RANDOMIZATION for requests in requests for each in requests)
    others, written = prepared.target_selector.elsewhere, prepared.task_spec.words
    if not others and not (written and randomized):
        return
    noun = noun_of(others[0]) if others else "word"
    if randomized:
        raise CnnvizError(
            f"--sanity compares maps of classes, not of {plural(noun)}.", "Leave out --sanity, or that target."
        )
    if prepared.settings.target.score != "logit":
        raise CnnvizError(
            f"--score {prepared.settings.target.score}: a {noun} has no probability.",
            f"Leave --score out, or explain classes and the {noun} in two runs.",
        )


def for_task(prepared: PreparedModel, chosen: list[tuple[MethodSpec, Options]]) -> list[tuple[MethodSpec, Options]]:
    """The methods of a run; of a command that names none the task may have another than the usual one.

    Args:
        prepared: The network of the run.
        chosen: The methods as they were asked for, with their options.
    """
    task, note = prepared.task_spec, prepared.note
    spec, params = chosen[0]
    name, named = task.instead.get(spec.name), prepared.settings.target.method_named
    alone = len(chosen) == 1 and prepared.settings.target.method == spec.name
    if name is not None and alone and not named and params == spec.resolve_params({}):
        other = lookup.find_method(name)
        note(f"--task {task.name}: {other.command} is {other.title} (--variant {spec.name} for {spec.title})")
        return [(other, other.resolve_params({}))]
    if task.dense and not any(asks_place(each) for each in prepared.asked_targets):
        return chosen
    for text in dict.fromkeys(task.caveats[each.name] for each, _ in chosen if each.name in task.caveats):
        note(text)
    return chosen
