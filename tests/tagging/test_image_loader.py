"""From bytes to tokens: an image that was seen before is neither decoded nor encoded."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from images.pictures import encoded, exif_of
from PIL import Image, ImageFile, PngImagePlugin
from security.hosting import resident_bytes
from support.tiny_model import ColourNetwork

from ram_backend.disk_cache import DiskCache
from ram_backend.errors import ImageTooLarge
from ram_backend.images.decode import perceptual_hash
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.tagging.image_loader import ImageLoader
from ram_backend.tagging.tagger import TOKEN_DTYPE, rounded


def loader(folder: Path | None, **changes: object) -> ImageLoader:
    options: dict[str, object] = {"max_pixels": 10**8, "max_bytes": 10**7, **changes}
    cache = None if folder is None else DiskCache(folder / "tokens", 10**7)
    preprocessing = Preprocessing(size=8, exif_orientation=bool(options.pop("exif", True)))
    return ImageLoader(preprocessing, str(options.pop("encoder", "mean")), cache, **options)  # type: ignore[arg-type]


def picture(seed: int = 0, kind: str = "PNG", **options: object) -> bytes:
    """Noise, 40 x 30."""
    noise = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise), kind, **options)


def test_what_was_seen_before_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, data = ColourNetwork(), picture()
    phash = perceptual_hash(Image.open(io.BytesIO(data)))
    first = loader(tmp_path).load(data, name="x")
    assert first.tokens is None
    assert first.pixels is not None
    (tokens,) = loader(tmp_path).encode(encoder, [first])
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    again = loader(tmp_path).load(data, name="x")  # as after a restart
    assert again.pixels is None
    assert again.tokens.tobytes() == tokens.tobytes()
    assert (again.sha256, again.phash, again.size) == (first.sha256, first.phash, first.size)
    assert again.sha256 == hashlib.sha256(data).hexdigest()
    assert again.phash == phash != 0
    assert loader(tmp_path).cached(first.sha256) is not None
    assert loader(tmp_path).cached("0" * 64) is None


def test_only_new_images_are_encoded_and_in_one_batch(tmp_path: Path) -> None:
    encoder, own = ColourNetwork(), loader(tmp_path)
    seen = [own.load(picture(seed), name="x") for seed in range(3)]
    before = own.encode(encoder, seen)
    mixed = [own.load(picture(seed), name="x") for seed in (3, 1, 4, 0)]
    after = own.encode(encoder, mixed)
    assert encoder.batches == [3, 2]
    assert np.array_equal(after[1], before[1])
    assert np.array_equal(after[3], before[0])
    assert own.encode(encoder, []) == []


def test_hit_and_miss_give_the_same_bits_rounded_only_where_there_is_a_cache(tmp_path: Path) -> None:
    image = loader(None).load(picture(), name="x")
    (exact,) = loader(None).encode(ColourNetwork(), [image])
    (miss,) = loader(tmp_path).encode(ColourNetwork(), [loader(tmp_path).load(picture(), name="x")])
    hit = loader(tmp_path).load(picture(), name="x").tokens
    assert hit.dtype == miss.dtype == np.float32
    assert hit.tobytes() == miss.tobytes() == rounded(exact, TOKEN_DTYPE).tobytes() != exact.tobytes()
    assert np.array_equal(loader(tmp_path).store(image, exact + 1), miss)  # the first ones stay
    assert loader(None).load(picture(), name="x").tokens is None


def test_large_values_stay_finite(tmp_path: Path) -> None:
    image = loader(tmp_path).load(picture(), name="x")
    tokens = np.array([[1e6, -1e6, 65504, 1e-9]], dtype=np.float32)
    assert loader(tmp_path).store(image, tokens).tolist() == [[65504, -65504, 65504, 0]]


@pytest.mark.parametrize("changes", [{"exif": False}, {"encoder": "other"}])
def test_another_preprocessing_or_encoder_shares_no_tokens(tmp_path: Path, changes: dict[str, object]) -> None:
    image = loader(tmp_path).load(picture(), name="x")
    loader(tmp_path).encode(ColourNetwork(), [image])
    assert loader(tmp_path).cached(image.sha256) is not None
    assert loader(tmp_path, **changes).cached(image.sha256) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [True, False])
def test_the_size_is_that_which_people_see(kind: str, exif: bool) -> None:
    own = loader(None, exif=exif)
    assert own.load(picture(kind=kind), name="x").size == (40, 30)
    assert own.load(picture(kind=kind, exif=exif_of(6)), name="x").size == (30, 40)
    assert own.load(picture(kind=kind, exif=exif_of(3)), name="x").size == (40, 30)


def test_no_pixel_is_decoded_of_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge, match="photo: 40 x 30"):
        loader(None, max_pixels=1000).load(picture(), name="photo")
    with pytest.raises(ImageTooLarge, match="bytes"):
        loader(None, max_bytes=100).load(picture(), name="photo")


def test_memory_of_large_images_is_given_back() -> None:
    """Ten images of 100 megapixels left 6 GB in the arenas of the threads that had decoded them."""
    files = [encoded(Image.new(mode, (7000, 7000)), "PNG") for mode in ("1", "P", "L", "RGB", "RGBA")]
    large = loader(None)
    barrier = threading.Barrier(len(files))
    before = resident_bytes()
    with ThreadPoolExecutor(len(files)) as threads:

        def load(data: bytes) -> None:
            barrier.wait()  # each in a thread of its own
            large.load(data, name="large")

        list(threads.map(load, files))
        assert resident_bytes() - before < 200_000_000  # of 450 MB
