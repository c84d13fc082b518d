"""``audit``: whether a network looks where a policy says that it may."""

from __future__ import annotations

import datetime
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnnviz.audit.attention import _OfRegions
from cnnviz.audit.check import Check, Judged, RawMap
from cnnviz.audit.counterfactual import Counterfactual, changed
from cnnviz.audit.drift import Drift, accepted
from cnnviz.audit.policy import Policy, load_policy
from cnnviz.audit.results import CheckResult, audit_table, row_of
from cnnviz.audit.trust import is_for_trust
from cnnviz.audit.verdict import Result, Statement, decide
from cnnviz.errors import CnnvizError, counted, out_of, shown
from cnnviz.io.archives import path_of
from cnnviz.io.baselines import FACTS, write_baseline
from cnnviz.io.groups import read_groups
from cnnviz.io.store import Store
from cnnviz.maps.comparison import Comparison, Conclusion
from cnnviz.metrics.seen_region import BACKGROUND, TRUTH
from cnnviz.registry import lookup
from cnnviz.registry.comparisons import AuditOptions
from cnnviz.registry.metrics import MetricRequest
from cnnviz.report import audit_words
from cnnviz.report.github import workflow_lines
from cnnviz.report.junit import junit
from cnnviz.report.sarif import sarif
from cnnviz.report.summary_markdown import summary_markdown
from cnnviz.settings import TargetSettings

JUNIT, SARIF, MARKDOWN = "junit.xml", "audit.sarif", "summary.md"
_CONFIRMED = 50
_NO_GROUP = "(no group)"
# So many images of a check that runs the network are worth a word before they are gone through.
_TOLD_FROM = 50
# Seconds from which on it is said what an audit spent its time on.
_LONG = 10.0
# Of regions that a crop hides.
_WHOLE = "options: {view: whole} in the policy, or --view whole, shows the network the whole picture"


