"""Readers of annotations: COCO, Pascal VOC and ImageNet, wsolevaluation, folders of masks."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from cnnviz.errors import CnnvizError
from cnnviz.geometry.boxes import Box
from cnnviz.geometry.truth import TrueObject
from cnnviz.io.annotations import Annotation, Annotations
from cnnviz.io.coco_masks import Segmentation, read_segmentation
from cnnviz.io.structured import load_json

_FORMATS = (
    "COCO JSON, VOC or ImageNet XML, ImageNet's LOC CSV, a folder of wsolevaluation's lists or of masks "
    "(MASKS/LABEL/IMAGE.png)"
)


def load_truth(path: str, flag: str = "truth") -> Annotations:
    """Annotations of any of the formats in :mod:`cnnviz.io.annotations`.

    Args:
        path: A file or a folder.
        flag: How messages name it.

    Raises:
        CnnvizError: It is none of them, cannot be read, or names an image twice.
    """
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _load_folder(path, flag)
    readers: dict[str, Callable[[str, str], Annotations]] = {".json": read_coco, ".xml": read_xml, ".csv": read_loc}
    if suffix not in readers:
        raise CnnvizError(f"{flag} {path}: annotations of an unknown kind.", f"Give {_FORMATS}.")
    return readers[suffix](path, flag)


def _load_folder(path: str, flag: str) -> Annotations:
    if os.path.isfile(os.path.join(path, "localization.txt")) or os.path.isfile(os.path.join(path, "class_labels.txt")):
        return read_lists(path, flag)
    if next(_xml_files(path), None) is not None:
        return read_xml(path, flag)
    return find_masks(path, flag)


def read_coco(path: str, flag: str) -> Annotations:
    """Boxes and masks of a file in COCO's format; ``iscrowd`` marks a region to ignore.

    Masks are those of ``segmentation``, polygons or run lengths (:mod:`cnnviz.io.coco_masks`).

    Raises:
        CnnvizError: It cannot be read or is no such file.
    """
    hint = "Give a COCO JSON file with images, annotations and categories."
    try:
        with open(path, encoding="utf-8") as stream:
            data = load_json(stream.read())
        categories = {row["id"]: str(row["name"]) for row in data["categories"]}
        images = {row["id"]: row for row in data["images"]}
        objects: dict[Any, list[TrueObject]] = {number: [] for number in images}
        regions: dict[Any, list[Segmentation | None]] = {number: [] for number in images}
        for row in data["annotations"]:
            box = Box.from_coco([float(value) for value in row["bbox"]])
            label, crowd = categories[row["category_id"]], bool(row.get("iscrowd"))
            objects[row["image_id"]].append(TrueObject(label, box, ignore=crowd))
            regions[row["image_id"]].append(read_segmentation(row.get("segmentation")))
        entries = [
            Annotation(
                str(row["file_name"]),
                tuple(objects[number]),
                size=_size(row.get("width"), row.get("height")),
                regions=tuple(regions[number]),
            )
            for number, row in images.items()
        ]
    except (OSError, ValueError) as error:
        raise CnnvizError(f"{flag} {path} cannot be read: {error}.", hint) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CnnvizError(f"{flag} {path}: not in COCO's format ({error}).", hint) from error
    return Annotations(entries, categories.values(), f"{flag} {path}")


def read_xml(path: str, flag: str) -> Annotations:
    """Boxes of Pascal VOC's or ImageNet's XML, 1-based and inclusive: one file, or all of a folder and below.

    An image is that of ``filename``, in ImageNet's files without its ending; where that is a placeholder (``%s``), the
    one that is called as the XML file.

    Raises:
        CnnvizError: One cannot be read or is no such file.
    """
    entries = []
    for name in sorted(_xml_files(path)) if os.path.isdir(path) else [path]:
        try:
            root = ElementTree.parse(name).getroot()
            entries.append(_voc(root, os.path.splitext(os.path.basename(name))[0]))
        except OSError as error:
            raise CnnvizError(f"{flag} {name} cannot be read: {error.strerror}.", "Check the file.") from error
        except (ElementTree.ParseError, ValueError) as error:
            raise CnnvizError(f"{flag} {name}: not in Pascal VOC's format ({error}).", f"Give {_FORMATS}.") from error
    names = (each.label for entry in entries for each in entry.objects)
    return Annotations(entries, names, f"{flag} {path}")


def _voc(root: ElementTree.Element, stem: str) -> Annotation:
    if root.tag != "annotation":
        raise ValueError(f"it is a {root.tag}")
    found = []
    for each in root.iter("object"):
        corners = [float(_text(each, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]
        difficult = (each.findtext("difficult") or "0").strip() == "1"
        found.append(TrueObject(_text(each, "name"), Box.from_inclusive(*corners), difficult))
    name = (root.findtext("filename") or "").strip()
    size = _size(root.findtext("size/width"), root.findtext("size/height"))
    return Annotation(stem if not name or "%" in name else name, tuple(found), size=size)


def read_loc(path: str, flag: str) -> Annotations:
    """ImageNet's ``LOC_*_solution.csv``: ``ImageId``, ``PredictionString``: WNID xmin ymin xmax ymax for each box.

    Raises:
        CnnvizError: It cannot be read or is no such file.
    """
    entries: list[Annotation] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
                raise ValueError("no columns ImageId and PredictionString")
            for row in rows:
                words = (row["PredictionString"] or "").split()
                if len(words) % 5:
                    raise ValueError(f"{row['ImageId']} has {len(words)} words, not five a box")
                entries.append(
                    Annotation(row["ImageId"], tuple(_loc_box(words[at : at + 5]) for at in range(0, len(words), 5)))
                )
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CnnvizError(f"{flag} {path}: not ImageNet's LOC table ({reason}).", f"Give {_FORMATS}.") from error
    return Annotations(entries, (each.label for entry in entries for each in entry.objects), f"{flag} {path}")


def _loc_box(words: Sequence[str]) -> TrueObject:
    return TrueObject(words[0], Box.from_inclusive(*(float(word) for word in words[1:])))


def read_lists(path: str, flag: str) -> Annotations:
    """wsolevaluation's metadata: ``class_labels.txt`` (path,index), ``localization.txt`` (path,x0,y0,x1,y1, a line a
    box) and ``image_sizes.txt`` (path,width,height).

    Labels are class indices as text. x1 and y1 are taken as edges; the evaluation of wsolevaluation takes them as
    pixels inside, which :meth:`cnnviz.geometry.boxes.Box.iou_plus_one` does.

    Raises:
        CnnvizError: One cannot be read or has other columns.
    """
    try:
        labels = {row[0]: row[1] for row in _list(path, "class_labels.txt", 2)}
        sizes = {row[0]: _size(row[1], row[2]) for row in _list(path, "image_sizes.txt", 3)}
        boxes: dict[str, list[Box]] = {name: [] for name in labels}
        for name, *edges in _list(path, "localization.txt", 5):
            x0, y0, x1, y1 = (float(edge) for edge in edges)
            boxes.setdefault(name, []).append(Box.from_edges(x0, y0, x1, y1))
        entries = []
        for name, own in boxes.items():
            label = labels.get(name)
            objects = tuple(TrueObject(label or "", box) for box in own)
            entries.append(Annotation(name, objects, () if label is None else (label,), sizes.get(name)))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CnnvizError(f"{flag} {path}: not wsolevaluation's lists ({reason}).", f"Give {_FORMATS}.") from error
    return Annotations(entries, labels.values(), f"{flag} {path}")


def _list(folder: str, name: str, columns: int) -> Iterator[list[str]]:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.reader(stream), 1):
            if row and len(row) != columns:
                raise ValueError(f"line {number} of {name} has {len(row)} columns, not {columns}")
            if row:
                yield row


def find_masks(folder: str, flag: str) -> Annotations:
    """Masks ``FOLDER/LABEL/IMAGE.png`` of the size of the image ``IMAGE.*``: not black is the class.

    Raises:
        CnnvizError: No such folder, or no masks in it.
    """
    hint = "Put masks in a folder for each class: MASKS/LABEL/IMAGE.png, not black where the class is."
    masks: dict[str, dict[str, str]] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        for label in names:
            for name in sorted(os.listdir(os.path.join(folder, label))):
                if name.endswith(".png"):
                    masks.setdefault(name[:-4], {})[label] = os.path.join(folder, label, name)
    except OSError as error:
        raise CnnvizError(f"{flag} {folder} cannot be read: {error.strerror}.", hint) from error
    if not masks:
        raise CnnvizError(f"{flag} {folder}: no masks in it.", hint)
    entries = (Annotation(stem, masks=own) for stem, own in masks.items())
    return Annotations(entries, names, f"{flag} {folder}", "without any")


def _xml_files(folder: str) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names if name.lower().endswith(".xml"))


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"an object without {path}")
    return text


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    """(W, H) where a data set says it; some write 0."""
    if width is None or height is None:
        return None
    size = int(float(width)), int(float(height))
    return size if min(size) > 0 else None
