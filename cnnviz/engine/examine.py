"""What must hold of a network before its maps mean anything, found out by a few passes over probes.

A network is examined once, before its first image. What is found is told, kept in the report under ``model.checks``,
and acted upon: images that would change each other go through one by one, a network that draws random numbers draws
the same ones at every pass, and a gradient that cannot arrive is refused rather than drawn as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.engine.boxes import candidates
from cnnviz.engine.gradient_path import gradient_at_layers
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.errors import CnnvizError, first_line
from cnnviz.models.graph.outputs import OutputChoice
from cnnviz.schema import header

# Largest difference between two answers that rounding may explain, relative to the largest logit.
_ROUNDING = 1e-4
# Sizes that are tried: beyond the next multiple of 32, where most networks round to. Above the network's own only where
# the small one is too small, or no smaller.
_BESIDE = 33
_MULTIPLES = (32, 16, 8, 4, 2)
_SMALLEST = (32, 64, 128)
SKIPPED = "skipped with --skip-check"


@dataclass(frozen=True)
class InputSizes:
    """Which input sizes a network takes, as far as a few trials tell.

    Attributes:
        any: Whether height and width are free.
        multiple_of: Both are multiples of this number of pixels; 1 where they are free; 0 where they are fixed.
        minimum: The smallest side that was tried and works.
    """

    any: bool
    multiple_of: int
    minimum: int

    def __str__(self) -> str:
        if self.any:
            return "any"
        return f"multiples of {self.multiple_of}" if self.multiple_of else "fixed"

    def to_dict(self) -> header.InputSizes:
        """As plain JSON, with the words for it."""
        return {"takes": str(self), "any": self.any, "multiple_of": self.multiple_of, "minimum": self.minimum}


@dataclass(frozen=True)
class Wanted:
    """What is to be examined.

    Attributes:
        method: Name of the method or study, for messages.
        gradient: Whether it needs the gradient at the session's layers.
        may_be_zero: Whether a gradient of zero is no reason to refuse (attacks, which report it for each image).
        skip: Names of checks that were silenced.
        seed: Of the noise of a network that draws some.
    """

    method: str
    gradient: bool
    may_be_zero: bool = False
    skip: Collection[str] = ()
    seed: int = 0


@dataclass(frozen=True)
class Examination:
    """What was found: ``model.checks`` of the report. A check that was not run is None, and ``not_run`` says why.

    Attributes:
        output: Which output is explained, and why.
        deterministic: Whether the same image twice gives the same scores.
        batch_independent: Whether an image gets the same scores beside another as alone.
        gradient_reaches_layer: Whether the gradient of the scores arrives where it is needed, and is not zero.
        precision_agreement: Correlation of the method's map on a probe with that in float32.
        input_sizes: Which input sizes the network takes.
        not_run: Why a check was not run, by its name.
        notes: What a person should be told.
    """

    output: OutputChoice | None = None
    deterministic: bool | None = None
    batch_independent: bool | None = None
    gradient_reaches_layer: bool | None = None
    precision_agreement: float | None = None
    input_sizes: InputSizes | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> header.Checks:
        """As plain JSON."""
        return {
            "output": None if self.output is None else _output(self.output),
            "deterministic": self.deterministic,
            "batch_independent": self.batch_independent,
            "gradient_reaches_layer": self.gradient_reaches_layer,
            "precision_agreement": self.precision_agreement,
            "input_sizes": None if self.input_sizes is None else self.input_sizes.to_dict(),
            "not_run": dict(self.not_run),
        }

    def with_agreement(self, value: float | None, why_not: str, notes: tuple[str, ...] = ()) -> Examination:
        """The same with the agreement of the precision's map, or why it is not known."""
        not_run = {name: why for name, why in self.not_run.items() if name != "precision_agreement"}
        if value is None:
            not_run["precision_agreement"] = why_not
        return replace(self, precision_agreement=value, not_run=not_run, notes=(*self.notes, *notes))

    def with_units(self, found: Examination) -> Examination:
        """The same with what holds of units of a layer too: what does not hold of them does not hold."""

        def both(own: bool | None, other: bool | None) -> bool | None:
            return False if other is False else own

        return replace(
            self,
            deterministic=both(self.deterministic, found.deterministic),
            batch_independent=both(self.batch_independent, found.batch_independent),
            gradient_reaches_layer=both(self.gradient_reaches_layer, found.gradient_reaches_layer),
        )


