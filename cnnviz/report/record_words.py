"""What a record says, in words: the same on the static cards and in the rows that the gallery's script gets.

Plain texts, not escaped: who makes a page of them escapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnviz.errors import in_percent

_CLASS_MAP = "classmap"
FLAT = "the map is zero, or the same, everywhere"
_TRUE = 5
# Of an image with so many maps without pictures the page tells of so few.
_MANY, _SHOWN = 100, 20
_IN_ALL = "maps_in_all"
_REGIONS = {"pred": "where it is found", "all": "everywhere", "truth": "in its true region"}
_PLACED = {"mask": "in mask", "box": "in box", "point": "at", "segment": "in segment"}
_SCORES = {
    "box_xywh": "box x, y, width, height",
    "peak": "peak x, y",
    "energy_in_box": "energy in its box",
    "area_above_half": "area above half",
    "region_energy energies": "energy in the regions",
    "region_energy peak_inside": "peak inside the object",
}

_UNITS = {
    "logit": "logits", "probability": "probabilities", "log-probability": "log-probabilities",
    "activation": "activations", "cosine": "cosines", "output": "outputs", "coordinate": "coordinates",
    "component": "components",
}  # fmt: skip
# What the score of a target is that has no probability, by its kind; of units and differences it depends.
_EXPLAINED = {
    "neuron": "activation", "similar": "cosine", "embedding": "value", "output": "value", "function": "value",
    "caption": "sum of its words' scores",
}  # fmt: skip

Score = tuple[str, str, float | None]
"""Name and value in words, and the value where it is one number."""


def mappings(value: object) -> list[Mapping[str, object]]:
    """The mappings of a list; of anything else none."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def number(value: object) -> float | None:
    """A finite number; None for anything else, a boolean among it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def size(record: Mapping[str, object]) -> tuple[int, int] | None:
    """Width and height of the photograph."""
    width, height = number(record.get("width")), number(record.get("height"))
    return None if width is None or height is None else (int(width), int(height))


def name(target: Mapping[str, object]) -> str:
    """The label of a class, or its index where it has none."""
    label = target.get("label")
    return str(label) if label not in (None, "") else f"class {target.get('class_index', '?')}"


def target_name(target: object) -> str:
    """What is explained: a class, in which region, or which box."""
    if not isinstance(target, Mapping):
        return ""
    said = name(target)
    if target.get("kind") == "box" and "number" in target:
        return f"{said}, box {target['number']}"
    if target.get("kind") == "region" and target.get("region"):
        return f"{said} {_region(str(target['region']))}"
    return said


def _region(region: str) -> str:
    kind, _, rest = region.partition(":")
    return _REGIONS.get(region) or (f"{_PLACED[kind]} {rest}" if kind in _PLACED else f"in {region}")


def target_value(target: object) -> str:
    """The score that a map explains, of a target without a probability, by its name: ``difference of logits 3.2``.

    Empty of others.
    """
    if not isinstance(target, Mapping) or target.get("probability") is not None:
        return ""
    kind, score = target.get("kind"), number(target.get("score"))
    if score is None:
        return ""
    name = _EXPLAINED.get(str(kind), "value")
    if kind == "diff":
        name = f"difference of {_UNITS.get(str(target.get('unit')), 'values')}"
    elif kind == "unit":
        name = "strongest activation" if target.get("reduction") == "strongest" else "sum of activations"
    elif kind == "output" and target.get("sign") == -1:
        name = "negative value"
    return f"{name} {score:.3g}"


def unit_instead(explanation: Mapping[str, object]) -> tuple[str, str]:
    """The unit at which a gradient starts in the place of the target, and its activation; empty where none does."""
    scores = explanation.get("scores")
    # Methods that look at a class through a unit have no rule.
    if "rule" not in explanation or not isinstance(scores, Mapping) or scores.get("unit_activation") is None:
        return "", ""
    name = f"unit {scores.get('unit')} of {explanation.get('layer')}, its strongest position"
    return name, f"activation {score_value(scores['unit_activation'])}"


def explained(explanation: Mapping[str, object]) -> str:
    """What a map explains: its target, or a unit in its place."""
    return unit_instead(explanation)[0] or target_name(explanation.get("target"))


def target_probability(target: object, record: Mapping[str, object]) -> str:
    """How sure the network is of what a map of a record shows, as its pictures say it: of a box that is its score, by
    which boxes are ranked; what is explained of it is another number. Of what has no probability the score.
    """
    if not isinstance(target, Mapping) or (probability := number(target.get("probability"))) is None:
        return target_value(target)
    said = in_percent(probability)
    if target.get("kind") == "region":
        return f"mean probability {said}"
    if target.get("kind") != "box":
        return said
    boxes = mappings(record.get("predictions"))
    scores = [number(each.get("score")) for each in boxes if each.get("number") == target.get("number")]
    sure = next((f"score {in_percent(score)}" for score in scores if score is not None), f"probability {said}")
    explained = number(target.get("score"))
    return sure + ("" if explained is None else f", explained value {explained:.3g}")


def sure(explanation: Mapping[str, object], record: Mapping[str, object]) -> str:
    """How sure the network is of what is explained, or the score of that; of a class map, whose places say otherwise,
    at which size.
    """
    said = unit_instead(explanation)[1] or target_probability(explanation.get("target"), record)
    return f"{said} at the training size" if said and explanation.get("method") == _CLASS_MAP else said


def prediction_note(prediction: Mapping[str, object]) -> str:
    """What a prediction says beside its label and probability: a box's number and score, a segment's area."""
    found = []
    if "box_xywh" in prediction:
        found.append(f"box {prediction.get('number')}")
        if (score := number(prediction.get("score"))) is not None:
            found.append(f"score {score:.3g}")
    if (area := number(prediction.get("area"))) is not None:
        found.append(f"{in_percent(area)} of the area")
    if prediction.get("probability") is None and (logit := number(prediction.get("logit"))) is not None:
        found.append(f"{logit:.4g}")
    return ", ".join(found)


def facts(record: Mapping[str, object]) -> list[str]:
    """Size, label and marks; the outcome is told apart."""
    known = size(record)
    found = [f"{known[0]} × {known[1]}"] if known else []
    if any(each.get("method") == _CLASS_MAP for each in mappings(record.get("explanations"))):
        found.append("bars: what the network says at its training size")
    if record.get("outcome") is None and record.get("label") is not None:
        found.append(f"labelled {record['label']}")
    truth = record.get("truth")
    told = record.get("outcome") is not None and 0 < len(_marked(record)) <= _TRUE
    if isinstance(truth, Mapping) and truth.get("labels") and not told:
        found.append(f"marked {', '.join(map(str, truth['labels']))}")
    if (every := number(record.get(_IN_ALL))) is not None:
        shown = len(mappings(record.get("explanations")))
        found.append(f"the likeliest {shown} of {every:.0f} maps; all are in the report")
    # Of a comparison: maps that have no similarity.
    found += dict.fromkeys(f"similarity - ({each['why']})" for each in mappings(record.get("pairs")) if each.get("why"))
    return found


def baseline_words(scores: Mapping[str, object]) -> str:
    """What hides parts of the image, or where a way to it begins, with its levels: several greys look alike.

    Empty of a map that has no such thing.
    """
    if (kind := scores.get("baseline")) is None:
        return ""
    pixel = scores.get("baseline_pixel")
    levels = [f"{value:.3g}" for value in pixel] if isinstance(pixel, list) else []
    said = ",".join(levels[:1] if len(set(levels)) == 1 else levels)
    return f"baseline {kind}" if said in ("", kind) else f"baseline {kind} ({said})"


def abridged(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with the maps that the page tells of: all, or of hundreds that have no pictures those of the likeliest
    targets, and then how many there are."""
    maps = record.get("explanations")
    if not isinstance(maps, list) or len(maps) <= _MANY:
        return record
    maps = mappings(maps)
    if any(files(each) for each in maps):
        return record

    def likeliest(each: Mapping[str, object]) -> float:
        target = each.get("target")
        return -(number(target.get("probability")) or 0.0) if isinstance(target, Mapping) else 0.0

    return {**record, "explanations": sorted(maps, key=likeliest)[:_SHOWN], _IN_ALL: len(maps)}


