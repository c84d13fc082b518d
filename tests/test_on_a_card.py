"""What runs on a graphics card, on one that is not there: devices that do not fit, and where the host waits."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cnnviz
from cnnviz.cli.app import main
from cnnviz.engine import runtime as rt
from cnnviz.registry import lookup
from tests.support import box_network, segment_network, transformers
from tests.support import networks as nets
from tests.support.pretended_card import CARD, Card, pretended_card
from tests.support.runs import tiny_options
from tests.test_contract import CHEAP, METHODS


def test_the_card_knows_what_waits() -> None:
    """Each of what PyTorch's documentation says waits for a card, and its neighbours that do not."""
    here = torch.arange(12.0).reshape(3, 4)
    with pretended_card() as card:
        there = here.pin_memory().to("cuda", non_blocking=True)
        twice, mask = there * 2 + 1, there > 4
        filled = torch.where(mask, twice, 0.0)
        filled[mask] = 5.0
        rows = there[torch.tensor([0, 2], device="cuda").clone()[:0]]
        assert (there.device, filled.device, rows.device) == (CARD, CARD, CARD)
        assert torch.zeros(2, device="cuda").device == CARD
        assert [each.kind for each in card.waits] == ["send"], "a list that is made there"
        card.waits.clear()
        for kind, work in (
            ("send", lambda: here.to("cuda")),
            ("send", lambda: here.pin_memory().to("cuda")),
            ("send", lambda: there[torch.tensor([0, 2])]),
            ("read", lambda: there.cpu()),
            ("read", lambda: float(there.sum())),
            ("read", lambda: bool(mask.any())),
            ("read", lambda: there.tolist()),
            ("count", lambda: there[mask]),
            ("count", lambda: mask.nonzero()),
            ("count", lambda: there.unique()),
            ("count", lambda: torch.equal(there, twice)),
            ("all", lambda: torch.cuda.synchronize()),
        ):
            work()
            assert [each.kind for each in card.waits] == [kind]
            assert card.waits[0].place.startswith("tests/test_on_a_card.py:")
            card.waits.clear()
        assert there.to("cpu", non_blocking=True).device.type == "cpu"
        assert not card.waits
        assert card.unread, "nobody waited for it yet"
        assert torch.equal(rt.fetched([twice])[0], here * 2 + 1)
        assert [each.kind for each in card.waits] == ["event"]
        assert not card.unread


# As Apple's cards are.
_WITHOUT_FLOAT64 = frozenset({torch.float64})


def test_a_card_may_lack_float64() -> None:
    with pretended_card(lacks=_WITHOUT_FLOAT64):
        there = torch.full((3,), 1 / 3, device="cuda")
        for work in (there.double, lambda: torch.zeros(2, dtype=torch.float64).to("cuda")):
            with pytest.raises(TypeError, match="float64"):
                work()
        assert (rt.wide(there).dtype, rt.wide(there).device) == (torch.float32, CARD)
        assert torch.equal(rt.exact(there), torch.full((3,), 1 / 3).double())
    with pretended_card():
        there = torch.ones(3, device="cuda")
        assert [(each.dtype, each.device) for each in (rt.wide(there), rt.exact(there))] == [(torch.float64, CARD)] * 2
    assert not rt.has_float64(torch.device("mps"))


@pytest.mark.parametrize(("device", "beside"), [("mps", False), ("cuda", True)])
def test_to_apples_cards_nobody_goes_on_beside_a_copy(
    device: str, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read memory that may have been given to another tensor: PyTorch's issue 189690."""
    batch, asked = torch.ones(3), []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "to", lambda self, *where, **how: asked.append((where, how)))
    rt.moved(batch, torch.device(device))
    assert asked == [((torch.device(device),), {"non_blocking": beside})]


def test_the_card_refuses_what_a_card_refuses() -> None:
    with pretended_card():
        there = torch.ones(3, device="cuda")
        for work in (
            lambda: there + torch.ones(3),
            lambda: torch.cat([there, torch.ones(3)]),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError):
                work()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert float((there + torch.tensor(1.0)).sum()) == 6, "a number of the processor goes along"


