"""Networks with random weights from the top down, for the parameter randomisation test.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 4: cascading randomisation.

Every parameter of a randomised layer is drawn from a normal distribution with the mean and the standard deviation of
the trained one, so that values keep their scale. The running statistics of its normalisation are measured anew on
seeded noise with the spectrum of photographs (amplitude 1/f): the trained ones belong to features that are gone, and
would make the values of a deep network explode.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnviz.models.graph.trace import Graph

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_PROBES = 8


@dataclass(frozen=True)
class Cut:
    """One step of the cascade.

    Attributes:
        down_to: The lowest layer that is random; all layers above it are random too.
        layers: Number of layers with weights that are random.
    """

    down_to: str
    layers: int


class Cascade:
    """The steps of the cascade over one module; weights are exchanged, never copied, while a step is held.

    Args:
        module: The network in evaluation mode; its parameters must be its own.
        graph: Its trace, for the order of layers; None takes the order of ``named_modules``.
        probe: Shape (C, H, W) of an input.
        seed: Of the weights.
        steps: At most so many steps, spread evenly; the first randomises the top layer alone, the last all layers.
    """

    def __init__(self, module: nn.Module, graph: Graph | None, probe: Sequence[int], seed: int, steps: int = 8) -> None:
        self.module = module
        groups = _groups(module, graph)
        steps = min(steps, len(groups))
        counts = sorted({round(1 + (len(groups) - 1) * i / max(1, steps - 1)) for i in range(steps)})
        self.cuts = tuple(Cut(groups[-count][0], count) for count in counts)
        self._groups = groups
        self._random = {id(p): _drawn(p, seed, name) for name, p in module.named_parameters() if p.is_floating_point()}
        self._norms: dict[int, dict[Any, tuple[Tensor, Tensor]]] = {}
        where = next(iter(module.parameters())).device
        noise = _natural_noise(probe, seed).to(where)
        for cut in self.cuts:
            self._norms[cut.layers] = self._measured(cut, noise)

    @contextlib.contextmanager
    def at(self, cut: Cut) -> Iterator[None]:
        """The module is random from the top down to ``cut`` while the body runs."""
        modules = self._modules(cut)
        parameters = [p for m in modules for p in m._parameters.values() if p is not None and id(p) in self._random]
        trained = [p.data for p in parameters]
        norms = self._norms.get(cut.layers, {})
        kept = {m: (m.running_mean, m.running_var) for m in norms}
        try:
            for p in parameters:
                p.data = self._random[id(p)]
            for m, (mean, var) in norms.items():
                m.running_mean, m.running_var = mean, var
            yield
        finally:
            for p, data in zip(parameters, trained, strict=True):
                p.data = data
            for m, (old_mean, old_var) in kept.items():
                m.running_mean, m.running_var = old_mean, old_var

    def _modules(self, cut: Cut) -> list[nn.Module]:
        return [m for _, members in self._groups[-cut.layers :] for m in members]

    def _measured(self, cut: Cut, noise: Tensor) -> dict[Any, tuple[Tensor, Tensor]]:
        """Running mean and variance of every normalisation above the cut."""
        norms: list[Any] = [m for m in self._modules(cut) if isinstance(m, _NORMS) and m.running_mean is not None]
        before = {m: (m.running_mean, m.running_var, m.momentum, m.num_batches_tracked) for m in norms}
        with self.at(cut), torch.no_grad():
            try:
                for m in norms:
                    m.running_mean, m.running_var = torch.zeros_like(m.running_mean), torch.ones_like(m.running_var)
                    # Without momentum the statistics are those of all that passes.
                    m.num_batches_tracked, m.momentum, m.training = torch.tensor(0), None, True
                self.module(noise)
                return {m: (m.running_mean, m.running_var) for m in norms}
            finally:
                for m, (mean, var, momentum, count) in before.items():
                    m.running_mean, m.running_var, m.momentum, m.num_batches_tracked = mean, var, momentum, count
                    m.training = False


def _groups(module: nn.Module, graph: Graph | None) -> list[tuple[str, list[nn.Module]]]:
    """Layers with weights in the order in which they run, each with the normalisations that follow it."""
    named = {name: m for name, m in module.named_modules() if any(p is not None for p in m._parameters.values())}
    order = list(named)
    if graph is not None:
        ran = [_place(node) for node in graph.module.graph.nodes if node.op in {"call_module", "get_attr"}]
        first = {name: place for place, name in reversed(list(enumerate(ran)))}
        # What the trace does not name as one (inside of a submodule that stays whole) keeps its place beside it.
        order.sort(key=lambda name: min((first[r] for r in first if (name + ".").startswith(r + ".")), default=-1))
    groups: list[tuple[str, list[nn.Module]]] = []
    for name in order:
        if isinstance(named[name], _NORMS) and groups:
            groups[-1][1].append(named[name])
        else:
            groups.append((name, [named[name]]))
    return groups


def _place(node: fx.Node) -> str:
    """The module that a node runs, or whose weight it reads."""
    target = str(node.target)
    return target if node.op == "call_module" else target.rpartition(".")[0]


def _drawn(trained: Tensor, seed: int, name: str) -> Tensor:
    # One number of 32 bits: torch's CPU generator reads no more of a seed.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    drawn = torch.randn(trained.shape, generator=generator).to(trained)
    spread = trained.std() if trained.numel() > 1 else trained.abs().max()
    return drawn * spread + trained.mean()


def _natural_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Seeded noise [8, C, H, W] of amplitude 1/f, each channel with mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn((_PROBES, *shape), generator=generator)
    fy, fx = torch.fft.fftfreq(shape[1])[:, None], torch.fft.rfftfreq(shape[2])[None, :]
    frequency = (fy**2 + fx**2).sqrt().clamp_min(1 / max(shape[1], shape[2]))
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(shape[1], shape[2]))
    noise = noise - noise.mean(dim=(2, 3), keepdim=True)
    scaled: Tensor = noise / noise.std(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    return scaled
