"""Epoch after epoch: learning, validating, keeping the best, and going on where a killed training stopped."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm import optim, scheduler
from torch import Tensor, nn

from cnnviz.engine import runtime as rt
from cnnviz.engine.seeding import same_noise
from cnnviz.errors import CnnvizError, in_percent
from cnnviz.models.preprocess import Preprocess, normalize
from cnnviz.registry.training import TrainOptions
from cnnviz.training.frozen import Regime
from cnnviz.training.pixels import Pictures, augmentation, is_fixed
from cnnviz.training.state import Epoch, Progress

_optim: Any = optim  # they say what they are made of, not what they export
_scheduler: Any = scheduler
RATES = {"adamw": 1e-3, "sgd": 1e-2}
# Of the learning rate: where the warm-up begins.
_FIRST = 0.01


class NotFiniteError(CnnvizError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Data:
    """What is learned from, and what validates."""

    train: Pictures | Maps
    val: Pictures | Maps


class Maps:
    """What a trunk that stays as it is makes of pictures: computed once, in the place of :class:`Pictures`.

    Args:
        maps: [C, h, w] each.
        labels: Their classes.
    """

    def __init__(self, maps: Sequence[Tensor], labels: Tensor) -> None:
        self._maps, self._labels = maps, labels

    def __len__(self) -> int:
        return len(self._maps)

    def batches(self, order: Sequence[int], size: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """As of pictures."""
        for begin in range(0, len(order), size):
            places = order[begin : begin + size]
            yield [self._maps[place] for place in places], self._labels[places]


@dataclass(frozen=True)
class Course:
    """How a training goes.

    Attributes:
        params: As they were asked for.
        seed: Of the order, of crops and of dropout: each epoch's from this and its number.
        batch_size: Pictures in a step.
        runtime: Where, and how exactly.
        preprocess: What the network is shown.
    """

    params: TrainOptions
    seed: int
    batch_size: int
    runtime: rt.Runtime
    preprocess: Preprocess

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        asked = self.params.learning_rate
        return RATES[self.params.optimizer] if asked is None else asked


class Trainer:
    """Trains one network.

    Args:
        regime: The network, on its device, and what of it is learned.
        data: Pictures.
        course: How.
        told: Called with the number of pictures that were gone through, and how it goes.
    """

    def __init__(self, regime: Regime, data: Data, course: Course, told: Callable[[int, str], None]) -> None:
        self._regime, self._data, self._course, self._told = regime, data, course, told
        params, network = course.params, regime.network
        self._forward: Callable[[Tensor], Tensor] = network
        self.steps = _batches(len(data.train), course.batch_size)
        self._optimizer: torch.optim.Optimizer = _optim.create_optimizer_v2(
            network, params.optimizer, lr=course.rate, weight_decay=params.weight_decay, momentum=0.9
        )
        total, warmup = params.epochs * self.steps, round(params.warmup * self.steps)
        self._schedule = _scheduler.CosineLRScheduler(
            self._optimizer,
            t_initial=max(2, total - warmup),
            warmup_t=warmup,
            warmup_lr_init=_FIRST * course.rate,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self._augment = augmentation(course.preprocess, params)

    def keep_maps(self, shape: tuple[int, int, int], most_bytes: int) -> None:
        """Compute what feeds the head once for all epochs, where that never changes and so many bytes hold it.

        Args:
            shape: Of a map.
            most_bytes: Of all.
        """
        course, data = self._course, self._data
        count = sum(len(part) for part in (data.train, data.val))
        fits = 4 * count * math.prod(shape) <= most_bytes
        if not (fits and self._regime.trunk_is_still and is_fixed(course.params)):
            return
        self._data = Data(self._maps(data.train), self._maps(data.val))
        network = self._regime.network
        self._forward = nn.Sequential(*(part for name, part in network.named_children() if name != "trunk"))

    @torch.no_grad()
    def _maps(self, pictures: Pictures | Maps) -> Maps:
        trunk, maps, labels = self._regime.network.eval().trunk, list[Tensor](), list[Tensor]()
        for pixels, wanted in pictures.batches(range(len(pictures)), self._course.batch_size):
            batch, _ = self._placed(pixels, wanted)
            with rt.repeatable(), rt.autocast(self._course.runtime):
                maps.extend(trunk(batch).unbind())
            labels.append(wanted)
        return Maps(maps, torch.cat(labels))

    def state(self) -> dict[str, Any]:
        """What it goes on from, beside the number of the epoch."""
        return {"network": self._regime.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._regime.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

    def run(self, progress: Progress) -> Iterator[Epoch]:
        """The epochs that are left. Who takes one may keep the network as it is then.

        Raises:
            NotFiniteError: The loss is NaN or infinite.
        """
        params = self._course.params
        for number in range(len(progress.epochs) + 1, params.epochs + 1):
            if params.patience and progress.since_best >= params.patience:
                return
            yield self._epoch(number)

    def _epoch(self, number: int) -> Epoch:
        began = time.perf_counter()
        seed = zlib.crc32(f"{self._course.seed} {number}".encode())
        # All that is random in an epoch follows from its seed: nothing else need be stored to repeat it.
        with rt.repeatable(), same_noise(seed, self._course.runtime.device):
            loss, accuracy = self._learn(number)
        val_loss, val_accuracy = self._validate()
        if not math.isfinite(val_loss):
            raise NotFiniteError(f"the validation loss is NaN or infinite in epoch {number}")
        rate = self._optimizer.param_groups[0]["lr"]
        return Epoch(number, rate, loss, accuracy, val_loss, val_accuracy, round(time.perf_counter() - began, 3))

    def _learn(self, number: int) -> tuple[float, float]:
        course = self._course
        self._regime.train()
        order = torch.randperm(len(self._data.train)).tolist()[: _used(len(self._data.train), course.batch_size)]
        loss_sum = right = seen = 0.0
        step = (number - 1) * self.steps
        for pixels, labels in self._data.train.batches(order, course.batch_size):
            self._schedule.step_update(step)
            batch, wanted = self._placed([self._augment(each) for each in pixels], labels)
            with rt.autocast(course.runtime):
                scores = self._forward(batch)
            loss = F.cross_entropy(scores.float(), wanted)
            value, step = float(loss.detach()), step + 1
            if not math.isfinite(value):
                raise NotFiniteError(f"the loss is NaN or infinite in epoch {number}, step {step}")
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            loss_sum, seen = loss_sum + value * len(labels), seen + len(labels)
            right += float((scores.detach().argmax(1) == wanted).sum())
            of = f"epoch {number}/{course.params.epochs}"
            self._told(len(labels), f"{of}  loss {loss_sum / seen:.3f}  accuracy {in_percent(right / seen)}")
        return loss_sum / seen, right / seen

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        course, pictures = self._course, self._data.val
        self._regime.network.eval()
        loss = right = 0.0
        for pixels, labels in pictures.batches(range(len(pictures)), course.batch_size):
            batch, wanted = self._placed(pixels, labels)
            with rt.repeatable(), rt.autocast(course.runtime):
                scores = self._forward(batch).float()
            loss += float(F.cross_entropy(scores, wanted, reduction="sum"))
            right += float((scores.argmax(1) == wanted).sum())
        return loss / len(pictures), right / len(pictures)

    def _placed(self, pixels: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        device = self._course.runtime.device
        batch = torch.stack(pixels).to(device)
        if batch.dtype == torch.uint8:  # pictures, not maps of them
            batch = normalize(batch, self._course.preprocess)
        return batch.contiguous(memory_format=torch.channels_last), labels.to(device)


def _used(pictures: int, size: int) -> int:
    """Pictures of an epoch: one that would be alone in the last batch is left out, for batch normalisation's sake."""
    return pictures - 1 if pictures > size and pictures % size == 1 else pictures


def _batches(pictures: int, size: int) -> int:
    return -(-_used(pictures, size) // size)
