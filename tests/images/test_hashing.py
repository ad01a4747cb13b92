"""Perceptual hashes: what keeps them, what changes them."""

import io
import itertools

import numpy as np
import pytest
from images.pictures import encoded
from PIL import Image, ImageEnhance

from ram_backend.images.decode import perceptual_hash


def scene(seed: int, side: int = 240) -> Image.Image:
    """A colour picture with coarse and fine structure, as unlike others as photos are."""
    values = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def differing(one: Image.Image, other: Image.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_size_compression_and_light_leave_the_hash_nearly_alone(seed: int) -> None:
    photo = scene(seed)
    margin = photo.width // 50
    for other in (
        photo.resize((97, 61)),
        Image.open(io.BytesIO(encoded(photo, "JPEG", quality=30))),
        ImageEnhance.Brightness(photo).enhance(0.8),
        ImageEnhance.Contrast(photo).enhance(0.7),
        photo.convert("RGBA"),
        photo.crop((margin, margin, photo.width - margin, photo.height - margin)),
    ):
        assert differing(photo, other) <= 8


def test_different_pictures_differ_in_many_bits() -> None:
    photos = [scene(seed) for seed in range(25)]
    bits = [differing(one, other) for one, other in itertools.combinations(photos, 2)]
    assert min(bits) > 8
    assert 28 < np.mean(bits) < 36
    assert differing(photos[0], photos[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 8


def test_hash_is_the_same_in_every_release() -> None:
    """Stored hashes are compared with new ones: a change of the method would part look-alikes."""
    for colour in ("black", "white", "#7f7f7f"):
        assert perceptual_hash(Image.new("RGB", (50, 20), colour)) == 0
    assert perceptual_hash(scene(0)) == 14527529716068912310
    assert perceptual_hash(scene(1)) == 1064412993749654870
