"""Multipliers of layers that are not linear, for DeepLIFT.

A rule gets what a layer computed of images and their baselines, one behind the other along the first axis, and the
layer's arguments. It returns the same values with multipliers in the place of gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnviz.errors import CnnvizError
from cnnviz.methods.relevance.propagation import keeping
from cnnviz.models.graph.operations import Operation
from cnnviz.models.graph.structures import tensors_of

Rule = Callable[[Tensor, Mapping[str, Any]], Tensor]

# Differences below this share of the values are rounding: the gradient stands for their quotient.
_NEAR = 1e-6
_TINY = 1e-30
_SAME = 1e-3

_LINEAR_KINDS = frozenset(
    "concatenation stack split index reshaping permutation expansion padding resizing shuffling identity constant "
    "addition subtraction".split()
)
_WEIGHTED = frozenset({"convolution", "transposed_convolution", "linear"})
_LINEAR_NAMES = frozenset("mean sum batch_norm to float double half bfloat16 type type_as neg".split())


def linear_kind(operation: Operation, given: Mapping[str, Any]) -> bool:
    """Whether an operation is linear (or affine) in what depends on the image: its gradient is its multiplier.

    Args:
        operation: What is computed.
        given: Its arguments by name, however they were given, with the values of those that are computed.
    """
    following = {name for name, value in given.items() if any(each.requires_grad for each in tensors_of(value))}
    if operation.kind in _WEIGHTED:
        return "weight" not in following  # weights that are made of the image are a factor
    if operation.kind in {"product", "matrix_product"}:
        return sum(each.requires_grad for each in tensors_of(list(given.values()))) == 1
    if operation.kind == "division":
        return "other" not in following
    averages = operation.kind == "pooling" and "avg_pool" in operation.name
    return operation.kind in _LINEAR_KINDS or averages or operation.name in _LINEAR_NAMES


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """What images have and what their baselines have."""
    ours, theirs = values.detach().chunk(2)
    return ours, theirs


def twice(values: Tensor) -> Tensor:
    """A factor for images and their baselines alike."""
    return torch.cat([values, values])


def rescaled(x: Tensor, y: Tensor) -> Tensor:
    """y, an elementwise function of x, with multiplier dy / dx; where dx is nearly zero its gradient."""
    (x1, x0), (y1, y0) = halves(x), halves(y)
    apart = x1 - x0
    far = apart.abs() > _NEAR * (x1.abs() + x0.abs()) + _TINY
    quotient = torch.where(far, (y1 - y0) / torch.where(far, apart, 1.0), 0.0)
    return keeping(y, torch.where(twice(far), x * twice(quotient), y))


def product(a: Tensor, b: Tensor, multiply: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Tensor:
    """A product of two values that both depend on the image: each weighs the other's mean over image and baseline."""
    mean_a, mean_b = (twice((one + two) / 2) for one, two in (halves(a), halves(b)))
    return keeping(multiply(a, b), multiply(a, mean_b) + multiply(mean_a, b))


def chosen(y: Tensor, picked: Tensor) -> Tensor:
    """y, a maximum, with all of its multiplier at the value that was picked of x, for images and baselines."""
    (y1, y0), (x1, x0) = halves(y), halves(picked)
    apart = x1 - x0
    some = apart.abs() > _TINY
    return keeping(y, picked * twice(torch.where(some, (y1 - y0) / torch.where(some, apart, 1.0), 1.0)))


