"""Canary check: a version is read, compared with its checksums and tried on an image before it is served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ram_backend.errors import VersionDamaged
from ram_backend.models.delta import Delta
from ram_backend.models.network import Network
from ram_backend.models.tuned import has_tuned_head, tuned_network
from ram_backend.projects.keys import ProjectKey
from ram_backend.server.batcher import Batcher
from ram_backend.server.model import Model
from ram_backend.tagging.tagger import Tagger, rounded
from ram_backend.tagging.token_cache import TOKEN_DTYPE
from ram_backend.versions.directory import open_version, version_path
from ram_backend.versions.records import ACCEPTED

LARGEST = 1e6
"""No honest number of a delta is larger; with larger ones some image's score is not a number."""


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

    def load(self, ref: VersionRef) -> LoadedVersion:
        """Reads a version, and checks its checksums and its numbers.

        Raises:
            VersionDamaged: it can't be served.
            NotAvailable: the model can't be loaded.
        """
        bundle, network = self._model.identity.result().bundle, self._model.network.result()
        path = version_path(self._versions_dir, ref.key, ref.name)
        version = open_version(path, bundle, key=ref.key, digest=ref.digest, width=network.token_shape[1])
        if version.outcome != ACCEPTED:
            raise VersionDamaged(f"Version {ref} was not accepted by the gate: it is never served.")
        for name, array in version.delta.to_tensors().items():
            if array.size and float(np.abs(array).max()) > LARGEST:
                raise _impossible(f"a number in {name} is larger than {LARGEST:g}")
        if has_tuned_head(version.files):
            network = tuned_network(network, version.files)
        return LoadedVersion(ref, version.delta, network)

    def check(self, taggers: Iterable[Tagger]) -> None:
        """Scores a test image with taggers of a version.

        Raises:
            VersionDamaged: a score is no number between 0 and 1.
        """
        for tagger in taggers:
            scores = self._batcher.run(lambda tagger=tagger: tagger.score(self._tokens)).result().scores  # type: ignore[misc]
            if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN
                raise _impossible("an image's score is no number between 0 and 1")

    @cached_property
    def _tokens(self) -> NDArray[np.float32]:
        """Tokens (1, T, D) of the test image, as the token cache gives them."""
        pixels = self._model.known().bundle.preprocessing(Image.linear_gradient("L").convert("RGB"))
        return rounded(self._model.network.result().encode(pixels[None]), TOKEN_DTYPE)


def _impossible(what: str) -> VersionDamaged:
    return VersionDamaged(f"A version computes what can't be ({what}): it isn't served. Roll back, or train again.")
