"""The head of a classifier, from its last feature map to the class scores, as layers that work at every position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.operations import Operation
from cnnviz.models.graph.trace import Graph

_ARITHMETIC = frozenset({"addition", "subtraction", "product", "division"})
_ARITHMETIC_NAMES = frozenset({"pow", "neg"})
Pair = tuple[int, int]


def refused(name: str, reason: str) -> CnnvizError:
    return CnnvizError(
        f"{name} cannot be read as a fully convolutional network: {reason}.",
        "It works for networks that end in pooling or flattening and linear layers, such as resnet18, vgg16, alexnet.",
    )


def adaptive_size(graph: Graph, node: fx.Node) -> Pair | None:
    """Cells that an adaptive pooling returns; None for anything else."""
    if graph.operation(node).name not in {"adaptive_avg_pool2d", "adaptive_max_pool2d"}:
        return None
    shape = graph.shapes.get(node, ())
    return (shape[2], shape[3]) if len(shape) == 4 else None


def is_whole_pool(graph: Graph, node: fx.Node) -> bool:
    """Whether the node is the mean or maximum of the whole map."""
    if graph.is_spatial_mean(node) or adaptive_size(graph, node) == (1, 1):
        return True
    operation = graph.operation(node)
    if not operation.name.startswith(("avg_pool", "max_pool")) or not graph.is_global_pool(node):
        return False
    source = graph.shapes[graph.inputs_of(node)[0]][2:]
    kernel, padding = operation.arguments["kernel_size"], operation.arguments["padding"]
    # A kernel that is computed from the map's size is as large as the map.
    covers = isinstance(kernel, fx.Node) or _has_node(kernel) or kernel == source
    return bool(covers and padding == (0, 0))


def _has_node(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(item, fx.Node) for item in value)


class _ChannelNorm(nn.Module):
    """A layer normalisation of vectors [N, C], at every position of [N, C, rows, cols]."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return moved


