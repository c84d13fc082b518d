"""Class names that stand in a file beside its weights, taken where something says so beside their number."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnviz.errors import brief, counted
from cnnviz.io.label_files import ClassNames
from cnnviz.models.loading.labels import numbered
from cnnviz.models.loading.name_evidence import speaks_against
from cnnviz.models.loading.name_lists import Names, from_text, name_list

# Keys that say what they hold, in small letters, and what the keys of a mapping under them are. OpenMMLab writes
# CLASSES and classes, ImageFolder class_to_idx, transformers id2label and label2id, SuperGradients and RF-DETR
# class_names.
_CLEAR = {
    **dict.fromkeys(("class_names", "classnames", "classes"), ""),
    **dict.fromkeys(("id2label", "idx2label", "idx_to_class", "idx_to_label", "index_to_class"), "index"),
    **dict.fromkeys(("class_to_idx", "class_to_index", "label_to_idx", "label2id", "label2idx"), "name"),
}
# Keys that may hold anything, and where they hold class names: at the top, as an attribute of the network (Ultralytics'
# names), or in what weights say of themselves (torchvision's meta).
_UNCLEAR = ("names", "labels", "categories")
_HOMES = {"categories": ("meta",)}
_KEYS = {**_CLEAR, **dict.fromkeys(_UNCLEAR, "")}
# Where settings of the training stand, and where notes on the weights do.
_SETTINGS = ("hyper_parameters", "hparams", "config", "args", "opt")
_INSIDE = ("meta", "dataset_meta", "processing_params", *_SETTINGS, "model", "ema")
_DEEPEST = 3
_SHOWN = 3
_TOLD = 3


@dataclass(frozen=True)
class Candidate:
    """Texts in a file that may be the names of its classes.

    Attributes:
        place: The keys that lead there, with dots.
        names: In the order of the outputs; empty where they have none.
        fault: Why they are not taken, as a sentence that goes on behind the place; empty where they may be.
    """

    place: str
    names: Names
    fault: str = ""

    def fits(self, count: int) -> bool:
        """Whether there are as many as classes; a network with one logit has two."""
        return len(self.names) == count or (count, len(self.names)) == (1, 2)

    @property
    def begin(self) -> str:
        """The first names."""
        more = ", …" if len(self.names) > _SHOWN else ""
        return ", ".join(brief(name) for name in self.names[:_SHOWN]) + more

    @property
    def told(self) -> str:
        """Where they stand, the first of them, and why they are not taken."""
        return f"{self.place!r}{f' ({self.begin})' if self.names else ''} {self.fault}".rstrip()


@dataclass(frozen=True)
class Offered:
    """What class names a file has.

    Attributes:
        file: Its name.
        candidates: What may be class names in it.
        weights: Those whose names are taken where it has none and their number is that of its classes.
        kind: What it is called.
    """

    file: str
    candidates: tuple[Candidate, ...]
    weights: str = ""
    kind: str = "checkpoint"

    @property
    def lists(self) -> tuple[Candidate, ...]:
        """What may be taken, each list once, by where it stands first."""
        return tuple({each.names: each for each in reversed(self.candidates) if not each.fault}.values())[::-1]

    @property
    def only(self) -> Names:
        """The list that may be taken, where there is one; empty where there are none or several."""
        return self.lists[0].names if len(self.lists) == 1 else ()

    def names(self, labels: Names, count: int) -> ClassNames:
        """The names of the outputs, and where they are from; numbers where that would be a guess.

        Args:
            labels: Those of the weights that the network is published with; empty where there are none.
            count: Number of classes.
        """
        fitting = [each for each in self.lists if each.fits(count)]
        if len(fitting) == 1:
            (taken,) = fitting
            said = f"class names from the {self.kind}'s {taken.place!r}: {taken.begin}"
            return ClassNames(taken.names, notes=(said, *self._others(taken.names, count)))
        if not fitting and len(labels) == count:
            assumed = f"class names assumed to be those of {self.weights} ({counted(count, 'class')})"
            return ClassNames(labels, notes=(assumed, *self._others(labels, count)))
        why = f"{self._why_none(fitting, count)}: classes are told by number; --labels FILE names them"
        return ClassNames(numbered(count), notes=(why,))

    def _others(self, taken: Names, count: int) -> list[str]:
        """What is as long and says something else."""
        others = [each for each in self.candidates if each.fault and each.names != taken and each.fits(count)]
        return [f"passed over as class names: {each.told}; --labels FILE names the classes" for each in others]

    def _why_none(self, fitting: Sequence[Candidate], count: int) -> str:
        if fitting:
            return f"{self.file} has class names that differ, {' and '.join(each.told for each in fitting)}"
        if not self.candidates:
            return f"no list of class names stands in {self.file}"
        others = [
            f"{each.place!r} has {counted(len(each.names), 'name')} for {counted(count, 'class')}"
            for each in self.lists
        ]
        told = [*(each.told for each in self.candidates if each.fault), *others]
        told[_TOLD:] = [f"{len(told) - _TOLD} more are as little"] * (len(told) > _TOLD)
        return f"no class names are taken from {self.file}, in which {' and '.join(told)}"


def names_in(content: Any, parameters: Collection[str] = ()) -> tuple[Candidate, ...]:
    """What may be class names in what was saved.

    Args:
        content: What the file holds, or what it says beside its tensors, as texts of JSON or Python.
        parameters: Names of its weights, which are no class names.
    """
    noted = [value for key, _, value in _entries(content) if key in _SETTINGS]
    settings = [key for value in noted for key, *_ in _entries(from_text(value))]
    return tuple(_found(content, (), parameters, settings))


def _found(content: Any, trail: Names, parameters: Collection[str], settings: Collection[str]) -> Iterator[Candidate]:
    entries = _entries(content)
    for key, own, value in entries:
        if key not in _KEYS or (found := name_list(from_text(value), _KEYS[key])) is None:
            continue
        fault = found.fault
        if key in _UNCLEAR and not fault:
            at_home = not trail or isinstance(content, nn.Module) or trail[-1] in _HOMES.get(key, ())
            beside = [other for other, *_ in entries]
            said = speaks_against(found.names, (*beside, *settings), parameters)
            fault = said or ("" if at_home else "may be names of anything")
        yield Candidate(".".join((*trail, own)), found.names, fault)
    for key, own, value in entries:
        if key in _INSIDE and len(trail) < _DEEPEST:
            yield from _found(from_text(value), (*trail, own), parameters, settings)


def _entries(content: Any) -> list[tuple[str, str, Any]]:
    """What stands in a mapping, in arguments, or on an object that names classes: key in small letters, key, value."""
    if isinstance(content, (argparse.Namespace, nn.Module)) or isinstance(getattr(content, "id2label", None), Mapping):
        content = getattr(content, "__dict__", None)
    if not isinstance(content, Mapping):
        return []
    return [(key.casefold(), key, value) for key, value in content.items() if isinstance(key, str)]
