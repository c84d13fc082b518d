"""A share of the inputs: which images are in it, and which one a scheduler has given to this process.

An image belongs to the share that the SHA-256 of its name tells, so that a new image moves no other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cnnviz.errors import CnnvizError, shown

AUTO = "auto"
_WRITTEN = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)
_EXAMPLE = "For example --shard 2/8: the second of eight."


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count``, from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def folder(self) -> str:
        """The name of its output folder."""
        digits = len(str(self.count))
        return f"shard-{self.index:0{digits}d}-of-{self.count}"

    def has(self, name: str) -> bool:
        """Whether the image of this name is in it."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """``2/8`` as a share.

    Raises:
        CnnvizError: It is written otherwise, or there is no such share.
    """
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise CnnvizError(f"--shard {shown(text)}: expected I/N, or auto.", _EXAMPLE)
    shard = Shard(int(written[1]), int(written[2]))
    if not 1 <= shard.index <= shard.count:
        raise CnnvizError(f"--shard {shown(text)}: I goes from 1 to N.", _EXAMPLE)
    return shard


@dataclass(frozen=True)
class _Numbered:
    """Variables of a scheduler: which job this is, and of how many.

    Attributes:
        name: Of the scheduler.
        index, count: Their names.
        first: The number of the first job.
        only_with: A variable that must be there too.
    """

    name: str
    index: str
    count: str
    first: int = 0
    only_with: str = ""


# In this order. A GitLab job that is not parallel has CI_NODE_TOTAL=1 and no index.
_SCHEDULERS = (
    _Numbered("Kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    _Numbered("GitLab", "CI_NODE_INDEX", "CI_NODE_TOTAL", 1, "GITLAB_CI"),
    _Numbered("CircleCI", "CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL"),
    _Numbered("Buildkite", "BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT"),
    _Numbered("Bitbucket", "BITBUCKET_PARALLEL_STEP", "BITBUCKET_PARALLEL_STEP_COUNT"),
    _Numbered("Semaphore", "SEMAPHORE_JOB_INDEX", "SEMAPHORE_JOB_COUNT", 1),
)
_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")


def assigned_shard(environment: Mapping[str, str]) -> tuple[Shard, str]:
    """The share that a scheduler gave to this process, and the variables that say so.

    Of SLURM that of the array, of the tasks that ``srun`` starts, or of both: the tasks of a job of the array share its
    part. Array indices need not begin at 0, and may have a step.

    Args:
        environment: Variables by name.

    Raises:
        CnnvizError: No scheduler is known by its variables, or they do not fit together.
    """
    if "SLURM_JOB_ID" in environment and (found := _slurm(environment)) is not None:
        return found
    for each in _SCHEDULERS:
        if each.index not in environment or (each.only_with and each.only_with not in environment):
            continue
        if each.count not in environment:
            raise CnnvizError(
                f"--shard auto: {each.name} says {each.index}={environment[each.index]}, and nothing says of how many.",
                f"Set {each.count} to the number of jobs.",
            )
        index, count = (_number(environment, name) for name in (each.index, each.count))
        return _checked(index - each.first + 1, count, (each.index, each.count))
    looked = ", ".join(["SLURM_ARRAY_TASK_ID", "SLURM_PROCID", *(each.index for each in _SCHEDULERS)])
    raise CnnvizError(f"--shard auto: no scheduler is known here. Looked for {looked}.", "Say which it is: --shard 2/8")


def _slurm(environment: Mapping[str, str]) -> tuple[Shard, str] | None:
    part, named = Shard(1, 1), []
    if _ARRAY[0] in environment:
        task, count, first, last = (_number(environment, name) for name in _ARRAY)
        step = _number(environment, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in environment else 1
        if step < 1 or (last - first) // step + 1 != count or (task - first) % step:
            raise CnnvizError(
                f"--shard auto: the {count} indices of this job array, from {first} to {last}, are no range.",
                f"Submit it as --array=0-{max(count - 1, 0)}, or say which it is: --shard 2/8",
            )
        part, named = _checked((task - first) // step + 1, count, _ARRAY[:2])[0], list(_ARRAY[:2])
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        tasks, rank = _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_PROCID")
        if tasks > 1 or not named:
            part = Shard((part.index - 1) * tasks + rank + 1, part.count * tasks)
            named += ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"]
    elif not named and _number(environment, "SLURM_NTASKS", 1) > 1:
        raise CnnvizError(
            f"--shard auto: this job has {environment['SLURM_NTASKS']} tasks, and this process is none of them.",
            "Start it with srun: srun cnnviz ... --shard auto",
        )
    return _checked(part.index, part.count, named) if named else None


def _number(environment: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environment.get(name, "" if otherwise is None else str(otherwise))
    if not (text.isascii() and text.isdigit()):
        raise CnnvizError(f"--shard auto: {name} is {shown(text)}: expected a number.", "Say which it is: --shard 2/8")
    return int(text)


def _checked(index: int, count: int, named: tuple[str, ...] | list[str]) -> tuple[Shard, str]:
    names = ", ".join(named)
    if not 1 <= index <= count:
        raise CnnvizError(f"--shard auto: {names} say {index} of {count}.", "Say which it is: --shard 2/8")
    return Shard(index, count), names
