"""Occlusion by differences: a network in half precision, whose maps keep the digits that matter.

A patch holds m = clean - occluded, in half precision (or in float32, where compiled kernels are faster on differences
than PyTorch is on values); the clean pass is in float32. Rounding is then relative to what
a window changes and not to the values themselves, of which it mostly changes little. Where the operations are linear,
so is what they do to m, and what lies outside the patch is zero: nothing is fetched. An activation that clips to
[a, b], with p what it is applied to in the clean pass and c = clip(p), makes of m

    c - clip(p - m) = clip(m + (c - p), c - b, c - a),

and any other g makes g(p) - g(p - m). So does max pooling, with the clean map around the patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from cnnviz.engine.prepare.pack import PackedConv
from cnnviz.methods.perturbation.incremental.assembly import NO_PADS, Pads, padded
from cnnviz.methods.perturbation.incremental.compiled_step import CompiledStep
from cnnviz.methods.perturbation.incremental.difference_step import DifferenceStep
from cnnviz.methods.perturbation.incremental.kernels import Clipping, Kernels, kernels
from cnnviz.methods.perturbation.incremental.ops import Op, describe
from cnnviz.methods.perturbation.incremental.plan import Group
from cnnviz.methods.perturbation.incremental.runner import Clean, Runner, Step
from cnnviz.models.graph.operations import operation_of

# Windows that run together, by the bytes of a number.
_BYTES = 256
Limits = tuple[Tensor | None, Tensor | None, Tensor | None]


class Differences(Runner):
    """The part of a network up to its classifier, run on differences.

    Args:
        trunk: In float32: the clean pass. Weights that are rounded change what the network looks at by more than
            rounded differences do (bundled network: correlation 0.997 with float32, against 0.9995).
        low: The same, node by node, in half precision: what the differences run through.
        dtype: That precision.
    """

    def __init__(self, trunk: fx.GraphModule, low: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__(trunk, dtype)
        self.batch = _BYTES // dtype.itemsize
        self.low = low
        self._twins = dict(zip(self.nodes, low.graph.nodes, strict=True))
        # Up to the first kernel in float32: a rounded image is another image (correlation 0.9975 for that alone).
        self.exact = {self.source}

    def inputs(self, image: Tensor, fill: Tensor) -> tuple[Tensor, Tensor]:
        """The image in float32, and the difference that windows make to it."""
        source = image.float().contiguous(memory_format=torch.channels_last)
        return source, (image - fill).float()[0].permute(1, 2, 0).contiguous()

    def first(self, node: fx.Node, clean: Clean) -> None:
        """Run a node of the clean pass; of convolutions with an activation what it is applied to is kept too."""
        module = self.trunk.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, PackedConv):
            given = [clean.values[n] for n in node.args if isinstance(n, fx.Node)]
            before = module.before_activation(given[0], given[1] if len(given) > 1 else None)
            clean.memory[node] = before
            clean.values[node] = module.activate(before)
        else:
            clean.values[node] = self.call(node, clean.values)

    def describe(self, node: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> Op:
        """The operation of a node, with the linear part of it in half precision."""
        op, twins = super().describe(node, shapes), {self._twins[n]: shape for n, shape in shapes.items()}
        if self.precision(node) == torch.float32:
            if op.kind != "sweep" and self.exact.issuperset(node.all_input_nodes):
                self.exact.add(node)
            return op
        return replace(op, linear=describe(self.low, self._twins[node], twins).linear)

    def precision(self, node: fx.Node) -> torch.dtype:
        """What a node computes in."""
        return self.dtype if self.exact.isdisjoint(node.all_input_nodes) else torch.float32

    def kept(self, node: fx.Node) -> torch.dtype:
        """What its differences are kept in."""
        return torch.float32 if node in self.exact else self.dtype

    def step(self, clean: Clean, group: Group, values: dict[fx.Node, Any]) -> Step:
        """One group on its way."""
        built = self.compiled(clean.values[self.source].device)
        if built is None:
            return DifferenceStep(self, clean, group, values)
        return CompiledStep(built, self, clean, group, values)

    def compiled(self, device: torch.device) -> Kernels | None:
        """The compiled kernels that do the steps on a device; None where PyTorch's operations do them."""
        return kernels(self.dtype) if device.type == "cpu" else None

    def left_scale(self, node: fx.Node) -> Tensor | None:
        """The scale that a normalisation leaves to the activation that alone reads it, so that one pass does for both.

        None where it applies its scale itself, and for what is no normalisation.
        """
        own, user = self.ops.get(node), next(iter(node.users)) if len(node.users) == 1 else None
        if own is None or user is None or user not in self.ops:
            return None
        op = self.ops[user]
        same_digits = self.precision(node) == self.precision(user) == self.kept(node)
        leaves = op.kind == "pointwise" and op.bounds is not None and op.scale is None and same_digits
        return own.scale if leaves else None

    def ahead(self, node: fx.Node) -> fx.Node | None:
        """The activation that a concatenation may be done with, and with the normalisation between, in one pass: each
        is all that reads the one before."""
        op = self.ops.get(node)
        if op is None or op.kind != "cat" or len(node.users) != 1:
            return None
        norm = next(iter(node.users))
        return None if self.left_scale(norm) is None else next(iter(norm.users))

    def clipping(self, node: fx.Node, clean: Clean) -> Clipping | None:
        """An activation that clips, for compiled kernels; None for none."""
        op = self.ops[node]
        assert op.bounds is not None
        if op.bounds == (-math.inf, math.inf):
            return None
        return Clipping(padded(self.before(node, clean), NO_PADS, 0.0), *op.bounds)

    def before(self, node: fx.Node, clean: Clean) -> Tensor:
        """What an activation is applied to in the clean pass, also one that is fused into a convolution."""
        op = self.ops[node]
        found: Tensor = clean.memory[node] if op.kind == "sweep" else clean.values[op.inputs[0]]
        return found

    def owns(self, node: fx.Node) -> bool:
        """Whether the only user of a node may overwrite its differences: they are a tensor of their own."""
        op = self.ops.get(node)
        if op is None or len(node.users) > 1:
            return False
        if self.left_scale(node) is not None:
            return self.owns(op.inputs[0])
        return op.scale is not None or op.kind == "cat"

    def spends(self, user: fx.Node, node: fx.Node) -> bool:
        """Whether the last user of a sweep may overwrite its differences: no normalisation hands on the same tensor."""
        last = self.last_use[node] is user and self.ops[node].kind == "sweep"
        return last and all(self.left_scale(reader) is None for reader in node.users)

    def finish(self, clean: Clean, features: Sequence[Tensor]) -> Tensor:
        """The classifier's input of the image and for all windows, in float32."""
        none = torch.zeros_like(clean.values[self.features], dtype=torch.float32)
        held: dict[fx.Node, Any] = {self.features: torch.cat([none, *(f.float() for f in features)])}
        for node in self.order[self.order.index(self.features) + 1 :]:
            held[node] = self._of_vectors(node, clean, held)
        found: Tensor = clean.values[self.result] - held[self.result]
        return found

    def _of_vectors(self, node: fx.Node, clean: Clean, held: Mapping[fx.Node, Any]) -> Any:
        operation = operation_of(self.low, self._twins[node])
        weight = operation.tensor("weight") if operation.name == "linear" else None
        if weight is not None and len(node.all_input_nodes) == 1:
            return F.linear(held[node.all_input_nodes[0]].to(self.dtype), weight).float()
        values = dict(clean.values)
        for n in node.all_input_nodes:
            if n in held:
                values[n] = clean.values[n] - held[n] if isinstance(held[n], Tensor) else held[n]
        found = self.call(node, values)
        return clean.values[node] - found if isinstance(found, Tensor) else found

    def limits(self, node: fx.Node, clean: Clean) -> Limits:
        """Of an activation that clips: c - p, c - a and c - b as rows [H, W, C]; None for what is nothing."""
        key, op = ("limits", node), self.ops[node]
        assert op.bounds is not None
        low, high = op.bounds
        if math.isinf(low) and math.isinf(high):
            return None, None, None
        if key not in clean.memory:
            before = self.before(node, clean)
            after = before.clamp(low, high)
            # Clipping -0.0 to [0, b] may leave -0.0, which is read as an integer: the least of all.
            upper = None if math.isinf(low) else (after - low).abs()
            lower = None if math.isinf(high) else after - high
            clean.memory[key] = tuple(
                None if t is None else t[0].permute(1, 2, 0).to(self.precision(node)).contiguous()
                for t in (after - before, upper, lower)
            )
        found: Limits = clean.memory[key]
        return found

    def missing(self, node: fx.Node, clean: Clean) -> tuple[Pads, Tensor]:
        """By how much each value that max pooling sees is less than the largest beside it, as rows with the padding.

        Where a kernel steps by its own size; in the padding it is infinite.
        """
        key, op = ("missing", node), self.ops[node]
        if key not in clean.memory:
            assert op.axes is not None
            lengths, made = self.shapes[op.inputs[0]][2:], self.shapes[node][2:]
            down, across = (axis.pads(lengths[i], made[i]) for i, axis in enumerate(op.axes))
            rows = padded(clean.values[op.inputs[0]], (down, across), -math.inf).clone()
            largest = clean.values[node][0].permute(1, 2, 0)
            for i, axis in enumerate(op.axes):
                largest = largest.repeat_interleave(axis.kernel, i)
            seen = rows[: largest.shape[0], : largest.shape[1]]
            seen.copy_(largest - seen)  # what no kernel reaches is never fetched
            clean.memory[key] = (down, across), rows.to(self.precision(node))
        found: tuple[Pads, Tensor] = clean.memory[key]
        return found
