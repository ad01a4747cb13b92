"""`ram-backend tag` and `demo` on real photos, with the starter bundle."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from models import tiny
from PIL import Image, ImageChops
from support.processes import wait_until
from typer.testing import CliRunner, Result

from ram_backend.cli.contact_sheet import saved_name
from ram_backend.cli.main import app
from ram_backend.demo import photo_paths
from ram_backend.errors import BundleNotFound, CheckpointError, InputError, RamError, VocabularyError
from ram_backend.evaluation.detection_formats import read_coco, read_voc, read_yolo

CAT = next(path for path in photo_paths() if "cat" in path.name)
pytestmark = pytest.mark.usefixtures("with_starter")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def json_lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def tagged(*arguments: object) -> dict:
    (line,) = json_lines(run("tag", *arguments, "--json"))
    return line


def test_a_cat_is_tagged_cat_best_first_or_as_asked() -> None:
    line = tagged(CAT)
    assert set(line) == {"image", "model_version", "tags"}
    assert line["image"] == str(CAT)
    assert "cat" in [entry["tag"] for entry in line["tags"]]
    scores = [entry["score"] for entry in line["tags"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert len(tagged(CAT, "--top", 3)["tags"]) == 3
    assert min(entry["score"] for entry in tagged(CAT, "--min-score", 0.3)["tags"]) >= 0.3
    asked = ["golden retriever", "Cats", "skateboard", "my product name", "cats"]
    by_name = {entry["tag"]: entry["score"] for entry in tagged(CAT, "--tags", ", ".join(asked))["tags"]}
    assert set(by_name) == set(asked), "all, exactly as asked"
    assert by_name["Cats"] == by_name["cats"] > by_name["skateboard"]


def test_regions_place_the_shown_tags(tmp_path: Path) -> None:
    answer = tagged(CAT, "--tags", "cat,grass", "--regions", "--save", tmp_path / "drawn")
    found = answer["regions"]
    assert {each["tag"] for each in found} == {"cat", "grass"}
    best = next(each for each in found if each["tag"] == "cat")
    assert best["score"] == pytest.approx(answer["tags"][0]["score"], abs=1e-3)
    for each in found:
        (x0, y0, x1, y1), (x, y) = each["box"], each["point"]
        assert 0 <= x0 <= x <= x1 <= 1
        assert 0 <= y0 <= y <= y1 <= 1
    with Image.open(next((tmp_path / "drawn").glob("*.jpg"))) as drawn:
        at = (round(best["point"][0] * drawn.width), round(best["box"][1] * drawn.height) + 1)
        red, green, blue = drawn.getpixel(at)
    assert min(red, green) > 180 > blue + 40  # the box's upper edge is yellow


def test_regions_as_data_sets(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    shutil.copy(CAT, photos / "cat.jpg")
    with Image.open(CAT) as photo:
        photo.resize((90, 60)).save(photos / "sub" / "small.png")
    kinds = {"coco": tmp_path / "boxes.json", "yolo": tmp_path / "yolo", "voc": tmp_path / "voc"}
    exports = [part for kind, path in kinds.items() for part in ("--export", f"{kind}={path}")]
    lines = json_lines(
        run("tag", photos / "sub" / ".." / "cat.jpg", photos / "sub", "--tags", "grass,cat", "--json", *exports)
    )
    expected = {Path(line["image"]).name: [(each["tag"], each["box"]) for each in line["regions"]] for line in lines}
    for read in (read_coco(kinds["coco"]), read_yolo(kinds["yolo"])):
        found = {Path(image.file).name: [(each.tag, [*each.box]) for each in image.boxes] for image in read.images}
        assert found == expected
        assert {image.file for image in read.images} == {"cat.jpg", "sub/small.png"}
        assert read.tags == ("grass", "cat"), "in the order asked"
    small = next(image for image in read_voc(kinds["voc"]).images if image.file == "sub/small.png")
    assert (small.size, {each.tag for each in small.boxes}) == ((90, 60), {"grass", "cat"})
    assert (kinds["yolo"] / "images" / "cat.jpg").read_bytes() == CAT.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        run("tag", CAT, "--export", f"yolo={kinds['yolo']}")


def test_tags_file_and_arrays(tmp_path: Path) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("dog\ncat\n\nmy product name\n", encoding="utf-8")
    out = tmp_path / "scores.npz"
    result = run("tag", *photo_paths(), "--tags-file", tags, "--json", "--out", out)
    assert result.exit_code == 0
    with np.load(out) as arrays:
        assert list(arrays["images"]) == [str(path) for path in photo_paths()]
        assert list(arrays["tags"]) == ["dog", "cat", "my product name"]
        assert arrays["logits"].shape == arrays["scores"].shape == (len(photo_paths()), 3)
        assert arrays["logits"].dtype == arrays["scores"].dtype == np.float32
        assert arrays["thresholds"].shape == (3,)
        shown = {entry["tag"]: entry["score"] for entry in json_lines(result)[0]["tags"]}
        assert [shown[tag] for tag in arrays["tags"]] == pytest.approx(arrays["scores"][0], abs=1e-5)


def test_a_score_does_not_depend_on_the_other_tags_or_images(tmp_path: Path) -> None:
    run("tag", *photo_paths(), "--out", tmp_path / "all.npz")
    run("tag", CAT, "--tags", "sofa,cat", "--out", tmp_path / "two.npz")
    with np.load(tmp_path / "all.npz") as whole, np.load(tmp_path / "two.npz") as two:
        row, column = list(whole["images"]).index(str(CAT)), list(whole["tags"]).index("cat")
        assert two["scores"][0, 1] == pytest.approx(whole["scores"][row, column], abs=1e-5)
        assert two["logits"][0, 1] == pytest.approx(whole["logits"][row, column], abs=1e-4)


def test_descriptions_score_a_tag_from_its_sentences(tmp_path: Path) -> None:
    file = tmp_path / "descriptions.json"
    file.write_text('[{"purring pet": ["a photo of a cat", "a small furry animal"]}, {"x": ["a skyscraper"]}]')
    line = tagged(CAT, "--descriptions", file)
    assert [entry["tag"] for entry in line["tags"]] == ["purring pet", "x"]
    assert line["tags"][0]["score"] > 2 * line["tags"][1]["score"]
    file.write_text('{"cat": "no list"}')
    with pytest.raises(VocabularyError, match=r"descriptions\.json"):
        run("tag", CAT, "--descriptions", file)


def test_each_image_has_a_caption_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path))
    tiny.imported(tmp_path, "tag2text", tiny.captioning_state("tag2text"))
    photos, bundle = photo_paths()[:3], ["--bundle", "tag2text", "--device", "cpu"]
    asked = [*bundle, "--caption", "--max-length", 15]
    found = json_lines(run("tag", *photos, *asked, "--json"))
    assert [each["caption_source"] for each in found] == ["model"] * 3
    assert all(each["caption"] for each in found)
    assert [tagged(photo, *asked)["caption"] for photo in photos] == [each["caption"] for each in found]
    longer = tagged(photos[0], *asked[:-1], 40, "--beams", 1)["caption"]
    assert len(longer.split()) > len(found[0]["caption"].split())
    assert "caption" not in tagged(photos[0], *bundle)


def test_the_starter_s_template_is_named_one() -> None:
    result = run("tag", CAT, "--caption", "--json")
    (found,) = json_lines(result)
    assert found["caption_source"] == "template"
    assert set(found["caption"].split(", ")) == {each["tag"] for each in found["tags"]}
    assert "starter has no captioner" in result.stderr
    assert tagged(CAT, "--caption", "--tags", "zebra,car")["caption"] == "zebra, car"


def test_unreadable_files_are_reported_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:2000])
    (tmp_path / "letter.jpg").write_text("no image at all")
    (tmp_path / "cat.jpg").write_bytes(CAT.read_bytes())
    result = run("tag", tmp_path, "--json", "--out", tmp_path / "out.npz")
    assert result.exit_code == 1
    assert [Path(line["image"]).name for line in json_lines(result)] == ["cat.jpg"]
    assert [part in result.stderr for part in ("broken.jpg", "letter.jpg", "2 of 3")] == [True] * 3
    with np.load(tmp_path / "out.npz") as arrays:
        assert len(arrays["images"]) == 1
    assert run("tag", tmp_path / "letter.jpg", "--tags", "a,b", "--out", tmp_path / "out.npz").exit_code == 1
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["scores"].shape == (0, 2)


def test_a_file_is_gone_on_with(tmp_path: Path, folder: Path) -> None:
    for photo in sorted(folder.iterdir())[3:]:
        photo.unlink()
    photos, whole, file = sorted(folder.iterdir()), tmp_path / "whole.jsonl", tmp_path / "file.jsonl"
    assert run("tag", folder, "--tags", "cat,x", "--out", whole).exit_code == 0
    run("tag", *photos[:2], "--tags", "cat,x", "--out", file)
    result = run("tag", folder, "--tags", "cat,x", "--out", file, "--resume", "--json")
    assert [line["image"] for line in json_lines(result)] == [str(photo) for photo in photos[2:]]
    assert f"3 images are in {file}" in result.stderr
    number = re.compile(r"(0\.\d+)")
    expected, found = (number.split(each.read_text()) for each in (whole, file))
    assert found[::2] == expected[::2]
    assert list(map(float, found[1::2])) == pytest.approx(list(map(float, expected[1::2])), abs=1e-5)
    with pytest.raises(InputError, match="other tags or another bundle"):
        run("tag", folder, "--tags", "dog", "--out", file, "--resume")
    for other in ("something else\n", '{"file": "a"}\n{"file": "b"', '{"file": "a"}'):
        file.write_text(other)
        with pytest.raises(InputError, match="not what `tag --out` writes"):
            run("tag", folder, "--tags", "cat,x", "--out", file, "--resume")
        assert file.read_text() == other


def test_what_the_files_hold(tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "csv"):
        run("tag", CAT, "--top", 2, "--out", tmp_path / f"a.{suffix}")
    (record,) = json.loads((tmp_path / "a.json").read_text())
    assert record == json.loads((tmp_path / "a.jsonl").read_text())
    assert [tag["tag"] for tag in record["tags"]] == ["cat", "mammal"]
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["tag"], float(row["score"])) for row in rows] == [
        (str(CAT), tag["tag"], tag["score"]) for tag in record["tags"]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven photos, one of whose names is not UTF-8, and one that would be HTML."""
    made = tmp_path / "photos"
    made.mkdir()
    names = [b"<b>&'\".jpg", b"\xff.jpg", *(f"{number}.jpg".encode() for number in range(5))]
    for name, photo in zip(names, photo_paths(), strict=False):
        (made / os.fsdecode(name)).write_bytes(photo.read_bytes())
    return made


