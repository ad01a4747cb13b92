"""`ram-backend label`: phrases in photos, reviewed, exported, and pushed into a project."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.browser import chromium
from PIL import Image
from regions import tiny_detectors
from support.commands import connect, json_lines, run
from support.http_server import Request
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.cli.contact_sheet import ContactSheet
from ram_backend.demo import photo_paths
from ram_backend.errors import InputError
from ram_backend.evaluation.detection_formats import read_coco
from ram_backend.regions.weights import folder_of

KITTEN, NOTHING = "a little kitten that looks around", "a submarine under water"
LABELS = f'<Label value="{KITTEN}"/><Label value="{NOTHING}"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>
<RectangleLabels name="boxes" toName="image" model_boxes="true">{LABELS}</RectangleLabels>
<BrushLabels name="masks" toName="image" model_masks="true">{LABELS}</BrushLabels></View>"""
pytestmark = pytest.mark.usefixtures("with_starter")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photos that ship, of which one shows a cat."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    cat = next(path for path in photo_paths() if "cat" in path.name)
    for path in [cat, *[path for path in photo_paths() if path != cat][:3]]:
        shutil.copy(path, folder / f"my {path.name}")
    return folder


def label(folder: Path, *arguments: object, prompt: str = f"{KITTEN}; {NOTHING};") -> dict[str, list[dict[str, Any]]]:
    """The regions of each photo."""
    rows = json_lines("label", folder, "--prompt", prompt, "--json", *arguments)
    return {Path(row["image"]).name: row["regions"] for row in rows}


def test_a_phrase_is_found_where_it_is_and_nothing_where_it_is_not(photos: Path, tmp_path: Path) -> None:
    found = label(photos, "--export", f"coco={tmp_path / 'boxes.json'}")
    (cat,) = [name for name, regions in found.items() if regions]
    assert "cat" in cat
    assert {each["tag"] for each in found[cat]} == {KITTEN}
    assert all(0.3 < each["score"] < 1 for each in found[cat])
    exported = read_coco(tmp_path / "boxes.json")
    assert exported.tags == (KITTEN, NOTHING)
    assert {image.file: len(image.boxes) for image in exported.images} == {n: len(r) for n, r in found.items()}


def test_words_of_the_vocabulary_are_decided_as_always(photos: Path) -> None:
    found = label(photos, prompt=f"cat; {NOTHING}")
    tagged = json_lines("tag", photos, "--tags", "cat", "--json")
    scores = {Path(row["image"]).name: row["tags"][0]["score"] for row in tagged}
    for name, regions in found.items():
        assert [each["score"] for each in regions[:1]] == [pytest.approx(scores[name], abs=1e-4)] * (scores[name] > 0.5)


