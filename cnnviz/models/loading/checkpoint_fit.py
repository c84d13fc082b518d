"""The tensors of a checkpoint put into a network: names matched, every difference said, conversions told."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnviz.errors import CnnvizError, counted
from cnnviz.models.loading.checkpoint import Checkpoint
from cnnviz.models.loading.families import looks_like

# Counters and profiler figures that carry no weights.
_HARMLESS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$")
# torchvision's own DenseNet files still have the names of its first release.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
# Of several networks in one file: the average is what training scripts evaluate; the slow copy of a momentum
# encoder (MoCo's encoder_k, BYOL's target) is what they throw away.
_AVERAGED = {"ema", "ema_model", "model_ema", "ema_network", "teacher", "averaged_model", "swa_model"}
_THROWN_AWAY = {"encoder_k", "momentum_encoder", "encoder_momentum", "target", "target_encoder", "target_network"}
# Heads that help training and that evaluation does not run, of libraries' own networks.
_AUXILIARY = {
    "GoogLeNet": ("aux1.", "aux2."),
    "Inception3": ("AuxLogits.",),
    "InceptionV3": ("AuxLogits.",),
}
_LISTED = 10

_Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Candidate:
    """One way of reading the names.

    Attributes:
        rank: How many of the network's tensors it has, how many of their shape, and how likely its prefix is.
        prefix: Taken off.
        taken: What is taken off, in words.
        strip: A name of the file to a name of the network.
        names: The network's names to the file's, of all tensors behind the prefix.
    """

    rank: tuple[int, int, int]
    prefix: str
    taken: str
    strip: Callable[[str], str]
    names: Mapping[str, str]


def classes_in(checkpoint: Checkpoint, module: nn.Module) -> int | None:
    """How many classes a checkpoint was trained for, if that is all in which it differs from the network.

    Compares shapes: the classifier's weights (linear, or 1x1 convolution) differ in their first dimension only, all
    by the same pair of numbers, and nothing is missing. Heads that evaluation does not run are left aside.

    Returns:
        The file's number, or None when it is the network's own or cannot be told.
    """
    tensors, _ = _match(checkpoint, module)
    pairs = _class_pairs(tensors, _wanted(module))
    return next(iter(pairs))[0] if len(pairs) == 1 else None


def load_checkpoint(checkpoint: Checkpoint, module: nn.Module) -> tuple[str, ...]:
    """Put a checkpoint's tensors into a network, all of them.

    Returns:
        Notes for the record: which prefix was taken off, what was left out, what was converted.

    Raises:
        CnnvizError: if keys are missing or unexpected, or shapes or types differ.
    """
    tensors, notes = _match(checkpoint, module)
    wanted = _wanted(module)
    pairs = _class_pairs(tensors, wanted)
    if len(pairs) == 1:
        (in_file, in_model), key = next(iter(pairs.items()))
        raise CnnvizError(
            f"{checkpoint.path} was trained for {counted(in_file, 'class')} ({key}), the network has {in_model}",
            f"give --num-classes {in_file}",
        )
    tensors, more = _without_auxiliary(tensors, module)
    mismatched = _mismatched(tensors, wanted)
    problems = [
        _listed("missing", [key for key in wanted if key not in tensors and not _HARMLESS.search(key)]),
        _listed("unexpected", [key for key in _unexpected(tensors, module) if not _HARMLESS.search(key)]),
        _listed("of another shape", [f"{key} {a} instead of {b}" for key, (a, b) in mismatched.items()]),
        *_unusable(tensors, wanted),
    ]
    said = "; ".join(problem for problem in problems if problem)
    if said:
        family, hint = _advice(checkpoint)
        raise CnnvizError(f"{checkpoint.path} does not fit {type(module).__name__}: {said}{family}", hint)
    dense, converted = _converted(tensors, wanted)
    dense = _kept(dense, tensors)
    result = module.load_state_dict(dense, strict=False)
    assert not [key for key in result.missing_keys if key in wanted and not _HARMLESS.search(key)]
    return (*checkpoint.notes, *notes, *more, *converted)


def _kept(dense: OrderedDict[str, Tensor], tensors: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the versions that a module's own loading hooks look at."""
    metadata = getattr(tensors, "_metadata", None)
    if isinstance(metadata, Mapping):
        dense._metadata = metadata  # type: ignore[attr-defined]
    return dense


