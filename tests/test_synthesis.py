"""Images made by gradient ascent: parametrisations, views, penalties and objectives against formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import Preprocess, normalize
from cnnviz.settings import ModelSpec
from cnnviz.synthesis import augmentation as regularise
from cnnviz.synthesis.ascent import AscentOptions, Maker
from cnnviz.synthesis.augmentation import Augmentation
from cnnviz.synthesis.canvas import Pixels, correlation
from cnnviz.synthesis.objectives import (
    Objective,
    Term,
    any_term,
    check,
    likeness,
    mean_square,
    neuron_term,
    unit_term,
    weighted,
)
from cnnviz.synthesis.reader import GradientReader, normalisation, open_reader

CPU = rt.resolve("cpu", "fp32")
DEVICE = CPU.device


class Net(nn.Module):
    """conv - ReLU - conv - norm - ReLU6 - mean - linear."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.ReLU6(inplace=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.norm(self.conv(self.act(self.stem(x))))).mean((2, 3)))


class Untraceable(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert float(x.detach().sum()) < 1e30
        return super().forward(x)


def net(kind: type[Net] = Net, channels: int = 3) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = kind(channels)
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2.0)
        with torch.no_grad():  # as steep as a trained one
            module.stem.weight.mul_(3.0)
            module.fc.weight.mul_(10.0)
    return module.eval().requires_grad_(False)


def spec(channels: int = 3, side: int = 24) -> Preprocess:
    mean = (0.4, 0.45, 0.5)[:channels]
    return Preprocess((channels, side, side), side, mean, (0.25,) * channels, "bilinear")


def opened(module: nn.Module, side: int = 24) -> tuple[Session, object]:
    def again(cut: Cut) -> Session:
        channels = 1 if next(module.parameters()).shape[1] == 1 else 3
        return prepare(module, "net", (channels, side, side), CPU, SessionOptions(cut))

    return again(Cut.before_classifier()), again


def reader_of(module: nn.Module, layers: Sequence[str], *, logits: bool = True, side: int = 24) -> GradientReader:
    session, again = opened(module, side)
    return open_reader(session, layers, again, logits=logits)  # type: ignore[arg-type]


def maker(
    module: nn.Module, layers: Sequence[str] = (), options: AscentOptions | None = None, channels: int = 3
) -> Maker:
    what = spec(channels)
    reader = reader_of(module, layers)
    return Maker(reader, normalisation(what, DEVICE), what.input_size, options or AscentOptions(24, shaking=CALM))


CALM = Augmentation(jitter=2, rotate=0.0, scale=0.0)
CLASS_2 = Term("class", 2)


# Reading.


@pytest.mark.parametrize("kind", [Net, Untraceable])
def test_a_reading_has_the_networks_values_and_gradients(kind: type[Net]) -> None:
    module = net(kind)
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    reading = reader_of(module, ["conv", "stem"]).read(x)
    leaf = x.clone().requires_grad_()
    stem = module.stem(leaf)
    conv = module.conv(F.relu(stem))
    logits = module.fc(F.relu6(module.norm(conv)).mean((2, 3)))
    assert reading.logits is not None
    torch.testing.assert_close(reading.logits, logits)
    torch.testing.assert_close(reading.layers[0], conv)
    torch.testing.assert_close(reading.layers[1], stem)
    (expected,) = torch.autograd.grad(logits[:, 1].sum() + conv.square().mean(), leaf)
    found = reading.gradient(reading.logits[:, 1].sum() + reading.layers[0].square().mean())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_layer_that_is_a_relu_is_read_before_it() -> None:
    module = net()
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    reader = reader_of(module, ["act", "last"], logits=False)
    reading = reader.read(x)
    stem = module.stem(x)
    torch.testing.assert_close(reading.layers[0], stem)
    torch.testing.assert_close(reading.layers[1], module.norm(module.conv(F.relu(stem))), atol=1e-5, rtol=1e-5)
    assert reading.layers[0].min() < 0
    assert reading.logits is None
    assert [layer.name for layer in reader.layers] == ["act", "last"]


def test_a_unit_that_is_off_everywhere_still_rises() -> None:
    module = net()
    module.norm.bias[3] = -50.0
    made = maker(module, ["last"], AscentOptions(20, shaking=CALM)).make(
        Objective([unit_term("last:3")], None, ["last"], "max"), [0]
    )
    assert made.scores[0, 0] < -40
    assert made.scores[-1, 0] > made.scores[0, 0] + 0.1


def test_normalisation_is_the_preprocessing() -> None:
    what = spec()
    levels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.testing.assert_close(normalisation(what, DEVICE)(levels / 255.0), normalize(levels, what))


# Objectives.


