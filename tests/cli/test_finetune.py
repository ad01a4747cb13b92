"""`ram-backend finetune`: a bundle is made, measured, used and removed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from finetuning import small
from models import tiny
from support.commands import connect, json_lines, run
from support.label_studio import LEGACY, FakeLabelStudio
from support.processes import wait_until
from support.server import choices_config, predict_body, results, serving
from support.server import connect as connect_server
from support.starter import lend

from ram_backend.demo import photo_paths
from ram_backend.errors import InputError
from ram_backend.jobs.table import JobTable
from ram_backend.models.bundle import open_bundle, verify
from ram_backend.models.label_embeddings import LabelEmbeddings
from ram_backend.models.network import load_network
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings
from ram_backend.worker.run_job import claim_and_run


def write_labels(folder: Path, paths: list[Path], tags: list[list[str]], **more: list) -> Path:
    file = folder / "labels.jsonl"
    rows = [
        {"file": path.name, "tags": each} | {key: values[at] for key, values in more.items()}
        for at, (path, each) in enumerate(zip(paths, tags, strict=True))
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def starter(starter_data: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own, with the starter in it."""
    return lend(starter_data, tmp_path / "data") / "bundles"


def test_the_starter_goes_the_whole_way(starter: Path, tmp_path: Path) -> None:
    photos = photo_paths()
    tags = [["outdoor thing"] if number % 2 else ["cat", "outdoor thing"] for number in range(len(photos))]
    split = ["train" if number % 3 else "test" for number in range(len(photos))]
    labels = write_labels(tmp_path, photos, tags, split=split)
    given = ["--labels", labels, "--images", photos[0].parent, "--out", "mine"]
    printed = run("finetune", *given, "--batch", 4, "--epochs", 3, "--learning-rate", 0.001)
    assert "Bundle mine is ready" in printed
    bundle = open_bundle(starter / "mine")
    verify(bundle)
    assert (bundle.kind, len(bundle.vocabulary)) == ("starter", len(open_bundle(starter / "starter").vocabulary))
    measured = bundle.manifest["evaluation"]
    assert [each["name"] for each in measured["models"]] == ["starter", "mine"]
    assert measured["images"] == split.count("test")
    assert bundle.manifest["provenance"]["options"]["part"] == "head"
    assert not (tmp_path / "data" / "finetuning" / "mine").exists()
    base, tuned = (
        json_lines("tag", photos[1], "--tags", "cat,outdoor thing", "--bundle", bundle, "--min-score", 0, "--json")[0]
        for bundle in ("starter", "mine")
    )
    base, tuned = ({each["tag"]: each["score"] for each in found["tags"]} for found in (base, tuned))
    assert tuned["outdoor thing"] > base["outdoor thing"]
    evaluated = json_lines("eval", *given[:4], "--bundle", "mine", "--split", "test", "--json")[0]
    assert evaluated["mAP"] == pytest.approx(measured["models"][1]["mAP"], abs=1e-6)
    with pytest.raises(InputError, match="from all of its images"):
        run("eval", *given[:4], "--bundle", "mine", "--split", "train")
    again = [*given[:5], "again", "--bundle", "mine", "--train", "head", "--batch", 4, "--epochs", 1]
    assert "Bundle again is ready" in run("finetune", *again)
    shutil.rmtree(starter / "mine")
    assert [each["name"] for each in json_lines("bundles", "list", "--json")] == ["starter", "again"]


