"""A graphics card that is not there: what would make the host wait for it, and what would fail on it.

    with pretended_card() as card:
        cnnviz.explain(model, batch, device="cuda")
    card.waits          # Wait("read", "aten._to_copy", "cnnviz/explanation.py:59"), ...

Tensors on the card say ``cuda:0`` and hold a tensor of the processor, by which all is computed. So every value is
there, and whatever looks at a device takes the way that it takes with a card. What a card refuses raises here too:
tensors of two devices in one operation, a generator of the processor, ``numpy()`` of what lies on the card; on request
a dtype that it does not have, as Apple's cards have no float64. What it shows of time is the number of waits and where
they are: nothing is measured, and no kernel of a card runs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import cnnviz
from cnnviz.engine import runtime as rt

aten = torch.ops.aten
CARD = torch.device("cuda:0")
# What PyTorch's own C++ takes for the device: one that it has no threads, streams and kernels for.
_INSIDE = torch.device("meta")
_ROOT = Path(cnnviz.__file__).parent.parent

# What must know values before its result has a shape, or looks whether it went well.
_COUNTS = {
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal", "is_nonzero",
    "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_lstsq", "linalg_eig", "geqrf",
}  # fmt: skip
# Take a tensor of the processor beside those of the card, whatever its shape.
_MIXED = {"copy_", "_to_copy", "index", "_unsafe_index", "index_put_", "index_put", "_index_put_impl_"}


@dataclass(frozen=True)
class Wait:
    """Once that the host waits.

    Attributes:
        kind: ``read`` and ``send`` for copies from the card and to it, ``count`` where values decide a shape or are
            compared, ``event`` and ``all`` where the code says that it waits.
        operation: What waits.
        place: Where in the package, or in the tests.
    """

    kind: str
    operation: str
    place: str


@dataclass(eq=False)
class Card:
    """What was asked of the card, by any thread.

    Attributes:
        lacks: Dtypes that no tensor on it can have.
        waits: The waits, in order.
        passed: Copies without a wait: ``send`` and ``read``.
        unread: Tensors whose copy to the host nobody waited for.
    """

    on_wait: Callable[[Card], None] = lambda card: None
    lacks: frozenset[torch.dtype] = frozenset()
    waits: list[Wait] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    unread: list[Tensor] = field(default_factory=list)
    _pinned: dict[int, Tensor] = field(default_factory=dict)

    def wait(self, kind: str, operation: str) -> None:
        self.unread.clear()  # whatever is waited for: all work is in one queue
        self.waits.append(Wait(kind, operation, _place()))
        self.on_wait(self)

    def places(self) -> dict[str, int]:
        """How often the host waited at each place."""
        return dict(Counter(f"{each.place} {each.kind} {each.operation}" for each in self.waits))

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy whose memory counts as pinned; kept, lest another tensor gets its address."""
        copied = tensor.clone()
        self._pinned[copied.untyped_storage().data_ptr()] = copied
        return copied

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned


def _place() -> str:
    """The nearest line of the package that asks its runtime for a copy or makes one itself, or else of the tests."""
    frame, other = sys._getframe(2), "backward"
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and path.name != Path(__file__).name:
            named = f"{path.relative_to(_ROOT).as_posix()}:{frame.f_lineno}"
            if named.startswith("cnnviz/") and not named.startswith("cnnviz/engine/runtime.py"):
                return named
            other = named if other == "backward" else other
        frame = frame.f_back  # type: ignore[assignment]
    return other


class OnCard(Tensor):
    """A tensor that says it lies on the card; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        if held.dtype in _here.card.lacks:
            raise TypeError(f"Cannot convert a tensor to {held.dtype}: the card does not have it.")
        made: OnCard = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), None, held.dtype, held.layout, _INSIDE
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CARD

    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_with_tensors(index), value)

    def new_tensor(self, data: Any, **how: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CARD, **how})

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(_here.card, func, args, kwargs or {})


def _with_tensors(index: Any) -> Any:
    """An index whose lists are tensors of the processor, as PyTorch makes them before it sends them to the card."""
    if isinstance(index, tuple):
        return tuple(_with_tensors(each) for each in index)
    return torch.tensor(index) if isinstance(index, (list, range)) else index


class _Mode(TorchDispatchMode):
    """Sees what has no tensor on the card yet."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(self.card, func, args, kwargs or {})


class _Here:
    card = Card()


_here = _Here()


