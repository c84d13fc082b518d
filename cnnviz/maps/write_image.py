"""One explained image: place the maps on its pixels, measure, draw, encode, write. Runs in the encoder threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnviz.geometry.boxes import Box
from cnnviz.geometry.placement import PlacedMap, place
from cnnviz.geometry.truth import Truth
from cnnviz.io.encode import ImageFormat, encode, encode_npz
from cnnviz.io.sources import ImageRef
from cnnviz.io.store import Store
from cnnviz.maps.box_picture import box_tile, marked, pictured
from cnnviz.maps.caption_picture import Written
from cnnviz.maps.detection_picture import Detected, asked_boxes, boxed, how_sure
from cnnviz.maps.flat_maps import flat_reason
from cnnviz.maps.method_picture import method_picture
from cnnviz.maps.mistake_picture import by_method, common_limits
from cnnviz.maps.placing import Placing, on_photograph
from cnnviz.maps.segment_picture import Segmented, outlined, with_region
from cnnviz.maps.unplaced import ON_CELLS, scores_of
from cnnviz.metrics.chosen import MapMetrics
from cnnviz.metrics.contract import ExplainedImage
from cnnviz.models.preprocess import Geometry
from cnnviz.records import ClassScore, Explanation, PredictionScore, Record, TargetScore, WordScore
from cnnviz.registry.metrics import MAP_STATISTICS
from cnnviz.registry.specs import MethodSpec
from cnnviz.render.box_figure import BoxTile, box_figure, tile_photo
from cnnviz.render.gradient import gradient_image
from cnnviz.render.label_map import label_map
from cnnviz.render.legend import with_box, with_legend
from cnnviz.render.mistake import mistake_panel
from cnnviz.render.overlay import Style, drawn_limits, heatmap_image, overlay, with_unseen
from cnnviz.render.panel import PanelRow, PictureRow, panel, picture_panel, reduced
from cnnviz.report import cautions
from cnnviz.report.record_words import baseline_words, target_value, unit_instead

HEATMAP_FORMAT = ImageFormat("png", 1)
_RULES = {"guided": "guided backpropagation", "deconvnet": "deconvnet", "backprop": "backpropagation"}


@dataclass(frozen=True)
class OutputStyle:
    """How maps of a run are drawn and named.

    Attributes:
        store: The output folder.
        save: Kinds of files.
        style: Colours and limits.
        picture: Format of overlays and panels. Heatmaps are data and always PNG.
        labels: Class names by index.
        marks: What overlays also carry: ``legend``, ``box``.
        metrics: What is measured of each map.
        of_method: The same by method, where it is not the same of all.
        columns: Of a run of several methods their names in the order of a picture, with title and, of those that the
            network refuses, why.
        on_cells: Whether maps are measured on their cells; nothing is drawn then.
    """

    store: Store
    save: frozenset[str]
    style: Style
    picture: ImageFormat
    labels: Sequence[str] = ()
    marks: frozenset[str] = frozenset()
    metrics: MapMetrics = field(default_factory=lambda: MapMetrics([MAP_STATISTICS.request()]))
    of_method: Mapping[str, MapMetrics] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    on_cells: bool = False

    def within(self, limits: tuple[float, float] | None) -> OutputStyle:
        """The same with these values in the first and the last colour; None changes nothing."""
        return self if limits is None else replace(self, style=replace(self.style, limits=limits))


@dataclass(frozen=True, eq=False)
class TargetMap:
    """One map of one image: ``values`` is drawn [h, w], ``raw`` and ``arrays`` are stored as they are.

    ``layer`` is the one that was explained, if any; ``scores`` are the method's own figures of this map; ``facts`` are
    what the record says of it; ``truth_labels`` are those of the annotations that mean its class, ``counted_labels``
    those that no likelier class means which is explained too; ``outline`` is the part of the image that is asked about,
    as shares of cells [h, w], None for all of it; ``box`` is the one that is explained, in pixels of the image.
    """

    target: TargetScore
    slug: str
    method: MethodSpec
    layer: str | None
    values: NDArray[np.float32]
    raw: NDArray[np.float32]
    scores: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    truth_labels: tuple[str, ...] = ()
    counted_labels: tuple[str, ...] | None = None
    outline: NDArray[np.float32] | None = None
    box: Box | None = None


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What the model said about one image.

    ``of_image`` are facts of the record; ``truth`` is what is known of the image; ``meant_labels`` are those of its
    labels that mean a class of the network (None: all); ``guesses`` are its first classes (None: those of
    ``predictions``); ``classes`` are those at each position of a dense output [h, w].
    """

    ref: ImageRef
    rgb: NDArray[np.uint8]
    geometry: Geometry
    label: str | None
    predictions: tuple[PredictionScore, ...]
    maps: Sequence[TargetMap]
    of_image: Mapping[str, Any] = field(default_factory=dict)
    truth: Truth | None = None
    meant_labels: tuple[str, ...] | None = None
    guesses: tuple[int, ...] | None = None
    classes: NDArray[np.int64] | None = None

    @property
    def bytes_a_pixel(self) -> int:
        """What drawing takes at most, for each pixel of the image, beside the image: measured.

        A map and a copy of it, its regions, a picture with alpha and its file; pictures of gradients are floats
        in three colours. Of several maps two may be kept for those that equal them.
        """
        return 26 if len(self.maps) == 1 and self.maps[0].raw.ndim == 2 else 48


