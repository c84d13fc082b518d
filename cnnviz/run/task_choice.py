"""What the network of a run is for."""

from __future__ import annotations

from collections.abc import Callable

from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, StudySpec
from cnnviz.registry.tasks import AUTO, TaskSpec


def task_of(command: CommandSpec, session: Session, asked: str, note: Callable[[str], None]) -> TaskSpec:
    """The task, by what was asked for and by the network's output.

    Args:
        command: What runs.
        session: The network.
        asked: ``--task``.
        note: Told where the task was told by the output, and is not the usual one.

    Raises:
        CnnvizError: There is no such task, the output is of another, or the command cannot take it.
    """
    shape = session.output.shape
    spec = lookup.find_task(asked, shape)
    sizes = ", ".join(["N", *map(str, shape[1:])])
    if isinstance(command, StudySpec) and not spec.studies and spec.name not in command.tasks:
        raise CnnvizError(
            f"{command.command} needs class scores for the whole image; the explained output of {session.name} has "
            f"shape [{sizes}].",
            "Choose the class scores with --logits-key KEY, or explain its regions with cnnviz gradcam.",
        )
    if spec.dense and asked == AUTO:
        note(f"the output [{sizes}] has scores at positions: --task {spec.name}")
    return spec
