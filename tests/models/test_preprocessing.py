"""From image to pixels: RAM's way exactly, and the starter's ways."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ram_backend.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

RAM = Preprocessing(size=48)


def photo(width: int = 90, height: int = 61, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode) if mode != "RGBA" else Image.fromarray(noise, "RGBA")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "LA"])
@pytest.mark.parametrize("size", [(90, 61), (20, 31), (48, 48)])
def test_squash_is_what_torchvision_does_to_a_pil_image(mode: str, size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = photo(*size, mode="RGBA").convert(mode)
    steps = transforms.Resize((48, 48)), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    pixels = RAM(image)
    assert pixels.shape == (3, 48, 48)
    assert pixels.dtype == np.float32
    official = transforms.Compose(steps)(image.convert("RGB")).numpy()
    np.testing.assert_allclose(pixels, official, atol=1e-6, rtol=0)


def test_ram_drops_alpha_and_ignores_exif(tmp_path: Path) -> None:
    opaque = photo(mode="RGBA")
    opaque.putalpha(255)
    clear = opaque.copy()
    clear.putalpha(0)
    np.testing.assert_array_equal(RAM(clear), RAM(opaque))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    np.testing.assert_array_equal(RAM(turned), RAM(photo()))


def test_crop_keeps_the_aspect_ratio_and_the_centre() -> None:
    image = Image.new("RGB", (96, 48), "red")
    image.paste("blue", (24, 0, 72, 48))
    pixels = replace(RAM, resize="crop")(image).transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    assert pixels.shape == (48, 48, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to((0, 0, 1), pixels.shape), atol=0.002)


def test_the_id_names_every_number() -> None:
    assert RAM.id == Preprocessing(size=48).id
    changes: dict[str, Any] = {"size": 49, "resize": "crop", "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5)}
    changes |= {"exif_orientation": True, "alpha": "white"}
    assert len({RAM.id, *(replace(RAM, **{name: value}).id for name, value in changes.items())}) == 7
    crop = replace(RAM, resize="crop", mean=(0.5, 0.5, 0.5), alpha="white")
    assert Preprocessing(**json.loads(json.dumps(asdict(crop)))).id == crop.id
    assert Preprocessing(size=384).id == "squash384-187d1366"  # in cache keys of installations: must never change
