"""Networks and bundles: on disk, imported, computed. No import here loads torch."""