def draw(done: ImageResult, how: OutputStyle) -> Record:
    """Write the files of one image and return its record.

    Raises:
        CnnvizError: The output folder cannot be written.
    """
    if how.on_cells and (known := scores_of(done)) is not None:
        return _record(done, [_undrawn(item, own) for item, own in zip(done.maps, known, strict=True)], ON_CELLS)
    rows: list[Explanation] = []
    panel_rows: list[PanelRow] = []
    tiles: list[BoxTile] = []
    small: NDArray[np.uint8] | None = None
    beside: dict[Any, Any] = {}
    segmented = None if done.classes is None else Segmented(done, how.labels)
    detected = Detected(done) if "detections" in how.save else None
    written = Written(done) if "words" in how.save and any(isinstance(p, WordScore) for p in done.predictions) else None
    ranges = _ranges(done, how.style)
    placing = Placing(done)
    in_picture = pictured(done)
    for number, item in enumerate(done.maps):
        placed, shown = placing.at(number, how.style)
        own = how if not item.facts.get("role") else how.within(ranges.get(item.method.name))
        measured = how.of_method.get(item.method.name, how.metrics).score(
            placed, _image(done, item), done.truth, beside
        )
        scores = {**measured, **item.scores}
        flat = flat_reason(item) if scores.get("flat") else ""
        if "panel" in how.save:
            caution = "; ".join([*filter(None, (flat,)), *cautions.of_map(scores)])
            row = replace(_panel_row(done, item, shown), caution=caution)
            panel_rows.append(reduced(row, len(done.maps), own.style))
        if "boxes" in how.save and in_picture[number]:
            small = tile_photo(done.rgb) if small is None else small
            tiles.append(box_tile(small, done, item, shown, scores, own.style))
        files = _write_map(done, item, shown, scores["box_xywh"], own)
        facts = {**item.facts, "drawn_limits": list(drawn_limits(shown, own.style))}
        if segmented is not None:
            facts["evidence"] = segmented.evidence(placed)
            if "segments" in how.save:
                segmented.add(item, shown, facts["evidence"], own.style)
        if detected is not None:
            detected.add(item, shown, own.style)
        if written is not None:
            written.add(item, shown, own.style)
        if flat:
            facts["flat_reason"] = flat
        rows.append(Explanation(item.method.name, item.layer, item.target, files, scores, facts))
    figures = {"segments": segmented, "detections": detected, "words": written}
    _write_figures(done, how, rows, (panel_rows, tiles, figures))
    return _record(done, rows, {})


def _undrawn(item: TargetMap, measured: Mapping[str, Any]) -> Explanation:
    scores = {**measured, **item.scores}
    facts = {**item.facts, "flat_reason": flat_reason(item)} if scores.get("flat") else item.facts
    return Explanation(item.method.name, item.layer, item.target, {}, scores, facts)


def _record(done: ImageResult, rows: Sequence[Explanation], facts: Mapping[str, Any]) -> Record:
    return Record(
        path=done.ref.uri,
        width=done.rgb.shape[1],
        height=done.rgb.shape[0],
        label=done.label,
        predictions=done.predictions,
        explanations=tuple(rows),
        facts={**done.of_image, **facts},
    )


def _ranges(done: ImageResult, style: Style) -> dict[str, tuple[float, float]]:
    """The values in which the maps of truth and prediction are drawn, by method; none where all have a scale already.

    They are placed for it once before: an image's maps at its size all at once would take much memory.
    """
    if style.limits is not None:
        return {}
    maps = [item for item in done.maps if item.facts.get("role")]
    return common_limits((item, drawn_limits(on_photograph(done, item, style)[1], style)) for item in maps)


