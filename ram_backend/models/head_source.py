"""What it takes to train a bundle's tagging head without its encoder: weights, label embeddings, a logit's share.

A tag's calibrated log-odds are linear in its head's logit, whatever else goes into them (the starter adds a probe and a
prior):

    z = scale * logit + the rest

so a tuned head changes them by scale * (its logit - the bundle's), and training needs neither the rest nor the encoder.
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

_HEAD = "head."


@dataclass(frozen=True)
class HeadSource:
    """A head, and the tags that it is trained on.

    Attributes:
        config: its numbers.
        tensors: its weights by their names in the state dict of a `TaggingHead`, float32.
        entries: per tag of the project its row in the vocabulary, or its text embeddings (k, d): L.
        scale: (L,) float32 above 0, how much of the head's logit is in a tag's calibrated log-odds.
        outside: (O,) int64 rows of the vocabulary's other tags.
        outside_scale: (O,) float32, their scales.
        labels: label embeddings of the vocabulary, memory-mapped.
        single: whether a tag with several embeddings is their mean (all but RAM++).
        unit: whether label embeddings are brought to length 1 (the starter).
        mixing_scale: logarithm of the factor on the likeness of image and embedding (RAM++), else None.
    """

    config: HeadConfig
    tensors: Mapping[str, FloatArray] = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    scale: FloatArray = field(repr=False)
    outside: NDArray[np.int64] = field(repr=False)
    outside_scale: FloatArray = field(repr=False)
    labels: LabelEmbeddings = field(repr=False)
    single: bool = True
    unit: bool = False
    mixing_scale: float | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.entries) or len(self.outside_scale) != len(self.outside):
            raise InputError(f"A head has {len(self.entries)} tags and {len(self.scale)} scales: one each is needed.")

    def texts(self, entries: Sequence[Entry]) -> list[FloatArray]:
        """The embeddings (k, d) of each entry, as the head takes them; k = 1 unless the network mixes several."""
        return [self._text(entry) for entry in entries]

    def take(self, columns: Sequence[int]) -> HeadSource:
        """The same head for a selection of the project's tags; those left out are not trained and not replayed."""
        places = list(columns)
        return HeadSource(
            self.config,
            self.tensors,
            tuple(self.entries[place] for place in places),
            self.scale[places],
            self.outside,
            self.outside_scale,
            self.labels,
            self.single,
            self.unit,
            self.mixing_scale,
        )

    def _text(self, entry: Entry) -> FloatArray:
        rows = self.labels.of(entry) if isinstance(entry, int) else np.atleast_2d(np.asarray(entry, dtype=np.float32))
        if self.single and len(rows) > 1:
            mean = rows.mean(axis=0, keepdims=True)
            rows = mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))
        if self.unit:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        return rows.astype(np.float32)


def open_head(bundle: Bundle, entries: Sequence[Entry], slope: FloatArray) -> HeadSource:
    """Reads a bundle's head; nothing of its encoder.

    Args:
        bundle: any.
        entries: of the project's L tags, as `resolve_subset` found them.
        slope: (L,) of the calibration of these tags.

    Raises:
        BundleDamaged: a file is missing or malformed.
        InputError: entries and slopes don't fit.
    """
    known = [int(entry) for entry in entries if not isinstance(entry, np.ndarray)]
    outside = np.setdiff1d(np.arange(len(bundle.vocabulary), dtype=np.int64), np.array(known, dtype=np.int64))
    share, outside_share = _shares(bundle, entries, outside)
    plain = tuple(entry if isinstance(entry, np.ndarray) else int(entry) for entry in entries)
    starter = bundle.kind == "starter"
    tensors = _starter_tensors(bundle) if starter else _torch_tensors(bundle)
    mixing = tensors.pop("reweight_scale", None)
    try:
        architecture = bundle.manifest["architecture"]
        config = HeadConfig.from_json(architecture["head"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleDamaged(f"Bundle {bundle.path} lacks the numbers of its head ({error}): make it again.") from None
    return HeadSource(
        config=config,
        tensors=tensors,
        entries=plain,
        scale=np.asarray(slope * share, dtype=np.float32),
        outside=outside,
        outside_scale=np.asarray(bundle.calibration.slope[outside] * outside_share, dtype=np.float32),
        labels=LabelEmbeddings.open(bundle.path),
        single=mixing is None,
        unit=starter,
        mixing_scale=None if mixing is None else float(mixing),
    )


def _shares(bundle: Bundle, entries: Sequence[Entry], outside: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """How much the head's logit counts in the network's: 1, except in the starter."""
    if bundle.kind != "starter":
        return np.ones(len(entries), dtype=np.float32), np.ones(len(outside), dtype=np.float32)
    from ram_backend.models.starter.network import COMPONENTS, PROBES

    place = COMPONENTS.index("head")
    try:
        probes = map_tensors(bundle.path / PROBES)
        unseen = np.float32(bundle.manifest["architecture"]["mixing"]["unseen"]["head"])
        of_row = np.full(len(bundle.vocabulary), unseen, dtype=np.float32)
        of_row[np.array(probes["rows"])] = np.array(probes["mixing"])[:, place]
    except (OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise BundleDamaged(
            f"{bundle.path / PROBES} can't be read ({error}): remove the bundle, make it again."
        ) from None
    return (
        np.array([unseen if isinstance(entry, np.ndarray) else of_row[entry] for entry in entries], dtype=np.float32),
        of_row[outside],
    )


def _starter_tensors(bundle: Bundle) -> dict[str, FloatArray]:
    from ram_backend.models.onnx_head import OnnxHead

    return OnnxHead(bundle.path).tensors()


def _torch_tensors(bundle: Bundle) -> dict[str, FloatArray]:
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
