"""Readers of detection data sets: COCO, YOLO and VOC boxes, OpenImages' image tags."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ram_backend.errors import InputError, first_line
from ram_backend.evaluation.boxes import DIGITS, Box, BoxedImage, BoxSet, LabelledBox
from ram_backend.evaluation.labels import LabelledImage, LabelSet, naming
from ram_backend.vocabulary.tags import read_text

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_coco(path: Path) -> BoxSet:
    """COCO's instances file: every category is a tag, every image counts."""
    with naming(str(path), "COCO's instances (images, annotations, categories)"):
        content: Any = json.loads(read_text(path))
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        images = {each["id"]: each for each in content["images"]}
        sizes = {number: (int(each.get("width", 0)), int(each.get("height", 0))) for number, each in images.items()}
        found: dict[Any, list[LabelledBox]] = {number: [] for number in images}
        for each in content["annotations"]:
            x, y, width, height = each.get("bbox") or (0, 0, 0, 0)
            box = _shares((x, y, x + width, y + height), sizes[each["image_id"]])
            mask = each.get("segmentation")
            mask = mask if isinstance(mask, dict) else None
            name = names[each["category_id"]]
            found[each["image_id"]].append(LabelledBox(name, box, each.get("score"), mask))
        boxed = [BoxedImage(str(images[each]["file_name"]), sizes[each], tuple(found[each])) for each in images]
    return BoxSet(path.stem, tuple(boxed), tuple(dict.fromkeys(names.values())))


def read_yolo(folder: Path) -> BoxSet:
    """YOLO's folder: `labels/`, `images/`, and classes in data.yaml or classes.txt.

    Boxes and polygons are read, a polygon as the box around it. An image that
    is not in `images/` has its labels' name and ".jpg".
    """
    tags = _yolo_classes(folder)
    inside = folder / "images"
    photos = {path.relative_to(inside) for path in inside.rglob("*") if path.is_file()}
    names = {path.with_suffix(""): path for path in sorted(photos)}
    for path in (folder / "labels").rglob("*.txt"):
        stem = path.relative_to(folder / "labels").with_suffix("")
        names.setdefault(stem, stem.with_name(f"{stem.name}.jpg"))
    images = []
    for stem, name in sorted(names.items()):
        path, boxes = folder / "labels" / f"{stem}.txt", list[LabelledBox]()
        lines = read_text(path).splitlines() if path.exists() else []
        for number, line in enumerate(filter(str.strip, lines), start=1):
            with naming(f"{path}, line {number}", "a class, and its box or polygon in shares"):
                place, *edges = map(float, line.split())
                if len(edges) > 5:
                    box = (min(edges[::2]), min(edges[1::2]), max(edges[::2]), max(edges[1::2]))
                else:
                    x, y, width, height = edges[:4]
                    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                score = edges[4] if len(edges) == 5 else None
                boxes.append(LabelledBox(tags[int(place)], _shares(box, (1, 1)), score))
        images.append(BoxedImage(name.as_posix(), (0, 0), tuple(boxes)))
    return BoxSet(folder.name, tuple(images), tags)


def _yolo_classes(folder: Path) -> tuple[str, ...]:
    import yaml

    if (folder / "classes.txt").exists():
        return tuple(line.strip() for line in read_text(folder / "classes.txt").splitlines() if line.strip())
    with naming(str(folder / "data.yaml"), "YOLO's description of a data set (names: [...])"):
        try:
            names: Any = yaml.safe_load(read_text(folder / "data.yaml"))["names"]
        except yaml.YAMLError as error:
            raise ValueError(first_line(error)) from None
        return tuple(str(names[place]) for place in range(len(names)))


def read_open_images(path: Path) -> LabelSet:
    """OpenImages' labels (Confidence 1 right, 0 wrong, else unknown), or boxes (right).

    Classes that an image has no line about are unknown. Names of classes like
    "/m/01g317" come from a `*class-descriptions*.csv` in the same folder.
    """
    lists = sorted(path.parent.glob("*class-descriptions*.csv"))
    described = {row[0]: row[1] for file in lists for row in _rows(file)}
    rows = _rows(path)
    with naming(f"{path}, line 1", "OpenImages' header (ImageID, LabelName, ...)"):
        header = next(rows, [])
        image_at, label_at = header.index("ImageID"), header.index("LabelName")
        confidence_at = header.index("Confidence") if "Confidence" in header else None
    stated: dict[str, tuple[set[str], set[str], set[str]]] = {}
    tags: dict[str, None] = {}
    for number, row in enumerate(rows, start=2):
        with naming(f"{path}, line {number}", "a label of an image"):
            name = row[label_at]
            confidence = 1.0 if confidence_at is None else float(row[confidence_at])
            if name.startswith("/") and name not in described:
                raise InputError(f"{path}, line {number}: {name} has no name: put *class-descriptions*.csv beside it.")
            tag = described.get(name, name)
            wrong, right, unknown = stated.setdefault(row[image_at], (set(), set(), set()))
        tags[tag] = None
        (wrong if confidence <= 0 else right if confidence >= 1 else unknown).add(tag)
    images = tuple(
        LabelledImage(f"{image}.jpg", frozenset(right), frozenset(unknown), frozenset(wrong - right))
        for image, (wrong, right, unknown) in stated.items()
    )
    return LabelSet(path.stem, images, tuple(sorted(tags)))


def read_voc(folder: Path) -> BoxSet:
    """VOC's folder of annotations, an XML file per image."""
    images = []
    for path in sorted(folder.rglob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise InputError(f"{path}: not XML ({error}). Repair or remove it.") from None
        with naming(str(path), "a VOC annotation"):
            file = (root.findtext("filename") or f"{path.stem}.jpg").strip()
            size = (int(root.findtext("size/width") or 0), int(root.findtext("size/height") or 0))
            boxes = []
            for each in root.iter("object"):
                name, box = (each.findtext("name") or "").strip(), None
                if not name:
                    raise ValueError("an object has no name")
                if each.find("bndbox") is not None:
                    left, top, right, bottom = (float(each.findtext(f"bndbox/{edge}") or "") for edge in _EDGES)
                    box = _shares((left - 1, top - 1, right, bottom), size)
                difficult = (each.findtext("difficult") or "0").strip() == "1"
                boxes.append(LabelledBox(name, box, difficult=difficult))
        images.append(BoxedImage(file, size, tuple(boxes)))
    tags = {each.tag for image in images for each in image.boxes}
    return BoxSet(folder.name, tuple(images), tuple(sorted(tags)))


def _shares(corners: Box, size: tuple[int, int]) -> Box | None:
    """Corners in pixels as shares; None where there is no size, or no area."""
    if not all(size):
        return None
    x0, y0, x1, y1 = (
        round(min(1.0, max(0.0, edge / side)), DIGITS) for edge, side in zip(corners, size * 2, strict=True)
    )
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _rows(path: Path) -> Iterator[list[str]]:
    return csv.reader(read_text(path).splitlines())
