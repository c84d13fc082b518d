"""Which classes of the network the labels of the annotations mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cnnviz.errors import CnnvizError, nearest, out_of, shown
from cnnviz.geometry.truth import Truth
from cnnviz.io.annotation_formats import load_truth
from cnnviz.io.annotations import Annotations
from cnnviz.io.truth_tables import read_truth_classes
from cnnviz.models.loading.coco_classes import imagenet_classes
from cnnviz.settings import TargetSettings
from cnnviz.tasks.class_names import ClassNames

COCO = "coco"
_IMAGENET = 1000
_IMAGENETS = {"zebra": 340, "banana": 954, "pizza": 963}
_FEW = 5
# The command that is for nothing but measuring by what the labels mark.
_MEASURES = "localize"


def annotations_of(target: TargetSettings) -> Annotations | None:
    """What is known of the images, where ``--truth`` says.

    Raises:
        CnnvizError: It cannot be read.
    """
    if target.truth is not None:
        return load_truth(target.truth, "--truth")
    if target.truth_classes is not None:
        raise CnnvizError("--truth-classes says what the labels of --truth mean.", "Give --truth PATH too.")
    return None


def truth_classes_of(
    annotations: Annotations | None, classes: ClassNames, target: TargetSettings, note: Callable[[str], None]
) -> TruthClasses | None:
    """What the labels of the annotations mean; None without annotations. Labels that are no class are told.

    Args:
        annotations: What is known of the images.
        classes: The network's classes.
        target: What the run asks for.
        note: Told which labels are no class, and what would say what they mean.

    Raises:
        CnnvizError: A table cannot be read, or names classes that do not exist; or no label is a class in a command
            that is there to measure by them.
    """
    if annotations is None:
        return None
    found = TruthClasses(annotations.names, classes, target.truth_classes)
    without = [name for name, indices in found.indices.items() if not indices]
    if not without:
        return found
    hint = _hint(without, classes, target)
    if len(without) == len(found.indices):
        none = f"none of the {len(without)} labels" if len(without) > 1 else "not the one label"
        said = f"{none} of --truth is a class of the model"
        if target.method == _MEASURES and not target.metrics:
            raise CnnvizError(f"{_MEASURES} has nothing to measure by: {said} ({_few(without)}).", f"{hint}.")
        note(f"{said}: {hint}")
    else:
        are = "is" if len(without) == 1 else "are"
        some = f"{out_of(len(without), len(found.indices), 'label')} of --truth {are} no class of the model"
        some = f"{some}: {_few(without)}"
        note(some if target.truth_classes is not None else f"{some}; {hint}")
    return found


def _few(labels: Sequence[str]) -> str:
    return ", ".join(map(shown, labels[:_FEW])) + (" …" if len(labels) > _FEW else "")


def _hint(without: Sequence[str], classes: ClassNames, target: TargetSettings) -> str:
    """What says what labels mean: the table of COCO's where it has some of them and the classes are ImageNet's."""
    option = "truth_classes: " if target.method == "audit" else "--truth-classes "
    known = [name for name in without if imagenet_classes().get(name)]
    if known and target.truth_classes is None and _are_imagenets(classes):
        return f"{option}{COCO} says what {'they' if len(known) == len(without) else f'{len(known)} of them'} mean"
    return f"{option}FILE says what they mean, in YAML: LABEL: [CLASS, ...]"


def _are_imagenets(classes: ClassNames) -> bool:
    """Whether these are ImageNet's 1,000 classes in their order, by names that all lists of them have."""
    named = all(name in classes.labels[index].lower() for name, index in _IMAGENETS.items() if index < len(classes))
    return len(classes) == _IMAGENET and named


class TruthClasses:
    """Classes by label and labels by class.

    A label means the class of its name (or WordNet id); or those that a table gives it, of which the network may be
    right with any.

    Args:
        names: All labels that the annotations have.
        classes: The network's classes.
        table: File of ``--truth-classes``, or ``coco``; None for names alone.

    Raises:
        CnnvizError: The table cannot be read, or names classes that do not exist.
    """

    def __init__(self, names: Iterable[str], classes: ClassNames, table: str | None) -> None:
        self._classes = classes
        given = {} if table is None else self._table(table)
        self._indices: dict[str, tuple[int, ...]] = {}
        for name in names:
            self._indices[name] = given[name] if name in given else self._by_name(name)
        self._labels: dict[int, tuple[str, ...]] = {}
        for name, indices in self._indices.items():
            for index in indices:
                self._labels[index] = (*self._labels.get(index, ()), name)

    @property
    def indices(self) -> Mapping[str, tuple[int, ...]]:
        """The classes that each label means."""
        return self._indices

    def labels_of(self, index: int) -> tuple[str, ...]:
        """The labels that mean a class."""
        return self._labels.get(index, ())

    def meant_of(self, truth: Truth | None) -> tuple[str, ...]:
        """Of the labels of what is marked on an image those that mean a class of the network."""
        marked = () if truth is None else (*truth.labels, *truth.object_labels, *truth.masks)
        return tuple(label for label in dict.fromkeys(marked) if self._indices.get(label))

    def of_image(self, truth: Truth | None, logits: Tensor) -> list[int]:
        """The classes of what is marked on an image: for each label, of those that it means the one scored highest.

        Args:
            truth: What is known of the image.
            logits: Its scores by class [K].
        """
        found: list[int] = []
        for label in () if truth is None else truth.labels:
            indices = self._indices.get(label, ())
            if indices:
                found.append(max(indices, key=lambda index: float(logits[index])))
        return list(dict.fromkeys(found))

    def _by_name(self, name: str) -> tuple[int, ...]:
        try:
            found = self._classes.called(name)
            return () if found is None else (found,)
        except CnnvizError:
            return ()

    def _table(self, path: str) -> dict[str, tuple[int, ...]]:
        if path == COCO:
            if len(self._classes) != _IMAGENET:
                raise CnnvizError(
                    f"--truth-classes coco is for the {_IMAGENET} classes of ImageNet; the model has "
                    f"{len(self._classes)}.",
                    "Give a file: LABEL: [CLASS, ...]",
                )
            return imagenet_classes()
        return {label: self._named(label, value, path) for label, value in read_truth_classes(path).items()}

    def _named(self, label: str, value: Any, path: str) -> tuple[int, ...]:
        found = []
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(self._classes):
                found.append(name)
                continue
            try:
                found.append(self._classes.exact(str(name)))
            except CnnvizError as error:
                hint = nearest(str(name), self._classes.labels) or error.hint
                raise CnnvizError(f"--truth-classes {path}, {label}: no class is called {shown(name)}.", hint) from None
        return tuple(dict.fromkeys(found))
