"""`ram-backend eval` on the package's photos, with labels that the tests make up."""

import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from open_clip.transform import image_transform
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score, precision_score
from support.commands import connect
from support.starter import lend
from support.versions import ACCEPT, lineage
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths
from ram_backend.errors import InputError, VersionNotFound
from ram_backend.feedback.ledger import Ledger
from ram_backend.images.decode import perceptual_hash
from ram_backend.models.bundle import MANIFEST, TRAINING_IMAGES, open_bundle
from ram_backend.models.delta import Delta
from ram_backend.projects.keys import ProjectKey
from ram_backend.settings import load_settings
from ram_backend.versions.directory import write_version
from ram_backend.versions.table import VersionTable
from ram_backend.vocabulary.prompts import prompts
from ram_backend.worker.training_set import write_folds

KEY = ProjectKey("http://localhost:8080", 7, 70)
TAGS = ["animal", "cat", "my product name", "person", "red"]
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    "quick_gelu": True,
}


@pytest.fixture
def data(starter_data: Path, tmp_path: Path) -> Path:
    """The test's own data folder, with the starter in it."""
    return lend(starter_data, tmp_path / "data")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The package's photos, each under its name, with labels drawn by lot: half of them are of split test."""
    random, folder = np.random.default_rng(1), tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, photo in enumerate(photo_paths()):
        shutil.copy(photo, folder / "images" / photo.name)
        drawn = random.random(len(TAGS))
        tags = [tag for tag, value in zip(TAGS, drawn, strict=True) if value < 0.4]
        maybe = [tag for tag, value in zip(TAGS, drawn, strict=True) if value > 0.9]
        lines.append({"file": photo.name, "split": ("train", "test")[number % 2], "tags": tags, "maybe": maybe})
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "labels.jsonl"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def evaluated(labels: Path, *options: object, images: Path | None = None) -> dict[str, Any]:
    folder = images or labels.parent / "images"
    return json.loads(run("eval", "--labels", labels, "--images", folder, "--json", *options))


def plain_numbers(labels: Path, tags: list[str], out: Path) -> dict[str, float]:
    """The figures by scikit-learn, from the scores that `ram-backend tag` writes."""
    entries = [json.loads(line) for line in labels.read_text().splitlines()]
    (out / "tags.txt").write_text("\n".join(tags))
    files = [labels.parent / "images" / entry["file"] for entry in entries]
    run("tag", *files, "--tags-file", out / "tags.txt", "--json", "--out", out / "scores.npz")
    with np.load(out / "scores.npz") as arrays:
        scores, thresholds = arrays["scores"], arrays["thresholds"]
    right = np.array([[tag in entry["tags"] for tag in tags] for entry in entries])
    known = np.array([[tag not in entry.get("maybe", []) for tag in tags] for entry in entries])
    per_tag = {
        tag: average_precision_score(right[known[:, tag], tag], scores[known[:, tag], tag])
        for tag in range(len(tags))
        if (right & known)[:, tag].sum() >= 3
    }
    on = scores > thresholds
    positive = [tag for tag in range(len(tags)) if (right & known)[:, tag].any()]
    best = [np.argsort(-np.where(mask, row, -1))[:5] for row, mask in zip(scores, known, strict=True)]
    return {
        "mAP": float(np.mean(list(per_tag.values()))),
        "micro_mAP": float(average_precision_score(right[known], scores[known])),
        "micro_f1": float(f1_score(right[known], on[known])),
        "micro_precision": float(precision_score(right[known], on[known])),
        "macro_f1": float(
            np.mean([f1_score(right[known[:, tag], tag], on[known[:, tag], tag], zero_division=0) for tag in positive])
        ),
        "precision_at_5": float(np.mean([right[row][some[known[row][some]]].mean() for row, some in enumerate(best)])),
    }


