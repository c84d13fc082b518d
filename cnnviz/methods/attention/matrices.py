"""Maps from attention matrices: which tokens each token of a transformer was made of.

With A_l [heads, L, L] the matrix of layer l (row: who attends, column: to whom), g_l = dz/dA_l and means over heads:

    Rollout           R = product over layers of (mean A_l + I) / 2,           the same for every class
    Gradient rollout  R = product over layers of norm(I + mean (g_l A_l)+),    norm: rows sum to 1
    Chefer            R <- R + mean (g_l A_l)+ R, from R = I
    LeGrad            sum over layers l of mean over heads and rows of (dz_l/dA_l)+,  z_l the score of layer l's tokens

The map is what is in the row of the class token for the patches; where the head averages tokens, the mean of their
rows. The matrices are those of all tokens: attention within windows has no such product, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from cnnviz.engine import runtime as rt
from cnnviz.engine.prepare.split import Split, cut, quietly
from cnnviz.engine.session import ForwardPass, Session
from cnnviz.engine.targets import Target
from cnnviz.errors import CnnvizError
from cnnviz.methods.heatmap import Heatmap
from cnnviz.models.graph.attention_matrices import AttentionLayers, attention_layers
from cnnviz.models.graph.outputs import as_rows
from cnnviz.models.graph.trace import Graph
from cnnviz.registry.params import Options


def matrix_nodes(graph: Graph) -> list[fx.Node]:
    """Where the session of a method of matrices is cut: at each matrix."""
    return list(attention_layers(graph, "The network").matrices)


def matrix_and_token_nodes(graph: Graph) -> list[fx.Node]:
    """Where LeGrad's is: at each matrix, and behind each block."""
    layers = attention_layers(graph, "The network")
    return [*layers.matrices, *layers.residuals]


def rollout(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Attention rollout.

        R = product over layers of (mean_h A_l + I) / 2, rows normalised

    Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. It looks at no score: the map is the same
    for every class. (A widely copied implementation divides the columns by the sums of rows.)

    Args:
        run: A forward pass whose activations are the matrices.
        target: Not looked at.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0: shares that with those of the other tokens sum to 1.

    Raises:
        CnnvizError: The network has no attention between all tokens of one grid, or cannot be traced.
    """
    layers = _layers_of(run)
    every = [_normalised(_mean(a.detach().float()) + _unit(a)) for a in run.activations]
    return _map(_product(every), layers)


def gradient_rollout(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Gradient rollout.

        R = product over layers of norm(I + mean_h (g_l * A_l)^+), rows normalised

    Attention rollout with what raises the score alone (Gildenblat, "Exploring Explainability for Vision Transformers",
    2020, with the identity kept as in the rollout).

    Args:
        run: A forward pass whose activations are the matrices.
        target: Score [N] of the output.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0: shares that with those of the other tokens sum to 1.

    Raises:
        CnnvizError: As :func:`rollout`.
    """
    layers = _layers_of(run)
    return _map(_product([_normalised(w + _unit(w)) for w in _relevant(run, target)]), layers)


def chefer(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """Generic attention explainability.

        R <- R + mean_h (g_l * A_l)^+ R, from R = I

    Chefer et al., "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers",
    ICCV 2021, equations 5 and 6.

    Args:
        run: A forward pass whose activations are the matrices.
        target: Score [N] of the output.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0; those that average tokens hold their own 1 / L too.

    Raises:
        CnnvizError: As :func:`rollout`.
    """
    layers, found = _layers_of(run), _relevant(run, target)
    relevance = _unit(found[0]).expand_as(found[0])
    for weights in found:
        relevance = relevance + weights @ relevance
    return _map(relevance, layers)


def legrad(run: ForwardPass, target: Target, params: Options) -> Heatmap:
    """LeGrad.

        L = mean over layers l, heads and rows of (dz_l / dA_l)^+

    Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
    ICCV 2025. z_l is the score that the network's last normalisation and head give to the tokens behind block l.

    Args:
        run: A forward pass whose activations are the matrices, then the tokens behind each block.
        target: Score [N] of the output.
        params: None.

    Returns:
        Heatmap with values [N, h, w] >= 0, in units of the score.

    Raises:
        CnnvizError: As :func:`rollout`; paths lead past the last block.
    """
    layers = _layers_of(run)
    tail = run.session.remember("legrad tail", lambda: _tail(run.session, layers))
    count, total = len(layers.matrices), torch.zeros(0)
    for matrix, tokens in zip(run.activations[:count], run.activations[count:], strict=True):
        score = target(_read(run.session, tail, tokens))
        (gradient,) = torch.autograd.grad(score.sum(), [matrix], retain_graph=True, materialize_grads=True)
        share = gradient.float().clamp_min(0).mean((1, 2))
        total = share if not total.numel() else total + share
    return _as_grid(total / count, layers)


def _layers_of(run: ForwardPass) -> AttentionLayers:
    graph = run.session.graph
    if graph is None:
        raise CnnvizError(
            f"Attention matrices are read off the trace; {run.session.name} {run.session.untraced}.", "Use saliency."
        )
    return attention_layers(graph, run.session.name)


def _relevant(run: ForwardPass, target: Target) -> list[Tensor]:
    """mean_h (g_l * A_l)^+ of each layer, [N, L, L]."""
    gradients = run.gradients(target(run.output))
    pairs = zip(run.activations, gradients, strict=True)
    return [_mean((a.detach().float() * g).clamp_min(0)) for a, g in pairs]


def _mean(matrices: Tensor) -> Tensor:
    return matrices.mean(1)


def _unit(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], device=like.device)


def _normalised(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(-1, keepdim=True)


def _product(matrices: list[Tensor]) -> Tensor:
    """The last layer's times ... times the first layer's."""
    result = matrices[0]
    for matrix in matrices[1:]:
        result = matrix @ result
    return result


def _map(relevance: Tensor, layers: AttentionLayers) -> Heatmap:
    """The mean of the rows [N, L, L] of the tokens that the head reads."""
    return _as_grid(relevance[:, layers.read.to(relevance.device)].mean(1), layers)


def _as_grid(tokens: Tensor, layers: AttentionLayers) -> Heatmap:
    places, read = layers.places, layers.read
    patches = tokens[:, places.before : places.before + places.cells].unflatten(1, places.grid)
    alone = bool(read[: places.before].any()) and not bool(read[places.before : places.before + places.cells].any())
    facts = {"attention_layers": len(layers.matrices), "attention_rows": "class token" if alone else "mean of tokens"}
    return Heatmap(patches, facts=facts)


def _tail(session: Session, layers: AttentionLayers) -> Split:
    """What follows the last block."""
    assert session.graph is not None
    split = cut(session.graph, [layers.residuals[-1]], rt.Runtime(session.device, "fp32"), "folded")
    if len([node for node in split.head.graph.nodes if node.op == "placeholder"]) > 1:  # type: ignore[attr-defined]
        raise CnnvizError("LeGrad reads every block's tokens by the head; paths lead past them.", "Use chefer.")
    return split


def _read(session: Session, tail: Split, tokens: Tensor) -> Tensor:
    head: Callable[..., tuple[Tensor, ...]] = quietly(tail.head)
    read = session.marked(tail.read(head(tokens.float())))
    rows: Tensor = read if tail.everything else as_rows(read)
    return rows
