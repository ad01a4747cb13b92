"""A tiny model: a network that can be computed by hand, its bundle and its text encoder."""

import base64
import io
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.delta import Delta
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.server.model import ModelIdentity, ModelLoader
from ram_backend.settings import Settings
from ram_backend.vocabulary.tags import Tag, Vocabulary
from support.versions import delta

LABELS = np.eye(3, dtype=np.float32)
NEW = {"turquoise": (0, 0.9, 0.9), "pink": (0.9, 0.3, 0.3)}
"""Words that the text encoder knows."""


ROLLED = "rolled"
"""Name of a bundle whose network looks at the next colour."""


def tiny_bundle(name: str = "colours") -> Bundle:
    """Tags red (on above 0.6), green (0.5), blue (0.7)."""
    return cast(
        Bundle,
        SimpleNamespace(
            name=name,
            digest=("e" if name == ROLLED else "d") * 64,
            vocabulary=Vocabulary(
                [Tag("red", synonyms=("crimson",), threshold=0.6), Tag("green"), Tag("blue", threshold=0.7)]
            ),
            preprocessing=Preprocessing(size=4, mean=(0, 0, 0), std=(1, 1, 1)),
            calibration=Calibration(
                np.full(3, 4, dtype=np.float32), np.full(3, -2, dtype=np.float32), new_slope=4, new_offset=-2
            ),
            text_encoder="colour-words",
            new_tag_threshold=0.5,
            manifest={"files": {}},
        ),
    )


class ColourNetwork:
    """One token, the mean colour; a tag's logit is its dot product with the tag's row. Notes its batches."""

    encoder_id = "mean-colour"
    side_by_side = False
    token_shape = (1, 3)
    labels = LABELS

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        time.sleep(self.seconds)
        return pixels.mean(axis=(2, 3))[:, None, :]

    def select(self, tags: Sequence[int | np.ndarray]) -> np.ndarray:
        return np.stack([self.labels[tag] if isinstance(tag, int) else tag.mean(axis=0) for tag in tags])

    def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return tokens[:, 0] @ queries.T

    def evidence(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Whatever the tag, in the second row and third column of four."""
        maps = np.zeros((len(tokens), 4, 4, len(queries)), dtype=np.float32)
        maps[:, 1, 2] = 1
        return maps


class RolledNetwork(ColourNetwork):
    encoder_id = "rolled-colour"
    labels = np.roll(LABELS, 1, axis=0)


@dataclass
class ColourWords:
    """A text encoder, which can be made to wait."""

    id: str = "colour-words"
    dim: int = 3
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        assert self.go_on.wait(120)
        self.asked.extend(texts)
        return np.array([NEW.get(text, (0, 0, 0)) for text in texts], dtype=np.float32)

    def embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        return self.embed(sentences)


def identity(bundle: Bundle | None = None) -> ModelIdentity:
    return ModelIdentity(bundle or tiny_bundle(), ColourNetwork.encoder_id)


def colour_model(settings: Settings, network: Any = None) -> ModelLoader:
    """The tiny model, loaded."""
    return ModelLoader(settings, identity=identity(), network=network or ColourNetwork())


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, format)
    return data.getvalue()


def inline(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> str:
    """A picture as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(picture(colour, size)).decode()}"


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def colours(bias: float, threshold: float = 0.5) -> Delta:
    return delta(bias, ("red", "turquoise"), weight=np.zeros((2, 3)), thresholds=np.full(2, threshold))