def truths(record: Mapping[str, object]) -> list[str]:
    """What an image shows: its classes, or, where these are known by what is marked on it, the labels there."""
    classes = [name(each) for each in mappings(record.get("true_classes"))]
    marks = record.get("true_marks")
    every = marks if isinstance(marks, list) else []
    named = [str(own[0]) if own else label for own, label in zip(every, classes, strict=False)] or classes
    return list(dict.fromkeys(named))


def _marked(record: Mapping[str, object]) -> list[str]:
    """What is marked on an image; nothing where it has a label of its own, which says more of the image."""
    truth = record.get("truth")
    if record.get("label") is not None or not isinstance(truth, Mapping):
        return []
    return [str(label) for label in truth.get("labels") or ()]


def outcome(record: Mapping[str, object]) -> tuple[str, str] | None:
    """Whether the network is right (``right``, ``wrong``), and in words; None where that is not known."""
    if record.get("outcome") is None:
        return None
    # A marked word may mean several classes, of which the likeliest is no more what is marked than the others.
    marked = _marked(record)
    true = marked or truths(record)
    said = ", ".join(true[:_TRUE]) + (" …" if len(true) > _TRUE else "")
    predicted = mappings(record.get("predictions"))[:1]
    if record["outcome"] == "correct" or not predicted:
        return "right", f"{'marked' if marked else 'labelled'} {said}: right"
    return "wrong", f"truth: {said}, predicted: {name(predicted[0])}"


