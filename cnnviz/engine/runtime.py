"""Device, precision and the grad mode in which methods run: the only place that knows them."""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cnnviz.errors import CnnvizError, nearest

PRECISIONS = ("fp32", "bf16", "fp16", "auto")
_MOST_LANES = 4
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where and how exactly the network runs.

    Attributes:
        device: Resolved device.
        precision: ``fp32``, ``bf16`` or ``fp16`` (resolved, never ``auto``).
        head: Precision of what lies above the explained layer, where gradients are taken, if it has convolutions;
            None for the same.
    """

    device: torch.device
    precision: str
    head: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.precision]

    @property
    def head_dtype(self) -> torch.dtype:
        return _DTYPES[self.head or self.precision]

    @property
    def tolerance(self) -> float:
        """Largest accepted deviation of a prepared network from the module itself, relative to the largest value."""
        return {"fp32": 1e-3, "bf16": 6e-2, "fp16": 2e-2}[self.precision]


def resolve(device: str = "auto", precision: str = "fp32") -> Runtime:
    """Turn the words of the options into a device and a precision that exist here.

    Raises:
        CnnvizError: The device is not there, or cannot compute in that precision.
    """
    where = _device(device)
    if precision not in PRECISIONS:
        raise CnnvizError(
            f"Unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}.",
            nearest(precision, PRECISIONS),
        )
    if precision == "auto":
        precision = "bf16" if _fast_bf16(where) else "fp32"
    if precision == "fp16" and where.type == "cpu":
        raise CnnvizError("fp16 is slow and incomplete on a CPU.", "Use --precision bf16, or --device cuda.")
    return Runtime(where, precision)


def _device(text: str) -> torch.device:
    if text == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        known = ("auto", "cpu", "cuda", "cuda:0", "mps")
        raise CnnvizError(
            f"Unknown device {text!r}; expected one of {', '.join(known)}.", nearest(text, known)
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise CnnvizError(
                f"Device {text!r} is not there: this machine has {count} CUDA device(s) that torch can use.",
                "Use --device cpu, or --device auto.",
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise CnnvizError("Device 'mps' is not there: it needs macOS on Apple silicon.", "Use --device cpu.")
    elif device.type not in {"cpu", "cuda", "mps"}:
        raise CnnvizError(f"Device {text!r} is not supported.", "Use auto, cpu, cuda, cuda:N or mps.")
    return device


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Without AVX-512 BF16 or AMX, bf16 is emulated and slower than fp32.
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    return any(flag in name.replace("_is_", "") and bool(getattr(torch.cpu, name)()) for name in dir(torch.cpu))


def packable(device: torch.device) -> bool:
    """Whether oneDNN's packed, fused convolutions can be called here."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def compiler_here(device: torch.device) -> bool:
    """Whether ``torch.compile`` has what it needs: a C++ compiler, and Triton for CUDA."""
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
    if device.type == "cuda":
        with contextlib.suppress(ImportError):
            import triton  # noqa: F401

            return compiler
        return False
    return compiler and device.type == "cpu"


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """The grad mode in which methods run, whatever the caller's: gradients on, no inference mode, no autocast."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by operations that have a second derivative, in the place of the fused kernels, which have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True)
class Lanes:
    """How the cores are shared: ``count`` batches at once, each with ``threads`` threads."""

    count: int
    threads: int

    @property
    def one(self) -> Lanes:
        """All threads of all lanes, for one batch at a time."""
        return Lanes(1, self.count * self.threads)


def lanes(device: torch.device) -> Lanes:
    """Batches that run side by side.

    On a CPU several batches with few threads each beat one batch with all: threads of one operation wait for each
    other at its end, and an encoder that holds one of their cores makes all of them wait. On a graphics card two: while
    one is waited for, for its classes or its maps, the next has been sent and asked for.
    """
    cores = torch.get_num_threads()
    if device.type == "cuda":
        return Lanes(2, max(1, cores // 2))
    if device.type != "cpu":
        return Lanes(1, cores)
    count = min(cores, _MOST_LANES)
    return Lanes(count, max(1, cores // count))


def use_threads(count: int) -> None:
    """Threads of an operation that this thread starts. Every thread of a pool must say so for itself."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Like :func:`use_threads` while the body runs."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)


def own(tensor: Tensor) -> Tensor:
    """A tensor that autograd can use, also when it was made under ``torch.inference_mode``."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def device_name(device: str) -> str:
    """What computes there: the kind of processor, or the model of the graphics card."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return platform.machine()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a smaller batch may go through."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    # cuBLAS and cuDNN say with words of their own that they got no memory for their workspace.
    said = ("out of memory", "can't allocate memory", "status_alloc_failed")
    return isinstance(error, RuntimeError) and any(words in text for words in said)


def release_memory(device: torch.device) -> None:
    """Give cached blocks back after an out-of-memory, so that the smaller batch finds room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def moved(batch: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device. To a graphics card from pinned memory, so that the copy runs beside what it computes, and
    nobody waits for it: from other memory the host does, and for all that was asked of the card before. To Apple's the
    host waits: a copy beside which it goes on reads memory that may be gone by then (PyTorch's issue 189690).
    """
    if device.type == "cuda" and batch.device.type == "cpu":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=device.type == "cuda")


def fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors on the host. From a graphics card they go to pinned memory, and the host waits once for all of them."""
    devices = {each.device for each in tensors if each.device.type == "cuda"}
    found = [each.to("cpu", non_blocking=each.device in devices) for each in tensors]
    for device in devices:
        torch.cuda.current_stream(device).record_event().synchronize()
    return found


def has_float64(device: torch.device) -> bool:
    """Whether tensors there can have 64 bits: not on Apple's cards."""
    return device.type != "mps"


def wide(tensor: Tensor) -> Tensor:
    """In float64, in which a sum of many values keeps its digits; in float32 where the device has no float64."""
    return tensor.double() if has_float64(tensor.device) else tensor.float()


def exact(tensor: Tensor) -> Tensor:
    """In float64, for what fails in float32; on the host where the device has no float64."""
    return tensor.double() if has_float64(tensor.device) else tensor.cpu().double()


def same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one: a kind without a number is the one that is in use."""

    def number(device: torch.device) -> int:
        if device.index is not None:
            return device.index
        return torch.cuda.current_device() if device.type == "cuda" else 0

    return one.type == other.type and number(one) == number(other)


def wait(device: torch.device) -> None:
    """Wait until the device has done what was asked: for timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def default_batch_size(device: torch.device, precision: str = "fp32") -> int:
    """Images a batch: on a CPU small enough that a lane's activations stay near its core, of which bf16 has half."""
    return 64 if device.type == "cuda" else 8 if precision == "fp32" else 16


@contextlib.contextmanager
def autocast(runtime: Runtime) -> Iterator[None]:
    """Where a network is trained in a lower precision: convolutions and products in it, the weights in float32."""
    with torch.autocast(runtime.device.type, runtime.dtype, enabled=runtime.precision != "fp32"):
        yield


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """cuDNN chooses its algorithms without timing them, and only those that give the same bits each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield


def recurrent_scope(module: object) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Around passes of a network: without cuDNN where it has recurrent layers on a GPU.

    In evaluation mode cuDNN keeps nothing of a recurrent layer's pass, and refuses its gradient; PyTorch's own kernels
    do not.
    """
    if not isinstance(module, nn.Module):
        return contextlib.nullcontext
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    on_gpu = any(parameter.is_cuda for parameter in module.parameters())
    return _without_cudnn if recurrent and on_gpu else contextlib.nullcontext


@contextlib.contextmanager
def _without_cudnn() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=False):
        yield
