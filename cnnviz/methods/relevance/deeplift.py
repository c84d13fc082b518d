"""DeepLIFT: the difference in score between an image and a baseline, handed back layer by layer.

With d x = x - x0 the difference of a value between the image and the baseline, each layer has multipliers m with
sum over inputs of m d(input) = d(output), and multipliers chain as gradients do (Shrikumar et al., ICML 2017, equation
3). Linear layers, sums, average pooling and all that moves values about have their gradient as the multiplier. What is
not linear:

    y = f(x), elementwise      m = dy / dx (the rescale rule, equation 11); the gradient where dx is (nearly) zero
    y = max of several x       dy > 0: all of dy to the image's maximum; dy < 0: to the baseline's
    y = a b                    m_a = (b + b0) / 2, m_b = (a + a0) / 2: the Shapley values of the two factors; also of
                               matrix products
    y = a / b                  as the product of a and 1 / b
    deviation, norm, softmax   made of these: squares are products, roots and exponentials elementwise

Each is exact, so the shares sum to the difference in score up to rounding: what a gap remains is recorded.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.session import ForwardPass
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.baselines import start_facts, start_figures, start_of, starts
from cnnviz.methods.heatmap import Heatmap, gap_share
from cnnviz.methods.relevance.deeplift_rules import RULES, linear_kind
from cnnviz.methods.relevance.propagation import canonical
from cnnviz.models.graph.operations import operation_of
from cnnviz.models.graph.outputs import as_rows
from cnnviz.models.graph.structures import tensors_of
from cnnviz.registry.relevance import DeepLIFTOptions


def deeplift(run: ForwardPass, target: Target, params: DeepLIFTOptions) -> Heatmap:
    """DeepLIFT with the rescale rule; with several baselines their mean, which is DeepSHAP.

        R = mean over baselines x' of (x - x') * m,    M = sum over channels of R

    Shrikumar, Greenside & Kundaje, "Learning Important Features Through Propagating Activation Differences", ICML 2017,
    section 3.5.2; Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017, section 4.2 (Deep
    SHAP). The multipliers are found on the traced network, so functions, modules that are used twice, shortcuts and
    gates have them too (captum puts hooks on modules: it refuses or passes over what is none). On a network whose
    score is linear in the image all baselines give gradient times difference; of ReLUs without biases the zero
    baseline gives gradient times input.

    Args:
        run: A forward pass that starts at the image.
        target: The logit of a class, a unit, or a function linear in the output.
        params: ``baseline``, ``background`` and ``trials`` as for integrated gradients, ``seed``.

    Returns:
        Heatmap with values [N, C, H, W] and maps [N, H, W], signed, in units of the score; scores
        ``score_difference`` (mean over baselines), ``completeness_gap``: that less the sum of R, and ``gap_share``.

    Raises:
        CnnvizError: The network cannot be traced, or has a layer without a rule; a probability is asked for.
    """
    if target.unit in ("probability", "log-probability"):
        raise CnnvizError("DeepLIFT hands back the logit of a class, not its probability.", "Leave --score out.")
    pixels = run.activations[0].detach().float()
    values, difference = torch.zeros_like(pixels), torch.zeros(len(pixels), device=pixels.device)
    count = starts(params, params.trials)
    for trial in range(count):
        start = start_of(pixels, params, trial, run.session.preprocess)
        made = partial(_pass, run, pixels, start)
        # Several targets share a pass. Those of many baselines would fill the memory: they are made anew.
        key = "deeplift", params.baseline, params.background, params.seed
        both, output = run.remember(key, made) if count == 1 else made()
        scores = target.repeated(output, 2)
        multipliers = torch.autograd.grad(scores[: len(pixels)].sum(), both, retain_graph=count == 1)[0]
        values += (pixels - start) * multipliers[: len(pixels)].float() / count
        ours, theirs = scores.detach().float().chunk(2)
        difference = difference + (ours - theirs) / count
    gap = difference - rt.wide(values).sum((1, 2, 3)).float()
    figures = {
        "completeness_gap": gap,
        "gap_share": gap_share(gap, difference),
        "score_difference": difference,
        **start_figures(params, pixels, run.session.preprocess),
        "trials": count,
    }
    facts = {"reduction": "sum over channels", **start_facts(params, count)}
    return Heatmap(values, values.sum(1), facts=facts, scores=figures)


def _pass(run: ForwardPass, pixels: Tensor, start: Tensor) -> tuple[Tensor, Any]:
    """Images and baselines [2 N, C, H, W] as a leaf, and the output of both, whose gradients are multipliers."""
    session = run.session
    split = session.remember("relevance split, False", lambda: canonical(session, "DeepLIFT"))
    head = split.readable
    assert isinstance(head, fx.GraphModule)
    both = torch.cat([pixels, start]).requires_grad_()
    if sum(node.op == "placeholder" for node in head.graph.nodes) > 1:
        raise CnnvizError(
            f"DeepLIFT compares all of a network; of {session.name} a part cannot be followed from the image.",
            "Use integrated_gradients.",
        )
    results = _Interpreter(head).run(both)
    read = session.marked(split.read(results))
    return both, read if split.everything else as_rows(read)


class _Interpreter(fx.Interpreter):
    """Runs a network on images and their baselines, one behind the other, with multipliers in the place of gradients.

    The values stay those of the network.
    """

    def __init__(self, head: fx.GraphModule) -> None:
        super().__init__(head)
        self._operations = {node: operation_of(head, node) for node in head.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op not in {"call_module", "call_function", "call_method"} or not _follows((args, kwargs)):
            return getattr(self, n.op)(n.target, args, kwargs)
        operation = self._operations[n]
        plain = getattr(self, n.op)(n.target, args, kwargs)
        given = {name: self._value(value) for name, value in operation.arguments.items()}
        if not _follows(plain) or linear_kind(operation, given):
            return plain
        rule = RULES.get(operation.name, RULES.get(operation.kind))
        if rule is None or operation.is_whole:
            what = operation.label or operation.name or str(n.target)
            raise CnnvizError(f"DeepLIFT has no rule for {what} ({n.name}).", "Use integrated_gradients.")
        return rule(plain, given)

    def _value(self, value: Any) -> Any:
        return fx.node.map_arg(value, lambda node: self.env[node])


def _follows(values: Any) -> bool:
    """Whether anything of it depends on the image."""
    return any(tensor.requires_grad for tensor in tensors_of(values))
