"""Class names: counted against the network, found again by what a person types or a folder is called."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cnnviz.errors import CnnvizError, brief, nearest, shown

_LISTED = 8
# Names that a message tells one and all.
_FEW = 12
_MOST_COMPARED = 50_000
_DIGITS = re.compile(r"[+-]?[0-9]+")
_MOST_DIGITS = 9
# A folder may have the name behind the id: n02085620-Chihuahua.
_SYNSET = re.compile(r"(n[0-9]{8})(?:[_\-\s].*)?", re.DOTALL)


def numbered(count: int) -> tuple[str, ...]:
    """The names of a network that came without any: ``class 0``, ``class 1``, …"""
    return tuple(f"class {index}" for index in range(count))


@dataclass(frozen=True)
class Match:
    """A class that was found.

    Attributes:
        index: Of the output.
        guess: What to tell when the words fit only after some interpretation; empty when they are the label.
        kind: Of the guess, so that a thousand folders need be told of once.
    """

    index: int
    guess: str = ""
    kind: str = ""


class LabelLookup:
    """Finds the index of a class that a person, a folder or a table names.

    Args:
        labels: Class names by index.
        synsets: WordNet ids such as ``n01514668`` by index; empty where they are not known.

    Attributes:
        are_numbers: Whether the labels only count the classes, because nothing names them.
    """

    def __init__(self, labels: Sequence[str], synsets: Sequence[str] = ()) -> None:
        self.labels, self._synsets = tuple(labels), tuple(synsets)
        self._exact = _places(enumerate(self.labels))
        self._folded = _places((index, _fold(label)) for index, label in enumerate(self.labels))
        self._synonyms = _places((i, part) for i, label in enumerate(self.labels) for part in _synonyms(label))
        self._ids = _places(enumerate(self._synsets))
        self.are_numbers = self.labels == numbered(len(self.labels))

    def typed(self, text: str) -> Match:
        """The class that a person typed.

        Tried in this order, each step only if the ones before found nothing: the whole label; an index; the label
        without regard to case, underscores and hyphens; one of its synonyms ("tench" of "tench, Tinca tinca"); a
        WordNet id; whole words of exactly one label ("retriever"), which is a guess and told as one.

        Raises:
            CnnvizError: if nothing fits (near matches are named) or several do (their indices are named).
        """
        wanted = text.strip()
        if not _fold(wanted) and wanted not in self._exact:
            raise CnnvizError("the class is empty", "give --class an index or a label")
        found = self._named(wanted)
        if found is None and _DIGITS.fullmatch(wanted):
            return Match(self._index(wanted))
        if found is None and (found := self._unspelled(wanted)) is None:
            found = self._by_words(wanted)
        if found is None:
            raise self._unknown(wanted)
        return found

    def exact(self, text: str) -> Match:
        """The class that a folder or a row of a table names: a whole label, synonym or WordNet id, never a part of one.

        A number that is no label is an index. Where the classes have no names and the network was probably trained
        on folders called ``0``, ``1``, ``10``, ``2``, … (``ImageFolder`` sorts them like this), folder ``10`` may be
        output 2 or output 10: such a number is refused.

        Raises:
            CnnvizError: if no class or several are called that.
        """
        found = self.called(text)
        if found is None:
            raise self._unknown(text.strip())
        return found

    def called(self, text: str) -> Match | None:
        """The same, and None where no class is called that; who asks for many names needs no near matches.

        Raises:
            CnnvizError: if several are called that.
        """
        wanted = text.strip()
        found = self._named(wanted)
        if found is None and _DIGITS.fullmatch(wanted):
            return self._counted(wanted)
        return found or self._unspelled(wanted)

    def _named(self, wanted: str) -> Match | None:
        """By the very label."""
        found = self._one(self._exact.get(wanted, ()), wanted)
        if found is None:
            return None
        if _DIGITS.fullmatch(wanted) and len(wanted) <= _MOST_DIGITS and int(wanted) != found.index:
            guess = f"{wanted!r} is the class of that name, which is output {found.index}; it is not an index here"
            return Match(found.index, guess, "label")
        return found

    def _unspelled(self, wanted: str) -> Match | None:
        """By the label in another spelling, by a synonym, or by a WordNet id."""
        folded = _fold(wanted)
        found = self._one(self._folded.get(folded, ()), wanted) or self._one(self._synonyms.get(folded, ()), wanted)
        synset = _SYNSET.fullmatch(wanted)
        if found is None and synset and (places := self._ids.get(synset[1], ())):
            return Match(places[0], f"{synset[1]} is {self.labels[places[0]]!r} (output {places[0]})", "synset")
        return found

    def _by_words(self, wanted: str) -> Match | None:
        folded = f" {_words(wanted)} "
        places = [i for i, label in enumerate(self.labels) if folded.strip() and folded in f" {_words(label)} "]
        found = self._one(places, wanted)
        if found is None:
            return None
        return Match(
            found.index,
            f"no class is called {shown(wanted)}: taken as {shown(self.labels[found.index])} (output {found.index})",
            "words",
        )

    def _index(self, wanted: str) -> int:
        index = int(wanted) if len(wanted) <= _MOST_DIGITS else -1
        if not 0 <= index < len(self.labels):
            raise CnnvizError(
                f"class {brief(wanted)} does not exist; the network has {len(self.labels)} classes",
                f"give an index from 0 to {len(self.labels) - 1}, or a label",
            )
        return index

    def _counted(self, wanted: str) -> Match:
        index = self._index(wanted)
        if self.are_numbers and wanted == str(index):  # folders padded as in 07 are sorted like numbers
            place = sorted(map(str, range(len(self.labels)))).index(str(index))
            if place != index:
                raise CnnvizError(
                    f"{wanted!r} may be output {index} or, among folders in sorted order, output {place}",
                    "give --labels FILE with the class names in the order of the outputs",
                )
        guess = f"numbers that are no labels are taken as indices: {wanted!r} is {self.labels[index]!r}"
        return Match(index, guess, "number")

    def _one(self, places: Sequence[int], wanted: str) -> Match | None:
        if len(places) < 2:
            return Match(places[0]) if places else None
        listed = ", ".join(f"{index} ({brief(self.labels[index])})" for index in places[:_LISTED])
        more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
        raise CnnvizError(
            f"{shown(wanted)} fits {len(places)} classes: {listed}{more}", f"give the index, such as {places[0]}"
        )

    def _all_named(self) -> str:
        """All names, where these are few and no mere numbers."""
        if not 0 < len(self.labels) <= _FEW or self.are_numbers:
            return ""
        return f"they are {', '.join(brief(label) for label in self.labels)}"

    def _unknown(self, wanted: str) -> CnnvizError:
        known = {part for label in self.labels for part in (label, *label.split(", "))}
        label = shown(self.labels[0]) if self.labels else "'cat'"
        last = max(len(self.labels) - 1, 0)
        hint = nearest(wanted[:200], sorted(known)) if len(known) <= _MOST_COMPARED else ""
        if not hint and _SYNSET.fullmatch(wanted) and not self._synsets:
            hint = "this network's labels have no WordNet ids: give --labels FILE with lines such as 'n01514668 cock'"
        return CnnvizError(
            f"no class is called {shown(wanted)} among the network's {len(self.labels)}",
            hint or self._all_named() or f"give a name such as {label}, an index from 0 to {last}, or --labels FILE",
        )


def _places(pairs: Iterable[tuple[int, str]]) -> Mapping[str, Sequence[int]]:
    """Indices by text, each index once."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for index, text in pairs:
        if found[text][-1:] != [index]:
            found[text].append(index)
    return dict(found)


def _fold(text: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", text.casefold()).split())


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


def _synonyms(label: str) -> list[str]:
    return list(dict.fromkeys([_fold(label), *(_fold(part) for part in label.split(",") if part.strip())]))
