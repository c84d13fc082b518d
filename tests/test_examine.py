"""The examination of a network before the first image: each check has a network that fails it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import cut as cuts
from cnnviz.engine import runtime as rt
from cnnviz.engine.examine import Examination, InputSizes, Wanted, examine, input_sizes
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.readout import Readout
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError
from tests.support import networks as nets


def opened(network: nn.Module, size: tuple[int, int] = (32, 32), **options: Any) -> Session:
    network.eval().requires_grad_(False)
    return prepare(network, "net", (3, *size), rt.resolve("cpu"), SessionOptions(**options))


def examined(session: Session, gradient: bool = True, skip: tuple[str, ...] = ()) -> Examination:
    probe = torch.randn(1, *session.input_shape, generator=torch.Generator().manual_seed(1))
    return examine(session, probe, Wanted("gradcam", gradient, skip=skip))


def batch_statistics() -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


class Centred(nets.Body):
    """Scores less their mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.pooled(F.relu(self.maps(x)))
        return z - z.mean(0, keepdim=True)


class NextButOne(nets.Body):
    """Scores with those of the next image but one, which of two images is the image itself."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.pooled(F.relu(self.maps(x)))
        return 2 * z - z.roll(2, 0)


class OneAtATime(nets.Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.maps(x)).mean((2, 3)).view(1, 6))


class Noisy(nets.Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.dropout(F.relu(self.maps(x)), 0.5, training=True))


class Fixed(nets.Body):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6 * 256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.maps(x)).flatten(1))


class Multiples(nets.Body):
    """A branch that is halved three times and enlarged again must meet the other one."""

    def forward(self, x: Tensor) -> Tensor:
        low = F.relu(self.maps(x))
        small = F.interpolate(F.max_pool2d(F.max_pool2d(low, 2), 2), scale_factor=4.0)
        return self.pooled(low + small)


def test_a_sound_network_passes_every_check() -> None:
    found = examined(opened(nets.seeded(lambda: nets.Plain(nn.ReLU()))()))
    checks = found.to_dict()
    assert [checks[name] for name in ("deterministic", "batch_independent", "gradient_reaches_layer")] == [True] * 3
    assert checks["output"]["why"] == "it is the only output"
    assert found.notes == ()


@pytest.mark.parametrize("network", [batch_statistics, Centred, NextButOne, OneAtATime])
def test_images_that_change_each_other_go_one_by_one(network: Any) -> None:
    module = nets.seeded(network)() if isinstance(network, type) else network()
    session = opened(module)
    found = examined(session)
    assert found.batch_independent is False
    assert any("one by one" in note for note in found.notes)
    x = torch.randn(3, 3, 32, 32)
    alone = torch.cat([module(image) for image in x.split(1)])
    torch.testing.assert_close(session.forward(x).logits.detach(), alone)
    torch.testing.assert_close(session.logits(x), alone)
    run = session.forward(x)
    together = run.gradients(run.logits[:, 1])[0]
    for index, image in enumerate(x.split(1)):
        single = session.forward(image)
        torch.testing.assert_close(together[index : index + 1], single.gradients(single.logits[:, 1])[0])


@pytest.mark.parametrize("network", [Centred, NextButOne])
def test_networks_of_any_size_are_tried_small(network: Any) -> None:
    """A corner of the probe, three together, by their own modules: a packed weight suits one size."""
    session = opened(nets.seeded(network)(), (80, 96))
    shapes: list[tuple[int, ...]] = []
    unprepared = session.unprepared
    assert unprepared is not None

    def counted(pixels: Tensor) -> Any:
        shapes.append(tuple(pixels.shape))
        return unprepared(pixels)

    session.unprepared = counted
    found = examined(session)
    assert found.input_sizes == InputSizes(True, 1, 32)
    assert found.batch_independent is False
    assert {(1, 3, 33, 34), (1, 3, 32, 32), (1, 3, 64, 64), (3, 3, 64, 64)} == set(shapes)


def test_a_network_that_draws_random_numbers_draws_the_same_ones() -> None:
    session = opened(nets.seeded(Noisy)())
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(session.logits(x), session.logits(x))
    found = examined(session)
    assert found.deterministic is False
    assert "random" in found.notes[0]
    state = torch.get_rng_state()
    first = session.logits(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(first, torch.cat([session.logits(image) for image in x.split(1)]))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: nets.Plain(nn.ReLU()), InputSizes(True, 1, 32)),
        (Fixed, InputSizes(False, 0, 32)),
        (Multiples, InputSizes(False, 8, 32)),
    ],
)
def test_input_sizes(network: Any, expected: InputSizes) -> None:
    session = opened(nets.seeded(network)())
    assert input_sizes(session) == expected
    assert examined(session).input_sizes == expected


class Detached(nets.Body):
    def __init__(self) -> None:
        super().__init__()
        self.cut = Cut()

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.cut(F.relu(self.maps(x))))


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach() * 2


class Rounded(nets.Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(torch.round(F.relu(self.maps(x)) * 16) / 16)


def test_a_layer_that_lets_no_gradient_through_is_named() -> None:
    session = opened(nets.seeded(Detached)(), cut=cuts.Cut.at_layers("conv"))
    with pytest.raises(CnnvizError, match=r"No gradient passes through layer cut: gradcam .* layer conv") as raised:
        examined(session)
    assert "occlusion or rise" in raised.value.hint
    assert examined(session, gradient=False).not_run["gradient_reaches_layer"] == "gradcam needs no gradient"


@pytest.mark.parametrize(("bias", "arrives"), [(0.0, True), (-1e3, None)])
def test_units_that_are_clipped_or_silent_on_a_probe_are_no_fault(bias: float, arrives: bool | None) -> None:
    """The strongest unit of ReLU6 is clipped and has no gradient; where none responds, nothing is known."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )  # fmt: skip
    nn.init.constant_(cast(Tensor, network[0].bias), bias)
    with torch.no_grad():
        cast(Tensor, network[0].bias)[0] = 1e3 if arrives else bias
    readout = Readout.units("1", (0, 0))
    found = examined(opened(network, cut=cuts.Cut.at_image(), readout=readout))
    assert found.gradient_reaches_layer is arrives
    assert not [note for note in found.notes if "zero on a probe" in note]
    assert ("gradient_reaches_layer" in found.not_run) == (arrives is None)


