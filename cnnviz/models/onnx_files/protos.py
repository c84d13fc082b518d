"""An ONNX graph in the form in which onnx2torch reads most: constants as initializers, opset 17 at most, float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

# Later versions of most operators only take more types of tensors; onnx2torch knows none of them.
_OPSET = 17
# It has operators of opset 13 throughout, and some of earlier ones.
_EARLIEST = 13
_SAME = (b"SAME_UPPER", b"SAME_LOWER")
_REDUCTIONS = frozenset(
    "ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare".split()
)
# Constant, but drawn at random or with graphs inside.
_NOT_FOLDED = frozenset("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Bernoulli If Loop Scan".split())
_LARGEST_FOLDED = 1 << 26
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that later versions added, with the value that means what opset 17 does.
_ADDED: dict[str, dict[str, Any]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "AveragePool": {"dilations": None},
    "Cast": {"saturate": 1, "round_mode": b"up"},
}


def simplified(model: ModelProto, shape: Sequence[int]) -> ModelProto:
    """A copy that computes the same: constants folded, operators as of opset 17, no half precision.

    Constant nodes, and whatever is computed from initializers alone, become initializers: converters look for weights
    there, and exporters put an ``Identity`` or a ``Cast`` in between.

    Args:
        model: As read; it is left as it is.
        shape: Of its input, for padding that depends on the size.

    Raises:
        ValueError: An operator of a later opset has no form in opset 17.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    copy = _raised(copy)
    _in_float32(copy)
    _fold(copy)
    _spell_out_gelu(copy.graph)
    _lower(copy)
    _spell_out_padding(copy, shape)
    _name_what_is_left_out(copy.graph)
    _one_node_for_each_output(copy.graph)
    return copy


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that a file uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute of a node."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _raised(model: ModelProto) -> ModelProto:
    """A file of an early opset as of a later one, where ONNX itself knows how; as it is where not."""
    if opset(model) >= _EARLIEST:
        return model
    try:
        return version_converter.convert_version(model, _EARLIEST)
    except Exception:  # one operator without an adapter; onnx2torch may have it all the same
        return model


