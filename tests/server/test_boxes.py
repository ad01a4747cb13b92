"""`/predict` places labels of a config that asks for boxes."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image
from regions import tiny_detectors
from support.label_studio import FakeLabelStudio
from support.server import connect, predict_body, results
from support.tiny_model import RED, picture

from ram_backend.labelstudio.predictions import brush_rle
from ram_backend.regions.segmenter import SegmentAnything
from ram_backend.regions.weights import folder_of
from ram_backend.settings import Settings

CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="tags" toName="image" model_boxes="true">'
    '<Label value="red"/><Label value="green"/></RectangleLabels></View>'
)


def test_a_ticked_label_has_the_box_of_its_evidence(
    start: Callable[..., httpx.Client], studio: FakeLabelStudio
) -> None:
    client = start()
    connect(client, studio, CONFIG)
    (found,) = results(client, predict_body(CONFIG, [studio.upload("red.png", picture(RED))]))
    (region,) = found["result"]
    assert region["value"]["rectanglelabels"] == ["red"]
    place = region["value"]
    assert place["x"] < 62.5 < place["x"] + place["width"] < 90
    assert place["y"] < 37.5 < place["y"] + place["height"] < 65


MASKS = CONFIG.replace("RectangleLabels", "BrushLabels").replace("model_boxes", "model_masks")


def test_a_ticked_label_has_the_mask_of_its_box(
    start: Callable[..., httpx.Client], studio: FakeLabelStudio, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def masks(self: SegmentAnything, image: Image.Image, boxes: list[tuple[float, ...]]) -> np.ndarray:
        seen.append((image.size, boxes))
        return np.repeat(np.eye(image.height, image.width, dtype=bool)[None], len(boxes), axis=0)

    monkeypatch.setattr(SegmentAnything, "masks", masks)
    tiny_detectors.save_sam(folder_of("sam", settings.data_dir))
    client = start()
    connect(client, studio, MASKS)
    task = studio.upload("red.png", picture(RED))
    (found,) = results(client, predict_body(MASKS, [task]))
    (region,) = found["result"]
    ((size, boxes),) = seen
    assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", ["red"])
    assert (region["original_width"], region["original_height"]) == size
    assert region["value"]["rle"] == brush_rle(np.eye(size[1], size[0], dtype=bool))
    assert boxes[0][0] < 0.625 < boxes[0][2], "the box of its evidence"


def test_without_weights_there_are_no_masks_and_the_log_says_what_helps(
    start: Callable[..., httpx.Client], studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    connect(client, studio, MASKS)
    (found,) = results(client, predict_body(MASKS, [studio.upload("red.png", picture(RED))]))
    assert found["result"] == []
    assert found["score"] < 1
    assert "bundles pull sam" in caplog.text
