"""DeepDream: octaves, tiles, jitter and guides against the untiled, unjittered computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.errors import CnnvizError
from cnnviz.models.preprocess import Preprocess
from cnnviz.synthesis.deepdream import DreamOptions, dream, gradient_of, guided_by, octave_sizes, resized, spans
from cnnviz.synthesis.objectives import leaky_square
from cnnviz.synthesis.reader import GradientReader, Normalisation, normalisation, open_reader
from tests.support import digits
from tests.support.runs import TINY, ran

CPU = rt.resolve("cpu", "fp32")
SPEC = Preprocess((3, 32, 32), 32, (0.4, 0.45, 0.5), (0.2, 0.25, 0.3), "bilinear")


class Net(nn.Module):
    """The layer "b" has stride 4 and sees 11 pixels; a linear head that fits one size only must not be run."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 5, stride=2, padding=2)
        self.act = nn.ReLU()
        self.b = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.last = nn.ReLU()
        self.fc = nn.Linear(7 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.b(self.act(self.a(x)))).flatten(1))


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reader(net: Net) -> GradientReader:
    session = prepare(net, "net", (3, 32, 32), CPU, SessionOptions(Cut.before_classifier()))
    return open_reader(session, ["last"], lambda layers: session, logits=False)


@pytest.fixture(scope="module")
def normalise() -> Normalisation:
    return normalisation(SPEC, CPU.device)


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def direct(net: Net, image: Tensor, energy: Any = leaky_square) -> tuple[Tensor, float]:
    """The gradient through the whole image at once, by autograd on the modules."""
    leaf = image.clone().requires_grad_()
    mean, std = (torch.tensor(v)[:, None, None] for v in (SPEC.mean, SPEC.std))
    values = energy(net.b(F.relu(net.a((leaf - mean) / std))))
    return torch.autograd.grad(values.sum(), leaf)[0], float(values.detach().mean())


def test_the_gradient_is_that_of_the_mean_square(net: Net, reader: GradientReader, normalise: Normalisation) -> None:
    image = photo(41, 57)
    found, score = gradient_of(image, reader, normalise, DreamOptions(jitter=0), torch.Generator())
    expected, mean = direct(net, image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert score == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("height", "width", "tile"), [(150, 97, 32), (64, 200, 48), (90, 90, 45)])
def test_tiles_with_enough_overlap_give_the_gradient_of_the_whole(
    net: Net, reader: GradientReader, normalise: Normalisation, height: int, width: int, tile: int, seed: int
) -> None:
    image = photo(height, width)
    options = DreamOptions(jitter=0, tile=tile, overlap=24)
    found, _ = gradient_of(image, reader, normalise, options, torch.Generator().manual_seed(seed))
    expected, _ = direct(net, image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_tiles_without_overlap_do_not(net: Net, reader: GradientReader, normalise: Normalisation) -> None:
    """What the test above would not see if tiles were never used."""
    options = DreamOptions(jitter=0, tile=32, overlap=0)
    found, _ = gradient_of(photo(150, 97), reader, normalise, options, torch.Generator())
    assert (found - direct(net, photo(150, 97))[0]).abs().max() > 1e-2


def test_jitter_is_the_gradient_of_a_shifted_mirrored_image(
    net: Net, reader: GradientReader, normalise: Normalisation
) -> None:
    image, jitter = photo(40, 50), 6
    generator = torch.Generator().manual_seed(3)
    above, left = torch.randint(0, jitter + 1, (2,), generator=torch.Generator().manual_seed(3)).tolist()
    found, _ = gradient_of(image, reader, normalise, DreamOptions(jitter=jitter), generator)
    wide = F.pad(image, (left, jitter - left, above, jitter - above), mode="reflect")
    expected, _ = direct(net, wide)
    torch.testing.assert_close(found, expected[:, :, above : above + 40, left : left + 50], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "tile", "overlap", "stride", "moved"), [
    (150, 32, 24, 4, 8), (97, 32, 5, 8, 24), (64, 48, 0, 1, 47), (33, 32, 64, 16, 0), (500, 60, 8, 16, 48),
])  # fmt: skip
def test_spans_cover_a_side_once_on_the_grid(length: int, tile: int, overlap: int, stride: int, moved: int) -> None:
    found = list(spans(length, tile, overlap, stride, moved))
    assert len(found) > 1
    assert [p for start, stop, _, _ in found for p in range(start, stop)] == list(range(length))
    for start, stop, low, high in found:
        assert stop - start <= tile
        assert start % stride == 0
        assert low % stride == 0
        assert low == max(0, low)
        assert low <= max(0, start - overlap)
        assert high >= min(length, stop + overlap)
    assert list(spans(tile, tile, overlap, stride, moved)) == [(0, tile, 0, tile)]


def test_octaves() -> None:
    assert octave_sizes((400, 300), DreamOptions(octaves=3, octave_scale=2.0)) == [(100, 75), (200, 150), (400, 300)]
    assert octave_sizes((100, 60), DreamOptions(octaves=4, octave_scale=2.0)) == [(100, 60)]
    assert octave_sizes((8, 8), DreamOptions()) == [(8, 8)]


def test_detail_is_carried_over_octaves(net: Net, reader: GradientReader, normalise: Normalisation) -> None:
    """Two octaves of one step each, written out."""
    image = photo(80, 64) * 0.5 + 0.25
    options = DreamOptions(octaves=2, octave_scale=2.0, steps=1, step_size=0.02, jitter=0)
    found = dream(image, reader, normalise, options, 0)

    def step(x: Tensor) -> Tensor:
        gradient, _ = direct(net, x)
        return (x + 0.02 * gradient / gradient.abs().mean()).clamp(0, 1)

    small = resized(image, (40, 32))
    detail = step(small) - small
    expected = step((image + resized(detail, (80, 64))).clamp(0, 1))
    torch.testing.assert_close(found.image, expected, atol=1e-4, rtol=0)
    assert found.sizes == ((40, 32), (80, 64))


