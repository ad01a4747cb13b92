"""Images: fetch them, check them, decode them."""

from ram_backend.images.decode import FORMATS, SUFFIXES, Alpha, decode, find_images
from ram_backend.images.fetch import Fetcher, FetchLimits
from ram_backend.images.guard import AddressGuard, Origin, redacted
from ram_backend.images.hashing import perceptual_hash

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "AddressGuard",
    "Alpha",
    "FetchLimits",
    "Fetcher",
    "Origin",
    "decode",
    "find_images",
    "perceptual_hash",
    "redacted",
]