def _auxiliary(module: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of heads that evaluation does not run."""
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] in ("torchvision", "timm") and kind.__name__ in _AUXILIARY:
            return _AUXILIARY[kind.__name__]
    return ()


def _wanted(module: nn.Module) -> dict[str, Tensor]:
    """The network's tensors that evaluation reads."""
    unread = _auxiliary(module)
    return {key: value for key, value in module.state_dict().items() if not (unread and key.startswith(unread))}


def _without_auxiliary(
    tensors: OrderedDict[str, Tensor], module: nn.Module
) -> tuple[OrderedDict[str, Tensor], tuple[str, ...]]:
    """Without heads that evaluation does not run, where those of the file have another shape or another place."""
    unread, have = _auxiliary(module), module.state_dict()
    odd = [
        key
        for key, value in tensors.items()
        if unread and key.startswith(unread) and (key not in have or have[key].shape != value.shape)
    ]
    if not odd:
        return tensors, ()
    rest = OrderedDict((key, value) for key, value in tensors.items() if not key.startswith(unread))
    heads = ", ".join(sorted({key.split(".")[0] for key in odd}))
    return _kept(rest, tensors), (f"auxiliary heads left out, which evaluation does not run: {heads}",)


def _unexpected(tensors: Mapping[str, Tensor], module: nn.Module) -> list[str]:
    have = module.state_dict()
    return [key for key in tensors if key not in have]


def _advice(checkpoint: Checkpoint) -> tuple[str, str]:
    """What the names look like, and what to type."""
    shapes = {key: tuple(value.shape) for key, value in checkpoint.tensors.items()}
    family, model = looks_like(shapes)
    said = f"; its tensors look like those of {family}" if family else ""
    if model:
        return said, f"give --model {model}"
    return said, "give the --model that it was trained as, or a factory: --model file.py:function"


def _listed(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} {what}: {', '.join(sorted(keys)[:_LISTED])}{more}"


# Shapes and types.


def _mismatched(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, _Shapes]:
    """Keys that both have in different shapes: the file's, the network's."""
    shared = {key: (tuple(tensors[key].shape), tuple(wanted[key].shape)) for key in tensors if key in wanted}
    return {key: (there, here) for key, (there, here) in shared.items() if there != here}


def _class_pairs(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[tuple[int, int], str]:
    """(file's, network's) class numbers and one key for each; empty if anything else differs."""
    if any(key not in tensors and not _HARMLESS.search(key) for key in wanted):
        return {}
    pairs: dict[tuple[int, int], str] = {}
    for key, (there, here) in _mismatched(tensors, wanted).items():
        if len(there) != len(here) or not there or there[1:] != here[1:]:
            return {}
        pairs.setdefault((there[0], here[0]), key)
    return pairs


def _unusable(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Tensors that hold no numbers, or numbers that are no weights: indices, masks, levels of a quantisation."""
    empty, other = [], []
    for key, value in tensors.items():
        if key not in wanted or _HARMLESS.search(key):
            continue
        kind = wanted[key].dtype
        if value.is_meta:
            empty.append(key)
        elif not value.is_quantized and value.dtype != kind and not _holds(value, kind):
            other.append(f"{key} {_plain(value.dtype)} instead of {_plain(kind)}")
    return [_listed("without values (saved from the meta device)", empty), _listed("of another type", other)]


def _holds(value: Tensor, kind: torch.dtype) -> bool:
    """Whether values can go into a tensor of another type: floats into floats, others where all stay the same."""
    if kind.is_floating_point or kind.is_complex:
        return value.is_floating_point() or (kind.is_complex and value.is_complex())
    if value.is_complex() or value.layout != torch.strided:
        return False
    return torch.equal(value.to(kind).to(value.dtype), value)


def _plain(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _converted(
    tensors: OrderedDict[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[OrderedDict[str, Tensor], tuple[str, ...]]:
    """Sparse and quantised tensors as plain ones; their shapes are the network's by now."""
    done: OrderedDict[str, Tensor] = OrderedDict()
    quantized = 0
    for key, value in tensors.items():
        if key in wanted and value.is_quantized:
            value, quantized = value.dequantize(), quantized + 1
        elif key in wanted and value.layout != torch.strided:
            value = value.to_dense()
        done[key] = value
    return done, (f"{quantized} quantised tensors were turned into floats",) if quantized else ()


# Names.


def _match(checkpoint: Checkpoint, module: nn.Module) -> tuple[OrderedDict[str, Tensor], tuple[str, ...]]:
    """The tensors under the network's names: the wrapping that makes most of them fit is taken off."""
    wanted = {key: value for key, value in _wanted(module).items() if not _HARMLESS.search(key)}
    candidates = list(_candidates(checkpoint, wanted))
    best = max(candidates, key=lambda candidate: candidate.rank, default=None)
    if best is None or best.rank[0] == 0:
        theirs, ours = (", ".join(list(names)[:3]) for names in (checkpoint.tensors, wanted))
        family, hint = _advice(checkpoint)
        raise CnnvizError(
            f"none of the {len(checkpoint.tensors)} tensors of {checkpoint.path} ({theirs}, …) is one of"
            f" {type(module).__name__} ({ours}, …){family}",
            hint,
        )
    notes = [f"taken off the names in {checkpoint.path.name}: {best.taken}"] if best.taken else []
    notes.extend(_rivals(checkpoint, candidates, best, wanted))
    outside = set(checkpoint.tensors) - set(best.names.values())
    if outside:
        notes.append(f"left out of {checkpoint.path.name}: {_listed('tensors', sorted(outside))}")
    renamed = OrderedDict((key, checkpoint.tensors[old]) for key, old in best.names.items())
    metadata = getattr(checkpoint.tensors, "_metadata", None)
    if isinstance(metadata, Mapping):
        renamed._metadata = {best.strip(key): value for key, value in metadata.items()}  # type: ignore[attr-defined]
    return renamed, tuple(notes)


def _candidates(checkpoint: Checkpoint, wanted: Mapping[str, Tensor]) -> Iterator[_Candidate]:
    for dropped, rename in _renamings():
        names = {rename(key): key for key in checkpoint.tensors}
        if len(names) < len(checkpoint.tensors):
            continue
        for prefix in _prefixes(list(names), list(wanted)):
            fitting = {key[len(prefix) :]: old for key, old in names.items() if key.startswith(prefix)}
            shared = [key for key in fitting if key in wanted]
            same = sum(checkpoint.tensors[fitting[key]].shape == wanted[key].shape for key in shared)
            taken = " and ".join(part for part in (dropped, f"prefix {prefix!r}" if prefix else "") if part)
            rank = (len(shared), same, _likely(prefix))
            yield _Candidate(rank, prefix, taken, _stripper(rename, prefix), fitting)


def _likely(prefix: str) -> int:
    parts = set(prefix.split("."))
    return bool(parts & _AVERAGED) - bool(parts & _THROWN_AWAY)


def _rivals(
    checkpoint: Checkpoint, candidates: Sequence[_Candidate], best: _Candidate, wanted: Mapping[str, Tensor]
) -> list[str]:
    """Told: other networks in the file that fit as well as the one that was taken.

    Raises:
        CnnvizError: if nothing says which of them is meant, and they differ.
    """

    def sources(candidate: _Candidate) -> dict[str, str]:
        return {key: old for key, old in candidate.names.items() if key in wanted}

    ours = sources(best)
    others: list[_Candidate] = []
    for candidate in candidates:
        theirs = sources(candidate)
        if candidate.rank[:2] != best.rank[:2] or best.rank[0] < len(wanted) or theirs == ours:
            continue
        if not all(_equal(checkpoint.tensors[theirs[key]], checkpoint.tensors[ours[key]]) for key in ours):
            others.append(candidate)
    if not others:
        return []
    listed = ", ".join(repr(prefix) for prefix in sorted({candidate.prefix for candidate in others})[:_LISTED])
    if any(candidate.rank == best.rank for candidate in others):
        raise CnnvizError(
            f"{checkpoint.path} holds several networks that fit: {best.prefix!r} and {listed}",
            f"save the one that is meant: {{k.removeprefix({best.prefix!r}): v for k, v in tensors.items()"
            f" if k.startswith({best.prefix!r})}}",
        )
    kind = "the averaged weights" if best.rank[2] > 0 else "the others are a momentum copy"
    return [f"{checkpoint.path.name} holds several networks: {best.prefix!r} was taken ({kind}), not {listed}"]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    plain = one.layout == other.layout == torch.strided and not (one.is_meta or other.is_meta)
    return plain and one.dtype == other.dtype and torch.equal(one, other)


def _stripper(rename: Callable[[str], str], prefix: str) -> Callable[[str], str]:
    return lambda key: rename(key).removeprefix(prefix).removeprefix(prefix.rstrip("."))


def _renamings() -> Iterator[tuple[str, Callable[[str], str]]]:
    """Ways to clean names, the least intrusive first; ``torch.compile`` and DataParallel may sit inside."""
    yield "", lambda key: key
    for parts in (("_orig_mod",), ("module",), ("_orig_mod", "module")):
        label = " and ".join(f"'{part}.'" for part in parts)
        yield (
            label,
            lambda key, parts=parts: ".".join(  # type: ignore[misc]
                part for part in key.split(".") if part not in parts
            ),
        )
    yield "the older spelling of DenseNet's layers", lambda key: _OLD_DENSENET.sub(r"\1\2", key)


def _prefixes(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """What stands before a few of the network's names, shortest first: ``module.``, ``model.model.``, …"""
    probes = {wanted[0], wanted[len(wanted) // 2], wanted[-1]} if wanted else set()
    found = {name[: -len(probe)] for name in names for probe in probes if name.endswith("." + probe)}
    return sorted({"", *found}, key=lambda prefix: (len(prefix), prefix))
