"""Walks one small network of every torchvision and timm family that has attention: a map, or a refusal with its reason.

    python -m benchmarks.attention_families --json benchmarks/results/attention_families.json

Of each map is checked, beside its size and that it is finite:

- where: every attention matrix is made the identity, so that places mix by convolutions and pooling alone; the input
  gradients of cells of the explained layer then move over the image as the cells do over the map, and in a plain
  transformer lie nowhere but in the cell's own patch (``outside`` is their share elsewhere);
- what: the gradient of the score, computed by the network itself without cnnviz's trace, is not zero at the image.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

import cnnviz
from benchmarks.family_checks import first_output
from benchmarks.family_networks import build, calibrate, images
from benchmarks.timing import machine
from cnnviz.engine import runtime as rt
from cnnviz.engine.open_session import SessionOptions, prepare
from cnnviz.engine.session import Session
from cnnviz.errors import CnnvizError

Figures = dict[str, Any]
ATTENTION = ("chefer", "rollout", "gradient_rollout", "legrad")
# How far, in cells, the middle of what a cell sees must move when the cell is another one row, or one column, along.
_LEAST_STEP = 0.02


class OwnPlace(TorchFunctionMode):
    """Every attention matrix is the identity where it is square; counts those that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.others = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            q, _, v = (*args, *(given[key] for key in ("query", "key", "value") if key in given))[:3]
            if q.shape[-2] == v.shape[-2]:
                # Heads that share keys and values have one of each.
                return v.expand(*q.shape[:-1], v.shape[-1]) + 0 * q.sum()
            self.others += 1
        value = func(*args, **given)
        if name == "softmax" and value.dim() >= 3:
            if value.shape[-1] == value.shape[-2]:
                return torch.eye(value.shape[-1]).expand_as(value) + 0 * value
            self.others += 1
        return value


class _Cells(fx.Interpreter):
    """Runs a trace up to the explained map."""

    def __init__(self, session: Session) -> None:
        assert session.graph is not None
        super().__init__(session.graph.module, garbage_collect_values=True)
        self.wanted, self.found = session.layers[0].node, torch.zeros(0)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n is self.wanted:
            self.found = value
        return value


