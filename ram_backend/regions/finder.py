"""Regions of tags by Grounding DINO or the network's evidence; masks by SAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.models.label_embeddings import Entry
from ram_backend.models.network import Network
from ram_backend.regions.detector import GroundingDino
from ram_backend.regions.evidence import Region, locate
from ram_backend.regions.segmenter import Box, SegmentAnything
from ram_backend.regions.weights import folder_of, is_installed


class Detector(Protocol):
    """Finds tags in an image."""

    def detect(self, image: Image.Image, tags: Sequence[str]) -> list[Region]:
        """Boxes of the tags in their order, best first per tag, or none."""


class Segmenter(Protocol):
    """Finds the pixels of what boxes hold."""

    def masks(self, image: Image.Image, boxes: Sequence[Box]) -> NDArray[np.bool_]:
        """Masks (N, height, width) of N boxes (x0, y0, x1, y1), shares of the sides."""


class RegionFinder:
    """Places tags in images. Safe for one thread.

    Attributes:
        detector: None where there are no weights for it; likewise `segmenter`.

    Args:
        data_dir: the folder of all data.
        device: "cpu", "cuda" or "auto".

    Raises:
        SettingsError: the device is not there.
    """

    def __init__(self, data_dir: Path, *, device: str) -> None:
        from ram_backend.models.torch_network import torch_device

        self.detector: Detector | None = None
        self.segmenter: Segmenter | None = None
        if is_installed("grounding-dino", data_dir):
            self.detector = GroundingDino(folder_of("grounding-dino", data_dir), device=torch_device(device))
        if is_installed("sam", data_dir):
            self.segmenter = SegmentAnything(folder_of("sam", data_dir), device=torch_device(device))

    def find(
        self,
        network: Network,
        entries: Sequence[Entry],
        tags: Sequence[str],
        scores: Sequence[float],
        tokens: NDArray[np.float32],
        photo: Callable[[], Image.Image],
    ) -> list[tuple[Region, NDArray[np.bool_] | None]]:
        """Regions of L tags in an image; with a segmenter their masks (height, width).

        Args:
            network: as for `locate`, and so are the next four.
            entries: of the tags.
            tags: their names.
            scores: in [0, 1].
            tokens: (T, D) of the image.
            photo: gives the image, where a detector or a segmenter needs it.
        """
        image = photo() if self.detector is not None or self.segmenter is not None else None
        if self.detector is not None and image is not None:
            found = self.detector.detect(image, tags)
        else:
            found = locate(network, entries, tags, scores, tokens)
        if self.segmenter is None or image is None:
            return [(region, None) for region in found]
        return list(zip(found, self.segmenter.masks(image, [region.box for region in found]), strict=True))
