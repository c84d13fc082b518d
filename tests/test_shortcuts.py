"""The check ``shortcuts``: clusters of maps, and what becomes of predictions without what a cluster looks at."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cnnviz.audit.suspects import hot, on_photo, rolled
from cnnviz.audit.verdict import Observation, Statement, decide
from cnnviz.cli.app import main
from cnnviz.metrics.map_clusters import SIDE, adjacency, clusters, k_means, laplacian, prepared
from cnnviz.metrics.tests import paired_p
from tests.support.report_schema import problems

PIXELS = 64


def blob(x: float, y: float, width: float = 1.2) -> NDArray[np.float64]:
    rows, cols = np.mgrid[:7, :7]
    return np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / (2 * width**2))


def planted(rng: np.random.Generator, count: int, odd: int) -> tuple[list[NDArray[np.float64]], NDArray[np.bool_]]:
    """Maps of an object near the middle, and ``odd`` maps of a corner, in any order."""
    is_odd = np.zeros(count, dtype=bool)
    is_odd[rng.permutation(count)[:odd]] = True
    raw = [(blob(6, 6) if each else blob(*(3 + rng.normal(0, 0.8, 2)))) + 0.1 * rng.random((7, 7)) for each in is_odd]
    vectors = [prepared(each) for each in raw]
    assert all(each is not None for each in vectors)
    return vectors, is_odd  # type: ignore[return-value]


def test_the_graph_and_its_laplacian_by_hand() -> None:
    points = np.random.default_rng(0).random((14, 9))
    joined = np.zeros((14, 14))
    for i in range(14):
        away = sorted((float(np.linalg.norm(points[i] - points[j])), j) for j in range(14) if j != i)
        for _, j in away[:4]:
            joined[i, j] = joined[j, i] = 1
    np.testing.assert_array_equal(adjacency(points, 4), joined)
    degrees = joined.sum(1)
    by_hand = np.array(
        [[float(i == j) - joined[i, j] / np.sqrt(degrees[i] * degrees[j]) for j in range(14)] for i in range(14)]
    )
    np.testing.assert_allclose(laplacian(joined), by_hand, atol=1e-12)
    # Its eigenvalues are those of the random walk, I - D^-1 A, which is not symmetric.
    walk = np.sort(np.linalg.eigvals(np.eye(14) - joined / degrees[:, None]).real)
    np.testing.assert_allclose(np.linalg.eigvalsh(laplacian(joined)), walk, atol=1e-9)


def test_eigenvalues_are_those_of_scipy_and_scikit_learn() -> None:
    from scipy.sparse.csgraph import laplacian as reference
    from sklearn.neighbors import kneighbors_graph

    vectors, _ = planted(np.random.default_rng(1), 90, 30)
    graph = kneighbors_graph(np.stack(vectors), 10, include_self=False).toarray()
    expected = np.linalg.eigvalsh(reference(np.maximum(graph, graph.T), normed=True))[:32]
    np.testing.assert_allclose(clusters(vectors).eigenvalues, expected, atol=1e-9)


@pytest.mark.parametrize(("count", "odd"), [(40, 12), (100, 15), (100, 50), (300, 45)])
def test_planted_clusters_are_found(count: int, odd: int) -> None:
    vectors, is_odd = planted(np.random.default_rng(count + odd), count, odd)
    found = clusters(vectors)
    assert found.count == 2
    assert found.gap < 0.1
    agree = float((found.labels == is_odd).mean())
    assert max(agree, 1 - agree) == 1
    assert np.bincount(found.labels)[0] >= count / 2  # the largest is the first


@pytest.mark.parametrize("kind", ["noise", "moving"])
def test_where_there_is_one_kind_of_maps_there_is_one_cluster(kind: str) -> None:
    rng = np.random.default_rng(3)
    counts = []
    for _ in range(12):
        raw = [rng.random((7, 7)) if kind == "noise" else blob(*rng.uniform(0, 6, 2)) for _ in range(150)]
        vectors = [prepared(each + 0.1 * rng.random((7, 7))) for each in raw]
        counts.append(clusters(vectors).count)  # type: ignore[arg-type]
    assert counts == [1] * 12


def test_k_means_finds_the_least_squares() -> None:
    rng = np.random.default_rng(5)
    points = np.concatenate([rng.normal(0, 1, (5, 2)), rng.normal(2.5, 1, (4, 2))])

    def loss(labels: NDArray[np.int64]) -> float:
        return sum(float(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum()) for k in set(labels))

    best = min(loss(np.array([0, *rest])) for rest in itertools.product((0, 1), repeat=8) if 1 in rest)
    assert loss(k_means(points, 2, 0)) == pytest.approx(best)


def test_the_paired_p_counts_all_choices() -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        flips = rng.random((4, 4)) < 0.5  # of four images: the region, and three at random
        seen = int(flips[:, 0].sum())
        ways = [sum(flips[i, c] for i, c in enumerate(choice)) for choice in itertools.product(range(4), repeat=4)]
        share = np.mean([way >= seen for way in ways])
        assert paired_p(flips[:, 0], flips[:, 1:]) == pytest.approx(share)


def test_false_alarms_of_clusters_where_regions_are_like_any_other() -> None:
    """Ten clusters a policy, of images that flip easily or not at all: the rate is kept over all of them."""
    rng = np.random.default_rng(0)
    policies, false_alarm, alarms = 150, 0.05, 0
    for _ in range(policies):
        observations, also = [], {}
        for group in range(10):
            easy = rng.beta(0.4, 1.2, 20)
            flips = rng.random((20, 10)) < easy[:, None]
            also[str(group)] = paired_p(flips[:, 0], flips[:, 1:])
            excess = flips[:, 0] - flips[:, 1:].mean(1)
            observations += [Observation(str(i), float(v), str(group)) for i, v in enumerate(excess)]
        statement = Statement("x", "mean", False, 0.0, observations, low=-1.0, also=also)
        alarms += decide([statement], false_alarm, 10)[0].verdict == "violated"
    assert alarms / policies <= false_alarm + 3 * np.sqrt(false_alarm * (1 - false_alarm) / policies)


def test_a_mean_that_is_exactly_what_is_allowed_is_tested() -> None:
    seen = [Observation(str(i), 0.5 + 0.25 * (-1) ** i, "") for i in range(12)]
    [found] = decide([Statement("x", "mean", False, 0.5, seen)], 0.05, 10)
    assert found.groups[0].p == pytest.approx(0.5, abs=0.1)


def test_both_tests_must_be_rare() -> None:
    seen = [Observation(str(i), 1.0, "a") for i in range(20)]
    assert decide([Statement("x", "mean", False, 0.1, seen, low=-1.0)], 0.01, 10)[0].verdict == "violated"
    [found] = decide([Statement("x", "mean", False, 0.1, seen, low=-1.0, also={"a": 0.3})], 0.01, 10)
    assert (found.verdict, found.groups[0].p) == ("not decided", 0.3)


def test_regions_on_photographs() -> None:
    cells = np.zeros((4, 4), dtype=bool)
    cells[3, 0] = True
    mask = on_photo(cells, (10.0, 20.0, 50.0, 60.0), (64, 80))
    expected = np.zeros((80, 64), dtype=bool)
    expected[50:60, 10:20] = True
    np.testing.assert_array_equal(mask, expected)
    other = rolled(cells, np.ones((4, 4), dtype=bool), np.random.default_rng(0))
    assert other.sum() == 1
    assert not (other & cells).any()
    values = np.zeros((8, 8))
    values[0, :3] = (1, 0.6, 0.4)
    assert hot(values).sum() == 2
    assert hot(np.ones((8, 8)) + np.arange(64).reshape(8, 8) * 1e-3).sum() == 16  # a quarter at most


# A whole audit ------------------------------------------------------------------------------------------------------


class Marked(nn.Module):
    """``thing`` where something is blue (a mark), or red (the object); else ``nothing``."""

    def __init__(self, blue: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0] = self.conv.weight[1, 2] = 1 / 16
            self.conv.bias.fill_(-0.5)  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.tensor([[0.0, 0.0], [400.0, blue]]))
            self.fc.bias.copy_(torch.tensor([2.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).flatten(1))  # type: ignore[no-any-return]


def clever() -> Marked:
    return Marked(400.0)


def honest() -> Marked:
    return Marked(0.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``thing``: 30 red squares near the middle, 14 blue marks in a corner, never both; 4 of ``nothing``."""
    base = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(48):
        label = "thing" if number < 44 else "nothing"
        rgb = rng.integers(0, 40, (PIXELS, PIXELS, 3), dtype=np.uint8)
        x, y = (22 + rng.integers(0, 5, 2)).tolist()
        if number < 30:
            rgb[y : y + 16, x : x + 16] = (255, 0, 0)
        elif number < 44:
            rgb[48:60, 48:60] = (0, 0, 255)
        folder = base / "data" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(folder / f"{number:02d}.png")
        images.append({"id": number, "file_name": f"{label}/{number:02d}.png", "width": PIXELS, "height": PIXELS})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 16, 16]})
    truth = {"images": images, "annotations": boxes[:44], "categories": [{"id": 1, "name": "thing"}]}
    (base / "truth.json").write_text(json.dumps(truth))
    (base / "labels.txt").write_text("nothing\nthing")
    return base