def _spell_out_padding(model: ModelProto, shape: Sequence[int]) -> None:
    """``auto_pad`` as numbers: of each side, for this size of the input."""
    windows = [node for node in model.graph.node if attribute(node, "auto_pad", b"NOTSET") in _SAME]
    if not windows:
        return
    sized = ModelProto()
    sized.CopyFrom(model)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    entry = next(value for value in sized.graph.input if value.name not in held)
    for axis, length in zip(entry.type.tensor_type.shape.dim, shape, strict=True):
        axis.dim_value = length
    del sized.graph.value_info[:]
    known = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    sizes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*known.value_info, *known.input)
    }
    for node in windows:
        size = sizes.get(node.input[0], [])[2:]
        kernel = attribute(node, "kernel_shape") or list(held[node.input[1]].dims[2:])
        if not size or not all(size) or node.op_type == "ConvTranspose":
            raise ValueError(f"{node.op_type} with auto_pad, at a size that is not known")
        steps = attribute(node, "strides", [1] * len(size))
        spread = attribute(node, "dilations", [1] * len(size))
        less, more = [], []
        for length, width, step, apart in zip(size, kernel, steps, spread, strict=True):
            both = max((-(-length // step) - 1) * step + (width - 1) * apart + 1 - length, 0)
            less.append(both // 2)
            more.append(both - both // 2)
        upper = attribute(node, "auto_pad") == b"SAME_UPPER"
        _remove(node, "auto_pad")
        node.attribute.append(helper.make_attribute("pads", less + more if upper else more + less))


def _name_what_is_left_out(graph: GraphProto) -> None:
    """Inputs that are left out at the end are not named, and a ``Clip`` has a lower limit where it has an upper one."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
        if node.op_type == "Clip" and len(node.input) > 2 and not node.input[1] and node.input[2] in held:
            kind = numpy_helper.to_array(held[node.input[2]]).dtype
            lowest = np.iinfo(kind).min if np.issubdtype(kind, np.integer) else -np.inf
            node.input[1] = f"{node.output[0]}/lowest"
            graph.initializer.append(numpy_helper.from_array(np.array(lowest, kind), node.input[1]))


def _in_float32(model: ModelProto) -> None:
    """Numbers of half precision as float32: the network is explained in float32 in any case."""
    for place, tensor in enumerate(model.graph.initializer):
        if tensor.data_type in _HALF:
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            model.graph.initializer[place].CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for node in model.graph.node:
        for each in node.attribute:
            if each.name in ("to", "dtype") and each.i in _HALF:
                each.i = TensorProto.FLOAT
            elif each.type == onnx.AttributeProto.TENSOR and each.t.data_type in _HALF:
                each.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each.t).astype(np.float32), each.t.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _fold(model: ModelProto) -> None:
    """Nodes of which all inputs are known become initializers."""
    graph, version = model.graph, {entry.domain: entry.version for entry in model.opset_import}
    known = {tensor.name: tensor for tensor in graph.initializer}
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in graph.node:
        found = None
        if all(name in known for name in node.input if name) and not wanted & set(node.output):
            found = _folded(node, known, version)
        if found is None:
            kept.append(node)
        else:
            known.update({tensor.name: tensor for tensor in found})
    used = {name for node in kept for name in node.input} | wanted
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for name, tensor in known.items() if name in used)


def _folded(node: NodeProto, known: dict[str, TensorProto], version: dict[str, int]) -> list[TensorProto] | None:
    """What a node of constants computes; None where that is not to be known."""
    if node.op_type in _NOT_FOLDED or node.domain not in ("", "ai.onnx"):
        return None
    inputs = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
    try:
        graph = helper.make_graph(
            [node],
            "constant",
            [helper.make_tensor_value_info(name, known[name].data_type, value.shape) for name, value in inputs.items()],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version.get("", _OPSET))])
        values = ReferenceEvaluator(single).run(None, inputs)
    except Exception:  # an operator that the reference does not have stays a node
        return None
    arrays = [np.asarray(value) for value in values]
    if any(array.dtype == object or array.size > _LARGEST_FOLDED for array in arrays):
        return None
    return [numpy_helper.from_array(array, name) for array, name in zip(arrays, node.output, strict=True)]


def _spell_out_gelu(graph: GraphProto) -> None:
    """``Gelu`` as ``x (1 + erf(x / sqrt 2)) / 2``, as exporters wrote it before there was an operator."""
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "Gelu" or attribute(node, "approximate", b"none") != b"none":
            nodes.append(node)
            continue
        (x,), (y,), name = node.input, node.output, node.name or node.output[0]
        for key, value in (("root", math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{y}/{key}"))
        nodes += [
            helper.make_node("Div", [x, f"{y}/root"], [f"{y}/scaled"], name=f"{name}/Div"),
            helper.make_node("Erf", [f"{y}/scaled"], [f"{y}/erf"], name=f"{name}/Erf"),
            helper.make_node("Add", [f"{y}/erf", f"{y}/one"], [f"{y}/share"], name=f"{name}/Add"),
            helper.make_node("Mul", [x, f"{y}/share"], [f"{y}/twice"], name=f"{name}/Mul"),
            helper.make_node("Mul", [f"{y}/twice", f"{y}/half"], [y], name=name),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _lower(model: ModelProto) -> None:
    """Operators of opset 18 and later in the words of opset 17, which mean the same."""
    for node in model.graph.node:
        if node.op_type == "GlobalMaxPool":
            node.op_type = "ReduceMax"
            node.attribute.append(helper.make_attribute("axes", [2, 3]))
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            _without_zeros(node, known)
    if opset(model) <= _OPSET:
        return
    for node in model.graph.node:
        for name, usual in _ADDED.get(node.op_type, {}).items():
            _drop(node, name, usual)
        if node.op_type in _REDUCTIONS and len(node.input) > 1:
            _axes_as_attribute(node, known)
        elif node.op_type == "Split" and len(node.input) < 2:
            _drop(node, "num_outputs", attribute(node, "num_outputs"))
        elif node.op_type in ("Pad", "Resize"):
            _without_axes(node)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = _OPSET


def _drop(node: NodeProto, name: str, usual: Any) -> None:
    """Leave out an attribute of a later version where it asks for nothing new."""
    value = attribute(node, name)
    if value is None:
        return
    if value != usual and not (usual is None and set(value) == {1}):
        raise ValueError(f"{node.op_type} with {name}={value!r}")
    _remove(node, name)


def _remove(node: NodeProto, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _axes_as_attribute(node: NodeProto, known: dict[str, TensorProto]) -> None:
    if node.input[1] not in known:
        raise ValueError(f"{node.op_type} over axes that are computed")
    axes = numpy_helper.to_array(known[node.input[1]]).tolist()
    _remove(node, "noop_with_empty_axes")
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", axes))


def _without_zeros(node: NodeProto, known: dict[str, TensorProto]) -> None:
    """``allowzero`` says what a length of 0 means, which matters where there is one."""
    if attribute(node, "allowzero"):
        shape = known.get(node.input[1])
        if shape is None or 0 in numpy_helper.to_array(shape):
            raise ValueError("Reshape to a length of 0")
        _remove(node, "allowzero")


def _without_axes(node: NodeProto) -> None:
    """``Pad`` and ``Resize`` of chosen axes are another thing than of all of them."""
    if attribute(node, "axes") is not None or (node.op_type == "Pad" and len(node.input) > 3 and node.input[3]):
        raise ValueError(f"{node.op_type} of some axes only")


def _one_node_for_each_output(graph: GraphProto) -> None:
    """Each output is the first and only value of its node, which onnx2torch takes for granted."""
    made = {name: node for node in graph.node for name in node.output}
    seen: set[int] = set()
    for value in graph.output:
        node = made.get(value.name)
        if node is not None and len(node.output) == 1 and id(node) not in seen:
            seen.add(id(node))
            continue
        inner = f"{value.name}/before"
        _rename(graph, value.name, inner)
        graph.node.append(helper.make_node("Identity", [inner], [value.name], name=f"{value.name}/output"))


def _rename(graph: GraphProto, old: str, new: str) -> None:
    swap: Callable[[str], str] = lambda name: new if name == old else name  # noqa: E731
    for node in graph.node:
        for names in (node.input, node.output):
            renamed = [swap(name) for name in names]
            del names[:]
            names.extend(renamed)
    for tensor in graph.initializer:
        tensor.name = swap(tensor.name)
