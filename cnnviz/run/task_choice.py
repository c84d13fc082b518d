"""What the network of a run is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError, of_target
from cnnviz.models.loading.labels import numbered
from cnnviz.models.loading.load import LoadedModel
from cnnviz.registry import lookup
from cnnviz.registry.box_forms import DetectOptions, like_grid
from cnnviz.registry.specs import CommandSpec, StudySpec
from cnnviz.registry.tasks import TaskRequest, TaskSpec
from cnnviz.schema.boxes import Boxes
from cnnviz.tasks.answering import Answering
from cnnviz.tasks.base import Selector, Task, Words
from cnnviz.tasks.class_names import ClassNames
from cnnviz.tasks.classification import Classification
from cnnviz.tasks.detection import Detection


def task_of(
    command: CommandSpec, session: Session, asked: TaskRequest, labels: Sequence[str], note: Callable[[str], None]
) -> TaskSpec:
    """The task, by what was asked for and by the network's output.

    Args:
        command: What runs.
        session: The network.
        asked: ``--task``.
        labels: A name for each class.
        note: Told where the task was told by the output, and is not the usual one.

    Raises:
        CnnvizError: There is no such task, the output is of another, or the command cannot take it.
    """
    shape = session.output.shape
    spec = lookup.find_task(asked, shape, session.boxes is not None)
    sizes = ", ".join(["N", *map(str, shape[1:])])
    if isinstance(command, StudySpec) and not spec.studies and spec.name not in command.tasks:
        raise CnnvizError(
            f"{command.command} needs class scores for the whole image; the explained output of {session.name} has "
            f"shape [{sizes}].",
            "Choose the class scores with --logits-key KEY, or explain its regions with cnnviz gradcam."
            if spec.classes
            else f"--task {spec.name} is explained by maps, such as cnnviz gradcam.",
        )
    if spec.dense and asked.spec is None:
        note(f"the output [{sizes}] has scores at positions: --task {spec.name}")
        unnamed = tuple(labels) == numbered(len(labels))
        if unnamed and (why := like_grid(shape)) is not None:
            note(
                f"{why}: if it is one, type --task detect, and --labels FILE for their names; --task {spec.name} if not"
            )
    return spec


def class_count(session: Session, loaded: LoadedModel) -> int:
    """How many classes the explained output tells apart."""
    if session.boxes is None:
        return session.output.classes
    return session.boxes.classes or loaded.num_classes


def labels_of(loaded: LoadedModel, given: str | None, outputs: int) -> tuple[str, ...]:
    """A name for each class.

    Args:
        loaded: The network, with the names that are known.
        given: ``--labels``.
        outputs: How many classes there are.

    Raises:
        CnnvizError: ``--labels`` names another number of classes.
    """
    labels = loaded.labels
    if len(labels) == outputs or (outputs == 1 and len(labels) == 2):
        return labels
    if given is None:
        return numbered(max(outputs, 1))
    raise CnnvizError(
        f"There are {len(labels)} labels, but the network has {outputs} outputs.",
        "Give --labels with one name a class, or choose the class scores with --logits-key.",
    )


def made_task(spec: TaskSpec, classes: ClassNames, how: tuple[str, str], session: Session, loaded: LoadedModel) -> Task:
    """The task of a run.

    Args:
        spec: Which one.
        classes: The classes by name.
        how: What is explained of a class, and how logits become probabilities.
        session: The network.
        loaded: The same as it was loaded.
    """
    if spec.words:
        text: Task = spec.load()(classes, *how, loaded.module)
        return text
    if session.boxes is None:
        task: Task = spec.load()(classes, *how)
        return Answering(classes, *how, loaded.question) if loaded.question and type(task) is Classification else task
    asked = loaded.task
    options = asked.options if isinstance(asked.options, DetectOptions) else DetectOptions()
    boxes: Task = spec.load()(classes, how[0], session.boxes, options)
    return boxes


def selector_of(task: Task, words: Words) -> Selector:
    """What turns the words of ``--class`` and ``--target`` into requests.

    Raises:
        CnnvizError: One of them means nothing. Of a target it is said which, as ``--target SPEC``: classes are read
            for both, and do not know for which.
    """
    try:
        return task.selector(words)
    except CnnvizError:
        for target in words.targets:
            try:
                task.selector(replace(words, classes=(), targets=(target,)))
            except CnnvizError as error:
                raise of_target(error, target) from error
        raise


def boxes_of(task: Task) -> Boxes | None:
    """What the report says of how boxes are read from an output; None where there are none."""
    if not isinstance(task, Detection):
        return None
    form = task.form
    return {
        "form": form.name,
        "numbers": form.words,
        "why": form.why,
        "score": form.least_score(task.options),
        "iou": form.most_overlap(task.options),
    }


def told(task: Detection, shape: tuple[int, ...]) -> str:
    """The same for people."""
    form, sizes = task.form, ", ".join(["N", *map(str, shape[1:])])
    most = form.most_overlap(task.options)
    suppressed = "none is suppressed" if most is None else f"those that overlap by an IoU above {most:g} are suppressed"
    return (
        f"the output [{sizes}] has {form.words} ({form.why}): --task detect:form={form.name}; boxes are candidates of "
        f"score {form.least_score(task.options):g} or more, {suppressed}"
    )
