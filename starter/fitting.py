"""One fit of head and probes, with photos or tags left out for cross-fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ram_backend.models.delta import features_of
from ram_backend.models.head import HeadConfig
from ram_backend.models.starter.components import Classifier, PriorTags, Probes
from ram_backend.models.starter.export import load_head
from starter.data import ABSENT, PRESENT
from starter.head import Basis, HeadOptions, train_head
from starter.probes import fit_probes

FloatArray = NDArray[np.float32]

HEAD_POSITIVES = 3
"""Photos that must show a tag before the head trains on it."""
PROBE_POSITIVES = 2
"""Photos that must show a tag before it gets a probe of its own."""


@dataclass(frozen=True)
class Fitted:
    """A trained head, and probes of the tags `probe_rows`."""

    config: HeadConfig
    head: dict[str, FloatArray]
    probes: Probes
    probe_rows: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSet:
    """Everything that fitting needs, computed once.

    Attributes:
        views: tokens (N, 26, 1454) float16 of all photos under several views, the plain one first.
        states: (N, L): 1 present, 0 absent, -1 unknown.
        embeddings: (L, 384) label embeddings.
        classifier: the encoder's own.
        prior: of all L tags.
    """

    views: Sequence[NDArray[np.float16]]
    states: NDArray[np.int8]
    embeddings: FloatArray
    classifier: Classifier
    prior: PriorTags

    def fit(
        self,
        photos: NDArray[np.int64],
        tags: NDArray[np.bool_],
        *,
        options: HeadOptions,
        seed: int,
        progress: Callable[[str], Any] | None = None,
    ) -> Fitted:
        """Fits head and probes on some photos and some tags.

        Args:
            photos: rows of the photos to learn from.
            tags: (L,), False = leave out.
            options: of the head.
            seed: of the head.
            progress: told in a few words what is going on.
        """
        states = self.states[photos]
        present, absent = (states == PRESENT).sum(0), (states == ABSENT).sum(0)
        head_rows = np.flatnonzero(tags & (present >= HEAD_POSITIVES))
        probe_rows = np.flatnonzero(tags & (present >= PROBE_POSITIVES) & (absent > 0))
        views = [view[photos] for view in self.views]
        basis = Basis.of(views[0], options.components)
        config, head = train_head(
            [basis.apply(view) for view in views], basis, self.embeddings[head_rows], states[:, head_rows],
            options=options, seed=seed, progress=progress,
        )  # fmt: skip
        probes = fit_probes([features_of(view) for view in views], states[:, probe_rows], self.embeddings[probe_rows])
        return Fitted(config, head, probes, probe_rows)

    def component_logits(self, fitted: Fitted, tokens: NDArray[np.float16], rows: NDArray[np.int64]) -> FloatArray:
        """What head, probe (own or borrowed) and prior say: (3, N, len(rows))."""
        module = load_head(fitted.config, fitted.head)
        embeddings = self.embeddings[rows]
        place = {int(row): at for at, row in enumerate(fitted.probe_rows)}
        weight, bias = fitted.probes.of_tags(embeddings, [place.get(int(row)) for row in rows])
        result = np.empty((3, len(tokens), len(rows)), dtype=np.float32)
        prior = PriorTags(self.prior.weights[rows], self.prior.mean[rows], self.prior.spread[rows])
        with torch.no_grad():
            queries = module.queries(torch.from_numpy(embeddings))
            for start in range(0, len(tokens), 32):
                part = slice(start, start + 32)
                some = tokens[part].astype(np.float32)
                result[0, part] = module(torch.from_numpy(some), queries).numpy()
                result[1, part] = features_of(some) @ weight.T + bias
                result[2, part] = prior.scores(self.classifier.class_probabilities(some))
        return result