def places(session: Session, pixels: Tensor) -> Figures:
    """How the middle of what a cell sees moves from the upper right to the lower left, and the share outside it."""
    leaf, reader = pixels[:1].clone().requires_grad_(), _Cells(session)
    with OwnPlace() as mode, torch.enable_grad():
        reader.run(leaf)
    height, width = reader.found.shape[2:]
    cells = [(0, width - 1), (height - 1, 0), (height // 2, width // 2)]
    middles, outside = list[tuple[float, float]](), 0.0
    for row, col in cells:
        (gradient,) = torch.autograd.grad(reader.found[0, :, row, col].square().sum(), leaf, retain_graph=True)
        weight = gradient[0].abs().sum(0).double()
        weight = weight / weight.sum()
        tall, wide = weight.shape[0] / height, weight.shape[1] / width
        y = float((torch.arange(len(weight)).double() + 0.5) @ weight.sum(1)) / tall - 0.5
        x = float((torch.arange(weight.shape[1]).double() + 0.5) @ weight.sum(0)) / wide - 0.5
        middles.append((y, x))
        inside = weight[int(row * tall) : -int(-(row + 1) * tall // 1), int(col * wide) : -int(-(col + 1) * wide // 1)]
        outside = max(outside, 1 - float(inside.sum()))
    (top, right), (bottom, left), _ = middles
    steps = [(bottom - top) / max(height - 1, 1), (right - left) / max(width - 1, 1)]
    return {"cells_a_step": min(steps), "outside": outside, "other_attention": mode.others}


def checked(module: nn.Module, size: tuple[int, int]) -> Figures:
    """Grad-CAM of a network at one size, checked.

    Raises:
        CnnvizError: It is refused.
        AssertionError: The map is not what it should be.
    """
    pixels = images(size, 2)
    session = prepare(module, "NAME", (3, *size), rt.Runtime(torch.device("cpu"), "fp32"), SessionOptions())
    layer = session.layers[0]
    with torch.no_grad():
        target = first_output(module(pixels)).argmax(1)
    found = cnnviz.explain(module, pixels, method="hirescam", target=target)
    if not bool(found.raw.any()):  # what speaks against the class is cut off
        found = cnnviz.explain(module, pixels, method="gradcam", target=target, counterfactual=True)
    assert bool(torch.isfinite(found.raw).all()), "not finite"
    assert tuple(found.raw.shape[1:]) == layer.size, f"a map of {tuple(found.raw.shape[1:])} at {layer.size}"
    assert bool(found.raw.any()), "zero everywhere"
    leaf = pixels.clone().requires_grad_()
    score = first_output(module(leaf)).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, leaf)
    assert bool(gradient.any()), "the network's own gradient is zero"
    where = places(session, pixels)
    moves = where["cells_a_step"] > _LEAST_STEP or min(layer.size) == 1 or where["other_attention"]
    assert moves, f"cells move {where['cells_a_step']:.2f} a step"
    layout = "NCHW" if layer.layout is None else layer.layout.layout
    others = 0 if layer.layout is None else layer.layout.before + layer.layout.after
    return {"layer": layer.name, "grid": list(layer.size), "layout": layout, "other_tokens": others, **where}


def outcome(module: nn.Module, size: tuple[int, int], method: str | None = None) -> Figures:
    """What Grad-CAM (checked) or a method of attention matrices comes to: ``map`` or ``refused``, and why."""
    try:
        if method is None:
            return {"outcome": "map", **checked(module, size)}
        found = cnnviz.explain(module, images(size, 1), method=method, target=0)
        good = bool(torch.isfinite(found.raw).all()) and bool(found.raw.any())
        return {"outcome": "map" if good else "wrong", "layers": found.facts["attention_layers"]}
    except CnnvizError as error:
        return {"outcome": "refused", "reason": str(error).partition("\n")[0]}
    except AssertionError as error:
        return {"outcome": "wrong", "reason": str(error)}


def smallest(module: nn.Module, own: int) -> tuple[int, int]:
    """A small input that a network takes: taller than wide, then square, then its own."""
    for size in ((128, 96), (96, 96), (160, 160), (own, own)):
        try:
            with torch.no_grad():
                module(images(size, 1))
        except Exception:
            continue
        if min(size) >= 96:
            return size
    return own, own


def walk(library: str, name: str) -> Figures:
    """Both for one network; at its own size where a smaller one leaves too few cells to see them move."""
    module, own = build(library, name)
    for size in dict.fromkeys((smallest(module, own), (own, own))):
        calibrate(module, size)
        row: Figures = {"size": f"{size[0]}x{size[1]}", "gradcam": outcome(module, size)}
        if row["gradcam"]["outcome"] != "wrong":
            break
    row |= {method: outcome(module, size, method) for method in ATTENTION[:1]}
    if row["chefer"]["outcome"] == "map":
        row |= {method: outcome(module, size, method) for method in ATTENTION[1:]}
    return row


def _child(network: tuple[str, str], sender: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        sender.send(walk(*network))
    except Exception as error:
        sender.send({"error": f"{type(error).__name__}: {str(error)[:300]}"})


def in_own_process(network: tuple[str, str], seconds: float) -> Figures:
    """The row of a network; a crash or a hang ends only this row."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(network, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return dict(receiver.recv()) if receiver.poll(seconds) else {"error": f"after {seconds:.0f} seconds"}
    except EOFError:
        return {"error": "the process ended"}
    finally:
        process.kill()
        process.join()


def with_attention(families: Path) -> list[tuple[str, str, str]]:
    """Library, family and network of those that the walk over all families met attention in."""
    found: dict[tuple[str, str, str], None] = {}
    earlier = json.loads(families.read_text())
    for row in earlier["rows"]:
        for result in row["results"].values():
            reason = result.get("gradcam", {}).get("reason", "") if isinstance(result, dict) else ""
            if "attention" in reason or row.get("attention"):
                found[row["library"], row["family"], row["network"]] = None
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/attention_families.json"))
    parser.add_argument("--seconds", type=float, default=240, help="For each network.")
    parser.add_argument("--only", default="", help="A part of the network's name.")
    asked = parser.parse_args()
    kept: Figures = json.loads(asked.json.read_text()) if asked.json.exists() else {"rows": []}
    networks = [(row["library"], row["family"], row["network"]) for row in kept["rows"]]
    networks = networks or with_attention(Path("benchmarks/results/families.json"))
    rows = {row["network"]: row for row in kept["rows"]}
    for library, family, name in networks:
        if asked.only in name and (asked.only or "gradcam" not in rows.get(name, {})):
            began = time.monotonic()
            found = in_own_process((library, name), asked.seconds)
            rows[name] = {"library": library, "family": family, "network": name, **found}
            print(name, f"{time.monotonic() - began:.0f} s", json.dumps(found)[:300], flush=True)
            ordered = [rows[each] for _, _, each in networks if each in rows]
            asked.json.write_text(json.dumps({"machine": machine(), "rows": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
