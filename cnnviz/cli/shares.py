"""``--shard``: which share of the inputs a command line asks for."""

from __future__ import annotations

import os

from cnnviz.cli.shared import Shared
from cnnviz.errors import CnnvizError
from cnnviz.io.shards import AUTO, Shard, assigned_shard, parse_shard


def share_of(shared: Shared) -> tuple[Shard | None, str]:
    """The share of the inputs that is explained, None for all; and the variables that told which.

    Raises:
        CnnvizError: There is no such share, or what cannot be told of a share alone is asked for.
    """
    if shared.shard is None:
        return None, ""
    for said, flag, hint in (
        ("-" in (shared.inputs or ()), "INPUT -", "Use a list file, which cnnviz merge can read again."),
        (shared.limit is not None, f"--limit {shared.limit}", "Name a list of these images."),
        (shared.scale == "run", "--scale run", "Use --scale fixed:a,b"),
        (shared.out == "-", "-o -", "Give -o a folder."),
    ):
        if said:
            raise CnnvizError(f"--shard and {flag}: a share does not know what all inputs are.", hint)
    return assigned_shard(os.environ) if shared.shard == AUTO else (parse_shard(shared.shard), "")
