"""What a run tells while it goes on, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cnnviz.engine.stopping import asked_by
from cnnviz.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    CnnvizError,
    brief,
    counted,
    in_percent,
    of_all,
    out_of,
)
from cnnviz.io.archives import is_fetched
from cnnviz.io.exclusions import Exclusions
from cnnviz.io.shards import parse_shard
from cnnviz.io.sources import ImageRef, SourceOptions, can_be_stray, find_images, is_stray
from cnnviz.metrics.seen_region import SeenRegion
from cnnviz.run.confusion import ConfusionCount
from cnnviz.schema.images import AnyImage, Image
from cnnviz.schema.summary import Counted
from cnnviz.settings import VIEWS, RunSettings

# Files without the name of an image that are opened before a run, to tell how many images there are. A folder may hold
# a million images without suffixes, each of which takes as long as a disk or a server likes.
_LOOKED_INTO = 1000
# So many targets that were not found are named on the console.
_NAMED = 5


@dataclass(frozen=True)
class RunResult:
    """What a run came to: its summary, where the report is, the exit code; ``picture`` for ``-o -``.

    ``sentences`` tell a person what was found, ``annotations`` a CI system. ``again`` is what of a run of maps its
    records do not say, as plain JSON, where it may be kept whole (:mod:`cnnviz.run.repeat`); ``once`` says why not.
    """

    summary: Mapping[str, Any]
    report: str | None
    exit_code: int
    picture: bytes | None = None
    sentences: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    again: Mapping[str, Any] | None = None
    once: str | None = None


@dataclass
class Counts:
    """What became of the inputs; of the maps, how many are flat, by the reason; of the targets that match nothing in
    an image, in how many they do not and the reasons.

    ``inputs`` are those that were come to, ``skipped`` those that ``--only`` leaves out, ``total`` the images that
    there are, as far as is known; ``resumed`` those that an earlier run finished. ``classes`` are the names of which
    labels say whether the network is right; None for all.
    """

    total: int | None = None
    inputs: int = 0
    explained: int = 0
    skipped: int = 0
    failed: int = 0
    passed_over: int = 0
    excluded: int = 0
    resumed: int = 0
    maps: int = 0
    flat: dict[str, int] = field(default_factory=dict)
    trivial: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)
    unmatched_why: dict[str, set[str]] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    labelled: int = 0
    right: int = 0
    with_truth: int = 0
    without_truth: int = 0
    cropped: int = 0
    outside: float = 0.0
    stopped: bool = False
    run_folders: list[str] = field(default_factory=list)
    exclusions: Exclusions | None = None
    classes: frozenset[str] | None = None
    confusion: ConfusionCount = field(default_factory=ConfusionCount)
    regions: dict[str, SeenRegion] = field(default_factory=dict)

    def leave_out(self, settings: RunSettings) -> Callable[[str], bool] | None:
        """Tells of each image whether ``--exclude`` leaves it out, and counts; None without that option."""
        if settings.exclude is None:
            return None
        exclusions = self.exclusions = Exclusions(settings.exclude, settings.inputs)

        def left_out(uri: str) -> bool:
            found = exclusions.leaves_out(uri)
            self.excluded += found
            return found

        return left_out

    def what_was_excluded(self) -> str:
        """How many images ``--exclude`` left out, and which of its names are of none, or several; empty without it."""
        return "" if self.exclusions is None else self.exclusions.said(self.excluded)

    def pass_over(self, ref: ImageRef) -> None:
        """A file turned out to be no image."""
        self.passed_over += 1
        if self.total is not None and not can_be_stray(ref):  # it was counted
            self.total -= 1

    def count(self, record: AnyImage) -> None:
        """Take in one finished record."""
        error = record.get("error")
        self.failed += error is not None
        skipped = bool(record.get("skipped"))
        self.skipped += skipped
        self.explained += error is None and not skipped
        self.confusion.count(record)
        if error is not None:
            kind = str(error.get("type"))
            self.failures[kind] = self.failures.get(kind, 0) + 1
        label, predictions = record.get("label"), record.get("predictions")
        if label is not None and predictions and (self.classes is None or label in self.classes):
            self.labelled += 1
            self.right += predictions[0]["label"] == label
        if error is None and "truth" in record:
            known = record.get("truth") is not None
            self.with_truth += known
            self.without_truth += not known
        share = outside(record)
        self.cropped += share > 0
        self.outside += share
        maps = record.get("explanations") or ()
        self.maps += len(maps)
        for reason in (each.get("flat_reason", "") for each in maps if each["scores"].get("flat")):
            self.flat[reason] = self.flat.get(reason, 0) + 1
        for spec, reason in ((each["spec"], each["reason"]) for each in cast("Image", record).get("unmatched", ())):
            self.unmatched[spec] = self.unmatched.get(spec, 0) + 1
            why = self.unmatched_why.setdefault(spec, set())
            if len(why) < 2:
                why.add(reason)
        self.trivial += sum(bool(each.get("trivial")) for each in maps)
        targets = [cast("Mapping[str, Any]", each["target"]) for each in maps]
        for region, part in {each.get("region"): each.get("region_seen") for each in targets}.items():
            if region is not None and part is not None:
                self.regions.setdefault(region, SeenRegion()).add(part)

    def what_was_hidden(self, views: Sequence[str] = VIEWS) -> list[str]:
        """Of which regions that were asked for the network saw but a part, or nothing."""
        hint = "; --view whole shows it all" if "whole" in views else ""
        return [f"{said}{hint}" for region, seen in self.regions.items() if (said := seen.hidden(region))]

    def what_was_outside(self, views: Sequence[str] = VIEWS, drawn: str = " (grey where they are drawn)") -> str:
        """How much of how many pictures the network was not shown; empty where it saw all.

        Args:
            views: What of ``--view`` the command takes: nothing else is recommended.
            drawn: How pictures show it.
        """
        if not self.cropped:
            return ""
        share = in_percent(self.outside / self.cropped)
        of = "1 picture" if self.cropped == 1 else f"{self.cropped} pictures, on average"
        return (
            f"the network's centre crop left out {share} of {of}{drawn}; "
            + ("with --view tiles it sees the whole picture in overlapping crops, " if "tiles" in views else "")
            + ("with --view whole in one piece" if "tiles" in views else "with --view whole it sees the whole picture")
        )

    def what_explains_nothing(self) -> list[str]:
        """How many maps tell no place from another, for each reason of that, and how many are only scores drawn."""
        told = [f"{of_all(count, self.maps, 'map')} flat: {reason}" for reason, count in self.flat.items()]
        if self.trivial:
            what = "its class and explains" if self.trivial == 1 else "their class and explain"
            told.append(
                f"{of_all(self.trivial, self.maps, 'map')} the score map of {what} nothing: what lies "
                "behind this layer looks at each position alone; name an earlier --layer"
            )
        return told

    def what_was_not_found(self) -> str:
        """Which targets match nothing in how many images, and why; empty where each matches something in all."""
        if not self.unmatched:
            return ""
        told = []
        for spec, count in list(self.unmatched.items())[:_NAMED]:
            why = self.unmatched_why[spec]
            reason = next(iter(why)) if len(why) == 1 else "for reasons that differ"
            told.append(f"{brief(spec)} in {out_of(count, self.explained, 'image')} ({reason})")
        rest = len(self.unmatched) - len(told)
        more = f"; {rest} more in the report" if rest else ""
        was = "was" if len(self.unmatched) == 1 else "were"
        return f"{counted(len(self.unmatched), 'target')} {was} not found: {'; '.join(told)}{more}"

    def remarks(self, views: Sequence[str] = VIEWS) -> list[str]:
        """What of all this the page says that figures of the summary do not.

        Args:
            views: What of ``--view`` the command takes.
        """
        excluded = self.what_was_excluded() if self.exclusions is not None and self.exclusions.unused else ""
        found = (excluded, *self.what_was_hidden(views), self.what_was_not_found(), *self.what_explains_nothing())
        return [each for each in found if each]

    def what_was_unknown(self) -> str:
        """How many pictures the annotations do not have; empty where they have all, or nobody asked."""
        if not self.without_truth:
            return ""
        count = self.with_truth + self.without_truth
        return f"{of_all(self.without_truth, count, 'image')} not among the annotations of --truth"

    def all_inputs(self, complete: bool) -> int:
        """The images that were asked for; of a run that was cut short also those that it did not come to."""
        return self.inputs if complete or self.total is None else max(self.inputs, self.total)

    def summary(self, seconds: float, interrupted: bool) -> Counted:
        """What the report says of the whole run."""
        fresh = self.explained + self.skipped + self.failed - self.resumed
        summary: Counted = {
            "inputs": self.all_inputs(not (interrupted or self.stopped)),
            "explained": self.explained,
            "failed": self.failed,
            "passed_over": self.passed_over,
            "seconds": round(seconds, 3),
            "images_per_second": rate(fresh, seconds),
        }
        if self.exclusions is not None:
            summary["excluded"] = self.excluded
        if self.resumed:
            summary["resumed"] = self.resumed
            if fresh:
                summary["timed"] = fresh
        if self.failures:
            summary["failures"] = dict(sorted(self.failures.items()))
        if self.labelled:
            summary["labelled"] = self.labelled
            summary["accuracy"] = round(self.right / self.labelled, 6)
        if self.confusion.correct or self.confusion.wrong:
            summary["outcomes"] = {"correct": self.confusion.correct, "wrong": self.confusion.wrong}
        if self.skipped:
            summary["skipped"] = self.skipped
        if self.with_truth or self.without_truth:
            summary["without_truth"] = self.without_truth
        if self.unmatched:
            summary["unmatched"] = dict(self.unmatched)
        if self.cropped:
            summary["outside_view"] = {"images": self.cropped, "mean_share": round(self.outside / self.cropped, 6)}
        if self.run_folders:
            summary["run_folders_passed_over"] = list(self.run_folders)
        if interrupted:
            summary["interrupted"] = True
        elif self.stopped:
            summary["stopped"] = "--fail-fast: at the first input that failed"
        return summary

    def unfinished(self, interrupted: bool) -> str:
        """Why not all inputs were seen; empty where they were."""
        if interrupted:
            return f"{asked_by()} ended the run after {counted(self.explained, 'image')}: nothing is decided"
        if self.stopped:
            return "--fail-fast ended the run at the first input that failed: nothing is decided"
        return ""

    def exit_code(self, interrupted: bool) -> int:
        return EXIT_INTERRUPTED if interrupted else EXIT_SOME_FAILED if self.failed else EXIT_DONE

    def no_images(self, settings: RunSettings) -> CnnvizError:
        """What to say when nothing was explained because nothing was found."""
        over = ""
        if self.passed_over:
            are = "is not an image" if self.passed_over == 1 else "are not images"
            over = f" ({counted(self.passed_over, 'file')} {are})"
        if self.run_folders:
            over += f"; {self.run_folders[0]}, the output folder of a cnnviz run, is passed over"
        if self.excluded:
            over += f"; {self.excluded} {'is' if self.excluded == 1 else 'are'} left out by --exclude"
        if settings.inputs == ("-",) and not over:
            way = "ended in NUL" if settings.null else "one a line"
            hint = f"For example  find photos -name '*.jpg' -print0 | cnnviz {settings.command} - -0"
            return CnnvizError(f"No images: standard input ended without a path ({way}).", hint)
        where = ", ".join(settings.inputs)
        return CnnvizError(f"No images in {where}{over}.", "Name image files, or a folder of them.")


def told_of_nothing(reason: str) -> list[str]:
    """What the person who ran it is told where nothing was measured; nothing without a reason."""
    return [f"nothing was measured: {reason}"] if reason else []


def outside(record: AnyImage) -> float:
    """The share of a picture that the network was not shown, 0 to 1; 0 where that is not known."""
    if record.get("error") is not None:
        return 0.0
    seen, width, height = cast("Image", record).get("seen_xywh"), record.get("width"), record.get("height")
    if not seen or not width or not height:
        return 0.0
    return 1.0 - seen[2] * seen[3] / (width * height)


def rate(images: int, seconds: float) -> float | None:
    """Images per second, to three digits, also of what takes minutes; None where nothing was done.

    >>> rate(1, 74.218)
    0.0135
    """
    return float(f"{images / seconds:.3g}") if images and seconds > 0 else None


def count_inputs(settings: RunSettings) -> int | None:
    """Number of images; None when they come from standard input, or of archives that would be fetched. Files that are
    no images count where this machine cannot tell soon.

    Raises:
        CnnvizError: There are none, which is better known before a network is loaded.
    """
    if "-" in settings.inputs or any(is_fetched(text) for text in settings.inputs):
        return None
    counts = Counts()
    options = SourceOptions(told=counts.run_folders.append, left_out=counts.leave_out(settings))
    refs = _without_strays(find_images(settings.inputs, options), counts)
    if settings.shard is not None:
        # A share may be empty, all of them together not.
        share = parse_shard(settings.shard)
        names = [share.has(ref.name) for ref in refs]
        if names:
            return sum(names)
    found = sum(1 for _ in refs)
    if not found:
        raise counts.no_images(settings)
    return found if settings.limit is None else min(found, settings.limit)


def _without_strays(refs: Iterable[ImageRef], counts: Counts) -> Iterator[ImageRef]:
    """The inputs without files that are seen to be no images, which ``counts`` takes in."""
    looked = 0
    for ref in refs:
        if looked < _LOOKED_INTO and can_be_stray(ref):
            looked += 1
            if is_stray(ref):
                counts.passed_over += 1
                continue
        yield ref
