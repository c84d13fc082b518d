"""What ``explain`` is asked to explain of a network that is given something beside the image: a text, or a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.truth import Truth
from cnnviz.io.sources import ImageRef
from cnnviz.models.borrowing import borrowed
from cnnviz.models.loading.given import answerer, captioner, give, texts, vocabulary_of
from cnnviz.models.preprocess import Geometry
from cnnviz.registry.tasks import TaskRequest
from cnnviz.tasks.base import Vectors, Words
from cnnviz.tasks.captioning import Captioning, TextRequest
from cnnviz.tasks.class_names import ClassNames

T = TypeVar("T")


class _Nowhere:
    """An image of which nothing is known but its pixels; a text asks for nothing else."""

    ref = ImageRef("", "", 0)
    geometry = Geometry((1, 1), (0.0, 0.0, 1.0, 1.0))
    truth: Truth | None = None
    shown_size = (1, 1)


def taking_images(module: nn.Module, task: TaskRequest, question: str | None, image: Tensor) -> nn.Module:
    """The network as one that takes images alone, where it is asked for text, or is asked a question.

    Args:
        module: The network; left as it is.
        task: What it is said to be for.
        question: What it is asked.
        image: [1, C, H, W] that it takes.

    Raises:
        CnnvizError: It takes nothing of the kind.
    """
    if not (task.writes or question is not None):
        return module
    where = next((parameter.device for parameter in module.parameters()), image.device)
    with borrowed(module):
        return captioner(module, image.to(where)) if question is None else answerer(module, question)


def each_with_its_text(network: nn.Module, batch: Tensor, explained: Callable[[Tensor], T]) -> list[T]:
    """What is said of each image of a batch [1, C, H, W] while the network is given the text that it writes under it.

    Args:
        network: As :func:`cnnviz.models.loading.given.captioner` makes it.
        batch: [N, C, H, W].
        explained: Says it.
    """
    where = next((parameter.device for parameter in network.parameters()), batch.device)
    with borrowed(network):
        written = texts(network, batch.to(where))
    found = []
    for image, tokens in zip(batch.split(1), written.split(1), strict=True):
        give(network, tokens)
        found.append(explained(image))
    return found


def text_target(
    wanted: Any, run: ForwardPass, network: nn.Module, score: str, vectors: Vectors
) -> tuple[Target, Tensor]:
    """The target of one image under which a network has written, and the token id [1] of it (-1 for all of them).

    Args:
        wanted: None for the whole text; ``token:4``, ``token:dog``, ``caption``, ``diff:A,B``.
        run: A pass over the image.
        network: As :func:`cnnviz.models.loading.given.captioner` makes it.
        score: What is explained of a word.
        vectors: Of pictures.

    Raises:
        CnnvizError: It is none of these, or the text has no such word.
    """
    if wanted is not None and not isinstance(wanted, str):
        raise CnnvizError(
            f"target={wanted!r} is no word of a text.", "Pass for example 'token:4', 'token:dog' or 'caption'."
        )
    task = Captioning(ClassNames(vocabulary_of(network), False), score, "softmax", network)
    spec = "caption" if wanted is None else wanted
    try:
        said = task.reads(run.chosen)
        first: Any = task.selector(Words(targets=(spec,), vectors=vectors)).requests(_Nowhere(), said, 0).requests[0]
    except ImageError as error:
        raise CnnvizError(f"target={spec!r}: {error.message}.", "For example 'token:1'.") from None
    target: Target = first.target([first])
    one = getattr(first, "first", first)
    named: Sequence[Any] = one.words if isinstance(one, TextRequest) and not one.whole else ()
    return target, torch.tensor([named[0].token if named else -1])