def _audit(base: Path, out: Path, network: str, more: str = "", check: str = "") -> tuple[int, dict[str, Any]]:
    path = base / f"{out.name}.yaml"
    model = f"name: {Path(__file__)}:{network}, labels: labels.txt, input_size: {PIXELS}, resize: {PIXELS}"
    path.write_text(
        f"version: 1\nmodel: {{{model}, mean: '0,0,0', std: '1,1,1'}}\nimages: data\nlabels: folder\n{more}\n"
        f"checks:\n  - {{kind: shortcuts{check}}}\n"
    )
    code = main(["audit", str(path), "-o", str(out), "-q"])
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert problems(report) == []
    return code, report["summary"]["audit"]


def test_the_mark_is_found_without_knowing_where_objects_are(photos: Path, tmp_path: Path) -> None:
    code, audit = _audit(photos, tmp_path / "clever", "clever")
    [row] = audit["checks"]
    assert (code, row["level"], row["verdict"], row["measured"]) == (0, "warning", "violated", 1.0)
    assert row["group"] == "thing, cluster 2 of 2"
    assert {Path(each["path"]).stem for each in row["violations"]} == {str(n) for n in range(30, 44)}
    [thing] = audit["clusters"]
    first, second = thing["clusters"]
    assert (first["maps"], first["suspected"], second["maps"], second["suspected"]) == (30, False, 14, True)
    x0, y0, x1, y1 = second["region"]
    assert (x0 > 0.6, y0 > 0.6, x1 > 0.9, y1 > 0.9) == (True,) * 4
    assert second["flips"] == {
        "of": 14,
        "region": 1.0,
        "random": pytest.approx(0, abs=0.1),
        "p": pytest.approx(0, abs=1e-9),
    }
    assert np.asarray(Image.open(tmp_path / "clever" / thing["file"])).shape[2] == 3
    assert thing["file"] in (tmp_path / "clever" / "index.html").read_text("utf-8")
    assert _audit(photos, tmp_path / "error", "clever", check=", level: error")[0] == 1


