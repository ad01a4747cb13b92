"""Label Studio's shapes: label configs, predictions, requests, and its API.

"Protocol section N" in docstrings is that of docs/label-studio-protocol.md.
"""
