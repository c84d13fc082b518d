"""Convolutions with weights packed once for oneDNN and the activation or addition that follows fused in.

A convolution in eager PyTorch re-orders its weight at every call and leaves the activation to another pass over
memory. Below the target layer nothing needs a gradient, so the weight can be re-ordered once, and oneDNN applies
the activation (or adds the residual branch and then applies it) while the result is still in cache. These are the
operators that inductor emits when it freezes a graph; called here without a compiler.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.engine.prepare import winograd
from cnnviz.engine.prepare.fold import add_submodule, foldable_convolution
from cnnviz.models.graph.operations import operation_of

# Activation name of oneDNN's fused operator and its scalars, by the operation; clipping to two bounds is "hardtanh".
_FUSED: dict[str, tuple[str, list[Any], str]] = {
    "relu": ("relu", [], ""),
    "silu": ("swish", [], ""),
    "hardswish": ("hardswish", [], ""),
    "hardsigmoid": ("hardsigmoid", [], ""),
    "sigmoid": ("sigmoid", [], ""),
    "tanh": ("tanh", [], ""),
}

_ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "swish": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

# Operations whose result is a new tensor; of others it may be a view.
_MAKING = frozenset(
    "convolution linear normalisation activation softmax pooling reduction addition subtraction product division "
    "concatenation".split()
)

# Shapes of inputs and numbers of threads for which a convolution remembers its weight.
REMEMBERED = 64
_MET = 1024


@functools.cache
def tells_orders() -> bool:
    """Whether this torch says in which order a weight is held: weights for each shape would else fill the memory."""
    return hasattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md")


# Bytes of oneDNN's description that mean nothing: holes behind numbers of four bytes in a structure of numbers of
# eight, which hold whatever lay on the stack. With them hardly two orders would be equal.
_HOLES = (slice(108, 112), slice(316, 320), slice(420, 424))


def _order_of(packed: Tensor) -> bytes:
    """What tells apart the orders in which oneDNN holds a weight."""
    described = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().copy()
    for hole in _HOLES:
        described[hole] = 0
    return bytes(described)


def held_once(fresh: Tensor, known: Iterable[Tensor]) -> Tensor:
    """Few orders serve all shapes: of the known copies of a weight the one in the same order, or the fresh one."""
    if not tells_orders():
        return fresh
    order = _order_of(fresh)
    return next((each for each in known if _order_of(each) == order), fresh)


class PackedConv(nn.Module):
    """``activation(conv(x))`` or ``activation(conv(x) + other)`` with a packed weight. No gradients."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, source: tuple[int, ...] | None = None) -> None:
        super().__init__()
        # "same" as TensorFlow means it: the padding depends on the input's size and may be asymmetric.
        self.same = type(conv).__name__ == "Conv2dSame"
        self.kernel = tuple(conv.kernel_size)
        padding = (0, 0) if self.same or isinstance(conv.padding, str) else conv.padding
        self.geometry = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.macs = float(conv.weight.numel())  # multiplications for one output position
        weight = conv.weight.detach().to(dtype)
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        # Ordered blindly, it would be re-ordered at every call.
        sized = None if source is None or self.same else list(source)
        self.weight: Tensor = pack(weight.to_mkldnn(), *self.geometry, sized)
        self._sized = sized
        self._fitting: dict[Any, Tensor] = {(torch.get_num_threads(), None, tuple(padding)): self.weight}
        self._met: set[Any] = set()
        self.wider = self._widened(weight, pack) if self.same and conv.groups > 1 else None
        self._multiplies = dtype == torch.bfloat16 and self.kernel == (1, 1) and conv.groups == 1
        self._tiled = not self.same and winograd.suits(weight, self.geometry)
        self.channelwise = channelwise(conv.weight, conv.groups)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.activation: tuple[str, list[Any], str] = ("none", [], "")
        self.add = False
        self.in_place = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self.wider is not None and all(
            after == before + 1 for before, after in (self.same_padding(x.shape[2 + axis], axis) for axis in (0, 1))
        ):
            weight, padding = self.wider
            return self._run(x, other, (weight, padding), self.in_place)
        if (tiled := self._by_tiles(x, self.geometry[0])) is not None:
            return self._finished(tiled, x, other, self.geometry[0], self.in_place)
        x = self.pad(x) if self.same else x
        return self._run(x, other, (self._weight_for(tuple(x.shape)), self.geometry[0]), self.in_place)

    def _weight_for(self, shape: tuple[int, ...] | None, padding: Sequence[int] | None = None) -> Tensor:
        """The weight in the order that oneDNN wants for an input of this shape (None: that of the probe) and the
        threads that work on it; in another it is re-ordered at every call, which may take longer than the convolution.
        """
        padding = self.geometry[0] if padding is None else padding
        key = (torch.get_num_threads(), shape if tells_orders() else None, tuple(padding))
        found = self._fitting.get(key)
        if found is None:
            found = self._ordered_for(key[1], list(padding))
            if len(self._fitting) >= REMEMBERED:
                self._fitting, self._met = {}, set()
            self._fitting[key] = found
        return found

    def _ordered_for(self, shape: tuple[int, ...] | None, padding: list[int]) -> Tensor:
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        sized = self._sized if shape is None else list(shape)
        fresh: Tensor = pack(self.weight.to_dense().to_mkldnn(), padding, *self.geometry[1:], sized)
        return held_once(fresh, [self.weight, *self._fitting.values()])

    def _widened(self, weight: Tensor, pack: Any) -> tuple[Tensor, list[int]] | None:
        """The kernel with a row and a column of zeros in front: it does with symmetric padding p + 1 what the kernel
        does with p before and p + 1 after, and spares a depthwise convolution the copy into a padded tensor."""
        if any(k < 2 or s != 2 or d != 1 for k, s, d in zip(self.kernel, *self.geometry[1:3], strict=True)):
            return None
        padding = [(k - 2) // 2 + 1 for k in self.kernel]
        wide = F.pad(weight, (1, 0, 1, 0))
        return pack(wide.to_mkldnn(), padding, *self.geometry[1:]), padding

    def convolve(self, x: Tensor, other: Tensor | None, padding: list[int], in_place: bool = False) -> Tensor:
        """The fused operation with another padding; with ``in_place`` the result overwrites ``other``."""
        if (tiled := self._by_tiles(x, padding, len(x))) is not None:
            return self._finished(tiled, x, other, padding, in_place)
        return self._run(x, other, (self._weight_for_part(x, padding), padding), in_place)

    def linear(self, x: Tensor, onto: Tensor | None, padding: list[int]) -> Tensor:
        """The convolution without bias and activation; added to ``onto``, in place, where that is given."""
        if onto is None and self._multiplies and not any(padding):
            return self._product(x)
        if (tiled := self._by_tiles(x, padding, len(x))) is not None:
            return tiled.convolve(x, padding, None, onto, over=True)
        tail = (self._weight_for_part(x, padding), None, padding, *self.geometry[1:])
        if onto is None:
            found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *tail, "none", [], "")
            return found
        summed: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(onto, x, *tail, "add", 1.0, None, [], "")
        return summed

    def _by_tiles(self, x: Tensor, padding: Sequence[int], images: int = 1) -> winograd.Weights | None:
        """What computes the convolution of an input with fewer products; None where that does not pay."""
        return self._transformed if self._tiled and winograd.pays(x, padding, images) else None

    @property
    def by_tiles(self) -> bool:
        """Whether it was computed with fewer products, by compiled functions, in a pass that was made."""
        return self.__dict__.get("_transformed") is not None

    @functools.cached_property
    def _transformed(self) -> winograd.Weights | None:
        library = winograd.library()
        return None if library is None else winograd.Weights(self.weight.to_dense(), library)

    def _finished(
        self, tiled: winograd.Weights, x: Tensor, other: Tensor | None, padding: Sequence[int], in_place: bool
    ) -> Tensor:
        name, scalars, _ = self.activation
        bounds = {"relu": (0.0, math.inf), "hardtanh": tuple(scalars)}.get(name)
        found = tiled.convolve(x, padding, self.bias, other, bounds, over=in_place)
        return found if bounds is not None else self.activate(found)

    @functools.cached_property
    def _matrix(self) -> Tensor:
        weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(self.weight.to_dense().flatten(1), None)
        return weight

    def _product(self, x: Tensor) -> Tensor:
        """A convolution of one position as a product of matrices: maps of 7 x 7 fill half of the rows that oneDNN's
        convolutions in half precision multiply at a time, all positions of all images fill them."""
        down, across = self.geometry[1]
        rows = x[:, :, ::down, ::across].permute(0, 2, 3, 1)
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.reshape(-1, x.shape[1]), self._matrix, None, "none", [], ""
        )
        return found.view(*rows.shape[:3], -1).permute(0, 3, 1, 2)

    def before_activation(self, x: Tensor, other: Tensor | None) -> Tensor:
        """What the activation is applied to: ``conv(x)``, or that and the other summand."""
        x = self.pad(x) if self.same else x
        if (tiled := self._by_tiles(x, self.geometry[0])) is not None:
            return tiled.convolve(x, self.geometry[0], self.bias, other)
        weight = self._weight_for(tuple(x.shape))
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, "none", [], "")
        return found if other is None else found + other

    def activate(self, x: Tensor) -> Tensor:
        """The activation alone."""
        name, scalars, _ = self.activation
        if name == "hardtanh":
            return x.clamp(*scalars)
        return _ALONE[name](x)

    def _weight_for_part(self, x: Tensor, padding: list[int]) -> Tensor:
        """Many shapes come by once, and finding the order of one costs about as much as a few calls in another: that is
        done for shapes that come again."""
        met = (torch.get_num_threads(), tuple(x.shape), tuple(padding))
        again = met in self._met
        if len(self._met) >= _MET:
            self._met = set()
        self._met.add(met)
        return self._weight_for(tuple(x.shape), padding) if again else self._weight_for(None)

    def _run(self, x: Tensor, other: Tensor | None, kernel: tuple[Tensor, list[int]], in_place: bool) -> Tensor:
        weight, padding = kernel
        geometry = (padding, *self.geometry[1:])
        if other is not None:
            name = None if self.activation[0] == "none" else self.activation[0]
            tail: tuple[Any, ...] = (weight, self.bias, *geometry, "add", 1.0, name, [], "")
            if in_place:
                summed: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *tail)
                return summed
            result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(x, other, *tail)
            return result
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *geometry, *self.activation)
        return fused

    def same_padding(self, size: int, axis: int) -> tuple[int, int]:
        """Padding before and after along an axis (0 rows, 1 columns) for an input of ``size``."""
        _, stride, dilation, _ = self.geometry
        span = (self.kernel[axis] - 1) * dilation[axis] + 1
        total = max((-(-size // stride[axis]) - 1) * stride[axis] + span - size, 0)
        return total // 2, total - total // 2

    def pad(self, x: Tensor) -> Tensor:
        pads = [*self.same_padding(x.shape[3], 1), *self.same_padding(x.shape[2], 0)]
        if not any(pads):
            return x
        if min(pads) < 0:
            return F.pad(x, pads)
        # F.pad fills the whole result first; only the border needs it.
        left, right, top, bottom = pads
        n, channels, height, width = x.shape
        shape = (n, channels, height + top + bottom, width + left + right)
        padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        padded[:, :, top : top + height, left : left + width] = x
        below, right_of = top + height, left + width
        for border in (padded[:, :, :top], padded[:, :, below:], padded[..., :left], padded[..., right_of:]):
            border.zero_()
        return padded


def channelwise(weight: Tensor, groups: int) -> Tensor | None:
    """The weight of a convolution of each channel by itself as [kernel rows x columns, channels], in float32."""
    if weight.shape[0] != groups or weight.shape[1] != 1 or groups == 1:
        return None
    return weight.detach().float().flatten(1).T.contiguous()


def pack(module: fx.GraphModule, kept: Collection[fx.Node], dtype: torch.dtype) -> list[tuple[PackedConv, nn.Conv2d]]:
    """Pack and fuse every plain convolution of a private, folded copy. Returns each with what it was made of.

    Args:
        module: The trunk; rewritten in place.
        kept: Nodes whose values leave the trunk: nothing is fused across them.
        dtype: Precision of the convolutions (fp32 or bf16).
    """
    packed = []
    for node in list(module.graph.nodes):
        conv = foldable_convolution(module, node)
        if conv is None or not packable(conv):
            continue
        fused = PackedConv(conv, dtype, node.all_input_nodes[0].meta.get("shape"))
        node.target = add_submodule(module, f"{node.name}_packed", fused)
        if node not in kept:
            node = _fuse_addition(module, node, fused, kept)
        if node not in kept:
            _fuse_activation(module, node, fused)
        packed.append((fused, conv))
    module.graph.lint()
    module.recompile()
    return packed


def packable(conv: nn.Conv2d) -> bool:
    """Whether a packed convolution can take its place."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fuse_addition(module: fx.GraphModule, node: fx.Node, conv: PackedConv, kept: Collection[fx.Node]) -> fx.Node:
    """Absorb ``conv(x) + other`` when ``other`` is known by then; returns the node that now holds the sum."""
    user = _only_user(node)
    sum_ = None if user is None else operation_of(module, user)
    if user is None or sum_ is None or sum_.kind != "addition" or sum_.arguments["alpha"] != 1:
        return node
    first, second = sum_.arguments["input"], sum_.arguments["other"]
    other = first if second is node else second
    if not isinstance(other, fx.Node) or other is node or not _same_shape(node, other):
        return node
    if isinstance(_submodule(module, other), PackedConv) and len(other.users) == 1 and _after(other, node):
        return node  # the other summand's convolution comes later and absorbs the addition itself
    # Accumulating into the other summand saves a pass, when nobody reads it afterwards, nor the convolution itself.
    last_read = _all_read_by(module, other, user) and not _lies_in(module, node.all_input_nodes[0], other)
    conv.in_place = last_read and other not in kept and isinstance(_submodule(module, other), PackedConv)
    # The fused node stands where the addition stood: both summands exist there.
    with module.graph.inserting_before(user):
        joined = module.graph.call_module(str(node.target), (node.args[0], other))
    joined.meta = dict(user.meta)
    conv.add = True
    user.replace_all_uses_with(joined)
    module.graph.erase_node(user)
    module.graph.erase_node(node)
    return joined


def _all_read_by(module: fx.GraphModule, node: fx.Node, user: fx.Node) -> bool:
    """Whether all who read a value but ``user`` run before it, also those who read what may lie in the same memory."""
    readers = [reader for reader in node.users if reader is not user]
    return all(r < user and (_makes(module, r) or _all_read_by(module, r, user)) for r in readers)


def _lies_in(module: fx.GraphModule, node: fx.Node, other: fx.Node) -> bool:
    """Whether a value may lie in the memory of another: it is that, or a view of it."""
    if node is other:
        return True
    sources = node.all_input_nodes
    return bool(sources) and not _makes(module, node) and any(_lies_in(module, source, other) for source in sources)


def _makes(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a result is a tensor of its own: no view of what it is made of, nor that itself."""
    if isinstance(_submodule(module, node), PackedConv) or foldable_convolution(module, node) is not None:
        return True
    operation = operation_of(module, node)
    return operation.kind in _MAKING and not operation.subclassed


def _after(first: fx.Node, second: fx.Node) -> bool:
    """Whether ``first`` runs after ``second``."""
    return second < first


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    left, right = a.meta.get("shape"), b.meta.get("shape")
    return left is not None and left == right


def _submodule(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _fuse_activation(module: fx.GraphModule, node: fx.Node, conv: PackedConv) -> None:
    user = _only_user(node)
    if user is None:
        return
    fused = _fused_name(module, user)
    if fused is None or (conv.add and fused[0] != "relu"):
        return
    conv.activation = fused
    user.replace_all_uses_with(node)
    module.graph.erase_node(user)


def _fused_name(module: fx.GraphModule, node: fx.Node) -> tuple[str, list[Any], str] | None:
    operation = operation_of(module, node)
    bounds = operation.bounds
    if bounds is not None and all(math.isfinite(bound) for bound in bounds):
        return ("hardtanh", list(bounds), "")
    return _FUSED.get("relu" if operation.is_relu else operation.name) if len(node.all_input_nodes) == 1 else None