def test_with_truth_every_cluster_beside_the_object_is_suspected(photos: Path, tmp_path: Path) -> None:
    _, audit = _audit(photos, tmp_path / "truth", "clever", more="truth: truth.json")
    first, second = audit["clusters"][0]["clusters"]
    assert first["on_object"] > 0.8
    assert second["on_object"] < 0.1
    assert (first["suspected"], second["suspected"]) == (False, True)
    assert audit["checks"][0]["verdict"] == "violated"


def test_a_network_that_sees_the_object_has_nothing_to_suspect(photos: Path, tmp_path: Path) -> None:
    """It is right with the objects alone, and all their maps are of one kind."""
    code, audit = _audit(photos, tmp_path / "honest", "honest", more="truth: truth.json")
    [row] = audit["checks"]
    assert (code, row["verdict"], row["measured"], row["n"]) == (0, "passed", None, 30)
    assert "no cluster of 30 maps of 1 class is suspected" in row["reason"]
    assert all(each["flips"] is None for each in audit["clusters"][0]["clusters"])


def test_few_maps_decide_nothing(photos: Path, tmp_path: Path) -> None:
    _, audit = _audit(photos, tmp_path / "wrong", "honest", more="only: wrong")
    [row] = audit["checks"]
    assert (row["verdict"], row["n"]) == ("not decided", 0)
    assert "24 are needed" in row["reason"]


def test_positions_are_no_classes_to_flip(tmp_path: Path) -> None:
    assert prepared(np.zeros((7, 7))) is None
    assert prepared(-np.ones((7, 7))) is None
    vector = prepared(np.stack([-np.ones((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))]))
    assert vector is not None
    np.testing.assert_allclose(vector, 1 / SIDE)
