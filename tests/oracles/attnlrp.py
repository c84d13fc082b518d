"""Second opinion on AttnLRP: a timm ViT taken apart in float64, and each rule as the paper writes it.

Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gamma_rule(x: Tensor, weight: Tensor, bias: Tensor | None, relevance: Tensor, gamma: float) -> tuple[Tensor, float]:
    """Relevance of the inputs [rows, j] of a linear layer, and what its bias kept; each pair of neurons by itself."""
    parts = x[:, None, :] * weight[None]  # [rows, k, j]
    own = torch.zeros(len(weight), dtype=x.dtype) if bias is None else bias
    z = parts.sum(2) + own
    same = torch.where(z[..., None] >= 0, parts.clamp(min=0), parts.clamp(max=0))
    own_same = torch.where(z >= 0, own.clamp(min=0), own.clamp(max=0))
    below = z + gamma * (same.sum(2) + own_same)
    shares = (parts + gamma * same) / below[..., None] * relevance[..., None]
    lost = (own + gamma * own_same) / below * relevance
    return shares.sum(1), float(lost.sum())


def norm_rule(x: Tensor, norm: Any, relevance: Tensor) -> Tensor:
    deviation = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    y = (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias
    c = relevance / y
    through = (norm.weight * c / deviation) - (norm.weight * c / deviation).mean(-1, keepdim=True)
    return x * through


def attention_rule(q: Tensor, k: Tensor, v: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [heads, L, d]."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    weights = scores.softmax(-1)
    c = relevance / (weights @ v)
    of_weights, of_v = 0.5 * weights * (c @ v.transpose(1, 2)), 0.5 * v * (weights.transpose(1, 2) @ c)
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    ratio = of_scores / scores / math.sqrt(q.shape[-1])
    return 0.5 * q * (ratio @ k), 0.5 * k * (ratio.transpose(1, 2) @ q), of_v


def attnlrp(module: nn.Module, picture: Tensor, target: int, gammas: tuple[float, float]) -> Tensor:
    """Relevance [3, H, W] of one picture; ``gammas``: of linear layers and of the convolution."""
    net: Any = copy.deepcopy(module).double()
    gamma, conv_gamma = gammas
    with torch.no_grad():
        size = net.patch_embed.patch_size[0]
        patches = F.unfold(picture[None].double(), size, stride=size)[0].T
        conv = net.patch_embed.proj
        embedded = patches @ conv.weight.flatten(1).T + conv.bias
        tokens = torch.cat([net.cls_token[0], embedded]) + net.pos_embed[0]
        kept = []
        for block in net.blocks:
            n1 = block.norm1(tokens)
            length, width = n1.shape
            qkv = block.attn.qkv(n1)
            q, k, v = qkv.reshape(length, 3, block.attn.num_heads, -1).permute(1, 2, 0, 3)
            mixed = ((q @ k.transpose(1, 2)) / math.sqrt(q.shape[-1])).softmax(-1) @ v
            joined = mixed.transpose(0, 1).reshape(length, width)
            middle = tokens + block.attn.proj(joined)
            n2 = block.norm2(middle)
            hidden = block.mlp.fc1(n2)
            after = middle + block.mlp.fc2(F.gelu(hidden))
            kept.append((block, tokens, n1, (q, k, v), joined, middle, n2, hidden, after))
            tokens = after
        last = net.norm(tokens)
        score = net.head(last[:1])
        relevance = torch.zeros_like(score)
        relevance[0, target] = score[0, target]
        of_class, _ = gamma_rule(last[:1], net.head.weight, net.head.bias, relevance, gamma)
        spread = torch.zeros_like(last)
        spread[:1] = of_class
        relevance = norm_rule(tokens, net.norm, spread)
        for block, tokens, n1, (q, k, v), joined, middle, n2, hidden, after in reversed(kept):
            share = relevance / after
            inner = share * (after - middle)
            inner, _ = gamma_rule(F.gelu(hidden), block.mlp.fc2.weight, block.mlp.fc2.bias, inner, gamma)
            inner, _ = gamma_rule(n2, block.mlp.fc1.weight, block.mlp.fc1.bias, inner, gamma)
            relevance = share * middle + norm_rule(middle, block.norm2, inner)
            share = relevance / middle
            inner = share * (middle - tokens)
            inner, _ = gamma_rule(joined, block.attn.proj.weight, block.attn.proj.bias, inner, gamma)
            heads = inner.reshape(len(tokens), len(q), -1).transpose(0, 1)
            parts = torch.stack(attention_rule(q, k, v, heads)).permute(2, 0, 1, 3).reshape(len(tokens), -1)
            inner, _ = gamma_rule(n1, block.attn.qkv.weight, block.attn.qkv.bias, parts, gamma)
            relevance = share * tokens + norm_rule(tokens, block.norm1, inner)
        start = torch.cat([net.cls_token[0], embedded]) + net.pos_embed[0]
        of_patches = (relevance / start)[1:] * embedded
        pixels, _ = gamma_rule(patches, conv.weight.flatten(1), conv.bias, of_patches, conv_gamma)
        return F.fold(pixels.T[None], picture.shape[1:], size, stride=size)[0]
