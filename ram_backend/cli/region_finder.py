"""Regions of the tags of files, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ram_backend.cli.output import notes
from ram_backend.cli.tag_files import TaggedImage
from ram_backend.images.decode import decode
from ram_backend.settings import Settings
from ram_backend.tagging.tagger import Tagger


class FileRegions:
    """Places tags in files; says once what weights are missing.

    Args:
        tagger: which scored the tags.
        settings: data folder, device, limits of images.
    """

    def __init__(self, tagger: Tagger, settings: Settings) -> None:
        from ram_backend.regions.finder import RegionFinder

        self._tagger, self._settings = tagger, settings
        self._finder = RegionFinder(settings.data_dir, device=settings.device)
        if self._finder.detector is None:
            notes.print("Regions are rough ones, of the tagging network: for better ones run")
            notes.print("  ram-backend bundles pull grounding-dino", markup=False)

    def __call__(self, image: TaggedImage, best: Sequence[tuple[str, float, bool]]) -> list[dict[str, object]]:
        """The regions of an image's tags as JSON; with a segmenter each has a `mask` in COCO's run lengths.

        Raises:
            ImageError: the image has gone since it was tagged.
        """
        from ram_backend.regions.segmenter import run_lengths

        assert image.tokens is not None
        names, scores = [name for name, _, _ in best], [score for _, score, _ in best]
        entries = [self._tagger.subset.entries[self._tagger.tags.index(name)] for name in names]
        most, longest = self._settings.max_image_pixels, self._settings.max_image_bytes
        photo = partial(decode, image.path, exif_orientation=True, alpha="white", max_pixels=most, max_bytes=longest)
        network = self._tagger.network
        found = self._finder.find(network, entries, names, scores, image.tokens, lambda: photo()[0])
        return [region.as_json() | ({} if mask is None else {"mask": run_lengths(mask)}) for region, mask in found]