def test_figures_are_those_of_scikit_learn(data: Path, labels: Path, tmp_path: Path) -> None:
    found = evaluated(labels)
    assert (found["images"], found["tags"]) == (len(photo_paths()), len(TAGS))
    expected = plain_numbers(labels, TAGS, tmp_path)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    (model,) = found["models"]
    assert (model["name"], model["seen"]["tags"], model["unseen"]["tags"]) == ("starter", 4, 1)
    low, high = model["intervals"]["mAP"]
    assert low <= found["mAP"] <= high
    assert [each["tag"] for each in model["per_tag"]] == TAGS
    (tmp_path / "two.txt").write_text("cat\nskateboard\n")
    some = evaluated(labels, "--split", "test", "--tags", tmp_path / "two.txt", "--baselines")
    assert (some["images"], some["tags"]) == (len(photo_paths()) // 2, 2)
    cat, skateboard = some["models"][0]["per_tag"]
    assert (cat["positives"] > 0, skateboard["AP"]) == (True, None)
    assert some["ram_mAP"] <= 0.5, "of a tag without positives the AP is 0"
    ranked = {each["name"]: each for each in some["models"] if each["baseline"]}
    assert set(ranked) == {"untrained prior", "ConSE", "CLIP zero-shot", "linear probe", "ML-Decoder"}
    assert "RAM_CLIP_WEIGHTS" in ranked.pop("CLIP zero-shot")["note"]
    assert all("mAP" in each and "micro_f1" not in each for each in ranked.values())


def test_clip_ranks_by_cosine(data: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: TINY_CLIP)
    model = CLIP(**TINY_CLIP).eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    monkeypatch.setenv("RAM_CLIP_WEIGHTS", str(tmp_path / "clip.pt"))
    lines, random = [json.loads(line) for line in labels.read_text().splitlines()], np.random.default_rng(0)
    files = [labels.parent / "images" / each["file"] for each in lines]
    for file in files:  # of CLIP's own size: resampling differs in the last bits
        Image.fromarray(random.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    found = {each["name"]: each for each in evaluated(labels, "--baselines")["models"]}["CLIP zero-shot"]
    prepare = image_transform(32, is_train=False)
    with torch.inference_mode():
        word = model.encode_text(open_clip.get_tokenizer("ViT-B-16")(prompts("cat")), normalize=True).mean(dim=0)
        pixels = torch.stack([prepare(Image.open(file)) for file in files])
        scores = (model.encode_image(pixels, normalize=True) @ word).numpy()
    known = np.array(["cat" not in each["maybe"] for each in lines])
    right = np.array(["cat" in each["tags"] for each in lines])
    expected = average_precision_score(right[known], scores[known])
    assert {each["tag"]: each["AP"] for each in found["per_tag"]}["cat"] == pytest.approx(expected, abs=1e-6)


def leaky(data: Path, *images: tuple[str, int]) -> None:
    """A bundle "leaky" like the starter, which has learned from these images."""
    folder = data / "bundles" / "leaky"
    shutil.copytree(data / "bundles" / "starter", folder, copy_function=os.link)
    text = "".join(f"{sha256} {phash:016x}\n" for sha256, phash in images)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][TRAINING_IMAGES] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
    for name, content in ((TRAINING_IMAGES, text), (MANIFEST, json.dumps(manifest))):
        (folder / name).unlink()
        (folder / name).write_text(content)


def test_a_planted_leak_is_reported_and_excluded(data: Path, labels: Path) -> None:
    first, second = photo_paths()[:2]
    smaller = io.BytesIO()
    Image.open(second).convert("RGB").resize((300, 200)).save(smaller, "JPEG", quality=60)
    near = (hashlib.sha256(smaller.getvalue()).hexdigest(), perceptual_hash(Image.open(smaller)))
    leaky(data, (hashlib.sha256(first.read_bytes()).hexdigest(), 0), near)
    clean, found = evaluated(labels), evaluated(labels, "--bundle", "starter", "--bundle", "leaky")
    assert clean["leaks"] == []
    assert [(each["file"], each["kind"], each["models"]) for each in found["leaks"]] == [
        (first.name, "same file", ["leaky"]),
        (second.name, "near-duplicate", ["leaky"]),
    ]
    assert found["images"] == clean["images"] - 2
    assert [each["mAP"] for each in found["models"]] == [found["mAP"]] * 2, "both are judged without them"
    assert {each["p_value"] for each in found["comparisons"]} == {1.0}
    kept = evaluated(labels, "--bundle", "leaky", "--keep-leaks")
    assert kept["images"] == clean["images"]
    assert kept["mAP"] == pytest.approx(clean["mAP"])
    assert len(kept["leaks"]) == 2
    leaky_only = labels.with_name("leaky.jsonl")
    leaky_only.write_text(json.dumps({"file": first.name, "tags": ["cat"]}))
    with pytest.raises(InputError, match="learned from all of its images"):
        evaluated(leaky_only, "--bundle", "leaky")


def test_versions_with_their_base_and_what_they_learned_from(data: Path, labels: Path) -> None:
    database = connect(KEY)
    bundle = open_bundle(data / "bundles" / "starter")
    ones = np.ones(1, dtype=np.float32)
    learned = Delta(("cat",), ones, np.zeros((1, 1454), np.float32), 9 * ones, 0.4 * ones)
    sha256 = hashlib.sha256(photo_paths()[0].read_bytes()).hexdigest()
    Ledger(database).record_images(KEY, {(1, "d"): (sha256, 5)})
    made = lineage().model_copy(update={"bundle_digest": bundle.digest})
    files = write_folds({0: learned}, [sha256])
    version = write_version(load_settings().versions_dir, KEY, learned, files, made, ACCEPT)
    table = VersionTable(database)
    table.record(version)
    table.publish(KEY, version.name, expected=None)
    found = evaluated(labels, "--project", 7, "--version", "base", "--version", "v0001")
    assert [each["name"] for each in found["models"]] == ["7 base", "7 v0001"]
    assert [(each["file"], each["models"]) for each in found["leaks"]] == [(photo_paths()[0].name, ["7 v0001"])]
    base, tuned = found["models"]
    assert tuned["micro_recall"] > base["micro_recall"], "it says cat of nearly everything"
    assert {each["figure"] for each in found["comparisons"]} == {"mAP", "micro_f1", "macro_f1", "precision_at_5", "ece"}
    assert evaluated(labels, "--project", 7)["models"][0]["name"] == "7 v0001", "by default what is served"
    with pytest.raises(VersionNotFound):
        evaluated(labels, "--project", 7, "--version", "v0009")


def test_table_report_and_what_could_not_be_read(data: Path, labels: Path, tmp_path: Path) -> None:
    folder, report = labels.parent / "images", tmp_path / "report.html"
    (folder / photo_paths()[0].name).unlink()
    other = labels.with_name("other.jsonl")
    other.write_text(labels.read_text())
    sets = ("--labels", labels, "--images", folder, "--labels", other, "--images", folder)
    said = run("eval", *sets, "--bundle", "starter", "--out", report)
    assert re.findall(r"^starter +0\.\d+\+", said, flags=re.M), "a tag was embedded from its text"
    assert len(re.findall(r"^starter", said, flags=re.M)) == 3, "a table for each set, and one for all"
    page = report.read_text()
    assert "my product name" in page
    assert page.count("<svg") == 2
    assert "1 files that can't be read" in page
    assert "http://" not in page
    lines = [json.loads(line) for line in run("eval", *sets, "--json").splitlines()]
    assert [(each["images"], len(each["missing"])) for each in lines] == [(len(photo_paths()) - 1, 1)] * 2
    run("eval", *sets[:4], "--out", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == lines[0]


def test_wrong_options_say_what_to_do(data: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 times --labels, and 1 times --images"):
        run("eval", "--labels", labels, "--labels", labels, "--images", labels.parent)
    with pytest.raises(InputError, match="--version needs --project"):
        evaluated(labels, "--version", "v0001")
    with pytest.raises(InputError, match=r"no image could be read; the first: .*no such file"):
        evaluated(labels, images=tmp_path)
    with pytest.raises(InputError, match="no image is of split 'val'"):
        evaluated(labels, "--split", "val")
