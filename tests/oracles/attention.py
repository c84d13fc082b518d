"""Second opinion on maps from attention matrices: timm's own unfused attention in float64, and plain loops."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Watched:
    """A timm transformer in float64, run once: matrices and tokens of every block, connected to the scores."""

    def __init__(self, module: nn.Module, pixels: Tensor) -> None:
        self.module: Any = copy.deepcopy(module).double().eval().requires_grad_(False)
        self.matrices: list[Tensor] = []
        self.tokens: list[Tensor] = []
        for block in self.module.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda part, args, value: self.matrices.append(value))
            block.register_forward_hook(lambda part, args, value: self.tokens.append(value))
        self.scores: Tensor = self.module(pixels.double().requires_grad_())

    def gradients(self, target: int) -> list[Tensor]:
        return list(torch.autograd.grad(self.scores[:, target].sum(), self.matrices, retain_graph=True))


def rollout(found: Watched) -> list[list[list[float]]]:
    """Rows of the product, by loops over images, layers and tokens."""
    return [_rolled([matrix[i].mean(0) for matrix in found.matrices]).tolist() for i in range(len(found.scores))]


def gradient_rollout(found: Watched, target: int) -> list[list[list[float]]]:
    gradients = found.gradients(target)
    return [
        _rolled([(m[i] * g[i]).clamp(min=0).mean(0) for m, g in zip(found.matrices, gradients, strict=True)]).tolist()
        for i in range(len(found.scores))
    ]


def _rolled(matrices: list[Tensor]) -> Tensor:
    length = len(matrices[0])
    result = torch.eye(length, dtype=torch.float64)
    for matrix in matrices:
        mixed = matrix.clone()
        for row in range(length):
            mixed[row, row] += 1
            mixed[row] = mixed[row] / mixed[row].sum()
        result = mixed @ result
    return result


def chefer(found: Watched, target: int) -> list[list[list[float]]]:
    gradients, result = found.gradients(target), []
    for i in range(len(found.scores)):
        relevance = torch.eye(found.matrices[0].shape[-1], dtype=torch.float64)
        for matrix, gradient in zip(found.matrices, gradients, strict=True):
            heads = [(matrix[i, h] * gradient[i, h]).clamp(min=0) for h in range(matrix.shape[1])]
            relevance = relevance + sum(heads) / len(heads) @ relevance
        result.append(relevance.tolist())
    return result


def legrad(found: Watched, target: int) -> Tensor:
    """[N, L], of all tokens."""
    layers = []
    for matrix, tokens in zip(found.matrices, found.tokens, strict=True):
        scores = found.module.forward_head(found.module.norm(tokens))
        (gradient,) = torch.autograd.grad(scores[:, target].sum(), matrix, retain_graph=True)
        heads, rows = gradient.shape[1:3]
        total = torch.zeros(len(tokens), matrix.shape[-1], dtype=torch.float64)
        for head in range(heads):
            for row in range(rows):
                total += gradient[:, head, row].clamp(min=0) / (heads * rows)
        layers.append(total)
    return torch.stack(layers).mean(0)
