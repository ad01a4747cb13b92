"""Image preprocessing: resize, normalise, PIL image to float array."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How a bundle wants its images; part of the bundle's identity.

    Attributes:
        size: S, side of the square input in pixels.
        resize: "squash" ignores the aspect ratio (RAM); "crop" scales the
            shorter side to S and cuts out the centre.
        interpolation: PIL's filter, always with its antialiasing.
        mean, std: per channel, of values in 0..1.
        exif_orientation: whether decoding applies the EXIF orientation (RAM's
            own code doesn't).
        alpha: "drop": decoding keeps the colour under transparent pixels (RAM);
            "white" lays the picture on white.
    """

    size: int
    resize: Literal["squash", "crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    exif_orientation: bool = False
    alpha: Literal["drop", "white"] = "drop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))

    @property
    def id(self) -> str:
        """Stable name of exactly this preprocessing, e.g. `squash384-3f9a1c0d`."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return f"{self.resize}{self.size}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """A decoded image of any mode to (3, S, S) float32, RGB, normalised."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        target, resampling = (self.size, self.size), Image.Resampling[self.interpolation.upper()]
        if self.resize == "crop":
            image = ImageOps.fit(image, target, method=resampling)
        elif image.size != target:
            image = image.resize(target, resampling)
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean = np.array(self.mean, dtype=np.float32)[:, None, None]
        std = np.array(self.std, dtype=np.float32)[:, None, None]
        return np.ascontiguousarray((pixels - mean) / std)
