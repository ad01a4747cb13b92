"""A bundle's tagging head without its encoder: weights and label embeddings, to fine-tune it from.

A tag's calibrated log-odds are linear in its head's logit, z = slope * logit + offset, so a tuned head changes them by
slope * (its logit - the bundle's): fine-tuning needs image tokens, and no encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ram_backend.errors import BundleDamaged, InputError
from ram_backend.models.bundle import NETWORK, Bundle
from ram_backend.models.head import HeadConfig
from ram_backend.models.label_embeddings import LabelEmbeddings, map_tensors

FloatArray = NDArray[np.float32]
Entry = int | NDArray[np.float32]
"""A tag: its row in the vocabulary, or its text embeddings (k, d)."""

_HEAD = "head."


@dataclass(frozen=True)
class HeadCheckpoint:
    """A head, and the tags that it is tuned on.

    Attributes:
        config: its numbers.
        tensors: its weights by their names in the state dict of a `TaggingHead`, float32.
        entries: the project's L tags.
        slope: (L,) float32 above 0, calibration of these tags.
        outside: (O,) int64 rows of the vocabulary's other tags.
        outside_slope: (O,) float32, their calibration.
        labels: label embeddings of the vocabulary, memory-mapped.
        mixing_scale: logarithm of the factor on the likeness of image and embedding (RAM++), else None: then a tag
            with several embeddings is their mean.
    """

    config: HeadConfig
    tensors: Mapping[str, FloatArray] = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    slope: FloatArray = field(repr=False)
    outside: NDArray[np.int64] = field(repr=False)
    outside_slope: FloatArray = field(repr=False)
    labels: LabelEmbeddings = field(repr=False)
    mixing_scale: float | None = None

    def __post_init__(self) -> None:
        if len(self.slope) != len(self.entries) or len(self.outside_slope) != len(self.outside):
            raise InputError(f"A head has {len(self.entries)} tags and {len(self.slope)} slopes: one each is needed.")

    def texts(self, entries: Sequence[Entry]) -> list[FloatArray]:
        """The embeddings (k, d) of each entry, as the head takes them; k = 1 unless the network mixes several."""
        return [self._text(entry) for entry in entries]

    def _text(self, entry: Entry) -> FloatArray:
        rows = self.labels.of(entry) if isinstance(entry, int) else np.atleast_2d(np.asarray(entry, dtype=np.float32))
        if self.mixing_scale is None and len(rows) > 1:
            mean = rows.mean(axis=0, keepdims=True)
            rows = mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))
        return rows.astype(np.float32)


def open_head(bundle: Bundle, entries: Sequence[Entry], slope: FloatArray) -> HeadCheckpoint:
    """Reads a bundle's head; nothing of its encoder.

    Args:
        bundle: of RAM, RAM++ or Tag2Text; the starter's head is not fine-tuned.
        entries: of the project's L tags, as `resolve_subset` found them.
        slope: (L,) of the calibration of these tags.

    Raises:
        BundleDamaged: a file is missing or malformed.
        InputError: entries and slopes don't fit.
    """
    known = [int(entry) for entry in entries if not isinstance(entry, np.ndarray)]
    outside = np.setdiff1d(np.arange(len(bundle.vocabulary), dtype=np.int64), np.array(known, dtype=np.int64))
    tensors = _tensors(bundle)
    mixing = tensors.pop("reweight_scale", None)
    try:
        config = HeadConfig.from_json(bundle.manifest["architecture"]["head"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleDamaged(f"Bundle {bundle.path} lacks the numbers of its head ({error}): make it again.") from None
    return HeadCheckpoint(
        config=config,
        tensors=tensors,
        entries=tuple(entry if isinstance(entry, np.ndarray) else int(entry) for entry in entries),
        slope=np.asarray(slope, dtype=np.float32),
        outside=outside,
        outside_slope=np.asarray(bundle.calibration.slope[outside], dtype=np.float32),
        labels=LabelEmbeddings.open(bundle.path),
        mixing_scale=None if mixing is None else float(mixing),
    )


def _tensors(bundle: Bundle) -> dict[str, FloatArray]:
    """The head's tensors, and RAM++'s `reweight_scale` beside them."""
    path = bundle.path / NETWORK
    try:
        stored = map_tensors(path)
        tensors = {
            name.removeprefix(_HEAD): np.array(array, dtype=np.float32)
            for name, array in stored.items()
            if name.startswith(_HEAD) or name == "reweight_scale"
        }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BundleDamaged(f"{path} can't be read ({error}): remove the bundle, make it again.") from None
    if len(tensors) < 2:
        raise BundleDamaged(f"{path} holds no tagging head: remove the bundle, make it again.")
    return tensors
