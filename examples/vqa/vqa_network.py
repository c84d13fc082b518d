"""A network that answers questions on the pictures of easy-VQA, of 0.15 million weights.

What cnnviz asks of such a network is here in three names: ``answers``, ``encode(question) -> token ids`` and
``forward(images, question [N, T]) -> scores [N, K]``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import easy_vqa
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

MEAN, STD = 0.85, 0.25
_EACH = 8
LONGEST = 9
"""Words of the longest question."""
Question = tuple[str, str, int]
"""A question, its answer, and the number of its picture."""


def words_of(question: str) -> list[str]:
    """The words of a question, in lower case, without punctuation."""
    return re.findall(r"[a-z]+", question.lower())


class Answerer(nn.Module):
    """Looks at a picture, and weighs what it finds by the question.

    Args:
        words: Those that questions are made of.
        answers: Those that it may give.
        width: Channels of the last convolution.
    """

    def __init__(self, words: Sequence[str], answers: Sequence[str], width: int = 96) -> None:
        super().__init__()
        self.answers = list(answers)
        self.places = {word: index for index, word in enumerate(words, start=1)}
        half = width // 2
        self.encoder = nn.Sequential(
            *_stage(3, half // 2, 2), *_stage(half // 2, half, 2), *_stage(half, width, 1), *_stage(width, width, 1)
        )
        self.words = nn.Embedding(len(words) + 1, half, padding_idx=0)
        self.asked = nn.Sequential(nn.Linear(half, width), nn.ReLU(), nn.Linear(width, width))
        self.scores = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, len(answers)))

    def encode(self, question: str) -> list[int]:
        """The numbers of its words, with zeros up to the longest question.

        Raises:
            ValueError: A word that no question of the training has.
        """
        words = words_of(question)
        unknown = [word for word in words if word not in self.places]
        if unknown or not 0 < len(words) <= LONGEST:
            raise ValueError(f"I know questions of 1 to {LONGEST} of the words {', '.join(self.places)}")
        return [self.places[word] for word in words] + [0] * (LONGEST - len(words))

    def forward(self, images: Tensor, question: Tensor) -> Tensor:
        """Scores [N, K] of the answers to the questions [N, 9]."""
        return self.answered(self.encoder(images).mean(dim=(2, 3)), question)

    def answered(self, seen: Tensor, question: Tensor) -> Tensor:
        """Scores [N, K] of the answers, of means over the cells of the encoder [N, C]."""
        wanted = self.asked(self.words(question).sum(dim=1))
        found: Tensor = self.scores(torch.cat([seen * wanted, wanted], dim=1))
        return found


def _stage(incoming: int, outgoing: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outgoing), nn.ReLU()]


def questions(part: str) -> list[Question]:
    """The questions of ``train`` or ``test``."""
    asked = easy_vqa.get_train_questions() if part == "train" else easy_vqa.get_test_questions()
    return list(zip(*asked, strict=True))


def paths(part: str) -> dict[int, str]:
    """The files of the pictures, by their numbers."""
    found: dict[int, str] = easy_vqa.get_train_image_paths() if part == "train" else easy_vqa.get_test_image_paths()
    return found


def picture(path: str) -> NDArray[np.uint8]:
    """uint8 [64, 64, 3]."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def inputs_of(files: Sequence[str]) -> Tensor:
    """Pictures as the network takes them [N, 3, 64, 64]."""
    rgb = torch.stack([torch.from_numpy(picture(path).copy()) for path in files])
    return (rgb.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def shape_of(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the shape lies: what is far from the colour of the corners, of which three at least are ground."""
    corners = rgb[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.int64)
    return np.asarray(np.abs(rgb.astype(np.int64) - np.median(corners, axis=0)).sum(axis=2) > 60)


def made(width: int) -> Answerer:
    """The network with the words and answers of the package."""
    words = sorted({word for question, _, _ in questions("train") for word in words_of(question)})
    return Answerer(words, sorted(easy_vqa.get_answers()), width)


def build() -> Answerer:
    """The network for ``-m examples/vqa/vqa_network.py:build``."""
    return made(96)


def build_small() -> Answerer:
    """A third as wide."""
    return made(32)


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        pictures: How many of the 4,000, each with all its questions.
        epochs: How often each picture is seen; of its questions eight by chance each time.
        batch: Pictures in each step.
        rate: The highest learning rate; it rises and falls once.
    """

    pictures: int
    epochs: int
    batch: int = 64
    rate: float = 6e-3


def trained(make: Callable[[], Answerer], how: Training, told: Callable[[str], None] = print) -> Answerer:
    """The network, trained from seed 0 on the first pictures of the package, mirrored by chance."""
    torch.manual_seed(0)
    network, files = make().train(), paths("train")
    inputs = inputs_of([files[number] for number in range(how.pictures)])
    asked: list[list[tuple[list[int], int]]] = [[] for _ in range(how.pictures)]
    for question, answer, number in questions("train"):
        if number < how.pictures:
            asked[number].append((network.encode(question), network.answers.index(answer)))
    steps = how.epochs * -(-how.pictures // how.batch)
    adam = torch.optim.AdamW(network.parameters(), lr=how.rate, weight_decay=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(adam, how.rate, total_steps=steps)
    chance, began = np.random.default_rng(0), time.perf_counter()
    for epoch in range(how.epochs):
        total = 0.0
        for rows in torch.randperm(how.pictures).split(how.batch):
            picked = [asked[row][at] for row in rows.tolist() for at in chance.integers(len(asked[row]), size=_EACH)]
            x = inputs[rows]
            x = x.flip(-1) if chance.random() < 0.5 else x
            # The convolutions run once a picture.
            seen = network.encoder(x).mean(dim=(2, 3)).repeat_interleave(_EACH, dim=0)
            scores = network.answered(seen, torch.tensor([question for question, _ in picked]))
            loss = F.cross_entropy(scores, torch.tensor([answer for _, answer in picked]))
            adam.zero_grad()
            loss.backward()
            adam.step()
            rates.step()
            total += float(loss.detach()) * len(rows)
        told(f"epoch {epoch + 1} of {how.epochs}: loss {total / how.pictures:.3f}, {time.perf_counter() - began:.0f} s")
    return network.eval()


def accuracy(network: Answerer, most: int | None = None) -> float:
    """The share of the questions of the test that are answered rightly, of the first ``most`` pictures."""
    files = paths("test")
    count = len(files) if most is None else most
    with torch.no_grad():
        seen = torch.cat([network.encoder(part) for part in inputs_of([files[n] for n in range(count)]).split(64)])
        asked = [each for each in questions("test") if each[2] < count]
        rows = torch.tensor([number for _, _, number in asked])
        question = torch.tensor([network.encode(each) for each, _, _ in asked])
        scores = network.answered(seen.mean(dim=(2, 3))[rows], question)
    right = scores.argmax(dim=1) == torch.tensor([network.answers.index(answer) for _, answer, _ in asked])
    return float(right.float().mean())
