"""The channels of a layer for one image, for the dossier of a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cnnviz.engine.cut import Cut
from cnnviz.errors import CnnvizError, ImageError
from cnnviz.geometry.placement import place
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.records import Record
from cnnviz.registry import lookup
from cnnviz.render.grid import fit
from cnnviz.render.overlay import Style, layer
from cnnviz.run.command_line import command_line
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.serve.images import LONGEST_SIDE, KeptImage
from cnnviz.serve.questions import Drawing
from cnnviz.settings import DrawSettings, RunSettings
from cnnviz.strict_json import finite
from cnnviz.studies.activations.study import Activations
from cnnviz.studies.base import Observed
from cnnviz.studies.run import observed

_METHOD = "gradcam"
_PNG = ImageFormat("png")


@dataclass(frozen=True, eq=False)
class LayerValues:
    """A layer of one image.

    Attributes:
        layer: Its name.
        values: [C, h, w].
        facts: As ``cnnviz activations`` reports them: the strongest channels, how many are silent.
        grid: The picture of all channels.
        command: The run that gives the same.
        image: The image.
    """

    layer: str
    values: NDArray[np.float32]
    facts: dict[str, Any]
    grid: bytes
    command: str
    image: KeptImage

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.values.shape[1]), int(self.values.shape[2])

    def channel_png(self, channel: int, how: Drawing) -> bytes:
        """One channel's colours alone, with alpha, as the page lays them over the photograph.

        Raises:
            CnnvizError: There is no such channel.
        """
        if not 0 <= channel < len(self.values):
            raise CnnvizError(f"{self.layer} has channels 0 to {len(self.values) - 1}.", "Choose one of them.")
        width, height = self.image.size
        small = (
            fit((width, height), (LONGEST_SIDE, LONGEST_SIDE)) if max(width, height) > LONGEST_SIDE else (width, height)
        )
        x0, y0, x1, y1 = self.image.item.geometry.rect
        across, down = small[0] / width, small[1] / height
        values = self.values[channel]
        signed = float(values.min()) < 0
        placed = place(values, (x0 * across, y0 * down, x1 * across, y1 * down), small, signed=signed)
        return encode(layer(placed, Style(how.colormap, how.alpha)), _PNG)

    def to_dict(self) -> dict[str, Any]:
        """As the page gets it."""
        return {"image": self.image.key, "command": self.command, **self.facts}


def values_of(
    image: KeptImage, name: str | None, base: RunSettings, prepares: Callable[..., PreparedModel], store: Store
) -> LayerValues:
    """What a layer makes of an image, by the study of ``cnnviz activations``.

    Args:
        image: The image.
        name: The layer; None for the default one.
        base: Model, task and runtime of the explorer.
        prepares: Prepares the network.
        store: Where the study's pictures go, and are taken from.

    Raises:
        CnnvizError: There is no such layer, or it is no map.
    """
    spec = lookup.find_entry("activations")
    layers = (name,) if name else ()
    target = replace(base.target, method=spec.name, params=spec.resolve_params({}).to_dict(), layers=layers)
    settings = replace(
        base,
        command=spec.command,
        inputs=(image.item.ref.uri,),
        target=target,
        draw=DrawSettings(save=spec.default_save),
    )
    # For a method, whose tasks are more than those of studies: nothing is read here but activations.
    examined = lookup.find_method(_METHOD)
    prepared = prepares(settings, Cut.at_layers(*layers), 1, lambda text: None, spec=examined)
    study = Activations(prepared, cast(Any, spec.resolve_params({})), store)
    (seen,) = observed(study, [image.item])
    if isinstance(seen, Record):
        assert seen.error is not None
        raise ImageError(seen.error["type"], seen.error["message"])
    return _layer_values(image, study, seen, command_line(settings))


def _layer_values(image: KeptImage, study: Activations, seen: Observed, command: str) -> LayerValues:
    facts = study.draw(seen)
    grid = study.store.read(facts["files"]["channels"]) or b""
    for figure in facts["figures"]:
        study.store.remove(figure["file"])
    row = finite({key: value for key, value in facts["layers"][0].items() if key != "enlarged"})
    return LayerValues(str(row["layer"]), seen.seen[0].values, row, grid, command, image)
