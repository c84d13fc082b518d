"""The run of a network on a stand-in for its image, by which it is traced: one thread's, whatever others do meanwhile.

``torch.fx`` changes ``nn.Module`` itself while it traces: every call of a module in the process, and every parameter
that is read, comes by the tracer. What another thread runs at that time, this network or its own, is none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

# These stay one node also when subclassed (a LayerNorm that permutes, a convolution that pads), so that heads can
# be read and convolutions recognised.
_LEAF_TYPES = (nn.LayerNorm, nn.Linear, nn.modules.conv._ConvNd)

# Held while a network is traced: threads trace one after another. Of two traces at once the first to end would put back
# the ``nn.Module.__call__`` that it found, which the other still needs; and the other would leave the first's for good.
TURN = threading.RLock()


class Tracer(fx.Tracer):
    """Symbolic tracer that notes what every module call returned and where tracing failed.

    Args:
        opaque: Modules that stay one node.
        unhooked: Modules whose forward hooks are passed by.
    """

    def __init__(self, opaque: frozenset[str], unhooked: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.opaque, self.unhooked = opaque, unhooked
        self.calls: dict[str, list[fx.Node]] = {}
        self.failed: str | None = None
        self._thread = threading.get_ident()

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One argument, the image: Python itself fills in what ``forward`` has defaults for, as in a real call."""

        def forward(module: nn.Module, image: fx.Proxy) -> Any:
            return root_fn(module, image)

        return forward, [self.root, self.create_proxy("placeholder", "image", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.opaque:
            return True
        if isinstance(m, _LEAF_TYPES):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if path in self.unhooked:
            forward = m.forward
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = path
            raise
        if isinstance(result, fx.Proxy):
            self.calls.setdefault(path, []).append(result.node)
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