def test_weights_and_names() -> None:
    assert weighted("0.5*layer4:12") == (0.5, "layer4:12")
    assert weighted(" -2*a.b:3 ") == (-2.0, "a.b:3")
    assert weighted("1e-1*x:0") == (0.1, "x:0")
    assert weighted("stage:3") == (1.0, "stage:3")
    assert unit_term("0.5*layer4:12") == Term("unit", 12, "layer4", None, 0.5, "layer4:12")
    assert unit_term("relu:1:7").layer == "relu:1"
    assert neuron_term("a.b:3:4:5") == Term("neuron", 3, "a.b", (4, 5), 1.0, "a.b:3:4:5")
    assert neuron_term("a.b:3").place is None
    classes = {"hen": 8, "8": 8}

    def term(text: str) -> Term:
        return any_term(text, lambda name: classes[name], lambda index: f"class {index}", "--minus")

    for text in ("hen", "class:hen", "8", "class:8"):
        assert term(text) == Term("class", 8, label="class 8")
    assert term("3*hen").weight == 3.0
    assert term("layer4:12") == unit_term("layer4:12")
    assert term("2*relu:1:12") == unit_term("2*relu:1:12")
    assert term("layer4:12:3:4") == neuron_term("layer4:12:3:4")
    assert term("relu:0:12:3:4") == neuron_term("relu:0:12:3:4")
    assert Term("class", 8, weight=-1.0, label="hen").text == "-hen"


@pytest.mark.parametrize("text", ["layer4", ":3", "layer4:x", "layer4:", "layer4:-1"])
def test_what_names_no_unit_is_refused(text: str) -> None:
    with pytest.raises(CnnvizError, match="expected LAYER:K"):
        unit_term(text)


def test_objectives_add_and_subtract() -> None:
    module = net()
    reader = reader_of(module, ["conv", "stem"])
    reading = reader.read(torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0)))
    conv, stem, logits = reading.layers[0], reading.layers[1], reading.logits
    assert logits is not None
    terms = [
        Term("class", 2),
        unit_term("0.5*conv:1"),
        neuron_term("-2*stem:3:4:5"),
        neuron_term("conv:0"),
        Term("layer", layer="stem", weight=0.25),
    ]
    square = torch.where(stem > 0, stem**2, 0.01 * stem).mean((1, 2, 3))
    values = [logits[:, 2], conv[:, 1].mean((1, 2)), stem[:, 3, 4, 5], conv[:, 0, 6, 6], square]
    expected = sum(w * v for w, v in zip((1, 0.5, -2, 1, 0.25), values, strict=True))
    torch.testing.assert_close(Objective(terms, None, ["conv", "stem"])(reading), expected)
    by_max = Objective([unit_term("conv:1")], None, ["conv", "stem"], "max")(reading)
    torch.testing.assert_close(by_max, conv[:, 1].amax((1, 2)))
    apart = Objective(terms, torch.eye(5)[:3], ["conv", "stem"])
    torch.testing.assert_close(apart(reading), torch.stack([values[i][i] for i in range(3)]))
    torch.testing.assert_close(apart.of(slice(1, 2)).weights, torch.eye(5)[1:2])
    torch.testing.assert_close(mean_square(stem), square)


def test_units_that_do_not_exist_are_refused() -> None:
    reader = reader_of(net(), ["conv"])
    with pytest.raises(CnnvizError, match="Unit 8 does not exist: layer conv has 8"):
        check([unit_term("conv:8")], reader, ["conv"])
    with pytest.raises(CnnvizError, match="12x12 positions"):
        check([neuron_term("conv:7:12:0")], reader, ["conv"])
    check([neuron_term("conv:7:11:11")], reader, ["conv"])


def test_likeness_is_the_mean_cosine_of_gram_matrices() -> None:
    values = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    features = np.maximum(values.numpy(), 0).reshape(3, 4, 30)
    grams = [f @ f.T for f in features]
    cosines = [
        (grams[a] * grams[b]).sum() / (np.linalg.norm(grams[a]) * np.linalg.norm(grams[b]))
        for a in range(3)
        for b in range(3)
        if a != b
    ]
    assert float(likeness(values)) == pytest.approx(np.mean(cosines), rel=1e-12)
    assert float(likeness(values[:1])) == 0.0


# The ascent.


