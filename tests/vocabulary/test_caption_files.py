"""Image-text pairs of all formats, read the same."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from ram_backend.errors import InputError
from ram_backend.vocabulary.caption_files import read_captions

PAIRS = [("a.jpg", ["A dog.", "A brown dog."]), ("b.jpg", ["Two cats, no dogs."])]


LINES = [{"file": image, "caption": caption} for image, captions in PAIRS for caption in captions]
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [{"image_id": 7 + (each["file"] == "b.jpg"), "caption": each["caption"]} for each in LINES],
}
FILES = {
    "pairs.jsonl": "\n".join(json.dumps({"image": image, "captions": captions}) for image, captions in PAIRS),
    "pairs.csv": "file,caption\n" + "".join(f'{each["file"]},"{each["caption"]}"\n' for each in LINES),
    "coco.json": json.dumps(COCO),
    "list.json": json.dumps(LINES),
}


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
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
