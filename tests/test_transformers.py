"""Vision transformers: which tensor is explained, its grid, and that methods of maps get its tokens as a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.place_rules import places_of
from cnnviz.models.graph.trace import trace
from tests.support.transformers import pictures, swin_transformer, vision_transformer, with_gradient

pytest.importorskip("timm")


def activations(module: nn.Module, pixels: Tensor, *layers: str) -> tuple[Any, Tensor]:
    """The layer that a session explains, and what it has there."""
    options = SessionOptions(cut=Cut.at_layers(*layers))
    session = prepare(module, "network", tuple(pixels.shape[1:]), rt.Runtime(torch.device("cpu"), "fp32"), options)
    return session, session.forward(pixels).activations[0].detach()


# Grids ------------------------------------------------------------------------------------------------------------

GRIDS: dict[str, tuple[dict[str, Any], tuple[int, int], int]] = {
    "14x14": ({"img_size": 112}, (14, 14), 1),
    "16x24": ({"img_size": (128, 192)}, (16, 24), 1),
    "registers": ({"reg_tokens": 4}, (4, 6), 5),
    "registers before embedding": ({"reg_tokens": 3, "no_embed_class": True}, (4, 6), 4),
    "no class token": ({"class_token": False, "global_pool": "avg"}, (4, 6), 0),
    "mean": ({"global_pool": "avg"}, (4, 6), 1),
    "attention pooling": ({"class_token": False, "global_pool": "map"}, (4, 6), 0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_tokens_are_the_map_that_timm_makes_of_them(name: str) -> None:
    options, grid, others = GRIDS[name]
    module = vision_transformer(**options)
    size = module.patch_embed.img_size
    pixels = pictures(size)
    session, found = activations(module, pixels, "blocks.1")
    with torch.no_grad():
        (expected,) = module.forward_intermediates(pixels, [1], intermediates_only=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    layer = session.layers[0]
    assert (layer.size, layer.layout.grid, layer.layout.before, layer.layout.layout) == (grid, grid, others, "tokens")
    assert module.num_prefix_tokens == others


def test_channels_last_is_the_map_that_timm_makes_of_it() -> None:
    module = swin_transformer()
    pixels = pictures((32, 64))
    with torch.no_grad():
        expected = module.forward_intermediates(pixels, intermediates_only=True)
    for index, grid in enumerate([(8, 16), (4, 8)]):
        session, found = activations(module, pixels, f"layers.{index}")
        torch.testing.assert_close(found, expected[index], rtol=1e-4, atol=1e-5)
        assert (session.layers[0].size, session.layers[0].layout.layout) == (grid, "NHWC")


class Windows(nn.Module):
    """Windows of 4 x 4 of a padded map of 7 x 10, attended to, put back, rolled and unrolled: no residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 24), nn.Linear(8, 3)
        self.inside, self.back = nn.Identity(), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patches(x).permute(0, 2, 3, 1)
        n, height, width, channels = maps.shape
        padded = nn.functional.pad(maps, (0, 0, 0, -width % 4, 0, -height % 4))
        rows, cols = padded.shape[1] // 4, padded.shape[2] // 4
        windows = padded.view(n, rows, 4, cols, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        q, k, v = self.qkv(self.inside(windows)).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        joined = mixed.view(n, rows, cols, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        joined = joined.reshape(n, 4 * rows, 4 * cols, channels)[:, :height, :width]
        return self.head(self.back(joined).mean((1, 2)))


def test_windows_are_followed_through_padding_and_back() -> None:
    torch.manual_seed(0)
    module = Windows().eval()
    graph = trace(module, pictures((28, 40), 1), lambda value: value)
    assert graph is not None
    places = places_of(graph)
    assert graph.calls["inside"][0] not in places
    back = places[graph.calls["back"][0]]
    assert (back.grid, back.layout) == ((7, 10), "NHWC")
    with pytest.raises(CnnvizError, match="not known to be the image's places"):
        cnnviz.explain(module, pictures((28, 40)), target=1, layer="inside")
    # With each query attending to itself alone, a place sees its own patch and nothing else.
    found = cnnviz.explain(module, pictures((28, 40)), target=1)
    assert (found.layer, found.raw.shape) == ("back", (2, 7, 10))


class GlobalQueries(nn.Module):
    """Windows of 4 x 4 asked by the tokens of a coarse map of the whole image, the same in every window (GC ViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.kv, self.q = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 16), nn.AdaptiveAvgPool2d(4)
        self.sum, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.patches(x)
        coarse, maps = self.q(first).permute(0, 2, 3, 1), first.permute(0, 2, 3, 1)
        n, height, width, channels = maps.shape
        rows, cols = height // 4, width // 4
        windows = maps.view(n, rows, 4, cols, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        k, v = self.kv(windows).chunk(2, -1)
        q = coarse.repeat_interleave(rows * cols, dim=0).reshape(-1, 16, channels)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        joined = mixed.view(n, rows, cols, 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(maps.shape)
        return self.head(self.sum(maps + joined).mean((1, 2)))


def test_queries_of_the_whole_image_leave_places_to_the_sum() -> None:
    torch.manual_seed(0)
    module = GlobalQueries().eval()
    graph = trace(module, pictures((32, 48), 1), lambda value: value)
    assert graph is not None
    found = places_of(graph)[graph.calls["sum"][0]]
    assert (found.grid, found.layout, found.followed) == ((8, 12), "NHWC", False)
    pixels = pictures((32, 48))
    explained = cnnviz.explain(module, pixels, method="hirescam", target=1)
    kept: list[Tensor] = []
    with module.sum.register_forward_hook(lambda _module, _inputs, output: kept.append(output.detach())):
        module(pixels)
    expected = (kept[0] * module.head.weight.detach()[1] / 96).sum(-1).clamp_min(0)
    assert explained.layer == "sum"
    torch.testing.assert_close(torch.as_tensor(explained.raw), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(2, 12), (12, 2), (3, 8), (4, 6)])
def test_the_grid_is_never_a_guess(shape: tuple[int, int]) -> None:
    """24 tokens may be any of these."""
    module = vision_transformer(img_size=(8 * shape[0], 8 * shape[1]))
    session, _ = activations(module, pictures((8 * shape[0], 8 * shape[1])))
    assert session.layers[0].size == shape


# Which layer ------------------------------------------------------------------------------------------------------

DEFAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "class token": ({}, "blocks.2.norm1"),
    "registers": ({"reg_tokens": 4}, "blocks.2.norm1"),
    "mean, normalised tokens": ({"global_pool": "avg", "fc_norm": False}, "norm"),
    "mean of normalised means": ({"global_pool": "avg"}, "blocks"),
    "attention pooling": ({"class_token": False, "global_pool": "map"}, "norm"),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_is_the_last_whose_patches_reach_the_score(name: str) -> None:
    options, expected = DEFAULTS[name]
    module = vision_transformer(**options)
    session, _ = activations(module, pictures())
    assert session.layers[0].name == expected
    told = any("the last layer whose 4 x 6 patch tokens reach the score" in note for note in session.notes)
    assert told == (expected == "blocks.2.norm1")
    # An independent look: gradients at what every block returns, by hooks.
    for block in range(3):
        _, gradient = with_gradient(module, f"blocks.{block}", pictures(), 2)
        reached = bool(gradient[:, module.num_prefix_tokens :].any())
        assert reached == (block < 2 or expected != "blocks.2.norm1")


@pytest.mark.parametrize("layer", ["blocks.2", "norm"])
def test_a_layer_whose_patches_lead_nowhere_is_refused(layer: str) -> None:
    with pytest.raises(CnnvizError, match=r"24 patch tokens of layer.*its class token alone") as raised:
        cnnviz.explain(vision_transformer(), pictures(), target=1, layer=layer)
    assert "--layer blocks.2.norm1" in raised.value.hint
    with pytest.raises(CnnvizError, match="its 5 other tokens alone"):
        cnnviz.explain(vision_transformer(reg_tokens=4), pictures(), target=1, layer=layer)


def test_what_is_no_grid_is_refused() -> None:
    with pytest.raises(CnnvizError, match=r"output \[2?1?, 5\], whose dimensions are not known"):
        cnnviz.explain(vision_transformer(), pictures(), target=1, layer="head")


def test_units_of_tokens_are_explained_at_an_earlier_layer() -> None:
    module, pixels = vision_transformer(), pictures()
    found = cnnviz.explain(module, pixels, method="hirescam", target="unit:blocks.1:3")
    tokens: list[Tensor] = []
    earlier = module.blocks[1].norm1 if found.layer == "blocks.1.norm1" else module.blocks[0]
    handles = [
        earlier.register_forward_hook(lambda part, args, value: tokens.append(value.requires_grad_()) or tokens[0]),
        module.blocks[1].register_forward_hook(lambda part, args, value: tokens.append(value)),
    ]
    module(pixels)
    for handle in handles:
        handle.remove()
    (gradient,) = torch.autograd.grad(tokens[1][:, 1:, 3].sum(), tokens[0])
    expected = (as_maps(tokens[0].detach()) * as_maps(gradient)).sum(1).clamp_min(0)
    torch.testing.assert_close(found.raw, expected, rtol=1e-3, atol=1e-5)


# Methods ----------------------------------------------------------------------------------------------------------


def as_maps(tokens: Tensor, grid: tuple[int, int] = (4, 6), others: int = 1) -> Tensor:
    return tokens[:, others:].transpose(1, 2).unflatten(2, grid)


def test_methods_of_maps_are_what_hooks_compute() -> None:
    module, pixels = vision_transformer(), pictures()
    tokens, gradient = with_gradient(module, "blocks.2.norm1", pixels, 2)
    # The residual path carries nothing of the patches: the norm's gradient is the one of its output alone.
    a, g = as_maps(tokens), as_maps(gradient)
    expected = {
        "gradcam": (g.mean((2, 3), keepdim=True) * a).sum(1).clamp_min(0),
        "hirescam": (g * a).sum(1).clamp_min(0),
        "layercam": (g.clamp_min(0) * a).sum(1).clamp_min(0),
    }
    for method, map_ in expected.items():
        found = cnnviz.explain(module, pixels, method=method, target=2)
        torch.testing.assert_close(found.raw.double(), map_, rtol=1e-3, atol=1e-6)


def test_methods_of_maps_are_what_hooks_compute_channels_last() -> None:
    module, pixels = swin_transformer(), pictures((32, 64))
    values, gradient = with_gradient(module, "layers.0", pixels, 2)
    found = cnnviz.explain(module, pixels, method="hirescam", target=2, layer="layers.0")
    expected = (values * gradient).sum(3).clamp_min(0)
    torch.testing.assert_close(found.raw.double(), expected, rtol=1e-3, atol=1e-6)


def test_ablation_runs_the_head_with_channels_of_the_patches_set_to_zero() -> None:
    module, pixels = vision_transformer(), pictures()
    found = cnnviz.explain(module, pixels, method="ablationcam", target=2, layer="blocks.0")
    (clean,) = (module(pixels)[:, 2].detach(),)
    weights = []
    for channel in range(24):

        def ablate(part: nn.Module, args: Any, output: Tensor, channel: int = channel) -> Tensor:
            return torch.cat([output[:, :1], output[:, 1:].index_fill(2, torch.tensor(channel), 0)], 1)

        handle = module.blocks[0].register_forward_hook(ablate)
        with torch.no_grad():
            weights.append((clean - module(pixels)[:, 2]) / clean)
        handle.remove()
    tokens, _ = with_gradient(module, "blocks.0", pixels, 2)
    expected = (torch.stack(weights, 1)[:, :, None, None] * as_maps(tokens)).sum(1).clamp_min(0)
    torch.testing.assert_close(found.raw.double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("network", ["tokens", "channels last"])
def test_cam_is_exact_where_the_head_averages(network: str) -> None:
    if network == "tokens":
        module, pixels = vision_transformer(global_pool="avg", fc_norm=False), pictures()
        bias = module.head.bias
    else:
        module, pixels = swin_transformer(), pictures((32, 64))
        bias = module.head.fc.bias
    found = cnnviz.explain(module, pixels, method="cam", target=2)
    with torch.no_grad():
        torch.testing.assert_close(found.raw.mean((1, 2)) + bias[2], module(pixels)[:, 2], rtol=1e-4, atol=1e-5)
    gradcam = cnnviz.explain(module, pixels, method="gradcam", target=2)
    torch.testing.assert_close(found.raw.clamp_min(0) / found.raw[0].numel(), gradcam.raw, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "method", "gradcam++ xgradcam eigencam eigengradcam finercam shapleycam scorecam smoothgradcam++".split()
)
def test_the_whole_family_has_maps_of_the_grid(method: str) -> None:
    options = {"channels": 3} if method == "scorecam" else {}
    whole = cnnviz.explain(vision_transformer(), pictures(), method=method, target=2, **options)
    alone = cnnviz.explain(vision_transformer(), pictures()[1:], method=method, target=2, **options)
    assert whole.raw.shape == (2, 4, 6)
    assert bool(whole.raw.any())
    torch.testing.assert_close(whole.raw[1:], alone.raw, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", "saliency gradient_x_input integrated_gradients smoothgrad occlusion rise".split())
def test_methods_of_the_image_need_no_layer(method: str) -> None:
    module, pixels = vision_transformer(), pictures()
    found = cnnviz.explain(module, pixels, method=method, target=2)
    assert found.maps.shape == (2, 32, 48)
    if method == "gradient_x_input":
        leaf = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(leaf)[:, 2].sum(), leaf)
        torch.testing.assert_close(found.maps, (gradient * pixels).sum(1), rtol=1e-3, atol=1e-5)


class Remembers(nn.Module):
    """Keeps the biases of its attention once it has made them, as LeViT does, and what it saw last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 3)
        self.bias, self.made = nn.Parameter(torch.randn(24, 24)), dict[str, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        self.last = tokens
        if "bias" not in self.made:
            self.made["bias"] = 2 * self.bias
        weights = (tokens @ tokens.transpose(1, 2) + self.made["bias"]).softmax(-1)
        return self.head((weights @ tokens).mean(1))


def test_what_a_forward_keeps_is_not_left_in_the_network() -> None:
    module = Remembers().eval().requires_grad_(False)
    for _ in range(2):
        graph = trace(module, pictures(count=1), lambda value: value)
        assert graph is not None
        assert all(isinstance(value, Tensor) for value in (*module.made.values(), module.last))


def test_the_network_is_left_as_it_was() -> None:
    module = vision_transformer().train()
    before = {name: (value.fused_attn, value.training) for name, value in module.named_modules() if "attn" in name[-4:]}
    with pytest.raises(CnnvizError):
        cnnviz.explain(module, pictures(), target=1, layer="norm")
    cnnviz.explain(module, pictures(), target=1)
    after = {name: (value.fused_attn, value.training) for name, value in module.named_modules() if "attn" in name[-4:]}
    assert before == after
    assert set(before.values()) == {(True, True)}


class Closed(nn.Module):
    """Halves a map where it is asked for a value, and so cannot be traced; ``turned`` swaps its rows and columns."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.halve, self.turned = nn.Conv2d(8, 8, 2, stride=2), turned

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.halve(x) if bool(torch.isfinite(x.sum())) else x
        return made.transpose(2, 3) if self.turned else made


@pytest.mark.parametrize("turned", [False, True])
def test_parts_that_cannot_be_traced_are_asked_where_their_cells_look(turned: bool) -> None:
    torch.manual_seed(0)

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.patches = GlobalQueries(), nn.Conv2d(3, 8, 4, stride=4)
            self.closed, self.head = Closed(turned), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.closed(self.patches(x)).mean((2, 3))) + self.first(x)

    graph = trace(Behind().eval(), pictures((64, 64), 1), lambda value: value)
    assert graph is not None
    assert graph.attention
    closed = graph.calls["closed"][0]
    found = places_of(graph).get(closed)
    if turned:
        assert found is None
    else:
        assert found is not None
        assert (found.grid, found.layout, found.followed) == ((8, 8), "NCHW", False)
