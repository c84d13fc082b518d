"""Reads the photographs that ``--background`` names."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cnnviz.engine import runtime as rt
from cnnviz.errors import CnnvizError, ImageError, of_all
from cnnviz.io.decode import open_image
from cnnviz.io.digests import fingerprint
from cnnviz.io.sources import find_images, is_passed_over, open_file
from cnnviz.models.background import Background
from cnnviz.models.preprocess import Preprocess, normalize, prepare

MOST = 64
"""Photographs that are read of a folder of more."""


def handed_over(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method as Python code gives them: a tensor [B, C, H, W] as the network takes it is a background."""
    made = dict(options)
    for name, value in options.items():
        if isinstance(value, Tensor):
            if value.dim() != 4 or not len(value) or not value.is_floating_point():
                raise CnnvizError(
                    f"{name}: expected a float tensor [B, C, H, W], got {value.dtype} {list(value.shape)}.",
                    "Give preprocessed pictures, as the batch is.",
                )
            made[name] = Background("tensor", value, len(value))
    return made


def read_background(path: str, preprocess: Preprocess, note: Callable[[str], None] = lambda _: None) -> Background:
    """The photographs of a folder, or what else an INPUT may name, as the network is shown images.

    Of more than :data:`MOST` so many are drawn; in which order they are used does not depend on the run's seed, so that
    runs of different seeds are compared with the same photographs.

    Raises:
        CnnvizError: There are none that can be read.
    """
    refs = sorted(find_images([path]), key=lambda ref: ref.uri)
    made: list[Tensor] = []
    files: list[str] = []
    problems: list[str] = []
    others = 0
    note(f"--background {path}: photographs are read")
    for ref in random.Random(0).sample(refs, len(refs)):
        if len(made) == MOST:
            break
        try:
            with open_file(ref) as stream:
                image, place = open_image(stream), stream.tell()
                digest = fingerprint(ref, stream)["sha256"]
                stream.seek(place)
                made.append(prepare(image.decode().rgb, preprocess)[0])
                files.append(digest)
        except ImageError as error:
            if is_passed_over(ref, error):
                others += 1
            else:
                problems.append(f"{ref.name}: {error.message}")
        except (OSError, RuntimeError, ValueError) as error:
            problems.append(f"{ref.name}: {type(error).__name__}: {error}")
    if not made:
        why = problems[0] if problems else "no image is there"
        raise CnnvizError(f"--background {path}: {why}.", "Name a folder of photographs that can be read.")
    if len({tuple(each.shape) for each in made}) > 1:
        raise CnnvizError(
            f"--background {path}: with --view {preprocess.view} its photographs have different sizes.",
            "Use --view crop or --view squash.",
        )
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        note(f"--background {path}: {problems[0]}{more}: left out")
    found = len(refs) - others
    said = f"--background {path}: {of_all(len(made), found, 'photograph', 'was', 'were')} read"
    note(f"{said}; the network runs on them once for a trial, then for every image")
    with rt.scope():
        return Background(path, normalize(torch.stack(made), preprocess), found, files)
