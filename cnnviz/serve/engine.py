"""Maps for a page: one prepared network, questions in, records and pictures out. One request at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnnviz.engine import runtime as rt
from cnnviz.engine.cut import Cut
from cnnviz.engine.layer_table import LayerRow, layer_table
from cnnviz.errors import CnnvizError, ImageError, in_percent
from cnnviz.io.encode import ImageFormat, encode
from cnnviz.io.store import Store
from cnnviz.maps.explainer import Explainer
from cnnviz.maps.placing import on_photograph
from cnnviz.maps.segment_picture import outlined
from cnnviz.maps.target_list import TargetList, targets_of
from cnnviz.maps.write_image import ImageResult, OutputStyle, draw
from cnnviz.models.preprocess import Geometry
from cnnviz.pipeline import output_style
from cnnviz.records import Record
from cnnviz.registry import lookup
from cnnviz.registry.specs import CommandSpec, MethodSpec
from cnnviz.render.colormap import AUTO, COLORMAPS
from cnnviz.render.grid import thumbnail
from cnnviz.render.overlay import Style, drawn_colormap, drawn_limits, layer, overlay
from cnnviz.report import cautions
from cnnviz.run.command_line import command_line
from cnnviz.run.prepared_model import PreparedModel
from cnnviz.serve.images import LONGEST_SIDE, ImageShelf, KeptImage
from cnnviz.serve.network import Latest, SharedNetwork
from cnnviz.serve.questions import Drawing, Question, check_target, option_facts, settings_of
from cnnviz.settings import RunSettings
from cnnviz.strict_json import finite

DOWNLOADS = {"overlay": "overlay.png", "heatmap": "heatmap.png", "raw": "raw.npz"}
"""Kinds of files that a map is downloaded as, with the ends of their names."""
_LISTED = 20
_RESULTS, _ROOM = 64, 1 << 29
# An entry that explains any network without gradients: what is listed of an image needs no examination.
_ENTRY = "occlusion"
_PNG, _PHOTO = ImageFormat("png"), ImageFormat("jpg")


@dataclass(frozen=True, eq=False)
class Result:
    """A map that was made.

    Attributes:
        key: Names it in requests.
        image: Key of the image.
        record: As ``records.jsonl`` of the run that gives the same map has it, without files.
        command: That run, as a person types it.
        notes: What was told on the way.
        done: The map and its image.
        style: How a run draws it.
    """

    key: str
    image: str
    record: dict[str, Any]
    command: str
    notes: tuple[str, ...]
    done: ImageResult
    style: OutputStyle

    def to_dict(self) -> dict[str, Any]:
        """As the page gets it."""
        (item,) = self.done.maps
        placed, shown = on_photograph(self.done, item, self.style.style)
        made: dict[str, Any] = finite(
            {
                "result": self.key,
                "asked": self.image,
                "record": self.record,
                "command": self.command,
                "notes": list(self.notes),
                "signed": placed.signed,
                "colormap": drawn_colormap(shown, self.style.style),
                "limits": list(drawn_limits(shown, self.style.style)),
                "outline": item.outline is not None,
            }
        )
        return made


class Explorer:
    """The network and the images of a live explorer.

    Args:
        base: What was asked for when it was started: inputs, model, task, runtime.
        note: Told what the user should know of the network.
        scratch: A folder for what lies on disk for a moment; None for the system's.

    Raises:
        CnnvizError: The network cannot be had.
    """

    def __init__(self, base: RunSettings, note: Callable[[str], None], scratch: str | None = None) -> None:
        self.base, self.scratch = base, scratch
        self.shared = SharedNetwork()
        self.told: list[str] = []

        def tell(text: str) -> None:
            self.told.append(text)
            note(text)

        listing = replace(base.target, method=_ENTRY, top=max(_LISTED, base.target.top))
        self.prepared: PreparedModel = self.shared.prepared(
            replace(base, target=listing), Cut.before_classifier(), 1, tell
        )
        self.shelf = ImageShelf(base.inputs, base.limit, self.prepared)
        self._results: Latest[Result] = Latest(_RESULTS, _ROOM)
        self._refusals: Latest[CnnvizError] = Latest(_RESULTS)
        self._looks: Latest[TargetList] = Latest(_RESULTS)
        self._rows: Latest[Sequence[LayerRow]] = Latest(1)
        self.store = Store(f"memory://cnnviz-serve-{secrets.token_hex(8)}")

    def threads(self) -> Any:
        """All threads of the machine, for the one request that runs."""
        return rt.threads(self.prepared.lanes.one.threads)

    # What there is.

    def model(self) -> dict[str, Any]:
        """The network, its task, and what can be chosen."""
        task = self.prepared.task_spec
        header = self.prepared.header()
        default = task.instead.get("gradcam", "gradcam")
        return {
            "model": {key: header.model[key] for key in ("name", "parameters", "num_classes", "task", "input_size")},
            "environment": {"device": header.environment["device"], "precision": header.environment["precision"]},
            "classes": list(self.prepared.classes.labels) if task.classes else [],
            "task": {"name": task.name, "dense": task.dense, "boxes": task.boxes},
            "view": self.prepared.preprocess.view,
            "default_method": default,
            "methods": [{**method_facts(spec), **self._refused(spec)} for spec in self._methods()],
            "colormaps": [AUTO, *COLORMAPS],
            "samples": self.shelf.samples(),
            "notes": list(dict.fromkeys(self.told)),
        }

    def _methods(self) -> Sequence[MethodSpec]:
        """The methods that this network can be asked for."""
        boxes = self.prepared.task_spec.boxes
        return [spec for spec in lookup.all_methods() if boxes or "boxes" not in spec.needs]

    def _refused(self, spec: MethodSpec) -> dict[str, str]:
        """Why this network cannot be asked for a method, where that is known beforehand."""
        graph = self.prepared.session.graph
        if "attention" not in spec.needs or (graph is not None and graph.attention):
            return {}
        return {"missing": "the network has no attention" if graph is not None else "the network is not traced"}

    def layers(self) -> list[dict[str, Any]]:
        """The layers that are maps, as ``cnnviz layers`` lists them."""
        return [
            {"name": row.name, "type": row.type, "shape": list(row.output_shape), "default": row.default_target}
            for row in self.layer_rows()
            if len(row.output_shape) == 3 and row.output_stride is not None and row.type != "Identity"
        ]

    def layer_rows(self) -> Sequence[LayerRow]:
        """All layers."""
        loaded, asked = self.prepared.loaded, self.base

        def table() -> Sequence[LayerRow]:
            key, tracing = asked.target.logits_key, asked.runtime.tracing
            return layer_table(
                loaded.module, loaded.name, loaded.preprocess.input_size, key, tracing, self.prepared.session.boxes
            )

        return self._rows.once("layers", table)

    def look(self, image: KeptImage) -> TargetList:
        """What can be asked of an image."""
        return self._looks.once(image.key, lambda: targets_of(self.prepared, image.item))

    # Maps.

    def explain(self, question: Question) -> Result:
        """The map that is asked for.

        Raises:
            CnnvizError: It cannot be had, with the reason.
        """
        known = self._results.get(question.key)
        if known is not None:
            return known
        image = self.shelf.find(question.image)
        refused = self._refusals.get(question.key)
        if refused is not None:
            raise CnnvizError(refused.message, refused.hint)
        try:
            return self._explained(question, image)
        except ImageError:
            raise
        except CnnvizError as error:
            # The network was cut and tried to find it out: not again for the same question.
            raise self._refusals.put(question.key, CnnvizError(error.message, error.hint)) from error

    def _explained(self, question: Question, image: KeptImage) -> Result:
        if question.target is not None:
            check_target(question.target, [each.spec for each in self.look(image).asked])
        settings = settings_of(question, self.base, image.item.ref.uri, self.prepared.task_spec)
        notes: list[str] = []
        explainer = Explainer(settings, 1, notes.append, self.shared.prepared)
        (done,) = explainer.explain([image.item])
        if isinstance(done, Record):
            assert done.error is not None
            raise ImageError(done.error["type"], done.error["message"])
        # Where what is predicted is several things, such as the words of a text, the page shows the first.
        done = replace(done, maps=done.maps[:1])
        style = replace(output_style(settings, explainer, self.store, None), save=frozenset())
        record = finite(draw(done, style).to_dict(done.ref.name, None))
        fresh = tuple(text for text in dict.fromkeys(notes) if text not in self.told)
        fresh += _gap_of(record, question.method)
        made = Result(question.key, question.image, record, command_line(settings), fresh, done, style)
        return self._results.put(question.key, made, done.rgb.nbytes + sum(each.raw.nbytes for each in done.maps))

    def result(self, key: str) -> Result:
        """A map that was made.

        Raises:
            CnnvizError: It is not kept any more.
        """
        known = self._results.get(key)
        if known is None:
            raise CnnvizError("This map is not here any more.", "Ask for it again.")
        return known

    def layer_png(self, result: Result, how: Drawing) -> bytes:
        """The map's colours alone, with alpha, as the page lays them over the photograph."""
        done = at_size_of_page(result.done)
        style = Style(how.colormap, how.alpha)
        return encode(layer(on_photograph(done, done.maps[0], style)[1], style), _PNG)

    def shown_jpg(self, result: Result, how: Drawing) -> bytes:
        """The map over its photograph, as the page compares both."""
        done, style = at_size_of_page(result.done), Style(how.colormap, how.alpha)
        return encode(overlay(done.rgb, on_photograph(done, done.maps[0], style)[1], style), _PHOTO)

    def outline_png(self, result: Result) -> bytes:
        """The border of the region that is asked about, on nothing."""
        small = thumbnail(result.done.rgb, LONGEST_SIDE)
        drawn = outlined(result.done, result.done.maps[0], small.copy())
        there = (drawn != small).any(axis=2)
        return encode(np.dstack([drawn, np.where(there, 255, 0).astype(np.uint8)]), _PNG)

    def download(self, result: Result, kind: str, how: Drawing) -> bytes:
        """A file of the map, as a run writes it."""
        style = replace(result.style, save=frozenset({kind}), style=Style(how.colormap, how.alpha))
        files = draw(result.done, style).explanations[0].files
        return self.taken(files)[kind]

    def taken(self, files: Any) -> dict[str, bytes]:
        """What was written to memory, by kind; it is removed there."""
        found = {}
        for kind, name in files.items():
            found[kind] = self.store.read(name) or b""
            self.store.remove(name)
        return found


