"""`/predict` fills controls of captions, boxes and masks; a server that is asked for tags alone imports no captions."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from regions import tiny_detectors
from support.label_studio import FakeLabelStudio
from support.server import Start, choices_config, connect, predict_body, results, tags_of
from support.tiny_model import BLUE, RED, colour_model, picture

from ram_backend.labelstudio.predictions import brush_rle
from ram_backend.regions.segmenter import SegmentAnything
from ram_backend.regions.weights import folder_of
from ram_backend.server.model import Model
from ram_backend.settings import Settings, load_settings

CAPTION = choices_config("red", "green", "blue", more='<TextArea name="caption" toName="image"/>')
BOXES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="tags" toName="image" model_boxes="true">'
    '<Label value="red"/><Label value="green"/></RectangleLabels></View>'
)
MASKS = BOXES.replace("RectangleLabels", "BrushLabels").replace("model_boxes", "model_masks")
TESTS = Path(__file__).parents[1]
TAG_ONLY = """
import sys
from support.server import serving, predict_body, choices_config
from support.tiny_model import RED, colour_model, inline
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings
settings = load_settings()
with serving(create_app(settings, model=colour_model(settings))) as client:
    config = choices_config("red")
    body = {"project": "1.1", "schema": config, "hostname": "", "access_token": "", "extra_params": None}
    assert client.post("/setup", json=body).status_code == 200
    answer = client.post("/predict", json=predict_body(config, [inline(RED)], "1.1"))
    assert answer.status_code == 200, answer.text
assert not [name for name in sys.modules if name.startswith(("ram_backend.captions", "transformers", "torch"))]
"""


class NamedCaptions:
    """Captions that say which tags and tokens they got."""

    source = "model"

    def write(self, tokens: np.ndarray, tags: list[list[str]]) -> list[str]:
        reds = tokens[:, 0, 0].tolist()
        return [f"{', '.join(row)} at {red:.1f}" if row else "" for red, row in zip(reds, tags, strict=True)]


def test_each_task_has_its_own_caption(start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "captions", NamedCaptions())
    client = start()
    connect(client, studio, CAPTION)
    images = [studio.upload(f"{place}.png", picture(colour)) for place, colour in enumerate((RED, BLUE, (9, 9, 9)))]
    found = results(client, predict_body(CAPTION, [images[0], "/missing.png", *images[1:]]))
    assert [tags_of(each, "caption") for each in found] == [["red at 1.0"], [], ["blue at 0.0"], []]
    assert [tags_of(each) for each in found] == [["red"], [], ["blue"], []]


def test_without_a_captioner_the_control_is_empty(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    model = colour_model(settings)
    bundle = model.known().bundle
    bundle.kind, bundle.lacks_captioner = "ram", "it was imported before they were kept"  # type: ignore[misc]
    assert model.captions is None
    assert "it was imported before they were kept" in caplog.text


def test_a_server_of_tags_alone_imports_no_captions() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    command = [sys.executable, "-c", TAG_ONLY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_ticked_label_has_the_box_of_its_evidence(start: Start, studio: FakeLabelStudio) -> None:
    client = start()
    connect(client, studio, BOXES)
    (found,) = results(client, predict_body(BOXES, [studio.upload("red.png", picture(RED))]))
    (region,) = found["result"]
    assert region["value"]["rectanglelabels"] == ["red"]
    place = region["value"]
    assert place["x"] < 62.5 < place["x"] + place["width"] < 90
    assert place["y"] < 37.5 < place["y"] + place["height"] < 65


def test_a_ticked_label_has_a_mask(start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def masks(self: SegmentAnything, image: Image.Image, boxes: list[tuple[float, ...]]) -> np.ndarray:
        seen.append((image.size, boxes))
        return np.repeat(np.eye(image.height, image.width, dtype=bool)[None], len(boxes), axis=0)

    monkeypatch.setattr(SegmentAnything, "masks", masks)
    tiny_detectors.save_sam(folder_of("sam", load_settings().data_dir))
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


def test_masks_without_weights(start: Start, studio: FakeLabelStudio, caplog: pytest.LogCaptureFixture) -> None:
    client = start()
    connect(client, studio, MASKS)
    (found,) = results(client, predict_body(MASKS, [studio.upload("red.png", picture(RED))]))
    assert found["result"] == []
    assert found["score"] < 1
    assert "bundles pull sam" in caplog.text
