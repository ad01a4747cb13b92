"""Tagging: images and a subset of tags in, scores out. Only the token cache and cached text embeddings use files."""
