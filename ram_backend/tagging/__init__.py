"""Tagging: images and a subset of tags in, scores out. Only caches use files."""
