"""Tagging: images and a subset of tags in, scores out. Pure but for the token cache: no files, network, settings."""

from ram_backend.tagging.subset import Subset, resolve_subset, whole_vocabulary
from ram_backend.tagging.tag_embeddings import tag_embeddings
from ram_backend.tagging.tagger import Tagger, TagScores, TokenDtype
from ram_backend.tagging.token_cache import TOKEN_DTYPE, TokenCache, token_key

__all__ = [
    "TOKEN_DTYPE",
    "Subset",
    "TagScores",
    "Tagger",
    "TokenCache",
    "TokenDtype",
    "resolve_subset",
    "tag_embeddings",
    "token_key",
    "whole_vocabulary",
]
