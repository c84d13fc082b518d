"""Class names that stand in a checkpoint beside its weights."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnviz.io.label_files import ClassNames
from cnnviz.models.loading.labels import numbered

# Keys under which training scripts keep them: by output, or by name.
_NAMES = ("class_names", "classes", "names", "labels", "categories", "id2label", "idx_to_class", "CLASSES")
_INDICES = ("class_to_idx", "label2id")
# Where they lie among other things that a training writes down.
_INSIDE = ("meta", "dataset_meta", "hyper_parameters", "hparams", "config", "args", "opt")
_DEEPEST = 3

Names = tuple[str, ...]


@dataclass(frozen=True)
class Offered:
    """What class names a checkpoint has.

    Attributes:
        file: Its name.
        lists: The lists of names that stand in it.
        weights: Those whose names are taken where it has none and their number is that of its classes.
    """

    file: str
    lists: tuple[Names, ...]
    weights: str = ""

    def names(self, labels: Names, count: int) -> ClassNames:
        """The names of the outputs, and where they are from; numbers where that would be a guess.

        Args:
            labels: Those of the weights that the network is published with; empty where there are none.
            count: Number of classes.
        """
        fitting = [each for each in self.lists if len(each) == count or (count, len(each)) == (1, 2)]
        if len(fitting) == 1:
            return ClassNames(fitting[0], notes=(f"{len(fitting[0])} class names stand in {self.file}",))
        if fitting:
            why = f"{self.file} has {len(fitting)} lists of {count} class names that differ"
        elif len(labels) == count:
            assumed = f"class names assumed to be those of {self.weights} ({count} classes)"
            return ClassNames(labels, notes=(assumed,))
        elif self.lists:
            counts = " and ".join(str(each) for each in sorted({len(names) for names in self.lists}))
            why = f"{self.file} has lists of {counts} names, and the network {count} classes"
        else:
            why = f"no list of class names stands in {self.file}"
        return ClassNames(numbered(count), notes=(f"{why}: classes are told by number; --labels FILE names them",))


def names_in(content: Any) -> tuple[Names, ...]:
    """The lists of class names in what was saved, each once.

    Args:
        content: What the file holds, or what a safetensors file says beside its tensors, as texts of JSON.
    """
    return tuple(dict.fromkeys(_found(content, 0)))


def _found(content: Any, depth: int) -> Iterator[Names]:
    if isinstance(content, (argparse.Namespace, nn.Module)):
        content = vars(content)
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    for key in (*_NAMES, *_INDICES):
        if names := _listed(_plain(content.get(key))):
            yield names
    for key in (*_INSIDE, "model"):
        yield from _found(_plain(content.get(key)), depth + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _listed(value: Any) -> Names:
    """Names in the order of the outputs; empty of what is no complete list of names."""
    if isinstance(value, Mapping):
        value = _in_order(value)
    whole = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value)
    return tuple(value) if whole and len(set(value)) > 1 else ()


def _in_order(value: Mapping[Any, Any]) -> Sequence[Any]:
    """The names of a mapping from index to name, or from name to index, that counts from 0."""
    pairs = value.items()
    if all(isinstance(name, str) for name in value.values()):
        by_index = {int(key): name for key, name in pairs if str(key).isdecimal()}
    else:
        by_index = {index: name for name, index in pairs if isinstance(index, int)}
    whole = len(by_index) == len(value) and set(by_index) == set(range(len(by_index)))
    return [by_index[index] for index in sorted(by_index)] if whole else ()