class _Applied(nn.Module):
    """A function or method of one tensor and constants."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        self.call: str = node.op
        self.target: Any = node.target
        self.rest, self.named = tuple(node.args[1:]), dict(node.kwargs)

    def forward(self, x: Tensor) -> Tensor:
        if self.call == "call_method":
            value: Tensor = getattr(x, str(self.target))(*self.rest, **self.named)
        else:
            value = self.target(x, *self.rest, **self.named)
        return value


def _convolution(weight: Tensor, bias: Tensor | None, **geometry: Any) -> nn.Conv2d:
    """A convolution with these weights [O, C, h, w] (shared where they are a view), bias and geometry."""
    out, channels, h, w = weight.shape
    channels *= geometry.get("groups", 1)
    with torch.device("meta"):
        made = nn.Conv2d(channels, out, (h, w), bias=bias is not None, **geometry)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def _pooling_matrix(cells_in: int, cells_out: int) -> Tensor:
    """[out, in] of one axis of adaptive average pooling: cell o is the mean of cells o n / m to (o + 1) n / m."""
    matrix = torch.zeros(cells_out, cells_in)
    for out in range(cells_out):
        first, last = out * cells_in // cells_out, -(-(out + 1) * cells_in // cells_out)
        matrix[out, first:last] = 1.0 / (last - first)
    return matrix


class HeadReader:
    """Follows the data from the feature map to the logits and collects layers that do the same at every position.

    ``window`` are the cells of the current map that one prediction is made of: (1, 1) once they have been collapsed.
    """

    def __init__(self, graph: Graph, name: str, features: fx.Node, window: Pair) -> None:
        self.graph, self.name = graph, name
        self.previous, self.window = features, window
        self.channels = graph.shapes[features][1]
        self.layers: list[nn.Module] = []
        self.changes: list[str] = []
        self.flat = False
        # Of an adaptive pooling that no fixed kernel does: rows and columns [out, in].
        self.uneven: tuple[Tensor, Tensor] | None = None

    def read(self, node: fx.Node) -> None:
        """Take one more operation into account."""
        graph, operation = self.graph, self.graph.operation(node)
        if set(graph.inputs_of(node)) != {self.previous}:
            raise refused(self.name, f"several branches meet in {self._called(node)} behind its last feature map")
        if operation.kind != "identity":
            self._step(node, operation)
        self.previous = node

    def finished(self) -> nn.Module:
        """All of it, once the logits are reached."""
        if self.window != (1, 1) or self.uneven is not None:
            raise refused(self.name, "its class scores are not one vector an image")
        return nn.Sequential(*self.layers)

    def _step(self, node: fx.Node, operation: Operation) -> None:
        target = adaptive_size(self.graph, node)
        layer = operation.module
        if self.uneven is None and not self.flat and (is_whole_pool(self.graph, node) or target is not None):
            self._pool(node, target or (1, 1))
        elif operation.kind in {"reshaping", "index"}:
            self._reshape(node)
        elif operation.kind == "linear":
            self._linear(node, operation)
        elif operation.name == "conv2d":
            self._conv(node, operation)
        elif self.uneven is not None:
            raise refused(self.name, f"{self._called(node)} follows a pooling whose cells are of unequal size")
        elif operation.kind == "activation":
            self.layers.append(layer if layer is not None else self._applied(node))
        elif operation.kind in _ARITHMETIC or operation.name in _ARITHMETIC_NAMES:
            self.layers.append(self._applied(node))
        else:
            self._norm(node, operation)

    def _called(self, node: fx.Node) -> str:
        path, _ = name_of(self.graph, node)
        operation = self.graph.operation(node)
        return operation.label if operation.module is None else f"{path} ({operation.label})"

    def _applied(self, node: fx.Node) -> nn.Module:
        if node.args[:1] != (self.previous,) or len(node.all_input_nodes) > 1:
            raise refused(self.name, f"{self._called(node)} takes values that are no constants")
        return _Applied(node)

    def _pool(self, node: fx.Node, target: Pair) -> None:
        (h, w), (oh, ow) = self.window, target
        largest = "max" in self.graph.operation(node).name
        word = "maximum" if largest else "average"
        pool: Callable[..., nn.Module] = nn.MaxPool2d if largest else nn.AvgPool2d
        if (h, w) == (oh, ow):
            self.changes.append(f"{word} pooling to {oh}x{ow}: nothing, as at the training size")
            return
        if (oh, ow) == (1, 1):
            self.layers.append(pool((h, w), stride=1))
            self.changes.append(f"global {word} pooling: windows of {h}x{w} cells, stride 1")
        elif h % oh == 0 and w % ow == 0:
            self.layers.append(pool((h // oh, w // ow)))
            self.changes.append(f"{word} pooling to {oh}x{ow}: windows of {h // oh}x{w // ow} cells")
        elif largest:
            raise refused(self.name, f"{self._called(node)} makes {oh}x{ow} of {h}x{w} cells by unequal windows")
        else:
            self.uneven = (_pooling_matrix(h, oh), _pooling_matrix(w, ow))
            self.changes.append(f"average pooling of {h}x{w} cells to {oh}x{ow}: part of the weights behind it")
            return
        self.window = target

    def _reshape(self, node: fx.Node) -> None:
        before, after = self.graph.shapes[self.previous], self.graph.shapes[node]
        whole = torch.Size(before).numel() == torch.Size(after).numel() and after[:1] == before[:1]
        # A vector, perhaps as a map of one cell; anything else would have to be known better.
        vector = len(after) >= 2 and all(size == 1 for size in after[2:])
        if not (whole and (vector or after == before)):
            raise refused(self.name, f"{self._called(node)} makes {list(after[1:])} of {list(before[1:])}")
        self.flat = self.flat or (vector and after != before)

    def _linear(self, node: fx.Node, operation: Operation) -> None:
        if len(self.graph.shapes[self.previous]) != 2:
            raise refused(self.name, f"{self._called(node)} is applied along columns, not to a vector")
        self._dense(node, operation)

    def _weights(self, node: fx.Node, operation: Operation) -> tuple[Tensor, Tensor | None]:
        weight = operation.tensor("weight")
        if weight is None or isinstance(operation.arguments.get("bias"), fx.Node):
            raise refused(self.name, f"{self._called(node)} has weights that are computed")
        return weight, operation.tensor("bias")

    def _dense(self, node: fx.Node, operation: Operation) -> None:
        """A layer that reads all cells of the window at once."""
        weight, bias = self._weights(node, operation)
        if self.uneven is None:
            h, w = self.window
            weight = weight.view(-1, self.channels, h, w)
        else:
            rows, cols = (matrix.to(weight.device) for matrix in self.uneven)
            weight = weight.view(-1, self.channels, len(rows), len(cols))
            weight = torch.einsum("kcab,ah,bw->kchw", weight, rows, cols)
            self.uneven = None
        made = _convolution(weight, bias)
        self.layers.append(made)
        if operation.kind == "linear":
            size = "x".join(map(str, made.kernel_size))
            self.changes.append(f"{self._called(node)}: {size} convolution, {made.in_channels} to {made.out_channels}")
        self.window, self.channels, self.flat = (1, 1), made.out_channels, True

    def _conv(self, node: fx.Node, operation: Operation) -> None:
        given = operation.arguments
        if self.flat or self.uneven is not None:
            if given["kernel_size"] != (1, 1) or given["groups"] != 1 or given["padding"] != (0, 0):
                raise refused(self.name, f"{self._called(node)} reads a vector through a kernel")
            self._dense(node, operation)
            return
        if self.window == (1, 1) and given["kernel_size"] != (1, 1):
            raise refused(self.name, f"{self._called(node)} slides a kernel over the border of a map of one cell")
        geometry = {name: given[name] for name in ("stride", "padding", "dilation", "groups")}
        self.layers.append(operation.module or _convolution(*self._weights(node, operation), **geometry))
        shape = self.graph.shapes[node]
        self.channels, self.window = shape[1], (shape[2], shape[3])

    def _norm(self, node: fx.Node, operation: Operation) -> None:
        vector = len(self.graph.shapes[self.previous]) == 2
        one = self.window == (1, 1)
        module = operation.module
        held = operation.tensor("running_mean") is not None
        if operation.name == "batch_norm" and held and one and (vector or module is None):
            self.layers.append(_batch_norm(operation))
        elif type(module) is nn.LayerNorm and vector and one:
            self.layers.append(_ChannelNorm(module))
        elif not self.flat and module is not None and _works_at_every_position(operation):
            self.layers.append(module)
        else:
            raise refused(self.name, f"{self._called(node)} stands between its last feature map and the class scores")


def _works_at_every_position(operation: Operation) -> bool:
    """Whether this is a normalisation of [N, C, h, w] by numbers that it holds, or of each position's channels."""
    if operation.name == "layer_norm":
        return operation.subclassed and len(operation.arguments["normalized_shape"]) == 1
    return operation.name in {"batch_norm", "local_response_norm"}


def _batch_norm(operation: Operation) -> nn.BatchNorm2d:
    """The same batch normalisation, of maps [N, C, h, w]."""
    weight, bias = operation.tensor("weight"), operation.tensor("bias")
    mean, variance = operation.tensor("running_mean"), operation.tensor("running_var")
    assert mean is not None
    with torch.device("meta"):
        made = nn.BatchNorm2d(len(mean), operation.arguments["eps"], affine=weight is not None)
    made.running_mean, made.running_var = mean, variance
    made.num_batches_tracked = None
    if weight is not None and bias is not None:
        made.weight = nn.Parameter(weight.detach(), requires_grad=False)
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made.eval()
