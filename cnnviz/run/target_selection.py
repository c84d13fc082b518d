"""Which classes are explained for each image: the words of ``--class`` made into class indices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cnnviz.engine.targets import two_names
from cnnviz.errors import CnnvizError, ImageError, nearest, shown
from cnnviz.io.label_tables import read_label_table
from cnnviz.io.names import unique_parts
from cnnviz.io.sources import ImageRef
from cnnviz.models.loading.labels import LabelLookup

_MOST_DIGITS = 9
_KINDS = ("class", "diff")


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
        found = self._lookup.exact(text)
        if found.guess and found.kind not in self._told:
            self._told.add(found.kind)
            self._tell(f"labels of images: {found.guess}")
        return found.index


class Pair(NamedTuple):
    """Two classes whose scores are compared, and how that was asked for."""

    first: int
    second: int
    spec: str


class TargetSelector:
    """Turns the ``--class`` and ``--target`` specs into classes, and pairs of classes, for each image.

    Args:
        specs: ``pred``, ``top:K``, ``all``, ``folder``, ``FILE.csv``, an index or a label; the predicted class where
            nothing is asked for at all.
        classes: The network's classes.
        targets: ``class:SPEC`` with one of these, or ``diff:A,B`` with two of ``pred``, an index or a label.

    Raises:
        CnnvizError: A spec that is none of these (with near matches), before anything is run.
    """

    def __init__(self, specs: Sequence[str], classes: ClassNames, targets: Sequence[str] = ()) -> None:
        self.classes = classes
        asked = [*specs, *(t.strip().removeprefix("class:") for t in targets if not _is_difference(t))]
        self._steps = [self._parse(spec.strip()) for spec in asked or ([] if targets else ["pred"])]
        self._pairs = [self._parse_pair(target.strip()) for target in targets if _is_difference(target)]
        self._table: dict[str, tuple[str | int, ...]] = {}
        for kind, value in self._steps:
            if kind == "table":
                self._table.update(read_label_table(str(value)))

    def _parse(self, spec: str) -> tuple[str, int | str]:
        if spec in {"pred", "all", "folder"}:
            return spec, ""
        if spec.startswith("top:"):
            count = spec[4:]
            if not (count.isascii() and count.isdecimal()) or not count.strip("0"):
                raise CnnvizError(
                    f"--class {shown(spec)}: expected top:K with K of 1 or more.", "For example --class top:5"
                )
            enough = len(count.lstrip("0")) > _MOST_DIGITS
            return "top", len(self.classes) if enough else min(int(count), len(self.classes))
        if spec.lower().endswith(".csv"):
            return "table", spec
        return "class", self.classes.resolve(spec)

    @property
    def compares(self) -> bool:
        """Whether differences of classes are asked for."""
        return bool(self._pairs)

    def _parse_pair(self, target: str) -> tuple[int | None, int | None, str]:
        """Two classes, None for the predicted one."""
        parts = two_names(target.partition(":")[2])
        if parts is None:
            raise CnnvizError(
                f"--target {shown(target)}: expected diff:A,B with two classes.",
                "For example --target diff:tabby,281; a label that has a comma goes in quotation marks.",
            )
        first, second = (None if name == "pred" else self.classes.resolve(name) for name in parts)
        if first == second:
            raise CnnvizError(f"--target {shown(target)}: both are the same class.", "Name two classes.")
        return first, second, target

    def select_pairs(self, logits: Tensor) -> list[Pair]:
        """Pairs of classes for one image with these scores by class [K]; none where it is taken for the other one."""
        best = int(logits.argmax())
        found: dict[tuple[int, int], Pair] = {}
        for a, b, spec in self._pairs:
            pair = Pair(best if a is None else a, best if b is None else b, spec)
            if pair.first != pair.second:
                found.setdefault((pair.first, pair.second), pair)
        return list(found.values())

    def select(self, ref: ImageRef, logits: Tensor) -> list[int]:
        """Class indices for one image, each once, in the order asked.

        Args:
            ref: The image.
            logits: Its scores by class [K].

        Raises:
            ImageError: The image has no label, or one that is no class of this network.
        """
        found: list[int] = []
        for kind, value in self._steps:
            if kind == "pred":
                found.append(int(logits.argmax()))
            elif kind == "top":
                found.extend(_descending(logits)[: int(value)])
            elif kind == "all":
                found.extend(range(len(self.classes)))
            elif kind == "class":
                found.append(int(value))
            else:
                found.extend(self._labelled(text) for text in self._labels_of(ref, kind))
        return list(dict.fromkeys(found))

    def truth(self, ref: ImageRef) -> str | None:
        """The ground-truth label of an image where the run knows one, by the network's name for it if it has one."""
        kinds = [kind for kind, _ in self._steps if kind in {"folder", "table"}]
        text: str | int | None = ref.label if ref.label_index is None else ref.label_index
        if kinds:
            try:
                text = self._labels_of(ref, kinds[0])[0]
            except ImageError:
                return ref.label
        if text is None:
            return None
        try:
            return self.classes.labels[self._labelled(text)]
        except ImageError:
            return str(text)

    def _labels_of(self, ref: ImageRef, kind: str) -> tuple[str | int, ...]:
        if kind == "folder":
            if ref.folder is None:
                raise ImageError("no-label", "no folder holds this image, so --class folder has no label for it")
            return (ref.folder,)
        for key in (ref.uri, os.path.abspath(ref.uri), ref.name):
            if key in self._table:
                return self._table[key]
        raise ImageError("no-label", "the label table has no row for this image")

    def _labelled(self, label: str | int) -> int:
        """The class of a label, or of an index that a column of indices gave."""
        if isinstance(label, int):
            if label < len(self.classes):
                return label
            raise ImageError("unknown-label", f"class {label} does not exist; the network has {len(self.classes)}")
        try:
            return self.classes.exact(label)
        except CnnvizError as error:
            raise ImageError("unknown-label", f"{error.message}; {error.hint}") from error


def _is_difference(target: str) -> bool:
    """Whether a target is ``diff:…``.

    Raises:
        CnnvizError: It is of a kind that is not known.
    """
    kind, colon, _ = target.strip().partition(":")
    if colon and kind.isidentifier() and kind not in _KINDS and kind != "top":
        hint = nearest(kind, _KINDS) or "Use class:SPEC or diff:A,B."
        raise CnnvizError(f"--target {shown(target)}: there is no kind of target {kind!r}.", hint)
    return kind == "diff"


def _descending(logits: Tensor) -> list[int]:
    """Class indices by falling score; the lower index first among equals."""
    order: list[int] = torch.sort(logits, descending=True, stable=True).indices.tolist()
    return order


def top_classes(scores: Tensor, count: int) -> list[int]:
    """The ``count`` best classes of one image."""
    return _descending(scores)[:count]
