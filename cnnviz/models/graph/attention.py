"""Self-attention, recognised by what runs and not by what classes are called."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class AttentionWatch(TorchDispatchMode):
    """Notices self-attention by what runs: a softmax over an L x S matrix that then multiplies tokens.

    A softmax over one row (global context) or over branches (selective kernels) is not attention between positions.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False
        self._maps: set[tuple[int, int]] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch asks this of a mode; yes would import ``torch.compile`` at the first operation that is watched."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        out = func(*args, **(kwargs or {}))
        if "scaled_dot_product" in name or "multi_head_attention" in name or "transformer_encoder" in name:
            self.seen = True
        elif name in {"aten::_softmax", "aten::_safe_softmax"} and out.dim() >= 2 and min(out.shape[-2:]) > 1:
            self._maps.add((out.shape[-2], out.shape[-1]))
        elif name in {"aten::bmm", "aten::baddbmm"}:
            sides = [tuple(a.shape[1:]) for a in args if isinstance(a, Tensor) and a.dim() == 3]
            self.seen = self.seen or any(side in self._maps for side in sides)
        return out
