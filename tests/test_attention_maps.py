"""Rollout, gradient rollout, Chefer and LeGrad against timm's own unfused attention and plain loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import cnnviz
from cnnviz.errors import CnnvizError
from tests.oracles import attention as oracle
from tests.support.transformers import pictures, swin_transformer, vision_transformer

pytest.importorskip("timm")

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "class token": ({}, "class token"),
    "registers": ({"reg_tokens": 4}, "class token"),
    "mean": ({"global_pool": "avg"}, "mean of tokens"),
    "no class token": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "mean of tokens"),
}


def patches(module: nn.Module, rows: Any) -> Tensor:
    """Of relevance [N, L, L] what the tokens that the head reads have for the patches, as maps."""
    relevance = torch.as_tensor(rows, dtype=torch.float64)
    others: int = module.num_prefix_tokens  # type: ignore[assignment]
    read = relevance[:, others:].mean(1) if module.global_pool == "avg" else relevance[:, 0]
    return read[:, others:].unflatten(1, (4, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_methods_by_their_formulas(kind: str) -> None:
    options, rows = KINDS[kind]
    module, pixels = vision_transformer(**options), pictures()
    watched = oracle.Watched(module, pixels)
    expected = {
        "rollout": patches(module, oracle.rollout(watched)),
        "gradient_rollout": patches(module, oracle.gradient_rollout(watched, 2)),
        "chefer": patches(module, oracle.chefer(watched, 2)),
        "legrad": oracle.legrad(watched, 2)[:, module.num_prefix_tokens :].unflatten(1, (4, 6)),
    }
    for method, values in expected.items():
        found = cnnviz.explain(module, pixels, method=method, target=2)
        torch.testing.assert_close(
            found.raw.double(), values, rtol=2e-3, atol=1e-6, msg=lambda m, k=method: f"{k}: {m}"
        )
        assert found.facts["attention_rows"] == rows
        assert found.facts["attention_layers"] == 3
        alone = cnnviz.explain(module, pixels[1:], method=method, target=2)
        torch.testing.assert_close(found.raw[1:], alone.raw, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pooled", ["token", "avg"])
def test_attention_with_a_position_bias(pooled: str) -> None:
    """BEiT adds a bias of relative positions to the scores of its attention."""
    beit = pytest.importorskip("timm.models.beit")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = beit.Beit(
            img_size=(32, 48), patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5, use_abs_pos_emb=False,
            use_rel_pos_bias=True, global_pool=pooled,
        ).eval()  # fmt: skip
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    watched = oracle.Watched(module, pictures())
    for method, rows in (("rollout", oracle.rollout(watched)), ("chefer", oracle.chefer(watched, 2))):
        found = cnnviz.explain(module, pictures(), method=method, target=2)
        torch.testing.assert_close(found.raw.double(), patches(module, rows), rtol=2e-3, atol=1e-6)


def test_rollout_is_the_same_for_every_class_and_says_so() -> None:
    module = vision_transformer()
    one, other = (cnnviz.explain(module, pictures(), method="rollout", target=target).raw for target in (1, 3))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    listed = {entry["name"]: entry["class_specific"] for entry in cnnviz.list_methods()}
    assert {name: listed[name] for name in ("rollout", "chefer", "legrad", "gradient_rollout")} == {
        "rollout": False, "chefer": True, "legrad": True, "gradient_rollout": True,
    }  # fmt: skip
    raised = cnnviz.explain(module, pictures(), method="chefer", target=1).raw
    assert not torch.allclose(raised, cnnviz.explain(module, pictures(), method="chefer", target=3).raw)


def test_matrices_of_pytorchs_own_attention() -> None:
    """torchvision's: ``nn.MultiheadAttention``, which gives its weights if asked."""
    torch.manual_seed(2)
    module = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(module.heads.head.weight)
    pixels = pictures((32, 32))
    copied: Any = copy.deepcopy(module).double()
    matrices: list[Tensor] = []

    def asked(part: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

    for layer in copied.encoder.layers:
        layer.self_attention.register_forward_pre_hook(asked, with_kwargs=True)
        layer.self_attention.register_forward_hook(lambda part, args, value: matrices.append(value[1]))
    copied(pixels.double())
    expected = torch.eye(17, dtype=torch.float64)
    for matrix in matrices:
        expected = (matrix.mean(1) + torch.eye(17)) / 2 @ expected
    found = cnnviz.explain(module, pixels, method="rollout", target=1)
    torch.testing.assert_close(found.raw.double(), expected[:, 0, 1:].unflatten(1, (4, 4)), rtol=1e-3, atol=1e-6)
    assert bool(cnnviz.explain(module, pixels, method="chefer", target=1).raw.any())


def test_attention_within_windows_is_refused() -> None:
    with pytest.raises(CnnvizError, match="0 of 4 attention layers relate all tokens of one grid") as raised:
        cnnviz.explain(swin_transformer(), pictures((32, 64)), method="chefer", target=1)
    assert "gradcam" in raised.value.hint
    convolutional = torchvision.models.squeezenet1_1().eval()
    with pytest.raises(CnnvizError, match="no self-attention"):
        cnnviz.explain(convolutional, pictures((64, 64)), method="rollout", target=1)
    with pytest.raises(CnnvizError, match=r"tracing is off|cannot be traced"):
        cnnviz.explain(vision_transformer(), pictures(), method="rollout", target=1, tracing="off")


def test_fused_attention_is_left_on_also_after_an_exception() -> None:
    module = vision_transformer()
    fused = torch.nn.functional.scaled_dot_product_attention
    flags = [block.attn.fused_attn for block in module.blocks]
    before = module(pictures())

    def breaks(output: Tensor) -> Tensor:
        raise KeyError("of the user")

    for method in ("chefer", "legrad", "rollout", "shapleycam"):
        cnnviz.explain(module, pictures(), method=method, target=1)
        with pytest.raises(Exception, match="of the user"):
            cnnviz.explain(module, pictures(), method="chefer" if method == "rollout" else method, target=breaks)
    assert [block.attn.fused_attn for block in module.blocks] == flags == [True] * 3
    assert torch.nn.functional.scaled_dot_product_attention is fused
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert torch.equal(module(pictures()), before)


class Gated(nn.Module):
    """Attention of which half is a matrix of its own, as in ConViT; where it asks a value, it cannot be traced."""

    def __init__(self, width: int, tokens: int, *, closed: bool) -> None:
        super().__init__()
        self.qkv, self.own = nn.Linear(width, 3 * width), nn.Parameter(torch.randn(tokens, tokens))
        self.closed = closed

    def forward(self, x: Tensor, **_given: Any) -> Tensor:
        if self.closed and not bool(torch.isfinite(x.sum())):
            raise ValueError("not finite")
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        matrix = (q @ k.transpose(-2, -1)).softmax(-1)
        return ((matrix + self.own.softmax(-1)) / 2 @ v)[:, 0]


@pytest.mark.parametrize(
    ("closed", "why"),
    [
        (True, "in parts that cannot be traced .1, the first is blocks.1.attn"),
        (False, "1 of its 3 matrices of attention"),
    ],
)
@pytest.mark.parametrize("method", ["chefer", "rollout", "legrad"])
def test_layers_that_cannot_be_read_are_not_left_out(method: str, closed: bool, why: str) -> None:
    module = vision_transformer()
    torch.manual_seed(0)
    module.blocks[1].attn = Gated(24, 25, closed=closed).eval()
    with pytest.raises(CnnvizError, match=why):
        cnnviz.explain(module, pictures(), target=1, method=method)


class Asks(nn.Module):
    """A layer that looks at values, and cannot be traced."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(torch.isfinite(x.sum())) else x


def test_other_parts_may_ask_for_values() -> None:
    module, pixels = vision_transformer(), pictures()
    expected = cnnviz.explain(module, pixels, target=1, method="chefer")
    module.blocks[1].mlp = Asks(module.blocks[1].mlp)
    found = cnnviz.explain(module, pixels, target=1, method="chefer")
    assert found.facts == expected.facts == {"attention_layers": 3, "attention_rows": "class token"}
    torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-7)


class TwoGrids(nn.Module):
    """Attention between 4 x 6 tokens, and then between 2 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 5)
        self.first, self.second = nn.Linear(8, 24), nn.Linear(8, 24)

    def attend(self, maps: Tensor, linear: nn.Module) -> Tensor:
        q, k, v = linear(maps.flatten(2).transpose(1, 2))[:, None].chunk(3, -1)
        mixed = ((q @ k.transpose(-2, -1)).softmax(-1) @ v)[:, 0]
        return maps + mixed.transpose(1, 2).reshape(maps.shape)

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(self.attend(self.patches(x), self.first), 2)
        logits: Tensor = self.head(self.attend(maps, self.second).mean((2, 3)))
        return logits


def test_matrices_of_two_grids_have_no_product() -> None:
    with pytest.raises(CnnvizError, match=r"2 attention layers relate tokens of grids of 2 sizes \(4x6, 2x3\)"):
        cnnviz.explain(TwoGrids().eval(), pictures(), target=1, method="rollout")
