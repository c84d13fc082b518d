"""Relevance through channels of a layer (CRP) against dense matrices in float64; what all channels add up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import relevance as oracle
from tests.support import kinds_of_networks as kinds
from tests.support.comparisons import closeness

close = closeness(1e-3, 1e-6)
BATCH = kinds.images(2, (7, 8))
CLASSES = [1, 2]
RULES = {
    "epsilon": oracle.Rule("epsilon", epsilon=0.01),
    "alpha-beta": oracle.Rule("alpha-beta", alpha=2.0),
    "composite": oracle.Rule("composite", epsilon=1e-6),
}


def explained(kind: str, **options: Any) -> Any:
    return cnnviz.explain(kinds.make(kind), BATCH, "lrp", target=CLASSES, **options)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "layer"), [("plain", "one"), ("relu6", "one"), ("depthwise", "body.0")])
def test_by_its_formula(kind: str, layer: str, rule: str) -> None:
    """R of the first layer's channels, that of all but 1 and 4 set to zero, handed back to the pixels."""
    how, kept = RULES[rule], [1, 4]
    found = explained(kind, layer=layer, through="4,1", rule=rule, epsilon=how.epsilon, alpha=how.alpha)
    network = kinds.make(kind).double()
    stem = network.body[0] if layer == "body.0" else network.one
    shape = tuple(BATCH.shape[1:])
    matrix = oracle.dense(stem, shape, "conv", first=True)
    for i, (image, target) in enumerate(zip(BATCH.double(), CLASSES, strict=True)):
        hidden, _ = oracle.relevance(kind, BATCH[i], target, how, at="hidden")
        each = hidden.sum((1, 2))
        mask = np.isin(np.arange(len(hidden)), kept)[:, None, None]
        expected = how.back(matrix, image.numpy(), (hidden * mask).reshape(-1)).reshape(shape)
        close(found.raw[i], expected)
        close(found.maps[i], expected.sum(0))
        largest = float(np.abs(each).max())
        assert found.scores["through_relevance"][i] == pytest.approx(each[kept].sum(), abs=1e-3 * largest)
        order = np.argsort(-each)[:5]
        assert found.scores["top_channels"][i] == order.tolist()
        assert found.scores["top_channel_relevance"][i] == pytest.approx(each[order], abs=1e-3 * largest)


@pytest.mark.parametrize("rule", ["composite", "epsilon"])
@pytest.mark.parametrize(
    ("kind", "layer"), [("plain", "one"), ("max-pool", "pool"), ("residual", "norm"), ("depthwise", "body.3")]
)
def test_all_channels_together_are_the_map_of_the_score(kind: str, layer: str, rule: str) -> None:
    whole = explained(kind, rule=rule)
    each = [explained(kind, rule=rule, layer=layer, through=str(channel)) for channel in range(6)]
    close(sum(one.raw.double() for one in each), whole.raw, 1e-5)
    together = explained(kind, rule=rule, layer=layer, through="all")
    shares = torch.tensor([one.scores["through_relevance"] for one in each]).double()
    close(shares.sum(0), torch.tensor(together.scores["through_relevance"]), 1e-5)
    assert each[0].scores["conservation_gap"] == pytest.approx(whole.scores["conservation_gap"], rel=1e-5)


def test_what_passes_beside_the_layer_takes_no_part() -> None:
    """Half of the last features come straight from the first layer, past the second."""
    whole = explained("concat").raw.double()
    behind = explained("concat", layer="two", through="all").raw
    parts: list[Tensor] = [explained("concat", layer="two", through=str(channel)).raw.double() for channel in range(5)]
    close(torch.stack(parts).sum(0), behind, 1e-5)
    assert float((whole - behind).abs().max()) > 0.05 * float(whole.abs().max())


@pytest.mark.parametrize("through", ["6", "1,x", "-1", "1,,2"])
def test_what_is_no_channel(through: str) -> None:
    with pytest.raises(CnnvizError, match="is no channel of the layer, which has 6"):
        explained("plain", layer="one", through=through)


def test_a_layer_without_channels_is_refused() -> None:
    with pytest.raises(CnnvizError):
        explained("plain", layer="hidden", through="1")
