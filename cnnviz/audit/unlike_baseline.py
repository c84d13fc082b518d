"""In words: what an audit and its accepted baseline do not have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnnviz.audit.check import Judged
from cnnviz.errors import of_all, out_of
from cnnviz.geometry.common_cells import LONGER
from cnnviz.io.baselines import Baseline

# Edges of what is seen are rounded to pixels of the photograph.
_ROUNDING = 1


def none_known(stored: Baseline, judged: Sequence[Judged], folder: str) -> str:
    """That a baseline has none of the images, so that nothing can be compared; empty where it has one."""
    if not judged or any(_name(each) in stored.images for each in judged):
        return ""
    has = f"it has {next(iter(stored.images))}" if stored.images else "it has none at all"
    return f"the baseline in {folder} has none of these images: they are called {_name(judged[0])}, {has}"


def told(stored: Baseline, judged: Sequence[Judged]) -> list[str]:
    """What people should know of images that are not compared, or not as they were accepted."""
    texts = []
    known = [each for each in judged if _name(each) in stored.images]
    new = [each.path for each in judged if _name(each) not in stored.images]
    if new and known:
        text = f"{of_all(len(new), len(judged), 'image')} not in the baseline, and not compared: {_some(new)}"
        texts.append(f"{text}; --accept takes in all")
    elsewhere = [each for each in known if _moved(each.record, stored.images[_name(each)])]
    if elsewhere:
        first = elsewhere[0]
        now, then = first.record["seen_xywh"], stored.images[_name(first)]["seen_xywh"]
        of = out_of(len(elsewhere), len(known), "image")
        texts.append(
            f"of {of} the network sees another part than when the baseline was accepted (of {first.path} "
            f"x,y,w,h {_by_comma(now)}, accepted {_by_comma(then)}): maps are compared where both saw it"
        )
    return texts


def told_of_maps(method: str, compared: Sequence[bool], absent: Sequence[str], apart: Sequence[str]) -> list[str]:
    """What people should know of maps of a method.

    Args:
        method: Its name.
        compared: Of each map that is compared, whether its grid is another.
        absent: Images of maps that the baseline does not have.
        apart: Images of maps that have no part of the picture in common with those of the baseline.
    """
    texts = []
    if any(compared):
        maps = of_all(sum(compared), len(compared), "map", "has", "have")
        texts.append(
            f"{method}: {maps} another grid than those accepted, compared on {LONGER} cells along the longer side"
        )
    every = len(compared) + len(absent) + len(apart)
    if absent:
        maps = of_all(len(absent), every, "map")
        texts.append(f"{method}: {maps} not compared, since the baseline explains other targets there: {_some(absent)}")
    if apart:
        maps = of_all(len(apart), every, "map")
        text = f"{method}: {maps} not compared, since the network sees nothing of what it saw when they were accepted"
        texts.append(f"{text}: {_some(apart)}; --accept takes in all")
    return texts


def _name(each: Judged) -> str:
    return str(each.record["name"])


def _moved(record: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether another part of the same file is seen. Older baselines do not say which part."""
    if known.get("sha256") != (record.get("input") or {}).get("sha256"):
        return False
    now, then = record.get("seen_xywh"), known.get("seen_xywh")
    if now is None or then is None:
        return False
    return any(abs(a - b) > _ROUNDING for a, b in zip(now, then, strict=True))


def _by_comma(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _some(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:2])}{', ...' * (len(paths) > 2)}"