def _panel_row(done: ImageResult, item: TargetMap, shown: PlacedMap) -> PanelRow:
    score = item.target.logit if isinstance(item.target, ClassScore) and item.method.class_specific else None
    role = str(item.facts.get("role", ""))
    label = item.target.label if role and not _is_against(item) else _said(item)
    said = ", ".join(filter(None, (_kind(item), baseline_words(item.scores))))
    boxes = asked_boxes(done, item)
    return PanelRow(label, _sure(done, item), shown, said, None, score, role, boxes, value=_value(item))


def _write_figures(
    done: ImageResult,
    how: OutputStyle,
    rows: Sequence[Explanation],
    drawn: tuple[Sequence[PanelRow], Sequence[BoxTile], Mapping[str, Segmented | Detected | Written | None]],
) -> None:
    """The pictures that several maps share; each is named in the files of its maps."""
    panel_rows, tiles, figures = drawn
    if "panel" in how.save and rows:
        name = _write_panel(done, panel_rows, how)
        for row, of_panel in zip(rows, panel_rows, strict=True):
            if of_panel.role or not any(each.role for each in panel_rows):
                row.files["panel"] = name  # type: ignore[index]
    for kind, figure in figures.items():
        if figure is not None and kind in how.save and rows:
            name = f"images/{done.ref.name}.{kind}.{how.picture.suffix}"
            how.store.write(name, encode(figure.figure(), how.picture))
            for row in rows:
                row.files[kind] = name  # type: ignore[index]
    if tiles:
        name = _write_boxes(done, tiles, how)
        for row, own in zip(rows, pictured(done), strict=True):
            if own:
                row.files["boxes"] = name  # type: ignore[index]


def _image(done: ImageResult, item: TargetMap) -> ExplainedImage:
    """What metrics may know of the image."""
    ref = done.ref
    return ExplainedImage(
        ref.uri,
        ref.name,
        done.rgb,
        done.geometry.rect,
        item.target,
        done.predictions,
        done.label,
        item.method.name,
        item.truth_labels,
        item.counted_labels,
        done.meant_labels,
        done.guesses,
    )


def _is_against(item: TargetMap) -> bool:
    """Whether a map shows what speaks against its class."""
    return bool(item.facts.get("counterfactual"))


def _said(item: TargetMap) -> str:
    """What a map shows, as pictures say it."""
    if not item.method.class_specific:
        return f"no class ({item.method.name} does not look at it)"
    if instead := _unit_instead(item)[0]:
        return instead
    number = getattr(item.target, "number", None)  # of a detector's box
    label = with_region(item) if number is None else f"{number} {item.target.label}"
    return f"against {label}" if _is_against(item) else label


def _sure(done: ImageResult, item: TargetMap) -> float | None:
    """How sure the network is of what a map shows; None where the map is of no class."""
    return None if not item.method.class_specific or _unit_instead(item)[0] else how_sure(done, item)


def _value(item: TargetMap) -> str:
    """The score that a map explains, by its name, where it is of no class."""
    if not item.method.class_specific:
        return ""
    return _unit_instead(item)[1] or target_value(asdict(item.target))


def _unit_instead(item: TargetMap) -> tuple[str, str]:
    return unit_instead({**item.facts, "scores": item.scores, "layer": item.layer})


def _kind(item: TargetMap) -> str:
    """The method as file names and captions have it."""
    name = item.method.name.replace(":", "-")
    return f"{name}-counterfactual" if _is_against(item) else name


