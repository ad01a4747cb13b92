"""Files of tagged images by suffix, and data sets of boxes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ram_backend.cli.output import check_folder_of, printable, written_whole
from ram_backend.errors import InputError
from ram_backend.evaluation.boxes import BOX_FORMATS, BoxedImage, BoxFormat, BoxSet, LabelledBox, files_of
from ram_backend.tagging.tagger import Tagger

SUFFIXES = (".json", ".jsonl", ".csv", ".npz")
COLUMNS = ("image", "model_version", "tag", "score")

Record = Mapping[str, Any]
"""An image as JSON: `image`, `model_version`, `tags` (`tag`, `score`, best first).

Perhaps `regions`, `caption` and `caption_source` ("model" or "template").
"""


class TaggedImage(NamedTuple):
    """An image: raw logits and calibrated scores, (L,) float32; tokens (T, D); (width, height)."""

    path: Path
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    tokens: NDArray[np.float32]
    caption: str | None = None
    size: tuple[int, int] = (0, 0)


def check_tag_file(path: Path) -> None:
    """Raises InputError where a file can't be written, or has another suffix."""
    check_folder_of(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: its suffix names the format: one of {', '.join(SUFFIXES)}.")


class TagFile:
    """A file of tagged images: `.jsonl` gets each at once, others by `close`.

    Args:
        path: with one of `SUFFIXES`.
        tagger: whose tags and thresholds they are.
        resume: keep what a `.jsonl` file has; False: begin anew.

    Raises:
        InputError: the file can't be read or written, or was written with other
            tags or another bundle.
    """

    def __init__(self, path: Path, tagger: Tagger, *, resume: bool) -> None:
        self.path = path
        self._tagger = tagger
        self._suffix = path.suffix.lower()
        self._rows: list[tuple[Record, TaggedImage]] = []
        self._lines: io.TextIOBase | None = None
        self.images: set[str] = set()
        """Printable names of the images in it."""
        if self._suffix != ".jsonl":
            return
        records = read_records(path) if resume and path.exists() else []
        if {record["model_version"] for record in records} - {tagger.model_version}:
            raise InputError(f"{path} was written with other tags or another bundle: choose another file.")
        self.images = {printable(record["image"]) for record in records}
        try:
            self._lines = path.open("a" if records else "w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"{path} can't be written ({error.strerror}): choose another file.") from None

    def add(self, record: Record, image: TaggedImage) -> None:
        """Adds an image, unless it is there already."""
        name = printable(record["image"])
        if name in self.images:
            return
        self.images.add(name)
        if self._lines is None:
            self._rows.append((record, image))
            return
        try:
            self._lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._lines.flush()
        except OSError as error:
            raise InputError(f"{self.path} can't be written ({error.strerror}): --resume goes on.") from None

    def close(self) -> None:
        """Writes what is not written yet."""
        if self._lines is not None:
            self._lines.close()
            return
        records = [record for record, _ in self._rows]
        with written_whole(self.path) as file:
            if self._suffix == ".json":
                rows = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
                file.write(printable(f"[{rows}]\n").encode())
            elif self._suffix == ".csv":
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(COLUMNS)
                for record in records:
                    tags = [(each["tag"], each["score"]) for each in record["tags"]] or [("", "")]
                    writer.writerows((record["image"], record["model_version"], *each) for each in tags)
                file.write(printable(text.getvalue()).encode())
            else:
                np.savez(file, **self._arrays())

    def _arrays(self) -> dict[str, Any]:
        shape = (len(self._rows), len(self._tagger.tags))
        images = [image for _, image in self._rows]
        return {
            "images": np.array([str(each.path) for each in images], dtype=np.str_),
            "tags": np.array(self._tagger.tags, dtype=np.str_),
            "logits": np.array([each.logits for each in images], dtype=np.float32).reshape(shape),
            "scores": np.array([each.scores for each in images], dtype=np.float32).reshape(shape),
            "thresholds": self._tagger.thresholds,
            "model_version": np.array(self._tagger.model_version),
        }


class BoxFile:
    """A data set of boxes in one of `BOX_FORMATS`, which `close` writes.

    Args:
        wanted: format and path, such as "coco=boxes.json" or "yolo=folder".
        paths: of all images; files are named below the folder that holds all.
        tags: the classes, in order; None: those that occur.

    Raises:
        InputError: no such format, or a path that can't be written, or that
            holds something else.
    """

    def __init__(self, wanted: str, paths: Sequence[Path], tags: Sequence[str] | None) -> None:
        kind, _, path = wanted.partition("=")
        if kind not in BOX_FORMATS or not path:
            raise InputError(f"--export {wanted}: give coco=FILE.json, yolo=FOLDER or voc=FOLDER.")
        self.path = Path(path)
        self._kind: BoxFormat = kind
        if kind == "coco":
            check_folder_of(self.path, option="--export")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"--export {wanted}: {path} is there already: name an empty or a new folder.")
        stems: dict[Path, Path] = {}
        for each in paths if kind != "coco" else ():
            if (other := stems.setdefault(each.with_suffix(""), each)) != each:
                raise InputError(f"{other} and {each} differ only in their suffix: rename one of them.")
        self._root = Path(os.path.commonpath([each.parent.resolve() for each in paths] or [Path.cwd()]))
        self._tags = tags
        self.images: set[str] = set()
        self._found: list[BoxedImage] = []

    def add(self, record: Record, image: TaggedImage) -> None:
        """Adds the regions of an image."""
        boxes = tuple(LabelledBox(r["tag"], tuple(r["box"]), r["score"], r.get("mask")) for r in record["regions"])
        name = (image.path.parent.resolve() / image.path.name).relative_to(self._root).as_posix()
        self._found.append(BoxedImage(name, image.size, boxes))

    def close(self) -> None:
        """Writes all files; YOLO's photos are links."""
        tags = self._tags or sorted({each.tag for image in self._found for each in image.boxes})
        for name, text in files_of(self._kind, BoxSet("", tuple(self._found), tuple(tags))):
            file = self.path / name
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{file.parent} can't be made ({error.strerror}): choose another folder.") from None
            with written_whole(file) as written:
                written.write(printable(text).encode())
        for image in self._found if self._kind == "yolo" else ():
            link = self.path / "images" / image.file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self._root / image.file)


def read_records(path: Path) -> list[Record]:
    """Reads the records of a `.jsonl` file; removes a last line that was cut off.

    Raises:
        InputError: it is not what `TagFile` writes.
    """
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        records = [json.loads(line) for line in content[:whole].splitlines()]
        records = [{**each, "image": each["image"], "model_version": each["model_version"]} for each in records]
        if not records and not content.startswith(b'{"image": '[: len(content)]):
            raise ValueError
        if whole < len(content):
            os.truncate(path, whole)
        return records
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is not what `tag --out` writes, so --resume can't go on: choose another file."
        ) from None