def test_the_score_rises_and_the_same_seed_gives_the_same_dream(
    reader: GradientReader, normalise: Normalisation
) -> None:
    image = photo(70, 90) * 0.5 + 0.25
    options = DreamOptions(octaves=2, steps=8, step_size=0.02, jitter=4, tile=40, overlap=16)
    one, two, other = (dream(image, reader, normalise, options, seed) for seed in (5, 5, 6))
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, other.image)
    assert one.image.shape == image.shape
    for scores in one.scores:
        assert scores[-1] > 1.2 * scores[0]


def test_a_guide_draws_every_position_to_its_nearest_feature(
    net: Net, reader: GradientReader, normalise: Normalisation
) -> None:
    guide = reader.read(normalise(photo(32, 48, seed=9))).layers[0]
    image = photo(36, 28)
    found, _ = gradient_of(image, reader, normalise, DreamOptions(jitter=0), torch.Generator(), guided_by(guide))
    features = np.maximum(guide.detach().numpy()[0].reshape(7, -1), 0)
    leaf = normalise(image).requires_grad_()
    values = net.b(F.relu(net.a(leaf)))
    own = np.maximum(values.detach().numpy()[0].reshape(7, -1), 0)
    # Google's notebook: dst.diff[0].reshape(ch, -1)[:] = y[:, A.argmax(1)]
    diff = torch.from_numpy(features[:, (own.T @ features).argmax(1)].reshape(values.shape))
    (expected,) = torch.autograd.grad(values, leaf, diff)
    torch.testing.assert_close(found, expected * normalise.factor, atol=1e-5, rtol=1e-4)


def test_a_layer_that_is_off_everywhere_still_has_a_gradient(net: Net, normalise: Normalisation) -> None:
    with torch.no_grad():
        dead = Net().eval().requires_grad_(False)
        dead.b.bias.fill_(-100.0)
    session = prepare(dead, "net", (3, 32, 32), CPU, SessionOptions(Cut.before_classifier()))
    reader = open_reader(session, ["last"], lambda layers: session, logits=False)
    gradient, _ = gradient_of(photo(40, 40), reader, normalise, DreamOptions(jitter=0), torch.Generator())
    expected, _ = direct(dead, photo(40, 40), lambda v: 0.01 * v)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert gradient.abs().max() > 1e-4


# The command.


def run(inputs: Path, out: Path, model: Any = TINY, layer: str = "", **params: Any) -> dict[str, Any]:
    layers = (layer,) if layer else ()
    report, result, _ = ran("dream", [inputs], out, model=model, layers=layers, params=params, seed=4, overwrite=True)
    assert result.exit_code == 0
    return report


@pytest.mark.parametrize("size", [(97, 61), (64, 64), (33, 140)])
def test_the_dream_has_the_size_of_its_input(tmp_path: Path, sample_images: Path, size: tuple[int, int]) -> None:
    source = tmp_path / "in.png"
    Image.open(sample_images / "cat.jpg").convert("RGB").resize(size).save(source)
    report = run(source, tmp_path / "out", octaves=2, steps=6, tile=48, overlap=16, jitter=0)
    [row] = report["images"]
    made = np.array(Image.open(tmp_path / "out" / row["files"]["dream"]))
    before = np.array(Image.open(source))
    assert made.shape == before.shape
    change = np.abs(made.astype(int) - before).mean()
    assert 0.5 < change < 20
    assert [octave["size"] for octave in row["octaves"]][-1] == list(size)
    assert all(octave["scores"][-1] > octave["scores"][0] for octave in row["octaves"])
    assert len(row["dream_predictions"]) == 5


def test_a_guide_changes_the_dream(tmp_path: Path, sample_images: Path) -> None:
    source = tmp_path / "in.png"
    Image.open(sample_images / "cat.jpg").convert("RGB").resize((64, 64)).save(source)
    made = []
    for guide in (None, str(sample_images / "espresso.jpg")):
        report = run(source, tmp_path / "out", octaves=1, steps=3, jitter=0, guide=guide)
        made.append(np.array(Image.open(tmp_path / "out" / report["images"][0]["files"]["dream"])).astype(int))
    assert np.abs(made[0] - made[1]).mean() > 0.5


@pytest.mark.parametrize(("params", "said"), [
    ({"guide": "no-such.png"}, "no-such"),
    ({"guide": "pyproject.toml"}, "pyproject.toml"),
])  # fmt: skip
def test_a_guide_that_is_no_image_is_refused(
    tmp_path: Path, sample_images: Path, params: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sample_images.parent)
    with pytest.raises(CnnvizError, match=said):
        run(sample_images, tmp_path / "out", **params)


def test_a_grey_network_dreams_in_brightness(tmp_path: Path, sample_images: Path) -> None:
    model = digits.trained(tmp_path)
    source = tmp_path / "in.png"
    Image.open(sample_images / "cat.jpg").convert("RGB").resize((40, 48)).save(source)
    report = run(source, tmp_path / "out", model, layer="3", octaves=1, steps=3, jitter=2)
    made = np.array(Image.open(tmp_path / "out" / report["images"][0]["files"]["dream"])).astype(int)
    before = np.array(Image.open(source)).astype(int)
    assert made.shape == before.shape
    change = made - before
    inside = ((made > 0) & (made < 255)).all(axis=2)
    assert np.abs(change[inside] - change[inside][:, :1]).max() <= 1  # the same in every channel
    assert np.abs(change).mean() > 1
