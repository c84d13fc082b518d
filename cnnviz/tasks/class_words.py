"""The words of ``--class`` made into class indices, for each image."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence

from torch import Tensor

from cnnviz.errors import CnnvizError, ImageError, nearest, shown
from cnnviz.geometry.truth import Truth
from cnnviz.io.finished_runs import predicted_classes
from cnnviz.io.label_tables import LABEL_TABLES, is_label_table, read_label_table
from cnnviz.io.sources import ImageRef
from cnnviz.tasks.base import LabelMeanings
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.region_words import region_named

_MOST_DIGITS = 9
# So many folders are named in a message.
_NAMED = 3
_RUN = "run:"


class ClassWords:
    """What ``--class`` asks for.

    Args:
        specs: ``pred``, ``top:K``, ``all``, ``folder``, ``truth``, ``FILE.csv``, an index or a label; or ``run:DIR``,
            what the run in that folder predicts for the image of the same name, where it has it and this network has
            such a class, else ``pred``.
        classes: The network's classes.
        marked: What the labels of the annotations mean, which ``truth`` asks for; None where there are none.

    Raises:
        CnnvizError: A spec that is none of these (with near matches), before anything is run.
    """

    def __init__(self, specs: Sequence[str], classes: ClassNames, marked: LabelMeanings | None = None) -> None:
        self.classes, self.marked = classes, marked
        self._steps = [self._parse(spec.strip()) for spec in specs]
        self._table: dict[str, tuple[str | int, ...]] = {}
        for kind, value in self._steps:
            if kind == "table":
                self._table.update(read_label_table(str(value)))
        self._runs = {
            value: predicted_classes(str(value), "--class run:") for kind, value in self._steps if kind == "run"
        }

    def __bool__(self) -> bool:
        return bool(self._steps)

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
            return "top", self.classes.at_most(len(self.classes) + 1 if enough else int(count), spec)
        if spec.startswith(_RUN):
            return "run", spec.removeprefix(_RUN).strip()
        if is_label_table(spec):
            return "table", spec
        try:
            return "class", self.classes.resolve(spec)
        except CnnvizError as error:
            if region := region_named(spec):
                raise CnnvizError(
                    f"--class {shown(spec)}: a region such as @{region} is asked of a network with scores at positions "
                    "(segmentation), which this is not.",
                    "Name the class alone; --task says what the network is for, where that was taken wrongly.",
                ) from error
            if not os.path.isfile(spec):
                raise
            endings = " or ".join(LABEL_TABLES)
            hint = f"A table of labels ends in {endings}: path,label. Rename the file."
            raise CnnvizError(f"--class {shown(spec)}: no class is called that, but a file is.", hint) from error

    def check_folders(self, folders: Iterable[str | None]) -> None:
        """Refuse ``folder`` where none of these folders is called like a class; no images are no reason to.

        Raises:
            CnnvizError: None is; of several the nearest classes to the first are named.
        """
        if not any(kind == "folder" for kind, _ in self._steps):
            return
        known: dict[str, None] = {}
        for name in folders:
            if name is None or name in known:
                continue
            with contextlib.suppress(CnnvizError):
                self.classes.exact(name)
                return
            known[name] = None
        if known:
            names = ", ".join(map(shown, itertools.islice(known, _NAMED)))
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            near = "" if len(known) == 1 else nearest(next(iter(known)), self.classes.labels)
            if self.classes.are_numbers:
                near = "Nothing names the network's classes: give --labels FILE, or call folders by their numbers."
            raise CnnvizError(
                f"--class folder: no folder of an input is called like a class of the network ({names}{more}).",
                f"{near} " * bool(near)
                + "Put each image into a folder with the name of its class, or give --class FILE.csv with path,label.",
            )

    def indices(self, ref: ImageRef, truth: Truth | None, ranked: Sequence[int], logits: Tensor) -> list[int]:
        """Class indices for one image, each once, in the order asked.

        Args:
            ref: The image.
            truth: What the annotations say of it.
            ranked: Its classes, best first: those that ``pred``, ``top`` and ``all`` take from.
            logits: Its scores by class [K].

        Raises:
            ImageError: The image has no label, or its label is not a class of this network.
        """
        found: list[int] = []
        for kind, value in self._steps:
            if kind == "pred":
                found.extend(ranked[:1])
            elif kind == "top":
                found.extend(ranked[: int(value)])
            elif kind == "all":
                found.extend(sorted(ranked))
            elif kind == "class":
                found.append(int(value))
            elif kind == "truth":
                assert self.marked is not None
                found.extend(self.marked.of_image(truth, logits))
            elif kind == "run":
                own = self._of_run(value, ref)
                found.append(ranked[0] if own is None else own)
            else:
                found.extend(self._labelled(text) for text in self._labels_of(ref, kind))
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

    def marks(self, ref: ImageRef, index: int, truth: Truth | None) -> tuple[str, ...]:
        """The labels by which a true class is marked on an image whose classes are known by the annotations alone."""
        own = ref.label if ref.label_index is None else ref.label_index
        tabled = any(kind in {"folder", "table"} for kind, _ in self._steps)
        if tabled or own is not None or self.marked is None or truth is None:
            return ()
        return tuple(label for label in truth.labels if label in self.marked.labels_of(index))

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

    def _of_run(self, folder: int | str, ref: ImageRef) -> int | None:
        """The class that another run predicts for an image; None where it does not know it, or this network has none.

        Labels tell classes apart; where one of the networks has none, their indices.
        """
        known = self._runs[folder]
        said = known.get(ref.name, known.get(ref.uri))
        if said is None:
            return None
        label, index = said
        labels = self.classes.labels
        if index < len(labels) and labels[index] == label:
            return index
        try:
            return self.classes.exact(label)
        except CnnvizError:
            numbered = f"class {index}"
            return index if index < len(labels) and numbered in (label, labels[index]) else None

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