def _on_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _held(value: Any) -> Any:
    if isinstance(value, OnCard):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _computed(card: Card, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an operation, on the device where a card would leave it."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("pin_memory", "_pin_memory"):
        return card.pin(args[0])
    if name == "is_pinned":
        return card.is_pinned(args[0])
    if func is torch.ops.prim.device.default:
        return _INSIDE
    values = tree_leaves((args, kwargs))
    tensors = [each for each in values if isinstance(each, Tensor)]
    there = any(isinstance(each, OnCard) for each in tensors)
    target = kwargs.get("device")
    if target is not None and torch.device(target).type == "meta":
        kwargs = {**kwargs, "device": (target := CARD)}  # like another tensor, or a gradient that goes back
    to_card = _on_card(target) if target is not None else there
    if there or to_card:
        _checked(func, name, tensors, values, to_card)
    if name in ("copy_", "_to_copy"):
        return _copied(card, func, name, args, kwargs, to_card)
    if there:
        _waited(card, name, args, kwargs)
    pinned = kwargs.pop("pin_memory", None)
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not to_card:
        return tree_map(lambda t: card.pin(t) if isinstance(t, Tensor) else t, found) if pinned else found
    return _returned(func, args, kwargs, found)


def _returned(func: Any, args: Sequence[Any], kwargs: dict[str, Any], found: Any) -> Any:
    """The results on the card; what was written to is the tensor that it was."""
    if torch.Tag.inplace_view in func.tags:
        raise NotImplementedError(f"{func} changes the shape of a tensor on the pretended card")
    names = [each.name for each in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    written = {
        label: given.get(each.name)
        for each in func._schema.arguments
        if each.alias_info is not None and each.alias_info.is_write
        for label in each.alias_info.before_set
    }
    returns = func._schema.returns
    made = []
    for each, said in zip([found] if len(returns) == 1 else found or (), returns, strict=True):
        labels = said.alias_info.before_set if said.alias_info is not None and said.alias_info.is_write else ()
        old = next((written[label] for label in labels if label in written), None)
        made.append(tree_map(lambda t: OnCard(t) if _plain(t) else t, each) if old is None else old)
    return made[0] if len(returns) == 1 else tuple(made) or None


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _checked(func: Any, name: str, tensors: Sequence[Tensor], values: Sequence[Any], to_card: bool) -> None:
    """What a card refuses."""
    if to_card and any(isinstance(each, torch.Generator) and each.device.type == "cpu" for each in values):
        raise RuntimeError(f"{func}: expected a 'cuda' generator, found one of the processor")
    if name in _MIXED or not any(isinstance(each, OnCard) for each in tensors):
        return
    scalars = torch.Tag.pointwise in func.tags or name in ("where", "masked_fill", "masked_fill_", "fill_", "lerp")
    for each in tensors:
        if _plain(each) and not isinstance(each, OnCard) and not (scalars and each.dim() == 0):
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found cuda:0 and cpu")


def _copied(card: Card, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], to_card: bool) -> Any:
    """A copy, and whether the host waits for it."""
    source = args[0] if name == "_to_copy" else args[1]
    onto = to_card if name == "_to_copy" else isinstance(args[0], OnCard)
    at_once = bool(kwargs.get("non_blocking")) or (name == "copy_" and len(args) > 2 and bool(args[2]))
    sends, reads = onto and not isinstance(source, OnCard), isinstance(source, OnCard) and not onto
    read_into = card.is_pinned(args[0]) if name == "copy_" and reads else True
    if sends:
        if at_once and card.is_pinned(source):
            card.passed["send"] += 1
        else:
            card.wait("send", f"aten.{name}")
    if reads:
        if at_once and read_into:
            card.passed["read"] += 1
        else:
            card.wait("read", f"aten.{name}")
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "copy_":
        return args[0]
    if found is source or (isinstance(source, OnCard) and found is source.held):
        found = found.clone()
    if reads and at_once:
        card.unread.append(found)
    return OnCard(found) if onto else found


def _waited(card: Card, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    if name == "_local_scalar_dense":
        card.wait("read", "aten._local_scalar_dense")
    elif name in _COUNTS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        card.wait("count", f"aten.{name}")
    elif name in ("index", "index_put_", "index_put", "_index_put_impl_"):
        indices = [each for each in args[1] if isinstance(each, Tensor)]
        if any(_plain(each) and not isinstance(each, OnCard) for each in indices):
            card.wait("send", f"aten.{name}")
        # One value at the places of a mask is filled in without counting them.
        fills = name != "index" and len(indices) == 1 and args[2].numel() == 1
        if any(each.dtype in (torch.bool, torch.uint8) for each in indices) and not fills:
            card.wait("count", f"aten.{name}")


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        _here.card.wait("event", "Event.synchronize")


class _Stream:
    def record_event(self) -> _Event:
        return _Event()


_RUN = threading.Thread.run
# What is asked of the library of the card, and does nothing here.
_SILENT = ("_lazy_init", "empty_cache", "set_rng_state", "manual_seed", "manual_seed_all", "seed_all")


@contextlib.contextmanager
def pretended_card(
    on_wait: Callable[[Card], None] = lambda card: None, lacks: frozenset[torch.dtype] = frozenset()
) -> Iterator[Card]:
    """A card while the body runs, for this thread and all that it starts.

    Args:
        on_wait: Called in the thread that waits, before it goes on.
        lacks: Dtypes that it does not have. PyTorch does not let anybody pretend to be an ``mps`` device: one that
            lacks float64 is told to the runtime as Apple's are.
    """
    card = Card(on_wait, lacks)

    def run(thread: threading.Thread) -> None:
        torch._C._set_only_lift_cpu_tensors(True)  # what a list becomes is sent as any tensor is
        with _Mode(card):
            _RUN(thread)

    def nothing() -> Callable[..., None]:
        # One for each: PyTorch looks its functions up by what they are.
        return lambda *_, **__: None

    says: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_: True,
        "get_device_name": lambda *_: "a card that is not there",
        "synchronize": lambda *_: card.wait("all", "torch.cuda.synchronize"),
        "get_rng_state": lambda *_: torch.zeros(0, dtype=torch.uint8),
        "Event": _Event,
        "current_stream": lambda *_: _Stream(),
        **{name: nothing() for name in _SILENT},
    }
    # Where there is no card, PyTorch may be told of one that does nothing.
    torch._C._ensureCUDADeviceGuardSet()
    lifts, overwrites = torch._C._only_lift_cpu_tensors(), torch.__future__.get_overwrite_module_params_on_conversion()
    before = _here.card
    with contextlib.ExitStack() as stack:
        for name, value in says.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        if torch.float64 in lacks:
            stack.enter_context(patch.object(rt, "has_float64", lambda device: device.type == "cpu"))
        stack.enter_context(patch.object(threading.Thread, "run", run))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.callback(setattr, _here, "card", before)
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        _here.card = card
        stack.enter_context(_Mode(card))
        yield card