def _output(choice: OutputChoice) -> header.Output:
    others: list[header.OtherOutput] = [{"key": key, "shape": list(shape)} for key, shape in choice.others]
    return {"key": choice.key, "shape": list(choice.shape), "why": choice.why, "guessed": choice.guessed,
            "others": others}  # fmt: skip


def examine(session: Session, probe: Tensor, wanted: Wanted) -> Examination:
    """Examine a prepared network, and set the session up for what was found.

    Args:
        session: The network, with the layers that are explained.
        probe: An image [1, C, H, W], normalised.
        wanted: What is needed of it.

    Raises:
        CnnvizError: A gradient is needed and none arrives.
    """
    with rt.scope():
        return _Examiner(session, probe.to(session.device), wanted).run()


class _Examiner:
    def __init__(self, session: Session, probe: Tensor, wanted: Wanted) -> None:
        self.session, self.probe, self.wanted = session, probe, wanted
        self.notes: list[str] = []
        self.not_run: dict[str, str] = {}
        self._known: ForwardPass | None = None
        self._single: Tensor | None = None
        self._several: tuple[Tensor | None] | None = None
        self._why = ""

    def run(self) -> Examination:
        # In this order: later checks rely on what the earlier ones set up.
        return Examination(
            output=self._output() if self._asked("output") else None,
            deterministic=self._deterministic() if self._asked("deterministic") else None,
            batch_independent=self._batch_independent() if self._asked("batch_independent") else None,
            gradient_reaches_layer=self._gradient() if self._asked("gradient_reaches_layer") else None,
            input_sizes=self._sizes() if self._asked("input_sizes") else None,
            not_run=self.not_run,
            notes=tuple(self.notes),
        )

    def _asked(self, check: str) -> bool:
        if check in self.wanted.skip:
            self.not_run[check] = SKIPPED
        elif check == "gradient_reaches_layer" and not self.wanted.gradient:
            self.not_run[check] = f"{self.wanted.method} needs no gradient"
        elif check == "gradient_reaches_layer" and not self._finds_a_box():
            self.not_run[check] = "the network finds no box on a probe"
        elif check == "input_sizes" and self.session.readout.why is not None:
            self.not_run[check] = "units are explained, and what lies below them may take more sizes than the network"
        return check not in self.not_run

    def _finds_a_box(self) -> bool:
        """Whether there is any candidate on the probe, of a detector: else there is no score to be differentiated."""
        form = self.session.boxes
        return form is None or bool((candidates(self._pass().chosen.detach(), form).ranking() > 0).any())

    def _pass(self) -> ForwardPass:
        """A pass over the probe, made once."""
        if self._known is None:
            self._known = self.session.forward(self.probe)
        return self._known

    def _output(self) -> OutputChoice | None:
        choice = self.session.output
        if choice is not None and (note := choice.note()):
            self.notes.append(note)
        return choice

    def _small(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The probe for repeated passes, and what runs it: a corner of it where the network takes any size.

        The operations are the same at every size.
        """
        session, probe = self.session, self.probe
        height, width = probe.shape[2:]
        free = session.unprepared is not None and "input_sizes" not in self.wanted.skip and input_sizes(session)
        if not free or not free.any or min(height, width) <= 2 * free.minimum:
            # In a lower precision rounding depends on how many images there are: it is the network that is asked.
            exact = session.runtime.precision == "fp32" or session.unprepared is None
            return probe, session.chosen if exact else session.unprepared_chosen
        side = 2 * free.minimum
        return probe[..., :side, :side].contiguous(), session.unprepared_chosen

    def _alone(self) -> Tensor:
        """The small probe's scores when it is the whole batch."""
        if self._single is None:
            probe, logits = self._small()
            known = probe is self.probe and logits == self.session.chosen
            self._single = self._pass().chosen.detach() if known else logits(probe)
        return self._single

    def _beside(self) -> Tensor | None:
        """Its scores beside two other images (some changes take three); None where they do not go through together."""
        if self._several is None:
            probe, logits = self._small()
            try:
                self._several = (logits(torch.cat([probe, 3 * probe.flip(-1) + 1, probe.flip(-2) - 2]))[:1],)
            except Exception as error:
                if rt.is_out_of_memory(error):
                    raise
                self._why = first_line(error)
                self._several = (None,)
        return self._several[0]

    def _deterministic(self) -> bool:
        first = self._alone()
        # What comes out the same beside other images was repeated already.
        if "batch_independent" not in self.wanted.skip and _same(first, self._beside()):
            return True
        session, seed = self.session, self.wanted.seed
        probe, logits = self._small()
        if _same(first, logits(probe)):
            return True
        session.behave(one_by_one=True, noise_seed=seed)
        self._known = self._single = None
        if _same(self._pass().chosen.detach(), session.chosen(self.probe)):
            self.notes.append(
                f"{session.name} is random: the same image twice gives different scores. Every pass now draws the same "
                f"random numbers (--seed {seed}), so the run can be repeated; another seed gives other maps"
            )
        else:
            self.notes.append(
                f"{session.name} is not a function of its input, and no seed changes that: the same image twice gives "
                "different scores, so predictions and maps differ from run to run"
            )
        return False

    def _batch_independent(self) -> bool | None:
        session = self.session
        if session.one_by_one:
            self.not_run["batch_independent"] = "the network is random: its images are run one by one anyway"
            return None
        alone, beside = self._alone(), self._beside()
        if _same(alone, beside):
            return True
        session.behave(one_by_one=True, noise_seed=session.noise_seed)
        if beside is None:
            self.notes.append(f"{session.name} takes one image at a time ({self._why}): images are run one by one")
            return False
        by = float((alone - beside).abs().max())
        self.notes.append(
            f"{session.name} lets the images of a batch change each other (by up to {by:.2g} in a score on a probe): "
            "images are run one by one"
        )
        return False

    def _gradient(self) -> bool | None:
        found = gradient_at_layers(self.session, self._pass())
        if found.connected and not found.zero:
            return True
        where = found.where
        if not found.connected or (found.steps and not self.wanted.may_be_zero):
            through = found.blocking or found.steps or "what follows it"
            raise CnnvizError(
                f"No gradient passes through {through}: {self.wanted.method} has nothing to explain {where} by.",
                "Use occlusion or rise, which need no gradient, or name a later layer with --layer.",
            )
        if self.session.readout.layer is not None:
            # A unit that does not fire, or is clipped, has no gradient there, and may have one on the user's images.
            self.not_run["gradient_reaches_layer"] = "no unit that is explained responds to a probe image"
            return None
        self.notes.append(
            f"the gradient of the scores at {where} is zero on a probe image: maps that are zero everywhere then say "
            "nothing about the class; occlusion and rise need no gradient"
        )
        return False

    def _sizes(self) -> InputSizes:
        return input_sizes(self.session)


def _same(a: Tensor, b: Tensor | None) -> bool:
    if b is None or a.shape != b.shape:
        return False
    if not bool(torch.isfinite(a).all()):
        return bool(torch.equal(torch.isfinite(a), torch.isfinite(b)))
    return bool((a - b).abs().max() <= _ROUNDING * a.abs().max().clamp_min(1e-6))


def input_sizes(session: Session) -> InputSizes:
    """Which input sizes a network takes: tried at a few, once a session.

    A size counts when the network runs at it and returns as many scores as at its own.
    """
    return session.remember("input sizes", lambda: _tried(session))


def _tried(session: Session) -> InputSizes:
    channels, height, width = session.input_shape
    classes, axis = session.output.classes, 1
    if len(session.output.shape) == 3:  # a detector's candidates, of which there are more in a larger image
        axis = 1 if session.boxes is not None and session.boxes.name == "ultralytics" else 2
        classes = session.output.shape[axis]

    def runs(rows: int, cols: int) -> bool:
        try:
            found = session.unprepared_chosen(torch.zeros(1, channels, rows, cols, device=session.device))
        except Exception:
            return False
        return classes is None or found.shape[axis] == classes

    smallest = min(height, width)
    free = smallest >= 2 * (_BESIDE + 1) and runs(_BESIDE, _BESIDE + 1)
    free = free or runs(height + _BESIDE, width + _BESIDE + 1)
    multiple = 1 if free else 0
    for step in () if free else _MULTIPLES:
        # An odd multiple: an even one would be a multiple of twice as much as well.
        more = step * (_BESIDE // step | 1)
        if height % step or width % step or not runs(height + more, width + more):
            break
        multiple = step
    if multiple:
        smallest = next((side for side in _SMALLEST if side < smallest and runs(side, side)), smallest)
    return InputSizes(free, multiple, smallest)
