"""`/predict` fills a caption's control; a server that is asked for tags alone imports no captions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.label_studio import FakeLabelStudio
from support.server import choices_config, connect, predict_body, results, tags_of
from support.tiny_model import BLUE, RED, colour_model, picture

from ram_backend.server.model import Model
from ram_backend.settings import Settings

CONFIG = choices_config("red", "green", "blue", more='<TextArea name="caption" toName="image"/>')

TESTS = Path(__file__).parents[1]
TAG_ONLY = """
import base64, sys
from support.server import serving, predict_body, choices_config
from support.tiny_model import RED, colour_model, picture
from ram_backend.server.app import create_app
from ram_backend.settings import load_settings
settings = load_settings()
with serving(create_app(settings, model=colour_model(settings))) as client:
    config = choices_config("red")
    body = {"project": "1.1", "schema": config, "hostname": "", "access_token": "", "extra_params": None}
    assert client.post("/setup", json=body).status_code == 200
    image = "data:image/png;base64," + base64.b64encode(picture(RED)).decode()
    answer = client.post("/predict", json=predict_body(config, [image], "1.1"))
    assert answer.status_code == 200, answer.text
assert not [name for name in sys.modules if name.startswith(("ram_backend.captions", "transformers", "torch"))]
"""


class NamedCaptions:
    """Captions that say which tags and tokens they got."""

    source = "model"

    def write(self, tokens: np.ndarray, tags: list[list[str]]) -> list[str]:
        reds = tokens[:, 0, 0].tolist()
        return [f"{', '.join(row)} at {red:.1f}" if row else "" for red, row in zip(reds, tags, strict=True)]


def test_each_task_has_its_own_caption_from_its_ticked_tags(
    start: Callable[..., httpx.Client], studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "captions", NamedCaptions())
    client = start()
    connect(client, studio, CONFIG)
    images = [studio.upload(f"{place}.png", picture(colour)) for place, colour in enumerate((RED, BLUE, (9, 9, 9)))]
    found = results(client, predict_body(CONFIG, [images[0], "/missing.png", *images[1:]]))
    assert [tags_of(each, "caption") for each in found] == [["red at 1.0"], [], ["blue at 0.0"], []]
    assert [tags_of(each) for each in found] == [["red"], [], ["blue"], []]


def test_a_bundle_that_lacks_the_captioner_s_weights_leaves_the_control_empty(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
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
