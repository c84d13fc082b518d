"""One session for images of several sizes gives what a session prepared for each size gives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import kept_sessions, other_size
from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import PrecisionError, SessionOptions, prepare
from cnnviz.engine.other_size import holds_at, output_at
from cnnviz.errors import CnnvizError
from cnnviz.methods.perturbation.incremental import windows
from tests.support import networks as nets
from tests.test_contract import CHEAP, METHODS

OTHER = (20, 13)


def _model(network: nn.Module) -> Any:
    return nets.as_model(network.eval().requires_grad_(False))


def _residual() -> nn.Module:
    return nets.TOYS["residual"].build()


def _compared(make: Callable[[], nn.Module], size: tuple[int, int] = OTHER, **asked: Any) -> int:
    """A model that has seen another size gives what one gives that has seen none. Returns how many sessions it has."""
    model, x = _model(make()), nets.images(2, size)
    cnnviz.explain(model, nets.images(), **asked)
    got, expected = cnnviz.explain(model, x, **asked), cnnviz.explain(_model(make()), x, **asked)
    for name in ("raw", "maps", "logits"):
        a, b = getattr(got, name), getattr(expected, name)
        assert float(b.abs().max()) > 1e-5
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()))
    assert torch.equal(got.target, expected.target)
    assert (got.layer, got.checks["output"]) == (expected.layer, expected.checks["output"])
    return len(model._sessions.all())


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    assert _compared(_residual, method=method, target=1, **CHEAP.get(method, {})) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"target": "unit:conv2:2"},
        {"target": "unit:conv2:1/strongest", "tracing": "off"},
        {"target": lambda output: output[:, 2] - output[:, 0]},
        {"layer": ["stem", "conv2"], "method": "layercam"},
        {"layer": "conv2", "method": "ablationcam"},
        {"tracing": "off"},
        {"method": "saliency", "tracing": "off"},
    ],
    ids=["units", "a unit, by hooks", "function", "two layers", "head again", "hooks", "hooks, image"],
)
def test_every_way_of_running(asked: dict[str, Any]) -> None:
    assert _compared(_residual, **{"target": 1, **asked}) == 1


class _Softmax(nets.Body):
    """Probabilities, which are not what the session gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.relu(self.maps(x))).softmax(1)


