"""Networks by name: the bundled one, torchvision's classifiers, timm's models.

Each becomes a :class:`Recipe`, so that loading treats them alike. Weights are looked for on the machine
first; only if they are not there and their host answers within seconds is anything downloaded.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
from torch import nn

from cnnviz.errors import CnnvizError, first_line, nearest
from cnnviz.models.loading import bundled
from cnnviz.models.loading.libraries import timm, torchvision_models
from cnnviz.models.loading.listed_boxes import without_background
from cnnviz.models.loading.transforms import from_timm, from_torchvision
from cnnviz.models.preprocess import Preprocess

# How long an unreachable host may hold up the error message.
_PROBE_SECONDS = 5.0
_READ_SECONDS = 30.0
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_WITHOUT_NETWORK = "or go on without a network: --weights none, --checkpoint FILE, or the bundled efficientnet_lite0"


@dataclass(frozen=True)
class Recipe:
    """How to make one network.

    Args:
        name: As it goes into the record.
        source: ``"bundled"``, ``"torchvision"`` or ``"timm"``.
        weights: Name of the weights, or None for random ones.
        build: Class count (None: the architecture's own) and the tensor names of a checkpoint (empty: none)
            to the network with random weights.
        pretrained: The network with its weights.
        preprocess: What the weights were trained on.
        labels: Class names of the weights, empty if unknown.
        files: What says which weights they are, when they were loaded; None where that is not known.
    """

    name: str
    source: str
    weights: str | None
    build: Callable[[int | None, frozenset[str]], nn.Module]
    pretrained: Callable[[], nn.Module]
    preprocess: Preprocess
    labels: tuple[str, ...]
    files: Callable[[], tuple[str | Path, ...] | None]


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet categories as torchvision spells them."""
    return tuple(torchvision_models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def synsets_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, if these are their names in ImageNet's order; else nothing.

    Spelling does not matter, and a few names may be other synonyms: lists differ in these.
    """
    known = imagenet_labels() if len(labels) == 1000 else ()
    pairs = zip(known, labels, strict=False)
    alike = sum(name.casefold() in re.split(r",\s*", label.casefold()) for name, label in pairs)
    if not known or alike < 900:
        return ()
    from timm.data import imagenet_info

    return tuple(cast(Any, imagenet_info).ImageNetInfo("imagenet-1k").label_names())


def is_none(weights: str) -> bool:
    return weights.casefold() == "none"


def find(name: str, weights: str, channels: int) -> Recipe:
    """The recipe of a network by name.

    Args:
        name: ``efficientnet_lite0``, a torchvision classifier, or ``timm/NAME``.
        weights: ``DEFAULT``, a name of the network's weights, or ``none``.
        channels: Channels of the images (1 or 3).

    Raises:
        CnnvizError: if there is no such network or no such weights.
    """
    if name == bundled.NAME:
        return _bundled(weights, channels)
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"), weights, channels)
    if name.lower() in torchvision_names():
        return _torchvision(name.lower(), weights, channels)
    raise _unknown(name)


def torchvision_names() -> list[str]:
    """Torchvision's classifiers, then its segmentation networks and its detectors."""
    homes = (torchvision_models, torchvision_models.segmentation, torchvision_models.detection)
    return [str(name) for home in homes for name in torchvision_models.list_models(module=home)]


def _unknown(name: str) -> CnnvizError:
    if name.lower() in torchvision_models.list_models():
        return CnnvizError(
            f"{name} gives no classes, segments or boxes; cnnviz loads torchvision's networks for these by name",
            "give a classifier, such as resnet50, or its backbone by a factory: --model file.py:function",
        )
    if timm.is_model(name):
        return CnnvizError(f"{name} is not a torchvision model but one of timm", f"give --model timm/{name}")
    if name.endswith((".pt", ".pth", ".bin", ".safetensors")):
        return CnnvizError(f"--model {name} is a file of weights", f"give --checkpoint {name} and a --model")
    if name.endswith(".py"):
        return CnnvizError(f"--model {name} names no function in the file", f"give --model {name}:FUNCTION")
    known = [bundled.NAME, *torchvision_names()]
    hint = nearest(name, known) or nearest(f"timm/{name}", [f"timm/{model}" for model in timm.list_models()])
    return CnnvizError(
        f"no model called {name!r}",
        hint or "give a torchvision classifier (resnet50), timm/NAME, package:function or file.py:function",
    )


def _bundled(weights: str, channels: int) -> Recipe:
    if not is_none(weights) and weights.upper() not in ("DEFAULT", "IMAGENET1K"):
        raise CnnvizError(
            f"{bundled.NAME} has no weights called {weights!r}; there is DEFAULT",
            "give --weights DEFAULT, or none for random ones",
        )

    def pretrained() -> nn.Module:
        if channels != 3:
            raise CnnvizError(
                f"the weights of {bundled.NAME} take 3 channels, --input-size asks for {channels}",
                "leave the channels out of --input-size: grey images are shown as RGB",
            )
        module = bundled.build()
        bundled.load_weights(module)
        return module

    return Recipe(
        name=bundled.NAME,
        source="bundled",
        weights=None if is_none(weights) else "IMAGENET1K",
        build=lambda classes, _: bundled.build(1000 if classes is None else classes, channels),
        pretrained=pretrained,
        preprocess=bundled.PREPROCESS,
        labels=imagenet_labels(),
        files=lambda: None if (file := bundled.weights_file()) is None else (file,),
    )


def _torchvision(name: str, weights: str, channels: int) -> Recipe:
    if channels != 3:
        raise CnnvizError(
            f"{name} of torchvision takes 3 channels, --input-size asks for {channels}",
            "leave the channels out of --input-size, or give --model timm/NAME or file.py:function",
        )
    members: dict[str, Any] = dict(torchvision_models.get_model_weights(name).__members__)
    asked = "DEFAULT" if is_none(weights) else weights.rpartition(".")[2].upper()
    if asked not in members:
        raise CnnvizError(
            f"{name} has no weights called {weights!r}; there are {', '.join(members)} and none",
            nearest(weights, members) or "give --weights DEFAULT, or none for random ones",
        )
    entry = members[asked]
    categories = tuple(entry.meta.get("categories") or ())
    extra: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}

    def build(classes: int | None, keys: frozenset[str]) -> nn.Module:
        if name in torchvision_models.list_models(module=torchvision_models.segmentation):
            return _segmenter(name, classes, keys)
        extra.update({"weights_backbone": None} if detects(name) else {})
        if name in ("googlenet", "inception_v3"):
            extra["aux_logits"] = any(key.split(".")[0] in ("aux1", "AuxLogits") for key in keys)
        count = {} if classes is None else {"num_classes": classes}
        module = torchvision_models.get_model(name, weights=None, **count, **extra)
        if "aux_logits" in extra and not is_none(weights):
            module.transform_input = True  # what the weights of these two were trained with
        return cast(nn.Module, module)

    def pretrained() -> nn.Module:
        if not categories:
            raise CnnvizError(
                f"the weights {entry.name} of {name} have no classifier, only features",
                f"give --weights {members['DEFAULT'].name}",
            )
        file = hub_file(entry.url)
        hint = f"put {file.name} into {file.parent} (TORCH_HOME moves it), {_WITHOUT_NETWORK}"
        with _fetching(f"{name} ({entry.name})", file.name, entry.url, hint, cached=file):
            return cast(nn.Module, torchvision_models.get_model(name, weights=entry, progress=sys.stderr.isatty()))

    return Recipe(
        name=name,
        source="torchvision",
        weights=None if is_none(weights) else entry.name,
        build=build,
        pretrained=pretrained,
        preprocess=_of_detector(name) if detects(name) else from_torchvision(entry.transforms()),
        labels=without_background(categories) if detects(name) else categories,
        files=lambda: (hub_file(entry.url),),
    )


def detects(name: str) -> bool:
    """Whether a network of torchvision finds boxes."""
    return name in torchvision_models.list_models(module=torchvision_models.detection)


def _of_detector(name: str) -> Preprocess:
    """What a detector of torchvision is given: pixels from 0 to 1, which it resizes and normalises itself.

    SSD presses all images into one size; the others keep the aspect ratio, with the shorter side here that which they
    give it themselves.
    """
    pressed, side = name.startswith("ssd"), 300 if name.startswith("ssd300") else 320 if "320" in name else 800
    return Preprocess(
        (3, side, side),
        (side, side) if pressed else side,
        (0.0,) * 3,
        (1.0,) * 3,
        "bilinear",
        view="squash" if pressed else "whole",
    )


def _segmenter(name: str, classes: int | None, keys: frozenset[str]) -> nn.Module:
    """A segmentation network of torchvision with random weights; with a second head if a checkpoint has one."""
    auxiliary = any(key.split(".")[0] == "aux_classifier" for key in keys)
    second = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    count = {} if classes is None else {"num_classes": classes}
    made = torchvision_models.get_model(name, weights=None, weights_backbone=None, **second, **count)
    return cast(nn.Module, made)


def _timm(name: str, weights: str, channels: int) -> Recipe:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = [f"timm/{model}" for model in timm.list_models()]
        raise CnnvizError(
            f"timm {timm.__version__} has no model called {architecture!r}",
            nearest(f"timm/{architecture}", known) or "see timm.list_models()",
        )
    if weights.upper() != "DEFAULT" and not is_none(weights):
        tag = weights
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise CnnvizError(
            f"{architecture} of timm has no weights called {tag!r}; there are {', '.join(tags) or 'none'}",
            nearest(tag, tags) or "give --weights none for random ones",
        )
    full = f"{architecture}.{tag}" if tag else architecture
    config: dict[str, Any] = cast(Any, timm.get_pretrained_cfg(full)).to_dict()
    create: Any = timm.create_model

    def build(classes: int | None, _: frozenset[str]) -> nn.Module:
        count = {} if classes is None else {"num_classes": classes}
        return cast(nn.Module, create(full, pretrained=False, in_chans=channels, **count))

    return Recipe(
        name=f"timm/{full}",
        source="timm",
        weights=None if is_none(weights) else str(config.get("tag") or tag or "DEFAULT"),
        build=build,
        pretrained=lambda: _timm_pretrained(full, config, channels),
        preprocess=from_timm(config),
        labels=_timm_labels(config),
        files=lambda: _timm_files(config),
    )


def _timm_labels(config: dict[str, Any]) -> tuple[str, ...]:
    if config.get("num_classes") == 1000:
        return imagenet_labels()
    from timm.data import imagenet_info

    info = cast(Any, imagenet_info)
    subset = info.infer_imagenet_subset(config)
    return tuple(info.ImageNetInfo(subset).label_descriptions()) if subset else ()


def _timm_pretrained(name: str, config: dict[str, Any], channels: int) -> nn.Module:
    from huggingface_hub import constants

    from cnnviz.models.loading.checkpoint import read_checkpoint

    create: Any = timm.create_model
    repository, url = config.get("hf_hub_id"), config.get("url") or ""
    if not repository and not url:
        raise CnnvizError(f"timm has no weights for {name}", "give --weights none or --checkpoint FILE")
    if not repository:
        file = hub_file(url)
        hint = f"put {file.name} into {file.parent} (TORCH_HOME moves it), {_WITHOUT_NETWORK}"
        with _fetching(f"timm/{name}", file.name, url, hint, cached=file):
            return cast(nn.Module, create(name, pretrained=True, in_chans=channels))
    wanted = config.get("hf_hub_filename")
    cached = hub_cached(repository, wanted)
    overlay: dict[str, Any] = {}
    if cached and not config.get("custom_load"):
        # Handed over directly: the hub's client would ask the network about a file that is already here.
        overlay = {"pretrained_cfg_overlay": {"state_dict": dict(read_checkpoint(cached).tensors)}}
    hint = (
        f"fetch it where there is a network (cache {constants.HF_HUB_CACHE}, HF_HOME moves it) and copy it, "
        f"{_WITHOUT_NETWORK}"
    )
    what = f"{wanted or _HUB_FILES[0]} of the Hugging Face repository {repository}"
    here = Path(cached) if cached else None
    with _fetching(f"timm/{name}", what, constants.ENDPOINT, hint, cached=here):
        return cast(nn.Module, create(name, pretrained=True, in_chans=channels, **overlay))


def _timm_files(config: dict[str, Any]) -> tuple[str | Path, ...] | None:
    """The weights of a configuration, and of a repository which of its revisions is the present one."""
    repository, url = config.get("hf_hub_id"), config.get("url") or ""
    if not repository:
        return (hub_file(url),)
    found = hub_cached(repository, config.get("hf_hub_filename"))
    present = None if found is None else Path(found).parents[2] / "refs" / "main"
    return None if found is None or present is None or not present.is_file() else (found, present)


def hub_file(url: str) -> Path:
    """Where torch keeps the file of this address, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def hub_cached(repository: str, filename: str | None) -> str | None:
    """Path of the weights of a Hugging Face repository in this machine's cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    names = [filename] if filename else _HUB_FILES
    return next((path for item in names if isinstance(path := try_to_load_from_cache(repository, item), str)), None)


@contextlib.contextmanager
def _fetching(model: str, what: str, url: str, hint: str, *, cached: Path | None) -> Iterator[None]:
    """Load weights through a library, failing fast when offline and keeping standard output clean."""
    here = cached is not None and cached.exists()
    host = urlsplit(url).hostname or url
    if not here and not reachable(host):
        raise CnnvizError(f"the weights of {model} are not on this machine and {host} cannot be reached: {what}", hint)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_READ_SECONDS)  # torch opens the address without any
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except CnnvizError:
        raise
    except Exception as error:  # network, disk, hash, unpickling: each library has its own
        reason = first_line(error, "")
        if here:
            raise CnnvizError(
                f"the weights of {model} in {cached} cannot be used: {type(error).__name__} {reason}",
                "delete that file so that it is fetched again",
            ) from error
        raise CnnvizError(
            f"fetching the weights of {model} from {host} failed: {what}: {type(error).__name__} {reason}",
            hint,
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def reachable(host: str, port: int = 443) -> bool:
    """Does the host (or the proxy in front of it) take a connection within five seconds?

    In a thread, because looking up a name knows no time limit.
    """
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    if proxy and (split := urlsplit(proxy if "//" in proxy else f"//{proxy}")).hostname:
        host, port = split.hostname, split.port or 80
    answered = threading.Event()

    def knock() -> None:
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
            answered.set()

    thread = threading.Thread(target=knock, daemon=True, name="cnnviz-reachable")
    thread.start()
    thread.join(_PROBE_SECONDS)
    return answered.is_set()
