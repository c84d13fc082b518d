"""A small seeded captioner and a small network that answers questions, for commands and oracles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS = ["<pad>", "<start>", "<end>", "a", "red", "dog", "cat", "left", "of", "Tree"]


class Writer(nn.Module):
    """Convolutions, their mean as the first state of an LSTM, and one word after another."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = WORDS
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2))
        self.begin = nn.Linear(12, 10)
        self.embedding = nn.Embedding(len(WORDS), 6)
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.scores = nn.Linear(10, len(WORDS))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        return self.decoded(torch.relu(self.encoder(images)), tokens)

    def decoded(self, cells: Tensor, tokens: Tensor) -> Tensor:
        """Scores [N, T, V] from the cells [N, C, h, w]."""
        state = self.begin(cells.mean((2, 3))).tanh()[None]
        before = torch.cat([torch.ones_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        hidden, _ = self.lstm(self.embedding(before), (state.contiguous(), torch.zeros_like(state)))
        found: Tensor = self.scores(hidden)
        return found

    @torch.no_grad()
    def generate(self, images: Tensor) -> Tensor:
        tokens = torch.zeros(len(images), 5, dtype=torch.long)
        for step in range(5):
            tokens[:, step] = self(images, tokens)[:, step].argmax(1)
        return tokens


class Answerer(nn.Module):
    """Convolutions, weighed by the words of a question."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = ["no", "yes", "red", "blue"]
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2))
        self.embedding = nn.Embedding(7, 12)
        self.scores = nn.Linear(12, 4)

    def encode(self, question: str) -> list[int]:
        return [len(word) % 7 for word in question.split()]

    def forward(self, images: Tensor, question: Tensor) -> Tensor:
        seen = torch.relu(self.encoder(images)).mean((2, 3))
        found: Tensor = self.scores(seen * self.embedding(question).mean(1))
        return found


def _seeded(make: type[nn.Module], seed: int) -> Any:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        network = make()
        for parameter in network.parameters():
            parameter.data.mul_(1.6)
    return network.eval()


def writer() -> Writer:
    """Scaled so that its texts differ from image to image, and have marks between the words."""
    network: Writer = _seeded(Writer, 73)
    network.begin.weight.data.mul_(5)
    network.scores.weight.data.mul_(2)
    return network


def misplaced() -> Writer:
    """One whose scores at step t are those of token t + 1."""
    network = writer()
    network.__class__ = _Misplaced
    return network


class _Misplaced(Writer):
    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        after = super().forward(images, torch.cat([tokens, tokens[:, -1:]], dim=1))
        return after[:, 1:]

    @torch.no_grad()
    def generate(self, images: Tensor) -> Tensor:
        tokens = torch.zeros(len(images), 5, dtype=torch.long)
        for step in range(5):
            tokens[:, step] = Writer.forward(self, images, tokens)[:, step].argmax(1)
        return tokens


def pictures(count: int) -> Tensor:
    """Inputs that it writes different texts under."""
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.randn(count, 3, 6, 6, generator=generator) * 1.5, size=(64, 64))


def answerer() -> Answerer:
    found: Answerer = _seeded(Answerer, 2)
    return found
