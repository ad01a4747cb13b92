"""Readers of label formats: small files written here, and RAM's real benchmark files where they are at hand."""

import json
from pathlib import Path

import pytest

from ram_backend.errors import InputError
from ram_backend.evaluation.labels import LabelledImage
from ram_backend.evaluation.readers import read_labels

LINES = [
    {"file": "a.jpg", "split": "train", "tags": ["dog", "grass"], "maybe": ["cat"], "captions": ["\u2028"], "more": 1},
    {"file": "b.jpg", "split": "test", "tags": []},
    {"file": "sub/c.jpg", "split": "test", "tags": ["cat"], "absent": ["dog"]},
]
VOC = "<annotation><filename>{}</filename>{}</annotation>"
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"
COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}],
    "annotations": [{"image_id": 7, "category_id": 2, "iscrowd": 1}, {"image_id": 7, "category_id": 2}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in LINES) + "\n\n", encoding="utf-8")
    labels = read_labels(file)
    assert (labels.name, labels.tags) == (tmp_path.name, ("cat", "dog", "grass"))
    first = LabelledImage("a.jpg", frozenset({"dog", "grass"}), frozenset({"cat"}), split="train", captions=("\u2028",))
    assert labels.images[0] == first
    right, known = labels.matrices(["dog", "cat", "grass", "dog"])
    assert right.tolist() == [[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert known.tolist() == [[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]], "maybe, and all but absent tags, are unknown"
    assert [image.file for image in labels.of_split("test").images] == ["b.jpg", "sub/c.jpg"]
    assert labels.of_split("test").tags == labels.tags
    with pytest.raises(InputError, match=r"'val' \(known: test, train\)"):
        labels.of_split("val")


def test_coco_instances(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(COCO))
    labels = read_labels(tmp_path / "instances.json")
    assert labels.tags == ("cat", "dog")
    assert labels.images == (LabelledImage("7.jpg", frozenset({"dog"})), LabelledImage("8.jpg", frozenset()))


def test_open_images_labels_and_boxes(tmp_path: Path) -> None:
    (tmp_path / "oidv7-class-descriptions.csv").write_text('LabelName,DisplayName\n/m/1,Dog\n/m/2,"Cat, or kitten"\n')
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "ImageID,Source,LabelName,Confidence\nx,verification,/m/1,1\nx,verification,/m/2,0\ny,machine,/m/1,0.7\n"
    )
    read = read_labels(labels)
    assert read.tags == ("Cat, or kitten", "Dog")
    right, known = read.matrices(read.tags)
    assert [image.file for image in read.images] == ["x.jpg", "y.jpg"]
    assert (right.tolist(), known.tolist()) == ([[0, 1], [0, 0]], [[1, 1], [0, 0]])
    (tmp_path / "boxes.csv").write_text("ImageID,Source,LabelName,XMin\nx,xclick,/m/2,0.1\nx,xclick,/m/2,0.5\n")
    assert read_labels(tmp_path / "boxes.csv").images[0].positives == {"Cat, or kitten"}


def test_voc_annotations(tmp_path: Path) -> None:
    (tmp_path / "1.xml").write_text(VOC.format("1.jpg", OBJECT.format("dog", 0) + OBJECT.format("cat", 1)))
    (tmp_path / "2.xml").write_text(VOC.format("2.jpg", OBJECT.format("dog", 0) + OBJECT.format("dog", 1)))
    labels = read_labels(tmp_path)
    assert labels.tags == ("cat", "dog")
    assert labels.images[0] == LabelledImage("1.jpg", frozenset({"dog"}), frozenset({"cat"}))
    assert labels.images[1] == LabelledImage("2.jpg", frozenset({"dog"}))


def test_ram_s_three_forms(tmp_path: Path) -> None:
    (tmp_path / "x_taglist.txt").write_text("Dog\nDiving\nDog\n")
    (tmp_path / "x_annots.txt").write_text("test/1,Dog\ntest/2,Diving,Dog\ntest/3\n")
    labels = read_labels(tmp_path / "x_annots.txt")
    assert (labels.name, labels.tags) == ("x", ("Dog", "Diving", "Dog"))
    assert [image.file for image in labels.images] == ["test/1.jpg", "test/2.jpg", "test/3.jpg"]
    expected = [[1, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert labels.matrices(labels.tags)[0].tolist() == expected, "an annotation marks both tags of one name"
    (tmp_path / "y_taglist.txt").write_text("hold dog\nwalk dog\n")
    (tmp_path / "y_annots.txt").write_text("1.jpg,1\n2.JPEG\n3.jpg,0 1\n")
    labels = read_labels(tmp_path / "y_annots.txt")
    assert [(image.file, sorted(image.positives)) for image in labels.images] == [
        ("1.jpg", ["walk dog"]), ("2.JPEG", []), ("3.jpg", ["hold dog", "walk dog"]),
    ]  # fmt: skip
    (tmp_path / "tag2text_ori_tag_list.txt").write_text("a\nb\nc\n")
    (tmp_path / "z_tagidlist.txt").write_text("0\n2\n")
    (tmp_path / "z_idannots.txt").write_text("t/1,2\nt/2,0,2\n")
    labels = read_labels(tmp_path / "z_idannots.txt")
    assert labels.tags == ("a", "c")
    assert labels.images[1] == LabelledImage("t/2.jpg", frozenset({"a", "c"}))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labels.jsonl", '{"file": "a.jpg", "tags": []}\n{"file": "b.jpg"}', r"labels\.jsonl, line 2: not an object"),
        ("labels.jsonl", '{"file": "a.jpg", "tags": "dog"}', "line 1.*tags: .*array"),
        ("labels.jsonl", "{]", "line 1"),
        ("labels.jsonl", "", "has no images"),
        ("labels.jsonl", '{"file": "a.jpg", "tags": []}', "has no tags"),
        ("labels.json", '{"images": []}', "COCO's instances.*annotations|categories"),
        ("labels.csv", "Image,Label\n", r"line 1: not OpenImages' header"),
        ("labels.csv", "ImageID,LabelName\nx,/m/9\n", r"line 2: /m/9 has no name: put \*class-descriptions\*"),
        ("labels.csv", "ImageID,LabelName,Confidence\nx,dog,much\n", "line 2"),
        ("x_annots.txt", "t/1,cat\n", "line 1.*'cat' is not in the list"),
        ("x_annots.txt", "1.jpg,7\n", "line 1"),
        ("z_annots.txt", "1.jpg,7\n", r"z_taglist\.txt: can't be read"),
        ("labels.txt", "a", "RAM's annotation files are called"),
        ("labels.yaml", "a", "no known format of labels. Give JSON lines"),
    ],
)
def test_malformed_files_name_file_line_and_remedy(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / "x_taglist.txt").write_text("dog\n")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        read_labels(tmp_path / name)


def test_malformed_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.jsonl: can't be read \(No such file"):
        read_labels(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="has no images"):
        read_labels(tmp_path)
    (tmp_path / "1.xml").write_text("<annotation><object/></annotation>")
    with pytest.raises(InputError, match=r"1\.xml: not a VOC annotation .*no name"):
        read_labels(tmp_path)
    (tmp_path / "1.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=r"1\.xml: not XML"):
        read_labels(tmp_path)


REAL = {
    "openimages_common_214_ram_annots": (57224, 214, ","),
    "openimages_common_214_tag2text_idannots": (57224, 214, ","),
    "openimages_rare_200_ram_annots": (21991, 200, ","),
    "hico_600_annots": (9658, 600, " "),
    "imagenet_multi_1000_annots": (50000, 1000, " "),
}
"""Images, tags and the separator of RAM's files."""


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_ram_s_real_files(shared: Path, name: str) -> None:
    images, tags, separator = REAL[name]
    file = shared / "ram-files" / f"{name}.txt"
    labels = read_labels(file)
    assert (len(labels.images), len(labels.tags)) == (images, tags)
    cells = [set(line.partition(",")[2].split(separator)) - {""} for line in file.read_text().splitlines()]
    names = dict(enumerate(labels.tags)) if separator == " " else {}
    expected = [len({names[int(cell)] for cell in row} if names else row) for row in cells]
    assert [len(image.positives) for image in labels.images] == expected