def _elementwise(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    return rescaled(given["input"], y)


def _power(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    if isinstance(given["exponent"], Tensor) and given["exponent"].requires_grad:
        raise CnnvizError("DeepLIFT has no rule for an exponent that depends on the image.", "Use smoothgrad.")
    return rescaled(given["input"], y)


def _product(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    return keeping(y, product(given["input"], given["other"]))


def _added_product(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    a, b = given["tensor1"], given["tensor2"]
    both = all(isinstance(each, Tensor) and each.requires_grad for each in (a, b))
    return keeping(y, given["input"] + given["value"] * (product(a, b) if both else a * b))


def _matrix_product(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    other = given["other"] if "other" in given else given["mat2"]
    return keeping(y, product(given["input"], other, torch.matmul))


def _division(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    top, bottom = given["input"], given["other"]
    inverse = rescaled(bottom, 1 / bottom)
    follows = isinstance(top, Tensor) and top.requires_grad
    return keeping(y, product(top, inverse) if follows else top * inverse)


def _gated(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    value, gate = given["input"].chunk(2, given["dim"])
    return keeping(y, product(value, rescaled(gate, gate.sigmoid())))


def _softmax(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x, dim = given["input"], given["dim"]
    dim = dim[0] if isinstance(dim, tuple) else dim
    ours, theirs = halves(x.amax(dim, keepdim=True))
    shifted = x - twice(torch.maximum(ours, theirs))  # the same for both: a constant
    raised = rescaled(shifted, shifted.exp())
    total = raised.sum(dim, keepdim=True)
    return keeping(y, product(raised, rescaled(total, 1 / total.clamp_min(_TINY))))


def _max_pool(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x = given["input"]
    axes = x.dim() - 2
    rest = {name: given[name] for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
    pool: Callable[..., Any] = getattr(F, f"max_pool{axes}d")
    return _pooled(y, x, pool(x.detach(), **rest, return_indices=True)[1])


def _adaptive_max_pool(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x = given["input"]
    pool: Callable[..., Any] = getattr(F, f"adaptive_max_pool{x.dim() - 2}d")
    return _pooled(y, x, pool(x.detach(), given["output_size"], return_indices=True)[1])


def _pooled(y: Tensor, x: Tensor, places: Tensor) -> Tensor:
    (y1, y0), (first, second) = halves(y), places.chunk(2)
    winner = torch.where(y1 >= y0, first, second)
    return chosen(y, x.flatten(2).gather(2, twice(winner).flatten(2)).reshape(y.shape))


def _largest(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x, dims = given["input"], given["dim"]
    if dims is None or not isinstance(y, Tensor):
        raise CnnvizError("DeepLIFT has no rule for a maximum over all images, or with its place.", "Use smoothgrad.")
    dims = dims if isinstance(dims, tuple) else (dims,)
    kept = [axis for axis in range(x.dim()) if axis not in dims]
    rows = x.permute(*kept, *dims).flatten(len(kept))
    (y1, y0), (first, second) = halves(y), rows.detach().argmax(-1).chunk(2)
    shape = first.shape
    winner = torch.where(y1.reshape(shape) >= y0.reshape(shape), first, second)
    return chosen(y, rows.gather(-1, twice(winner)[..., None])[..., 0].reshape(y.shape))


def _length(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Euclidean norms over some axes."""
    x = given["input"]
    if given.get("p", given.get("ord")) not in (2, 2.0, "fro") or given["dim"] is None:
        raise CnnvizError("DeepLIFT has a rule for Euclidean norms over some axes only.", "Use integrated_gradients.")
    total = product(x, x).sum(given["dim"], keepdim=given["keepdim"])
    return keeping(y, rescaled(total, total.sqrt()))


def _over_deviation(x: Tensor, dims: tuple[int, ...], eps: float, centre: bool = True) -> Tensor:
    """x less its mean (or x itself) over the root of its mean square."""
    centred = x - x.mean(dims, keepdim=True) if centre else x
    spread = product(centred, centred).mean(dims, keepdim=True)
    return product(centred, rescaled(spread, (spread + eps).rsqrt()))


def _affine(y: Tensor, normal: Tensor, given: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    weight, bias = given.get("weight"), given.get("bias")
    found = normal if weight is None else normal * weight.reshape(shape)
    found = found if bias is None else found + bias.reshape(shape)
    if bool((found - y).detach().abs().max() > _SAME * y.detach().abs().max()):
        raise CnnvizError("DeepLIFT has no rule for a normalisation that does more.", "Use integrated_gradients.")
    return keeping(y, found)


def _layer_norm(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x, sizes = given["input"], tuple(given["normalized_shape"])
    # Subclasses for maps normalise over the channels, which are not the last axis.
    last = tuple(x.shape[-len(sizes) :]) == sizes
    if last:
        return _affine(y, _over_deviation(x, tuple(range(-len(sizes), 0)), given["eps"]), given, sizes)
    return _affine(y, _over_deviation(x, (1,), given["eps"]), given, (-1, *[1] * (x.dim() - 2)))


def _group_norm(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x = given["input"]
    groups = given.get("num_groups", x.shape[1])  # instance normalisation has a group for each channel
    normal = _over_deviation(x.reshape(len(x), groups, -1), (2,), given["eps"]).reshape(x.shape)
    return _affine(y, normal, given, (-1, *[1] * (x.dim() - 2)))


def _local_response(y: Tensor, given: Mapping[str, Any]) -> Tensor:
    x, size = given["input"], given["size"]
    squares = product(x, x).flatten(2)
    padded = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    around = F.avg_pool2d(padded[:, None], (size, 1), stride=1)[:, 0].reshape(x.shape)
    bottom = given["k"] + given["alpha"] * around
    return keeping(y, product(x, rescaled(bottom, bottom ** -given["beta"])))


RULES: Mapping[str, Rule] = {
    "activation": _elementwise,
    **dict.fromkeys("abs exp log log1p expm1 sqrt rsqrt square sin cos reciprocal erf".split(), _elementwise),
    "pow": _power,
    "product": _product,
    "addcmul": _added_product,
    "division": _division,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matrix_product),
    "gated": _gated,
    "softmax": _softmax,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_max_pool),
    "amax": _largest,
    **dict.fromkeys(("norm", "vector_norm"), _length),
    "layer_norm": _layer_norm,
    **dict.fromkeys(("group_norm", "instance_norm"), _group_norm),
    "local_response_norm": _local_response,
}
"""Rules by the name of an operation, or by its kind."""
