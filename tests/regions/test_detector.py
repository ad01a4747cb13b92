"""Grounding DINO and SAM through transformers' own classes, with small networks: prompts, boxes, masks, errors."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from regions import tiny_detectors
from torchvision.ops import box_iou
from typer.testing import CliRunner

from ram_backend.cli.main import app
from ram_backend.demo import photo_paths
from ram_backend.errors import BundleDamaged, BundleNotFound, DownloadError, InputError
from ram_backend.regions import detector as detector_module
from ram_backend.regions.detector import GroundingDino
from ram_backend.regions.segmenter import SegmentAnything, run_lengths
from ram_backend.regions.weights import folder_of, pull

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with both."""
    folder = tmp_path_factory.mktemp("data")
    tiny_detectors.save_grounding_dino(folder_of("grounding-dino", folder))
    tiny_detectors.save_sam(folder_of("sam", folder))
    return folder


@pytest.fixture(scope="module")
def dino(weights: Path) -> GroundingDino:
    return GroundingDino(folder_of("grounding-dino", weights))


@pytest.mark.parametrize("count", [3, 40, 400])
def test_no_tag_is_cut_or_lost(dino: GroundingDino, count: int) -> None:
    tags = [f"thing number {number} of a kind" for number in range(count)]
    prompts = list(dino.prompts(tags))
    decode = dino._tokenizer.decode
    assert all(len(ids) <= dino.text_limit for ids, _ in prompts)
    assert [tag for _, spans in prompts for tag, _ in spans] == list(range(count))
    for ids, spans in prompts:
        assert [decode(ids[span]) for _, span in spans] == [tags[tag] for tag, _ in spans]
    fewest = -(-sum(len(ids) - 2 for ids, _ in prompts) // (dino.text_limit - 2))
    assert len(prompts) == fewest


def test_prompt_is_the_text_that_the_authors_write(dino: GroundingDino) -> None:
    ((ids, _),) = dino.prompts(["Cat", "red car", "a person without a hard hat"])
    assert ids == dino._tokenizer("cat. red car. a person without a hard hat.")["input_ids"]
    ((ids, spans),) = dino.prompts(["st. bernard", "...", "dog?"])  # a full stop splits no tag
    assert [(tag, dino._tokenizer.decode(ids[span])) for tag, span in spans] == [(0, "st bernard"), (2, "dog")]
    with pytest.raises(InputError, match="tokens"):
        list(dino.prompts(["word " * 300]))


def test_boxes_are_those_of_the_networks_own_processor(dino: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "BOX_THRESHOLD", 0.0)
    monkeypatch.setattr(detector_module, "TEXT_THRESHOLD", 0.0)
    found = dino.detect(PHOTO, ["cat", "red car"])
    assert [one.tag for one in found] == sorted((one.tag for one in found), key=["cat", "red car"].index)
    inputs = dino._images(images=PHOTO, return_tensors="pt")
    text = dino._tokenizer("cat. red car.", return_tensors="pt")
    answer = dino._model(**inputs, **text)
    scores = answer.logits[0].sigmoid().detach().numpy()
    centres = answer.pred_boxes[0].detach().numpy()
    for tag, columns in (("cat", [1]), ("red car", [3, 4])):
        regions = [one for one in found if one.tag == tag]
        best = scores[:, columns].max(axis=1)
        assert regions[0].score == pytest.approx(best.max(), abs=1e-5)
        x, y, width, height = centres[best.argmax()]
        assert regions[0].box == pytest.approx(
            np.clip((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 0, 1), abs=1e-5
        )
        values = [one.score for one in regions]
        assert values == sorted(values, reverse=True)
        import torch

        overlaps = box_iou(*[torch.tensor([one.box for one in regions])] * 2) - torch.eye(len(regions))
        assert overlaps.max() <= detector_module.NMS_OVERLAP


def test_nothing_is_found_rather_than_the_best_of_nothing(dino: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "BOX_THRESHOLD", 1.0)
    assert dino.detect(PHOTO, ["cat"]) == []
    assert dino.detect(PHOTO, []) == []


def test_masks_have_the_images_size(weights: Path) -> None:
    segmenter = SegmentAnything(folder_of("sam", weights))
    masks = segmenter.masks(PHOTO, [(0.0, 0.0, 0.5, 0.5), (0.2, 0.3, 0.9, 1.0)])
    assert masks.shape == (2, 70, 90)
    assert masks.dtype == bool
    assert segmenter.masks(PHOTO, []).shape == (0, 70, 90)


def test_run_lengths_are_read_by_columns() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert run_lengths(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}


def test_missing_and_damaged_weights_say_what_helps(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="bundles pull grounding-dino"):
        GroundingDino(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    for kind in (GroundingDino, SegmentAnything):
        with pytest.raises(BundleDamaged, match="pull it again"):
            kind(tmp_path)
    with pytest.raises(DownloadError, match="Check the connection"):
        pull("sam", tmp_path, endpoint="http://127.0.0.1:9")


def test_tag_uses_them_where_installed(weights: Path, with_starter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "BOX_THRESHOLD", 0.0)
    monkeypatch.setattr(detector_module, "TEXT_THRESHOLD", 0.0)
    arguments = ["tag", str(photo_paths()[0]), "--tags", "cat", "--regions", "--json"]
    plain = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "bundles pull grounding-dino" in plain.stderr
    (with_starter / "detectors").symlink_to(weights / "detectors")
    try:
        found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)["regions"]
    finally:
        (with_starter / "detectors").unlink()
    assert 3 < len(found) <= tiny_detectors.QUERIES
    with Image.open(photo_paths()[0]) as photo:
        size = [photo.height, photo.width]
    assert all(each["mask"]["size"] == size for each in found)
    assert all(sum(each["mask"]["counts"]) == size[0] * size[1] for each in found)
