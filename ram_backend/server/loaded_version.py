"""Canary check: a version is read, compared with its checksums and tried on a photo before it is served."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ram_backend.demo import photo_paths
from ram_backend.errors import RamError, VersionDamaged
from ram_backend.images.decode import decode
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.delta import Delta, feature_width, features_of
from ram_backend.models.network import Network
from ram_backend.models.tuned import has_tuned_head, tuned_network
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.batcher import Batcher
from ram_backend.server.model import Model
from ram_backend.tagging.tagger import Tagger, rounded
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.versions.directory import open_version, version_path

FloatArray = NDArray[np.float32]

ACCEPTED = "accept"
LARGEST = 1e6
"""No honest number of a delta is larger; with larger ones some image's score is not a number."""

_LARGEST_PHOTO = 100_000_000


class VersionRef(NamedTuple):
    """Identity of a version: its project, its name such as "v0003", and the digest that it has to have."""

    key: ProjectKey
    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} of project {self.key}"


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version in memory, checked.

    Attributes:
        ref: its identity.
        delta: what it changes about the tags' scores.
        network: the bundle's own, or one with the version's head.
    """

    ref: VersionRef
    delta: Delta
    network: Network


class VersionLoader:
    """Loads versions of the model's bundle. Its methods may take a moment, and wait for the model.

    Args:
        versions_dir: where versions are.
        model: bundle and network.
        batcher: where the network works.
    """

    def __init__(self, versions_dir: Path, model: Model, batcher: Batcher) -> None:
        self._versions_dir = versions_dir
        self._model = model
        self._batcher = batcher
        self._lock = threading.Lock()
        self._photo: FloatArray | None = None

    def load(self, ref: VersionRef) -> LoadedVersion:
        """Reads a version and checks it: its checksums, its numbers, and its scores of the photo by themselves.

        Raises:
            VersionDamaged: it can't be served.
            NotAvailable: the model can't be loaded.
        """
        bundle, network = self._model.identity.result().bundle, self._model.network.result()
        width = feature_width(network.token_shape)
        path = version_path(self._versions_dir, ref.key, ref.name)
        version = open_version(path, bundle, key=ref.key, digest=ref.digest, width=width)
        if version.outcome != ACCEPTED:
            raise VersionDamaged(f"Version {ref} was not accepted by the gate: it is never served.")
        own = tuned_network(network, version.files) if has_tuned_head(version.files) else network
        for name, array in version.delta.to_tensors().items():
            if array.size and float(np.abs(array).max()) > LARGEST:
                raise _impossible(f"a number in {name} is larger than {LARGEST:g}")
        even = np.zeros((1, len(version.delta)), dtype=np.float32)
        with np.errstate(all="ignore"):
            log_odds = version.delta.log_odds(even, features_of(self._tokens()))
            _refuse_impossible(Calibration.identity(len(version.delta)).scores(log_odds))
        return LoadedVersion(ref, version.delta, own)

    def check(self, tagger: Tagger) -> None:
        """Scores the photo with a tagger of a version.

        Raises:
            VersionDamaged: a score is no number between 0 and 1.
        """
        tokens = self._tokens()
        with np.errstate(all="ignore"):
            _refuse_impossible(self._batcher.run(lambda: tagger.score(tokens)).result().scores)

    def _tokens(self) -> FloatArray:
        """Tokens (1, T, D) of the photo, as the token cache would give them."""
        with self._lock:
            if self._photo is None:
                pixels = _pixels(self._model.identity.result().bundle)
                tokens = self._batcher.encode(self._model.network.result(), pixels).result()
                self._photo = rounded(tokens[None], TOKEN_DTYPE)
            return self._photo


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
