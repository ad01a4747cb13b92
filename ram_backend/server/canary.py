"""A photo that every version has to score before it is served: what it makes of it must be numbers between 0 and 1."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.errors import RamError, VersionDamaged
from ram_backend.images.decode import decode
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.delta import Delta, features_of
from ram_backend.models.network import Network
from ram_backend.server.batcher import Batcher
from ram_backend.server.model import Model
from ram_backend.tagging.tagger import Tagger, rounded
from ram_backend.tagging.token_cache import TOKEN_DTYPE

FloatArray = NDArray[np.float32]

LARGEST = 1e6
"""No honest number of a delta is larger; with larger ones some image's score is not a number."""

_LARGEST_PHOTO = 100_000_000


class Canary:
    """Scores a bundled photo with versions. Its tokens are computed once, when the first version comes.

    Args:
        model: whose bundle and network it is.
        batcher: where the network works.
    """

    def __init__(self, model: Model, batcher: Batcher) -> None:
        self._model = model
        self._batcher = batcher
        self._lock = threading.Lock()
        self._tokens: FloatArray | None = None

    def check(self, delta: Delta, _network: Network) -> None:
        """Looks at a delta by itself: at its numbers, and at what they make of the photo where the bundle says "even".

        Raises:
            VersionDamaged: a number is too large, or a score is none.
        """
        for name, array in delta.to_tensors().items():
            if array.size and float(np.abs(array).max()) > LARGEST:
                raise _impossible(f"a number in {name} is larger than {LARGEST:g}")
        features = features_of(self._photo())
        with np.errstate(all="ignore"):
            scores = Calibration.identity(len(delta)).scores(
                delta.log_odds(np.zeros((1, len(delta)), dtype=np.float32), features)
            )
        _refuse_impossible(scores)

    def check_tagger(self, tagger: Tagger) -> None:
        """Looks at what a tagger makes of the photo.

        Raises:
            VersionDamaged: a score is none.
        """
        tokens = self._photo()
        with np.errstate(all="ignore"):
            _refuse_impossible(self._batcher.run(lambda: tagger.score(tokens)).result().scores)

    def _photo(self) -> FloatArray:
        """Tokens (1, T, D) of the photo, as the token cache would give them."""
        with self._lock:
            if self._tokens is None:
                pixels = _pixels(self._model.identity.result().bundle)
                tokens = self._batcher.encode(self._model.network.result(), pixels).result()
                self._tokens = rounded(tokens[None], TOKEN_DTYPE)
            return self._tokens


def _pixels(bundle: Bundle) -> FloatArray:
    """(3, S, S) of the first photo that comes with the package; of a slope of grey where there is none."""
    preprocessing = bundle.preprocessing
    try:
        photo = photo_paths()[0]
        image, _ = decode(
            photo,
            exif_orientation=preprocessing.exif_orientation,
            alpha=preprocessing.alpha,
            max_pixels=_LARGEST_PHOTO,
            max_bytes=_LARGEST_PHOTO,
        )
        return preprocessing(image)
    except (IndexError, OSError, RamError):
        size = preprocessing.size
        row = np.linspace(-1, 1, size, dtype=np.float32)
        return np.broadcast_to(row, (3, size, size)).copy()


def _refuse_impossible(scores: FloatArray) -> None:
    if not np.isfinite(scores).all() or (scores.size and (scores.min() < 0 or scores.max() > 1)):
        raise _impossible("a photo's score is no number between 0 and 1")


def _impossible(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version computes what can't be ({what}): it isn't served. Roll back, or train again.")
