"""Four dimensions do not make a map: its axes must follow the image's rows and columns, in order and unmirrored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import runtime as rt
from cnnviz.engine.layer_table import layer_table
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.errors import CnnvizError
from cnnviz.models.graph.axes import axes_of
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace

_PIXELS = torch.randn((2, 3, 16, 24), generator=torch.Generator().manual_seed(5))


class Post(nn.Module):
    """A step without weights, as a layer with a name."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


class Net(nn.Module):
    """Two convolutions (``c``), a step, a head that averages whatever comes out."""

    def __init__(self, step: Callable[[Tensor], Tensor], channels_last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.c = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.post = Post(step)
        self.channels_last = channels_last
        with torch.no_grad():
            shape = step(torch.zeros(1, 12, 8, 12)).shape
        self.norm = nn.LayerNorm(shape[-1]) if channels_last else nn.Identity()
        self.fc = nn.Linear(shape[-1] if channels_last else shape[1], 4)

    def head(self, a: Tensor) -> Tensor:
        y = self.norm(self.post(a))
        # A different weight for each place, so that a gradient shows where it belongs.
        over = torch.arange(1.0, 1 + y[0].numel()).reshape(y.shape[1:]).sqrt()
        out: Tensor = self.fc((y * over).mean((1, 2) if self.channels_last else (2, 3)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


class Rows(nn.Module):
    """A recurrent head over the rows of the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU())
        self.lstm = nn.LSTM(6 * 12, 10, batch_first=True)
        self.fc = nn.Linear(10, 4)

    def head(self, a: Tensor) -> Tensor:
        out: Tensor = self.fc(self.lstm(a.permute(0, 2, 1, 3).flatten(2))[0][:, -1])
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


class EachRow(nn.Module):
    """A recurrent layer along every row, whose output [N, h, w, C] is averaged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, stride=2), nn.ReLU())
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.fc = nn.Linear(10, 4)

    def head(self, a: Tensor) -> Tensor:
        rows = self.lstm(a.permute(0, 2, 3, 1).reshape(-1, a.shape[3], 6))[0]
        out: Tensor = self.fc(rows.reshape(-1, a.shape[2], a.shape[3], 10).mean((1, 2)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(x))


def nhwc(a: Tensor) -> Tensor:
    return a.permute(0, 2, 3, 1)


def windows(a: Tensor) -> Tensor:
    """[N, C, h, w] in windows of 4 x 4, one beside the other along the batch, and back to one vector an image."""
    n, c, h, w = a.shape
    return a.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 1, 3, 5, 2, 4).reshape(n, c, 16, (h // 4) * (w // 4))


def merged(a: Tensor) -> Tensor:
    """Patch merging, channels last inside, as in Swin."""
    x = a.permute(0, 2, 3, 1)
    parts = [x[:, row::2, col::2] for row in (0, 1) for col in (0, 1)]
    return torch.cat(parts, -1).permute(0, 3, 1, 2)


def focus(a: Tensor) -> Tensor:
    return torch.cat([a[..., ::2, ::2], a[..., 1::2, ::2], a[..., ::2, 1::2], a[..., 1::2, 1::2]], 1)


def space_to_depth(a: Tensor) -> Tensor:
    n, c, h, w = a.shape
    return a.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def tokens_and_back(a: Tensor) -> Tensor:
    n, c, h, w = a.shape
    return a.flatten(2).transpose(1, 2).transpose(1, 2).reshape(n, c, h, w)


def tokens_and_back_wrong(a: Tensor) -> Tensor:
    n, c, h, w = a.shape
    return a.flatten(2).reshape(n, c, w, h)


def refolded(a: Tensor) -> Tensor:
    return F.fold(F.unfold(a, 3, padding=1), (int(a.shape[2]), int(a.shape[3])), 3, padding=1)


# What is a map of the image, and what only looks like one.
_MAPS = {
    "plain": lambda a: a + 1,
    "fold": refolded,
    "pixel_shuffle": lambda a: F.pixel_shuffle(a, 2),
    "pixel_unshuffle": lambda a: F.pixel_unshuffle(a, 2),
    "space_to_depth": space_to_depth,
    "focus": focus,
    "patch_merging": merged,
    "tokens_and_back": tokens_and_back,
    "there_and_back": lambda a: a.flip(3).transpose(2, 3).transpose(2, 3).flip(3),
    "global_context": lambda a: a * a.mean((2, 3), keepdim=True).softmax(1) + a.amax((2, 3), keepdim=True),
}
_NOT_MAPS = {
    "transposed": (lambda a: a.transpose(2, 3), "rows are the image's columns"),
    "mirrored": (lambda a: a.flip(3), "axis 3 runs against the image's columns"),
    "upside_down": (lambda a: torch.flip(a, (2,)), "axis 2 runs against the image's rows"),
    "rot90": (lambda a: torch.rot90(a, 1, (2, 3)), "axis 2 does not follow the image's rows (its axis 3 does)"),
    "rolled": (lambda a: torch.roll(a, (3, 0), (2, 3)), "axis 2 does not follow the image's rows"),
    "windows": (windows, "does not follow the image's"),
    "one_row_of_tokens": (lambda a: a.flatten(2).unsqueeze(2), "does not follow the image's columns"),
    "wrong_reshape": (tokens_and_back_wrong, "does not follow"),
    "halves_side_by_side": (lambda a: torch.cat([a[:, :, 4:], a[:, :, :4]], 2), "axis 2 does not follow"),
}


def _gradcam_at_c(network: Any) -> Tensor:
    a = network.c(_PIXELS).detach().requires_grad_()
    weights = torch.autograd.grad(network.head(a)[:, 1].sum(), a)[0].mean((2, 3), keepdim=True)
    return torch.relu((weights * a).sum(1)).detach()


def _network(kind: str) -> nn.Module:
    if kind == "nhwc":
        return Net(nhwc, channels_last=True).eval()
    if kind in {"rows", "each_row"}:
        return (Rows() if kind == "rows" else EachRow()).eval()
    return Net(_NOT_MAPS[kind][0]).eval()


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("kind", ["nhwc", "rows", "each_row", *_NOT_MAPS])
def test_the_default_steps_back_to_the_last_map(kind: str, tracing: str) -> None:
    network = _network(kind)
    found = cnnviz.explain(network, _PIXELS, target=1, tracing=tracing)
    assert found.layer in {"c", "c.3"}
    torch.testing.assert_close(found.raw, _gradcam_at_c(network), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(cnnviz.explain(network, _PIXELS, target=1, layer="c", tracing=tracing).raw, found.raw)


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("kind", ["nhwc", *_NOT_MAPS])
def test_a_named_layer_that_is_not_a_map_is_refused(kind: str, tracing: str) -> None:
    with pytest.raises(CnnvizError, match=r"'post' has output \[1, .*\], which is not a map of the image: ") as caught:
        cnnviz.explain(_network(kind), _PIXELS, target=1, layer="post", tracing=tracing)
    expected = "are its axes 1 and 2, not 2 and 3" if kind == "nhwc" else _NOT_MAPS[kind][1]
    if tracing == "auto":  # by hooks a permutation is seen as well, but not as such
        assert expected in caught.value.message
    assert "--layer c, the last map before it" in caught.value.hint.replace("c.3", "c")


@pytest.mark.parametrize("tracing", ["auto", "off"], ids=["graph", "hooks"])
@pytest.mark.parametrize("kind", list(_MAPS))
def test_maps_are_explained_where_they_are(kind: str, tracing: str) -> None:
    network = Net(_MAPS[kind]).eval()
    a = network.post(network.c(_PIXELS)).detach()
    for layer in (None, "post"):
        found = cnnviz.explain(network, _PIXELS, "eigencam", layer=layer, tracing=tracing)
        assert found.layer in {"post", "norm"}
        assert found.raw.shape[1:] == a.shape[2:]


def test_plain_networks_are_not_run_for_it() -> None:
    network = Net(_MAPS["pixel_unshuffle"]).eval()
    graph = trace(network, _PIXELS[:1], selector(None))
    assert graph is not None
    session = prepare(network, "net", (3, 16, 24), rt.resolve("cpu"), SessionOptions(private=False))
    assert session.graph is not None
    assert not axes_of(session.graph).asked


def test_stepping_back_is_told() -> None:
    for kind in ("nhwc", "mirrored"):
        session = prepare(_network(kind), "net", (3, 16, 24), rt.resolve("cpu"), SessionOptions())
        [note] = session.notes
        assert "which is not a map of the image (" in note
        assert note.endswith(": c before it is explained")
    assert prepare(Net(_MAPS["focus"]).eval(), "net", (3, 16, 24), rt.resolve("cpu"), SessionOptions()).notes == []


def test_rows_of_the_image_are_not_units() -> None:
    network = Net(nhwc, channels_last=True).eval()
    rows = {row.name: row for row in layer_table(network, "net", (3, 16, 24))}
    assert rows["post"].output_shape == (8, 12, 12)
    assert rows["post"].output_stride is None
    assert "axes 1 and 2" in str(rows["post"].no_field)
    assert (rows["c"].default_target, rows["c"].output_stride) == (True, (2, 2))


class Branches(nn.Module):
    """Two poolings, each with a linear layer of its own: vectors may have weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        out: Tensor = self.a(y.mean((2, 3))) + self.b(y.amax((2, 3)))
        return out


class Mixer(nn.Module):
    """Tokens that are mixed across positions: what the convolution made is no feature map of the head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.mix, self.norm, self.fc = nn.Linear(24, 24), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = self.embed(x).flatten(2)
        t = (t + self.mix(t)).transpose(1, 2)
        out: Tensor = self.fc(self.norm(t).mean(1))
        return out


def test_weights_between_the_map_and_the_vector() -> None:
    assert cnnviz.explain(Branches().eval(), _PIXELS).layer == "c"
    with pytest.raises(CnnvizError, match="no spatial feature map"):
        cnnviz.explain(Mixer().eval(), _PIXELS)


class Attention(nn.Module):
    """Self-attention in a forward that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Conv2d(3, 6, 4, stride=4)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        t = self.c(x).flatten(2).transpose(1, 2)
        if t.sum() < 1e9:
            t = (t @ t.transpose(1, 2)).softmax(-1) @ t
        out: Tensor = self.fc(t.mean(1))
        return out


class ChannelsFirstAttention(nn.Module):
    """Fused attention of tokens whose channels come first in memory, which PyTorch computes by another kernel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c = nn.Conv2d(3, 6, 4, stride=4)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.c(x)
        t = a.flatten(2).unsqueeze(1).transpose(2, 3)
        mixed = F.scaled_dot_product_attention(t, t, t).transpose(2, 3).reshape(a.shape)
        out: Tensor = self.fc((a + mixed).mean((2, 3)))
        return out


def test_attention_is_recognised_whichever_kernel_computes_it() -> None:
    found = trace(ChannelsFirstAttention().eval(), _PIXELS, lambda value: value)
    assert found is not None
    assert found.attention


def test_attention_is_recognised_without_a_trace() -> None:
    network = Attention().eval()
    with pytest.raises(CnnvizError, match="computes self-attention"):
        cnnviz.explain(network, _PIXELS)
    assert cnnviz.explain(network, _PIXELS, layer="c").layer == "c"


class _Cut(nn.Module):
    """A map whose columns are cut off, or added to, before the head."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.c, self.d, self.fc = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.d(self.change(torch.relu(self.c(x))))).mean((2, 3)))


def _head(network: _Cut, activations: Tensor) -> Tensor:
    """The scores [N, 4] from what the rectifier behind ``c`` returned."""
    return network.fc(torch.relu(network.d(network.change(activations))).mean((2, 3)))


CUT = {
    "left half": lambda v: v[..., :5],
    "right part": lambda v: v[..., 3:],
    "rows": lambda v: v[:, :, 4:],
    "middle": lambda v: v[..., 3:-3],
    "padded at one side": lambda v: F.pad(v, (10, 0, 0, 0)),
    "padded all around": lambda v: F.pad(v, (4, 4, 4, 4)),
    "padded by less than nothing": lambda v: F.pad(v, (0, -5)),
    "narrow": lambda v: v.narrow(3, 0, 5),
    "narrow from the middle on": lambda v: torch.narrow(v, 2, 3, 5),
    "narrow from behind": lambda v: v.narrow(3, -7, 7),
    "chunk": lambda v: v.chunk(2, 2)[1],
    "split": lambda v: v.split(6, dim=3)[0],
    "split in sizes": lambda v: torch.split(v, [3, 7], 3)[-1],
    "tensor_split": lambda v: v.tensor_split([4], 2)[0],
}


@pytest.mark.parametrize("how", CUT)
def test_what_does_not_lie_over_the_whole_image_is_not_drawn_over_it(how: str) -> None:
    torch.manual_seed(0)
    network = _Cut(CUT[how]).eval()
    image = torch.randn(1, 3, 8, 10)
    result = cnnviz.explain(network, image, target=1)
    assert result.layer == "c"
    assert any("cut off or added" in note for note in result.notes)
    activations = torch.relu(network.c(image)).detach().requires_grad_()
    [gradient] = torch.autograd.grad(_head(network, activations)[0, 1], activations)
    expected = (gradient.mean((2, 3), keepdim=True) * activations.detach()).sum(1).clamp_min(0)
    torch.testing.assert_close(result.raw, expected, atol=1e-6, rtol=1e-4)
    with pytest.raises(CnnvizError, match="cut off or added"):
        cnnviz.explain(network, image, target=1, layer="d")


@pytest.mark.parametrize("name", ["resnet18", "inception_v3", "alexnet", "squeezenet1_0", "mobilenet_v2", "googlenet"])
def test_kernels_and_their_padding_leave_maps_in_place(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False} if name in {"inception_v3", "googlenet"} else {}
    network = torchvision.models.get_model(name, weights=None, **options).eval()
    for size in ((230, 331), (224, 224)):
        graph = trace(network, torch.randn(1, 3, *size), lambda value: value)
        assert graph is not None
        spatial = [node for node in graph.chain() if graph.is_spatial(node) and not graph.is_pool(node)]
        assert [node.name for node in spatial if "cut off" in axes_of(graph).objection(node)] == []


def test_what_is_cut_off_by_an_operation_that_is_not_known_is_not_explained() -> None:
    """A third of the columns reaches no cell: nothing says which columns the cells stand for. The layer is named."""
    torch.manual_seed(0)
    network = _Cut(lambda v: v.index_select(3, torch.arange(5))).eval()
    image = torch.randn(1, 3, 8, 10)
    with pytest.raises(CnnvizError, match=r"fed by \[1, 12, 8, 5\] behind d, .* cut off or added\), and by no map"):
        cnnviz.explain(network, image, target=1)
    with pytest.raises(CnnvizError, match="cut off or added"):
        cnnviz.explain(network, image, target=1, layer="d")