class DetachedBetween(nets.Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(F.relu(self.maps(x)).detach())


def test_what_the_forward_itself_detaches_is_named_by_its_place() -> None:
    with pytest.raises(CnnvizError, match="through detach after layer conv: gradcam"):
        examined(opened(nets.seeded(DetachedBetween)(), cut=cuts.Cut.at_layers("conv")))


def test_rounding_has_a_gradient_of_zero() -> None:
    with pytest.raises(CnnvizError, match="No gradient passes through round"):
        examined(opened(nets.seeded(Rounded)(), cut=cuts.Cut.at_layers("conv")))


@pytest.mark.parametrize("check", ["output", "deterministic", "batch_independent", "input_sizes"])
def test_a_check_is_skipped_by_name(check: str) -> None:
    found = examined(opened(nets.seeded(Centred)()), skip=(check,)).to_dict()
    assert found[check] is None
    assert "--skip-check" in found["not_run"][check]


def test_occlusion_of_images_that_change_each_other() -> None:
    """The right values were computed image by image, window by window, with the module alone."""
    network = batch_statistics()
    x = torch.randn(2, 3, 16, 16)
    found = cnnviz.explain(network, x, target=1, method="occlusion", window=8, stride=8)
    with torch.no_grad():
        clean = [float(network(image)[0, 1]) for image in x.split(1)]
        for index, image in enumerate(x.split(1)):
            for row in (0, 1):
                for col in (0, 1):
                    hidden = image.clone()
                    hidden[..., 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 0
                    drop = clean[index] - float(network(hidden)[0, 1])
                    assert float(found.raw[index, row, col]) == pytest.approx(drop, abs=1e-5)
    assert found.logits[:, 1].tolist() == pytest.approx(clean, abs=1e-5)
    assert found.checks["batch_independent"] is False


class Embedding(nets.Body):
    def forward(self, x: Tensor) -> Any:
        v = F.relu(self.maps(x)).mean((2, 3))
        return v, self.fc(v)


def test_the_output_that_the_others_feed_is_explained_and_told() -> None:
    network, x = nets.seeded(Embedding)().eval(), torch.randn(1, 3, 32, 32)
    found = cnnviz.explain(network, x)
    torch.testing.assert_close(found.logits, network(x)[1].detach(), rtol=1e-4, atol=1e-5)
    assert found.checks["output"]["key"] == "1"
    assert any("--logits-key 0" in note for note in found.notes)


class TwoTasks(nets.Body):
    def forward(self, x: Tensor) -> Any:
        v = F.relu(self.maps(x)).mean((2, 3))
        return {"kind": self.fc(v), "colour": self.fc(2 * v)}


def test_two_outputs_that_may_both_be_meant_are_refused_with_their_shapes() -> None:
    with pytest.raises(CnnvizError, match=r"kind \[N, 4\], colour \[N, 4\]") as raised:
        cnnviz.explain(nets.seeded(TwoTasks)().eval(), torch.randn(1, 3, 32, 32))
    assert "--logits-key kind or --logits-key colour" in raised.value.hint


class _TrainingNorm(nn.Module):
    """Puts its own normalisation into training mode, which writes to the running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.fc = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.b.training = True
        return self.fc(torch.relu(self.b(self.c(x))).mean((2, 3)))


def test_buffers_are_left_as_found() -> None:
    network = _TrainingNorm().eval()
    before = [buffer.clone() for buffer in network.buffers()]
    cnnviz.explain(network, torch.randn(2, 3, 10, 12))
    assert all(torch.equal(old, new) for old, new in zip(before, network.buffers(), strict=True))


class _TwoTypes(nn.Module):
    """Converts from float32 to float64 by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.c(x)).mean((2, 3)).double())


