"""Building the starter from labelled photos, on a handful of them: the one command that makes what ships."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.numpy import load_file

from ram_backend.demo import photo_paths
from ram_backend.errors import InputError
from ram_backend.images.decode import decode
from ram_backend.models.bundle import file_sha256, open_bundle
from ram_backend.models.network import load_network
from ram_backend.models.starter.install import install_starter
from ram_backend.tagging.subset import resolve_subset
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.tags import Tag, Vocabulary
from starter.build import build_starter
from starter.head import HeadOptions

pytestmark = pytest.mark.slow

VOCABULARY = Vocabulary(
    [
        Tag("animal", category="animal"),
        Tag("cat", synonyms=("kitty",), category="animal", hypernyms=("animal",)),
        Tag("dog", category="animal", hypernyms=("animal",)),
        Tag("cup"),
        Tag("mountain", category="scene"),
    ]
)
HEAD_OPTIONS = HeadOptions(
    hidden=16, heads=2, intermediate=32, components=12, epochs=6, batch=8, tags=5, learning_rate=1e-2
)
SHOWN = {"chelsea_cat": "cat", "german_shepherd_dog": "dog", "coffee_cup": "cup", "alpine_landscape": "mountain"}


def variants(image: Image.Image) -> list[Image.Image]:
    """Eight pictures that show the same."""
    width, height = image.size
    boxes = [(0, 0, width, height), (0, 0, int(width * 0.9), height), (int(width * 0.1), 0, width, height)]
    boxes.append((0, int(height * 0.1), width, height))
    parts = [image.crop(box) for box in boxes]
    return [*parts, *map(ImageOps.mirror, parts)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    photos = {path.stem: path for path in photo_paths()}
    entries: dict[str, list[dict[str, object]]] = {"coco_objects": [], "flickr8k_tags": [], "imagenet_samples": []}
    for name, tag in SHOWN.items():
        with Image.open(photos[name]) as image:
            pictures = variants(image.convert("RGB"))
        for number, picture in enumerate(pictures):
            set_name = "coco_objects" if number % 2 else "flickr8k_tags"
            file = f"{name}_{number}.jpg"
            (folder / set_name / "images").mkdir(parents=True, exist_ok=True)
            picture.save(folder / set_name / "images" / file)
            captions = [f"A photo of a {tag}."] * 5
            entries[set_name].append({"file": file, "tags": [tag], "split": "train", "maybe": [], "captions": captions})
    (folder / "imagenet_samples" / "images").mkdir(parents=True)
    with Image.open(photos["chelsea_cat"]) as image:
        image.convert("RGB").save(folder / "imagenet_samples" / "images" / "tabby.jpg")
    entries["imagenet_samples"].append({"file": "tabby.jpg", "tags": ["cat"], "split": "train", "imagenet_index": 281})
    for set_name, lines in entries.items():
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / set_name / "labels.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def build(data: Path, out: Path, cache: Path, **options: object) -> Path:
    return build_starter(data, out, cache=cache, threads=1, vocabulary=VOCABULARY, options=HEAD_OPTIONS, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    built = build(data, tmp_path_factory.mktemp("built") / "source", cache)
    assert torch.get_num_threads() == threads
    return built


def test_what_is_built_installs_and_has_learned(data: Path, source: Path, tmp_path: Path) -> None:
    sums = {file_sha256(path) for path in data.glob("*/images/*.jpg")}
    assert {line.split()[0] for line in (source / "training_images.txt").read_text().splitlines()} == sums
    bundle = open_bundle(install_starter(tmp_path / "bundles", source=source, name="small"))
    assert bundle.vocabulary.names == VOCABULARY.names
    assert (bundle.calibration.slope > 0).all()
    tagger = Tagger(bundle, load_network(bundle, threads=1), resolve_subset(bundle, ["cat", "dog", "cup", "mountain"]))
    photos = {path.stem: path for path in photo_paths()}
    limits = {"max_pixels": 10**8, "max_bytes": 10**8}
    images = [decode(photos[name], exif_orientation=True, alpha="white", **limits)[0] for name in SHOWN]  # type: ignore[arg-type]
    scores = tagger.tag(images).scores
    assert scores.argmax(axis=0).tolist() == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_files(data: Path, source: Path, cache: Path, tmp_path: Path) -> None:
    more = [build(data, tmp_path / str(seed), cache, seed=seed, calibrated=False) for seed in (0, 1)]
    first, again, other = (load_file(folder / "head.safetensors") for folder in (source, *more))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_what_is_left_out_leaves_no_trace(data: Path, cache: Path, tmp_path: Path) -> None:
    left_out = {"leave_out_tags": ["kitty"], "leave_out_sets": ["coco_objects"]}
    source = build(data, tmp_path / "source", cache, calibrated=False, **left_out)
    assert json.loads((source / "starter.json").read_text())["provenance"]["left_out_tags"] == ["animal", "cat"]
    assert not {0, 1} & set(load_file(source / "probes.safetensors")["rows"].tolist()), "with its broader tags"
    sums = {line.split()[0] for line in (source / "training_images.txt").read_text().splitlines()}
    assert not sums & {file_sha256(path) for path in (data / "coco_objects" / "images").iterdir()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"leave_out_tags": ["unicorn"]}, "unicorn"),
        ({"leave_out_sets": ["my_set"]}, "my_set"),
        ({"leave_out_sets": ["coco_objects", "flickr8k_tags", "imagenet_samples"]}, "keep at least one"),
    ],
)
def test_wrong_requests(data: Path, cache: Path, tmp_path: Path, options: dict[str, list[str]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(data, tmp_path / "source", cache, **options)
