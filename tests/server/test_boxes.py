"""`/predict` places labels of a config that asks for boxes."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from support.label_studio import FakeLabelStudio
from support.server import connect, predict_body, results
from support.tiny_model import RED, picture

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


def test_without_the_attribute_it_is_the_whole_image(
    start: Callable[..., httpx.Client], studio: FakeLabelStudio
) -> None:
    client, plain = start(), CONFIG.replace(' model_boxes="true"', "")
    connect(client, studio, plain)
    (found,) = results(client, predict_body(plain, [studio.upload("red.png", picture(RED))]))
    assert found["result"][0]["value"]["width"] == pytest.approx(100)