class _Positions(nets.Body):
    """Class scores at positions, and an output beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = F.relu(self.maps(x))
        return {"out": F.interpolate(self.head(a), size=x.shape[2:], mode="bilinear"), "aux": a}


class _Scaled(nets.Body):
    """What bypasses the layer is a number that grows with the images and with their size."""

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.stem(x))
        a = F.relu(self.conv(low)) + low
        cells = low.size(0) * low.size(2) * low.size(3)
        return self.fc(a.permute(0, 2, 3, 1).reshape(cells, 6).view(x.size(0), -1, 6).mean(1))


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (_Softmax, {}),
        (_Positions, {"target": "class:1@all", "logits_key": "out"}),
        (_Scaled, {"layer": "conv", "method": "ablationcam"}),
        (lambda: nets.TOYS["untraceable"].build(), {}),
    ],
    ids=["softmax", "positions", "number of cells", "untraceable"],
)
def test_networks_that_hold(make: Callable[[], nn.Module], asked: dict[str, Any]) -> None:
    assert _compared(nets.seeded(make), **{"target": 1, **asked}) == 1


class _Baked(nets.Body):
    """What it computes follows from the size of the image in a way that no trace sees."""

    twice = False

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            self.twice = x.shape[2] > 12
        a = F.relu(self.maps(x))
        return self.pooled(a * 2 if self.twice else a)


class _DenseAsConvolution(nn.Module):
    """A fully connected layer in the form of a convolution; on a large image it leaves a map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dense, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 7), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.dense(F.relu(self.conv(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "size", "asked"),
    [
        (_Baked, OTHER, {}),
        (_Baked, OTHER, {"target": "unit:conv:2"}),
        (_DenseAsConvolution, (40, 40), {}),
    ],
    ids=["baked", "baked, a unit", "default layer"],
)
def test_networks_that_depend_on_the_size(
    make: Callable[[], nn.Module], size: tuple[int, int], asked: dict[str, Any]
) -> None:
    """They are prepared for each size."""
    assert _compared(nets.seeded(make), size, **{"target": 1, **asked}) == 2


class _Flat(nets.Body):
    """A linear layer for all positions of one size, or positions that are learned, as wide as they are."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 6, 6, 8)) if learned else None
        self.flat = nn.Linear(6 * 6 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.maps(x))
        return self.flat(a.flatten(1)) if self.places is None else self.pooled(a + self.places)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_networks_of_one_size_refuse_another(learned: bool, method: str) -> None:
    """The error is that of a model that has seen no other size, and what was prepared stays."""
    model = _model(nets.seeded(lambda: _Flat(learned))())
    before = cnnviz.explain(model, nets.images(), method=method, target=1)
    said = []
    for each in (model, _model(nets.seeded(lambda: _Flat(learned))())):
        with pytest.raises(CnnvizError, match="cannot run on an input of shape") as raised:
            cnnviz.explain(each, nets.images(1, OTHER), method=method)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert torch.equal(cnnviz.explain(model, nets.images(), method=method, target=1).raw, before.raw)
    assert len(model._sessions.all()) == 1


def test_a_size_at_which_the_network_is_another_one_is_not_that_of_all_others() -> None:
    model = _model(nets.seeded(_Baked)())
    for size in ((12, 16), (13, 17), (14, 18), (10, 9), (30, 30), (16, 12)):
        cnnviz.explain(model, nets.images(1, size))
    assert [session.input_shape for session in model._sessions.all()] == [(3, 12, 16), (3, 13, 17)]


def test_between_two_sizes_the_layer_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    honest = other_size._cut_alike
    monkeypatch.setattr(other_size, "_cut_alike", lambda *args: looked.append(args) or honest(*args))
    model = _model(_residual())
    for size, so_far in (((12, 16), 0), ((20, 24), 1), ((13, 17), 1), ((12, 24), 1), ((24, 12), 2), ((13, 17), 2)):
        cnnviz.explain(model, nets.images(1, size))
        assert len(looked) == so_far
    assert len(model._sessions.all()) == 1


def test_few_sizes_are_remembered_and_others_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_size, "_REMEMBERED", 4)
    model = _model(_residual())
    for side in (*range(12, 22), 12):
        cnnviz.explain(model, nets.images(1, (side, side)))
    (session,) = model._sessions.all()
    assert [shape[1] for shape in other_size.outputs_of(session)] == [12, 19, 20, 21]


def test_a_precision_that_is_not_right_is_tried_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def refusing(module: nn.Module, name: str, shape: Any, runtime: rt.Runtime, options: SessionOptions) -> Any:
        tried.append(f"{runtime.precision} {shape[1]}")
        if runtime.precision == "bf16":
            raise PrecisionError("In bf16 it is another network.", "Use --precision fp32.")
        return prepare(module, name, shape, runtime, options)

    monkeypatch.setattr(kept_sessions, "prepare", refusing)
    model = _model(_residual())
    for size in ((12, 16), (12, 16), (20, 13), (12, 16), (20, 13)):
        found = cnnviz.explain(model, nets.images(1, size), precision="bf16", target=1)
        assert "float32 is used" in found.notes[0]
        assert torch.equal(found.raw, cnnviz.explain(model, nets.images(1, size), target=1).raw)
    assert tried == ["bf16 12", "fp32 12", "bf16 20"]


def test_increments_are_kept_for_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_SIZES", 2)
    model, asked = _model(_residual()), {"method": "occlusion", "target": 1, "incremental": "on", **CHEAP["occlusion"]}
    first = cnnviz.explain(model, nets.images(1), **asked).raw
    for side in range(14, 19):
        cnnviz.explain(model, nets.images(1, (side, side)), **asked)
    (session,) = model._sessions.all()
    kept = {key.partition(")")[0] for key in session._memory if key.startswith("incremental (")}
    assert kept == {"incremental (17, 17", "incremental (18, 18"}
    torch.testing.assert_close(cnnviz.explain(model, nets.images(1), **asked).raw, first)


def test_threads_share_what_one_of_them_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    honest = kept_sessions.prepare
    monkeypatch.setattr(kept_sessions, "prepare", lambda *args: made.append(args) or honest(*args))
    sizes = [(12, 16), (20, 13), (9, 13), (14, 14)] * 4
    expected = {size: cnnviz.explain(_model(_residual()), nets.images(2, size), target=1).raw for size in set(sizes)}
    made.clear()
    model = _model(_residual())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda size: cnnviz.explain(model, nets.images(2, size), target=1).raw, sizes))
    assert len(made) == 1
    for size, raw in zip(sizes, found, strict=True):
        torch.testing.assert_close(raw, expected[size], rtol=0, atol=2e-5 * float(expected[size].abs().max()))


@pytest.mark.parametrize(("make", "holds"), [(_Softmax, True), (_Scaled, True), (_Baked, False)])
def test_what_the_command_asks(make: Callable[[], nn.Module], holds: bool) -> None:
    """Also of a network that ends in a softmax, whose session gives the logits before it."""
    network, options = nets.seeded(make)().eval().requires_grad_(False), SessionOptions()
    session = prepare(network, "toy", (3, 12, 16), rt.resolve("cpu"), options)
    assert holds_at(session, network, (20, 32)) is holds
    assert (output_at(session, network, (3, 20, 32), options) is not None) is holds