@pytest.mark.parametrize("parametrisation", ["fourier", "pixel"])
@pytest.mark.parametrize("optimiser", ["adam", "gradient"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_score_of_the_written_image_is_higher(parametrisation: str, optimiser: str, channels: int) -> None:
    module = net(channels=channels)
    options = AscentOptions(24, parametrisation, optimiser, shaking=CALM)
    made = maker(module, (), options, channels).make(Objective([CLASS_2], None, []), [0, 1])
    assert made.images.shape == (2, channels, 24, 24)
    assert made.images.dtype == torch.uint8
    after = module(normalize(made.images, spec(channels)))[:, 2]
    assert (after > made.scores[0] + 0.1).all()


def test_one_step_of_the_gradient_is_the_gradient_over_its_size() -> None:
    module, what = net(), spec()
    options = AscentOptions(1, "pixel", "gradient", 0.01, l2=3.0, tv=5.0, shaking=Augmentation(0, 0.0, 0.0))
    start = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25
    made = maker(module, (), options).make(Objective([CLASS_2], None, []), [0, 1], start)
    x = start.clone().requires_grad_()
    score = module((x - torch.tensor(what.mean)[:, None, None]) / 0.25)[:, 2]
    goal = score - 3.0 * ((x - 0.5) ** 2).mean((1, 2, 3)) - 5.0 * regularise.total_variation(x)
    (g,) = torch.autograd.grad(goal.sum(), x)
    expected = start + 0.01 * g / g.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(made.images.float() / 255, expected.clamp(0, 1), atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(made.scores[0], score.detach())


def test_the_same_seed_makes_the_same_image_whatever_stands_beside_it() -> None:
    making = maker(net(), (), AscentOptions(8, shaking=Augmentation(2, 10.0, 0.1)))
    goal = Objective([CLASS_2], None, [])
    pair, again, single = making.make(goal, [7, 8]), making.make(goal, [7, 8]), making.make(goal, [8])
    assert torch.equal(pair.images, again.images)
    assert torch.equal(pair.scores, again.scores)
    assert (pair.images[1].int() - single.images[0].int()).abs().max() <= 1
    assert (pair.images[0].int() - pair.images[1].int()).abs().float().mean() > 2


def test_diversity_makes_images_differ_more() -> None:
    module = net()
    found = []
    for weight in (0.0, 20.0):
        options = AscentOptions(40, shaking=CALM, diversity=weight)
        making = maker(module, ["conv"], options)
        making = Maker(making.reader, making.normalise, making.size, options, diversity_layer=0)
        made = making.make(Objective([CLASS_2], None, ["conv"]), [0, 1, 2])
        reading = making.reader.read(normalize(made.images, spec()))
        found.append(float(likeness(reading.layers[0].detach())))
    assert found[1] < found[0] - 0.02


def test_pixels_stay_in_their_range_and_watchers_see_them() -> None:
    making = maker(net(), (), AscentOptions(9, "pixel", "gradient", 0.5, blur=0.7, shaking=CALM))
    frames: list[tuple[int, Tensor, Tensor]] = []
    made = making.make(
        Objective([CLASS_2], None, []), [0], None, lambda step, score, image: frames.append((step, score(), image()))
    )
    assert [step for step, _, _ in frames] == list(range(9))
    assert torch.equal(torch.stack([score for _, score, _ in frames]), made.scores)
    assert torch.equal(frames[-1][2], made.images)
    assert made.images.min() == 0
    assert made.images.max() == 255


def test_blur_takes_detail_away() -> None:
    rough = []
    for sigma in (0.0, 1.0):
        making = maker(net(), (), AscentOptions(20, "pixel", blur=sigma, shaking=CALM))
        images = making.make(Objective([CLASS_2], None, []), [0]).images.double() / 255
        rough.append(float(regularise.total_variation(images)))
    assert rough[1] < 0.5 * rough[0]


def test_a_score_that_is_no_number_is_an_error() -> None:
    module = net()
    module.fc.bias[2] = float("nan")
    with pytest.raises(CnnvizError, match="infinite or NaN"):
        maker(module, (), AscentOptions(3, shaking=CALM)).make(Objective([CLASS_2], None, []), [0])


def test_pixels_start_as_faint_noise_on_grey() -> None:
    image = Pixels.of_noise((3, 16, 16), [0], DEVICE).image()
    assert float((image - 0.5).detach().std()) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(correlation(1), torch.eye(1))


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    loaded = load(ModelSpec(input_size=(3, 128, 128)))  # a third of the pixels that it is trained on
    size = loaded.preprocess.input_size
    return loaded, prepare(loaded.module, loaded.name, size, CPU, SessionOptions(Cut.before_classifier()))


# Goldfish, hen, macaw, flamingo, red fox, lion, zebra, balloon, sports car, volcano.
@pytest.mark.slow
@pytest.mark.parametrize("wanted", [(1, 8), (88, 130), (277, 291), (340, 417), (817, 980)])
def test_ten_classes_of_imagenet_are_reached_by_the_bundled_model(wanted: tuple[int, int], bundled: Any) -> None:
    """With the default views, within 80 of the default 128 steps."""
    loaded, session = bundled
    reader = open_reader(session, [], lambda layers: session, logits=True)
    options = AscentOptions(80, l2=3.0, tv=30.0, shaking=Augmentation(18, 20.0, 0.5))
    making = Maker(reader, normalisation(loaded.preprocess, DEVICE), loaded.preprocess.input_size, options)
    terms = [Term("class", index) for index in wanted]
    made = making.make(Objective(terms, torch.eye(2), []), [0, 1])
    shares = session.logits(normalize(made.images, loaded.preprocess)).softmax(dim=1)
    assert [float(shares[i, index]) >= 0.9 for i, index in enumerate(wanted)] == [True, True]
    # A picture, not grey noise: the levels spread over the range.
    assert (made.images.float().std(dim=(1, 2, 3)) > 12).all()
