"""The head of a classifier, from its last feature map to the class scores, as layers that work at every position."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError
from cnnviz.models.graph.layer_names import name_of
from cnnviz.models.graph.operations import function_name
from cnnviz.models.graph.trace import Graph

_RESHAPES = frozenset("flatten view reshape squeeze getitem unsqueeze unflatten".split())
_ARITHMETIC = frozenset("add sub mul truediv div pow clamp clip clamp_min clamp_max neg".split())
_MIXING = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU)
Pair = tuple[int, int]


def refused(name: str, reason: str) -> CnnvizError:
    return CnnvizError(
        f"{name} cannot be read as a fully convolutional network: {reason}.",
        "It works for networks that end in pooling or flattening and linear layers, such as resnet18, vgg16, alexnet.",
    )


def _kind(graph: Graph, node: fx.Node) -> str:
    module = graph.submodule(node)
    return type(module).__name__ if module is not None else function_name(node)


def _is_max(graph: Graph, node: fx.Node) -> bool:
    return "max" in _kind(graph, node).lower() or (
        callable(node.target) and node.target in (F.max_pool2d, F.adaptive_max_pool2d)
    )


def _options(graph: Graph, node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """The options of a module, or of a function call by name."""
    module = graph.submodule(node)
    if module is not None:
        return {name: getattr(module, name, None) for name in names}
    return {**dict(zip(names, node.args[1:], strict=False)), **{k: node.kwargs[k] for k in names if k in node.kwargs}}


def adaptive_size(graph: Graph, node: fx.Node) -> Pair | None:
    """Cells that an adaptive pooling returns; None for anything else."""
    kind = _kind(graph, node).lower().replace("_", "")
    special = callable(node.target) and node.target is F.adaptive_max_pool2d
    if not special and not kind.startswith(("adaptiveavgpool2d", "adaptivemaxpool2d")):
        return None
    shape = graph.shapes.get(node, ())
    return (shape[2], shape[3]) if len(shape) == 4 else None


def is_whole_pool(graph: Graph, node: fx.Node) -> bool:
    """Whether the node is the mean or maximum of the whole map."""
    if graph.is_spatial_mean(node) or adaptive_size(graph, node) == (1, 1):
        return True
    kind = _kind(graph, node)
    if kind in {"amax", "mean", "max"} or not graph.is_pool(node) or not graph.is_global_pool(node):
        return False
    source = graph.shapes[graph.inputs_of(node)[0]][2:]
    given = _options(graph, node, ("kernel_size", "stride", "padding"))
    kernel, padding = given.get("kernel_size"), given.get("padding") or 0
    plain = "avg" in kind.lower() or _is_max(graph, node)
    # A kernel that is computed from the map's size is as large as the map.
    covers = isinstance(kernel, fx.Node) or _has_node(kernel) or _pair(kernel) == source
    return plain and covers and _pair(padding) == (0, 0)


def _has_node(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and any(isinstance(item, fx.Node) for item in value)


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[-1])) if isinstance(value, (tuple, list)) else (int(value), int(value))


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


def _convolution(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """A convolution with these weights [O, C, h, w] (shared where they are a view) and the layer's bias."""
    out, channels, h, w = weight.shape
    with torch.device("meta"):
        made = nn.Conv2d(channels, out, (h, w), bias=layer.bias is not None)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
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
        graph, module, kind = self.graph, self.graph.submodule(node), _kind(self.graph, node)
        if set(graph.inputs_of(node)) != {self.previous}:
            raise refused(self.name, f"several branches meet in {self._called(node)} behind its last feature map")
        if not graph.is_passive(node):
            self._step(node, module, kind)
        self.previous = node

    def finished(self) -> nn.Module:
        """All of it, once the logits are reached."""
        if self.window != (1, 1) or self.uneven is not None:
            raise refused(self.name, "its class scores are not one vector an image")
        return nn.Sequential(*self.layers)

    def _step(self, node: fx.Node, module: nn.Module | None, kind: str) -> None:
        target = adaptive_size(self.graph, node)
        if self.uneven is None and not self.flat and (is_whole_pool(self.graph, node) or target is not None):
            self._pool(node, target or (1, 1))
        elif (module is None and kind in _RESHAPES) or isinstance(module, (nn.Flatten, nn.Unflatten)):
            self._reshape(node)
        elif isinstance(module, nn.Linear):
            self._linear(node, module)
        elif isinstance(module, nn.Conv2d):
            self._conv(node, module)
        elif self.uneven is not None:
            raise refused(self.name, f"{self._called(node)} follows a pooling whose cells are of unequal size")
        elif self.graph.is_activation(node) and not isinstance(module, _MIXING):
            self.layers.append(module if module is not None else self._applied(node))
        elif module is None and kind in _ARITHMETIC:
            self.layers.append(self._applied(node))
        else:
            self._norm(node, module)

    def _called(self, node: fx.Node) -> str:
        path, _ = name_of(self.graph, node)
        kind = _kind(self.graph, node)
        return f"{path} ({kind})" if self.graph.submodule(node) is not None else kind

    def _applied(self, node: fx.Node) -> nn.Module:
        if node.args[:1] != (self.previous,) or len(node.all_input_nodes) > 1:
            raise refused(self.name, f"{self._called(node)} takes values that are no constants")
        return _Applied(node)

    def _pool(self, node: fx.Node, target: Pair) -> None:
        (h, w), (oh, ow) = self.window, target
        largest = _is_max(self.graph, node)
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

    def _linear(self, node: fx.Node, layer: nn.Linear) -> None:
        if len(self.graph.shapes[self.previous]) != 2:
            raise refused(self.name, f"{self._called(node)} is applied along columns, not to a vector")
        self._dense(node, layer)

    def _dense(self, node: fx.Node, layer: nn.Linear | nn.Conv2d) -> None:
        """A layer that reads all cells of the window at once."""
        if self.uneven is None:
            h, w = self.window
            weight = layer.weight.view(-1, self.channels, h, w)
        else:
            rows, cols = (matrix.to(layer.weight.device) for matrix in self.uneven)
            weight = layer.weight.view(-1, self.channels, len(rows), len(cols))
            weight = torch.einsum("kcab,ah,bw->kchw", weight, rows, cols)
            self.uneven = None
        made = _convolution(layer, weight)
        self.layers.append(made)
        if isinstance(layer, nn.Linear):
            size = "x".join(map(str, made.kernel_size))
            self.changes.append(f"{self._called(node)}: {size} convolution, {made.in_channels} to {made.out_channels}")
        self.window, self.channels, self.flat = (1, 1), made.out_channels, True

    def _conv(self, node: fx.Node, layer: nn.Conv2d) -> None:
        if self.flat or self.uneven is not None:
            if layer.kernel_size != (1, 1) or layer.groups != 1 or layer.padding not in {(0, 0), "valid"}:
                raise refused(self.name, f"{self._called(node)} reads a vector through a kernel")
            self._dense(node, layer)
            return
        if self.window == (1, 1) and layer.kernel_size != (1, 1):
            raise refused(self.name, f"{self._called(node)} slides a kernel over the border of a map of one cell")
        self.layers.append(layer)
        shape = self.graph.shapes[node]
        self.channels, self.window = shape[1], (shape[2], shape[3])

    def _norm(self, node: fx.Node, module: nn.Module | None) -> None:
        vector = len(self.graph.shapes[self.previous]) == 2
        one = self.window == (1, 1)
        if isinstance(module, nn.BatchNorm1d) and vector and one:
            self.layers.append(_batch_norm({**module._parameters, **module._buffers, "eps": module.eps}))
        elif function_name(node) == "batch_norm" and one:
            self.layers.append(_batch_norm(self._arguments(node)))
        elif type(module) is nn.LayerNorm and vector and one:
            self.layers.append(_ChannelNorm(module))
        elif not self.flat and (_along_channels(module) or isinstance(module, (nn.BatchNorm2d, nn.LocalResponseNorm))):
            self.layers.append(module)  # type: ignore[arg-type]
        else:
            raise refused(self.name, f"{self._called(node)} stands between its last feature map and the class scores")

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        """Arguments of a call of ``F.batch_norm``, parameters with their values."""
        given = inspect.signature(F.batch_norm).bind(*node.args, **node.kwargs)
        given.apply_defaults()
        return {
            name: operator.attrgetter(str(value.target))(self.graph.module) if isinstance(value, fx.Node) else value
            for name, value in given.arguments.items()
            if value is not self.previous
        }


def _along_channels(module: nn.Module | None) -> bool:
    """Whether this is a layer normalisation of the channels at each position of [N, C, h, w]."""
    return isinstance(module, nn.LayerNorm) and type(module) is not nn.LayerNorm and len(module.normalized_shape) == 1


def _batch_norm(values: Mapping[str, Any]) -> nn.BatchNorm2d:
    """The batch normalisation with these running statistics, weight and bias (or None), and eps."""
    affine = values["weight"] is not None
    with torch.device("meta"):
        made = nn.BatchNorm2d(len(values["running_mean"]), values["eps"], affine=affine)
    made.running_mean, made.running_var = values["running_mean"], values["running_var"]
    made.num_batches_tracked = None
    if affine:
        made.weight = nn.Parameter(values["weight"].detach(), requires_grad=False)
        made.bias = nn.Parameter(values["bias"].detach(), requires_grad=False)
    return made.eval()
