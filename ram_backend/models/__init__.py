"""Networks and bundles: what is on disk, how it got there, and what it computes. No import here loads torch."""

from ram_backend.models.bundle import STARTER, Bundle, file_sha256, open_bundle, verify
from ram_backend.models.calibration import Calibration
from ram_backend.models.delta import Delta, feature_width, features_of
from ram_backend.models.loading import encoder_id_of, load_network
from ram_backend.models.network import Network, Queries
from ram_backend.models.preprocessing import Preprocessing
from ram_backend.models.store import BundleEntry, find_bundle, list_bundles

__all__ = [
    "STARTER",
    "Bundle",
    "BundleEntry",
    "Calibration",
    "Delta",
    "Network",
    "Preprocessing",
    "Queries",
    "encoder_id_of",
    "feature_width",
    "features_of",
    "file_sha256",
    "find_bundle",
    "list_bundles",
    "load_network",
    "open_bundle",
    "verify",
]