def _gap_of(record: dict[str, Any], method: str) -> tuple[str, ...]:
    """What a command tells at its end of a map that leaves out a part of the score."""
    share = record["explanations"][0]["scores"].get("gap_share")
    if share is None or share <= cautions.TOLERATED:
        return ()
    reason = lookup.find_method(method).gap
    return (f"this map leaves out {in_percent(share)} of the score{f': {reason}' if reason else ''}",)


def at_size_of_page(done: ImageResult) -> ImageResult:
    """The image as the page shows it: its maps are placed on so many pixels."""
    height, width = done.rgb.shape[:2]
    small = thumbnail(done.rgb, LONGEST_SIDE)
    across, down = small.shape[1] / width, small.shape[0] / height
    x0, y0, x1, y1 = done.geometry.rect
    rect = (x0 * across, y0 * down, x1 * across, y1 * down)
    return replace(done, rgb=small, geometry=Geometry((small.shape[1], small.shape[0]), rect))


def method_facts(spec: MethodSpec) -> dict[str, Any]:
    """A method as the page shows it."""
    return {
        "name": spec.name,
        "title": spec.title,
        "family": spec.family,
        "summary": spec.summary,
        "space": spec.space,
        "signed": spec.signed,
        "class_specific": spec.class_specific,
        "layer": spec.space == "layer",
        "forward": spec.forward,
        "backward": spec.backward,
        "missing": missing(spec),
        "options": [option_facts(param) for param in spec.params if param.type != "file"],
    }


def missing(spec: CommandSpec) -> str:
    """What must be installed before it can run; empty where nothing is missing."""
    try:
        for package in spec.packages:
            package.check(spec.command, spec.resolve_params({}))
    except CnnvizError as error:
        return error.hint
    return ""
