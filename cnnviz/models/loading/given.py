"""Networks that are given something beside the image: the words of a caption, or a question.

Such a network is given back as one that takes images alone: a copy of its outermost module that shares all its parts,
so that the module which was handed in stays as it was and layers keep their names.

A captioning network has ``vocabulary`` (words), ``generate(images [N, C, H, W]) -> token ids [N, T]`` and
``forward(images, tokens [N, T]) -> logits [N, T, V]``, of which those at step t score token t and depend on the image
and on the tokens before t alone. A network that answers questions has ``answers`` (words), ``encode(question) -> token
ids [T]`` and ``forward(images, question [N, T]) -> scores [N, K]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnviz.errors import CnnvizError, foreign_code
from cnnviz.models.loading.factories import words_of
from cnnviz.models.loading.listed_boxes import sharing

QUESTION = "_asked_question"
"""The buffer that holds a question: it belongs to the run, not to the network."""
_CAPTIONER = (
    "Give it vocabulary (a list), generate(images) -> token ids [N, T] and forward(images, tokens) -> logits "
    "[N, T, V]; docs/extending.md has one."
)
_ANSWERER = (
    "Give it answers (a list), encode(question) -> token ids and forward(images, question) -> scores [N, K]; "
    "docs/extending.md has one."
)


@dataclass(eq=False)
class Given:
    """What a captioning network is given beside the images: one text [1, T] for all images of a pass.

    Copies of the network share it.
    """

    tokens: Tensor

    def __deepcopy__(self, memo: Any) -> Given:
        return self


def is_captioner(module: nn.Module) -> bool:
    """Whether a module has what a captioning network has."""
    return callable(getattr(module, "generate", None)) and _named(module, "vocabulary") is not None


def is_answerer(module: nn.Module) -> bool:
    """Whether a module has what a network has that answers questions."""
    return callable(getattr(module, "encode", None)) and _named(module, "answers") is not None


def captioner(module: nn.Module, image: Tensor) -> nn.Module:
    """A captioning network as one that takes images alone and returns the scores of the words of one text.

    Args:
        module: The network, in evaluation mode; left as it is.
        image: [1, C, H, W] that it takes, whose text it has to begin with.

    Raises:
        CnnvizError: It is no captioning network, or its parts do not fit each other.
    """
    if not is_captioner(module):
        raise CnnvizError(f"--task caption: {type(module).__name__} is no captioning network.", _CAPTIONER)
    made: nn.Module = sharing(module, _writing_class(type(module)))
    vars(made)["given"] = Given(torch.zeros(1, 1, dtype=torch.long))
    write(made, image)
    _check_scores(made, image)
    return made


def vocabulary_of(module: nn.Module) -> tuple[str, ...]:
    """The words of a captioning network, by token id."""
    return _named(module, "vocabulary") or ()


def write(module: nn.Module, image: Tensor) -> None:
    """Give a network the text that it writes under an image [1, C, H, W], from now on.

    Raises:
        CnnvizError: As :func:`texts`.
    """
    give(module, texts(module, image))


def give(module: nn.Module, tokens: Tensor) -> None:
    """Give a network a text [1, T], from now on."""
    given: Given = vars(module)["given"]
    given.tokens = tokens


def texts(module: nn.Module, images: Tensor) -> Tensor:
    """The texts [N, T] that a network writes under images [N, C, H, W].

    Raises:
        CnnvizError: It generates something else than token ids.
    """
    network: Any = module
    try:
        with torch.no_grad(), foreign_code():
            found = network.generate(images)
    except Exception as error:  # the user's code runs here
        if isinstance(error, (CnnvizError, torch.OutOfMemoryError)):
            raise
        raise CnnvizError(f"generate(images) raised {words_of(error)}", _CAPTIONER) from error
    whole = isinstance(found, Tensor) and not found.is_floating_point() and found.dtype != torch.bool
    if not whole or found.dim() != 2 or len(found) != len(images) or not found.shape[1]:
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise CnnvizError(
            f"generate(images) returned {what} for {len(images)} image{'s' * (len(images) != 1)}; expected token ids "
            f"[{len(images)}, T].",
            _CAPTIONER,
        )
    words = len(vocabulary_of(module))
    if int(found.min()) < 0 or int(found.max()) >= words:
        raise CnnvizError(
            f"generate(images) returned token {int(found.max())}; the vocabulary has {words} words.", _CAPTIONER
        )
    tokens: Tensor = found.detach().long()
    return tokens


def _check_scores(module: nn.Module, image: Tensor) -> None:
    """Raises a CnnvizError unless scores have the right shape, and are those of the words at their own places."""
    given: Given = vars(module)["given"]
    try:
        with torch.no_grad(), foreign_code():
            scores = module(image)
    except Exception as error:  # the user's code runs here
        if isinstance(error, (CnnvizError, torch.OutOfMemoryError)):
            raise
        raise CnnvizError(f"forward(images, tokens) raised {words_of(error)}", _CAPTIONER) from error
    expected = [1, given.tokens.shape[1], len(vocabulary_of(module))]
    if not isinstance(scores, Tensor) or list(scores.shape) != expected:
        what = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise CnnvizError(f"forward(images, tokens) returned {what}; expected logits {expected}.", _CAPTIONER)
    best, tokens = scores[0].argmax(1), given.tokens[0].to(scores.device)
    if len(tokens) > 2 and not torch.equal(best, tokens) and torch.equal(best[:-1], tokens[1:]):
        raise CnnvizError(
            "forward(images, tokens): the logits at step t are those of token t + 1; expected those of token t, from "
            "the tokens before it.",
            "Put the start token in front of the tokens inside of forward, and leave the last one out.",
        )


def answerer(module: nn.Module, question: str) -> nn.Module:
    """A network that answers questions as one that takes images alone.

    Args:
        module: The network, in evaluation mode; left as it is.
        question: What it is asked.

    Raises:
        CnnvizError: It is no such network, or does not understand the question.
    """
    if not is_answerer(module):
        raise CnnvizError(f"--question: {type(module).__name__} does not answer questions.", _ANSWERER)
    network: Any = module
    try:
        with torch.no_grad(), foreign_code():
            found = network.encode(question)
    except Exception as error:  # the user's code runs here
        what = f"--question {question!r}: encode raised {words_of(error)}"
        raise CnnvizError(what, "Ask in its own words.") from error
    try:
        tokens = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        tokens = torch.zeros(0)
    if tokens.is_floating_point() or tokens.dim() != 1 or not len(tokens):
        kind = list(tokens.shape) if isinstance(found, Tensor) else type(found).__name__
        raise CnnvizError(f"--question: encode returned {kind}; expected token ids [T].", _ANSWERER)
    made: nn.Module = sharing(module, _asked_class(type(module)))
    made.register_buffer(QUESTION, tokens.long()[None], persistent=False)
    return made


def answers_of(module: nn.Module) -> tuple[str, ...]:
    """The answers that a network may give, by index."""
    return _named(module, "answers") or ()


def _named(module: nn.Module, attribute: str) -> tuple[str, ...] | None:
    found = getattr(module, attribute, None)
    listed = isinstance(found, Sequence) and not isinstance(found, str) and len(found) > 0
    return tuple(str(word) for word in found) if listed and found is not None else None


def _writing_class(kind: type) -> type:
    def forward(self: Any, images: Tensor, *given: Any) -> Any:
        # Its own generate may call it with tokens.
        if given:
            return kind.forward(self, images, *given)  # type: ignore[attr-defined]
        tokens = self.given.tokens.to(images.device).expand(len(images), -1)
        return kind.forward(self, images, tokens)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _asked_class(kind: type) -> type:
    def forward(self: Any, images: Tensor) -> Any:
        asked = getattr(self, QUESTION).expand(len(images), -1)
        return kind.forward(self, images, asked)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