class Audit(Comparison[AuditOptions]):
    """Runs the checks of a policy."""

    def __init__(self, params: AuditOptions, target: TargetSettings) -> None:
        if params.policy is None:
            raise CnnvizError("audit needs a policy.", "cnnviz audit POLICY.yaml; --init writes one to begin with")
        self.policy: Policy = load_policy(params.policy)
        _check_until(params)
        super().__init__(params if params.method else replace(params, method=self.policy.methods), target)
        self._spent: dict[str, float] = {}
        self.checks = [check.spec.load()(check, self.policy) for check in self.policy.checks]
        self._groups = {} if self.policy.groups is None else read_groups(self.policy.groups)
        asked = [check.region for check in self.checks if isinstance(check, _OfRegions)]
        # Where the network saw nothing of the object, its background says nothing either.
        self._regions = tuple(dict.fromkeys([*asked, *([TRUTH] if BACKGROUND in asked else [])]))
        for check in self.checks:
            if isinstance(check, _OfRegions):
                check.regions = self._regions
            if isinstance(check, Drift):
                check.accepting, check.accepted_in = params.accept is not None, self._baseline

    def metrics(self, method: str) -> tuple[MetricRequest, ...]:
        found: dict[str, Mapping[str, Any]] = {}
        for check in self.checks:
            found.update(check.metrics())
        if self._regions:
            found["region_energy"] = {
                "regions": ";".join(self._regions),
                "objects": self.policy.truth_labels,
                **({} if (tolerance := self.policy.tolerance) is None else {"tolerance": tolerance}),
            }
        return tuple(lookup.find_metric(name).request(options) for name, options in found.items())

    def baselines(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for check in self.checks for name in check.baselines()))

    @property
    def looks_again(self) -> bool:
        return any(isinstance(check, Counterfactual) for check in self.checks)

    @property
    def judges(self) -> bool:
        # Without labels a policy has nothing that could be right: its truth says where objects are, and of a table that
        # names its images the labels are not asked for.
        return self.policy.labels is not None

    def writes(self) -> Sequence[str]:
        return (JUNIT, SARIF, MARKDOWN)

    def says_itself(self) -> Sequence[str]:
        return (lookup.find_metric("region_energy").title,)

    def conclude(
        self, figures: Mapping[str, Mapping[str, Any]], records: Iterable[Mapping[str, Any]], store: Store
    ) -> Conclusion:
        assert self.look is not None
        rows = list(records)
        methods = [spec.name for spec, _ in self.methods()]

        def raw(explanation: Mapping[str, Any]) -> RawMap | None:
            name = explanation["files"].get("raw")
            data = None if name is None else store.read(name)
            if data is None:
                return None
            with np.load(io.BytesIO(data)) as stored:
                x0, y0, x1, y1 = stored["rect"].tolist()
                return RawMap(stored["raw"], (x0, y0, x1, y1))

        for check in self.checks:
            check.raw = raw
        # Of a part of the images nothing is said: in order of their folders they may be of the first classes alone.
        results = self._results([] if self.unfinished else rows, methods)
        told = [self.unfinished] if self.unfinished else self._remarks()
        if self._only != self.policy.only:
            only = f"only: {self.policy.only} is of networks with one class for an image"
            told.append(f"{only}; {f'all {len(rows)} images are' if len(rows) > 1 else 'the one image is'} judged")
        drawn = [figure for check in self.checks for figure in check.pictures(self.look, store)]
        if self.params.accept is not None:
            told += self._accept({method: self._judged(rows, method, "all", None) for method in methods}, raw)
        failed = [{"path": str(row["path"]), "error": str(row["error"]["message"])} for row in rows if row.get("error")]
        return replace(self._conclusion(results, store, told, failed), figures=drawn)

    @property
    def _only(self) -> str:
        """Which predictions are judged: where an image has no class of its own, none is right or wrong."""
        return self.policy.only if self.look is None or self.look.of_classes else "all"

    # What is judged --------------------------------------------------------------------------------------------------

    def _judged(self, rows: Sequence[Mapping[str, Any]], method: str, scope: str, check: Check | None) -> list[Judged]:
        """The images that a check judges: a fixed random third for what the method itself must show, the rest else."""
        tries = any(each.check.spec.establishes_trust for each in self.checks)
        for_trust = check is not None and check.check.spec.establishes_trust
        of_predictions = check is not None and check.check.spec.needs == "labels" and not check.check.spec.of_maps
        found = []
        for record in rows:
            if record.get("error") is not None or not record.get("predictions"):
                continue
            if check is not None and check.check.spec.of_maps and tries and is_for_trust(record) != for_trust:
                continue
            counts = of_predictions or self._only in ("all", record.get("outcome"))
            if not counts and check is not None and not isinstance(check, Drift):
                continue
            own = [each for each in record.get("explanations") or () if each["method"] == method]
            found.append(Judged(record, self._targets(record, own), self._group(record, scope), counts))
        return found

    def _targets(self, record: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The maps of what the policy's target names."""
        assert self.look is not None
        word = self.policy.target.removeprefix("class:").strip()
        spec = str(self.policy.labels) if self.policy.target == "label" else word
        if named := [each for each in own if each["target"].get("spec") in (spec, f"class:{spec}")]:
            return named
        if self.policy.target == "label":
            wanted = {each["class_index"] for each in record.get("true_classes") or ()}
        elif word == "pred":
            wanted = {record["predictions"][0]["class_index"]}
        elif word == "all" or word.startswith("top:"):
            return list(own)
        else:
            wanted = {self.look.class_of(word)} - {None}
        return [each for each in own if each["target"].get("class_index") in wanted]

    def _group(self, record: Mapping[str, Any], scope: str) -> str:
        if scope == "class":
            true = record.get("true_classes") or ()
            return str(true[0]["label"]) if true else str(record.get("label") or "")
        if scope == "group":
            path = path_of(record["path"])
            for key in (
                record["path"],
                os.path.abspath(record["path"]),
                record["name"],
                path,
                os.path.basename(path),
            ):
                if key in self._groups:
                    return self._groups[key]
            return _NO_GROUP
        return ""

    # What came of it -------------------------------------------------------------------------------------------------

    def _results(self, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[CheckResult]:
        assert self.look is not None
        statements: list[tuple[Check, str, Statement]] = []
        for check in self.checks:
            for method in methods if check.check.spec.of_maps else methods[:1]:
                statements += [
                    (check, check.check.spec.of_maps * method, each) for each in self._made(check, method, rows)
                ]
        decided = decide([each for _, _, each in statements], self.policy.false_alarm, self.policy.min_images)
        found = [
            CheckResult(check.check, method, result)
            for (check, method, _), result in zip(statements, decided, strict=True)
        ]
        found = _without_trust(found)
        return [self._confirmed(each, rows) for each in found]

    def _made(self, check: Check, method: str, rows: Sequence[Mapping[str, Any]]) -> list[Statement]:
        """What a check says of a method's maps; whoever waits is told of a long one before it begins."""
        assert self.look is not None
        judged, spec = self._judged(rows, method, check.check.scope, check), check.check.spec
        if spec.asks_network and len(judged) >= _TOLD_FROM:
            self.look.tell(f"{check.check.name}: {counted(len(judged), 'image')}{f', {method}' * spec.of_maps}")
        began = time.perf_counter()
        made = self._without_groups(check, judged, check.statements(method, judged, self.look))
        none = self._none_judged(rows, judged)
        made = [each if each.why_not or each.observations else replace(each, why_not=none) for each in made]
        made = [replace(each, why_not=self.unfinished) for each in made] if self.unfinished else made
        self._spent[check.check.name] = self._spent.get(check.check.name, 0.0) + time.perf_counter() - began
        return made

    def _none_judged(self, rows: Sequence[Mapping[str, Any]], judged: Sequence[Judged]) -> str:
        """Why there is nothing to judge where the policy's ``only`` leaves no prediction; empty otherwise."""
        only = self._only
        if only == "all" or not rows or any(each.counts for each in judged):
            return ""
        kind = "right" if only == "correct" else "wrong"
        return f"no prediction of its images is {kind}, and only: {only} judges no others; only: all judges them"

    def _without_groups(self, check: Check, judged: Sequence[Judged], made: list[Statement]) -> list[Statement]:
        """Nothing is decided by groups where the table names no image; what it leaves out is said."""
        out = [each.path for each in judged if each.group == _NO_GROUP]
        if not out:
            return made
        if len(out) == len(judged):
            return [replace(each, why_not=f"{self.policy.groups} names none of the images") for each in made]
        check.remarks.append(
            f"{self.policy.groups} does not name {out_of(len(out), len(judged), 'image')}: {out[0]}, ..."
        )
        return made

    def _remarks(self) -> list[str]:
        """What the checks remark; what several remark alike once, with their names."""
        names: dict[str, list[str]] = {}
        for check in self.checks:
            for text in dict.fromkeys(check.remarks):
                names.setdefault(text, []).append(check.check.name)
        told = [f"{', '.join(own)}: {text}" for text, own in names.items()]
        return [*told, _WHOLE] if any(check.hides for check in self.checks) else told

    def _confirmed(self, result: CheckResult, rows: Sequence[Mapping[str, Any]]) -> CheckResult:
        """A violation of ``avoid`` with what becomes of predictions when the region is taken away."""
        assert self.look is not None
        if result.check.spec.name != "avoid" or result.result.verdict != "violated" or not self.look.of_classes:
            return result
        region = str(result.check.params.region)  # type: ignore[attr-defined]
        if region == TRUTH:
            return result  # that predictions hang on the object itself is no news
        worst = {path for path, _ in result.result.violations[:_CONFIRMED]}
        every = self._judged(rows, result.method, "all", None)
        judged = [each for each in every if each.counts and each.path in worst]
        fill = "shuffle" if region == "background" else "blur"
        changes = changed(judged, self.look, (region, fill), self.policy.truth_labels, every)
        shown = [each for each in changes.values() if each["seen"]]
        flips = sum(bool(each["flip"]) for each in shown)
        return replace(result, confirmed={"flips": flips, "of": len(shown), "fill": fill})

    @property
    def _baseline(self) -> str:
        """The folder of the baseline that is accepted: that of the first check of drift."""
        drifts = [check for check in self.checks if isinstance(check, Drift)]
        return drifts[0].folder if drifts else os.path.join(self.policy.folder, "baseline")

    def _accept(self, judged: Mapping[str, Sequence[Judged]], raw: Any) -> list[str]:
        folder = self._baseline
        reason = str(self.params.accept)
        if self.unfinished or not any(judged.values()):
            there = os.path.isfile(os.path.join(folder, FACTS))
            kept = f"; the baseline in {folder} is as it was" if there else ""
            return [f"not accepted: {self.unfinished or 'no image has a prediction'}{kept}"]
        write_baseline(folder, accepted(judged, raw, reason, self.params.until))
        return [f"accepted as the baseline in {folder}: {reason}"]

    def _seconds(self) -> dict[str, float]:
        """What maps, metrics and checks took, in seconds of the threads that ran them."""
        assert self.look is not None
        found = {**self.look.seconds(), **self._spent}
        return {name: round(value, 3) for name, value in found.items()}

    def _askers(self) -> dict[str, list[str]]:
        """By metric the checks that it was measured for."""
        found: dict[str, list[str]] = {}
        for check in self.checks:
            for name in (*check.metrics(), *(["region_energy"] if isinstance(check, _OfRegions) else [])):
                found.setdefault(name, []).append(check.check.name)
        return found

    def _conclusion(
        self, results: Sequence[CheckResult], store: Store, told: Sequence[str], failed: list[dict[str, str]]
    ) -> Conclusion:
        rows = [row_of(each) for each in results]
        binding = [row for row in rows if row["level"] == "error"]
        violated = any(row["verdict"] == "violated" for row in binding)
        undecided = sum(row["verdict"] == "not decided" for row in binding)
        # An audit of warnings alone passes where one of them was decided.
        undone = undecided or self.unfinished or all(row["verdict"] == "not decided" for row in rows)
        verdict = "violated" if violated else "not decided" if undone else "passed"
        path, strict, spent = self.policy.path, self.params.strict, self._seconds()
        fails = any(audit_words.fails(row, strict=strict) for row in rows)
        store.write(JUNIT, junit(path, rows, failed, strict=strict, remarks=told))
        audit = {
            "passed": verdict == "passed",
            "verdict": verdict,
            "strict": strict,
            "policy": path,
            "false_alarm": self.policy.false_alarm,
            "undecided": undecided,
            "passes": self.look.passes if self.look is not None else 0,
            "seconds": spent,
            "checks": rows,
            "remarks": list(told),
            "failed": failed,
            "clusters": [row for check in self.checks for row in check.findings()],
        }
        keys = {check.check.name: check.check.key for check in self.checks}
        notes, whole = audit_words.notes(audit), not self.unfinished
        store.write(SARIF, sarif(path, rows, keys, notes, strict=strict, whole=whole))
        store.write(MARKDOWN, summary_markdown(audit))
        table = audit_table([{**row, "reason": ""} for row in rows] if self.unfinished else rows)
        sentences = [*table, *told, f"audit of {path}: {audit_words.outcome(audit)}"]
        if undecided and not fails and not self.unfinished:
            how = f"{undecided} of {len(binding)} not decided"
            sentences.append(f"{how}: never counted as passed; --strict makes them fail")
        return Conclusion(
            {"audit": audit},
            sentences=sentences,
            spent=_spent_on(spent, self._askers()),
            violated=fails,
            annotations=workflow_lines(path, rows, strict=strict),
        )


def _spent_on(seconds: Mapping[str, float], askers: Mapping[str, Sequence[str]]) -> list[str]:
    """Where an audit that took long spent its time, the most first; metrics by the checks that asked for them."""
    if sum(seconds.values()) < _LONG:
        return []
    most = sorted(seconds.items(), key=lambda item: -item[1])
    named = {name: f"{', '.join(own)} ({name})" for name, own in askers.items()}
    told = ", ".join(f"{named.get(name, name)} {spent:.0f} s" for name, spent in most if spent >= 1)
    return [f"time: {told}; in seconds of threads, several of which run at once"]


def _check_until(params: AuditOptions) -> None:
    if params.until is None:
        return
    if params.accept is None:
        raise CnnvizError("--until says until when a baseline counts, and none is accepted.", "Give --accept REASON.")
    try:
        good = datetime.date.fromisoformat(params.until).isoformat() == params.until
    except ValueError:
        good = False
    if not good:
        raise CnnvizError(f"--until {shown(params.until)}: expected a day.", "For example --until 2027-06-30")
    if params.until < (today := datetime.date.today().isoformat()):
        said = f"--until {params.until} is past (today is {today}): the baseline would never count."
        raise CnnvizError(said, "Give a day to come, or leave --until out.")


def _without_trust(results: Sequence[CheckResult]) -> list[CheckResult]:
    """A method that fails what establishes trust cannot vouch for anything else on this network."""
    broken: dict[str, str] = {}
    for each in results:
        if each.check.spec.establishes_trust and each.result.verdict == "violated":
            broken.setdefault(each.method, each.check.name)
    found = []
    for each in results:
        if each.method in broken and not each.check.spec.establishes_trust and each.check.spec.of_maps:
            why = f"{each.method} is not trusted on this model: it fails {broken[each.method]!r}"
            old: Result = each.result
            each = replace(each, result=replace(old, verdict="not decided", reason=why), trusted=False)
        found.append(each)
    return found
