"""What every method of the register promises: batches, repetition, and the module left as it was found."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnviz
from cnnviz.engine import session
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from tests.support import networks as nets

METHODS = [spec.name for spec in lookup.BUILT_IN if not {"boxes", "attention"} & set(spec.needs)]
# Few passes are enough here.
CHEAP: dict[str, dict[str, Any]] = {
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"window": 6, "stride": 4},
    "smoothgradcam++": {"samples": 3},
    "sscam": {"samples": 3},
    "iscam": {"steps": 3},
    "rise": {"masks": 20, "cells": 4},
    "shapley": {"segments": 6, "samples": 20, "compactness": 100},
    "kernelshap": {"segments": 6, "samples": 20, "compactness": 100},
    "lime": {"segments": 6, "samples": 20, "compactness": 100},
    "sobol": {"designs": 4, "cells": 3},
    "hsic": {"masks": 30, "cells": 3},
    "conductance": {"steps": 4},
    "opticam": {"iterations": 3},
    "neuron_conductance": {"steps": 4},
    "gradient_shap": {"samples": 3},
    "extremal": {"areas": "0.1,0.3", "steps": 2, "cells": 3},
}


def _network() -> nn.Module:
    """Every method takes it: ReLUs in place, one reused, batch normalisation, a shortcut, GAP and one linear layer."""
    return nets.TOYS["residual"].build()


def _explain(model: Any, batch: Tensor, method: str, **options: Any) -> Any:
    return cnnviz.explain(model, batch, method=method, **{**CHEAP.get(method, {}), **options})


@functools.cache
def _expected(method: str, tracing: str = "auto", in_use: bool = False) -> Any:
    """Of class 1, by a module in evaluation mode that nobody else has; nobody writes to it."""
    network = copy.deepcopy(_as_found(_network())).eval() if in_use else _network()
    return _explain(network, nets.images(), method, target=1, tracing=tracing)


def _close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert largest > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * largest)


def _snapshot(network: nn.Module) -> dict[str, Any]:
    """Everything that must be as found afterwards."""
    modules = list(network.named_modules())
    tensors = [*network.named_parameters(), *network.named_buffers()]
    hooks = [
        "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
        "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    ]  # fmt: skip
    return {
        "modules": [(name, id(m), type(m)) for name, m in modules],
        "training": [m.training for _, m in modules],
        "inplace": [getattr(m, "inplace", None) for _, m in modules],
        "hooks": [[dict(getattr(m, name, {})) for name in hooks] for _, m in modules],
        "attributes": [sorted(m.__dict__) for _, m in modules],
        "requires_grad": [t.requires_grad for _, t in tensors],
        "grad": [None if t.grad is None else (id(t.grad), t.grad.tolist()) for _, t in tensors],
        "tensor hooks": [dict(t._backward_hooks or {}) for _, t in tensors],
        "address": [(name, id(t), t.data_ptr(), t.stride(), t._version) for name, t in tensors],
        "values": [t.tolist() for _, t in tensors],
        "forward": [m.__dict__.get("forward") for _, m in modules],
        "rng": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@contextlib.contextmanager
def _untouched(network: nn.Module) -> Iterator[None]:
    before = _snapshot(network)
    yield
    after = _snapshot(network)
    for key, value in before.items():
        assert after[key] == value, key


@pytest.fixture(params=["auto", "off"], ids=["graph", "hooks"])
def tracing(request: pytest.FixtureRequest) -> str:
    """Traced, or by hooks."""
    return str(request.param)


def _reads_the_trace(method: str) -> bool:
    """CAM reads the head, relevance walks from node to node."""
    spec = lookup.find_method(method)
    return bool({"gap-head", "trace"} & set(spec.needs)) or spec.family == "relevance"


def _skip_if_it_needs_a_trace(method: str, tracing: str) -> None:
    if tracing == "off" and _reads_the_trace(method):
        pytest.skip("reads the trace")


@pytest.mark.parametrize("method", [m for m in METHODS if _reads_the_trace(m)])
def test_methods_that_read_the_trace_say_so(method: str) -> None:
    with pytest.raises(CnnvizError, match="traced") as raised:
        _explain(nets.TOYS["untraceable"].build(), nets.images(), method)
    assert raised.value.hint


# Batches and repetition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["module", "model"])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give_alone(method: str, kind: str, tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    network, batch = _network().requires_grad_(False), nets.images(4)
    model = network if kind == "module" else nets.as_model(network)
    whole = _explain(model, batch, method, target=[0, 1, 2, 3], tracing=tracing)
    largest = float(whole.raw.abs().max())
    assert largest > 1e-4
    for i in range(4):
        single = _explain(model, batch[i : i + 1], method, target=[i], tracing=tracing)
        torch.testing.assert_close(single.raw[0], whole.raw[i], rtol=0, atol=2e-5 * largest)
        torch.testing.assert_close(single.maps[0], whole.maps[i], rtol=0, atol=2e-5 * float(whole.maps.abs().max()))
        torch.testing.assert_close(single.logits[0], whole.logits[i], rtol=1e-5, atol=1e-5)
    backwards = _explain(model, batch.flip(0), method, target=[3, 2, 1, 0], tracing=tracing)
    _close(backwards.raw.flip(0), whole.raw)


@pytest.mark.parametrize("method", METHODS)
def test_repeated_bit_for_bit(method: str, tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    network, batch = _network(), nets.images()
    first = _explain(network, batch, method, target=1, tracing=tracing)
    torch.rand(7)
    for again in (
        _explain(network, batch, method, target=1, tracing=tracing),
        _explain(copy.deepcopy(network), batch, method, target=1, tracing=tracing),
    ):
        assert torch.equal(first.raw, again.raw)
        assert torch.equal(first.maps, again.maps)
        assert torch.equal(first.logits, again.logits)
    kept = nets.as_model(network.requires_grad_(False))
    found = [_explain(kept, batch, method, target=1, tracing=tracing) for _ in range(2)]
    assert torch.equal(found[0].raw, found[1].raw)


@pytest.mark.parametrize("method", METHODS)
def test_results_are_plain_tensors_on_the_host(method: str) -> None:
    found = _explain(_network(), nets.images(), method)
    assert found.maps.shape == (3, 12, 16)
    for tensor in (found.raw, found.maps, found.logits):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        assert tensor.device.type == "cpu"
        assert len(tensor) == 3
    assert found.target.dtype == torch.int64
    signed = lookup.find_method(method).signed
    assert signed or float(found.maps.min()) >= 0


@pytest.mark.parametrize("method", METHODS)
def test_the_batch_is_not_written_to(method: str, tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    batch = nets.images().requires_grad_()
    before, version = batch.detach().clone(), batch._version
    _explain(_network(), batch, method, tracing=tracing)
    assert torch.equal(batch, before)
    assert (batch.grad, batch._version) == (None, version)


# State -----------------------------------------------------------------------------------------------------------


def _as_found(network: nn.Module) -> nn.Module:
    """A module in use: some parameters frozen, some with gradients, modes mixed, a user's own hook."""
    network.train()
    network.norm2.eval()
    network.stem.weight.requires_grad_(False)
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    network.conv.register_forward_hook(lambda module, args, output: None)
    return network


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["eval", "train", "mixed"])
def test_the_module_is_left_as_found(method: str, mode: str, tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    network = _as_found(_network()) if mode == "mixed" else _network().train(mode == "train")
    expected = _expected(method, tracing, mode == "mixed")
    with _untouched(network):
        found = _explain(network, nets.images(), method, target=1, tracing=tracing)
    assert torch.equal(found.raw, expected.raw)  # explained in evaluation mode, whatever the mode


class _Broken(Exception):
    pass


def _fail(*args: Any) -> Any:
    raise _Broken


@pytest.mark.parametrize("error", [_Broken, KeyboardInterrupt])
@pytest.mark.parametrize("method", METHODS)
def test_left_as_found_after_an_exception_in_the_target(method: str, error: type[BaseException], tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    if not lookup.find_method(method).class_specific:
        pytest.skip("looks at no target")

    def target(logits: Tensor) -> Tensor:
        raise error

    network = _as_found(_network())
    with _untouched(network), pytest.raises((error, CnnvizError)):
        _explain(network, nets.images(), method, target=target, tracing=tracing)


@pytest.mark.parametrize("method", METHODS)
def test_left_as_found_after_an_exception_in_the_method(
    method: str, tracing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    network = _as_found(_network())
    monkeypatch.setattr(session.Session, "forward", _fail)
    with _untouched(network), pytest.raises(_Broken):
        _explain(network, nets.images(), method, target=1, tracing=tracing)


class _FailsLate(nets.ValueDependent):
    """Runs on probes and fails on the batch, whose values are larger."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().amax()) > 50:
            raise _Broken
        return super().forward(x)


@pytest.mark.parametrize("method", [m for m in METHODS if not _reads_the_trace(m)])
def test_left_as_found_after_an_exception_in_the_network(method: str) -> None:
    network = _FailsLate().train()
    with _untouched(network), pytest.raises(_Broken):
        _explain(network, 100 * nets.images(), method, target=1)


CALLERS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast and no_grad": lambda: _both(torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad()),
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
}


@contextlib.contextmanager
def _both(one: Any, two: Any) -> Iterator[None]:
    with one, two:
        yield


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_callers_mode_changes_nothing(method: str, caller: str, tracing: str) -> None:
    _skip_if_it_needs_a_trace(method, tracing)
    network, batch = _as_found(_network()), nets.images()
    expected = _expected(method, tracing, in_use=True)
    with CALLERS[caller]():
        made = batch * 1.0  # in inference mode: a tensor that autograd refuses
        with _untouched(network):
            found = _explain(network, made, method, target=1, tracing=tracing)
    assert torch.equal(found.raw, expected.raw)
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("method", METHODS)
def test_a_module_made_under_inference_mode(method: str) -> None:
    with torch.inference_mode():
        network = _network()
        frozen = copy.deepcopy(network)
    found = _explain(frozen, nets.images(), method, target=1)
    _close(found.raw, _expected(method).raw)


# Options and wrappers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_option_is_an_error_with_near_matches(method: str) -> None:
    params = lookup.find_method(method).params
    wrong = params[0].name[:-1] + "x" if params else "counterfactul"
    with pytest.raises(CnnvizError, match=f"no option '{wrong}'") as raised:
        cnnviz.explain(_network(), nets.images(), method=method, **{wrong: 1})
    assert params[0].name in raised.value.hint if params else "no options" in raised.value.hint


@pytest.mark.parametrize("method", METHODS)
def test_wrapped_modules_are_unwrapped(method: str) -> None:
    network, expected = _network(), _expected(method)
    wrappers: dict[str, Callable[[], nn.Module]] = {
        "DataParallel": lambda: nn.DataParallel(network),
        "compile": lambda: torch.compile(network),
        "both": lambda: nn.DataParallel(torch.compile(network)),
    }
    for name, wrap in wrappers.items():
        wrapped = wrap()
        with _untouched(network):
            found = _explain(wrapped, nets.images(), method, target=1)
        assert torch.equal(found.raw, expected.raw), name


@pytest.mark.parametrize("method", METHODS)
def test_scripted_modules_are_refused_with_the_remedy(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(_network(), nets.images())
    for module in (scripted, nn.Sequential(scripted)):
        with pytest.raises(CnnvizError, match="TorchScript") as raised:
            _explain(module, nets.images(), method)
        assert "state_dict" in raised.value.hint


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_hooks_compute(method: str) -> None:
    """``weight_norm`` of the old kind cannot be copied: the network runs as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = _network()
        nn.utils.weight_norm(network.conv)
    for model in (network, nets.as_model(network.requires_grad_(False))):
        _close(_explain(model, nets.images(), method, target=1).raw, _expected(method).raw)


@pytest.mark.parametrize("name", METHODS)
def test_the_register_is_complete(name: str) -> None:
    """An entry that names its paper, whose function exists and says what it computes, whose defaults are valid."""
    spec = lookup.find_method(name)
    assert (spec.load().__doc__ or "").strip()
    assert any(character.isdigit() for character in spec.paper)
    assert spec.space in {"layer", "input", "grid"}
    assert spec.summary.endswith(".")
    assert spec.resolve_params({}).to_dict() == {p.name: p.check(p.default) for p in spec.params}
    assert spec.resolve_params({}) == spec.options()
