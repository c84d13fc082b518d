"""Which classes are explained for each image: the words of ``--class`` made into class indices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, nearest, shown
from cnnviz.geometry.truth import Truth
from cnnviz.io.label_tables import is_label_table, read_label_table
from cnnviz.io.sources import ImageRef
from cnnviz.run.truth_classes import TruthClasses
from cnnviz.tasks.base import DifferenceRequest, Request
from cnnviz.tasks.classification import Classification, ClassNames, descending
from cnnviz.tasks.units import UnitRequest, parse_unit
from cnnviz.tasks.words import two_names

_MOST_DIGITS = 9
_KINDS = ("class", "diff", "unit", "neuron")

# What is explained of an image with these scores by class [K]; None where there is nothing to explain.
_Other = Callable[[Tensor, Classification], Request | None]


class TargetSelector:
    """Turns the ``--class`` and ``--target`` specs into classes, and pairs of classes, for each image.

    Args:
        specs: ``pred``, ``top:K``, ``all``, ``folder``, ``truth``, ``FILE.csv``, an index or a label; the predicted
            class where nothing is asked for at all.
        classes: The network's classes.
        targets: ``class:SPEC`` with one of these; ``unit:LAYER:K`` and ``neuron:LAYER:K:y:x``; or ``diff:A,B`` with two
            of ``pred``, an index or a label, or two units of one layer.
        marked: What the labels of the annotations mean, which ``truth`` asks for; None where there are none.
        only: ``--only``: then what an image is, and what it is taken for, are explained before all else.

    Raises:
        CnnvizError: A spec that is none of these (with near matches), before anything is run.
    """

    def __init__(
        self,
        specs: Sequence[str],
        classes: ClassNames,
        targets: Sequence[str] = (),
        marked: TruthClasses | None = None,
        only: str | None = None,
    ) -> None:
        self.classes = classes
        self.marked = marked
        self._only = only
        asked = [*specs, *(t.strip().removeprefix("class:") for t in targets if _kind(t) == "class")]
        self._steps = [self._parse(spec.strip()) for spec in asked or ([] if targets else ["pred"])]
        self.units: list[UnitRequest] = []
        self._others = [self._parse_other(target.strip()) for target in targets if _kind(target) != "class"]
        self._table: dict[str, tuple[str | int, ...]] = {}
        for kind, value in self._steps:
            if kind == "table":
                self._table.update(read_label_table(str(value)))

    def _parse(self, spec: str) -> tuple[str, int | str]:
        if spec == "truth" and self.marked is None:
            raise CnnvizError("--class truth: nothing says what is in the images.", "Give --truth PATH.")
        if spec in {"pred", "all", "folder", "truth"}:
            return spec, ""
        if spec.startswith("top:"):
            count = spec[4:]
            if not (count.isascii() and count.isdecimal()) or not count.strip("0"):
                raise CnnvizError(
                    f"--class {shown(spec)}: expected top:K with K of 1 or more.", "For example --class top:5"
                )
            enough = len(count.lstrip("0")) > _MOST_DIGITS
            return "top", len(self.classes) if enough else min(int(count), len(self.classes))
        if is_label_table(spec):
            return "table", spec
        return "class", self.classes.resolve(spec)

    @property
    def explains_classes(self) -> bool:
        """Whether classes are asked for, by themselves or in a difference."""
        return bool(self._steps) or len(self._others) > len(self.units)

    @property
    def beyond_classes(self) -> bool:
        """Whether anything but classes is asked for: differences, units, neurons."""
        return bool(self._others)

    def _parse_other(self, target: str) -> _Other:
        unit = parse_unit(target, "--target")
        if unit is not None:
            self.units.append(unit)
            return lambda scores, task: unit
        parts = two_names(target.partition(":")[2])
        if parts is None:
            raise CnnvizError(
                f"--target {shown(target)}: expected diff:A,B with two classes.",
                "For example --target diff:tabby,281; a label that has a comma goes in quotation marks.",
            )
        first, second = (self._part(name) for name in parts)
        if first == second:
            raise CnnvizError(f"--target {shown(target)}: both are the same {_noun(first)}.", "Name two.")
        if _noun(first) != _noun(second):
            raise CnnvizError(
                f"--target {shown(target)}: a class and a unit have no common scale.",
                "Compare two classes, or two units of one layer.",
            )
        if isinstance(first, UnitRequest) and isinstance(second, UnitRequest):
            whole = DifferenceRequest(first, second, target)
            self.units.append(first)
            return lambda scores, task: whole

        def between_classes(scores: Tensor, task: Classification) -> Request | None:
            best = int(scores.argmax())
            a, b = (task.request(best if part is None else part) for part in (first, second))  # type: ignore[arg-type]
            return None if a == b else DifferenceRequest(a, b, target)

        return between_classes

    def _part(self, name: str) -> int | UnitRequest | None:
        """One side of a difference: a class, None for the predicted one, or a unit."""
        unit = parse_unit(name, "--target")
        if unit is not None:
            return unit
        # After "class:" there may stand a label that looks like a unit.
        label = name.removeprefix("class:").strip()
        return None if label == "pred" else self.classes.resolve(label)

    def requests(self, classes: Sequence[int], logits: Tensor, task: Classification) -> list[Request]:
        """Everything that is explained of one image, each once: its classes, then what else was asked for.

        A difference of which both sides are the same class for this image is left out.

        Args:
            classes: What :meth:`select` gave for it.
            logits: Its scores by class [K].
            task: What the network is for.
        """
        found = [task.request(index) for index in classes]
        others = [made for other in self._others if (made := other(logits, task)) is not None]
        by_slug = {request.slug: request for request in reversed([*found, *others])}
        return list(reversed(by_slug.values()))

    def select(self, ref: ImageRef, logits: Tensor, truth: Truth | None = None) -> list[int]:
        """Class indices for one image, each once, in the order asked.

        Args:
            ref: The image.
            logits: Its scores by class [K].
            truth: What the annotations say of it.

        Raises:
            ImageError: The image has no label, or one that is no class of this network; nothing else is asked for than
                what is marked on it, and nothing is.
        """
        found: list[int] = []
        if self._only is not None:
            found = [*self.true_classes(ref, logits, truth), int(logits.argmax())]
        for kind, value in self._steps:
            if kind == "pred":
                found.append(int(logits.argmax()))
            elif kind == "top":
                found.extend(descending(logits)[: int(value)])
            elif kind == "all":
                found.extend(range(len(self.classes)))
            elif kind == "class":
                found.append(int(value))
            elif kind == "truth":
                assert self.marked is not None
                found.extend(self.marked.of_image(truth, logits))
            else:
                found.extend(self._labelled(text) for text in self._labels_of(ref, kind))
        if self._steps and not found and not self._others:
            raise ImageError("no-truth", "nothing that --truth marks on this image is a class of the model")
        return list(dict.fromkeys(found))

    def true_classes(self, ref: ImageRef, logits: Tensor, truth: Truth | None = None) -> list[int]:
        """What an image is known to show, the class scored highest first: by ``--class folder`` or a table, else by the
        list that named it, else by the annotations.

        Raises:
            ImageError: Nothing says what it shows, or what does names no class of the network.
        """
        kinds = [kind for kind, _ in self._steps if kind in {"folder", "table"}]
        own = ref.label if ref.label_index is None else ref.label_index
        if kinds:
            found = [self._labelled(text) for text in self._labels_of(ref, kinds[0])]
        elif own is not None:
            found = [self._labelled(own)]
        elif self.marked is not None:
            found = self.marked.of_image(truth, logits)
            if not found:
                raise ImageError("no-truth", "nothing that --truth marks on this image is a class of the model")
        else:
            raise ImageError("no-label", "nothing says what this image shows")
        return sorted(dict.fromkeys(found), key=lambda index: -float(logits[index]))

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


def _noun(part: int | UnitRequest | None) -> str:
    return "unit" if isinstance(part, UnitRequest) else "class"


def _kind(target: str) -> str:
    """The kind of a target: ``class`` where none is named.

    Raises:
        CnnvizError: It is of a kind that is not known.
    """
    kind, colon, _ = target.strip().partition(":")
    if colon and kind.isidentifier() and kind not in _KINDS and kind != "top":
        hint = nearest(kind, _KINDS) or "Use class:SPEC, diff:A,B, unit:LAYER:K or neuron:LAYER:K:ROW:COLUMN."
        raise CnnvizError(f"--target {shown(target)}: there is no kind of target {kind!r}.", hint)
    return kind if colon and kind in _KINDS else "class"
