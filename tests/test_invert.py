"""Feature inversion: what an invertible layer keeps comes back, what another drops does not; records and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnviz.cli.app import main
from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.errors import CnnvizError
from cnnviz.models.preprocess import Preprocess
from cnnviz.synthesis.ascent import AscentOptions, Maker
from cnnviz.synthesis.augmentation import Augmentation
from cnnviz.synthesis.inversion import likeness_to, normalised_error
from cnnviz.synthesis.reader import normalisation, open_reader
from tests.support.pictures import photograph
from tests.support.report_schema import problems
from tests.support.runs import tiny_options

CPU = rt.resolve("cpu", "fp32")
SPEC = Preprocess((3, 16, 16), 16, (0.4, 0.45, 0.5), (0.2, 0.25, 0.3), "bilinear")
# Mixes three colours into three others, all different and far from singular; the second forgets all but one.
MIXED = [[1.0, 0.3, -0.2], [0.2, -0.8, 0.5], [-0.4, 0.1, 0.9]]
GREY = [[0.3, 0.6, 0.1]]
STILL = Augmentation(jitter=0, rotate=0.0, scale=0.0)


def maker(weights: list[list[float]], relu: bool, options: AscentOptions) -> Maker:
    """Of a network whose layer ``0`` (``1`` with a ReLU behind it) mixes the colours of each pixel."""
    mixing = nn.Conv2d(3, len(weights), 1, bias=False)
    mixing.weight.data = torch.tensor(weights)[:, :, None, None]
    layers: list[nn.Module] = [mixing, *([nn.ReLU()] if relu else [])]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(len(weights), 2))
    network = network.eval().requires_grad_(False)
    session = prepare(network, "net", (3, 16, 16), CPU, SessionOptions(Cut.before_classifier()))
    reader = open_reader(session, ["1" if relu else "0"], lambda cut: session, logits=False)
    return Maker(reader, normalisation(SPEC, CPU.device), (3, 16, 16), options)


def smooth(seed: int = 0) -> Tensor:
    """[1, 3, 16, 16] in 0.2 to 0.8."""
    drawn = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * nn.functional.interpolate(drawn, (16, 16), mode="bilinear")


def inverted(made_by: Maker, image: Tensor) -> tuple[Tensor, Tensor]:
    """What was found, in 0 to 1, and the values that it was to have."""
    wanted = made_by.reader.read(made_by.normalise(image)).layers[0].detach()
    return made_by.make(likeness_to(wanted, "layer"), [0]).images.float() / 255, wanted


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("param", ["pixel", "fourier"])
def test_a_layer_that_keeps_all_gives_the_image_back(param: str, relu: bool) -> None:
    """Behind a ReLU too: the layer is read before it."""
    options = AscentOptions(steps=300, parametrisation=param, shaking=STILL)
    found, _ = inverted(maker(MIXED, relu, options), smooth())
    assert (found - smooth()).abs().max() < 0.03


def test_a_layer_that_forgets_colours_gives_the_brightness_back_and_not_the_colours() -> None:
    made_by = maker(GREY, False, AscentOptions(steps=300, parametrisation="pixel", shaking=STILL))
    found, wanted = inverted(made_by, smooth())
    got = made_by.reader.read(made_by.normalise(found)).layers[0].detach()
    # By hand, in the network's own values.
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (SPEC.mean, SPEC.std))
    values = [
        (torch.tensor(GREY[0]).double()[:, None, None] * (each.double() - mean) / std).sum(1)
        for each in (found, smooth())
    ]
    error = float((values[0] - values[1]).square().sum() / values[1].square().sum())
    assert float(normalised_error(got, wanted)) == pytest.approx(error, rel=1e-4)
    assert error < 1e-3
    assert (found - smooth()).abs().max() > 0.1


def test_the_error_has_the_energy_of_the_image_as_its_unit() -> None:
    wanted = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    several = torch.cat([wanted, torch.zeros_like(wanted), 2 * wanted, -wanted])
    torch.testing.assert_close(normalised_error(several, wanted), torch.tensor([0.0, 1.0, 1.0, 4.0]))
    with pytest.raises(CnnvizError, match="All values of layer x are zero"):
        likeness_to(torch.zeros(1, 2, 3, 4), "x")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("invert")
    for number in range(2):
        Image.fromarray(photograph(number, (72, 60))).save(folder / f"{number}.png")
    Image.new("RGB", (70, 70), (124, 116, 104)).save(folder / "broken.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def run(out: Path, to: str, *words: str, inputs: str = "") -> dict[str, Any]:
    given = str(out / inputs) if inputs else str(out)
    code = main(["invert", given, *tiny_options(), "-o", str(out / to), "-q", "--overwrite", *words])
    assert code in (0, 3)
    report: dict[str, Any] = json.loads((out / to / "report.json").read_text())
    assert problems(report) == []
    return report


def test_a_run(out: Path) -> None:
    report = run(out, "o", "--steps", "12", "--layer", "0", "--layer", "-1", "--starts", "2")
    rows = {row["name"]: row for row in report["images"]}
    assert rows["broken.png"]["error"] is not None
    for name in ("0.png", "1.png"):
        made = rows[name]["inversions"]
        assert [(each["layer"], each["start"]) for each in made] == [("0", 0), ("4", 0), ("0", 1), ("4", 1)]
        for each in made:
            assert len(each["errors"]) == 12
            assert each["errors"][-1] < each["errors"][0]
            # The error of the file: what another run over it would be told, if it had not to resize it.
            assert each["error"] == pytest.approx(each["errors"][-1], rel=0.2)
            with Image.open(out / "o" / each["file"]) as picture:
                assert picture.size == (64, 64)
        first, second = (np.asarray(Image.open(out / "o" / made[at]["file"])) for at in (0, 2))
        assert (first != second).any()
    # Alone it is the same.
    alone = run(out, "p", "--steps", "12", "--layer", "0", "--layer", "-1", "--starts", "2", inputs="1.png")
    assert alone["images"][0]["inversions"] == rows["1.png"]["inversions"]


def test_a_layer_that_is_named_twice_is_inverted_once(out: Path) -> None:
    row = run(out, "t", "--steps", "2", "--layer", "-1", "--layer", "4", "--layer", "0", inputs="0.png")["images"][0]
    assert [each["layer"] for each in row["inversions"]] == ["4", "0"]


def test_stages_from_the_first_to_the_last_are_the_default(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invert", str(out / "0.png"), *tiny_options(), "-o", str(out / "d"), "--steps", "2"]) == 0
    assert "no --layer was named: 2, 4 are inverted" in capsys.readouterr().err
    words = [str(out / "0.png"), *tiny_options(), "-o", str(out / "e"), "--tracing", "off"]
    assert main(["invert", *words]) == 2
    assert "Name one or several with --layer." in capsys.readouterr().err