def test_a_contact_sheet(tmp_path: Path, folder: Path) -> None:
    sheet = tmp_path / "sheet"
    run("tag", *sorted(folder.iterdir())[:3], "--tags", "cat,<i>dog</i>", "--save", sheet)
    assert run("tag", folder, "--tags", "cat,<i>dog</i>", "--save", sheet, "--resume").exit_code == 0
    page = (sheet / "index.html").read_text()
    assert "<b>" not in page
    assert "<i>" not in page
    links = [unquote(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page)]
    assert len(links) == 14
    sizes = {link: Image.open(sheet / link).size for link in links}
    assert max(side for link, size in sizes.items() if link.startswith("thumbnails/") for side in size) <= 320
    first = sorted(folder.iterdir())[0]
    assert ImageChops.difference(Image.open(first), Image.open(sheet / saved_name(str(first)))).getbbox()[:2] < (60, 60)
    with pytest.raises(InputError, match="No images in"):
        run("tag", sheet, "--save", sheet)  # its own photos are not tagged again


AT_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
runpy.run_module("ram_backend", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("lines", [0, 1, 9])
def test_ctrl_c_keeps_and_says_what_is_done(tmp_path: Path, lines: int, with_starter: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.jpg").write_bytes(CAT.read_bytes())
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", AT_A_TERMINAL, "tag", str(tmp_path), "--tags", "cat", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        if not lines:
            wait_until(out.exists)
        process.send_signal(signal.SIGINT)
        printed, said = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130, said
    done = len(out.read_text().splitlines()) if out.exists() else 0
    assert 0 <= done - lines - len(printed.splitlines()) <= 1
    assert done < 200
    assert re.search(rf"Stopped: ({done}|{done - 1}) of 200 images are tagged", said)
    assert "--resume" in said
    assert "Traceback" not in said


def test_paths_are_looked_at_before_a_model_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "letter.pdf").write_bytes(b"%PDF-1.7")
    result = run("tag", tmp_path, "nope.jpg")
    assert result.exit_code == 1
    for said in ("photo.heic: is HEIC", "letter.pdf: is a PDF", "nope.jpg: no such file", "3 of 3 files"):
        assert said in result.stderr
    assert not (tmp_path / "data").exists()


def test_a_file_name_that_is_no_utf_8_is_printed_nevertheless(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.jpg")
    file.write_bytes(CAT.read_bytes())
    assert tagged(tmp_path, "--tags", "cat")["image"] == str(file)
    assert run("tag", tmp_path, "--tags", "cat").stdout.startswith(r"\udcff.jpg")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ([CAT, "--tags", " , "], VocabularyError, "No tags in --tags"),
        ([CAT, "--tags", "a", "--tags-file", "b"], VocabularyError, "use one"),
        ([CAT, "--tags-file", "missing.txt"], InputError, "missing.txt"),
        ([CAT, "--tags-file", "tags.bin"], InputError, r"tags\.bin can't be read \(it is not UTF-8\)"),
        ([CAT, "--out", "nowhere/out.npz"], InputError, "create it first"),
        ([CAT, "--out", "."], InputError, "is a folder: name a file in it"),
        ([CAT, "--out", "tags.xml"], InputError, "its suffix names the format: one of .json, .jsonl, .csv, .npz"),
        ([CAT, "--save", "tags.bin"], InputError, "can't be made"),
        ([CAT, "--resume"], InputError, "name one of them"),
        ([CAT, "--resume", "--save", "sheet", "--export", "coco=x.json"], InputError, "written as a whole"),
        ([CAT, "--resume", "--out", "out.csv"], InputError, "written as a whole"),
        ([CAT, "--export", "boxes.json"], InputError, "give coco=FILE.json, yolo=FOLDER or voc=FOLDER"),
        ([CAT, "--export", "coco=nowhere/x.json"], InputError, "--export nowhere/x.json: .*create it first"),
        (["http://host/x.jpg"], InputError, "http://host/x.jpg is an address"),
        ([CAT, "--bundle", "no-such"], BundleNotFound, "no-such"),
        (["."], InputError, "No images in"),
    ],
)
def test_wrong_options_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], error: type[RamError], said: str
) -> None:
    (tmp_path / "tags.bin").write_bytes(b"\xff\xfe\x00cat")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        run("tag", *arguments)


def test_a_data_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAM_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(CheckpointError, match="set RAM_DATA_DIR"):
        run("tag", CAT)


@pytest.mark.slow
def test_a_stranger_s_first_run_installs_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "new" / "folder"
    monkeypatch.setenv("RAM_DATA_DIR", str(data))
    command = [sys.executable, "-m", "ram_backend", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines if ".jpg" in line) == [path.name for path in photo_paths()]
    assert lines[-1].startswith("Next: ")
    assert [path.name for path in (data / "bundles").iterdir() if path.is_dir()] == ["starter"]
    assert data.stat().st_mode & 0o077 == 0, "tokens and locks will lie there"
    assert "Traceback" not in done.stderr
