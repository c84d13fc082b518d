"""The classes of a network by name and by index."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from cnnviz.errors import CnnvizError, counted, shown
from cnnviz.io.label_tables import is_index, is_label_table
from cnnviz.io.names import unique_parts
from cnnviz.models.loading.labels import LabelLookup, Match

# Words of --class that may stand in a list with commas beside names and indices.
_WORDS = frozenset({"pred", "all", "folder", "truth"})


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

    @property
    def are_numbers(self) -> bool:
        """Whether nothing names the classes: their labels only count them."""
        return self._lookup.are_numbers

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

    def at_most(self, count: int, spec: str) -> int:
        """So many classes; or all that there are, which is told once.

        Args:
            count: How many were asked for.
            spec: The word that did.
        """
        if count > len(self) and spec not in self._told:
            self._told.add(spec)
            self._tell(f"--class {shown(spec)}: all of them: the network has {counted(len(self), 'class')}")
        return min(count, len(self))

    def each(self, specs: Iterable[str]) -> tuple[str, ...]:
        """The words of ``--class``, lists with commas taken apart.

        A label with commas is one word, by any of its names. In a list stand indices, words such as ``pred`` and
        ``top:3``, and what classes are called; that a text with names was taken as a list is told.

        Raises:
            CnnvizError: Something in a list is not a class.
        """
        return tuple(part for spec in specs for part in self._parts(spec))

    def each_target(self, specs: Iterable[str]) -> tuple[str, ...]:
        """The same of ``--target``, where a class stands behind ``class:``, or alone."""
        found: list[str] = []
        for spec in specs:
            kind, colon, names = spec.partition(":")
            if colon and kind.strip() == "class":
                found += [f"class:{part}" for part in self._parts(names, "--target")]
            else:
                found += [spec] if colon else self._parts(spec, "--target")
        return tuple(found)

    def _parts(self, spec: str, flag: str = "--class") -> list[str]:
        if "," not in spec or self._is_one(spec.strip()):
            return [spec]
        parts = [part.strip() for row in csv.reader([spec], skipinitialspace=True) for part in row if part.strip()]
        if all(map(is_index, parts)):
            return parts
        places = [self._place(part) for part in parts]
        if set(places) == {None}:
            return [spec]
        if None in places:
            try:
                self._lookup.exact(parts[places.index(None)])
            except CnnvizError as error:
                message = f"{flag} {shown(spec)}: no class is called that; read as a list: {error.message}"
                raise CnnvizError(message, error.hint) from None
        if len(set(places)) == 1:
            return parts[:1]  # names of one class
        self._tell(f"{flag} {spec.strip()}: no class is called that: taken as a list of {len(parts)}")
        return parts

    def _is_one(self, spec: str) -> bool:
        """Whether commas belong to one word: to a label, a region, a file."""
        if "@" in spec or spec.startswith("run:") or is_label_table(spec) or os.path.isfile(spec):
            return True
        try:
            return self._lookup.called(spec) is not None
        except CnnvizError:
            return True  # several are called that: told where it is looked up

    def _place(self, part: str) -> int | str | None:
        """The class of one of a list, or the word that it is; None for anything else."""
        if part in _WORDS or part.startswith("top:"):
            return part
        if is_index(part):
            return int(part)
        try:
            found = self._lookup.called(part)
        except CnnvizError:
            return None
        return None if found is None else found.index

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