def _write_map(
    done: ImageResult, item: TargetMap, shown: PlacedMap, box_xywh: Sequence[int] | None, how: OutputStyle
) -> dict[str, str]:
    stem = f"images/{done.ref.name}.{item.slug}.{_kind(item)}"
    files: dict[str, str] = {}
    if "overlay" in how.save:
        files["overlay"] = f"{stem}.overlay.{how.picture.suffix}"
        picture = overlay(done.rgb, shown, how.style)
        picture = boxed(done, item, outlined(done, item, picture))
        if "box" in how.marks and box_xywh is not None:
            picture = with_box(picture, Box(*box_xywh))
        if "legend" in how.marks:
            label = ", ".join(filter(None, (_said(item), _value(item))))
            picture = with_legend(picture, label, _sure(done, item), shown, how.style)
        how.store.write(files["overlay"], encode(picture, how.picture))
    if "heatmap" in how.save:
        files["heatmap"] = f"{stem}.heatmap.png"
        how.store.write(files["heatmap"], encode(heatmap_image(shown, how.style), HEATMAP_FORMAT))
    if item.raw.ndim == 3 and ("gradient" in how.save or (item.method.colour and "heatmap" in how.save)):
        files["gradient"] = f"{stem}.gradient.{how.picture.suffix}"
        how.store.write(files["gradient"], encode(_gradient(done, item.raw), how.picture))
    if "classes" in item.arrays and how.save:
        files["classes"] = f"{stem}.classes.{how.picture.suffix}"
        how.store.write(files["classes"], encode(_classes(done, item, how), how.picture))
    if "raw" in how.save:
        files["raw"] = f"{stem}.raw.npz"
        rect = np.asarray(done.geometry.rect, dtype=np.float64)
        how.store.write(files["raw"], encode_npz({"raw": item.raw, "rect": rect, **item.arrays}))
    return files


def _write_panel(done: ImageResult, rows: Sequence[PanelRow], how: OutputStyle) -> str:
    known = [(box, colour) for box, colour, _ in marked(done.truth)]
    if any(row.role for row in rows):
        figure = mistake_panel(done.rgb, by_method(rows, done.maps), how.style, done.ref.name, known)
    elif how.columns:
        figure = method_picture(done, rows, how.columns, how.style)
    elif all(item.method.colour for item in done.maps):
        pictures = [PictureRow(row, _pictures(done, item, how)) for row, item in zip(rows, done.maps, strict=True)]
        figure = picture_panel(pictures, done.ref.name)
    else:
        figure = panel(done.rgb, rows, how.style, done.ref.name, known)
    kinds = {_kind(item) for item in done.maps}
    kind = kinds.pop() if len(kinds) == 1 and not how.columns else "methods"
    name = f"images/{done.ref.name}.{kind}.panel.{how.picture.suffix}"
    how.store.write(name, encode(figure, how.picture))
    return name


def _write_boxes(done: ImageResult, tiles: Sequence[BoxTile], how: OutputStyle) -> str:
    known = [(box, colour) for box, colour, _ in marked(done.truth)]
    name = f"images/{done.ref.name}.boxes.{how.picture.suffix}"
    how.store.write(name, encode(box_figure(done.rgb, known, tiles, done.ref.name), how.picture))
    return name


def _classes(done: ImageResult, item: TargetMap, how: OutputStyle) -> NDArray[np.uint8]:
    """The most probable class for each position of the window (figure 7e of Zeiler & Fergus)."""
    x0, y0, x1, y1 = done.geometry.rect
    rows, cols = item.arrays["centre_rows"], item.arrays["centre_cols"]
    centres = ((y0 + rows * (y1 - y0)).tolist(), (x0 + cols * (x1 - x0)).tolist())
    classes = item.arrays["classes"].astype(np.int64)
    return label_map(done.rgb, classes, centres, {int(c): how.labels[int(c)] for c in np.unique(classes)})


def _gradient(done: ImageResult, raw: NDArray[np.float32]) -> NDArray[np.uint8]:
    height, width = done.rgb.shape[:2]
    return gradient_image(raw, done.geometry.rect, (width, height))


def _framed(done: ImageResult, raw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A gradient beside the image: what was not seen is told from where it is zero."""
    height, width = done.rgb.shape[:2]
    return with_unseen(_gradient(done, raw), done.rgb, done.geometry.rect, (width, height))


def _pictures(done: ImageResult, item: TargetMap, how: OutputStyle) -> list[tuple[str, NDArray[np.uint8]]]:
    """Image and gradient; with Grad-CAM the four panels of the Guided Grad-CAM paper."""
    rule = _RULES.get(str(item.facts.get("rule")), item.method.name)
    if "gradcam" not in item.arrays:
        return [("image", done.rgb), (rule, _framed(done, item.raw))]
    height, width = done.rgb.shape[:2]
    cam = place(item.arrays["gradcam"], done.geometry.rect, (width, height), signed=False)
    return [
        ("image", done.rgb),
        (rule, _framed(done, item.arrays["gradient"])),
        ("Grad-CAM", overlay(done.rgb, cam, replace(how.style, limits=None))),
        (f"{rule.split()[0].capitalize()} Grad-CAM", _framed(done, item.raw)),
    ]