def failure(record: Mapping[str, object]) -> str:
    """Why an input failed; empty where it did not."""
    error = record.get("error")
    if not error:
        return ""
    return f"{error.get('type', '')}: {error.get('message', '')}" if isinstance(error, Mapping) else str(error)


def method(explanation: Mapping[str, object]) -> str:
    """The method, by its name."""
    return str(explanation.get("method", "")) + (" (counterfactual)" if explanation.get("counterfactual") else "")


def role(explanation: Mapping[str, object]) -> str:
    """What stands before the target: of two runs which, truth or prediction, and that the map speaks against it."""
    before = f"{str(explanation['run']).upper()}: " if explanation.get("run") else ""
    before += f"{explanation['role']}: " if explanation.get("role") else ""
    return before + ("against " if explanation.get("counterfactual") else "")


def files(explanation: Mapping[str, object]) -> Mapping[str, object]:
    """Its files by their kinds."""
    found = explanation.get("files")
    return found if isinstance(found, Mapping) else {}


def is_flat(explanation: Mapping[str, object]) -> bool:
    """Whether the map tells nothing."""
    scores = explanation.get("scores")
    return isinstance(scores, Mapping) and bool(scores.get("flat"))


def scores(explanation: Mapping[str, object]) -> list[Score]:
    """The figures of a map, in words; of the several of a metric those that are single values or short lists."""
    found = explanation.get("scores")
    if not isinstance(found, Mapping):
        return []
    rows = []
    for key, value in _flattened(found):
        if value is None:
            continue
        words = _SCORES.get(key, key.replace("_", " "))
        figure = float(value) if isinstance(value, bool) else number(value)
        if isinstance(value, list) and len(value) == 1:
            figure = number(value[0])
        rows.append((words, score_value(value), figure))
    return rows


def _flattened(found: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in found.items():
        if not isinstance(value, Mapping):
            yield str(key), value
            continue
        named = value.get("regions") if isinstance(value.get("regions"), list) else None
        for figure, own in value.items():
            if figure == "energies" and named and isinstance(own, list):
                yield from (
                    (f"energy in {_placed(str(region))}", each) for region, each in zip(named, own, strict=False)
                )
            elif isinstance(own, bool | int | float | str) or figure == "energies":
                yield str(figure) if figure == key else f"{key} {figure}", own


def _placed(region: str) -> str:
    """A region of a metric, for people: ``truth``, ``background`` or a rectangle in fractions."""
    return {"truth": "the object", "background": "the background"}.get(region, f"the rectangle {region}")


def score_value(value: object) -> str:
    """A score in three digits, yes or no; a list of them in commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        single = {each: own for each, own in value.items() if isinstance(own, float | int | str)}
        return ", ".join(f"{str(each).replace('_', ' ')} {score_value(own)}" for each, own in single.items())
    if isinstance(value, list | tuple):
        return ", ".join(score_value(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def curves(explanation: Mapping[str, object]) -> list[tuple[str, Sequence[float]]]:
    """The curves of metrics that have some, by name."""
    found = explanation.get("scores")
    rows: list[tuple[str, Sequence[float]]] = []
    for metric, own in found.items() if isinstance(found, Mapping) else ():
        for key, values in own.items() if isinstance(own, Mapping) else ():
            if (
                str(key).endswith("curve")
                and isinstance(values, list)
                and all(number(each) is not None for each in values)
            ):
                about = str(key).removesuffix("curve").replace("_", " ").strip()
                rows.append((f"{str(metric).replace('_', ' ')} {about}".strip(), values))
    return rows
