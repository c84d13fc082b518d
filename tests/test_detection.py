"""Detectors: what is explained of their boxes, against computations of our own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.engine.cut import Cut
from cnnviz.engine.layer_table import layer_table
from cnnviz.engine.open_session import SessionOptions, open_session
from cnnviz.engine.runtime import resolve
from cnnviz.errors import CnnvizError
from cnnviz.methods.perturbation.rise import draw_masks
from cnnviz.models.graph.layers import stages
from cnnviz.models.loading.listed_boxes import with_rows
from cnnviz.registry.lookup import read_task
from tests.support import box_network as nets

IMAGES = nets.images()
TASK = "detect:score=0.05"
FORMS = {"grid": nets.grid, "ultralytics": nets.ultralytics, "end-to-end": nets.end_to_end, "yolov5": nets.yolov5}


def _rows(network: Any, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes x0, y0, x1, y1, probabilities [M, K] and objectness [M] of one image, by the forms' definitions."""
    y = network(x)[0]
    if name == "grid":
        y = y.flatten(1)
        at = torch.arange(y.shape[1])
        side = nets.COUNT
        cx, cy = (y[1].tanh() + at % side) / side, (y[2].tanh() + at // side) / side
        w, h, there, shares = y[3].sigmoid(), y[4].sigmoid(), y[0], y[5:].T
    elif name == "end-to-end":
        shares = torch.zeros(len(y), 3, dtype=y.dtype)
        shares = shares.scatter(1, y[:, 5:].long(), y[:, 4:5])
        return y[:, :4], shares, torch.ones(len(y), dtype=y.dtype)
    else:
        y = y.T if name == "ultralytics" else y
        (cx, cy, w, h), rest = y[:, :4].T, y[:, 4:]
        there, shares = (rest[:, 0], rest[:, 1:]) if name == "yolov5" else (torch.ones_like(cx), rest)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1), shares, there


def _best(name: str, shares: Tensor, there: Tensor) -> tuple[int, int]:
    """Candidate and class of the first box: nothing is better, so nothing suppresses it."""
    power = (0.4, 0.6) if name == "grid" else (1, 1)
    scores = shares.amax(1) ** power[0] * there ** power[1]
    place = int(scores.argmax())
    return place, int(shares[place].argmax())


def _score(name: str, boxes: Tensor, shares: Tensor, there: Tensor, part: str) -> Tensor:
    place, label = _best(name, shares.detach(), there.detach())
    p = shares[place, label] * there[place]
    if part == "box":
        return boxes[place].sum()
    if part != "score":
        return boxes[place, ["x0", "y0", "x1", "y1"].index(part)]
    return p.log() if name == "grid" else p.log() - (1 - p).log()


def _gaussian(gradient: Tensor, deviation: float) -> Tensor:
    """[C, h, w] convolved with a Gaussian, term by term."""
    reach = round(3 * deviation)
    weights = [math.exp(-((step / deviation) ** 2) / 2) for step in range(-reach, reach + 1)]
    found = torch.zeros_like(gradient)
    _, height, width = gradient.shape
    for row in range(height):
        for column in range(width):
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    if 0 <= row + i < height and 0 <= column + j < width:
                        weight = weights[i + reach] * weights[j + reach] / sum(weights) ** 2
                        found[:, row, column] += weight * gradient[:, row + i, column + j]
    return found


class _FromFeatures(nn.Module):
    """The head of a network of the tests, from given features."""

    def __init__(self, network: Any, a: Tensor) -> None:
        super().__init__()
        self.network, self.a = network, a

    def forward(self, x: Tensor) -> Any:
        return self.network.head(self.a)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("part", ["score", "x0", "box"])
def test_odam_is_that_of_the_paper(name: str, part: str) -> None:
    network = FORMS[name]()
    found = cnnviz.explain(network, IMAGES, "odam", target=f"box:1/{part}", task=TASK, sigma=1.0)
    assert found.layer == "act"
    double = copy.deepcopy(network).double()
    for image in range(2):
        a = double.features(IMAGES[image : image + 1].double()).detach().requires_grad_()
        [gradient] = torch.autograd.grad(_score(name, *_rows(_FromFeatures(double, a), name, a), part), [a])
        expected = (_gaussian(gradient[0], 1.0) * a[0].detach()).sum(0).clamp_min(0)
        assert float(expected.max()) > 1e-4
        torch.testing.assert_close(
            found.raw[image].double(), expected, rtol=1e-3, atol=1e-5 * float(expected.max()) + 1e-7
        )


