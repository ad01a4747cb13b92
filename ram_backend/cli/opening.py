"""From settings to a loaded tagger: the one place where the commands read bundles and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ram_backend.models.bundle import Bundle, file_sha256
from ram_backend.models.network import load_network
from ram_backend.models.store import find_bundle
from ram_backend.settings import Settings
from ram_backend.tagging.subset import Subset, resolve_subset, whole_vocabulary
from ram_backend.tagging.tagger import Tagger
from ram_backend.vocabulary.descriptions import embed_descriptions, load_descriptions
from ram_backend.vocabulary.embeddings import open_text_encoder

notes = Console(stderr=True, highlight=False, soft_wrap=True)


def open_tagger(settings: Settings, names: Sequence[str] | None, descriptions: Path | None = None) -> Tagger:
    """Opens the bundle of the settings and makes a tagger for the asked tags.

    The starter bundle is installed where it is not there yet, which takes some seconds once; a text encoder is opened
    only where a tag is not in the vocabulary.

    Args:
        settings: name of the bundle, device, precision, threads.
        names: the tags; None: those of `descriptions`, else the whole vocabulary.
        descriptions: JSON file of tags that are scored from descriptions.

    Raises:
        BundleNotFound, BundleDamaged: see the message.
        TextEncoderUnavailable: a tag needs a text encoder, and the bundle has none at hand.
        VocabularyError: a tag or the description file can't be used.
    """
    with notes.status("Opening the bundle") as status:
        bundle = find_bundle(settings.bundle, settings.bundles_dir, progress=status.update)
        subset = _subset(bundle, names, descriptions, settings)
        status.update(f"Loading {bundle.name}")
        network = load_network(
            bundle, device=settings.device, precision=settings.precision, threads=settings.cpu_threads()
        )
        tagger = Tagger(bundle, network, subset)
    if subset.new_tags:
        shown = ", ".join(subset.new_tags[:8]) + (" ..." if len(subset.new_tags) > 8 else "")
        notes.print(f"Not looked up in the vocabulary of {bundle.name} but scored from text: {shown}", markup=False)
    return tagger


def _subset(bundle: Bundle, names: Sequence[str] | None, descriptions: Path | None, settings: Settings) -> Subset:
    sentences = load_descriptions(descriptions) if descriptions is not None else {}
    names = names if names is not None else list(sentences) or None
    if names is None:
        return whole_vocabulary(bundle)
    sentences = {name: sentences[name] for name in names if name in sentences}
    needed = bool(sentences) or any(row is None for row in bundle.vocabulary.resolve(names))
    encoder = open_text_encoder(bundle.text_encoder, settings) if needed and bundle.text_encoder else None
    described = embed_descriptions(encoder, sentences) if encoder is not None else {}
    digest = file_sha256(descriptions) if descriptions is not None else ""
    return resolve_subset(bundle, names, encoder, described=described, described_from=digest)
