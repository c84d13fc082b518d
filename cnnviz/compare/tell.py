"""What a comparison says to the person who ran it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnviz.report import compare_words

MOST_NAMED = 10
_FEW = 3
_TOLD = 5


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures in a few lines: sides, images, maps, predictions, what changed most.

    Args:
        found: ``summary.compare``.
    """
    for name in ("a", "b"):
        run = found[name]
        weights = f" ({run['weights']})" if run["weights"] else ""
        yield f"{name.upper()}: {', '.join(run['methods']) or run['command']} of {run['model']}{weights}, {run['run']}"
    yield f"explained: {found['explained']}" + ("; the networks are the same" if found["same_network"] else "")
    if found["differs"]:
        yield f"B differs in: {'; '.join(found['differs'])}"
    yield from _images(found)
    yield from _maps(found)
    yield from _predictions(found)
    yield from _most(found["most_changed"])
    for text in found["wrong"]:
        yield f"NOT WITHIN WHAT IS ALLOWED: {text}"
    if found["passed"]:
        yield "within what is allowed"


def _images(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"images in both: {found['images']}"
    for key, what in (("only_a", "only in A"), ("only_b", "only in B"), ("other_files", "other files of that name")):
        if names := found[key]:
            yield f"{what}: {len(names)} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _maps(found: Mapping[str, Any]) -> Iterator[str]:
    for name, what in (("spearman", "rank correlation"), ("pearson", "correlation"), ("ssim", "SSIM")):
        if (figure := found["similarity"][name])["value"] is not None:
            yield f"similarity of maps, {what}: {compare_words.similarity(figure)}"
    if found["same_prediction"]["n"] and found["other_prediction"]["n"]:
        own, other = found["same_prediction"]["value"], found["other_prediction"]["value"]
        yield f"  where the prediction is the same {own:.3f}, where it is another {other:.3f}"
    for key, what in (
        ("other_targets", "of different classes, what each run predicts"),
        ("apart", "not compared, as they share no part of the image"),
        ("flat", "with a map that is the same everywhere, which correlates with nothing"),
        ("resampled", "compared on 64 cells along the image, since their own differ"),
        ("from_pictures", "from pictures of 8 bits; --save raw keeps exact maps"),
    ):
        if found[key]:
            yield f"  pairs of maps {what}: {found[key]}"
    for text in compare_words.not_kept(found):
        yield f"  {text}"


def _predictions(found: Mapping[str, Any]) -> Iterator[str]:
    if found["changed_predictions"]["value"] is not None:
        yield f"changed predictions: {compare_words.rate(found['changed_predictions'])}"
    if found["right"]:
        yield f"right: {compare_words.right(found['right'])}"


def _most(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    told = [row for row in rows if row["changed_prediction"] or row["change"] or row["one_is_flat"]][:_TOLD]
    if not told:
        return
    width = max(len(row["name"]) for row in told)
    compared = any(row["change"] is not None for row in told)
    yield f"what changed most{' (1 minus the rank correlation of its maps)' if compared else ''}:"
    for row in told:
        change = "  -  " if row["change"] is None else f"{row['change']:5.3f}"
        labels = f"  {row['label_a']} -> {row['label_b']}" if row["changed_prediction"] else ""
        why = f"  ({row['why']})" if row["why"] else ""
        yield f"  {row['name'].ljust(width)}  {change}{labels}{why}"
