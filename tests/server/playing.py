"""Stand-ins: a network that can be computed by hand, a Label Studio that has files, a running server."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from support.label_studio import LEGACY, FakeLabelStudio

from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.server.model import Model, ModelIdentity
from ram_backend.server.running import bind
from ram_backend.settings import Settings
from ram_backend.vocabulary.tags import Tag, Vocabulary

LABELS = np.eye(3, dtype=np.float32)
TOKEN = LEGACY
NEW = {"turquoise": (0, 0.9, 0.9), "pink": (0.9, 0.3, 0.3)}
"""Words that the text encoder knows."""


def tiny_bundle(name: str = "colours") -> Bundle:
    """Tags red (on above 0.6), green (0.5), blue (0.7)."""
    return cast(
        Bundle,
        SimpleNamespace(
            name=name,
            digest="d" * 64,
            vocabulary=Vocabulary(
                [Tag("red", synonyms=("crimson",), threshold=0.6), Tag("green"), Tag("blue", threshold=0.7)]
            ),
            preprocessing=Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1)),
            calibration=Calibration(
                slope=np.full(3, 4, dtype=np.float32),
                offset=np.full(3, -2, dtype=np.float32),
                new_slope=4,
                new_offset=-2,
            ),
            text_encoder="colour-words",
            new_tag_threshold=0.5,
            manifest={},
        ),
    )


class ColourNetwork:
    """One token, the mean colour; a tag's logit is its dot product with the tag's row. Notes its batches."""

    encoder_id = "mean-colour"
    side_by_side = False
    token_shape = (1, 3)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        time.sleep(self.seconds)
        return pixels.mean(axis=(2, 3))[:, None, :]

    def select(self, tags: Sequence[int | np.ndarray]) -> np.ndarray:
        return np.stack([LABELS[tag] if isinstance(tag, int) else tag.mean(axis=0) for tag in tags])

    def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return tokens[:, 0] @ queries.T


@dataclass
class ColourWords:
    """A text encoder, which can be made to wait."""

    id: str = "colour-words"
    dim: int = 3
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        assert self.go_on.wait(30)
        self.asked.extend(texts)
        return np.array([NEW.get(text, (0, 0, 0)) for text in texts], dtype=np.float32)

    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        return self.embed(sentences)


def identity(bundle: Bundle | None = None) -> ModelIdentity:
    return ModelIdentity(bundle or tiny_bundle(), ColourNetwork.encoder_id)


def colour_model(settings: Settings, network: Any = None) -> Model:
    """The tiny model, loaded."""
    return Model(settings, identity=identity(), network=network or ColourNetwork())


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, format)
    return data.getvalue()


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@contextmanager
def serving(
    app: FastAPI, *, config: uvicorn.Config | None = None, send_buffer: int | None = None
) -> Iterator[httpx.Client]:
    """The app on a real uvicorn at a free port, in a thread; a client that asks it."""
    listening = bind("127.0.0.1", 0)
    if send_buffer is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # of each connection
    server = uvicorn.Server(config or uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60, trust_env=False
        ) as client:
            wait_until(lambda: server.started or not thread.is_alive())
            assert server.started
            yield client
    finally:
        server.should_exit = True
        thread.join(30)


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def choices_config(*tags: str, attributes: str = "", more: str = "", kind: str = "Choices") -> str:
    entries = "".join(f'<Choice value="{tag}"/>' for tag in tags)
    return (
        f'<View><Image name="image" value="$image"/><{kind} name="tags" toName="image" choice="multiple" {attributes}>'
        f"{entries}</{kind}>{more}</View>"
    )


def setup_body(
    config: str, studio: FakeLabelStudio, project: str = "1.1795452148", extra_params: object = None
) -> dict[str, Any]:
    return {
        "project": project,
        "schema": config,
        "hostname": studio.url,
        "access_token": TOKEN,
        "extra_params": extra_params,
    }


def predict_body(config: str, images: Sequence[object], project: str = "1.1795452148") -> dict[str, Any]:
    tasks = [
        {"id": number, "data": {"image": image}, "annotations": []} for number, image in enumerate(images, start=1)
    ]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": project, "label_config": config, "params": params}


def tags_of(result: dict[str, Any], control: str = "tags") -> list[Any]:
    """What a prediction ticks."""
    for item in result["result"]:
        if item["from_name"] == control:
            return list(next(iter(item["value"].values())))
    return []


def body_of(payloads: Any, name: str) -> dict[str, Any]:
    """Body of a recorded request."""
    body: dict[str, Any] = json.loads((payloads / f"{name}.json").read_text())["body"]
    return body