def test_gradients_on_the_card_are_those_of_the_processor() -> None:
    network, batch = nets.TOYS["residual"].build(), nets.images(2)

    def gradient(module: nn.Module, pixels: Tensor) -> Tensor:
        leaf = pixels.clone().requires_grad_()
        return torch.autograd.grad(module(leaf)[:, 1].sum(), leaf)[0].cpu()

    expected = gradient(network, batch)
    with pretended_card():
        torch.testing.assert_close(gradient(network.to("cuda"), batch.to("cuda")), expected)


def _close(found: Tensor, expected: Tensor) -> None:
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("lacks", [frozenset(), _WITHOUT_FLOAT64], ids=["usual", "without-float64"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_on_a_card(method: str, lacks: frozenset[torch.dtype]) -> None:
    network, batch, how = nets.TOYS["residual"].build(), nets.images(2), CHEAP.get(method, {})
    expected = cnnviz.explain(network, batch, method=method, target=1, **how)
    with pretended_card(lacks=lacks) as card:
        found = cnnviz.explain(network, batch, method=method, target=1, device="cuda", **how)
    assert card.passed["send"] or card.waits, "it ran there"
    assert not card.unread
    _close(found.raw, expected.raw)


@pytest.mark.parametrize("method", [spec.name for spec in lookup.BUILT_IN if "attention" in spec.needs])
def test_attention_on_a_card(method: str) -> None:
    network, batch = transformers.vision_transformer(), transformers.pictures()
    expected = cnnviz.explain(network, batch, method=method, target=1)
    with pretended_card():
        _close(cnnviz.explain(network, batch, method=method, target=1, device="cuda").raw, expected.raw)


@pytest.mark.parametrize("method", ["drise", "odam", "gradcam"])
def test_boxes_on_a_card(method: str) -> None:
    network, batch = box_network.ultralytics(), box_network.images()
    expected = cnnviz.explain(network, batch, method=method)
    with pretended_card():
        _close(cnnviz.explain(network, batch, method=method, device="cuda").raw, expected.raw)


def _margin(output: Tensor) -> Tensor:
    return output[:, 1] - output[:, 2]


@pytest.mark.parametrize(
    "target", [None, [1, 2], "pred", "diff:1,2", "class:2", "unit:conv2:2", "embedding:1", _margin]
)
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "scorecam"])
def test_targets_on_a_card(method: str, target: Any) -> None:
    network, batch, how = nets.TOYS["residual"].build(), nets.images(2), CHEAP.get(method, {})
    expected = cnnviz.explain(network, batch, method=method, target=target, **how)
    with pretended_card():
        found = cnnviz.explain(network, batch, method=method, target=target, device="cuda", **how)
    _close(found.raw, expected.raw)


