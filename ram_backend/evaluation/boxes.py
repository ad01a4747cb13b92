"""Boxes and masks of tags as detection data sets: COCO, YOLO, Pascal VOC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from ram_backend.evaluation.labels import LabelledImage, LabelSet

Box = tuple[float, float, float, float]
BoxFormat = Literal["coco", "yolo", "voc"]
BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
DIGITS = 4
"""Of a share of width or height, as regions have them."""


@dataclass(frozen=True)
class LabelledBox:
    """An object in an image.

    Attributes:
        tag: its class.
        box: (x0, y0, x1, y1), shares of width and height, from the top left;
            None: the file doesn't say.
        score: in [0, 1]; None: of a person, or not given.
        mask: COCO's run lengths, `{"size": [height, width], "counts"}`; None:
            there is none.
        difficult: VOC's mark of an object that isn't counted.
    """

    tag: str
    box: Box | None
    score: float | None = None
    mask: Mapping[str, Any] | None = None
    difficult: bool = False


@dataclass(frozen=True)
class BoxedImage:
    """An image with its objects: `file` below the folder, `size` (width, height)."""

    file: str
    size: tuple[int, int]
    boxes: tuple[LabelledBox, ...]


@dataclass(frozen=True)
class BoxSet:
    """N images with boxes of L tags (the classes, in order); see `LabelSet`."""

    name: str
    images: tuple[BoxedImage, ...]
    tags: tuple[str, ...]

    def labels(self) -> LabelSet:
        """Tags of images: right where an object is, unknown where all are difficult."""
        found = []
        for image in self.images:
            right = frozenset(each.tag for each in image.boxes if not each.difficult)
            found.append(LabelledImage(image.file, right, frozenset(each.tag for each in image.boxes) - right))
        return LabelSet(self.name, tuple(found), self.tags)


def files_of(kind: BoxFormat, content: BoxSet) -> Iterator[tuple[str, str]]:
    """The text files of a data set: (path below its folder, content); COCO's path is "".

    COCO's boxes are pixels (x, y, width, height); masks become run lengths.
    YOLO has `data.yaml`, `classes.txt`, and per image `labels/NAME.txt` with a
    class and the box's centre and size a line. VOC has an XML file per image;
    its pixels count from 1. Only COCO keeps scores and masks. In YOLO and VOC images
    that differ only in their suffix would have one file.
    """
    if kind == "coco":
        yield "", _coco(content)
        return
    if kind == "yolo":
        names = json.dumps(content.tags, ensure_ascii=False)
        yield "data.yaml", f"path: .\ntrain: images\nval: images\nnames: {names}\n"
        yield "classes.txt", "".join(f"{tag}\n" for tag in content.tags)
    for image in content.images:
        stem = PurePosixPath(image.file).with_suffix("")
        if kind == "yolo":
            yield f"labels/{stem}.txt", _yolo(image, content.tags)
        else:
            yield f"{stem}.xml", _voc(image)


def _coco(content: BoxSet) -> str:
    numbers = {tag: number for number, tag in enumerate(content.tags, start=1)}
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(content.images, start=1):
        for each in image.boxes:
            assert each.box is not None
            (x0, y0, x1, y1), (width, height) = each.box, image.size
            box = [round(edge, 3) for edge in (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)]
            area = box[2] * box[3] if each.mask is None else sum(each.mask["counts"][1::2])
            found = {"id": len(annotations) + 1, "image_id": number, "category_id": numbers[each.tag], "bbox": box}
            found |= {"area": area, "iscrowd": 0, "segmentation": [] if each.mask is None else each.mask}
            annotations.append(found if each.score is None else found | {"score": each.score})
    images = [
        {"id": number, "file_name": image.file, "width": image.size[0], "height": image.size[1]}
        for number, image in enumerate(content.images, start=1)
    ]
    categories = [{"id": number, "name": tag} for tag, number in numbers.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, ensure_ascii=False)


def _yolo(image: BoxedImage, tags: Sequence[str]) -> str:
    lines = []
    for each in image.boxes:
        assert each.box is not None
        x0, y0, x1, y1 = each.box
        numbers = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        lines.append(f"{tags.index(each.tag)} {' '.join(f'{number:.6f}' for number in numbers)}\n")
    return "".join(lines)


def _voc(image: BoxedImage) -> str:
    root, (width, height) = ElementTree.Element("annotation"), image.size
    _add(root, {"filename": image.file, "size": {"width": width, "height": height, "depth": 3}, "segmented": 0})
    for each in image.boxes:
        assert each.box is not None
        left, top, right, bottom = (
            round(edge * side) for edge, side in zip(each.box, (width, height) * 2, strict=True)
        )
        left, top = min(left, width - 1), min(top, height - 1)
        box = {"xmin": left + 1, "ymin": top + 1, "xmax": max(right, left + 1), "ymax": max(bottom, top + 1)}
        found = {"name": each.tag, "pose": "Unspecified", "truncated": 0, "difficult": int(each.difficult)}
        _add(root, {"object": {**found, "bndbox": box}})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        child = ElementTree.SubElement(parent, name)
        if isinstance(value, Mapping):
            _add(child, value)
        else:
            child.text = str(value)
