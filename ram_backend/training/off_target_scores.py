"""Scores of tags outside the project under a fine-tuned head: input of the gate's off-target check."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ram_backend.gate.off_target import OffTargetScores
from ram_backend.models.bundle import Bundle
from ram_backend.models.network import Network
from ram_backend.models.tuned import tuned_network
from ram_backend.tagging.subset import Subset
from ram_backend.tagging.tagger import Tagger, TokenDtype

FloatArray = NDArray[np.float32]

AT_ONCE = 64
"""Images that are scored at a time."""


def outside_subset(bundle: Bundle, asked: Subset, *, count: int = 300, seed: int = 0) -> Subset:
    """Tags of the vocabulary that a project doesn't ask about.

    Args:
        bundle: whose vocabulary.
        asked: the project's tags.
        count: at most so many, drawn by the seed.
        seed: same seed, same tags.

    Returns:
        At least one tag, unless the project asks about all.
    """
    rows = np.setdiff1d(
        np.arange(len(bundle.vocabulary)), [entry for entry in asked.entries if not isinstance(entry, np.ndarray)]
    )
    drawn = np.sort(np.random.default_rng((seed, 5)).permutation(rows)[:count]).tolist()
    return Subset(
        names=tuple(bundle.vocabulary.names[row] for row in drawn),
        entries=tuple(drawn),
        thresholds=bundle.vocabulary.thresholds[drawn],
        calibration=bundle.calibration.take(drawn),
    )


def off_target_scores(
    bundle: Bundle,
    network: Network,
    files: Mapping[str, bytes],
    outside: Subset,
    tokens: NDArray[np.float16] | FloatArray,
    *,
    token_dtype: TokenDtype | None = "float16",
) -> OffTargetScores:
    """Scores of outside tags under the bundle's head and a tuned one.

    Args:
        bundle: the base model.
        network: loaded from it.
        files: of a candidate with a tuned head.
        outside: tags that the project doesn't ask about, see `outside_subset`.
        tokens: (N, T, D) of the project's images and of other photos.
        token_dtype: precision of cached tokens, see `Tagger`.

    Raises:
        VersionDamaged: the files are not of a head like the network's.
    """
    scores = []
    for each in (network, tuned_network(network, files)):
        tagger = Tagger(bundle, each, outside, token_dtype=token_dtype)
        scores.append(_scores(tagger, tokens))
    return OffTargetScores(bundle=scores[0], candidate=scores[1], thresholds=outside.thresholds)


def _scores(tagger: Tagger, tokens: NDArray[np.float16] | FloatArray) -> FloatArray:
    found = np.empty((len(tokens), len(tagger.tags)), dtype=np.float32)
    for start in range(0, len(tokens), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found[part] = tagger.score(tokens[part].astype(np.float32)).scores
    return found
