"""Regions of the tags of files: Grounding DINO and SAM where they are installed, else the network's evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ram_backend.cli.output import notes
from ram_backend.cli.tag_files import TaggedImage
from ram_backend.images.decode import decode
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import Tagger

if TYPE_CHECKING:
    from ram_backend.regions.detector import Detector
    from ram_backend.regions.segmenter import Segmenter


class RegionFinder:
    """Places tags in images; says once what weights are missing.

    Args:
        tagger: which scored the tags.
        settings: data folder, device, limits of images.
    """

    def __init__(self, tagger: Tagger, settings: Settings) -> None:
        from ram_backend.regions.weights import folder_of, is_installed

        self._tagger, self._settings = tagger, settings
        self._detector: Detector | None = None
        self._segmenter: Segmenter | None = None
        if is_installed("grounding-dino", settings.data_dir):
            from ram_backend.regions.detector import GroundingDino

            self._detector = GroundingDino(folder_of("grounding-dino", settings.data_dir), device=_device(settings))
        else:
            notes.print("Regions are rough ones, of the tagging network: for better ones run")
            notes.print("  ram-backend bundles pull grounding-dino", markup=False)
        if is_installed("sam", settings.data_dir):
            from ram_backend.regions.segmenter import SegmentAnything

            self._segmenter = SegmentAnything(folder_of("sam", settings.data_dir), device=_device(settings))

    def __call__(self, image: TaggedImage, best: Sequence[tuple[str, float, bool]]) -> list[dict[str, object]]:
        """The regions of an image's tags as JSON; with a segmenter each has a `mask` in COCO's run lengths.

        Raises:
            ImageError: the image has gone since it was tagged.
        """
        from ram_backend.regions.evidence import locate
        from ram_backend.regions.segmenter import run_lengths

        names, scores = [name for name, _, _ in best], [score for _, score, _ in best]
        photo = self._photo(image.path) if self._detector or self._segmenter else None
        if self._detector is not None and photo is not None:
            found = self._detector.detect(photo, names)
        else:
            assert image.tokens is not None
            entries = [self._tagger.subset.entries[self._tagger.tags.index(name)] for name in names]
            found = locate(self._tagger.network, entries, names, scores, image.tokens)
        answer = [region.as_json() for region in found]
        if self._segmenter is not None and photo is not None:
            masks = self._segmenter.masks(photo, [region.box for region in found])
            answer = [{**each, "mask": run_lengths(mask)} for each, mask in zip(answer, masks, strict=True)]
        return answer

    def _photo(self, path: Path) -> Image.Image:
        most, longest = self._settings.max_image_pixels, self._settings.max_image_bytes
        return decode(path, exif_orientation=True, alpha="white", max_pixels=most, max_bytes=longest)[0]


def _device(settings: Settings) -> str:
    import torch

    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
