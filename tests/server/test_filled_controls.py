"""`/predict` fills controls of captions, boxes and masks; a server of tags alone imports no more than it needs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
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
from ram_backend.server.model import ModelLoader
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
sys.modules["flask"] = sys.modules["label_studio_ml"] = None
import ram_backend.cli.serve, ram_backend.server.in_process
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
def loaded(*names):
    return [name for name in sys.modules if name.startswith(names)]
assert not loaded("ram_backend.captions", "ram_backend.server.plugin", "transformers", "torch", "werkzeug")
import ram_backend.models.torch_network
assert not loaded("ram_backend.finetuning", "accelerate", "peft")
"""


class NamedCaptions:
    """Captions that say which tags and tokens they got."""

    source = "model"

    def write(self, tokens: np.ndarray, tags: list[list[str]]) -> list[str]:
        reds = tokens[:, 0, 0].tolist()
        return [f"{', '.join(row)} at {red:.1f}" if row else "" for red, row in zip(reds, tags, strict=True)]


def test_each_task_has_its_own_caption(start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelLoader, "captions", NamedCaptions())
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


def test_a_ticked_label_has_the_box_of_its_evidence_or_a_mask(
    start: Start, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def masks(self: SegmentAnything, image: Image.Image, boxes: list[tuple[float, ...]]) -> np.ndarray:
        seen.append((image.size, boxes))
        return np.repeat(np.eye(image.height, image.width, dtype=bool)[None], len(boxes), axis=0)

    def prediction(client: httpx.Client, config: str) -> dict[str, Any]:
        connect(client, studio, config)
        (found,) = results(client, predict_body(config, [task]))
        return found

    monkeypatch.setattr(SegmentAnything, "masks", masks)
    task, client = studio.upload("red.png", picture(RED)), start()
    (region,) = prediction(client, BOXES)["result"]
    place = region["value"]
    assert place["rectanglelabels"] == ["red"]
    assert place["x"] < 62.5 < place["x"] + place["width"] < 90
    assert place["y"] < 37.5 < place["y"] + place["height"] < 65
    without_weights = prediction(client, MASKS)
    assert (without_weights["result"], without_weights["score"] < 1) == ([], True)
    assert "bundles pull sam" in caplog.text
    tiny_detectors.save_sam(folder_of("sam", load_settings().data_dir))
    (region,) = prediction(start(), MASKS)["result"]
    ((size, boxes),) = seen
    assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", ["red"])
    assert (region["original_width"], region["original_height"]) == size
    assert region["value"]["rle"] == brush_rle(np.eye(size[1], size[0], dtype=bool))
    assert boxes[0][0] < 0.625 < boxes[0][2], "the box of its evidence"
