"""Which share of the inputs a command line asks for (``--shard``), and where results go."""

from __future__ import annotations

import os
import re

from cnnviz.cli.shared import Shared
from cnnviz.errors import CnnvizError
from cnnviz.io.cache import FOLDER, users_cache
from cnnviz.io.shards import AUTO, Shard, assigned_shard, parse_shard
from cnnviz.registry.specs import CommandSpec, ComparisonSpec
from cnnviz.settings import OutputSettings


def share_of(shared: Shared) -> tuple[Shard | None, str]:
    """The share of the inputs that is explained, None for all; and the variables that told which.

    Raises:
        CnnvizError: There is no such share, or what cannot be told of a share alone is asked for.
    """
    if shared.shard is None:
        return None, ""
    _check_shares(shared, "--shard")
    return assigned_shard(os.environ) if shared.shard == AUTO else (parse_shard(shared.shard), "")


def executor_parts(shared: Shared) -> int | None:
    """Of how many shares ``--executor`` makes tasks, 0 where it chooses; None without it.

    Raises:
        CnnvizError: There is no such executor, or what cannot be told of a share alone is asked for.
    """
    if shared.executor is None:
        return None
    written = re.fullmatch(r"ray(?::([1-9][0-9]{0,5}))?", shared.executor)
    if written is None:
        raise CnnvizError(f"--executor {shared.executor}: expected ray or ray:N.", "For example --executor ray:8")
    if shared.shard is not None:
        raise CnnvizError("--executor and --shard exclude each other.", "--executor ray:N makes N shares itself.")
    _check_shares(shared, "--executor")
    return int(written[1] or 0)


def _check_shares(shared: Shared, asked: str) -> None:
    for said, flag, hint in (
        ("-" in (shared.inputs or ()), "INPUT -", "Use a list file, which cnnviz merge can read again."),
        (shared.limit is not None, f"--limit {shared.limit}", "Name a list of these images."),
        (shared.scale == "run", "--scale run", "Use --scale fixed:a,b"),
        (shared.out == "-", "-o -", "Give -o a folder."),
    ):
        if said:
            raise CnnvizError(f"{asked} and {flag}: a share does not know what all inputs are.", hint)


def output_of(shared: Shared, spec: CommandSpec, shard: Shard | None) -> OutputSettings:
    """Where results go; those of a share to a folder of their own below."""
    out = shared.out or f"cnnviz-out/{spec.command}"
    return OutputSettings(
        out=out if shard is None else f"{out.rstrip('/')}/{shard.folder}",
        cache=_cache(shared, spec),
        resume=shared.resume,
        overwrite=shared.overwrite,
        fail_fast=shared.fail_fast,
    )


def _cache(shared: Shared, spec: CommandSpec) -> str | None:
    if shared.no_cache or shared.out == "-" or shared.cache is not None:
        return shared.cache if not shared.no_cache else None
    return users_cache() if isinstance(spec, ComparisonSpec) or FOLDER in os.environ else None