@pytest.mark.parametrize("method", ["hirescam", "gradcam"])
def test_without_smoothing_odam_is_hirescam_and_gradcam_is_another(method: str) -> None:
    network = nets.grid()
    plain = cnnviz.explain(network, IMAGES, "odam", target="box:1", task=TASK, sigma=0.0).raw
    other = cnnviz.explain(network, IMAGES, method, target="box:1", task=TASK).raw
    same = bool(torch.allclose(plain, other, rtol=1e-4, atol=1e-7))
    assert same == (method == "hirescam")


@pytest.mark.parametrize("name", FORMS)
def test_occlusion_follows_the_box(name: str) -> None:
    network, window = FORMS[name](), 32
    found = cnnviz.explain(network, IMAGES, "occlusion", target="box:1", task=TASK, window=window, stride=window)
    with torch.no_grad():
        for image in range(2):
            boxes, shares, there = _rows(network, name, IMAGES[image : image + 1])
            place, label = _best(name, shares, there)

            def followed(x: Tensor, box: Tensor = boxes[place], label: int = label) -> float:
                others, p, o = _rows(network, name, x)
                return max(_iou(one, box) * float(p[j, label] * o[j]) for j, one in enumerate(others))

            plain = followed(IMAGES[image : image + 1])
            for row in range(2):
                for column in range(2):
                    hidden = IMAGES[image : image + 1].clone()
                    hidden[..., row * window : (row + 1) * window, column * window : (column + 1) * window] = 0
                    drop = plain - followed(hidden)
                    assert float(found.raw[image, row, column]) == pytest.approx(drop, rel=1e-3, abs=1e-5)


