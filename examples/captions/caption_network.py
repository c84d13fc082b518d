"""A captioner of 0.4 million weights: convolutions, attention over their cells, and an LSTM that writes the words.

After "Show, attend and tell" (Xu et al., ICML 2015). What cnnviz asks of a captioning network is here in three names:
``vocabulary``, ``generate(images) -> token ids [N, T]`` and ``forward(images, tokens [N, T]) -> logits [N, T, V]``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import caption_scenes as scenes
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = 0.4, 0.25


class Captioner(nn.Module):
    """Words of two objects.

    Args:
        width: Channels of the last convolution, and numbers in the state of the LSTM.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.vocabulary = list(scenes.VOCABULARY)
        half = width // 2
        self.encoder = nn.Sequential(
            *_stage(5, half // 2, 2), *_stage(half // 2, half, 2), *_stage(half, width, 1), *_stage(width, width, 1)
        )
        self.words = nn.Embedding(len(self.vocabulary), half)
        self.begin = nn.Linear(width, 2 * width)
        self.cell = nn.LSTMCell(half + width, width)
        self.attention = nn.Linear(width, width)
        self.scores = nn.Linear(2 * width, len(self.vocabulary))

    def features(self, images: Tensor) -> Tensor:
        """The cells of the encoder [N, C, h, w]; two channels say where a pixel lies."""
        rows = torch.linspace(-1, 1, images.shape[2], device=images.device)
        columns = torch.linspace(-1, 1, images.shape[3], device=images.device)
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(images), -1, -1, -1)
        found: Tensor = self.encoder(torch.cat([images, where], dim=1))
        return found

    def _step(self, word: Tensor, state: tuple[Tensor, Tensor], cells: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The scores [N, V] of the word after ``word``; ``cells`` are [N, C, P]."""
        weights = torch.softmax(self.attention(state[0]).unsqueeze(1) @ cells / cells.shape[1] ** 0.5, dim=-1)
        seen = (weights @ cells.transpose(1, 2)).squeeze(1)
        hidden, memory = self.cell(torch.cat([self.words(word), seen], dim=1), state)
        return self.scores(torch.cat([hidden, seen], dim=1)), (hidden, memory)

    def _begin(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        cells = self.features(images).flatten(2)
        hidden, memory = self.begin(cells.mean(dim=2)).tanh().chunk(2, dim=1)
        start = torch.full((len(images),), self.vocabulary.index(scenes.START), device=images.device)
        return start, cells, (hidden, memory)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Scores [N, T, V] of each word, where those before it are those of ``tokens`` [N, T]."""
        word, cells, state = self._begin(images)
        found = []
        for step in range(tokens.shape[1]):
            scores, state = self._step(word, state, cells)
            found.append(scores)
            word = tokens[:, step]
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def generate(self, images: Tensor) -> Tensor:
        """The likeliest word at each step [N, T], and nothing behind the end."""
        word, cells, state = self._begin(images)
        pad, end = self.vocabulary.index(scenes.PAD), self.vocabulary.index(scenes.END)
        ended, found = torch.zeros_like(word, dtype=torch.bool), []
        for _ in range(scenes.LENGTH):
            scores, state = self._step(word, state, cells)
            word = scores.argmax(dim=1).masked_fill(ended, pad)
            ended = ended | (word == end)
            found.append(word)
        return torch.stack(found, dim=1)


def _stage(incoming: int, outgoing: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outgoing), nn.ReLU(inplace=True)]


def build() -> Captioner:
    """The network for ``-m examples/captions/caption_network.py:build``."""
    return Captioner()


def build_small() -> Captioner:
    """Half as wide."""
    return Captioner(64)


@dataclass(frozen=True)
class Training:
    """How a network is trained: batches of scenes that are never seen twice.

    Attributes:
        steps: How many.
        batch: Scenes in each.
        rate: The highest learning rate; it rises and falls once.
    """

    steps: int
    batch: int = 48
    rate: float = 4e-3


def inputs_of(found: list[scenes.Scene]) -> tuple[Tensor, Tensor]:
    """Scenes as the network takes them [N, 3, 64, 64], and the words of their sentences [N, 9]."""
    rgb = torch.stack([torch.from_numpy(each.picture()) for each in found]).permute(0, 3, 1, 2).float() / 255
    at = {word: index for index, word in enumerate(scenes.VOCABULARY)}
    rows = []
    for each in found:
        row = [at[word] for word in [*each.words, scenes.END]]
        rows.append(row + [at[scenes.PAD]] * (scenes.LENGTH - len(row)))
    return (rgb - MEAN) / STD, torch.tensor(rows)


def trained(make: Callable[[], Captioner], how: Training, told: Callable[[str], None] = print) -> Captioner:
    """The network, trained from seed 0 on scenes of seeds from 0 up."""
    torch.manual_seed(0)
    network = make().train()
    adam = torch.optim.AdamW(network.parameters(), lr=how.rate, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, how.rate, total_steps=how.steps)
    pad, began = scenes.VOCABULARY.index(scenes.PAD), time.perf_counter()
    for step in range(how.steps):
        images, tokens = inputs_of([scenes.scene(step * how.batch + place) for place in range(how.batch)])
        loss = F.cross_entropy(network(images, tokens).flatten(0, 1), tokens.flatten(), ignore_index=pad)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        rates.step()
        if (step + 1) % 50 == 0 or step + 1 == how.steps:
            seconds = time.perf_counter() - began
            told(f"step {step + 1} of {how.steps}: loss {float(loss.detach()):.3f}, {seconds:.0f} s")
    return network.eval()


def exact(network: Captioner, seeds: range) -> float:
    """The share of scenes whose whole sentence is right."""
    images, tokens = inputs_of([scenes.scene(seed) for seed in seeds])
    said = torch.cat([network.generate(part) for part in images.split(64)])
    return float((said == tokens).all(dim=1).float().mean())


def saved(network: Captioner, file: Path) -> None:
    """Write the weights."""
    torch.save(network.state_dict(), file)
