"""Image tags from detection data sets: COCO instances, OpenImages image labels and boxes, VOC annotations.

A tag is right for an image where the class has an object in it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ram_backend.errors import InputError
from ram_backend.evaluation.labels import LabelledImage, LabelSet, naming
from ram_backend.vocabulary.tags import read_text


def read_coco(path: Path) -> LabelSet:
    """COCO's instances file: every category of the file is a tag, and images without objects count."""
    with naming(str(path), "COCO's instances (images, annotations, categories)"):
        content: Any = json.loads(read_text(path))
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        files = {each["id"]: str(each["file_name"]) for each in content["images"]}
        found: dict[Any, set[str]] = {image: set() for image in files}
        for each in content["annotations"]:
            found[each["image_id"]].add(names[each["category_id"]])
    images = tuple(LabelledImage(file, frozenset(found[image])) for image, file in files.items())
    return LabelSet(path.stem, images, tuple(dict.fromkeys(names.values())))


def read_open_images(path: Path) -> LabelSet:
    """OpenImages' verified image labels (Confidence 1 right, 0 wrong, between them unknown), or its boxes (all right).

    Classes that an image has no line about are unknown. Names of classes like
    "/m/01g317" come from a `*class-descriptions*.csv` in the same folder.
    """
    described = {row[0]: row[1] for file in sorted(path.parent.glob("*class-descriptions*.csv")) for row in _rows(file)}
    rows = _rows(path)
    with naming(f"{path}, line 1", "OpenImages' header (ImageID, LabelName, ...)"):
        header = next(rows, [])
        image_at, label_at = header.index("ImageID"), header.index("LabelName")
        confidence_at = header.index("Confidence") if "Confidence" in header else None
    stated: dict[str, tuple[set[str], set[str], set[str]]] = {}
    tags: dict[str, None] = {}
    for number, row in enumerate(rows, start=2):
        with naming(f"{path}, line {number}", "a label of an image"):
            name, confidence = row[label_at], 1.0 if confidence_at is None else float(row[confidence_at])
            if name.startswith("/") and name not in described:
                raise InputError(
                    f"{path}, line {number}: {name} has no name: put OpenImages' class descriptions (such as"
                    " oidv7-class-descriptions.csv) into the same folder."
                )
            tag = described.get(name, name)
            wrong, right, unknown = stated.setdefault(row[image_at], (set(), set(), set()))
        tags[tag] = None
        (wrong if confidence <= 0 else right if confidence >= 1 else unknown).add(tag)
    images = tuple(
        LabelledImage(f"{image}.jpg", frozenset(right), frozenset(unknown), frozenset(wrong - right))
        for image, (wrong, right, unknown) in stated.items()
    )
    return LabelSet(path.stem, images, tuple(sorted(tags)))


def read_voc(folder: Path) -> LabelSet:
    """VOC's folder of annotations, an XML file per image; a class is unknown where all its objects are "difficult"."""
    images = []
    for path in sorted(folder.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise InputError(f"{path}: not XML ({error}). Repair or remove it.") from None
        with naming(str(path), "a VOC annotation"):
            file = (root.findtext("filename") or f"{path.stem}.jpg").strip()
            names: dict[bool, set[str]] = {False: set(), True: set()}
            for each in root.iter("object"):
                name = each.findtext("name")
                if not name or not name.strip():
                    raise ValueError("an object has no name")
                names[(each.findtext("difficult") or "0").strip() == "1"].add(name.strip())
        images.append(LabelledImage(file, frozenset(names[False]), frozenset(names[True] - names[False])))
    tags = {tag for image in images for tag in image.positives | image.unknown}
    return LabelSet(folder.name, tuple(images), tuple(sorted(tags)))


def _rows(path: Path) -> Iterator[list[str]]:
    return csv.reader(read_text(path).splitlines())
