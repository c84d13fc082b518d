"""AttnLRP: its rules one by one as the paper writes them, and what they conserve."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import attnlrp as oracle
from tests.support.transformers import pictures, swin_transformer, vision_transformer

pytest.importorskip("timm")


@pytest.mark.parametrize("gammas", [(0.05, 0.25), (0.0, 0.0), (1.0, 0.5)])
def test_relevance_by_the_papers_rules(gammas: tuple[float, float]) -> None:
    module, pixels = vision_transformer(), pictures()
    found = cnnviz.explain(
        module, pixels, method="lrp", target=2, rule="attnlrp", gamma=gammas[0], conv_gamma=gammas[1]
    )
    for picture, raw in zip(pixels, found.raw, strict=True):
        expected = oracle.attnlrp(module, picture, 2, gammas)
        gap = (raw.double() - expected).norm() / expected.norm()
        assert float(gap) < (1e-3 if gammas[0] else 2e-2)
    score = module(pixels)[:, 2].detach()
    gap = torch.as_tensor(found.scores["conservation_gap"])
    torch.testing.assert_close(found.raw.sum((1, 2, 3)) + gap, score, rtol=1e-3, atol=1e-4)


class Linear(nn.Module):
    """A mixer without softmax: tokens times tokens, a normalisation, a GELU; nothing has a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.patches = nn.Conv2d(3, 8, 8, stride=8, bias=False)
        self.norm = nn.LayerNorm(8, bias=False)
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False)
        self.probe, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.down(F.gelu(self.up(self.norm(tokens))))
        mixed = self.probe(tokens) @ tokens.transpose(1, 2) @ tokens
        return self.head((tokens + 0.1 * mixed).mean(1))


def test_what_has_no_bias_and_no_softmax_conserves_the_score() -> None:
    module, pixels = Linear().eval(), pictures()
    found = cnnviz.explain(module, pixels, method="lrp", target=1, rule="attnlrp")
    torch.testing.assert_close(found.raw.sum((1, 2, 3)), module(pixels)[:, 1].detach(), rtol=1e-3, atol=1e-5)
    assert found.facts["layers"]["halves"] == 2


def test_other_rules_are_refused_and_say_which_to_take() -> None:
    with pytest.raises(CnnvizError, match="no rule for self-attention") as raised:
        cnnviz.explain(vision_transformer(), pictures(), method="lrp", target=1)
    assert "--rule attnlrp" in raised.value.hint


def test_windows_and_convolutional_networks_have_the_rule_too() -> None:
    found = cnnviz.explain(swin_transformer(), pictures((32, 64)), method="lrp", target=1, rule="attnlrp")
    assert bool(torch.isfinite(found.raw).all())
    assert found.facts["layers"]["halves"] == 8
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3, bias=False))
    pixels = pictures((8, 8))
    found = cnnviz.explain(plain.eval(), pixels, method="lrp", target=1, rule="attnlrp", gamma=0.3, layer=None)
    torch.testing.assert_close(found.raw.sum((1, 2, 3)), plain(pixels)[:, 1].detach(), rtol=1e-3, atol=1e-5)
