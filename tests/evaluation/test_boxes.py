"""Data sets of boxes: what each format's own readers find in them, and what comes back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO

from ram_backend.cli.tag_files import BoxFile
from ram_backend.errors import InputError
from ram_backend.evaluation.boxes import BoxedImage, BoxFormat, BoxSet, LabelledBox, files_of
from ram_backend.evaluation.detection_formats import read_coco, read_voc, read_yolo
from ram_backend.evaluation.readers import read_labels
from ram_backend.regions.segmenter import run_lengths

MASK = np.zeros((60, 80), bool)
MASK[10:30, 20:60] = MASK[30:35, 25] = True
DOG = LabelledBox("dog", (0.25, 0.1667, 0.75, 0.5833), 0.75, run_lengths(MASK))
TAGS = ("dog", 'a person: "no" hard hat', "ü & <b>")
SET = BoxSet(
    "set",
    (
        BoxedImage("a.jpg", (80, 60), (DOG, LabelledBox(TAGS[2], (0.0, 0.0, 1.0, 1.0), 0.5))),
        BoxedImage("b.png", (4000, 3000), (LabelledBox(TAGS[1], (0.1234, 0.4321, 0.1235, 0.9999), 0.25),)),
        BoxedImage("sub/c.jpg", (640, 480), ()),
    ),
    TAGS,
)


def written(kind: BoxFormat, folder: Path, content: BoxSet = SET) -> Path:
    path = folder / "set.json" if kind == "coco" else folder / "set"
    for name, text in files_of(kind, content):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    for image in content.images if kind == "yolo" else ():
        (path / "images" / image.file).parent.mkdir(parents=True, exist_ok=True)
        (path / "images" / image.file).touch()
    return path


def without(content: BoxSet, **gone: None) -> Sequence[tuple[str, tuple[LabelledBox, ...]]]:
    return [(image.file, tuple(replace(each, **gone) for each in image.boxes)) for image in content.images]


def test_coco_as_pycocotools_reads_it(tmp_path: Path) -> None:
    coco = COCO(written("coco", tmp_path))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(TAGS)
    assert [each["file_name"] for each in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "b.png", "sub/c.jpg"]
    (dog,) = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["dog"])))
    assert dog["bbox"] == pytest.approx([20, 10, 40, 25], abs=0.01)
    assert (coco.annToMask(dog) == MASK).all()
    assert dog["area"] == MASK.sum()
    assert coco.loadRes([{**dog, "score": 0.5}]).getAnnIds() == [1], "as detections, too"


def test_coco_comes_back_equal(tmp_path: Path) -> None:
    assert read_coco(written("coco", tmp_path)) == SET


def test_yolo_by_its_own_rules(tmp_path: Path) -> None:
    folder = written("yolo", tmp_path)
    described = yaml.safe_load((folder / "data.yaml").read_text())
    assert described == {"path": ".", "train": "images", "val": "images", "names": list(TAGS)}
    found = {}
    for photo in sorted((folder / described["train"]).rglob("*.*")):
        labels = Path(str(photo).replace("/images/", "/labels/")).with_suffix(".txt")
        rows = [line.split(" ") for line in labels.read_text().split("\n")[:-1]]
        assert all(len(row) == 5 and all(0 <= float(each) <= 1 for each in row[1:]) for row in rows)
        found[photo.name] = [(described["names"][int(row[0])], *map(float, row[1:])) for row in rows]
    assert found["a.jpg"] == [("dog", 0.5, 0.375, 0.5, 0.4166), (TAGS[2], 0.5, 0.5, 1.0, 1.0)]
    assert found["c.jpg"] == []


def test_yolo_comes_back_equal(tmp_path: Path) -> None:
    folder = written("yolo", tmp_path)
    found = read_yolo(folder)
    assert without(found) == without(SET, score=None, mask=None)
    assert found.tags == TAGS
    (folder / "classes.txt").unlink()
    assert read_yolo(folder) == found, "classes are in data.yaml, too"


def test_yolo_of_others(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels" / "x.rf.1.txt").write_text("1 0.5 0.5 0.2 0.4 0.9\n0 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.4\n")
    (image,) = read_yolo(tmp_path).images
    dog, cat = LabelledBox("dog", (0.4, 0.3, 0.6, 0.7), 0.9), LabelledBox("cat", (0.1, 0.1, 0.3, 0.5))
    assert image == BoxedImage("x.rf.1.jpg", (0, 0), (dog, cat)), "a score, and a polygon"
    (tmp_path / "labels" / "x.rf.1.txt").write_text("0 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"x\.rf\.1\.txt, line 2: not a class, and its box"):
        read_yolo(tmp_path)


def test_voc_by_its_structure(tmp_path: Path) -> None:
    folder = written("voc", tmp_path)
    for image, path in zip(SET.images, ("a.xml", "b.xml", "sub/c.xml"), strict=True):
        root = ElementTree.parse(folder / path).getroot()
        size = ["width", "height", "depth"]
        assert [each.tag for each in root] == ["filename", "size", "segmented", *["object"] * len(image.boxes)]
        assert [each.tag for each in root.find("size")] == size
        width, height, _ = (int(root.findtext(f"size/{name}")) for name in size)
        assert (root.findtext("filename"), (width, height)) == (image.file, image.size)
        for each in root.iter("object"):
            assert [child.tag for child in each] == ["name", "pose", "truncated", "difficult", "bndbox"]
            assert [child.tag for child in each.find("bndbox")] == ["xmin", "ymin", "xmax", "ymax"]
            left, top, right, bottom = (int(child.text) for child in each.find("bndbox"))
            assert 1 <= left <= right <= width
            assert 1 <= top <= bottom <= height
    box = ElementTree.parse(folder / "a.xml").find("object/bndbox")
    assert [int(each.text) for each in box] == [21, 11, 60, 35], "pixels count from 1, the last one is inside"


def test_voc_comes_back_to_the_pixel_and_then_stays(tmp_path: Path) -> None:
    found = read_voc(written("voc", tmp_path))
    for image, back in zip(SET.images, found.images, strict=True):
        assert (back.file, back.size, len(back.boxes)) == (image.file, image.size, len(image.boxes))
        for each, other in zip(image.boxes, back.boxes, strict=True):
            assert other.tag == each.tag
            pixels = np.subtract(other.box, each.box) * (image.size * 2)
            assert (abs(pixels) <= 1).all()
    assert read_voc(written("voc", tmp_path / "again", found)) == replace(found, name="set")


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_eval_reads_the_tags(tmp_path: Path, kind: BoxFormat) -> None:
    labels = read_labels(written(kind, tmp_path))
    found = {image.file: image.positives for image in labels.images}
    assert found == {"a.jpg": {"dog", TAGS[2]}, "b.png": {TAGS[1]}, "sub/c.jpg": set()}


def test_two_photos_of_one_name_are_refused_before_tagging(tmp_path: Path) -> None:
    twice = [tmp_path / "a.jpg", tmp_path / "a.png"]
    BoxFile(f"coco={tmp_path / 'boxes.json'}", twice, None)
    for kind in ("yolo", "voc"):
        with pytest.raises(InputError, match=r"a\.jpg and \S+a\.png differ only in their suffix"):
            BoxFile(f"{kind}={tmp_path / kind}", twice, None)
