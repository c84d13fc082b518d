"""The classes of a network by name and by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cnnviz.errors import CnnvizError
from cnnviz.io.names import unique_parts
from cnnviz.models.loading.labels import LabelLookup, Match


class ClassNames:
    """Class names by index. One logit is a two-class network: class 1 is the logit, class 0 its negative.

    Args:
        labels: Names by output.
        one_logit: The network has a single output.
        synsets: WordNet ids by output; empty where they are not known.
        tell: Told what was guessed.
    """

    def __init__(
        self,
        labels: Sequence[str],
        one_logit: bool,
        synsets: Sequence[str] = (),
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.one_logit = one_logit
        if one_logit and len(labels) == 1:
            plain = labels[0] == "class 0"
            labels, synsets = ("class 0", "class 1") if plain else (f"not {labels[0]}", labels[0]), ()
        self.labels = tuple(labels)
        self._slugs = unique_parts(self.labels)
        self._lookup = LabelLookup(self.labels, synsets if len(synsets) == len(labels) else ())
        self._tell = tell
        self._told: set[str] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def slug(self, index: int) -> str:
        """The label as part of a file name: unique, without separators."""
        return self._slugs[index]

    def resolve(self, text: str) -> int:
        """The class that a person typed. What is a guess is told."""
        found = self._lookup.typed(text)
        if found.guess:
            self._tell(f"--class {text.strip()}: {found.guess}")
        return found.index

    def exact(self, text: str) -> int:
        """The class that a folder or a table names: never a part of a label. Each kind of interpretation is told once.

        Raises:
            CnnvizError: No class or several are called that.
        """
        return self._told_of(self._lookup.exact(text))

    def called(self, text: str) -> int | None:
        """The same, and None where no class is called that.

        Raises:
            CnnvizError: Several are called that.
        """
        found = self._lookup.called(text)
        return None if found is None else self._told_of(found)

    def _told_of(self, found: Match) -> int:
        if found.guess and found.kind not in self._told:
            self._told.add(found.kind)
            self._tell(f"labels of images: {found.guess}")
        return found.index


def descending(logits: Tensor) -> list[int]:
    """Class indices by falling score; the lower index first among equals."""
    order: list[int] = torch.sort(logits, descending=True, stable=True).indices.tolist()
    return order


def check_class(index: int, count: int) -> int:
    """Raises a CnnvizError unless a network with so many classes has this one."""
    if not 0 <= index < count:
        raise CnnvizError(f"Class {index} does not exist: the network has {count} classes.", f"Use 0 to {count - 1}.")
    return index
