"""What a comparison says to the person who ran it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
            yield f"similarity of maps, {what}: {_figure(figure)}"
    if found["same_prediction"]["n"] and found["other_prediction"]["n"]:
        own, other = found["same_prediction"]["value"], found["other_prediction"]["value"]
        yield f"  where the prediction is the same {own:.3f}, where it is another {other:.3f}"
    for key, what in (
        ("other_targets", "of different classes, what each run predicts"),
        ("without_map", "not compared: a map was not kept (--save raw keeps it), or they lie apart in the image"),
        ("flat", "with a map that is the same everywhere, which correlates with nothing"),
        ("resampled", "compared on 64 cells along the image, since their own differ"),
        ("from_pictures", "from pictures of 8 bits; --save raw keeps exact maps"),
    ):
        if found[key]:
            yield f"  pairs of maps {what}: {found[key]}"


def _figure(figure: Mapping[str, Any]) -> str:
    ends = figure["ci95"]
    span = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{figure['value']:.3f}{span}, n = {figure['n']}"


def _predictions(found: Mapping[str, Any]) -> Iterator[str]:
    agreed = found["agreement"]
    if agreed["value"] is not None:
        low, high = (100 * end for end in agreed["ci95"])
        yield (
            f"same prediction: {100 * agreed['value']:.1f} % of {agreed['n']} images (95 %: {low:.1f} to {high:.1f} %)"
        )
    if right := found["right"]:
        yield (
            f"right: both {right['both']}, only A {right['only_a']}, only B {right['only_b']}, neither "
            f"{right['neither']}; accuracy {right['accuracy_a']['value']:.3f} and {right['accuracy_b']['value']:.3f} "
            f"(McNemar's exact test: p = {right['mcnemar_p']:.2g})"
        )


def _most(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    told = [row for row in rows if row["changed_prediction"] or row["change"]][:_TOLD]
    if not told:
        return
    width = max(len(row["name"]) for row in told)
    yield "what changed most:"
    for row in told:
        change = "  -  " if row["change"] is None else f"{row['change']:5.3f}"
        labels = f"  {row['label_a']} -> {row['label_b']}" if row["changed_prediction"] else ""
        yield f"  {row['name'].ljust(width)}  {change}{labels}"
