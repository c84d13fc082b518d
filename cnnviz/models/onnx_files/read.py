"""A network in an ONNX file, as a PyTorch module that works for any number of images."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from cnnviz.errors import CnnvizError, first_line, nearest_file
from cnnviz.models.loading.carried_names import Candidate, names_in

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

SUFFIX = ".onnx"
_USUAL = 224
# Pixels more for a second size: odd where a network takes that, since halves are then rounded.
_LARGER = ((37, 75), (64, 96))


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """What a file holds.

    Attributes:
        module: The network: [N, C, H, W] in; a tensor out, or a dict of tensors by the names of the outputs.
        input_size: Channels, height and width that the file says, or that were asked for where it leaves them free.
        names: What may be class names in the file.
        notes: What a person should know.
    """

    module: nn.Module
    input_size: tuple[int, int, int]
    names: tuple[Candidate, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Input:
    """The input: how many images at once (None: any), channels, height, width (None: any), and their order."""

    name: str
    batch: int | None
    sizes: tuple[int | None, int | None, int | None]
    channels_last: bool


def read_onnx(path: str | Path, asked: Sequence[int] | None = None) -> OnnxNetwork:
    """Read a network and make it a PyTorch module.

    Args:
        path: An ``.onnx`` file; data that stand in files beside it are read too.
        asked: ``--input-size``, for what the file leaves free.

    Raises:
        CnnvizError: A package or the file is missing, or the network is none that cnnviz can explain; with the reason.
    """
    path = Path(path)
    _check_installed(path)
    from cnnviz.models.onnx_files.compare import comparison
    from cnnviz.models.onnx_files.protos import attribute

    model = _loaded(path)
    entry = _input_of(model, path)
    size, notes = _size(entry, asked), []
    module, warned = _converted(model, entry, size, path)
    if entry.channels_last:
        notes.append(f"the input {entry.name} is [N, height, width, channels]; images are transposed in front of it")
    if None in entry.sizes[1:] and any(attribute(node, "auto_pad", b"")[:4] == b"SAME" for node in model.graph.node):
        notes.append(f"its padding depends on the size of the input, and is that of {size[1]} x {size[2]} pixels here")
    images = torch.randn(2 * (entry.batch or 1), *size, generator=torch.Generator().manual_seed(0))
    said = comparison(path, module, images, (entry.batch or 1, entry.channels_last))
    notes.append(said if entry.batch is None else f"{said}; made for any number of images, the file for {entry.batch}")
    if said.startswith("not compared"):
        notes += warned
    return OnnxNetwork(module, size, _names(model), tuple(notes))


def _check_installed(path: Path) -> None:
    for package in ("onnx", "onnx2torch"):
        if find_spec(package) is None:
            raise CnnvizError(f"--model {path} needs {package}, which is not installed.", "pip install 'cnnviz[onnx]'")
    if not path.is_file():
        folder = path.parent
        near = nearest_file(path.name, [item.name for item in folder.glob(f"*{SUFFIX}")]) if folder.is_dir() else ""
        raise CnnvizError(f"--model {path}: there is no such file.", near or "Check the path.")


def _loaded(path: Path) -> ModelProto:
    import onnx

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker have classes of their own
        message = f"--model {path} is no valid ONNX file: {first_line(error)}"
        raise CnnvizError(message, "Copy it again, or export it again.") from error
    return model


def _input_of(model: ModelProto, path: Path) -> _Input:
    from onnx import TensorProto

    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if len(inputs) != 1:
        listed = ", ".join(f"{value.name} {_shown(value)}" for value in inputs) or "none"
        raise CnnvizError(
            f"--model {path} has {len(inputs)} inputs ({listed}); cnnviz gives a network one batch of images.",
            "Export it with the images as its only input, and the others filled in.",
        )
    value = inputs[0]
    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise CnnvizError(
            f"--model {path} takes {TensorProto.DataType.Name(kind).lower()} numbers; gradients need float ones.",
            "Export the network without the conversion of its input, and not quantised.",
        )
    sizes = _sizes(value)
    if len(sizes) != 4:
        raise CnnvizError(
            f"--model {path} takes {value.name} {_shown(value)}; images are [N, channels, height, width].",
            "Export the network with images as its input.",
        )
    batch, first, second, last = sizes
    channels_last = first not in (1, 3) and last in (1, 3)
    order = (last, first, second) if channels_last else (first, second, last)
    return _Input(value.name, batch, order, channels_last)


def _sizes(value: ValueInfoProto) -> list[int | None]:
    """Lengths of the axes; None for those that are free."""
    return [each.dim_value if each.dim_value > 0 else None for each in value.type.tensor_type.shape.dim]


def _shown(value: ValueInfoProto) -> str:
    named = [
        each.dim_param or (str(each.dim_value) if each.dim_value else "?") for each in value.type.tensor_type.shape.dim
    ]
    return f"[{', '.join(named)}]"


def _size(entry: _Input, asked: Sequence[int] | None) -> tuple[int, int, int]:
    """Channels, height and width with which the network is converted."""
    channels = asked[0] if asked is not None and len(asked) == 3 else 3
    rows, columns = (asked[-2], asked[-1]) if asked is not None and len(asked) > 1 else ((asked or (_USUAL,))[0],) * 2
    usual = (channels, rows, columns)
    found = [known or other for known, other in zip(entry.sizes, usual, strict=True)]
    return found[0], found[1], found[2]


def _converted(model: ModelProto, entry: _Input, size: tuple[int, int, int], path: Path) -> tuple[nn.Module, list[str]]:
    """The module, and what onnx2torch warns of, as its words."""
    import onnx2torch

    from cnnviz.models.onnx_files.compare import FREE_BATCH
    from cnnviz.models.onnx_files.dry_run import FixedBatchError, rewritten
    from cnnviz.models.onnx_files.fusions import fused
    from cnnviz.models.onnx_files.movements import joined_moves
    from cnnviz.models.onnx_files.protos import simplified
    from cnnviz.models.onnx_files.rules import RULES

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            network = onnx2torch.convert(simplified(model, _as_in_file(entry, size))).float().eval()
            _with_outputs(network, [value.name for value in model.graph.output])
            runs = _runs(network, entry, size)
            fused(rewritten(network, runs, RULES))
            if entry.channels_last:
                _transposed(network)
            joined_moves(network, runs[1].permute(0, 3, 1, 2) if entry.channels_last else runs[1])
        except FixedBatchError as error:
            raise CnnvizError(
                f"--model {path} runs for {entry.batch or 1} image at once only: {error}",
                FREE_BATCH,
            ) from error
        except Exception as error:  # operators that onnx2torch does not have, and what its modules say
            raise CnnvizError(
                f"--model {path} cannot be made a PyTorch network: {first_line(error)}",
                "Export it again with opset 17, or give its PyTorch code with --model file.py:factory.",
            ) from error
    return network.requires_grad_(False), _warned(caught)


def _warned(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """What onnx2torch says of the conversion. Warnings of other packages are of their code, and say nothing of it."""
    own = [each for each in caught if "onnx2torch" in Path(each.filename).parts]
    own = [each for each in own if not issubclass(each.category, DeprecationWarning)]
    return list(dict.fromkeys(f"onnx2torch warns: {each.message}" for each in own))


def _as_in_file(entry: _Input, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
    channels, rows, columns = size
    batch = entry.batch or 1
    return (batch, rows, columns, channels) if entry.channels_last else (batch, channels, rows, columns)


def _runs(network: nn.Module, entry: _Input, size: tuple[int, int, int]) -> list[Tensor]:
    """Inputs in the order of axes that the file has: its batch, twice that, and another size where it takes one."""
    batch, generator = entry.batch or 1, torch.Generator().manual_seed(0)

    def made(count: int, rows: int, columns: int) -> Tensor:
        images = torch.randn(count, size[0], rows, columns, generator=generator)
        return images.permute(0, 2, 3, 1).contiguous() if entry.channels_last else images

    both = made(2 * batch, *size[1:])
    runs = [both[:batch], both]
    if entry.sizes[1:] == (None, None):
        for rows, columns in _LARGER:
            larger = made(batch, size[1] + rows, size[2] + columns)
            with contextlib.suppress(Exception), torch.no_grad():  # one that takes neither is for one size
                network(larger)
                return [*runs, larger]
    return runs


def _with_outputs(network: fx.GraphModule, names: Sequence[str]) -> None:
    """Several outputs by their names; a dot in one would be a step of ``--logits-key``."""
    end = next(node for node in network.graph.nodes if node.op == "output")
    if len(names) > 1:
        end.args = (dict(zip([name.replace(".", "/") for name in names], end.args[0], strict=True)),)
        network.recompile()


def _transposed(network: fx.GraphModule) -> None:
    from cnnviz.models.onnx_files.parts import Permute

    start = next(node for node in network.graph.nodes if node.op == "placeholder")
    network.add_module("channels_last", Permute((0, 2, 3, 1)))
    with network.graph.inserting_after(start):
        turned = network.graph.call_module("channels_last", (start,))
    start.replace_all_uses_with(turned, lambda user: user is not turned)
    network.recompile()


def _names(model: ModelProto) -> tuple[Candidate, ...]:
    """What may be class names in the metadata."""
    parameters = [tensor.name for tensor in model.graph.initializer]
    return names_in({entry.key: entry.value for entry in model.metadata_props}, parameters)