def test_a_project_s_corrections_become_a_bundle_that_it_uses_and_leaves(
    starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = choices_config("outdoor thing", "cat", "nobody has left this on")
    with FakeLabelStudio() as studio:
        studio.record["label_config"] = config
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
        database = connect(studio.key, config)
        given = ["--project", studio.project, "--batch", 4, "--learning-rate", 0.001, "--out"]
        with pytest.raises(InputError, match="no tag that somebody left on"):
            run("finetune", *given, "mine")
        images = [studio.upload(photo.name, photo.read_bytes()) for photo in photo_paths()]
        for number, image in enumerate(images, start=1):
            studio.task(number, image=image)
            studio.annotate(number, number, "outdoor thing", *["cat"] * (number % 2))
        studio.task(99, image="/data/upload/1/gone.jpg")
        studio.annotate(99, 99, "cat")
        printed = run("finetune", *given, "mine")
        assert "1 images can't be fetched" in printed
        assert "images that were left out, 2 tags" in printed
        made = open_bundle(starter / "mine")
        assert len((made.path / "training_images.txt").read_text().splitlines()) > len(images) * 0.8
        assert "is queued as job" in run("finetune", *given, "again", "--queue")
        with pytest.raises(InputError, match="has an open fine-tuning already"):
            run("finetune", *given, "third", "--queue")
        table = JobTable(database)
        (job,) = table.jobs(studio.key)
        claim_and_run(load_settings(), database, job.id)
        done = table.get(job.id)
        assert done is not None
        assert (done.state, done.message[:24]) == ("done", "Bundle again is ready: o"), done.message
        assert open_bundle(starter / "again").digest == made.digest
        answers = []
        for name in ("starter", "mine", "starter"):
            with serving(create_app(load_settings(bundle=name))) as client:
                wait_until(lambda client=client: client.get("/ready").status_code == 200, 120)
                project = f"{studio.project}.{studio.key.created}"
                connect_server(client, studio, config, project=project)
                answers.append(results(client, predict_body(config, images[:3], project)))
    assert answers[0] == answers[2]
    for name, answer in zip(("starter", "mine"), answers, strict=False):
        assert {each["model_version"].partition("-")[0] for each in answer} == {name}


def test_what_is_learned_from_has_to_be_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["--labels", tmp_path / "labels.jsonl"]
    for given in ([], labels, ["--images", tmp_path], [*labels, "--project", 1], ["--queue"]):
        with pytest.raises(InputError, match="Give --labels with --images, or a --project"):
            run("finetune", "--out", "mine", *given)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="with torchrun give --labels"):
        run("finetune", "--out", "mine", "--project", 1)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_small_bundle_of_each_kind(kind: str, tmp_path: Path) -> None:
    base = small.import_bundle(tmp_path / "data", kind)
    paths = small.pictures(tmp_path / "images")
    tags = [[tiny.TAGS[number % 3]] for number in range(len(paths))]
    captions = {"captions": [[f"a {each[0]} here"] for each in tags]} if kind == "tag2text" else {}
    labels = write_labels(tmp_path, paths, tags, **captions)
    given = ["--labels", labels, "--images", paths[0].parent, "--bundle", kind, "--no-clip"]
    run("finetune", *given, "--out", "mine", "--batch", 4, "--epochs", 1, "--learning-rate", 0.001)
    made = open_bundle(load_settings().bundles_dir / "mine")
    assert made.manifest["files"].keys() == base.manifest["files"].keys() | {"training_images.txt"}
    assert made.digest != base.digest
    assert LabelEmbeddings.open(made.path).of(0).tolist() == LabelEmbeddings.open(base.path).of(0).tolist()
    pixels = np.stack([np.zeros((3, tiny.IMAGE, tiny.IMAGE), np.float32)])
    before, after = (load_network(each, device="cpu").encode(pixels) for each in (base, made))
    assert np.abs(before - after).max() > 1e-4
    captioning = ["--caption", "--beams", 1, "--max-length", 8] if kind == "tag2text" else []
    (tagged,) = json_lines("tag", paths[0], "--bundle", "mine", "--json", *captioning)
    assert ("caption" in tagged) == (kind == "tag2text")


def test_images_that_can_t_be_measured_don_t_lose_what_has_learned(tmp_path: Path) -> None:
    small.import_bundle(tmp_path / "data", "ram")
    paths = small.pictures(tmp_path / "images", 4)
    shutil.copy(paths[0], paths[3])
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    files = [*paths[:3], paths[0].with_name("broken.png"), paths[3]]
    labels = write_labels(tmp_path, files, [["cat"]] * 5, split=["train"] * 4 + ["test"])
    given = ["--labels", labels, "--images", paths[0].parent, "--bundle", "ram", "--out", "mine", "--no-clip"]
    printed = run("finetune", *given, "--batch", 2, "--epochs", 1)
    assert "1 files can't be read" in printed
    assert "the models have learned from all of its images" in printed
    assert "0 images that were left out" in printed
    assert open_bundle(load_settings().bundles_dir / "mine").manifest["evaluation"]["models"] == []


def test_what_can_t_be_done_is_said_before_anything_is_trained(starter: Path, tmp_path: Path) -> None:
    photos = photo_paths()[:4]
    labels = write_labels(tmp_path, photos, [["cat"]] * 4, captions=[["a cat"], [], [], []])
    given = ["--labels", labels, "--images", photos[0].parent, "--out"]
    with pytest.raises(InputError, match="There is already a bundle 'starter'"):
        run("finetune", *given, "starter")
    with pytest.raises(InputError, match="some images have captions and others don't"):
        run("finetune", *given, "mine")
    labels = write_labels(tmp_path, photos, [["cat"]] * 4)
    with pytest.raises(InputError, match="runs in ONNX and can't learn: use --train head"):
        run("finetune", *given, "mine", "--train", "all")
    with pytest.raises(InputError, match="none of the images to learn from can be read: check --images"):
        run("finetune", "--labels", labels, "--images", tmp_path, "--out", "mine")
    write_labels(tmp_path, photos, [["cat"]] * 4, split=["test"] * 4)
    with pytest.raises(InputError, match="no image to learn from: give some of split 'train'"):
        run("finetune", *given, "mine")
    assert [path.name for path in starter.iterdir() if not path.name.startswith(".")] == ["starter"]
