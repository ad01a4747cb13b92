"""Readers of multi-label annotations: JSON lines, RAM's files, detection data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, Field

from ram_backend.errors import InputError
from ram_backend.evaluation.boxes import BoxSet
from ram_backend.evaluation.detection_formats import read_coco, read_open_images, read_voc, read_yolo
from ram_backend.evaluation.labels import LabelledImage, LabelSet, naming
from ram_backend.vocabulary.tags import read_text

FORMATS = (
    "JSON lines (.jsonl), RAM's *_annots.txt, COCO instances (.json), OpenImages image labels (.csv), a folder of"
    " VOC annotations (.xml), or YOLO's folder (data.yaml or classes.txt, labels/)"
)


def read_labels(path: Path, *, may_lack_tags: bool = False) -> LabelSet:
    """Reads an annotation file, or a folder of them, by its format (see `FORMATS`).

    A tag of a detection data set is right for an image where it has an object.
    RAM's files need their lists beside them, OpenImages' the class descriptions.

    Raises:
        InputError: the file is missing, of no known format, or malformed; names
            file and line.
    """
    readers: dict[str, Callable[[Path], LabelSet | BoxSet]] = {
        ".jsonl": _read_json_lines, ".txt": _read_ram, ".json": read_coco, ".csv": read_open_images,
    }  # fmt: skip
    read = readers.get(path.suffix.lower())
    if path.is_dir():
        read = read_yolo if (path / "data.yaml").exists() or (path / "classes.txt").exists() else read_voc
    if read is None:
        raise InputError(f"{path}: no known format of labels. Give {FORMATS}.")
    found = read(path)
    labels = found.labels() if isinstance(found, BoxSet) else found
    if not labels.images or not (labels.tags or may_lack_tags):
        raise InputError(f"{path}: has no {'images' if not labels.images else 'tags'}. Give {FORMATS}.")
    return labels


class _Line(BaseModel):
    """Of our JSON lines: `maybe` is unknown; with `absent` all else is, too."""

    file: str = Field(min_length=1)
    tags: list[str]
    maybe: list[str] = []
    absent: list[str] | None = None
    split: str | None = None
    captions: list[str] = []


def _read_json_lines(path: Path) -> LabelSet:
    images = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            with naming(f"{path}, line {number}", 'an object with "file" and "tags"'):
                entry = _Line.model_validate_json(line)
            absent = None if entry.absent is None else frozenset(entry.absent)
            unknown = frozenset(entry.maybe)
            marks = (frozenset(entry.tags) - unknown, unknown, absent)
            images.append(LabelledImage(entry.file, *marks, entry.split, tuple(entry.captions)))
    found = {tag for image in images for tag in (*image.positives, *(image.negatives or ()))}
    return LabelSet(path.parent.name or path.name, tuple(images), tuple(sorted(found)))


def _read_ram(path: Path) -> LabelSet:
    """RAM's benchmark files: an image and its tags, as names, places or Tag2Text's ids.

    `NAME_annots.txt` has `path,tag,tag` (".jpg" left out) or `file.jpg,place
    place`, both with `NAME_taglist.txt`; `NAME_idannots.txt` has `path,id,id`
    with `NAME_tagidlist.txt` and `tag2text_ori_tag_list.txt`.
    """
    by_id = path.name.endswith("_idannots.txt")
    if by_id:
        list_file = path.with_name(path.name.replace("_idannots", "_tagidlist"))
        names = read_text(path.with_name("tag2text_ori_tag_list.txt")).splitlines()
        with naming(str(list_file), "a list of ids of Tag2Text's"):
            tags = [names[_place(each)] for each in read_text(list_file).splitlines()]
    elif path.name.endswith("_annots.txt"):
        tags = names = read_text(path.with_name(path.name.replace("_annots", "_taglist"))).splitlines()
    else:
        raise InputError(f"{path}: RAM's annotation files are called NAME_annots.txt or NAME_idannots.txt.")
    known, images = set(tags), []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        file, _, rest = line.partition(",")
        with naming(f"{path}, line {number}", "an image and its tags"):
            placed = bool(Path(file).suffix)
            cells = rest.split() if placed else [each.strip() for each in rest.split(",") if each.strip()]
            found = frozenset(names[_place(each)] for each in cells) if placed or by_id else frozenset(cells)
            if not found <= known:
                raise ValueError(f"{sorted(found - known)[0]!r} is not in the list of tags")
        images.append(LabelledImage(file if placed else f"{file}.jpg", found))
    return LabelSet(path.stem.removesuffix("_annots").removesuffix("_idannots"), tuple(images), tuple(tags))


def _place(text: str) -> int:
    place = int(text)
    if place < 0:
        raise ValueError(f"{place} is below 0")
    return place