@pytest.mark.parametrize(
    "words",
    [
        "concepts PHOTOS --of 1 --designs 8",
        "classmap PHOTOS --scales 1,1.5",
        "factors PHOTOS",
        "adversarial PHOTOS --attack deepfool",
        "synthesize --class 1 --steps 3",
        "gradcam PHOTOS --precision bf16",
        "gradcam PHOTOS --augment flip,zoom",
        "gradcam PHOTOS --sanity",
    ],
)
def test_commands_on_a_card_without_float64(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = _photos(tmp_path / "photos", 6)
    line = [str(photos) if word == "PHOTOS" else word for word in words.split()]
    with pretended_card(lacks=_WITHOUT_FLOAT64) as card:
        assert main([*line, *tiny_options(), "--device", "cuda", "-o", str(tmp_path / "out"), "-q"]) == 0
    assert card.waits
    assert "float64" not in capsys.readouterr().err


@pytest.mark.parametrize("target", [None, "class:1", "segment:1"])
def test_regions_on_a_card(target: str | None) -> None:
    network, batch = segment_network.unet(), nets.images(2, (32, 32))
    expected = cnnviz.explain(network, batch, method="gradcam", target=target)
    with pretended_card():
        _close(cnnviz.explain(network, batch, method="gradcam", target=target, device="cuda").raw, expected.raw)


def _photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def _run(photos: Path, out: Path, command: str, *options: str) -> Card:
    with pretended_card() as card:
        places = ["--device", "cuda", "-o", str(out), "--no-cache", "--save", "none", "-q"]
        assert main([command, str(photos), *tiny_options(), *places, *options]) == 0
    assert not card.unread
    return card


def _waits_a_batch(folder: Path, command: str, options: tuple[str, ...], size: int) -> list[str]:
    """Where the host waits for the card in one batch of so many images: what two batches more have more."""
    found = []
    for batches in (2, 4):
        photos = _photos(folder / f"{size}-{batches}", size * batches)
        card = _run(photos, folder / f"out-{size}-{batches}", command, "--batch-size", str(size), *options)
        found.append(Counter(each.place for each in card.waits))
    more = found[1] - found[0]
    assert all(count % 2 == 0 for count in more.values())
    return sorted(place.rpartition(":")[0] for place, count in more.items() for _ in range(count // 2))


@pytest.mark.parametrize(
    ("command", "options", "targets"),
    [
        ("cam", (), 1),
        ("gradcam", (), 1),
        ("gradcam", ("--variant", "gradcam++"), 1),
        ("gradcam", ("--variant", "layercam"), 1),
        ("saliency", (), 1),
        ("gradcam", ("--class", "1"), 1),
        ("gradcam", ("--class", "top:5"), 5),
    ],
)
def test_a_batch_waits_for_what_the_network_says_and_for_maps(
    command: str, options: tuple[str, ...], targets: int, tmp_path: Path
) -> None:
    """Not for each image, and not for what is sent to the card."""
    expected = sorted([*["cnnviz/maps/prepared_method.py"] * targets, "cnnviz/tasks/classification.py"])
    for size in (1, 3):
        assert _waits_a_batch(tmp_path, command, options, size) == expected


def test_noise_waits_for_the_images_of_a_batch_once(tmp_path: Path) -> None:
    """They seed it; it was sent to the card copy by copy, each after a wait."""
    expected = ["cnnviz/engine/seeding.py", "cnnviz/maps/prepared_method.py", "cnnviz/tasks/classification.py"]
    for size in (1, 3):
        assert _waits_a_batch(tmp_path, "saliency", ("--variant", "smoothgrad", "--samples", "3"), size) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("cuda", "cuda:0", True), ("cuda", "cuda:1", False), ("mps", "mps:0", True), ("cpu", "cuda:0", False)],
)
def test_a_card_without_a_number_is_the_one_in_use(one: str, other: str, same: bool) -> None:
    with pretended_card():
        assert rt.same_device(torch.device(one), torch.device(other)) is same
        assert rt.same_device(torch.device(other), torch.device(one)) is same


def test_while_one_batch_is_waited_for_the_next_is_with_the_card(tmp_path: Path) -> None:
    """The first wait of a batch ends when another batch has been sent; with one batch at a time none would be."""
    photos = _photos(tmp_path / "photos", 8)
    sent: dict[str, threading.Event] = {}
    met: list[bool] = []

    def waits(card: Card) -> None:
        own = threading.current_thread().name
        if own.startswith("model") and own not in sent:
            sent[own] = threading.Event()
            others = [event for name, event in sent.items() if name != own]
            for event in others:
                event.set()
            met.append(bool(others) or sent[own].wait(20))

    with pretended_card(waits) as card:
        options = ["--device", "cuda", "-o", str(tmp_path / "out"), "--no-cache", "-q", "--batch-size", "2"]
        assert main(["gradcam", str(photos), *tiny_options(), *options]) == 0
    assert card.waits
    assert met == [True, True]


@pytest.mark.parametrize("command", ["gradcam", "saliency"])
def test_a_card_without_room_gets_half_of_a_batch(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every image is explained, as in batches for which there is room, and that batches are halved is told."""
    photos, found = _photos(tmp_path / "photos", 7), {}
    for size in (8, 2):
        out, options = tmp_path / str(size), ["--batch-size", str(size), "--save", "raw", "--no-cache"]
        with pretended_card():
            network = ["-m", "tests.support.tiny_model:make_hungry", "--input-size", "64", "--tracing", "off"]
            assert main([command, str(photos), *network, "--device", "cuda", "-o", str(out), *options]) == 0
        told = "out of memory: the batch is halved to" in capsys.readouterr().err
        assert told == (size == 8)
        found[size] = {path.name: np.load(path)["raw"] for path in sorted(out.rglob("*.npz"))}
    assert len(found[8]) == 7
    assert found[8].keys() == found[2].keys()
    for name, values in found[8].items():
        np.testing.assert_allclose(values, found[2][name], rtol=0, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_which_errors_a_smaller_batch_may_help(error: Exception, expected: bool) -> None:
    assert rt.is_out_of_memory(error) is expected
