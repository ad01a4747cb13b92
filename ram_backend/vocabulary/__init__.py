"""Tags, vocabularies, the label system and text embeddings."""

from ram_backend.vocabulary.descriptions import embed_descriptions, load_descriptions
from ram_backend.vocabulary.embeddings import CachedTextEncoder, TextEncoder, open_text_encoder
from ram_backend.vocabulary.label_system import build_label_system, load_label_system
from ram_backend.vocabulary.tags import CATEGORIES, Tag, Vocabulary

__all__ = [
    "CATEGORIES",
    "CachedTextEncoder",
    "Tag",
    "TextEncoder",
    "Vocabulary",
    "build_label_system",
    "embed_descriptions",
    "load_descriptions",
    "load_label_system",
    "open_text_encoder",
]