def _iou(a: Tensor, b: Tensor) -> float:
    inside = float((torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp_min(0).prod())
    areas = [float((c[2:] - c[:2]).clamp_min(0).prod()) for c in (a, b)]
    return inside / (sum(areas) - inside) if sum(areas) > inside else 0.0


@pytest.mark.parametrize("name", ["grid", "ultralytics", "end-to-end"])
def test_drise_is_that_of_the_paper(name: str) -> None:
    network = FORMS[name]()
    found = cnnviz.explain(network, IMAGES[:1], "drise", target="box:1", task=TASK, masks=6, cells=4, seed=3)
    masks = draw_masks((nets.SIDE, nets.SIDE), 6, 4, 0.5, 3).at(range(6))
    total = torch.zeros(nets.SIDE, nets.SIDE, dtype=torch.float64)
    with torch.no_grad():
        boxes, shares, there = _rows(network, name, IMAGES[:1])
        place, _ = _best(name, shares, there)
        for mask in masks:
            others, p, o = _rows(network, name, IMAGES[:1] * mask)
            o = p.amax(1) if name != "grid" else o
            s = max(
                _iou(box, boxes[place]) * float(torch.cosine_similarity(p[j], shares[place], dim=0) * o[j])
                for j, box in enumerate(others)
            )
            total += s * mask.double()
    torch.testing.assert_close(found.raw[0].double(), total / (6 * 0.5), rtol=1e-4, atol=1e-6)
    assert found.facts["score"] == "similarity"


def test_drise_explains_boxes_alone() -> None:
    with pytest.raises(CnnvizError, match="compares boxes"):
        cnnviz.explain(nets.grid(), IMAGES, "drise", target="unit:act:1", task=TASK, masks=2)


@pytest.mark.parametrize("make", [nets.grid, nets.end_to_end, nets.pyramid, nets.listed])
@pytest.mark.parametrize("method", ["odam", "layercam", "saliency", "drise"])
def test_a_batch_gives_what_its_images_give_alone(make: Any, method: str) -> None:
    options: dict[str, Any] = {"masks": 8, "cells": 4} if method == "drise" else {}
    network = make()
    for target in ("box:best", "box:3"):
        whole = cnnviz.explain(network, IMAGES, method, target=target, task=TASK, **options)
        for image in range(2):
            alone = cnnviz.explain(network, IMAGES[image : image + 1], method, target=target, task=TASK, **options)
            scale = float(alone.maps.abs().max())
            assert scale > 0
            torch.testing.assert_close(whole.maps[image], alone.maps[0], rtol=1e-3, atol=1e-4 * scale)
            assert int(whole.target[image]) == int(alone.target[0])


def test_a_box_of_a_pyramid_is_explained_at_its_level() -> None:
    network, seen = nets.pyramid(), set()
    y = network(IMAGES[:1])[0]
    order = y[4:].amax(0).argsort(descending=True)
    for number in range(1, 15):
        found = cnnviz.explain(network, IMAGES[:1], "odam", target=f"box:{number}", task="detect:score=0.01,iou=1")
        fine = int(order[number - 1]) < nets.COUNT**2
        assert found.layer == ("act:0" if fine else "act:1")
        assert list(found.raw.shape[1:]) == [nets.COUNT // (1 if fine else 2)] * 2
        seen.add(fine)
    assert seen == {True, False}


def test_boxes_of_different_levels_in_one_batch() -> None:
    network = nets.pyramid()
    y = network(IMAGES)
    labels = y[:, 4:].amax(1).argmax(1)
    found = [
        cnnviz.explain(network, IMAGES[:1], "odam", target=f"box:{n}", task="detect:score=0.01,iou=1")
        for n in range(1, 30)
    ]
    coarse = next(n for n, each in enumerate(found, start=1) if each.layer == "act:1")
    both = torch.cat([IMAGES[:1], IMAGES[:1].flip(-2)])
    joined = cnnviz.explain(network, both, "odam", target=f"box:{coarse}", task="detect:score=0.01,iou=1")
    assert joined.facts["levels"][0] == "act:1"
    assert len(labels) == 2
    torch.testing.assert_close(joined.maps[0], found[coarse - 1].maps[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("make", "layers"), [(nets.grid, ["act"]), (nets.pyramid, ["act:0", "act:1"])])
def test_what_feeds_the_head(make: Any, layers: list[str]) -> None:
    options = SessionOptions(Cut.at_layers(), task=read_task("detect"))
    with open_session(make(), "net", (3, nets.SIDE, nets.SIDE), resolve("cpu"), options) as session:
        assert [layer.name for layer in session.layers] == layers


@pytest.mark.parametrize(
    ("target", "label"),
    [(None, None), ("box:best", None), ("pred", None), (2, 2), ("box:class=1", 1), ("diff:box:1,box:2", None)],
)
def test_words_in_python(target: Any, label: int | None) -> None:
    network = nets.ultralytics()
    found = cnnviz.explain(network, IMAGES, "saliency", target=target, task="detect:score=0,iou=1")
    pixels = IMAGES.clone().requires_grad_()
    y = network(pixels)
    score = y.new_zeros(())
    for image in range(2):
        p = y[image, 4:]
        own = p.amax(0)
        mine = own if label is None else own * (p.argmax(0) == label)
        places = mine.detach().argsort(descending=True)
        score = score + torch.logit(own[places[0]])
        if target == "diff:box:1,box:2":
            score = score - torch.logit(own[places[1]])
        assert int(found.target[image]) == int(p[:, places[0]].argmax())
    [expected] = torch.autograd.grad(score, [pixels])
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", ["probability", "log-probability"])
def test_other_scores(score: str) -> None:
    network = nets.yolov5()
    found = cnnviz.explain(network, IMAGES[:1], "saliency", target="box:1", score=score, task=TASK)
    pixels = IMAGES[:1].clone().requires_grad_()
    _, shares, there = _rows(network, "yolov5", pixels)
    place, label = _best("yolov5", shares.detach(), there.detach())
    p = shares[place, label] * there[place]
    [expected] = torch.autograd.grad(p if score == "probability" else p.log(), [pixels])
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-6)


def test_a_box_at_a_place_of_the_batch() -> None:
    network = nets.end_to_end()
    y = network(IMAGES[:1])[0]
    x0, y0, x1, y1 = y[int(y[:, 4].argmax()), :4].tolist()
    asked = f"box:{x0:.3f},{y0:.3f},{x1 - x0:.3f},{y1 - y0:.3f}"
    one = cnnviz.explain(network, IMAGES[:1], "odam", target=asked, task=TASK)
    torch.testing.assert_close(one.raw, cnnviz.explain(network, IMAGES[:1], "odam", target="box:1", task=TASK).raw)
    with pytest.raises(CnnvizError, match=r"no box has an IoU of 0.5 with it"):
        cnnviz.explain(network, IMAGES[:1], "odam", target="box:0,0,1,1", task=TASK)


@pytest.mark.parametrize(
    ("target", "message"),
    [("box:900", "there is no box 900"), ("diff:box:1,box:1", "both sides are the same box"), ("top:3", "several"),
     ("diff:box:1,box:2/x0", "no common scale")],
)  # fmt: skip
def test_what_cannot_be_asked(target: str, message: str) -> None:
    with pytest.raises(CnnvizError, match=message):
        cnnviz.explain(nets.grid(), IMAGES, "odam", target=target, task=TASK)


@pytest.mark.parametrize("method", ["cam", "finercam"])
def test_methods_of_class_scores_say_that_they_need_them(method: str) -> None:
    with pytest.raises(CnnvizError, match="class"):
        cnnviz.explain(nets.grid(), IMAGES, method, target="box:1", task=TASK)


def test_a_user_function_reads_all_candidates() -> None:
    found = cnnviz.explain(nets.grid(), IMAGES, "saliency", target=lambda output: output[:, 0].amax((1, 2)), task=TASK)
    pixels = IMAGES.clone().requires_grad_()
    [expected] = torch.autograd.grad(nets.grid()(pixels)[:, 0].amax((1, 2)).sum(), [pixels])
    torch.testing.assert_close(found.raw, expected, rtol=1e-4, atol=1e-6)


def test_stages_and_the_layer_table_of_a_detector() -> None:
    with open_session(nets.pyramid(), "net", (3, nets.SIDE, nets.SIDE), resolve("cpu"), SessionOptions()) as session:
        assert session.graph is not None
        assert [session.graph.shapes[node][2:] for node in stages(session.graph, "net")] == [(8, 8), (4, 4)]
    form = read_task("detect").boxes((1, 7, 80), ())
    rows = layer_table(nets.pyramid(), "net", (3, nets.SIDE, nets.SIDE), boxes=form)
    assert [row.name for row in rows if row.default_target] == ["act:0", "act:1"]
    assert {row.cam for row in rows} == {"CAM: no, this network finds boxes."}
    named = cnnviz.explain(nets.pyramid(), IMAGES, "odam", target="box:1", layer=-2, task=TASK)
    assert named.layer == "act:0"
    listed = with_rows(nets.listed(), IMAGES[:1])
    found = layer_table(listed, "net", (3, nets.SIDE, nets.SIDE), boxes=read_task("detect").boxes((1, 40, 6), ()))
    assert [row.name for row in found if row.default_target] == ["backbone.levels.map_0", "backbone.levels.map_pool"]


def test_gradcam_of_a_box_is_gradcam_and_says_what_it_shows() -> None:
    """In Python the name of the method is obeyed; what the command line would take is told."""
    network = next(iter(FORMS.values()))()
    plain = cnnviz.explain(network, IMAGES, "gradcam", target="box:1", task=TASK)
    assert any("method='odam'" in note for note in plain.notes)
    odam = cnnviz.explain(network, IMAGES, "odam", target="box:1", task=TASK)
    assert not any("method='odam'" in note for note in odam.notes)
    assert not torch.allclose(plain.raw, odam.raw)


def test_an_option_of_the_task_that_is_out_of_range_says_where_it_stands() -> None:
    with pytest.raises(CnnvizError, match=r"--task detect:score=3\.0: score=3\.0 is out of range: 0 to 1"):
        read_task("detect:score=3.0")


class FineGrid(nets.Grid):
    """Of 16 x 16 cells; its head reads 3 x 3 of them for a class, and a stage before it has 32 x 32."""

    def __init__(self) -> None:
        super().__init__(1)
        self.stem = nn.Conv2d(3, 3, 2, stride=2)
        self.mid = nn.Conv2d(3, 3, 3, stride=2, padding=1)

    def features(self, x: Tensor) -> Tensor:
        return self.act(self.neck(self.act(self.mid(self.act(self.stem(x))))))  # type: ignore[no-any-return]


def test_that_a_box_reads_few_cells_of_its_layer_is_told_with_the_layer_to_type() -> None:
    network = FineGrid().eval()
    found = cnnviz.explain(network, IMAGES, "odam", target="box:1", task=TASK, sigma=0.0)
    assert found.raw.shape[1:] == (16, 16)
    for of_image in found.raw:
        rows, columns = of_image.nonzero(as_tuple=True)
        assert max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) <= 2
    told = [text for text in found.notes if "the score of a box reads few cells of act" in text]
    assert len(told) == 1
    assert "3 x 3 of 16 x 16" in told[0]
    assert told[0].endswith("--layer -2, in Python layer=-2")
    earlier = cnnviz.explain(network, IMAGES, "odam", target="box:1", task=TASK, layer=-2, sigma=0.0)
    assert earlier.raw.shape[1:] == (32, 32)
    assert int((earlier.raw[0] > 0).sum()) > int((found.raw[0] > 0).sum())
    assert not [text for text in earlier.notes if "few cells of act:0" in text and "1 x 1" in text]
    # A head that reads a tenth of its layer and more has nothing to tell.
    assert not [
        text for text in cnnviz.explain(nets.grid(), IMAGES, "odam", target="box:1", task=TASK).notes if "few" in text
    ]
