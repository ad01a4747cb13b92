"""Captions: image tokens and tags to a sentence."""
