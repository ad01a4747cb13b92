"""Requested tags: vocabulary rows, or text embeddings for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ram_backend.errors import TextEncoderUnavailable, VocabularyError, listed
from ram_backend.models.bundle import Bundle
from ram_backend.models.calibration import Calibration
from ram_backend.models.label_embeddings import Entry, FloatArray, LabelEmbeddings
from ram_backend.settings import Settings
from ram_backend.vocabulary.embeddings import TextEncoder
from ram_backend.vocabulary.prompts import unit_rows


@dataclass(frozen=True)
class Subset:
    """The tags that are asked of a bundle, in the order asked.

    Attributes:
        names: L tags, exactly the strings asked; the same string may occur
            twice.
        entries: per tag its row in the bundle's vocabulary, or for a new tag
            its text embeddings (k, d) float32.
        thresholds: (L,) float32; a tag is on where its score is strictly above.
        calibration: of these L tags.
        text_identity: names what the new tags were embedded from and by; None
            where there are none.
    """

    names: tuple[str, ...]
    entries: tuple[Entry, ...]
    thresholds: FloatArray
    calibration: Calibration
    text_identity: str | None = None

    @property
    def new_tags(self) -> tuple[str, ...]:
        """Tags that the vocabulary lacks, embedded from their text."""
        return tuple(name for name, entry in zip(self.names, self.entries, strict=True) if not isinstance(entry, int))


def whole_vocabulary(bundle: Bundle) -> Subset:
    """All tags of a bundle, each by its row: also where two have the same name."""
    vocabulary = bundle.vocabulary
    return Subset(
        names=vocabulary.names,
        entries=tuple(range(len(vocabulary))),
        thresholds=vocabulary.thresholds,
        calibration=bundle.calibration,
    )


def open_subset(bundle: Bundle, tags: Sequence[str], settings: Settings) -> Subset:
    """Tags of a bundle, with the embeddings of those that its vocabulary lacks.

    Raises:
        TextEncoderUnavailable: there is no encoder for these.
    """
    if bundle.text_encoder is None or None not in bundle.vocabulary.resolve(tags):
        return resolve_subset(bundle, tags)
    from ram_backend.vocabulary.embeddings import open_text_encoder

    return resolve_subset(bundle, tags, open_text_encoder(bundle.text_encoder, settings))


def resolve_subset(
    bundle: Bundle,
    names: Sequence[str],
    text_encoder: TextEncoder | None = None,
    *,
    described: Mapping[str, FloatArray] | None = None,
    described_from: str = "",
) -> Subset:
    """Finds each tag in the vocabulary (`Vocabulary.find`), or embeds it from its text.

    Args:
        bundle: whose vocabulary is searched.
        names: tags, at least one; no empty string.
        text_encoder: embeds tags that the vocabulary doesn't know; None: there
            is none at hand.
        described: text embeddings (k, d) of tags that are scored from them even
            where the vocabulary knows the tag.
        described_from: names the descriptions, e.g. by a digest of the file.

    Raises:
        VocabularyError: nothing was asked, or an empty tag.
        TextEncoderUnavailable: a tag is not in the vocabulary, and there is no
            encoder to embed it.
    """
    if not names:
        raise VocabularyError("No tags were asked for: name at least one.")
    blank = next((place for place, name in enumerate(names, start=1) if not name.strip()), None)
    if blank is not None:
        raise VocabularyError(f"Tag {blank} of {len(names)} is empty: remove it.")
    embeddings = dict(described or {})
    rows = [
        None if name in embeddings else row for name, row in zip(names, bundle.vocabulary.resolve(names), strict=True)
    ]
    new = [name for name, row in zip(names, rows, strict=True) if row is None]
    to_embed = [name for name in dict.fromkeys(new) if name not in embeddings]
    if to_embed:
        if text_encoder is None:
            named = listed(to_embed, 5, repr)
            raise TextEncoderUnavailable(f"Bundle {bundle.name!r} is without a text encoder: remove the tags {named}.")
        embedded = text_encoder.embed(to_embed)
        embeddings |= {name: row[None, :] for name, row in zip(to_embed, embedded, strict=True)}
    known = bundle.vocabulary.thresholds
    return Subset(
        names=tuple(names),
        entries=tuple(embeddings[name] if row is None else row for name, row in zip(names, rows, strict=True)),
        thresholds=np.array(
            [bundle.new_tag_threshold if row is None else known[row] for row in rows], dtype=np.float32
        ),
        calibration=bundle.calibration.take(rows),
        text_identity=f"{text_encoder.id} {described_from}".rstrip() if text_encoder is not None and new else None,
    )


def tag_embeddings(bundle: Bundle, subset: Subset) -> FloatArray | None:
    """Text embeddings (L, E) float32 of length 1, one per tag (the mean of several).

    None where the bundle learned its tags without a text encoder: its label
    embeddings are no texts.
    """
    if bundle.text_encoder is None:
        return None
    return unit_rows(LabelEmbeddings.open(bundle.path).means(subset.entries))