def test_a_network_of_two_types_is_left_as_it_is() -> None:
    network, image = _TwoTypes().eval(), torch.randn(1, 3, 12, 14)
    result = cnnviz.explain(network, image, target=1)
    activations = torch.relu(network.c(image)).detach()
    weights = network.fc.weight[1].detach().float() / activations[0, 0].numel()
    expected = torch.relu((weights[None, :, None, None] * activations).sum(1))
    torch.testing.assert_close(result.raw, expected, atol=1e-7, rtol=1e-5)
    assert result.notes == ()


def test_the_contrast_of_a_head_that_takes_the_strongest_position_is_said_to_be_zero() -> None:
    class Strongest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU())
            self.h = nn.Conv2d(64, 10, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.f(x)).amax((2, 3))

    torch.manual_seed(0)
    result = cnnviz.explain(Strongest().eval(), torch.randn(2, 3, 12, 14), "excitation_backprop", contrastive=True)
    assert not result.raw.any()
    assert any("the contrast is zero everywhere" in note for note in result.notes)


def test_no_gradient_between_two_layers_is_said_of_the_units() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.top, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.top(self.stem(x).detach()).mean((2, 3)))
            return out

    with pytest.raises(CnnvizError, match="No gradient passes from the units of layer top to layer stem"):
        cnnviz.explain(
            Cut().eval(),
            torch.randn(1, 3, 9, 9),
            "gradcam",
            target="unit:top:1",
            layer="stem",
            skip_check="gradient_reaches_layer",
        )


class FixedSize(nets.Body):
    """Takes no other size, as a transformer with positions."""

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.pooled(F.relu(self.maps(x)) + self.place)
        return z

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 1, *self.maps(torch.zeros(1, 3, 32, 32)).shape[2:]))


@pytest.mark.parametrize(("precision", "apart"), [("bf16", False), ("fp32", True)])
def test_rounding_by_the_size_of_a_batch_is_not_images_that_change_each_other(
    precision: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of lower precision sum in another order for three images than for one."""
    torch.manual_seed(0)
    session = prepare(
        FixedSize().eval().requires_grad_(False), "net", (3, 32, 32), rt.resolve("cpu", precision), SessionOptions()
    )
    chosen = Session.chosen
    monkeypatch.setattr(Session, "chosen", lambda self, pixels: chosen(self, pixels) * (1 + 0.02 * (len(pixels) - 1)))
    found = examined(session)
    assert found.batch_independent is not apart
    assert session.one_by_one is apart
