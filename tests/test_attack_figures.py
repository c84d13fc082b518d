"""Options and figures of attacks: amounts, curves, intervals, and what is counted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from cnnviz.attacks import l2 as minimal
from cnnviz.errors import CnnvizError
from cnnviz.registry.studies import AdversarialOptions
from cnnviz.studies.adversarial.attack_choice import Choice, amount, epsilons
from cnnviz.studies.adversarial.tally import Outcome, Tally, wilson

# Options and figures


def test_amounts_and_curves_are_read() -> None:
    assert amount("8/255", "--epsilon") == 8 / 255
    assert amount("0.03", "--epsilon") == 0.03
    assert epsilons("2,0,0.5", "linf") == (0.0, 0.5 / 255, 2 / 255)
    assert epsilons("2,0,0.5", "l2") == (0.0, 0.5, 2.0)
    for bad in ("8", "0", "-1", "x", "1/0", "1/2/3", "nan", ""):
        with pytest.raises(CnnvizError, match="--epsilon"):
            amount(bad, "--epsilon")
    with pytest.raises(CnnvizError) as error:
        amount("8", "--epsilon")
    assert "8/255" in str(error.value.hint)
    for bad in ("-1,2", "a", "", "300", "nan"):
        with pytest.raises(CnnvizError, match="--curve"):
            epsilons(bad, "linf")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attack": "deepfool", "epsilon": "8/255"}, "--epsilon means nothing"),
        ({"attack": "fgsm", "step_size": "1/255"}, "--step-size means nothing"),
        ({"attack": "fgsm", "steps": 5}, "one step"),
        ({"epsilon": "0.5/255"}, "8 bits"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(CnnvizError, match=words):
        Choice(AdversarialOptions(**given), 0.0, 0)


def test_wilson_holds_its_share() -> None:
    for hits, count in itertools.product(range(4), (3, 10, 400)):
        low, high = wilson(hits, count)
        share, z = hits / count, 1.959963984540054
        for end in (low, high):  # the ends solve |p - share| = z sqrt(p (1 - p) / n)
            assert abs(end - share) == pytest.approx(z * (end * (1 - end) / count) ** 0.5, abs=1e-9)
        assert low <= share <= high


def test_the_tally_counts_wrong_images_as_fallen_and_leaves_out_those_that_needed_nothing() -> None:
    tally = Tally((0.0, 0.1, 0.2))
    tally.add(Outcome(True, False, 2, 0.1, 1.0, 2), True, True)
    tally.add(Outcome(False, False, 9, 0.2, 2.0, 3), True, True)
    tally.add(Outcome(True, False, 4, 0.3, 3.0, 1), True, False)
    tally.add(Outcome(True, True, 0, 0.0, 0.0, 0), False, True)
    assert [row["value"] for row in tally.robust_accuracy()] == [2 / 3, 2 / 3, 1 / 3]
    summary = tally.summary()
    assert (summary["attacked"], summary["already"], summary["fooled"]) == (3, 1, 2)
    assert (summary["mean_steps"], summary["mean_l2"]) == (3, 2)
    assert minimal.norms(torch.tensor([[[[3 / 255]]]]), torch.tensor([[[[1 / 255]]]]), 255)[0].item() == 2 / 255
