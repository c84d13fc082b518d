"""Training: what it computes, what it keeps, what it leaves alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import cnnviz
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.models.surgery import CutNetwork
from cnnviz.registry.training import TrainOptions
from cnnviz.training import trainer
from cnnviz.training.begin import begin
from tests.support.runs import Quiet, report
from tests.support.training import COLOURS, SMALL, epochs, small, trained, write_classes

PLAIN: dict[str, Any] = {"crop_scale": 1, "flip": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with everything at its defaults but for size."""
    out = tmp_path_factory.mktemp("run") / "o"
    assert trained(folder, out, epochs=3, batch_size=5)[1].exit_code == 0
    return out


def _pictures(out: Path, split: str) -> Iterator[tuple[str, str]]:
    for record in report(out)["images"]:
        if record["split"] == split:
            yield record["path"], record["label"]


def _batch(model: cnnviz.Model, rows: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    pixels = torch.stack([model.transform(Image.open(path)) for path, _ in rows])
    return pixels, torch.tensor([model.labels.index(label) for _, label in rows])


def test_three_steps_of_sgd_are_what_its_formulas_say(folder: Path, tmp_path: Path) -> None:
    """All pictures in each step, so that their order only rounds; Nesterov's momentum, a warm-up, a cosine."""
    options = {
        **PLAIN,
        "epochs": 3,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.02,
        "val_fraction": 0.4,
    }
    trained(folder, tmp_path / "o", batch_size=64, **options)
    first = begin(small(), TrainOptions(**{**SMALL, "epochs": 3}), sorted(COLOURS)).network  # type: ignore[arg-type]
    model = cnnviz.load_model(checkpoint=str(tmp_path / "o" / "checkpoint.safetensors"))
    images, wanted = _batch(model, list(_pictures(tmp_path / "o", "train")))
    assert len(images) == 9
    rates = [0.001, 0.1 * 0.5 * (1 + math.cos(0)), 0.1 * 0.5 * (1 + math.cos(math.pi / 2))]
    velocity = {name: torch.zeros_like(value) for name, value in first.named_parameters()}
    for number, (rate, told) in enumerate(zip(rates, epochs(tmp_path / "o"), strict=True)):
        loss = F.cross_entropy(first.train()(images), wanted)
        assert loss.item() == pytest.approx(told["train_loss"], rel=1e-4), number
        assert told["learning_rate"] == pytest.approx(rate)
        first.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in first.named_parameters():
                assert weight.grad is not None
                gradient = weight.grad + (0.02 * weight if weight.ndim > 1 else 0)
                velocity[name] = gradient if number == 0 else 0.9 * velocity[name] + gradient
                weight -= rate * (gradient + 0.9 * velocity[name])
        if number + 1 == report(tmp_path / "o")["summary"]["training"]["best"]["epoch"]:
            best = {name: value.clone() for name, value in first.state_dict().items()}
    for name, value in load_file(tmp_path / "o" / "checkpoint.safetensors").items():
        torch.testing.assert_close(value, best[name], rtol=1e-3, atol=2e-4)


def test_the_checkpoint_alone_has_the_accuracy_that_was_measured(run: Path) -> None:
    model = cnnviz.load_model(checkpoint=str(run / "checkpoint.safetensors"))
    images, wanted = _batch(model, list(_pictures(run, "val")))
    with torch.no_grad():
        scores = model.module(images)
    best = report(run)["summary"]["training"]["best"]
    assert best == max(epochs(run), key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
    assert best["val_loss"] == pytest.approx(F.cross_entropy(scores, wanted).item(), rel=1e-4)
    assert best["val_accuracy"] == pytest.approx((scores.argmax(1) == wanted).float().mean().item())


def test_what_a_run_leaves(run: Path, folder: Path) -> None:
    names = "checkpoint.safetensors curves.png gallery index.html metrics.jsonl records.jsonl report.json state.pt"
    assert sorted(path.name for path in run.iterdir() if path.name != ".cnnviz-lock") == names.split()
    found = report(run)
    training = found["summary"]["training"]
    assert training["pictures"] == {"train": 12, "val": 3}
    assert training["steps_per_epoch"] == 3
    assert training["classes"] == ["amber", "jade", "plum"]
    assert training["map"] == [48, 4, 4]
    assert found["summary"]["explained"] == len(found["images"]) == 15
    assert {row["label"] for row in found["images"] if row["split"] == "val"} == set(COLOURS)
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 600
    page = (run / "index.html").read_text()
    assert "curves.png" in page
    assert "--arch shufflenet_v2_x0_5" in page
    assert "--model" not in page


def test_it_learns(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in", 10)
    trained(folder, tmp_path / "o", epochs=12, batch_size=8, learning_rate=0.01, crop_scale=0.8, val_fraction=0.3)
    assert report(tmp_path / "o")["summary"]["training"]["best"]["val_accuracy"] >= 0.8


def test_one_seed_gives_the_same_bytes_and_another_does_not(run: Path, folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(77)  # the caller's random numbers have no part in it, and go on as they would
    before = torch.get_rng_state()
    trained(folder, tmp_path / "same", epochs=3, batch_size=5)
    assert torch.equal(torch.get_rng_state(), before)
    trained(folder, tmp_path / "other", model=small(), epochs=3, batch_size=5, seed=1)
    weights = {name: (tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("same", "other")}
    assert weights["same"] == (run / "checkpoint.safetensors").read_bytes()
    assert weights["other"] != weights["same"]


def test_decoding_in_each_epoch_changes_nothing(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnviz.training.run.KEPT_BYTES", 30_000)  # a few of them
    trained(folder, tmp_path / "o", epochs=3, batch_size=5, workers=3)
    expected = (run / "checkpoint.safetensors").read_bytes()
    assert (tmp_path / "o" / "checkpoint.safetensors").read_bytes() == expected


def _states(out: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Weights and buffers before and after, and the summary."""
    given = TrainOptions(**{**SMALL, **options})
    before = begin(small(), given, sorted(COLOURS)).network.state_dict()
    return before, load_file(out / "checkpoint.safetensors"), report(out)["summary"]["training"]


@pytest.mark.parametrize(
    ("options", "still"),
    [
        ({"freeze": "conv1"}, ["trunk.conv1."]),
        ({"freeze": "stage2.1"}, ["trunk.conv1.", "trunk.stage2.0.", "trunk.stage2.1."]),
        ({"freeze": "all"}, ["trunk."]),
    ],
)
def test_what_is_frozen_stays_and_the_rest_moves(
    options: dict[str, Any], still: list[str], folder: Path, tmp_path: Path
) -> None:
    trained(folder, tmp_path / "o", **options)
    before, after, training = _states(tmp_path / "o", **options)
    frozen = 0
    for name, value in before.items():
        kept = name.startswith(tuple(still))
        assert torch.equal(after[name], value) == kept, name
        frozen += value.numel() if kept and value.is_floating_point() and "running" not in name else 0
    assert training["frozen_parameters"] == frozen
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    assert training["batch_norm_frozen"] == sum(name.startswith(tuple(still)) for name in norms)
    assert training["batch_norm_learned"] == len(norms) - training["batch_norm_frozen"]


def test_a_trunk_that_stays_is_run_once_where_pictures_stay_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**PLAIN, "freeze": "all", "epochs": 3, "batch_size": 5}
    with monkeypatch.context() as patch:
        patch.setattr("cnnviz.training.run.KEPT_BYTES", 0)
        trained(folder, tmp_path / "each time", **options)
    with monkeypatch.context() as patch:
        patch.setattr(CutNetwork, "forward", lambda *_: pytest.fail("the whole network was run"))
        trained(folder, tmp_path / "once", **options)
        with pytest.raises(pytest.fail.Exception):
            trained(folder, tmp_path / "by chance", **{**options, "flip": 0.5})
    one, other = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("once", "each time"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(
        one["conv.weight"], begin(small(), TrainOptions(**SMALL), sorted(COLOURS)).network.conv.weight
    )


def test_batch_norm_that_keeps_its_statistics(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path / "o", batch_norm="frozen")
    before, after, training = _states(tmp_path / "o")
    assert training["batch_norm_learned"] == training["frozen_parameters"] == 0
    for name, value in before.items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(after[name], value) == is_statistic, name


def test_patience_ends_a_training_that_no_longer_becomes_better(folder: Path, tmp_path: Path) -> None:
    found, _, told = trained(
        folder, tmp_path / "o", epochs=9, patience=2, learning_rate=0.0, batch_norm="frozen", batch_size=64
    )
    training = found["summary"]["training"]
    assert (training["epochs"], training["best"]["epoch"], training["early"]) == (3, 1, True)
    assert sum("best so far" in line for line in told.said) == 1
    assert not any("epoch" in note for note in told.notes)  # which are of the results


def test_bf16_keeps_its_weights_in_float32(folder: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        trained(folder, tmp_path / precision, precision=precision, batch_size=64, **PLAIN)
    exact, low = (epochs(tmp_path / precision)[0]["train_loss"] for precision in ("fp32", "bf16"))
    assert 0 < abs(exact - low) < 0.02
    assert {value.dtype for value in load_file(tmp_path / "bf16" / "checkpoint.safetensors").values()} <= {
        torch.float32, torch.int64,
    }  # fmt: skip


def test_a_training_may_begin_with_the_trunk_of_another(run: Path, folder: Path, tmp_path: Path) -> None:
    path = str(run / "checkpoint.safetensors")
    trained(folder, tmp_path / "o", small(checkpoint=path), cut=None, head="gmp", freeze="all")
    before, after = load_file(path), load_file(tmp_path / "o" / "checkpoint.safetensors")
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith("trunk."), name
    with pytest.raises(CnnvizError, match="cut at stage2, which cannot be cut at stage3"):
        trained(folder, tmp_path / "p", small(checkpoint=path), cut="stage3")
    with pytest.raises(CnnvizError, match="holds shufflenet_v2_x0_5 that was cut, not resnet18"):
        trained(folder, tmp_path / "p", small(model="resnet18", checkpoint=path))


def test_a_grey_network(folder: Path, tmp_path: Path) -> None:
    spec = small(model="timm/test_resnet")
    grey = type(spec)(**{**vars(spec), "input_size": (1, 32, 32)})
    trained(folder, tmp_path / "o", grey, cut="layer2")
    model = cnnviz.load_model(checkpoint=str(tmp_path / "o" / "checkpoint.safetensors"))
    images, wanted = _batch(model, list(_pictures(tmp_path / "o", "val")))
    assert images.shape == (3, 1, 32, 32)
    loss = F.cross_entropy(model.module(images), wanted).item()
    assert report(tmp_path / "o")["summary"]["training"]["best"]["val_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_network_that_was_shown_whole_pictures_is_shown_them_again(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path / "o", small(view="squash", channel_order="bgr"))
    model = cnnviz.load_model(checkpoint=str(tmp_path / "o" / "checkpoint.safetensors"))
    images, wanted = _batch(model, list(_pictures(tmp_path / "o", "val")))
    loss = F.cross_entropy(model.module(images), wanted).item()
    assert report(tmp_path / "o")["summary"]["training"]["best"]["val_loss"] == pytest.approx(loss, rel=1e-4)


def _not_a_number_from(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    real, calls = trainer.normalize, iter(range(1, 1000))
    monkeypatch.setattr(trainer, "normalize", lambda *args: real(*args) * (math.nan if next(calls) >= call else 1))


def test_a_loss_that_is_no_number_ends_it_with_the_last_good_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _not_a_number_from(monkeypatch, 5)  # a step and a validation an epoch
    words = [f"--{name}={value}" for name, value in {**SMALL, "epochs": 4}.items()]
    line = ["train", str(folder), *words, "--weights", "none", "--input-size", "32", "-b", "64", "-q"]
    assert main([*line, "-o", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    best = report(tmp_path / "o")["summary"]["training"]["best"]["epoch"]
    assert f"NaN or infinite in epoch 3, step 3: checkpoint.safetensors is that of epoch {best}." in said
    assert "--learning-rate below 0.001" in said
    assert "epoch 3, step 3" in report(tmp_path / "o")["summary"]["stopped"]
    assert len(epochs(tmp_path / "o")) == 2
    assert cnnviz.load_model(checkpoint=str(tmp_path / "o" / "checkpoint.safetensors")).labels == tuple(COLOURS)


def test_a_loss_that_never_was_a_number(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _not_a_number_from(monkeypatch, 1)
    with pytest.raises(CnnvizError, match="in epoch 1, step 1: there is no checkpoint"):
        trained(folder, tmp_path / "o")


def test_the_options_of_a_file(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    lines = {**SMALL, "inputs": str(folder), "weights": "none", "input-size": 32, "crop-scale": 0.5, "head": "fc"}
    config.write_text(json.dumps(lines))  # JSON is YAML
    assert main(["train", "--config", str(config), "-o", str(tmp_path / "o"), "-q"]) == 0
    assert report(tmp_path / "o")["options"]["crop_scale"] == 0.5
    assert report(tmp_path / "o")["summary"]["training"]["head"] == "fc"


def test_a_full_network_is_trained_with_its_random_parts(folder: Path, tmp_path: Path) -> None:
    """Dropout inside the trunk draws from the epoch's seed: the same twice, and not what it is without."""
    spec = small(model="timm/test_efficientnet")
    found = [trained(folder, tmp_path / name, spec, cut=None, epochs=1)[0] for name in ("a", "b")]
    losses = [each["summary"]["training"]["best"]["train_loss"] for each in found]
    assert losses[0] == losses[1]


class _Interrupted(Quiet):
    """Ctrl-C at a step of the training."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def work(self, count: int, text: str) -> None:
        self.step -= text != "reading"
        if not self.step:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_a_run_that_goes_on(run: Path, folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 3, "batch_size": 5}
    found, result, _ = trained(folder, tmp_path / "o", reporter=_Interrupted(8), **given)
    assert result.exit_code == 130
    assert found["summary"]["interrupted"] is True
    assert [epoch["epoch"] for epoch in epochs(tmp_path / "o")] == [1, 2]
    found, result, _ = trained(folder, tmp_path / "o", resume=True, **given)
    assert (tmp_path / "o" / "checkpoint.safetensors").read_bytes() == (run / "checkpoint.safetensors").read_bytes()
    assert "interrupted" not in found["summary"]
    with pytest.raises(CnnvizError, match="begun otherwise: --epochs 3 then, --epochs 4 now"):
        trained(folder, tmp_path / "o", resume=True, **{**given, "epochs": 4})


def test_what_an_overwritten_training_left_is_not_gone_on_from(folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"batch_size": 5, "seed": 3}
    trained(folder, tmp_path / "whole", **given)
    trained(folder, tmp_path / "o", learning_rate=0.1, reporter=_Interrupted(5), **given)
    (tmp_path / "o" / "report.json").write_text(
        json.dumps({**report(tmp_path / "o"), "files": []})
    )  # as that of a training that was killed
    found, result, _ = trained(folder, tmp_path / "o", overwrite=True, reporter=_Interrupted(1), **given)
    assert result.exit_code == 130
    assert found["summary"]["training"]["best"] is None
    assert not (tmp_path / "o" / "checkpoint.safetensors").exists()
    trained(folder, tmp_path / "o", resume=True, **given)
    files = [tmp_path / name / "checkpoint.safetensors" for name in ("o", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_pictures_cannot_be_resumed(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "in")
    trained(folder, tmp_path / "o")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "amber" / "new.png")
    with pytest.raises(CnnvizError, match="the pictures changed since"):
        trained(folder, tmp_path / "o", resume=True)
    assert isinstance(cnnviz.load_model(checkpoint=str(tmp_path / "o" / "checkpoint.safetensors")).module, nn.Module)
