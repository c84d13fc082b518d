"""``cnnviz adversarial`` of segmentation networks, against the attack and the figures worked out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cnnviz.attacks.linf import of_function, without_gradient
from cnnviz.attacks.regions import RegionGoal
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize
from cnnviz.settings import ModelSpec
from cnnviz.studies.adversarial.change import change
from tests.support import segment_network
from tests.support.pictures import photograph
from tests.support.runs import Quiet, ran

PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
COLOURS = ModelSpec(model=f"{segment_network.__file__}:make", input_size=(3, 64, 64), resize=64, **PLAIN)
UNET = ModelSpec(model=f"{segment_network.__file__}:unet", input_size=(3, 24, 32), view="squash", **PLAIN)


def run(inputs: Path, out: Path, model: ModelSpec = UNET, **more: Any) -> tuple[dict[str, Any], Quiet]:
    report, result, told = ran("adversarial", [inputs], out, device="cpu", batch_size=3, workers=1, model=model, **more)
    assert result.exit_code in (0, 3)
    return report, told


def pixels(path: Path) -> Tensor:
    """uint8 [1, 3, H, W]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures at the size of the U-Net's input."""
    folder = tmp_path_factory.mktemp("small")
    for seed in range(3):
        Image.fromarray(photograph(seed, (32, 24))).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red and a green square on black."""
    folder = tmp_path_factory.mktemp("colours")
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    rgb[8:32, 8:32, 0], rgb[40:56, 40:56, 1] = 255, 255
    Image.fromarray(rgb).save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("box", [None, (4, 6, 16, 12)])
def test_fgsm_is_a_step_along_the_sign_of_the_mean_cross_entropy(
    small: Path, tmp_path: Path, target: int | None, box: tuple[int, int, int, int] | None
) -> None:
    targets = () if box is None else (f"class:0@box:{','.join(map(str, box))}",)
    params = {"attack": "fgsm", "epsilon": "6/255", "at": "input"}
    params |= {} if target is None else {"target_class": str(target)}
    report, _ = run(small, tmp_path, targets=targets, params=params)
    network, spec = segment_network.unet(), load(UNET).preprocess
    for row in report["images"]:
        clean = pixels(Path(row["path"]))
        leaf = normalize(clean, spec).requires_grad_()
        logits = network(leaf)
        before = logits.argmax(1)
        inside = torch.zeros(1, 24, 32)
        x, y, width, height = box or (0, 0, 32, 24)
        inside[:, y : y + height, x : x + width] = 1
        wanted = before if target is None else torch.full_like(before, target)
        entropy = (F.cross_entropy(logits, wanted, reduction="none") * inside).sum() / inside.sum()
        (gradient,) = torch.autograd.grad(entropy, leaf)
        step = 6 * gradient.sign() * (1 if target is None else -1)
        expected = (clean + step).clamp(0, 255).to(torch.uint8)
        written = pixels(tmp_path / row["files"]["adversarial"])
        sure = gradient.abs() > 1e-4 * gradient.abs().max()
        assert bool((expected == written)[sure].all())
        assert sure.float().mean() > 0.3
        with torch.no_grad():
            after = network(normalize(written, spec)).argmax(1)
        region = inside.bool()
        assert row["pixels_changed"] == pytest.approx(float((before != after)[region].float().mean()), abs=1e-6)
        ious = []
        for index in before.unique():
            was, now = (before == index).flatten().tolist(), (after == index).flatten().tolist()
            both = sum(a and b for a, b in zip(was, now, strict=True))
            ious.append(both / sum(a or b for a, b in zip(was, now, strict=True)))
        assert row["mean_iou_lost"] == pytest.approx(1 - sum(ious) / len(ious), abs=1e-6)
        reached = None if target is None else float((after == target)[region].float().mean())
        assert row["target_share"] == (None if reached is None else pytest.approx(reached, abs=1e-6))
        assert row["region_area"] == pytest.approx(float(inside.mean()))
        with np.load(tmp_path / row["files"]["predictions"]) as stored:
            assert np.array_equal(stored["before"], before[0].numpy())
            assert np.array_equal(stored["after"], after[0].numpy())
    figures = report["summary"]["adversarial"]
    for key in ("pixels_changed", "mean_iou_lost"):
        assert figures[f"mean_{key}"] == pytest.approx(np.mean([row[key] for row in report["images"]]))


@pytest.mark.parametrize(("epsilon", "changed"), [("120/255", 0.0), ("135/255", 1.0)])
def test_red_becomes_another_colour_where_it_is_half_gone(
    colours: Path, tmp_path: Path, epsilon: str, changed: float
) -> None:
    """Within epsilon red falls to 1 - e and the others rise to e: inside the square, they are ahead from 1/2 on."""
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(segment_network.CLASSES))
    model = ModelSpec(model=COLOURS.model, input_size=(3, 64, 64), resize=64, labels=str(labels), **PLAIN)
    report, _ = run(
        colours, tmp_path / "out", model, targets=("class:red@box:12,12,16,16",), params={"epsilon": epsilon}
    )
    [row] = report["images"]
    assert row["region"] == ["class:red@box:12,12,16,16"]
    assert row["pixels_changed"] == changed
    assert row["linf"] <= eval_fraction(epsilon) + 1e-9
    for name in row["files"].values():
        assert (tmp_path / "out" / name).stat().st_size > 0


def eval_fraction(text: str) -> float:
    above, below = text.split("/")
    return int(above) / int(below)


def test_all_of_it_becomes_a_class(colours: Path, tmp_path: Path) -> None:
    report, told = run(colours, tmp_path, COLOURS, params={"target_class": "3", "epsilon": "140/255", "steps": 4})
    [row] = report["images"]
    assert (row["to"], row["region"], row["region_area"]) == ("class 3", [], 1.0)
    assert (row["target_share_before"], row["target_share"]) == (0.0, 1.0)
    assert row["adversarial_predictions"][0] == {**row["adversarial_predictions"][0], "class_index": 3, "area": 1.0}
    assert report["summary"]["adversarial"]["mean_target_share"] == 1.0
    assert row["figures"][0]["caption"] == "class 3: from 0.0 % to 100.0 % of the region"
    assert any("scores at positions" in note for note in told.notes)


def test_what_is_that_class_already_is_not_attacked(colours: Path, tmp_path: Path) -> None:
    more = {"targets": ("class:1@box:12,12,8,8",), "params": {"target_class": "1"}}
    report, _ = run(colours, tmp_path, COLOURS, **more)
    found = report["summary"]["adversarial"]
    assert (found["attacked"], found["already"], found["mean_pixels_changed"]) == (0, 1, None)
    options = {"device": "cpu", "model": COLOURS, "workers": 1}
    _, result, _ = ran("adversarial", [colours], tmp_path / "again", **options, **more)
    assert result.exit_code == 3, "there was nothing to measure"
    assert result.sentences[0].startswith("nothing was measured: what would be attacked is ")
    assert report["images"][0]["linf"] == 0


def test_an_image_without_the_region_is_a_row(colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [str(colours), str(tmp_path / "black.png")]
    Image.new("RGB", (64, 64)).save(names[1])
    report, result, _ = ran("adversarial", names, out, model=COLOURS, targets=("class:1", "class:3"), device="cpu")
    assert result.exit_code == 3
    first, black = report["images"]
    assert first["region"] == ["class:1"]
    assert first["unmatched"] == [{"spec": "3", "reason": "class 3 is found nowhere in this image"}]
    assert "class 1 is found nowhere" in black["error"]["message"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"params": {"attack": "deepfool"}}, "no single border to reach"),
        ({"params": {"attack": "cw"}}, "no single border to reach"),
        ({"params": {"curve": "0,1"}}, "--curve 0,1 is of networks with one prediction"),
        ({"params": {"explain": "gradcam"}}, "--explain gradcam is of networks with one prediction"),
        ({"activation": "sigmoid"}, "a position may have several classes"),
        ({"targets": ("diff:0,1",)}, "expected the region to attack"),
        ({"targets": ("unit:encoder:1",)}, "expected the region to attack"),
    ],
)
def test_what_makes_no_sense_is_refused(colours: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(CnnvizError, match=message):
        run(colours, tmp_path / "out", COLOURS, **more)
    assert not list((tmp_path / "out").glob("*.json*"))


def test_a_run_goes_on_where_it_stopped(small: Path, tmp_path: Path) -> None:
    whole, _ = run(small, tmp_path / "a", params={"steps": 2})
    run(small, tmp_path / "b", params={"steps": 2}, limit=1)
    again, _ = run(small, tmp_path / "b", params={"steps": 2}, resume=True)
    assert again["summary"]["adversarial"] == whole["summary"]["adversarial"]


@pytest.mark.parametrize("targeted", [False, True])
def test_the_goal_of_a_region(targeted: bool) -> None:
    """Loss, share and whether it is met, position by position; a gradient of zero is seen as one."""
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(0, 3, (2, 4, 5))
    weights = torch.rand(2, 4, 5, dtype=torch.float64)
    goal = RegionGoal(classes, weights, targeted)
    for image in range(2):
        loss = share = 0.0
        for row in range(4):
            for column in range(5):
                scores, own = logits[image, :, row, column], int(classes[image, row, column])
                weight = float(weights[image, row, column])
                loss += weight * -float(scores.log_softmax(0)[own]) * (-1 if targeted else 1)
                share += weight * ((int(scores.argmax()) == own) == targeted)
        total = float(weights[image].sum())
        assert float(goal.loss(logits)[image]) == pytest.approx(loss / total)
        assert float(goal.excess(logits)[image]) == pytest.approx(share / total - 1)
    assert not goal.met(logits, 0.0).any()
    sure = F.one_hot(classes if targeted else (classes + 1) % 3, 3).permute(0, 3, 1, 2).double()
    assert goal.met(sure, 0.5).all()
    assert not goal.met(sure, 1.0).any()  # by no more than the largest logit
    flat = of_function(lambda images: images[:, :1, :4, :5] * torch.tensor([0.0, 0.0, 0.0])[None, :, None, None])
    assert without_gradient(flat, torch.rand(2, 3, 8, 8), RegionGoal(classes, weights.float(), targeted)).all()


def test_shares_of_positions_weigh() -> None:
    before, after = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 1]])
    found = change(before, after, np.array([[1.0, 0.5], [0.0, 0.5]], dtype=np.float32), 1)
    assert found.pixels_changed == pytest.approx(0.25)
    assert found.mean_iou_lost == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    assert (found.target_share_before, found.target_share) == (pytest.approx(0.25), pytest.approx(0.5))