def test_an_unreadable_photo_is_skipped_and_the_status_says_so(photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    printed = run("label", photos, "--prompt", KITTEN, status=1)
    assert "broken.jpg" in printed
    assert "cat" in printed
    with pytest.raises(InputError, match="nothing is written"):
        label(photos / "missing.jpg", "--out", photos / "sheet")
    assert not (photos / "sheet").exists()


def test_only_what_was_accepted_is_written(photos: Path, tmp_path: Path) -> None:
    cat = next(path for path in sorted(photos.iterdir()) if "cat" in path.name)
    accepted, out = tmp_path / "accepted.jsonl", tmp_path / "boxes.json"
    for tags, expected in (([KITTEN], {KITTEN}), ([NOTHING], set()), ([], set())):
        accepted.write_text(json.dumps({"file": str(cat), "tags": tags}) + "\n")
        label(photos, "--accepted", accepted, "--export", f"coco={out}")
        assert {each.tag for image in read_coco(out).images for each in image.boxes} == expected
    accepted.write_text("[1]")
    with pytest.raises(InputError, match=r"accepted\.jsonl, line 1"):
        label(photos, "--accepted", accepted)
    with pytest.raises(InputError, match="names nothing"):
        label(photos, prompt=" ; ")


def test_ctrl_c_keeps_a_sheet_of_what_is_done(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, done = ContactSheet.add, list[str]()

    def stop_at_the_third(sheet: ContactSheet, record: Any, image: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        add(sheet, record, image)
        done.append(Path(record["image"]).name)

    monkeypatch.setattr(ContactSheet, "add", stop_at_the_third)
    printed = run("label", photos, "--prompt", KITTEN, "--out", tmp_path / "sheet", status=130)
    assert f"2 of 4 photos are in {tmp_path / 'sheet' / 'index.html'}" in re.sub(r"\n", "", printed)
    page = (tmp_path / "sheet" / "index.html").read_text()
    assert [name in page for name in sorted(path.name for path in photos.iterdir())].count(True) == 2
    assert all(name in page for name in done)


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeLabelStudio]:
    """A Label Studio that takes uploads under names of its own, and predictions."""
    with FakeLabelStudio.with_tasks(0) as fake:
        fake.record["label_config"] = CONFIG

        def take(request: Request) -> Any:
            (name,) = re.findall(rb'filename="([^"]+)"', request.body)
            number = len(fake.tasks) + 1
            fake.task(number, image=f"/data/upload/7/98d5a99{number}-{name.decode().replace(' ', '_')}")
            return {"task_ids": [number]}

        fake.route(f"/api/projects/{fake.project}/import", take)
        monkeypatch.setenv("RAM_DATABASE_URL", f"sqlite:///{tmp_path / 'ram.db'}")
        monkeypatch.setenv("LABEL_STUDIO_URL", fake.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        connect(fake.key, CONFIG)
        yield fake


def test_photos_get_predictions_and_one_upload(photos: Path, studio: FakeLabelStudio, with_starter: Path) -> None:
    tiny_detectors.save_sam(folder_of("sam", with_starter))
    try:
        found = label(photos, "--project", studio.project, "--push")
        label(photos, "--project", studio.project, "--push")
    finally:
        shutil.rmtree(with_starter / "detectors")
    assert len(studio.tasks) == len(found) == 4
    for task in studio.tasks.values():
        (regions,) = [each for name, each in found.items() if name.replace(" ", "_") in task["data"]["image"]]
        first, second = task["predictions"]
        assert first["result"] == second["result"]
        for kind, key in (("rectanglelabels", "width"), ("brushlabels", "rle")):
            items = [each for each in first["result"] if each["type"] == kind]
            assert [each["value"][kind] for each in items] == [[KITTEN]] * len(regions)
            assert all(each["value"][key] for each in items)
        if regions:
            x0, y0, x1, y1 = (100 * each for each in regions[0]["box"])
            item = first["result"][0]
            place = [item["value"][name] for name in ("x", "y", "width", "height")]
            assert place == pytest.approx([x0, y0, x1 - x0, y1 - y0])
            with Image.open(photos / next(name for name, each in found.items() if each)) as photo:
                assert (item["original_width"], item["original_height"]) == photo.size


def test_tasks_are_labelled_and_get_what_was_accepted(photos: Path, studio: FakeLabelStudio, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no task with a photo that can be fetched"):
        run("label", "--prompt", KITTEN, "--project", studio.project)
    for number, path in enumerate(sorted(photos.iterdir()), start=1):
        studio.task(number, image=studio.upload(f"98d5a99{number}-photo.jpeg", path.read_bytes()))
    studio.task(5, image="/data/upload/1/gone.jpg")
    given = ["--prompt", f"{KITTEN}; {NOTHING}", "--project", studio.project, "--push", "--json"]
    export = ["--export", f"yolo={tmp_path / 'yolo'}"]
    printed = run("label", *given, *export, status=1)
    assert "skipped: task 5: " in printed
    assert f"4 photos have predictions in project {studio.project}." in printed
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [Path(row["image"]).stem.partition("-")[0] for row in rows] == ["1", "2", "3", "4"]
    (shown,) = [number for number in range(1, 5) if studio.tasks[number]["predictions"][0]["result"]]
    cat = sorted(photos.iterdir())[shown - 1]
    assert "cat" in cat.name
    assert (tmp_path / "yolo" / "images" / Path(rows[shown - 1]["image"]).name).read_bytes() == cat.read_bytes()
    accepted = tmp_path / "accepted.jsonl"
    accepted.write_text(json.dumps({"file": rows[shown - 1]["image"], "tags": [NOTHING]}) + "\n")
    run("label", *given, "--accepted", accepted, status=1)
    assert [task["predictions"][1]["result"] for number, task in studio.tasks.items() if number < 5] == [[]] * 4


def test_what_is_asked_for_has_to_be_clear(photos: Path, studio: FakeLabelStudio) -> None:
    for given in ([], ["--push"], [photos, "--push"], [photos, "--project", 1]):
        with pytest.raises(InputError, match="Name photos, or a --project whose tasks they are"):
            run("label", "--prompt", KITTEN, *given)
    with pytest.raises(InputError, match="has no 'scaffold': add these labels"):
        run("label", photos, "--prompt", f"scaffold; {KITTEN}", "--project", studio.project, "--push")
    assert not studio.tasks


@pytest.mark.e2e
def test_the_contact_sheet_gives_what_was_accepted(photos: Path, tmp_path: Path) -> None:
    names = ["cat", KITTEN, "animal"]
    run("tag", photos, "--tags", ",".join(names), "--save", tmp_path / "sheet")
    errors: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "sheet" / "index.html").as_uri())
        assert page.locator("#accepted").inner_text() == "12 accepted"
        page.locator("button[data-tag='cat']").first.click()
        chosen = [float(each.get_attribute("data-score") or 0) for each in page.locator("button.chosen").all()]
        assert (len(chosen), chosen) == (4, sorted(chosen, reverse=True))
        assert page.locator("#count").inner_text() == "4 photos"
        cat = page.locator("figure", has_text="cat.").first
        cat.get_by_label("accept animal").uncheck()
        page.locator("#order").select_option(label=f"{KITTEN} (4)")
        page.get_by_role("button", name="Reject all").click()
        assert page.locator("#accepted").inner_text() == "7 accepted"
        page.locator("#threshold").fill("0.2")
        scores = {
            (row["image"], each["tag"]): each["score"]
            for row in map(json.loads, (tmp_path / "sheet" / "tags.jsonl").read_text().splitlines())
            for each in row["tags"]
        }
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        rows = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    accepted = {(row["file"], tag) for row in rows for tag in row["tags"]}
    expected = {each for each, score in scores.items() if score >= 0.2 and each[1] != KITTEN}
    assert accepted == {each for each in expected if not ("cat" in Path(each[0]).name and each[1] == "animal")}
    assert len(rows) == 4
    assert not errors
