"""Image-text pairs of all formats, read the same."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from ram_backend.errors import InputError
from ram_backend.vocabulary.caption_files import read_captions

PAIRS = [("a.jpg", ["A dog.", "A brown dog."]), ("b.jpg", ["Two cats, no dogs."])]


def _write(path: Path) -> None:
    lines = [{"file": image, "caption": caption} for image, captions in PAIRS for caption in captions]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"image": image, "captions": texts}) for image, texts in PAIRS))
    elif path.suffix == ".csv":
        path.write_text("file,caption\n" + "".join(f'{line["file"]},"{line["caption"]}"\n' for line in lines))
    elif path.name == "coco.json":
        images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]
        ids = {"a.jpg": 7, "b.jpg": 8}
        annotations = [{"image_id": ids[line["file"]], "caption": line["caption"]} for line in lines]
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    else:
        path.write_text(json.dumps(lines))


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv", "coco.json", "list.json"])
def test_each_format_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name)
    assert list(read_captions(tmp_path / name)) == PAIRS


def test_webdataset(tmp_path: Path) -> None:
    members = {"x/a.txt": b"A dog.", "x/a.jpg": b"?", "x/b.json": b'{"caption": "A cat.", "w": 1}', "x/c.json": b"{}"}
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert list(read_captions(tmp_path / "00000.tar")) == [("x/a", ["A dog."]), ("x/b", ["A cat."])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xls", "", "Convert"),
        ("no.jsonl", None, "Check the path"),
        ("a.jsonl", '{"file": "a.jpg", "caption": "x"}\n{"file": "b.jpg"}', "line 2"),
        ("a.jsonl", "{", "Repair"),
        ("a.csv", "picture,words\na,b\n", "line 2"),
        ("a.json", '{"annotations": [{}], "images": []}', "captions in .json.*image_id"),
        ("a.json", "[3]", "record 1: names no image"),
        ("a.tar", "x", "Repair"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_captions(tmp_path / name))
