"""Forms of detectors' outputs, and which of their candidates are boxes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnviz.engine.box_targets import BoxTarget, ChosenBoxes
from cnnviz.engine.boxes import candidate, candidates, detections, overlaps
from cnnviz.errors import CnnvizError
from cnnviz.registry.box_forms import BoxForm, DetectOptions, form_of
from cnnviz.registry.lookup import find_task, read_task
from cnnviz.tasks.box_words import parse_box, two_boxes

FORMS = {
    "end-to-end": BoxForm("end-to-end", None, ""),
    "ultralytics": BoxForm("ultralytics", 3, ""),
    "yolov5": BoxForm("yolov5", 3, ""),
    "grid": BoxForm("grid", 3, ""),
}


def _output(name: str, seed: int = 0) -> Tensor:
    """Two images of twelve candidates."""
    generator = torch.Generator().manual_seed(seed)
    box = torch.rand((2, 12, 4), generator=generator) * 20 + 4
    shares, there = (torch.rand((2, 12, size), generator=generator) for size in (3, 1))
    if name == "end-to-end":
        label = shares.argmax(2, keepdim=True).float()
        return torch.cat([box[..., :2], box[..., :2] + box[..., 2:], there, label], 2)
    if name == "ultralytics":
        return torch.cat([box, shares], 2).transpose(1, 2)
    if name == "yolov5":
        return torch.cat([box, there, shares], 2)
    rows = torch.cat([there, box / 12 - 1, shares], 2)
    return rows.transpose(1, 2).reshape(2, 8, 3, 4)


def _by_hand(name: str, output: Tensor, image: int, place: int) -> tuple[list[float], list[float], float]:
    """Edges, class probabilities and objectness of one candidate, in plain Python."""
    if name == "grid":
        row, column = divmod(place, 4)
        n = output[image, :, row, column].double().tolist()
        cx, cy = (math.tanh(n[1]) + column) / 4, (math.tanh(n[2]) + row) / 3
        w, h = 1 / (1 + math.exp(-n[3])), 1 / (1 + math.exp(-n[4]))
        return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], n[5:], n[0]
    if name == "ultralytics":
        n = output[image, :, place].double().tolist()
        n.insert(4, 1.0)
    else:
        n = output[image, place].double().tolist()
    if name == "end-to-end":
        return n[:4], [n[4] * (index == round(n[5])) for index in range(3)], 1.0
    return [n[0] - n[2] / 2, n[1] - n[3] / 2, n[0] + n[2] / 2, n[1] + n[3] / 2], n[5:], n[4]


def _ranking(name: str, shares: list[float], there: float) -> float:
    return max(shares) ** 0.4 * there**0.6 if name == "grid" else max(shares) * there


@pytest.mark.parametrize("name", FORMS)
def test_candidates_are_read_as_the_form_says(name: str) -> None:
    output = _output(name)
    every = candidates(output, FORMS[name])
    ranking = every.ranking()
    for image in range(2):
        for place in range(12):
            box, shares, there = _by_hand(name, output, image, place)
            label = shares.index(max(shares))
            classes = torch.full((2,), label)
            p = shares[label] * there
            assert every.boxes[image, place].tolist() == pytest.approx(box, rel=1e-5)
            assert int(every.labels[image, place]) == label
            assert float(every.probability(classes)[image, place]) == pytest.approx(p, rel=1e-5)
            expected = math.log(shares[label]) + math.log(there) if name == "grid" else math.log(p) - math.log1p(-p)
            assert float(every.logit(classes)[image, place]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert float(ranking[image, place]) == pytest.approx(_ranking(name, shares, there), rel=1e-5)
            one = candidate(output, FORMS[name], torch.tensor([place, place]))
            torch.testing.assert_close(one.boxes[image, 0], every.boxes[image, place])


def _iou(a: list[float], b: list[float]) -> float:
    inside = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("iou", [0.3, 0.6, None])
def test_suppression_against_brute_force(name: str, iou: float | None) -> None:
    found = 0
    for seed in range(3):
        output = _output(name, seed)
        for image, chosen in enumerate(detections(candidates(output, FORMS[name]), 0.3, iou)):
            rows = [_by_hand(name, output, image, place) for place in range(12)]
            scores = [_ranking(name, shares, there) for _, shares, there in rows]
            kept: list[int] = []
            for place in sorted(range(12), key=lambda place: -scores[place]):
                label = rows[place][1].index(max(rows[place][1]))
                alike = [k for k in kept if rows[k][1].index(max(rows[k][1])) == label]
                if scores[place] < 0.3 or any(_iou(rows[place][0], rows[k][0]) > (iou or 1) for k in alike):
                    continue
                kept.append(place)
            assert chosen.tolist() == kept
            found += 24 - len(kept)
    assert found > 0


def test_overlaps_in_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    corner, size = torch.rand((2, 5, 2), generator=generator), torch.rand((2, 5, 2), generator=generator)
    boxes = torch.cat([corner, corner + size], 2)
    for image in range(2):
        for place in range(5):
            expected = _iou(boxes[image, place].tolist(), boxes[image, 0].tolist())
            assert float(overlaps(boxes, boxes[:, 0])[image, place]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "counts", "task", "expected"),
    [
        ((1, 300, 6), (80,), "auto", ("end-to-end", None)),
        ((1, 84, 8400), (), "auto", ("ultralytics", 80)),
        ((1, 25200, 85), (), "auto", ("yolov5", 80)),
        ((1, 100, 85), (96,), "auto", ("ultralytics", 96)),  # the number of classes decides
        ((1, 100, 85), (80,), "auto", ("yolov5", 80)),
        ((1, 300, 6), (1,), "auto", ("yolov5", 1)),
        ((1, 300, 6), (80,), "detect:form=yolov5", ("yolov5", 1)),
        ((1, 85, 22, 22), (80,), "auto", ("grid", 80)),
        ((1, 85, 22, 22), (), "detect", ("grid", 80)),
        ((1, 85, 22, 22), (), "auto", None),
        ((1, 85, 22, 22), (85,), "auto", None),
        ((1, 85, 22, 22), (80,), "segment", None),
        ((1, 1000), (), "auto", None),
    ],
)
def test_the_form_is_told_by_the_shape(
    shape: tuple[int, ...], counts: tuple[int, ...], task: str, expected: Any
) -> None:
    found = read_task(task).boxes(shape, counts)
    assert (None if found is None else (found.name, found.classes)) == expected
    if expected is not None:
        assert find_task(read_task(task), shape, True).name == "detect"


def test_what_a_form_takes_for_granted_can_be_set() -> None:
    assert [FORMS[name].least_score(DetectOptions()) for name in FORMS] == [0.25, 0.25, 0.25, 0.4]
    assert [FORMS[name].most_overlap(DetectOptions()) for name in FORMS] == [None, 0.45, 0.45, 0.45]
    options = read_task("detect:score=0.1,iou=0.7").options
    assert isinstance(options, DetectOptions)
    assert (FORMS["grid"].least_score(options), FORMS["end-to-end"].most_overlap(options)) == (0.1, 0.7)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("detct", "Did you mean detect"),
        ("detect:scor=1", "Did you mean score"),
        ("detect:score=2", "out of range"),
        ("detect:form=yolo5", "expected one of"),
    ],
)
def test_what_a_task_cannot_be_asked(task: str, message: str) -> None:
    with pytest.raises(CnnvizError) as raised:
        read_task(task)
    assert message in str(raised.value)


def test_a_form_that_the_output_cannot_have() -> None:
    asked = read_task("detect:form=grid")
    with pytest.raises(CnnvizError, match="cannot be of the form"):
        find_task(asked, (1, 300, 6), asked.boxes((1, 300, 6), ()) is not None)
    assert form_of((1, 4, 4), (), "auto") is None


def test_words_for_boxes() -> None:
    word = parse_box("box:class=traffic light/x1")
    assert word is not None
    assert (word.name, word.part, word.number) == ("traffic light", "x1", 0)
    assert getattr(parse_box("box:best"), "number", 0) == 1
    place = parse_box("box:10%,5,20,30%")
    assert place is not None
    assert place.region is not None
    assert place.region.box((200, 100)).xywh == [20, 5, 20, 30]
    assert parse_box("class:car") is None
    assert two_boxes("box:1,2,3,4,box:2/score") == ("box:1,2,3,4", "box:2/score")
    assert two_boxes("car,bus") == ("car", "bus")
    for wrong in ("box:0", "box:", "box:1,2,3", "box:1,2,0,4", "box:2/y9", "box:bst", "box:class="):
        with pytest.raises(CnnvizError):
            parse_box(wrong)


def test_a_target_of_some_images_of_a_batch() -> None:
    output = _output("yolov5")
    every = candidates(output, FORMS["yolov5"])
    places = torch.tensor([3, 7])
    rows = torch.arange(2)
    chosen = ChosenBoxes(
        FORMS["yolov5"],
        places,
        every.labels[rows, places],
        every.boxes[rows, places],
        every.shares[rows, places],  # type: ignore[index]
    )
    for target in (BoxTarget(chosen), BoxTarget(chosen, "x1"), BoxTarget(chosen).watched, chosen_alike(chosen)):
        both = target(output)
        alone = [target.of(torch.tensor([i]))(output[i : i + 1])[0] for i in range(2)]
        torch.testing.assert_close(both, torch.stack(alone))
    # In the image itself the box is there: followed, its score is at least its own.
    assert bool((BoxTarget(chosen).watched(output) >= BoxTarget(chosen, score="probability")(output) - 1e-6).all())


def chosen_alike(chosen: ChosenBoxes) -> Any:
    return BoxTarget(chosen).watched.alike
