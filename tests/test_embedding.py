"""Projections, neighbours, purity and the grid, each against an independent computation."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from cnnviz.errors import CnnvizError
from cnnviz.studies.embed import embedding
from cnnviz.studies.embed.arrange import distinct, effective_perplexity, said_of_few, tsne, umap
from cnnviz.studies.embed.embedding import (
    chance_purity,
    grid_cells,
    grid_cost,
    grid_shape,
    neighbours,
    optional,
    pca,
    purity,
    reduced,
)

sklearn_decomposition = pytest.importorskip("sklearn.decomposition", reason="needs pip install 'cnnviz[embed]'")
datasets = pytest.importorskip("sklearn.datasets")


def cloud(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)).astype(np.float32)


@pytest.mark.parametrize(("n", "dim"), [(40, 7), (9, 30), (1500, 5), (6, 6)])
@pytest.mark.parametrize("unit", [False, True])
def test_pca_equals_svd(n: int, dim: int, unit: bool) -> None:
    vectors = cloud(n, dim, seed=n)
    exact = vectors.astype(np.float64)
    if unit:
        exact /= np.sqrt((exact**2).sum(axis=1, keepdims=True))
    left, sizes, right = np.linalg.svd(exact - exact.mean(axis=0), full_matrices=False)
    found = pca(vectors, 3, unit=unit)
    for k in range(3):
        sign = np.sign(right[k, np.abs(right[k]).argmax()])
        np.testing.assert_allclose(found.components[k], sign * right[k], atol=1e-9)
        np.testing.assert_allclose(found.points[:, k], sign * left[:, k] * sizes[k], atol=1e-8 * sizes[0])
    np.testing.assert_allclose(found.explained, (sizes**2 / (sizes**2).sum())[:3], atol=1e-12)


def test_pca_equals_scikit_learn_up_to_its_signs() -> None:
    vectors = cloud(60, 12)
    theirs = sklearn_decomposition.PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    ours = pca(vectors)
    np.testing.assert_allclose(np.abs(ours.components), np.abs(theirs.components_), atol=1e-9)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-12)


def test_pca_signs_do_not_depend_on_the_order_or_on_the_route() -> None:
    vectors = cloud(31, 30)
    by_covariance, by_gram = pca(vectors), pca(vectors[:29])
    order = np.random.default_rng(1).permutation(31)
    np.testing.assert_allclose(pca(vectors[order]).points, by_covariance.points[order], atol=1e-8)
    for found in (by_covariance, by_gram):
        assert (found.components[np.arange(2), np.abs(found.components).argmax(axis=1)] > 0).all()


def test_pca_of_less_than_two_directions() -> None:
    line = np.outer(np.array([0.0, 1.0, 4.0]), np.array([3.0, -4.0, 0.0, 0.0])).astype(np.float32)
    found = pca(line)
    # Mean 5/3, direction (3, -4)/5 with the -4 made positive.
    np.testing.assert_allclose(found.points[:, 0], -5.0 * (np.array([0.0, 1.0, 4.0]) - 5.0 / 3.0), atol=1e-6)
    assert not found.points[:, 1].any()
    assert found.explained.tolist() == [pytest.approx(1.0), 0.0]
    for same in (np.ones((1, 5)), np.ones((6, 5)), np.zeros((2, 1))):
        flat = pca(same.astype(np.float32))
        assert flat.points.shape == (len(same), 2)
        assert not flat.points.any()
        assert not flat.explained.any()


def test_neighbours_equal_brute_force() -> None:
    vectors = cloud(70, 11, seed=5)
    exact = vectors.astype(np.float64)
    for metric in ("cosine", "euclidean"):
        found = neighbours(vectors, 6, metric)
        for i, row in enumerate(exact):
            if metric == "cosine":
                near = {j: float(row @ o / np.sqrt((row @ row) * (o @ o))) for j, o in enumerate(exact) if j != i}
                best = sorted(near, key=lambda j: -near[j])[:6]
            else:
                near = {j: float(np.sqrt(((row - o) ** 2).sum())) for j, o in enumerate(exact) if j != i}
                best = sorted(near, key=lambda j: near[j])[:6]
            assert found.index[i].tolist() == best
            np.testing.assert_allclose(found.value[i], [near[j] for j in best], atol=1e-8)


def test_neighbours_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = cloud(50, 9)
    whole = neighbours(vectors, 4)
    monkeypatch.setattr(embedding, "_SIMILARITY_BYTES", 8 * 50 * 7)
    monkeypatch.setattr(embedding._blocks, "__defaults__", (13,))
    again = neighbours(vectors, 4)
    assert (again.index == whole.index).all()
    np.testing.assert_allclose(again.value, whole.value, atol=1e-9)


def test_equal_vectors_are_neighbours_in_their_order_and_zero_is_near_nobody() -> None:
    vectors = np.array([[1, 0], [1, 0], [2, 0], [0, 1], [0, 0], [-1, 0]], dtype=np.float32)
    found = neighbours(vectors, 10)
    assert found.index.shape == (6, 5)
    assert found.index[0].tolist() == [1, 2, 3, 4, 5]
    assert found.value[0].tolist() == [1.0, 1.0, 0.0, 0.0, -1.0]
    assert found.index[2].tolist() == [0, 1, 3, 4, 5]
    assert found.value[4].tolist() == [0.0] * 5
    alone = neighbours(vectors[:1], 3)
    assert alone.index.shape == (1, 0)


def test_purity_by_hand() -> None:
    index = np.array([[1, 2], [0, 2], [0, 3], [2, 4], [3, 0]])
    labels = ["a", "a", "b", "b", None]
    found = purity(index, labels)
    np.testing.assert_array_equal(found, [0.5, 0.5, 0.5, 0.5, np.nan])
    np.testing.assert_array_equal(purity(index, ["x"] * 5), np.ones(5))
    assert np.isnan(purity(np.zeros((3, 0), dtype=np.int64), ["a", "b", "a"])).all()
    # Each of the four labelled has one of four others with its label.
    assert chance_purity(labels) == 0.25
    assert np.isnan(chance_purity([None, None]))


def test_chance_purity_is_the_mean_over_all_possible_neighbours() -> None:
    labels = ["a", "a", "a", "b", "b", None, "c"]
    shares = []
    for i, label in enumerate(labels):
        if label is not None:
            shares.append(np.mean([labels[j] == label for j in range(len(labels)) if j != i]))
    assert chance_purity(labels) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_grid_is_a_permutation_whose_cost_is_the_optimum(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 2))
    rows, columns = grid_shape(n)
    cells = grid_cells(points)
    assert len({tuple(cell) for cell in cells}) == n
    assert ((cells >= 0) & (cells < (rows, columns))).all()
    low, high = points.min(axis=0), points.max(axis=0)
    spread = (points - low) / (high - low) if n > 1 else np.full((1, 2), 0.5)

    def cost(places: tuple[tuple[int, int], ...]) -> float:
        return sum(
            (x - (column + 0.5) / columns) ** 2 + ((1 - y) - (row + 0.5) / rows) ** 2
            for (x, y), (row, column) in zip(spread, places, strict=True)
        )

    every = list(itertools.product(range(rows), range(columns)))
    best = min(cost(places) for places in itertools.permutations(every, n))
    assert cost(tuple(map(tuple, cells))) == pytest.approx(best, abs=1e-12)
    table = grid_cost(points, (rows, columns))
    assert table[np.arange(n), cells[:, 0] * columns + cells[:, 1]].sum() == pytest.approx(best, abs=1e-12)


def test_points_on_a_grid_keep_their_cells_first_row_on_top() -> None:
    rows, columns = np.indices((5, 5)).reshape(2, -1)
    points = np.column_stack((columns * 3.0, -rows * 7.0))
    order = np.random.default_rng(0).permutation(25)
    assert grid_cells(points[order]).tolist() == np.column_stack((rows, columns))[order].tolist()


def test_grid_of_equal_points_is_still_without_overlaps() -> None:
    cells = grid_cells(np.zeros((10, 2)))
    assert len({tuple(cell) for cell in cells}) == 10


@pytest.mark.parametrize("n", [90, 101, 130])
def test_blocks_of_a_large_grid_share_no_cell_and_come_close_to_the_optimum(n: int) -> None:
    points = np.random.default_rng(2).normal(size=(n, 2))
    shape = grid_shape(n)
    cost = grid_cost(points, shape)

    def total(cells: np.ndarray) -> float:
        return float(cost[np.arange(n), cells[:, 0] * shape[1] + cells[:, 1]].sum())

    exact, blocks = grid_cells(points), grid_cells(points, optimal_up_to=16)
    assert len({tuple(cell) for cell in blocks}) == n
    assert ((blocks >= 0) & (blocks < shape)).all()
    shuffled = np.random.default_rng(0).permutation(exact)
    assert total(exact) <= total(blocks) < 1.5 * total(exact) < 0.5 * total(shuffled)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 16, 17, 100, 101, 2000])
def test_grid_is_nearly_square_and_has_no_empty_row(n: int) -> None:
    rows, columns = grid_shape(n)
    assert rows * columns >= n > (rows - 1) * columns
    assert 0 <= columns - rows <= 1


def test_perplexity_stays_below_the_number_of_points() -> None:
    assert effective_perplexity(2000, 30) == 30
    for n in range(4, 90):
        assert 1 <= effective_perplexity(n, 30) < n


def test_tsne_keeps_classes_together_and_repeats_itself() -> None:
    digits, labels = datasets.load_digits(n_class=3, return_X_y=True)
    digits, labels = digits[:150].astype(np.float32), labels[:150].tolist()
    points = tsne(reduced(digits, "cosine"), seed=3, iterations=400)
    assert points is not None
    near = neighbours(points.astype(np.float32), 5, "euclidean")
    assert np.nanmean(purity(near.index, labels)) > 0.97 > 2 * chance_purity(labels)
    again = tsne(reduced(digits, "cosine"), seed=3, iterations=400)
    assert again is not None
    assert (again == points).all()


@pytest.mark.parametrize("n", [4, 5, 9])
def test_tsne_of_few_points_is_finite(n: int) -> None:
    for vectors in (cloud(n, 6), cloud(n, 1)):
        points = tsne(reduced(vectors, "euclidean"), iterations=250)
        assert points is not None
        assert points.shape == (n, 2)
        assert np.isfinite(points).all()


def test_fewer_than_four_points_have_no_tsne() -> None:
    assert [tsne(reduced(cloud(n, 6), "cosine")) for n in (1, 2, 3)] == [None] * 3


def test_what_is_not_installed_is_said_with_the_command() -> None:
    with pytest.raises(CnnvizError, match="no_such_module") as caught:
        optional("no_such_module", "embed", "t-SNE")
    assert caught.value.hint == "pip install 'cnnviz[embed]'"


@pytest.mark.slow  # numba compiles for half a minute
@pytest.mark.filterwarnings("ignore")
def test_umap_keeps_classes_together_and_repeats_itself() -> None:
    pytest.importorskip("umap", reason="needs pip install 'cnnviz[umap]'")
    digits, labels = datasets.load_digits(n_class=3, return_X_y=True)
    vectors = reduced(digits[:150].astype(np.float32), "cosine")
    points, again = umap(vectors, seed=1), umap(vectors, seed=1)
    assert points is not None
    assert again is not None
    assert (points == again).all()
    near = neighbours(points.astype(np.float32), 5, "euclidean")
    assert np.nanmean(purity(near.index, labels[:150].tolist())) > 0.97
    assert umap(vectors[:3]) is None
    few = umap(vectors[:5])
    assert few is not None
    assert Counter(np.isfinite(few).ravel().tolist()) == {True: 10}


def copies(*counts: int) -> np.ndarray:
    """Vectors, each so many times, some of them off in the last bit as from another batch."""
    rows = np.repeat(cloud(len(counts), 64, seed=5), counts, axis=0)
    off = rows.copy()
    off[::2] = np.nextafter(off[::2], np.float32(np.inf))
    return off


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_vectors_are_no_reason_for_a_picture(metric: str) -> None:
    for rows, different in ((copies(6), 1), (np.zeros((6, 8), np.float32), 1), (copies(5, 1), 2), (copies(3, 3, 2), 3)):
        points = reduced(rows, metric)
        assert len(distinct(points)[0]) == different
        assert tsne(points, iterations=250) is None
    assert np.array_equal(pca(copies(6)).points, np.zeros((6, 2)))
    assert said_of_few(1, 6, 30) == ("all 6 vectors are equal: there is nothing to arrange",)
    assert "2 different vectors are too few for t-SNE" in said_of_few(2, 6, 30)[0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_copies_lie_where_their_original_lies(metric: str) -> None:
    rows = copies(3, 1, 4, 1, 1, 2)
    found = tsne(reduced(rows, metric), iterations=250)
    assert found is not None
    pairs = [(i, j) for i in range(12) for j in range(12)]
    same = [np.allclose(rows[i], rows[j], rtol=1e-5) for i, j in pairs]
    assert [bool((found[i] == found[j]).all()) for i, j in pairs] == same
    once = tsne(reduced(copies(1, 1, 1, 1, 1, 1), metric), iterations=250)
    assert once is not None
    assert np.abs(found).max() < 10 * np.abs(once).max()  # nothing blows up


def test_distinct_is_what_comparing_all_pairs_gives() -> None:
    rng = np.random.default_rng(1)
    points = rng.integers(0, 3, (60, 3)).astype(float)
    firsts, inverse = distinct(points)
    slow = [next(j for j in range(60) if (points[j] == points[i]).all()) for i in range(60)]
    assert firsts[inverse].tolist() == slow
    assert len(distinct(np.zeros((0, 3)))[0]) == 0
