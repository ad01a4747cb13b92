"""Tagging: images and a subset of tags in, scores out. Pure but for the token cache: no files, network, settings."""
